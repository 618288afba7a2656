"""Deployment scripts by their module, with a release whose Python is the one that runs the tests."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.action.host_deployment_scripts import meant_for
from ansible_collections.selfhosted.prefect.plugins.filter.services import env_value
from ansible_collections.selfhosted.prefect.plugins.modules import host_deployment_scripts as deployment_scripts
from ansible_collections.selfhosted.prefect.plugins.modules.host_services import ended
from fake_api import outcome

ROOT = Path(__file__).resolve().parents[2]
SAYS = 'print("I am", __file__)'


@dataclass
class Host:
    """A directory of flows, two releases, a settings file and what is remembered."""

    directory: Path

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for release in ("releases/1/bin", "releases/2/bin"):
            (self.directory / release).mkdir(parents=True)
            (self.directory / release / "python").symlink_to(sys.executable)
            prefect = self.directory / release / "prefect"
            prefect.write_text('#!/bin/sh\necho "prefect $*" in "$(pwd)"\n')
            prefect.chmod(0o755)
        (self.directory / "current").symlink_to("releases/1")
        self.flows.mkdir()
        self.flow("deploy.py", SAYS)
        self.settings(PREFECT_API_URL="http://127.0.0.1:4200/api")

    @property
    def flows(self) -> Path:
        return self.directory / "flows"

    def flow(self, name: str, text: str) -> None:
        path = self.flows / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def settings(self, **values: str) -> None:
        lines = ["# Ansible managed", *(f"{name}={env_value(value)}" for name, value in values.items())]
        (self.directory / "client.env").write_text("\n".join(lines) + "\n")

    def run(
        self, *scripts: dict[str, Any], check_mode: bool = False, environment: Any = None, **options: Any
    ) -> dict[str, Any]:
        result: dict[str, Any] = outcome(
            deployment_scripts.main,
            check_mode=check_mode,
            **{
                "scripts": list(scripts) or [{"name": "deploy", "path": "deploy.py"}],
                "chdir": str(self.flows),
                "release": str(self.directory / "current"),
                "settings_file": str(self.directory / "client.env"),
                "state_dir": str(self.directory / "state"),
                "environment": json.dumps(environment or {}),
                **options,
            },
        )
        result.pop("invocation", None)
        return result


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_dry_for_real_and_again(host: Host) -> None:
    scripts = [{"name": name, "content": f"print({name!r})"} for name in ("b", "a", "c")]
    dry = host.run(*scripts, check_mode=True)
    assert (dry["changed"], dry["ran"], dry["output"]) == (True, ["b", "a", "c"], {})
    assert not (host.directory / "state").exists()

    real = host.run(*scripts)
    assert (real["changed"], real["ran"]) == (True, ["b", "a", "c"])
    assert list(real["output"].items()) == [("b", "b\n"), ("a", "a\n"), ("c", "c\n")]

    again = host.run(*scripts)
    assert (again["changed"], again["ran"]) == (False, [])
    assert again["proof"] == real["proof"]


def release(host: Host) -> dict[str, Any]:
    (host.directory / "current").unlink()
    (host.directory / "current").symlink_to("releases/2")
    return {}


def script(host: Host) -> dict[str, Any]:
    host.flow("deploy.py", "print(2)")
    return {}


def other_code(host: Host) -> dict[str, Any]:
    host.flow("package/flow.py", "x = 1")
    return {}


def code_goes(host: Host) -> dict[str, Any]:
    (host.flows / "helper.py").unlink()
    return {}


def api(host: Host) -> dict[str, Any]:
    host.settings(PREFECT_API_URL="http://elsewhere:4200/api")
    return {}


def credential(host: Host) -> dict[str, Any]:
    host.settings(PREFECT_API_URL="http://127.0.0.1:4200/api", PREFECT_API_AUTH_STRING="admin:new")
    return {}


def settings_go(host: Host) -> dict[str, Any]:
    (host.directory / "client.env").unlink()
    return {}


def bytecode(host: Host) -> dict[str, Any]:
    host.flow("__pycache__/deploy.py", "x")
    return {}


def data(host: Host) -> dict[str, Any]:
    host.flow("prices.csv", "1;2")
    return {}


def nothing(host: Host) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        (nothing, False),
        (script, True),
        (other_code, True),
        (code_goes, True),
        (release, True),
        (api, True),
        (credential, False),
        (settings_go, True),
        (bytecode, False),
        (data, False),
        (lambda host: {"environment": {"POOL": "b"}}, True),
        (lambda host: {"force": True}, True),
        (lambda host: {"timeout": 9}, False),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_runs_again_exactly_when_something_changed(
    host: Host, change: Callable[[Host], dict[str, Any]], runs: bool
) -> None:
    host.flow("helper.py", "x = 1")
    before = host.run(environment={"POOL": "a"})
    options = {"environment": {"POOL": "a"}} | change(host)
    after = host.run(**options)
    assert after["changed"] is runs
    assert after["ran"] == (["deploy"] if runs else [])
    assert (after["proof"] != before["proof"]) is runs
    if not options.get("force"):
        assert host.run(**options)["changed"] is False


@pytest.mark.parametrize("change", [{"args": ["--all"]}, {"path": None, "content": SAYS}])
def test_runs_again_when_it_is_described_differently(host: Host, change: dict[str, Any]) -> None:
    first, second = {"name": "one", "path": "deploy.py"}, {"name": "two", "path": "deploy.py"}
    host.run(first, second)
    changed = {name: value for name, value in (second | change).items() if value is not None}
    assert host.run(first, changed)["ran"] == ["two"]


def test_flows_may_live_below_a_directory_that_is_no_code(tmp_path: Path) -> None:
    host = Host(tmp_path / ".prefect" / "host")
    host.run()
    other_code(host)
    assert host.run()["changed"] is True


def test_names_that_look_alike_are_remembered_apart(host: Host) -> None:
    scripts = [{"name": name, "content": "1"} for name in ("a/b", "a-b", "../a", "a b")]
    host.run(*scripts)
    assert host.run(*scripts)["changed"] is False
    assert len(list((host.directory / "state").iterdir())) == 4


REPORT = """
import json, os, pathlib, sys
print(json.dumps([sys.argv, dict(os.environ), os.getcwd(), sys.executable, sys.stdin.read()]))
"""


@pytest.mark.parametrize("kind", ["path", "content"])
def test_what_a_script_sees(host: Host, kind: str) -> None:
    nasty = "p@:/%s #'\"$x`\\ ünï\nsecond line"
    host.settings(PREFECT_API_AUTH_STRING=nasty, PREFECT_HOME="from the file")
    host.flow("report.py", REPORT)
    script = {"name": "report", "args": ["a b", "$c"], kind: {"path": "report.py", "content": REPORT}[kind]}
    printed = host.run(script, environment={"PREFECT_HOME": "from the role"})["output"]["report"]
    arguments, environment, directory, executable, typed = json.loads(printed)
    assert arguments == ["report.py" if kind == "path" else "-", "a b", "$c"]
    assert environment["PREFECT_API_AUTH_STRING"] == nasty
    assert environment["PREFECT_HOME"] == "from the role"
    assert environment["PATH"].startswith(f"{host.directory}/current/bin:")
    assert "PYTEST_CURRENT_TEST" not in environment
    assert directory == str(host.flows)
    assert executable == f"{host.directory}/current/bin/python"
    assert typed == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
def test_a_script_runs_as_the_user_of_the_services(host: Host) -> None:
    for directory in (host.directory, *host.directory.parents[:-2]):
        directory.chmod(0o755)
    (host.directory / "current" / "bin" / "python").unlink()
    (host.directory / "current" / "bin" / "python").symlink_to("/usr/bin/python3")
    report = "import os; print(os.getuid(), os.getgroups(), os.environ['HOME'], os.environ['USER'])"
    before = os.getgroups()
    os.setgroups([0, 8])
    try:
        printed = host.run({"name": "who", "content": report}, user="daemon")["output"]["who"]
    finally:
        os.setgroups(before)
    assert printed == "1 [] /usr/sbin daemon\n"


def test_a_user_that_is_not_there(host: Host) -> None:
    assert "no-such-user" in host.run(user="no-such-user")["msg"]


def test_a_project(host: Host) -> None:
    host.flow("shop/prefect.yaml", "deployments: []")
    ran = host.run({"name": "shop", "project": "shop"})
    assert ran["output"]["shop"] == f"prefect --no-prompt deploy --all in {host.flows}/shop\n"
    assert host.run({"name": "shop", "project": "shop"})["changed"] is False
    host.flow("shop/prefect.yaml", "deployments: [{}]")
    assert host.run({"name": "shop", "project": "shop"})["changed"] is True


def test_a_syntax_error_stops_all_before_the_first_runs(host: Host) -> None:
    host.flow("worse.py", "def broken(:\n")
    bad = [{"name": "bad", "content": "\n\nx = = 1\n"}, {"name": "worse", "path": "worse.py"}]
    result = host.run({"name": "good", "path": "deploy.py"}, *bad)
    assert result["failed"]
    assert result["msg"].splitlines() == [
        "prefect_flows_deployment_scripts: bad, line 3: invalid syntax",
        "prefect_flows_deployment_scripts: worse, line 1: invalid syntax",
    ]
    assert (result["ran"], result["output"]) == ([], {})
    assert not (host.directory / "state").exists()


def test_syntax_is_that_of_the_release(host: Host) -> None:
    """The host's Python, which runs the module, may be older than the release's, which runs the scripts."""
    newer = host.directory / "current" / "bin" / "python"
    newer.unlink()
    newer.write_text(
        f"#!/bin/sh\ncase $* in *json.load*) cat >/dev/null; exit 0;; esac\nexec {sys.executable} -c 'print(1)'\n"
    )
    newer.chmod(0o755)
    assert host.run({"name": "new", "content": "type X = int if only we were newer"})["changed"] is True


def test_a_script_that_fails_shows_its_output_and_is_run_again(host: Host) -> None:
    fails = {"name": "fails", "content": "import sys; print('out'); sys.exit('no pool: default')"}
    scripts = [{"name": "first", "path": "deploy.py"}, fails, {"name": "last", "path": "deploy.py"}]
    result = host.run(*scripts)
    assert result["failed"]
    assert result["msg"].startswith("prefect_flows_deployment_scripts: fails failed with exit code 1:\n")
    assert "out" in result["msg"]
    assert "no pool: default" in result["msg"]
    assert result["ran"] == ["first"]
    fails["content"] = "1"
    assert host.run(*scripts)["ran"] == ["fails", "last"]


@pytest.mark.parametrize("code", [0, 1])
def test_no_secret_in_what_a_script_writes(host: Host, code: int) -> None:
    host.settings(PREFECT_API_AUTH_STRING="admin:canary1", PREFECT_API_URL="http://127.0.0.1:4200/api")
    writes = f"import os, sys; print(*sorted(os.environ.values()), sep='\\n'); sys.exit({code})"
    environment = {"API_TOKEN": "canary2", "DATABASE": "postgresql://any:canary3@db/any", "LEVEL": "NO_LEVEL"}
    result = host.run({"name": "writes", "content": writes}, environment=environment)
    assert "canary" not in json.dumps(result)
    said = result["msg"] if code else result["output"]["writes"]
    assert "NO_LEVEL" in said and "http://127.0.0.1:4200/api" in said


def test_a_script_has_its_time_and_what_it_started_ends_with_it(host: Host) -> None:
    starts = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print("started", child.pid, flush=True)
        time.sleep(60)
    """
    result = host.run({"name": "slow", "content": textwrap.dedent(starts)}, timeout=1)
    assert "slow was not done after 1 s; correct it, or raise prefect_flows_timeout" in result["msg"]
    child = re.search(r"started (\d+)$", result["msg"])
    assert child
    deadline = time.monotonic() + 20
    while not ended(int(child[1])):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize(
    ("scripts", "says"),
    [
        ([{"name": "a", "content": "1"}, {"name": "a", "content": "2"}], "two scripts have the name a"),
        ([{"name": "a"}], "a needs one of src, content, path and project"),
        ([{"name": "a", "content": "1", "path": "deploy.py"}], "a needs one of"),
        ([{"name": "a", "content": "1", "project": "."}], "a needs one of"),
        ([{"name": "a", "path": "deploy.py", "project": "."}], "a needs one of"),
    ],
)
def test_refused_before_anything_runs(host: Host, scripts: list[dict[str, Any]], says: str, check_mode: bool) -> None:
    result = host.run({"name": "first", "path": "deploy.py"}, *scripts, check_mode=check_mode)
    assert result["failed"]
    assert f"prefect_flows_deployment_scripts: {says}" in result["msg"]
    assert result["ran"] == []


