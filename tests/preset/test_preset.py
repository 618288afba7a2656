"""The preset task, run by real `ansible-playbook` processes against the playbooks beside it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent

Result = dict[str, Any]


def command(playbook: str, out: Path, *arguments: str) -> list[str]:
    """Return the command that runs a playbook with `out` to write to."""
    options = ["--inventory", "hosts.ini", "--vault-password-file", "vault-password"]
    return [
        str(BIN / "ansible-playbook"),
        *options,
        "-e",
        f"out={out}",
        "-e",
        "probe_extra=extra",
        playbook,
        *arguments,
    ]


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a clone's user, changed."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return inherited | {"PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")} | changes


def run(arguments: list[str], *, cwd: Path = HERE, stdin: str = "", **changes: str) -> str:
    """Run a command that must succeed, and return what it writes to stdout."""
    ended = subprocess.run(
        arguments, cwd=cwd, env=environment(**changes), input=stdin, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def said(result: Result, step: str) -> str:
    """Return the message of a step by its name."""
    return str(next(one["msg"] for one in result["steps"] if one["name"] == step))


def seen(result: Result) -> Result:
    """Return what the step of the preset `probe` saw."""
    return dict(json.loads(said(result, "See")))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """The results on host `one` of works.yml and refuses.yml, run side by side, by the names of their registers."""
    out = {name: tmp_path_factory.mktemp(name) for name in ("works", "refuses")}
    (out["works"] / "room").mkdir()

    def printed_by(name: str) -> str:
        # As without the ansible.cfg of this clone.
        return run(command(f"{name}.yml", out[name]), ANSIBLE_DISPLAY_SKIPPED_HOSTS="true")

    with ThreadPoolExecutor() as pool:
        printed = dict(zip(out, pool.map(printed_by, out), strict=True))
    return {
        name: {"out": out[name], "printed": printed[name], **json.loads((out[name] / "one.json").read_text())}
        for name in out
    }


@pytest.fixture(scope="module")
def works(both: dict[str, Result]) -> Result:
    """What works.yml left."""
    return both["works"]


@pytest.fixture(scope="module")
def refuses(both: dict[str, Result]) -> Result:
    """What refuses.yml left."""
    return both["refuses"]


@pytest.mark.parametrize(
    ("spelling", "parameters"),
    [
        ("one_word", {"state": "present"}),
        ("with_args", {"state": "absent", "count": 3}),
        ("mapping", {"state": "absent", "letters": ["a", "b"]}),
        ("with_with", {"state": "absent", "size": {"width": 4}}),
        ("full", {"state": "present"}),
        ("classic", {"state": "absent", "word": "classic"}),
        ("by_variable", {"state": "present"}),
    ],
)
def test_every_spelling_is_the_same_call(works: Result, spelling: str, parameters: Result) -> None:
    result = works[spelling]
    expected = parameters | {"derived": "one-derived"}
    assert result["parameters"] == seen(result)["parameters"] == expected
    assert seen(result)["state"] == seen(result)["inventory_state"] == parameters["state"]
    assert result["preset"] == "probe"
    assert result["path"] == str(HERE / "presets/probe/preset.yml")
    assert (result["changed"], result["failed"]) == (False, False)


def test_a_parameter_sets_its_variable_only_when_it_is_given(works: Result) -> None:
    assert seen(works["one_word"])["word"] == seen(works["by_variable"])["word"] == "from the inventory"
    assert seen(works["passes"])["word"] == "of the play and the task"


def test_steps_see_what_the_task_sees(works: Result) -> None:
    expected = {
        "host": "one",
        "hosts": ["one"],
        "group_word": "of the group",
        "host_word": "of one",
        "neighbour": "of three",
        "extra": "extra",
        "play_word": "of the play",
        "block_word": "of the block",
        "task_word": "of the task on one",
        "set_word": "of set_fact",
        "registered": "of register",
    }
    assert {key: seen(works["passes"])[key] for key in expected} == expected
    # From core 2.22 on Ansible hides a vaulted text that a step prints.
    assert seen(works["passes"])["vaulted"] in ("from the vault", "$REDACTED$")
    role = seen(works["calls_preset_result"])
    assert (role["role_default"], role["role_var"]) == ("default of the role", "variable of the role")
    assert (role["role_parameter"], role["set_word"]) == ("of the include", "of the include, above set_fact")


def test_loop_and_when(works: Result) -> None:
    assert [seen(result)["item"] for result in works["loops"]["results"]] == ["a", "b"]
    assert [seen(result)["word"] for result in works["loops"]["results"]] == ["a", "b"]
    assert works["conditional"]["skipped"]


def test_a_step_that_is_skipped_is_not_shown(works: Result) -> None:
    steps = [step for result in works.values() if isinstance(result, dict) for step in result.get("steps", [])]
    assert any(step["skipped"] for step in steps)
    assert ": skipped" not in works["printed"]


def test_check_mode_of_the_task_reaches_the_steps(works: Result) -> None:
    assert works["checked"]["changed"]
    assert not (works["out"] / "note").exists()
    assert seen(works["checks"])["check_mode"]
    assert not seen(works["one_word"])["check_mode"]


def test_delegation(works: Result) -> None:
    assert seen(works["delegated"])["host"] == "one"
    assert "probe | one -> three | See" in works["printed"]
    assert said(works["mixed"], "Ask elsewhere") == "delegated by one"


def test_whatever_a_task_list_may_hold(works: Result) -> None:
    mixed = works["mixed"]
    assert (works["out"] / "room" / "note").read_text() == "note for one: default\n"
    assert mixed["changed"]
    assert not mixed["failed"]
    assert said(mixed, "users_own : Tell") == "the handler ran"
    assert said(mixed, "Tell from the included file") == "included with True"
    assert said(mixed, "Repair") == "repaired Break"
    assert said(mixed, "Tidy") == "tidied"
    assert said(mixed, "Break and do not mind") == "not minded"
    assert said(mixed, "Once") == "once on one, environment of the task"
    assert said(mixed, "Not when unwanted") == "wanted"
    assert "Only when named" not in [step["name"] for step in mixed["steps"]]
    assert works["set_inside"] == "unset"
    assert works["facts"]["mixed_fact"] == "gathered"
    assert "+note for one: default" in works["printed"]
    assert "mixed | one | Ask twice: not yet, 2 tries left" in works["printed"]


def test_steps_are_printed_below_the_task(works: Result) -> None:
    lines = works["printed"].splitlines()
    banner = next(number for number, line in enumerate(lines) if line.startswith("TASK [Use everything]"))
    assert "  mixed | one | users_own : Write: changed" in lines[banner:]
    assert not [line for line in lines[banner - 3 : banner] if "| " in line]
    assert "      the handler ran" in lines[banner:]


def test_two_hosts_run_their_preset_at_the_same_time(works: Result) -> None:
    assert "meets | one | Wait for the other: ok" in works["printed"]
    assert "meets | two | Wait for the other: ok" in works["printed"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("unknown", ["no preset 'prob'", "Did you mean 'probe'?", f"{HERE}/presets,", "/.ansible/presets,"]),
        ("unsafe", ["'../probe' is not a preset's name"]),
        ("nameless", ["Name the preset"]),
        (
            "parameter",
            ["preset probe: does not know 'wrod'", "Did you mean 'word'?", "It knows count, derived, letters"],
        ),
        ("choice", ["value of state must be one of: present, absent, got: gone"]),
        ("type", ["argument 'count' is of type str and we were unable to convert to int"]),
        ("missing", ["preset mixed: missing required arguments: dir"]),
        ("nested", ["missing required arguments: width found in size"]),
        ("malformed", [f"{HERE}/presets/malformed/preset.yml: parameters.state: does not know 'choise'", "'choices'"]),
        ("itself", ["A preset cannot run itself", "presets/itself/preset.yml -> "]),
        ("breaks", ["breaks: Break: ", "non-zero return code", "\nthe reason"]),
        ("background", ["does not support async"]),
        ("late", ["Timed out after 1 second"]),
        ("secret", ["secret: Leak: the token is "]),
        ("secret_message", ["preset secret: argument 'level'", "'********'\" cannot be converted"]),
    ],
)
def test_failures_say_why(refuses: Result, case: str, words: list[str]) -> None:
    assert refuses[case]["failed"]
    assert [word for word in words if word not in refuses[case]["msg"]] == []


def test_a_failed_step_fails_the_task(refuses: Result) -> None:
    changed, failed = refuses["breaks"]["steps"]
    assert (changed["name"], changed["changed"]) == ("Change", True)
    assert (failed["name"], failed["failed"]) == ("Break", True)
    assert refuses["breaks"]["changed"]
    assert not refuses["excused"]["failed"]
    assert refuses["retried"]["attempts"] == 1
    assert refuses["printed"].count("FAILED - RETRYING: [one]: Break, and try again") == 1


def test_an_unreachable_host_stays_unreachable(refuses: Result) -> None:
    assert refuses["lost"]["unreachable"]
    assert refuses["lost"]["msg"].startswith("lost: Reach out: ")
    assert "lost | one | Reach out: unreachable" in refuses["printed"]


def test_secrets_stay_secret(refuses: Result) -> None:
    assert refuses["secret"]["parameters"] == {"token": "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER", "level": 1}
    assert refuses["secret"]["msg"].endswith(("the token is ********", "the token is $REDACTED$"))
    assert "hunter2" not in json.dumps(refuses, default=str)
    assert "Go well: ok\n      Hello world!" in refuses["printed"]
    assert "Hello world!" not in refuses["printed"].partition("Leak into a message")[2]


SECRET_PLAY = """
- hosts: one
  gather_facts: false
  tasks:
    - preset: {name: secret, token: "{{ lookup('ansible.builtin.env', 'TOKEN') }}"}
      ignore_errors: true
