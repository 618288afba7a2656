"""One real host, and real `ansible-playbook` processes that install Prefect there over ssh."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NAME = "prefect1"
IMAGE = "debian13"
MARK = "PREFECT_TEST_RUN"
"""Every process of a run inherits it, those that leave its process group as well."""

SHOW_TASKS = {"ANSIBLE_DISPLAY_SKIPPED_HOSTS": "true", "PYTHONUNBUFFERED": "1"}
"""Without the one, a task's name is written when it has ended; without the other, even later where that is a file."""

Variables = dict[str, Any]

ASK_API = """
import base64, json, pathlib, shlex, sys, time, urllib.error, urllib.request
path, body, method = json.load(sys.stdin)
data = None if body is None else json.dumps(body).encode()
headers = {"Content-Type": "application/json"}
settings = pathlib.Path("/etc/prefect/client.env")
for word in shlex.split(settings.read_text(), comments=True) if settings.exists() else []:
    name, _, value = word.partition("=")
    if name == "PREFECT_API_AUTH_STRING":
        headers["Authorization"] = "Basic " + base64.b64encode(value.encode()).decode()
request = urllib.request.Request(f"http://127.0.0.1:4200/api{path}", data, headers, method=method)
for left in reversed(range(10)):
    try:
        with urllib.request.urlopen(request, timeout=180) as answer:
            print(answer.read().decode() or "null")
        break
    except urllib.error.HTTPError as error:
        # SQLite is locked for a moment now and then, and nothing was done.
        if error.code != 503 or not left:
            raise
        time.sleep(1)
"""


END_MODULES = """
for pid in $(pgrep '^(python|uv)'); do
    grep -q system.slice /proc/$pid/cgroup || kill -KILL $pid
done 2> /dev/null || true
"""
"""What systemd runs stays."""


@dataclass(frozen=True)
class Ended:
    """A run of ansible-playbook that is over: its exit code and what it wrote."""

    rc: int
    output: str

    @property
    def words(self) -> str:
        """The output with every run of white space, and so every line break of a long message, as one blank."""
        return " ".join(self.output.split())

    def failure(self, name: str) -> str:
        """What was said of a host as it failed, in words; nothing where it did not."""
        found = re.search(rf"^fatal: \[{name}\]: .*(?:\n(?: .*)?)*", self.output, re.MULTILINE)
        return " ".join(found[0].split()) if found else ""

    @property
    def changed(self) -> int:
        """How many tasks changed the host, by the recap."""
        found = re.search(rf"{NAME}\s+: ok=\d+\s+changed=(\d+)", self.output)
        assert found, f"there is no recap in:\n{self.output}"
        return int(found[1])


