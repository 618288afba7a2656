"""Parts of the test suites are found by name and by what changed, and each run ends with a table of its times."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import suites

PARTS = suites.parts()
TRACKED = suites.output("git", "ls-files").splitlines()


def row(path: str) -> int:
    """Return the number of the row that counts for a path."""
    return next(number for number, (pattern, _) in enumerate(suites.AFFECTS) if re.fullmatch(pattern, path))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("system", "system"),
        ("system/proxy", "system/proxy"),
        ("system/test_proxy", "system/proxy"),
        ("tests/system/test_proxy.py", "system/proxy"),
        ("system/proxy::test_x[1/2]", "system/proxy::test_x[1/2]"),
        ("molecule/default", "molecule/default"),
        ("unit/test_suites", "unit/suites"),
        ("preset/", "preset"),
    ],
)
def test_part_is_found_by_each_of_its_names(name: str, part: str) -> None:
    assert suites.canonical(name, PARTS) == part


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("system/proxi", "system/proxy"),
        ("molecule/defalt", "molecule/default"),
        ("sytem", "system"),
        ("system/definition", "system/definitions"),
        ("zzz", "molecule/default"),
    ],
)
def test_near_miss_lists_what_exists(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"^ONLY={name}: ") as refused:
        suites.canonical(name, PARTS)
    assert says in str(refused.value).split()


def test_what_takes_longest_is_left_out_unless_it_is_asked_for() -> None:
    def targets(**how: Any) -> dict[str, list[str]]:
        return {suite.name: suite.targets for suite in suites.chosen([], by_change=False, **how)}

    assert set(suites.LONG) <= set(PARTS)
    usual, everything = targets(), targets(everything=True)
    assert [*usual] == [*everything] == [suite for suite in suites.SUITES if suite != "unit"]
    assert not any(everything.values())
    left_out = {part for part in PARTS if "/" in part and usual.get(part.partition("/")[0])} - {
        part for part, target in PARTS.items() if target and target in usual.get(part.partition("/")[0], [])
    }
    assert left_out == set(suites.LONG)
    (one,) = suites.chosen(["system/killed"], by_change=False)
    assert one.targets == ["tests/system/test_killed.py"]


def test_near_miss_fails_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        suites.run(["system/proxi"], by_change=False, keep=False)
    assert ended.value.code == 2
    assert "system/proxy" in capsys.readouterr().err


def test_each_tracked_path_matches_a_row_and_affects_parts_that_exist() -> None:
    assert {part for path in TRACKED for part in suites.affected([path])} - PARTS.keys() == set()


def test_each_row_matches_a_tracked_path() -> None:
    assert set(range(len(suites.AFFECTS))) - set(map(row, TRACKED)) == set()


@pytest.mark.parametrize(
    ("paths", "parts"),
    [
        ([], []),
        (["README.md"], []),
        (["tests/system/test_proxy.py", "molecule/user/verify.yml"], ["molecule/user", "system/proxy"]),
        (["tests/system/test_proxy.py", "tests/system/conftest.py"], ["system"]),
        (["requirements/controller.txt"], sorted(suites.SUITES)),
    ],
)
def test_change_affects(paths: list[str], parts: list[str]) -> None:
    assert suites.affected(paths) == parts


def test_path_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="strange/file"):
        suites.affected(["strange/file"])


def test_changed_files_include_those_not_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=tmp_path, check=True)

    for name in ("kept", "edited", "removed"):
        (tmp_path / name).write_text("before\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=before")
    (tmp_path / "edited").write_text("after\n")
    (tmp_path / "removed").unlink()
    (tmp_path / "new").touch()
    monkeypatch.setattr(suites, "ROOT", tmp_path)
    assert sorted(suites.changed()) == ["edited", "new", "removed"]


def test_steps_of_scenarios_are_timed_from_their_lines() -> None:
    lines = [
        (1.0, "INFO     default ➜ create: Executing"),
        (2.0, "  TASK [Something]"),
        (4.5, "INFO     default ➜ create: Executed: Successful"),
        (5.0, "INFO     default ➜ verify: Executing"),
        (6.0, "ERROR    default ➜ verify: Executed: Failed"),
        (6.1, "default ➜ create: Executed: Successful"),
    ]
    assert list(suites.molecule_steps(lines)) == [("molecule/default::create", 3.5), ("molecule/default::verify", 1.0)]


def test_failures_are_named_with_what_failed_in_them() -> None:
    scenario = [
        "INFO     default ➜ create: Executing",
        "  TASK [Allowed to fail]",
        "fatal: [one]: FAILED!",
        "INFO     default ➜ create: Executed: Successful",
        "INFO     default ➜ verify: Executing",
        "TASK [selfhosted.prefect.prefect : Compare] ***",
        "fatal: [one]: FAILED!",
        "TASK [Clean up]",
        "ERROR    default ➜ verify: Executed: Failed",
        "default ➜ verify: Executed: Failed (Ansible return code was 2)",
    ]
    assert list(suites.molecule_failures(scenario)) == [
        "molecule/default::verify - selfhosted.prefect.prefect : Compare"
    ]
    summary = [
        "tests/system/test_proxy.py::test_it FAILED [ 33%]",
        "= short test summary info =",
        "FAILED tests/system/test_proxy.py::test_it[a b] - AssertionError: one",
        "ERROR tests/system/test_proxy.py::test_other - " + "long " * 100,
    ]
    one, other = suites.pytest_failures(summary)
    assert one == "system/test_proxy.py::test_it[a b] - AssertionError: one"
    assert len(other) == suites.WIDTH


def test_tests_are_timed_from_their_lines_even_where_the_run_is_killed() -> None:
    lines = [
        (1.0, "collecting ... collected 3 items"),
        (1.1, ""),
        (4.0, "tests/system/test_proxy.py::test_it[a b] PASSED [ 33%]"),
        (4.2, "some output"),
        (5.0, "tests/system/test_proxy.py::test_other SKIPPED (no) [ 66%]"),
        (9.0, "tests/system/test_proxy.py::test_last make: *** Error 143"),
        (9.1, "FAILED tests/system/test_proxy.py::test_it[a b] - AssertionError"),
    ]
    assert list(suites.pytest_steps(lines)) == [
        ("system/test_proxy::test_it[a b]", 3.0),
        ("system/test_proxy::test_other", 1.0),
        ("system/test_proxy::test_last (unfinished)", 4.0),
    ]


def test_suite_that_fails_before_its_tests_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suites, "TIMES", tmp_path / "times")
    command = ["sh", "-c", "echo; echo no such index; echo; echo 'make: *** [x] Error 1'; exit 2"]
    monkeypatch.setattr(suites.Suite, "command", lambda *_, **__: command)
    assert suites.run(["preset"], by_change=False, keep=False) == 2
    assert capsys.readouterr().out.endswith("\n1 failed\n  preset - no such index\n")


def test_conditions_and_asserts_are_counted(tmp_path: Path) -> None:
    play = tmp_path / "play.yml"
    play.write_text(
        "- hosts: all\n  tasks:\n    - block:\n        - ansible.builtin.assert: {that: [a, b]}\n"
        "    - ansible.builtin.assert:\n        that: c\n    - debug: {msg: !vault x}\n"
    )
    test = tmp_path / "test_it.py"
    test.write_text("def test_it():\n    assert True\n    if True:\n        assert 1\n")
    assert suites.count_that(play) == 3
    assert suites.count_asserts(test) == 2
