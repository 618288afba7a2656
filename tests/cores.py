#!/usr/bin/env python
"""Run tests on each ansible-core that the collection supports, and report the result of each.

    tests/cores.py run                           every core, on every Python that it supports and this machine has
    tests/cores.py run --only 2.21 2.22/3.13     these cores, or a core on one Python
    tests/cores.py run --without-hosts           unit and preset tests only
    tests/cores.py lock [CORE...]                resolve requirements/cores/*.txt again, to the newest versions

A core and a Python get an environment in `.cache/matrix`, from the core's lock. There run tests/unit and tests/preset
and, on the newest Python of a core and after the tests have passed, tests/system/cycle.py: site, site again and absent
on a test host. A Python that this machine does not have is skipped, and named. Interpreters are found on the PATH and
in pyenv's directory. The exit code is 1 if a test failed or nothing ran, and 2 if the command line is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "matrix"
LOCKS = ROOT / "requirements" / "cores"
ENV = ROOT / "requirements" / "env.sh"
HOST = ROOT / "tests" / "hosts" / "host"
UV_LOCK = ROOT / "roles" / "prefect" / "files" / "locks" / "uv.txt"

TESTS = {"unit": ("--numprocesses=2", "tests/unit"), "preset": ("tests/preset",)}
CYCLE = {"hosts": ("tests/system/cycle.py",)}
TOTALS = re.compile(r"\d+ (?:passed|failed|skipped|errors?|xfailed|xpassed)\b")
FAILURE = re.compile(r"(?:FAILED|ERROR) tests/")


@dataclass(frozen=True, kw_only=True)
class Core:
    """A minor version of ansible-core, the `ansible` that contains it, and the Pythons of its controller."""

    version: str
    ansible: str
    pythons: tuple[str, ...]

    @property
    def lock(self) -> Path:
        return LOCKS / f"{self.version}.txt"


CORES = (
    Core(version="2.19", ansible="12", pythons=("3.11", "3.12", "3.13")),
    Core(version="2.20", ansible="13", pythons=("3.12", "3.13", "3.14")),
    Core(version="2.21", ansible="14", pythons=("3.12", "3.13", "3.14")),
    Core(version="2.22", ansible="15", pythons=("3.13", "3.14", "3.15")),
)
"""Oldest first. The Pythons are those of the classifiers of ansible-core on the package index."""

REQUIREMENTS = ("jinja2", "pytest", "pytest-xdist")
"""What tests/unit and tests/preset need beside `ansible`."""


@dataclass(kw_only=True)
class Row:
    """One line of the table: a core on a Python, and the result of each step."""

    core: Core
    python: str
    interpreter: str | None
    installed: str = ""
    results: dict[str, str] = field(default_factory=dict)
    failed: bool = False

    @property
    def name(self) -> str:
        return f"{self.core.version}/{self.python}"

    @property
    def directory(self) -> Path:
        return CACHE / f"{self.core.version}-python{self.python}"


def interpreter(version: str) -> str | None:
    """Return the path of a Python of this minor version that runs: from the PATH, or the newest one of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    installed = sorted(pyenv.glob(f"{version}.*/bin/python3"), key=lambda path: patch(path.parts[-3]), reverse=True)
    for path in [shutil.which(f"python{version}"), *map(str, installed)]:
        if path and version_of(path) == version:
            return path
    return None


def patch(version: str) -> int:
    """Return the third number of a version, -1 where it has none."""
    found = re.match(r"\d+\.\d+\.(\d+)", version)
    return int(found[1]) if found else -1


