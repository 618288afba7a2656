"""What a host derives from its inventory, evaluated once for a task."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.selfhosted.prefect.plugins.lookup.topology import LookupModule


def look_up(variables: dict[str, Any], *names: str) -> list[Any]:
    lookup = LookupModule(loader=DataLoader(), templar=Templar(loader=DataLoader(), variables=variables))
    return lookup.run(list(names), variables=variables)


@pytest.fixture
def variables() -> dict[str, Any]:
    topology = {
        "port": trust_as_template("{{ base + 1 }}"),
        "url": trust_as_template("http://host:{{ base + 1 }}"),
        "unknown": trust_as_template("{{ missing }}"),
    }
    return {"base": 4200, "__prefect_topology": topology}


def test_entries_are_evaluated_in_the_order_of_their_names(variables: dict[str, Any]) -> None:
    assert look_up(variables, "url", "port") == ["http://host:4201", 4201]


def test_an_entry_is_evaluated_once_for_the_variables_of_a_task(variables: dict[str, Any]) -> None:
    assert look_up(variables, "port") == [4201]
    variables["base"] = 5000
    assert look_up(variables, "port", "url") == [4201, "http://host:5001"]


def test_another_task_and_another_host_evaluate_it_again(variables: dict[str, Any]) -> None:
    of_the_next_task = {**variables, "base": 5000}
    assert look_up(variables, "port") == [4201]
    assert look_up(of_the_next_task, "port") == [5001]


def test_what_is_undefined_is_an_error_each_time(variables: dict[str, Any]) -> None:
    for _ in range(2):
        with pytest.raises(AnsibleError, match="missing"):
            look_up(variables, "unknown")
