#!/usr/bin/env python
"""Run the test suites or a part of them, and report how long each of them took.

    tests/suites.py run                      `make check`, and all suites but for what LONG names
    tests/suites.py run --all                `make check`, all suites, and each release with each database
    tests/suites.py run --only PART...       SUITE or SUITE/NAME: system, system/proxy, molecule/default, unit/files
    tests/suites.py run --changed            `make check`, and what can be affected by files that differ from the commit
    tests/suites.py times                    the last run beside the one before it
    tests/suites.py count [COMMIT]           the tests and assertions of each suite, now and in that commit

`--keep` leaves test hosts running, and uses those that an earlier run kept.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

import yaml

ROOT = Path(__file__).resolve().parents[1]
TIMES = ROOT / ".cache" / "times"
PREPARE = ROOT / "tests" / "hosts" / "prepare"
HOST = ROOT / "tests" / "hosts" / "host"

SUITES = ("system", "molecule", "api", "flows", "preset", "local", "unit")
"""The longest first: two run at a time."""

LONG = (
    *("system/definitions", "system/killed", "system/molecule", "system/others", "system/redhat"),
    *("molecule/databases", "molecule/two_hosts"),
)
"""What only `--all` runs, or one who asks for it by name or by a change: CI ends a run after 90 minutes."""

WITH_HOSTS = {"system", "molecule"}
SLOWEST = 20

ALL_BUT_UNIT = tuple(suite for suite in SUITES if suite != "unit")
PROXY = (
    *("system/alerts", "system/browser", "system/inventories", "system/proxy", "system/several"),
    *("molecule/platform", "local/nginx_trial"),
)
DEFINITIONS = ("flows", "local/definitions_module", "local/scale", "system/definitions", "system/inventories")
OBJECTS = ("api", "flows/examples", "system", "molecule")

AFFECTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # What `make matrix` covers.
    (r"tests/system/cycle\.py|requirements/cores/.*", ()),
    (r"tests/(system|api|flows|preset|local)/test_(\w+)\.py", (r"\1/\2",)),
    (r"tests/system/proxy/.*", ("system/proxy",)),
    (r"tests/system/browser\.py", ("system/browser",)),
    (r"tests/(system|api|flows|preset|local)/.*", (r"\1",)),
    (r"tests/hosts/.*|\.config/.*", ("system", "molecule")),
    (r"tests/local_servers\.py", ("api", "flows")),
    (r"tests/canaries\.py", ("preset/playbooks", "system/several")),
    (r"molecule/shared/manifest\.py", ("system", "molecule")),
    (r"molecule/shared/faults/.*|molecule/shared/(tasks/)?\w+\.yml", ("molecule",)),
    (r"molecule/(\w+)/.*", (r"molecule/\1",)),
    (r"docs/examples/.*", ("api", "flows", "system/definitions", "system/inventories", "system/operations")),
    (r"inventories/.*", ("system/inventories", "local/derived")),
    (r"presets/.*|plugins/(action/preset|modules/preset|plugin_utils/preset_\w+)\.py", ("preset", "molecule/default")),
    (r"roles/prefect_definitions/.*|plugins/(\w+/)?(host_)?definitions\.py|playbooks/definitions\w*\.yml", DEFINITIONS),
    (r"roles/prefect_celery/.*|roles/prefect/files/locks/celery/.*", DEFINITIONS),
    (r"roles/prefect_proxy/.*|templates/etc/nginx/.*|playbooks/maintenance\.yml", PROXY),
    (r"plugins/((action|modules)/host_nginx|filter/proxies|lookup/certificate|plugin_utils/certificates)\.py", PROXY),
    (r"roles/prefect_flows/.*", ("flows/examples", "system", "molecule")),
    (r"roles/prefect_resources/.*", ("api", "system/operations", "system/definitions", "system/inventories")),
    (r"plugins/(action|filter|lookup)/.*", ("api", "local", "preset", "system", "molecule")),
    (r"plugins/plugin_utils/(connections|platform)\.py", ("api", "local", "preset", "system", "molecule")),
    (r"plugins/module_utils/onhost/.*", ("api", "flows", "local", "system", "molecule")),
    (r"plugins/(modules|module_utils|doc_fragments|plugin_utils)/.*", ("local", "preset", *OBJECTS)),
    (r"roles/.*|templates/.*|playbooks/.*|site\.yml|meta/.*", ALL_BUT_UNIT),
    (r"ansible\.cfg|galaxy\.yml|pyproject\.toml|requirements/.*|Makefile", SUITES),
    # What `make check` covers, which always runs first.
    (r"tests/unit/(fake_\w+|all_kinds|matrix)\.py", ("api", "local")),
    (r"tests/conftest\.py", ALL_BUT_UNIT),
    (r"tests/suites\.py", ("local/suites",)),
    (r"tests/(unit|sanity)/.*|tests/(lint|syntax|cores|galaxy)\.py|tests/config\.yml", ()),
    (r"docs/[^/]+|docs/(templates|site)/.*|[A-Z]+\.md|changelogs/.*|benchmarks/.*|LICENSE", ()),
    (r"\.(ansible-lint|yamllint|gitignore)|\.(ci|github|collections)/.*", ()),
)
"""Pattern of a path -> the parts that a change of it can affect; the first row that matches counts."""

COLLECTED = re.compile(r"(collecting \.\.\. )?collected \d+ item")
TEST = re.compile(r"(tests/\S+\.py::.+?)(?: (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b.*| (?:make.*)?)?$")
EXECUTING = re.compile(r"(\w+) ➜ (\w+): Executing")
EXECUTED = re.compile(r"(\w+) ➜ (\w+): Executed")
TASK = re.compile(r"TASK \[(.+?)\]")
FATAL = re.compile(r"(fatal|failed): \[")
SUMMARY = re.compile(r"(?:FAILED|ERROR) (tests/\S+\.py.*)")
WIDTH = 200
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def fail(message: str) -> NoReturn:
    """End with a message that says what to do, and the exit code of a wrong call."""
    print(message, file=sys.stderr)
    sys.exit(2)


def parts() -> dict[str, str]:
    """Map each part that can be run to what its suite's command is called with."""
    found = dict.fromkeys(SUITES, "")
    for suite in SUITES:
        found |= {
            f"{suite}/{path.stem.removeprefix('test_')}": str(path.relative_to(ROOT))
            for path in sorted((ROOT / "tests" / suite).glob("test_*.py"))
        }
    return found | {
        f"molecule/{path.parent.name}": f"--scenario-name={path.parent.name}"
        for path in sorted((ROOT / "molecule").glob("*/molecule.yml"))
    }