def version_of(python: str) -> str:
    """Return the minor version of an interpreter, nothing where it does not run: a shim of pyenv may not."""
    command = [python, "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def chosen(only: Sequence[str]) -> list[Row]:
    """Return the rows that `only` names, all of them where it is empty; ValueError says which names exist."""
    rows = [Row(core=core, python=python, interpreter=None) for core in CORES for python in core.pythons]
    names = {row.name for row in rows} | {row.core.version for row in rows}
    if unknown := sorted(set(only) - names):
        raise ValueError(f"no such core: {' '.join(unknown)}. These exist: {' '.join(row.name for row in rows)}")
    wanted = [row for row in rows if not only or {row.name, row.core.version} & set(only)]
    for row in wanted:
        row.interpreter = interpreter(row.python)
    return wanted


def with_cycle(rows: Iterable[Row]) -> set[str]:
    """Return the names of the rows that a test host is for: the newest Python of each core."""
    newest = {row.core.version: row.name for row in rows if row.interpreter}
    return set(newest.values())


def install(row: Row) -> None:
    """Install a row's lock where its environment lacks it; CalledProcessError where that fails."""
    made_of = b"".join(path.read_bytes() for path in (row.core.lock, UV_LOCK, ENV))
    digest = hashlib.sha256(made_of + str(row.interpreter).encode()).hexdigest()
    ready = row.directory / ".ready"
    if not ready.exists() or ready.read_text() != digest:
        shutil.rmtree(row.directory, ignore_errors=True)
        command = [ENV, row.directory.relative_to(ROOT), row.core.lock.relative_to(ROOT)]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHON": str(row.interpreter)}, check=True)
        ready.write_text(digest)
    asked = "import importlib.metadata as m, platform; print(m.version('ansible-core'), platform.python_version())"
    done = subprocess.run([row.directory / "bin/python", "-c", asked], capture_output=True, text=True, check=True)
    row.installed = done.stdout.strip()


def test(row: Row, step: str, arguments: Sequence[str]) -> None:
    """Run pytest in a row's environment, with its output in a file, and note the result."""
    log = row.directory / f"{step}.log"
    own = {"PATH": f"{row.directory / 'bin'}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": ""}
    started = time.monotonic()
    with log.open("w") as output:
        command = [str(row.directory / "bin/python"), "-m", "pytest", "--color=no", "-rfEs", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | own, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    lines = log.read_text(errors="replace").splitlines()
    row.results[step] = totals(lines, done.returncode)
    row.failed = row.failed or done.returncode != 0
    print(f"{row.name}: {step}: {row.results[step]}, {time.monotonic() - started:.0f} s", flush=True)
    for line in lines:
        if FAILURE.match(line) or (step == "hosts" and line.startswith("SKIPPED")):
            print(f"  {line}", flush=True)
    if done.returncode:
        print(f"  all of it: {log.relative_to(ROOT)}", flush=True)


def totals(lines: Sequence[str], code: int) -> str:
    """Return the numbers of pytest's last line, such as `2 failed, 40 passed`, or its exit code where it has none."""
    last = next((line for line in reversed(lines) if TOTALS.search(line)), "")
    numbers = ", ".join(TOTALS.findall(last))
    if numbers and (code == 0) != bool(re.search("failed|error", numbers)):
        return numbers
    return f"{numbers}, exit code {code}".removeprefix(", ")


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of the table, as Markdown."""
    steps = [*TESTS, *CYCLE]
    yield "| ansible-core | Python | " + " | ".join(steps) + " |"
    yield "|---" * (2 + len(steps)) + "|"
    for row in rows:
        core, _, python = row.installed.partition(" ")
        results = [row.results.get(step, "-") for step in steps] if row.results else ["SKIPPED", *["-"] * len(CYCLE)]
        if not row.interpreter:
            results = [f"SKIPPED: no Python {row.python} here", *["-"] * (len(steps) - 1)]
        yield f"| {core or row.core.version} | {python or row.python} | " + " | ".join(results) + " |"


def run(only: Sequence[str], *, hosts: bool) -> int:
    """Run the tests of the rows that `only` names, print the table, and return the exit code."""
    rows = chosen(only)
    on_hosts = with_cycle(rows) if hosts else set()
    for row in rows:
        if row.interpreter is None:
            print(f"{row.name}: SKIPPED: this machine has no Python {row.python}", flush=True)
            continue
        try:
            install(row)
        except subprocess.CalledProcessError as error:
            row.failed, row.results["unit"] = True, f"not installed, exit code {error.returncode}"
            continue
        for step, arguments in TESTS.items():
            test(row, step, arguments)
        if row.name in on_hosts and not row.failed:
            for step, arguments in CYCLE.items():
                test(row, step, arguments)
    if on_hosts:
        subprocess.run([HOST, "end"], check=False)
    print("", *table(rows), sep="\n")
    if not any(row.results for row in rows):
        print("Nothing ran: install one of these Pythons.", file=sys.stderr)
        return 1
    return int(any(row.failed for row in rows))


def lock(cores: Iterable[Core]) -> None:
    """Resolve the locks of these cores again: their newest patch, a pre-release where there is no final version."""
    LOCKS.mkdir(exist_ok=True)
    for core in cores:
        wanted = (f"ansible=={core.ansible}.*", f"ansible-core=={core.version}.*", *REQUIREMENTS)
        command = [
            *("uv", "pip", "compile", "--quiet", "--upgrade", "--universal", "--python-version", core.pythons[0]),
            *("--generate-hashes", "--no-header", "--no-annotate", "-", "--output-file", str(core.lock)),
        ]
        subprocess.run(command, input="\n".join(wanted), text=True, stdout=subprocess.DEVNULL, check=True)
        pins = core.lock.read_text()
        core.lock.write_text(f"# Made by `tests/cores.py lock {core.version}`.\n{pins}")
        print(core.version, *re.findall(r"^ansible\S*", pins, re.MULTILINE))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run the tests and print a table")
    running.add_argument("--only", nargs="+", default=[], metavar="CORE", help="2.21, or 2.21/3.13: on one Python")
    running.add_argument("--without-hosts", action="store_true", help="leave out what needs a test host")
    locking = commands.add_parser("lock", help="resolve the locks again")
    locking.add_argument("cores", nargs="*", metavar="CORE", help="2.21; all of them unless given")
    arguments = parser.parse_args()
    try:
        if arguments.command == "lock":
            lock(list(dict.fromkeys(row.core for row in chosen(arguments.cores))))
            return 0
        return run(arguments.only, hosts=not arguments.without_hosts)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