class Run:
    """A run of ansible-playbook that is under way."""

    def __init__(self, command: list[str], *, log: Path, home: Path, environment: dict[str, str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        self.mark = f"{MARK}={uuid.uuid4().hex}"
        key, value = self.mark.split("=")
        own = {"PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        self._log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=inherited | own | SHOW_TASKS | {"ANSIBLE_HOME": str(home), key: value} | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def wait(self, *, timeout: float = 1800) -> Ended:
        """Wait for its end, `timeout` seconds at most."""
        try:
            rc = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"not done after {timeout:g} s:\n{self.output}")
        return Ended(rc=rc, output=self.output)

    def wait_until(self, reached: Callable[[], bool], *, what: str, timeout: float = 600) -> None:
        """Wait for a point of the run, `timeout` seconds at most."""
        deadline = time.monotonic() + timeout
        while not reached():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"the run did not come to the point where {what}:\n{self.output}")
            time.sleep(0.05)

    def wait_for_task(self, name: str) -> None:
        """Wait until a task begins, on the output as a person sees it."""
        self.wait_until(
            lambda: bool(re.search(rf"TASK \[[^]]*{re.escape(name)}", self.output)), what=f"{name!r} begins"
        )

    def processes(self) -> dict[int, str]:
        """Give the command lines of its processes of Ansible by process id, whatever their group and parent."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                is_marked = self.mark.encode() in (process / "environ").read_bytes().split(b"\0")
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if is_marked and "ansible" in command and "[mux]" not in command:
                found[int(process.name)] = command
        return found

    def interrupt(self) -> None:
        """Do what Ctrl-C does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End all of it at once, with no chance to tidy up."""
        while found := self.processes():
            for pid in found:
                # A process may have ended by itself in the meantime.
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._process.poll()
            time.sleep(0.05)
        self._process.wait()


class Host:
    """The test host, and what a person does with it."""

    def __init__(self, *, scratch: Path) -> None:
        molecule = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text())
        common = json.dumps(molecule["provisioner"]["inventory"]["group_vars"]["all"])
        self.common: Variables = json.loads(common.replace("${MOLECULE_PROJECT_DIRECTORY}", str(ROOT)))
        # Workers look for runs more often than by default: less to wait for. A look each second would take a server as
        # much processor time as all the rest of what it does while nothing runs.
        self.common["prefect_worker_query_seconds"] = 3
        # What takes seconds on a quiet machine takes minutes on one that is busy with other things.
        for name in ("celery", "postgres", "redis", "server", "worker"):
            self.common[f"prefect_{name}_timeout"] = 600
        self.scratch, self._runs = scratch, 0

    def start(
        self,
        playbook: str | Path,
        variables: Variables | None = None,
        *,
        groups: dict[str, list[str]] | None = None,
        others: dict[str, Variables] | None = None,
        arguments: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> Run:
        """Begin a run of a playbook; `variables` are the host's, `groups` are those of site.yml unless given.

        `others` are further hosts and their variables, `environment` is added to that of ansible-playbook.
        """
        self._runs += 1
        members = groups or {name: [NAME] for name in ("prefect_server", "prefect_worker", "prefect_flows")}
        inventory = self.scratch / f"{self._runs}.json"
        tree: Variables = {name: {"hosts": {member: {} for member in hosts}} for name, hosts in members.items()}
        inventory.write_text(
            json.dumps(
                {"all": {"hosts": {NAME: variables or {}, **(others or {})}, "vars": self.common, "children": tree}}
            )
        )
        command = [str(BIN / "ansible-playbook"), "-i", str(inventory), str(playbook), *arguments]
        log, home = self.scratch / f"{self._runs}.log", self.scratch / "ansible"
        return Run(command, log=log, home=home, environment=environment or {})

    def play(self, playbook: str | Path = "site.yml", variables: Variables | None = None, **more: Any) -> Ended:
        """Run a playbook to its end."""
        return self.start(playbook, variables, **more).wait()

    def sh(self, script: str, *, stdin: str = "", check: bool = True, name: str = NAME) -> str:
        """Run a shell script as root on the host, or on another one, and return what it writes."""
        command = ["ssh", "-F", str(ROOT / ".cache/hosts/ssh_config"), f"root@{name}", script]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, (
            f"{script}: exit code {done.returncode}\n{(done.stderr or done.stdout)[-2000:]}"
        )
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        """Write a file, executable by everybody."""
        self.sh(f"cat > {shlex.quote(path)} && chmod 755 {shlex.quote(path)}", stdin=text)

    def manifest(self) -> set[str]:
        """List what is on the host: files, users, groups, units, packages, ports."""
        script = (ROOT / "molecule/shared/manifest.py").read_text()
        return {f"{key}: {value}" for key, value in json.loads(self.sh("python3 -", stdin=script)).items()}

    def api(self, path: str, body: object = None, *, method: str | None = None) -> Any:
        """Ask the host's Prefect, from the host: GET, or POST where there is a body, unless `method` says otherwise."""
        return json.loads(self.sh(f"python3 -c {shlex.quote(ASK_API)}", stdin=json.dumps([path, body, method])))

    def last_run(self, flow: str = "hello-flow") -> str:
        """Give the type of state of a flow's newest run."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
        runs = self.api("/flow_runs/filter", wanted)
        return str(runs[0]["state_type"]) if runs else "none"

    def server_pid(self) -> int:
        """Give the process id of the server, 0 where none runs."""
        return int(self.sh("systemctl show --property=MainPID --value prefect-server"))

    def cut(self, run: Run) -> None:
        """End a run and what it does on the host at once, as if all had lost their power."""
        run.kill()
        self.sh(END_MODULES)