def canonical(name: str, known: Iterable[str]) -> str:
    """Return the part that a person means by `name`, with pytest's `::test` kept; ValueError says what exists."""
    part, _, test = name.strip("/").partition("::")
    suite, _, rest = part.removeprefix("tests/").removesuffix(".py").partition("/")
    part = f"{suite}/{rest.removeprefix('test_')}" if rest else suite
    if part not in known:
        near = difflib.get_close_matches(part, known, n=5) or [other for other in known if rest and rest in other]
        these = near or list(known)
        raise ValueError(
            f"ONLY={name}: there is no such part. {'Near it' if near else 'These exist'}: {' '.join(these)}"
        )
    return f"{part}::{test}" if test else part


def affected(paths: Iterable[str]) -> list[str]:
    """Return the parts that a change of these files can affect; ValueError names a path that no row matches."""
    found: set[str] = set()
    for path in paths:
        for pattern, names in AFFECTS:
            if match := re.fullmatch(pattern, path):
                found |= {match.expand(name) for name in names}
                break
        else:
            raise ValueError(f"no row of AFFECTS in tests/suites.py matches {path}: add what a change of it affects")
    return [part for part in sorted(found) if part in SUITES or part.partition("/")[0] not in found]


def changed() -> list[str]:
    """List the files that differ from the last commit, those that are not tracked included."""
    commands = (
        ("git", "diff", "--name-only", "--no-renames", "HEAD"),
        ("git", "ls-files", "--others", "--exclude-standard"),
    )
    return [path for command in commands for path in output(*command).splitlines()]


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


