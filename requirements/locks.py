#!/usr/bin/env python3
"""The locks that hosts install from: what goes into each, how each is made, and the proof that each works.

A lock is a hashed requirement file that is valid for every supported Python and carries no download address, so
that any index or mirror serves it. An unlocked Prefect breaks as its dependencies move on: the constraints below
are what is known to have broken, each with its source.

    locks.py make [LOCK ...]                       resolve again, to the newest versions that the data below allows
    locks.py prove [LOCK ...] [--python PYTHON]    install, start, and run a flow, on every Python that is found
    locks.py add                                   enter the newest Prefect, if it has no lock

`make locks` does the first two, in the controller's environment, where uv is. A release that is named brings its
Celery. Interpreters are found on the PATH and in pyenv's directory. What was proven is recorded in proven.json beside
the locks, which roles and pages read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from uv import find_uv_bin

ROOT = Path(__file__).resolve().parent.parent
DIRECTORY = ROOT / "roles/prefect/files/locks"
PROVEN = DIRECTORY / "proven.json"
# Where the default version stands, and what it stands behind.
DEFAULTS = {
    ROOT / "roles/prefect/defaults/main.yml": "prefect_version: ",
    ROOT / "roles/prefect/meta/argument_specs.yml": "default: ",
}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """One requirement file, and why it holds what it holds.

    `constraints` and `overrides` map a requirement to the reason for it. A constraint narrows what upstream allows;
    an override replaces what upstream asks for. A lock `beside` another fits it, and holds only what that has not.
    """

    name: str
    requirements: Sequence[str]
    constraints: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    oldest_python: str = PYTHONS[0]
    beside: str = ""

    @property
    def path(self) -> Path:
        return DIRECTORY / f"{self.name}.txt"

    @property
    def pythons(self) -> list[str]:
        return [version for version in PYTHONS if _key(version) >= _key(self.oldest_python)]

    @property
    def digest(self) -> str:
        """SHA-256 of what a proof installs."""
        return hashlib.sha256(b"".join(path.read_bytes() for path in self.installed)).hexdigest()

    @property
    def installed(self) -> list[Path]:
        """The lock's file, after that of the lock that it is beside."""
        return [_lock(name).path for name in (self.beside, self.name) if name]


# What holds Prefect's dependencies back, and why.
CERTIFI = {"certifi<2026.10.19": "2026.10.19.post1 has no source distribution, and not every index has it"}
FASTAPI = {"fastapi<0.151": "3.9's own cap; from 0.155 on Body() has no min_items and no server starts"}
# Seen in the proof below: "Can't evaluate bulk DML statement" in models.deployments._insert_scheduled_flow_runs.
SQLALCHEMY = {
    "sqlalchemy<2.1": "the scheduler fails and no schedule ever runs, while the server is healthy and other runs work"
}
# Up to 3.6, prefect.workers imports it without asking for it; opentelemetry-api used to bring it.
METADATA = "importlib-metadata"

