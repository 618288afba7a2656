"""What a task's function does to its process stays in the task."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect_definitions.execution import CommandFailed, Limit, call

CODE = """
import sys
def fine(): sys.exit()
def zero(): sys.exit(0)
def failed(): sys.exit(3)
def said(): sys.exit("no stock")
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [("fine", ""), ("zero", ""), ("failed", r"sys\.exit\(3\)"), ("said", r"sys\.exit\('no stock'\)")],
)
def test_a_function_that_exits_ends_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    (tmp_path / "exiting_shop.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    if not said:
        assert call(f"exiting_shop:{name}", [], {}, limit=Limit()) is None
        return
    with pytest.raises(CommandFailed, match=said):
        call(f"exiting_shop:{name}", [], {}, limit=Limit())