@dataclass
class Suite:
    """A suite or a part of it: how it is run, and afterwards what it took, in seconds."""

    name: str
    targets: list[str] = field(default_factory=list)
    seconds: float = 0
    processor: float = 0
    hosts: float | None = None
    code: int = 0
    steps: list[tuple[str, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self, *, labelled: bool, keep: bool) -> None:
        """Run it, with each line of its output labelled where several suites run."""
        before = hosts_processor_time(self.name)
        started = time.monotonic()
        process = subprocess.Popen(
            self.command(keep=keep),
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout
        lines = []
        for line in process.stdout:
            print(f"{self.name} | {line}" if labelled else line, end="", flush=True)
            lines.append((time.monotonic(), COLOURS.sub("", line)))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = self.code = os.waitstatus_to_exitcode(status)
        self.seconds = time.monotonic() - started
        self.processor = usage.ru_utime + usage.ru_stime
        self.steps = [*pytest_steps(lines), *molecule_steps(lines)]
        said = [line for _, line in lines]
        self.failures = [*pytest_failures(said), *molecule_failures(said)]
        if self.code and not self.failures:
            self.failures = [f"{self.name} - {last_words(said)}"]
        after = hosts_processor_time(self.name)
        if after is not None:
            self.hosts = after - (before or 0)
            self.processor += self.hosts

    def command(self, *, keep: bool) -> list[str]:
        if self.name == "check":
            return ["make", "--no-print-directory", "check"]
        targets = [f"TESTS={' '.join(self.targets)}"] if self.targets else []
        return ["make", "--no-print-directory", f"test-{self.name}", *targets, f"KEEP={int(keep)}"]

    def environment(self) -> dict[str, str]:
        # A make that is called here must not take itself for a part of the one that called us.
        inherited = {
            name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
        }
        return inherited | {"PREFECT_TEST_SUITE": self.name, "PYTHONUNBUFFERED": "1"}


def pytest_steps(lines: Iterable[tuple[float, str]]) -> Iterator[tuple[str, float]]:
    """Yield each test with its seconds, its first use of fixtures included; the one that a killed run was at, too."""
    before = None
    for moment, line in lines:
        if (match := TEST.match(line)) and before is not None:
            place, _, test = match[1].removeprefix("tests/").partition(".py::")
            yield f"{place}::{test}" + ("" if match[2] else " (unfinished)"), moment - before
        if match or COLLECTED.match(line):
            before = moment


def molecule_steps(lines: Iterable[tuple[float, str]]) -> Iterator[tuple[str, float]]:
    """Yield each step of each scenario with its seconds, from when the lines were written that begin and end it."""
    began: tuple[str, float] | None = None
    for moment, line in lines:
        if match := EXECUTING.search(line):
            began = f"molecule/{match[1]}::{match[2]}", moment
        elif began and EXECUTED.search(line):
            yield began[0], moment - began[1]
            began = None


def pytest_failures(lines: Iterable[str]) -> Iterator[str]:
    """Yield what pytest's summary says of each test that failed: its name and the first line of its error."""
    for line in lines:
        if match := SUMMARY.match(line):
            yield match[1].removeprefix("tests/")[:WIDTH]


def molecule_failures(lines: Iterable[str]) -> Iterator[str]:
    """Yield each step of a scenario that failed, with the last task that failed in it."""
    task, failed, found = "", "", set()
    for line in lines:
        if match := TASK.search(line):
            task = match[1]
        elif FATAL.search(line):
            failed = task
        elif EXECUTING.search(line):
            failed = ""
        elif (match := EXECUTED.search(line)) and ": Failed" in line and match[0] not in found:
            found.add(match[0])
            yield f"molecule/{match[1]}::{match[2]} - {failed}"[:WIDTH]


def last_words(lines: Iterable[str]) -> str:
    """Return the last line of a suite that failed before any test did, without what make adds."""
    words = [line.strip() for line in lines if line.strip() and not line.startswith("make")]
    return words[-1][:WIDTH] if words else "it said nothing"


def hosts_processor_time(suite: str) -> float | None:
    """Return the seconds that hosts of a suite have used a processor so far, None where that cannot be told."""
    if suite not in WITH_HOSTS:
        return None
    measured: float | None = runpy.run_path(str(PREPARE))["processor_time"](suite)
    return measured


def busy() -> tuple[float, float]:
    """Return the processor seconds of the whole machine so far: busy, and all."""
    numbers = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    ticks = os.sysconf("SC_CLK_TCK")
    return (sum(numbers) - idle) / ticks, sum(numbers) / ticks


def without_long(known: Iterable[str]) -> list[str]:
    """Return all suites but unit, which `make check` runs; one of which a part is long, as its other parts."""
    divided = {part.partition("/")[0] for part in LONG}
    whole = [suite for suite in SUITES if suite != "unit" and suite not in divided]
    return whole + [part for part in known if "/" in part and part.partition("/")[0] in divided and part not in LONG]


def chosen(only: list[str], *, by_change: bool, everything: bool = False) -> list[Suite]:
    """Return the suites to run, with the targets that were asked for."""
    known = parts()
    if by_change:
        paths = changed()
        names = affected(paths)
        print(
            f"{len(paths)} files differ from the last commit; they can affect: {' '.join(names) or 'nothing but check'}"
        )
    else:
        every = [suite for suite in SUITES if suite != "unit"]
        names = [canonical(name, known) for name in only] or (every if everything else without_long(known))
    targets: dict[str, list[str]] = defaultdict(list)
    whole = {name for name in names if name in SUITES}
    for name in names:
        part, _, test = name.partition("::")
        suite = part.partition("/")[0]
        targets[suite] += [] if suite in whole else [f"{known[part]}::{test}" if test else known[part]]
    return [Suite(suite, targets[suite]) for suite in SUITES if suite in targets]


def run(only: list[str], *, by_change: bool, keep: bool, everything: bool = False) -> int:
    """Run the suites and print their times; return the exit code of the first one that failed."""
    try:
        suites = chosen(only, by_change=by_change, everything=everything)
    except ValueError as error:
        fail(str(error))
    if keep:
        os.environ["PREFECT_TEST_KEEP"] = "1"
    if everything:
        os.environ["PREFECT_TEST_ALL"] = "1"
    # A run that receives SIGTERM removes its hosts all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began, used, finished = time.monotonic(), busy(), []
    check = [] if only else [Suite("check")]
    try:
        for suite in check:
            finished.append(suite)
            suite.run(labelled=False, keep=keep)
        if not any(suite.code for suite in finished):
            if any(suite.name in WITH_HOSTS for suite in suites):
                subprocess.run([PREPARE], check=True)
            finished += suites
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda suite: suite.run(labelled=len(suites) > 1, keep=keep), suites))
    except subprocess.CalledProcessError as error:
        return error.returncode
    finally:
        if not keep and any(suite.name in WITH_HOSTS for suite in finished):
            subprocess.run([HOST, "end"], check=False)
        now = busy()
        record = {
            "commit": output("git", "describe", "--always", "--dirty").strip(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "processors": os.cpu_count(),
            "seconds": time.monotonic() - began,
            "busy": (now[0] - used[0]) / max(now[1] - used[1], 0.01),
            "suites": [asdict(suite) for suite in finished],
        }
        TIMES.mkdir(parents=True, exist_ok=True)
        (TIMES / f"{time.time_ns()}.json").write_text(json.dumps(record, indent=1))
        print("", *table(record), sep="\n")
    return next((suite.code for suite in finished if suite.code), 0)


def table(record: dict[str, Any], before: dict[str, Any] | None = None) -> Iterator[str]:
    """Yield the lines of a run's table, with the difference from the run before it where there is one."""
    yield (
        f"{record['commit']}, {record['date']}, {record['processors']} processors {record['busy']:.0%} busy, "
        f"{minutes(record['seconds'])} minutes"
    )
    if before:
        yield f"compared with {before['commit']}, {before['date']}, {minutes(before['seconds'])} minutes"
    yield "Processor minutes: user and system time of a suite's processes and, where control groups count it, of its"
    yield "hosts."
    old = {suite["name"]: suite for suite in (before or {}).get("suites", ())}
    yield f"\n{'suite':10}{'minutes':>16}{'processor minutes':>24}{'of which hosts':>16}  result"
    for suite in record["suites"]:
        previous = old.get(suite["name"], {})
        hosts = "-" if suite["hosts"] is None else minutes(suite["hosts"])
        took = minutes(suite["seconds"]) + difference(suite["seconds"], previous.get("seconds"))
        processor = minutes(suite["processor"]) + difference(suite["processor"], previous.get("processor"))
        result = "passed" if suite["code"] == 0 else f"failed ({suite['code']})"
        yield f"{suite['name']:10}{took:>16}{processor:>24}{hosts:>16}  {result}"
    steps = [step for suite in record["suites"] for step in suite["steps"]]
    earlier = {name: seconds for suite in old.values() for name, seconds in suite["steps"]}
    yield f"\nThe {SLOWEST} slowest tests and scenario steps, in minutes"
    for name, seconds in sorted(steps, key=lambda step: -step[1])[:SLOWEST]:
        yield f"{minutes(seconds):>6}{difference(seconds, earlier.get(name)):>10}  {name}"
    # Last, because a CI service may show only the end of a long log.
    failures = [failure for suite in record["suites"] for failure in suite.get("failures", ())]
    if failures:
        yield f"\n{len(failures)} failed"
        yield from (f"  {failure}" for failure in failures)


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def difference(now: float, before: float | None) -> str:
    return "" if before is None else f" ({(now - before) / 60:+.1f})"


def times() -> int:
    """Print the last run's table beside the one before it."""
    records = [json.loads(file.read_text()) for file in sorted(TIMES.glob("*.json"))[-2:]]
    if not records:
        fail("no run was recorded yet: `make test` records its times")
    print(*table(records[-1], records[0] if len(records) > 1 else None), sep="\n")
    return 0


def count(root: Path) -> dict[str, tuple[int, int]]:
    """Return how many tests each suite of a tree has, as pytest collects them or as steps, and how many assertions."""
    found = {}
    for suite in SUITES:
        if suite == "molecule":
            scenarios = len(list((root / "molecule").glob("*/molecule.yml")))
            found[suite] = scenarios, sum(map(count_that, (root / "molecule").rglob("*.yml")))
            continue
        place = root / "tests" / suite
        command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "--quiet", str(place)]
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
        tests = sum(int(number) for number in re.findall(r"\.py: (\d+)$", listed, re.MULTILINE))
        found[suite] = tests, sum(map(count_asserts, place.rglob("*.py"))) + sum(map(count_that, place.rglob("*.yml")))
    return found


