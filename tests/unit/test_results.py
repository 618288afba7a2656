"""What a module returns, without its secrets: the same on every core."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.results import conceal

RESULT = {"name": "main", "data": "hush-hush", "lines": ["say hush-hush"]}


def module_of_22() -> Any:
    """A module that keeps the texts which it reports to the controller, as those of core 2.22 do."""
    return SimpleNamespace(no_log_values={"main", "hush-hush"}, _new_secrets=SimpleNamespace(flush=frozenset))


@pytest.mark.parametrize("module", [SimpleNamespace(no_log_values={"main", "hush-hush"}), module_of_22()])
def test_only_the_secrets_are_hidden(module: Any) -> None:
    shown = conceal(module, RESULT, ["hush-hush"])
    reported = shown.pop("_ansible_new_secrets", None)
    assert shown == {
        "name": "main",
        "data": "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER",
        "lines": ["say ********"],
    }
    assert reported == (["hush-hush"] if hasattr(module, "_new_secrets") else None)


def test_every_value_is_hidden_where_no_secrets_are_named() -> None:
    shown = conceal(module_of_22(), RESULT)
    assert "_ansible_new_secrets" not in shown
    assert shown["name"] == shown["data"] == "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