# tzdata: on Python 3.13 Prefect leaves time zones to the system, and Debian 13 has US/Eastern in tzdata-legacy alone.
# Newest first.
RELEASES = (
    Lock(
        name="3.9.1",
        requirements=["prefect==3.9.1", "prefect-redis", "tzdata"],
        constraints=CERTIFI,
        overrides={"certifi": "3.9 asks for certifi>=2026.10.19, which not every index has; an older one does as well"},
        oldest_python="3.11",
    ),
    Lock(
        name="3.8.8",
        requirements=["prefect==3.8.8", "prefect-redis", "tzdata"],
        constraints=CERTIFI | FASTAPI | SQLALCHEMY,
    ),
    Lock(
        name="3.7.8",
        requirements=["prefect==3.7.8", "prefect-redis", "tzdata"],
        constraints=CERTIFI | FASTAPI | SQLALCHEMY,
    ),
    Lock(
        name="3.6.29",
        requirements=["prefect==3.6.29", "prefect-redis", METADATA, "tzdata"],
        constraints=CERTIFI
        | SQLALCHEMY
        | {"fastapi<0.137": "every request answers 500: https://github.com/PrefectHQ/prefect/issues/22276"},
    ),
    # The only release of 3.5.
    Lock(
        name="3.5.0",
        requirements=["prefect==3.5.0", "prefect-redis", METADATA, "tzdata"],
        constraints=CERTIFI
        | SQLALCHEMY
        | {"fastapi<0.132": "later ones refuse JSON without its type, as the client sends the task run of a subflow"},
    ),
)
LOCKS = (
    *RELEASES,
    *(
        Lock(
            name=f"celery/{lock.name}",
            requirements=["celery>=5.5,<6"],
            beside=lock.name,
            oldest_python=lock.oldest_python,
        )
        for lock in RELEASES
    ),
    Lock(name="supervisor", requirements=["supervisor"]),
    # The one pin of uv: of the controller's environment, and of hosts that fetch their own.
    Lock(name="uv", requirements=["uv"]),
)