@pytest.mark.parametrize(
    ("script", "missing"), [({"path": "gone.py"}, "flows/gone.py"), ({"project": "gone"}, "flows/gone/prefect.yaml")]
)
def test_what_is_not_on_the_host(host: Host, script: dict[str, Any], missing: str) -> None:
    result = host.run({"name": "first", "path": "deploy.py"}, {"name": "a"} | script)
    assert f"a: there is no {host.directory}/{missing} on this host" in result["msg"]
    assert result["ran"] == []


def test_without_a_release(host: Host) -> None:
    (host.directory / "current").unlink()
    assert host.run(check_mode=True)["changed"] is True
    assert f"{host.directory}/current/bin/python cannot be run" in host.run()["msg"]


def test_a_bare_host_in_check_mode(tmp_path: Path) -> None:
    nowhere = {name: str(tmp_path / name) for name in ("chdir", "release", "settings_file", "state_dir")}
    result = outcome(deployment_scripts.main, check_mode=True, scripts=[{"name": "a", "path": "a.py"}], **nowhere)
    assert (result["changed"], result["ran"]) == (True, ["a"])


def test_the_environment_is_not_logged(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda self, msg, log_args=None: logged.append(f"{msg} {log_args}"))
    host.settings(PREFECT_API_AUTH_STRING="admin:s4cret")
    host.run(environment={"DATABASE_KEY": "s3cret"})
    assert logged
    assert "s3cret" not in "".join(logged)
    assert "s4cret" not in "".join(logged)


@pytest.mark.parametrize(
    ("hosts", "meant"),
    [
        (None, True),
        ([], True),
        (["one"], True),
        ("one", True),
        (["workers"], True),
        (["two", "workers"], True),
        (["two"], False),
        ("two", False),
        ("on", False),
    ],
)
def test_meant_for(hosts: Any, meant: bool) -> None:
    assert meant_for({"hosts": hosts}, {"one", "workers", "all"}) is meant
    assert meant_for({}, {"one"})