def count_asserts(file: Path) -> int:
    return sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def count_that(file: Path) -> int:
    """Count the conditions of assert tasks in a YAML file, at any depth."""

    class Loader(yaml.SafeLoader):
        """Loads a file with tags of Ansible's own."""

    Loader.add_multi_constructor("!", lambda *_: None)

    def conditions(node: Any) -> int:
        if isinstance(node, list):
            return sum(map(conditions, node))
        if not isinstance(node, dict):
            return 0
        own = node.get("ansible.builtin.assert")
        that = own.get("that", []) if isinstance(own, dict) else []
        return (len(that) if isinstance(that, list) else 1) + sum(map(conditions, node.values()))

    return sum(map(conditions, yaml.load_all(file.read_text(encoding="utf-8"), Loader)))


def compare(commit: str | None) -> int:
    """Print the tests and assertions of each suite, beside those of a commit."""
    now, then = count(ROOT), {}
    if commit:
        with tempfile.TemporaryDirectory() as scratch:
            archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(archive)) as files:
                files.extractall(scratch, filter="fully_trusted")
            then = count(Path(scratch))
    print(
        f"{'suite':10}{'tests':>8}{'assertions':>12}"
        + (f"   in {commit}:{'tests':>8}{'assertions':>12}" if then else "")
    )
    for suite, (tests, assertions) in now.items():
        before = "{:>{width}}{:>12}".format(*then[suite], width=len(str(commit)) + 15) if then else ""
        print(f"{suite:10}{tests:>8}{assertions:>12}{before}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--only", nargs="+", default=[], metavar="PART")
    running.add_argument("--changed", action="store_true")
    running.add_argument("--all", action="store_true")
    running.add_argument("--keep", action="store_true")
    commands.add_parser("times")
    commands.add_parser("count").add_argument("commit", nargs="?")
    arguments = parser.parse_args()
    if arguments.command == "times":
        return times()
    if arguments.command == "count":
        return compare(arguments.commit)
    if arguments.only and arguments.changed:
        fail("ONLY and CHANGED exclude each other: set one of them")
    return run(arguments.only, by_change=arguments.changed, keep=arguments.keep, everything=arguments.all)


if __name__ == "__main__":
    sys.exit(main())