def make(lock: Lock) -> None:
    """Resolve `lock` from the index that uv is configured for, and write its file.

    Raises:
        subprocess.CalledProcessError: nothing satisfies the requirements; uv has said why.
    """
    with tempfile.TemporaryDirectory() as scratch:
        held = [line.rstrip(" \\") for line in _pins(_lock(lock.beside).path.read_text())] if lock.beside else []
        constraints = [*lock.constraints, *held]
        inputs = {"requirements": lock.requirements, "constraints": constraints, "overrides": lock.overrides}
        for name, lines in inputs.items():
            Path(scratch, name).write_text("".join(f"{line}\n" for line in lines))
        _uv(
            "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate",
            "--python-version", lock.oldest_python, "--constraints", "constraints", "--overrides", "overrides",
            "--output-file", "lock", "requirements",
            cwd=scratch, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        pins = Path(scratch, "lock").read_text()
    if lock.beside:
        pins = _without(pins, _lock(lock.beside).path.read_text())
    header = f"# Made by `requirements/locks.py make {lock.name}`, which says what is held back and why.\n"
    if lock.overrides:
        # What hosts install beside the lock is resolved there, and must not ask for another version again.
        header += f"# Overrides: {', '.join(lock.overrides)}\n"
    lock.path.parent.mkdir(exist_ok=True)
    lock.path.write_text(header + pins)
    print(f"{lock.name}: {len(re.findall(r'^[^ #]', pins, re.MULTILINE))} pins")


def _pins(text: str) -> dict[str, str]:
    """Return the pins of a requirement file with their hashes, by their first lines."""
    blocks = re.findall(r"^([^\s#].*)\n((?: .*\n)*)", text, re.MULTILINE)
    return {first: f"{first}\n{hashes}" for first, hashes in blocks}


def _without(text: str, others: str) -> str:
    """Return the pins of a requirement file that another one does not hold for every Python as well."""
    held = _pins(others)
    pins = {first: pin for first, pin in _pins(text).items() if first not in held}
    return "".join(pin for first, pin in pins.items() if f"{first.partition(' ')[0]} \\" not in held)


def prove(lock: Lock, python: str) -> str:
    """Install `lock` for the interpreter `python` in a scratch directory, use it for real, and record that it works.

    Returns what was seen, as one line of text.

    Raises:
        RuntimeError: something did not work; the message holds the log of the process that failed.
        subprocess.CalledProcessError: the lock does not install.
    """
    with tempfile.TemporaryDirectory(prefix="prefect-lock-") as scratch:
        home = Path(scratch)
        _uv("venv", "--quiet", "--python", python, str(home / "venv"))
        started = time.monotonic()
        locks = map(str, lock.installed)
        _uv("pip", "sync", "--quiet", "--require-hashes", "--python", str(home / "venv/bin/python"), *locks)
        install = time.monotonic() - started
        ways = {"supervisor": _prove_supervisor, "celery": _prove_celery, "uv": _prove_uv}
        seen = ways.get(lock.name.partition("/")[0], _prove_prefect)(home)
        asked = [str(home / "venv/bin/python"), "-c", "import platform; print(platform.python_version())"]
        record(lock, subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
        return f"installed in {install:.1f} s, {seen}"


def recorded() -> dict[str, dict[str, Any]]:
    """Return what was proven: by lock, its digest and the proofs, each with its Python, date and system."""
    found: dict[str, dict[str, Any]] = json.loads(PROVEN.read_text()) if PROVEN.exists() else {}
    return found


def record(lock: Lock, python: str) -> None:
    """Record that `lock` was proven today on a version of Python, instead of what was proven of other contents."""
    known = recorded()
    proofs = known[lock.name]["proofs"] if known.get(lock.name, {}).get("sha256") == lock.digest else []
    proofs = [proof for proof in proofs if _key(proof["python"]) != _key(python)]
    proofs.append({"python": python, "date": date.today().isoformat(), "system": _system()})
    known[lock.name] = {"sha256": lock.digest, "proofs": sorted(proofs, key=lambda proof: _key(proof["python"]))}
    rows = {each.name: known[each.name] for each in LOCKS if each.name in known}
    PROVEN.write_text(json.dumps(rows, indent=2) + "\n")


def _system() -> str:
    """Return the name of this machine's system, such as `Debian 12, x86_64`."""
    try:
        system = platform.freedesktop_os_release()
        name = f"{system['ID'].capitalize()} {system.get('VERSION_ID', '')}".strip()
    except OSError:
        name = platform.system()
    return f"{name}, {platform.machine()}"


def add() -> str:
    """Enter the newest Prefect of the index like the newest one here, make it the default, and return its version.

    Returns nothing, and changes nothing, if it has an entry. Whether the same constraints do for it, its proof shows.
    """
    options = ("--no-deps", "--no-header", "--no-annotate", "--quiet", "--python-version", PYTHONS[-1])
    command = [find_uv_bin(), "pip", "compile", *options, "-"]
    resolved = subprocess.run(command, input="prefect", capture_output=True, text=True, check=True).stdout
    newest, last = resolved.strip().partition("==")[2], RELEASES[0].name
    if any(lock.name == newest for lock in RELEASES):
        return ""
    source = Path(__file__).read_text()
    before, _, after = source.partition("RELEASES = (\n")
    entry = after[: after.index("    ),\n")] + "    ),\n"
    Path(__file__).write_text(f"{before}RELEASES = (\n{entry.replace(last, newest)}{after}")
    for path in DEFAULTS:
        path.write_text(path.read_text().replace(f"{DEFAULTS[path]}{last}\n", f"{DEFAULTS[path]}{newest}\n"))
    return newest


FLOW = """
from prefect import flow, task

@task
def double(number: int) -> int:
    return 2 * number

@flow
def below(number: int) -> int:
    return double(number)

@flow(log_prints=True)
def proof() -> None:
    print("sum", sum(double.map([1, 2, 3]).result()) + below(4))

if __name__ == "__main__":
    flow.from_source(source=".", entrypoint="proof.py:proof").deploy("proof", work_pool_name="proof", cron="0 6 * * *")
"""

MODULES = ("prefect.server.api.server", "prefect.cli", "prefect.engine", "prefect.workers.process")
REDIS_MODULES = ("prefect_redis.messaging", "prefect_redis.ordering")


def _prove_prefect(home: Path) -> str:
    """Import, start the server on SQLite, and run a deployed flow in a process worker of the release in `home`."""
    port = _free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))},
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_COLORS": "false",
        "DO_NOT_TRACK": "1",
        "PYTHONWARNINGS": "ignore",
    }
    (home / "proof.py").write_text(FLOW)
    bin_ = home / "venv/bin"
    cli = [str(bin_ / "prefect"), "--no-prompt"]

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    run(str(bin_ / "python"), "-c", f"import {', '.join((*MODULES, *REDIS_MODULES))}")
    started = time.monotonic()
    with _running([*cli, "server", "start", "--port", str(port)], home / "server.log", home, environment) as server:
        _wait_ready(f"http://127.0.0.1:{port}/api/ready", server, home / "server.log")
        ready = time.monotonic() - started
        run(*cli, "work-pool", "create", "proof", "--type", "process")
        run(str(bin_ / "python"), "proof.py")
        worker = [*cli, "worker", "start", "--pool", "proof", "--type", "process", "--install-policy", "never"]
        with _running(worker, home / "worker.log", home, environment):
            started = time.monotonic()
            run(*cli, "deployment", "run", "proof/proof", "--watch", "--watch-timeout", "120")
            flow = time.monotonic() - started
        planned = _planned(f"http://127.0.0.1:{port}/api")
        log = (home / "server.log").read_text()
        if not planned or failures(log):
            raise RuntimeError(f"The server {'has logged an error' if planned else 'plans no runs'}:\n{log[-4000:]}")
    log = (home / "worker.log").read_text()
    if "sum 20" not in log:
        raise RuntimeError(f"The flow did not print its sum:\n{log}")
    return f"server ready in {ready:.1f} s, flow run completed in {flow:.1f} s"