"""


def test_secrets_stay_secret_in_warnings_and_tracebacks(tmp_path: Path) -> None:
    play = tmp_path / "play.yml"
    play.write_text(SECRET_PLAY)
    ended = subprocess.run(
        command(str(play), tmp_path, "-vvv"),
        cwd=HERE,
        env=environment(TOKEN="hunter2", ANSIBLE_DISPLAY_TRACEBACK="always"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "secret | one | Warn of it: ok" in ended.stdout
    assert "secret | one | Fail over it: failed (ignored)" in ended.stdout
    assert ended.stdout.count("/nowhere/") > 2
    assert "Traceback" in ended.stdout
    assert "hunter2" not in ended.stdout


def test_the_command_line_reaches_the_steps_and_chooses_the_task_as_a_whole(tmp_path: Path) -> None:
    chosen = ["--tags", "chosen,smoke", "--skip-tags", "unwanted", "--step", "--start-at-task", "Call"]
    answers = "y\n" * 10
    printed = run(command("modes.yml", tmp_path, "--check", "--diff", "-v", *chosen), stdin=answers)
    # From core 2.20 on --step asks about two tasks of the play's own before the first of the preset.
    asked = set(re.findall(r"Perform task: TASK: (.+?) \(N\)o", printed))
    assert asked - {"Gathering Facts", "Validating arguments against arg spec None"} == {"Call"}
    assert "mixed | one | users_own : Write: changed" in printed
    assert "+note for one: default" in printed
    assert "mixed | one | Only when named: ok" in printed
    assert "Not when unwanted" not in printed
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_preset_leaves_nothing_running(tmp_path: Path) -> None:
    seconds = 100_000 + os.getpid()

    def sleeping() -> bool:
        return (
            subprocess.run(["pgrep", "-f", f"^sleep {seconds}$"], stdout=subprocess.DEVNULL, check=False).returncode
            == 0
        )

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 180
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    arguments = command("interrupted.yml", tmp_path, "-e", f"seconds={seconds}")
    with subprocess.Popen(arguments, cwd=HERE, env=environment(), stdout=subprocess.DEVNULL) as process:
        wait(sleeping)
        process.send_signal(signal.SIGINT)
        wait(lambda: process.poll() is not None)
    wait(lambda: not sleeping())


def test_the_installed_tarball_works_in_anybodys_playbook(tmp_path: Path) -> None:
    """And so do a preset beside the playbook that is called like one of the collection's, and a callback of JSON."""
    home, collections, site = tmp_path / "home", tmp_path / "collections", tmp_path / "site"
    shutil.copytree(HERE / "anybody", site)
    changes = {
        "HOME": str(home),
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_CONFIG": str(site / "ansible.cfg"),
    }
    galaxy, playbook = [str(BIN / "ansible-galaxy"), "collection"], str(BIN / "ansible-playbook")

    run([*galaxy, "build", "--output-path", str(tmp_path)], cwd=ROOT)
    (tarball,) = tmp_path.glob("*.tar.gz")
    run([*galaxy, "install", str(tarball), "-p", str(collections), "--no-deps", "--offline"], cwd=site, **changes)
    run([playbook, "selfhosted.prefect.shortname"], cwd=site, **changes)

    printed = run([playbook, "play.yml"], cwd=site, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json", **changes)
    results = [task["hosts"]["localhost"] for task in json.loads(printed)["plays"][0]["tasks"]]
    assert [said(result, "Tell") for result in results] == ["it is mine"] * 2
    assert {result["path"] for result in results} == {str(site / "presets/prefect/preset.yml")}

    run([playbook, "selfhosted.prefect.shortname", "-e", "state=absent"], cwd=site, **changes)
    assert not (home / ".ansible/plugins/action/preset.py").exists()
