"""A run of a suite, with pytest itself in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import suites


def test_failed_run_prints_its_table_and_keeps_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test = tmp_path / "tests/preset/test_it.py"
    test.parent.mkdir(parents=True)
    test.write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    monkeypatch.setattr(suites, "TIMES", tmp_path / "times")
    command = ["sh", "-c", f"cd {tmp_path} && python -m pytest -vv -p no:cacheprovider tests; test $? = 1 && exit 3"]
    monkeypatch.setattr(suites.Suite, "command", lambda *_, **__: command)
    for _ in range(2):
        assert suites.run(["preset"], by_change=False, keep=False) == 3
    written = capsys.readouterr().out
    assert "1 failed, 1 passed" in written
    assert re.search(r"^preset +0\.\d +0\.\d +- +failed \(3\)$", written, re.MULTILINE)
    assert re.search(r"^ +0\.\d  .*test_it::test_bad$", written, re.MULTILINE)
    assert written.endswith("\n1 failed\n  preset/test_it.py::test_bad - assert False\n")
    assert suites.times() == 0
    compared = capsys.readouterr().out
    assert "compared with " in compared
    assert re.search(r"^ +0\.\d +\([+-]0\.\d\)  .*test_it::test_good$", compared, re.MULTILINE)