def failures(log: str) -> list[str]:
    """Return the error of each traceback in a server's log, but for a busy SQLite's: that is load, not the lock."""
    found = re.findall(r"Traceback \(most recent call last\):\n(?:[\s|+].*\n|\n)*(\S.*)", log)
    return [error for error in found if "database is locked" not in error]


def _prove_supervisor(home: Path) -> str:
    """Keep a program running with the supervisord in `home`, and ask supervisorctl for its state."""
    (home / "supervisord.conf").write_text(
        f"[supervisord]\nnodaemon=true\nuser={os.getuid()}\nlogfile=/dev/null\nlogfile_maxbytes=0\n"
        "pidfile=%(here)s/supervisord.pid\n"
        "[unix_http_server]\nfile=%(here)s/supervisor.sock\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = "
        "supervisor.rpcinterface:make_main_rpcinterface\n"
        "[supervisorctl]\nserverurl=unix://%(here)s/supervisor.sock\n"
        "[program:proof]\ncommand=sleep 60\nstartsecs=0\n"
    )
    configuration = ["-c", str(home / "supervisord.conf")]
    log = home / "supervisord.log"
    with _running([str(home / "venv/bin/supervisord"), *configuration], log, home, dict(os.environ)):
        status = ""
        for _ in range(50):
            command = [str(home / "venv/bin/supervisorctl"), *configuration, "status", "proof"]
            status = subprocess.run(command, capture_output=True, text=True).stdout
            if "RUNNING" in status:
                return "program RUNNING"
            time.sleep(0.2)
    raise RuntimeError(f"supervisorctl says {status!r}\n{log.read_text()}")


def _prove_uv(home: Path) -> str:
    """Ask the uv in `home` for its version."""
    command = [str(home / "venv/bin/uv"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout.strip()


CELERY = """
from celery import Celery

app = Celery("proof", broker="filesystem://", backend="file://results")
folders = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
app.conf.update(broker_transport_options=folders, broker_connection_retry_on_startup=True)

@app.task
def double(number: int) -> int:
    return 2 * number

if __name__ == "__main__":
    print(app.send_task("proof.double", [21]).get(timeout=60))
"""
CELERY_MODULES = ("prefect.engine", "prefect_redis.messaging", "kombu.transport.redis", "celery.backends.redis")


def _prove_celery(home: Path) -> str:
    """Import what flows and workers do, and have a Celery worker of the release in `home` do a task."""
    for folder in ("queue", "control", "results"):
        (home / folder).mkdir()
    (home / "proof.py").write_text(CELERY)
    python, log = str(home / "venv/bin/python"), home / "worker.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))}
    environment |= {"PREFECT_HOME": str(home / "prefect"), "DO_NOT_TRACK": "1"}

    def run(*words: str) -> str:
        done = subprocess.run([python, *words], cwd=home, env=environment, capture_output=True, text=True)
        if done.returncode:
            worker = log.read_text() if log.exists() else ""
            raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}{worker}")
        return done.stdout

    run("-c", f"import {', '.join(CELERY_MODULES)}")
    worker = [python, "-m", "celery", "--app", "proof", "worker", "--concurrency", "1", "--without-mingle"]
    with _running(worker, log, home, environment):
        started = time.monotonic()
        if run("proof.py").strip() != "42":
            raise RuntimeError(f"The task has another result:\n{log.read_text()}")
        return f"task done in {time.monotonic() - started:.1f} s"


@contextmanager
def _running(
    command: list[str], log: Path, cwd: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` beside the block and stop it afterwards, by force after 30 seconds."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(url: str, server: subprocess.Popen[bytes], log: Path, timeout: float = 180) -> None:
    """Return once `url` answers 200; raise RuntimeError with the server's log after `timeout` seconds or its end."""
    deadline = time.monotonic() + timeout
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"The server never became ready:\n{log.read_text()[-4000:]}")


def _planned(api: str, timeout: float = 30) -> bool:
    """Return whether the server plans runs for a schedule within `timeout` seconds; a failing scheduler is silent."""
    body = json.dumps({"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}).encode()
    request = urllib.request.Request(f"{api}/flow_runs/count", body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with urllib.request.urlopen(request, timeout=5) as response:
            if int(response.read()):
                return True
        time.sleep(0.5)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _uv(*arguments: str, **options: object) -> None:
    subprocess.run([find_uv_bin(), *arguments], check=True, **options)  # type: ignore[call-overload]


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _lock(name: str) -> Lock:
    for lock in LOCKS:
        if lock.name == name:
            return lock
    raise argparse.ArgumentTypeError(f"there is no lock {name!r}")


def _interpreters(wanted: Sequence[str]) -> dict[str, str]:
    """Map versions ("3.12") to interpreters: those named, or else those of PYTHONS that this machine has."""
    sys.path.insert(0, str(ROOT / "tests"))
    from cores import interpreter, version_of

    if not wanted:
        return {version: path for version in PYTHONS if (path := interpreter(version))}
    paths = {name: shutil.which(name) for name in wanted}
    for name, path in paths.items():
        if not path or not version_of(path):
            sys.exit(f"locks: {name} is not a Python interpreter that runs")
    return {version_of(path): path for path in paths.values() if path}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["make", "prove", "add"])
    parser.add_argument("locks", nargs="*", metavar="LOCK", type=_lock, help=", ".join(lock.name for lock in LOCKS))
    parser.add_argument("--python", action="append", default=[], help="an interpreter to prove on; may be repeated")
    options = parser.parse_args()
    # A shell starts its background jobs with SIGINT ignored, children inherit that, and a worker stops on SIGINT only.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.action == "add":
        print(add())
        return 0
    named = [lock.name for lock in options.locks or LOCKS]
    chosen = [lock for lock in LOCKS if {lock.name, lock.beside} & {*named}]
    if options.action == "make":
        for lock in chosen:
            make(lock)
        return 0
    failed, interpreters = 0, _interpreters(options.python)
    for lock in chosen:
        for version in lock.pythons:
            if version not in interpreters:
                if not options.python:
                    print(f"{lock.name:<13} {version:<5} SKIPPED: no Python {version} here", flush=True)
                continue
            try:
                result = prove(lock, interpreters[version])
            except (RuntimeError, subprocess.CalledProcessError) as error:
                result, failed = f"FAILED: {error}", failed + 1
            print(f"{lock.name:<13} {version:<5} {result}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
