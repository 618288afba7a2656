#!/usr/bin/env python3
"""Measure this collection on test hosts, beside an installation by hand and beside the least that any way needs.

The machine must be prepared (`tests/hosts/prepare`; `make bench` sees to it). Each way gets a fresh host, and downloads
everything again. Prints a table, and writes it to benchmarks/results/latest.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import FrameType
from typing import NoReturn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BIN = Path(sys.executable).parent
SSH_CONFIG = ROOT / ".cache/hosts/ssh_config"
SITE = ROOT / "site.yml"
PRESET = HERE / "plays/preset.yml"
FACTS = HERE / "plays/facts.yml"
FLOW = ROOT / "roles/prefect_flows/files/examples/hello_flow.py"
APT = "Python's venv and pip, from apt"
"""The stage of by_hand.sh that a host with these packages does not need."""

STAGE = re.compile(r"(?:==|PLAY) \[?([^]]+?)\]?(?: \*+)?\n")
"""A line that begins a stage: `== name` of our scripts, and what ansible-playbook says of a play."""

CHANGED = re.compile(r"changed=(\d+)")


@dataclass
class Timing:
    """How long something took, in seconds, and its stages in their order."""

    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


def say(text: str) -> None:
    """Tell the person at the terminal what is going on; standard output is for the table."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def timed(command: Iterable[str | Path], *, input: Path | None = None, unchanged: bool = False) -> Timing:
    """Run a command and time it. Raises SystemExit with its output when it fails, or changes what it should not."""
    began = time.monotonic()
    marks: list[tuple[str, float]] = []
    output = ""
    with (
        (input or Path(os.devnull)).open("rb") as source,
        subprocess.Popen(
            list(map(str, command)),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_FORCE_COLOR": "0"},
        ) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            output += line
            if found := STAGE.fullmatch(line):
                marks.append((found[1], time.monotonic()))
    ended = time.monotonic()
    if process.returncode or (unchanged and set(CHANGED.findall(output)) != {"0"}):
        raise SystemExit(f"{output}\n{shlex.join(map(str, command))}: not as it should be, see above")
    stages = {name: end - at for (name, at), (_, end) in pairwise([*marks, ("", ended)])}
    return Timing(ended - began, stages)


@contextmanager
def hosts(*names: str, image: str) -> Iterator[None]:
    """Provide fresh hosts, and take them down whatever happens."""
    say(f"starting {', '.join(names)}")
    try:
        for name in names:
            subprocess.run([ROOT / "tests/hosts/host", "up", name, image], check=True, stdout=subprocess.DEVNULL)
        yield
    finally:
        subprocess.run([ROOT / "tests/hosts/host", "down", *names], check=True)


def on_host(name: str, command: str, *, input: Path | None = None) -> Timing:
    """Run a shell command on a host, over ssh, as Ansible does."""
    return timed(["ssh", "-F", SSH_CONFIG, f"root@{name}", command], input=input)


def output_of(name: str, command: str) -> str:
    """Run a shell command on a host and return what it prints."""
    ssh = ["ssh", "-F", str(SSH_CONFIG), f"root@{name}", command]
    return subprocess.run(ssh, check=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout


def send(name: str, *files: Path) -> Timing:
    """Copy files to root's home."""
    return timed(["scp", "-q", "-F", SSH_CONFIG, *files, f"root@{name}:"])


def play(
    playbook: Path,
    *,
    servers: list[str],
    others: list[str] | None = None,
    backends: Iterable[str] = (),
    variables: dict[str, object] | None = None,
    unchanged: bool = False,
) -> Timing:
    """Run a playbook on hosts of which some have a server, with `backends` beside it, and all a worker."""
    everything = [*servers, *(others or [])]
    groups = {"prefect_server": servers, "prefect_worker": everything, "prefect_flows": everything}
    groups |= dict.fromkeys(backends, servers)
    inventory = {
        "all": {
            "hosts": {host: {} for host in everything},
            "vars": {
                "ansible_user": "root",
                "ansible_ssh_args": f"-F '{SSH_CONFIG}'",
                "ansible_python_interpreter": "/usr/bin/python3",
                "prefect_ca_bundle": "/etc/ssl/certs/ca-certificates.crt",
            }
            # A worker on another host must reach the server.
            | ({"prefect_server_host": "0.0.0.0"} if others else {})
            | (variables or {}),
            "children": {name: {"hosts": {host: {} for host in members}} for name, members in groups.items()},
        }
    }
    # Secrets that are generated come beside the inventory.
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "hosts.json")
        file.write_text(json.dumps(inventory))
        return timed([BIN / "ansible-playbook", "--inventory", file, playbook], unchanged=unchanged)


def shipped_lock() -> Path:
    """Return the lock that the roles install by default."""
    defaults = (ROOT / "roles/prefect/defaults/main.yml").read_text()
    found = re.search(r"^prefect_version: (\S+)$", defaults, re.MULTILINE)
    assert found, "roles/prefect/defaults/main.yml names prefect_version"
    return ROOT / f"roles/prefect/files/locks/{found[1]}.txt"


def collection(host: str) -> Timing:
    return play(SITE, servers=[host])


def by_hand(host: str, *arguments: str) -> Timing:
    with tempfile.TemporaryDirectory() as directory:
        lock = Path(directory, "lock.txt")
        lock.write_text(shipped_lock().read_text())
        send(host, lock, FLOW, HERE / "by_hand.sh")
    return on_host(host, shlex.join(["bash", "by_hand.sh", *arguments]))


def floor(host: str) -> Timing:
    with tempfile.TemporaryDirectory() as directory:
        lock = Path(directory, "lock.txt")
        lock.write_text(shipped_lock().read_text())
        send(host, lock, FLOW, HERE / "floor.py")
    sent = send(host, BIN / "uv")
    rest = on_host(host, "python3 floor.py")
    return Timing(sent.seconds + rest.seconds, {"uv to the host": sent.seconds} | rest.stages)


WAYS: dict[str, Callable[[str], Timing]] = {"this collection": collection, "by hand": by_hand, "floor": floor}


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table; numbers are seconds."""

    def line(cells: Iterable[object]) -> str:
        return f"| {' | '.join(f'{cell:.1f}' if isinstance(cell, float) else str(cell) for cell in cells)} |"

    head = list(head)
    return "\n".join([line(head), line(["---"] + ["---:"] * (len(head) - 1)), *map(line, rows)])


def middle(timings: list[Timing]) -> float:
    return median(timing.seconds for timing in timings)


def described(timings: list[Timing]) -> str:
    """Return the stages of the run that took the median time, or the one above."""
    timing = sorted(timings, key=lambda timing: timing.seconds)[len(timings) // 2]
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in timing.stages.items())


def first_run(*, runs: int, image: str) -> str:
    """Measure from a bare host to the first completed flow run."""
    timings: dict[str, list[Timing]] = {name: [] for name in WAYS}
    for number in range(runs):
        for name, way in WAYS.items():
            with hosts("bench", image=image):
                say(f"first run, {name}, {number + 1} of {runs}")
                timings[name].append(way("bench"))
                say(f"{timings[name][-1].seconds:.1f} s")
    spared = [Timing(timing.seconds - timing.stages[APT]) for timing in timings["by hand"]]
    us, hand, least = (middle(timings[name]) for name in WAYS)
    rows = [
        ["this collection: `site.yml`", us, 1.0, described(timings["this collection"])],
        ["by hand", hand, hand / us, described(timings["by hand"])],
        ["by hand, where venv and pip are", middle(spared), middle(spared) / us, ""],
        ["floor", least, least / us, described(timings["floor"])],
    ]
    head = ["from a bare host to the first completed flow run", "s", "relative to this collection", "stages, s"]
    text = table(head, rows)
    return f"{text}\n\nBy hand / this collection: {hand / us:.2f}. This collection / floor: {us / least:.2f}."


def second_run(*, runs: int, image: str) -> str:
    """Measure runs that change nothing, and a play that does nothing."""
    with hosts("bench", image=image):
        say("second run: setting up")
        play(SITE, servers=["bench"])
        timings: dict[str, list[Timing]] = {
            "a play that only gathers facts": [],
            "`site.yml`": [],
            "`preset: prefect`": [],
        }
        for number in range(runs):
            for name, playbook in zip(timings, (FACTS, SITE, PRESET), strict=True):
                say(f"second run, {name}, {number + 1} of {runs}")
                timings[name].append(play(playbook, servers=["bench"], unchanged=True))
                say(f"{timings[name][-1].seconds:.1f} s")
    least = middle(timings["a play that only gathers facts"])
    rows = [[name, middle(times), middle(times) - least] for name, times in timings.items()]
    return table(["one host with server, worker and flows, nothing to change", "s", "more than facts"], rows)


def growth(*, runs: int, image: str, sizes: list[int]) -> str:
    """Measure how the time grows with the number of hosts."""
    shapes: dict[str, Callable[[list[str]], Timing]] = {
        "one server, N - 1 workers": lambda names: play(SITE, servers=names[:1], others=names[1:]),
        "N times `preset: prefect`": lambda names: play(PRESET, servers=names),
    }
    rows = []
    for shape, put in shapes.items():
        seconds = []
        for count in sizes:
            names = [f"bench-{number}" for number in range(1, count + 1)]
            timings = []
            for number in range(runs):
                with hosts(*names, image=image):
                    say(f"{shape}, N = {count}, {number + 1} of {runs}")
                    timings.append(put(names))
                    say(f"{timings[-1].seconds:.1f} s")
            seconds.append(middle(timings))
        rows.append([shape, *seconds, (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])])
    head = [f"N = {sizes[0]}, s", *map(str, sizes[1:]), "each further host"]
    return table(["bare hosts, all on this one machine", *head], rows)


def collection_on_postgres(host: str) -> Timing:
    return play(SITE, servers=[host], backends=["prefect_postgres"])


def collection_with_several_processes(host: str) -> Timing:
    backends = ["prefect_postgres", "prefect_redis"]
    return play(SITE, servers=[host], backends=backends, variables={"prefect_server_processes": 2})


LOAD_ROUNDS = 3
LOADED: dict[str, Callable[[str], Timing]] = {
    "this collection, PostgreSQL": collection_on_postgres,
    "this collection, PostgreSQL, Redis, 2 processes": collection_with_several_processes,
    "by hand, defaults on SQLite": by_hand,
    "by hand, several servers as documented": lambda host: by_hand(host, "several"),
}


def load(*, runs: int, image: str) -> str:
    """Measure flow runs and requests under load, in turns on hosts that are all there: what disturbs weighs on each."""
    places = {name: f"bench-{number}" for number, name in enumerate(LOADED, start=1)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LOADED}
    with hosts(*places.values(), image=image):
        for name, way in LOADED.items():
            say(f"load: setting up {name}")
            way(places[name])
            send(places[name], HERE / "load.py")
        for number in range(LOAD_ROUNDS * runs):
            for name, host in places.items():
                say(f"load, {name}, round {number + 1} of {LOAD_ROUNDS * runs}")
                found[name].append(json.loads(output_of(host, "python3 load.py")))
                say(json.dumps(found[name][-1]))
    head = ["one host, 8 clients", "flow runs a minute"]
    head += [f"{kind}: {what}" for kind in ("reads", "writes") for what in ("a second", "p50 / p99, ms", "refused")]
    return table(head, [loaded(name, rounds) for name, rounds in found.items()])


def loaded(name: str, rounds: list[dict[str, float]]) -> list[object]:
    """Return a row of the table: the medians of all rounds, and what was refused in all of them."""
    value = {key: median(one[key] for one in rounds) for key in rounds[0]}
    row: list[object] = [name, value["flow runs"]]
    for kind in ("read", "write"):
        times = " / ".join(f"{value[f'{kind} {key}'] * 1000:.0f}" for key in ("p50", "p99"))
        row += [value[f"{kind} a second"], times, int(sum(one[f"{kind} refused"] for one in rounds))]
    return row


PARTS: dict[str, Callable[..., str]] = {"a": first_run, "b": second_run, "c": growth, "f": load}
SIZES = "1,2,3,4"


def machine() -> str:
    """Describe the machine that measures and that all hosts run on."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GB of memory, load {os.getloadavg()[0]:.1f} before the first run"


def give_up(number: int, frame: FrameType | None) -> NoReturn:
    """Let `finally` take the hosts down when we are told to end."""
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="a,b,c,f", help="parts to measure: %(default)s; c takes the longest")
    parser.add_argument("--runs", type=int, default=1, help="times to measure each; the median counts (%(default)s)")
    parser.add_argument("--sizes", default=SIZES, help="numbers of hosts in c, two at least: %(default)s")
    parser.add_argument("--image", default="debian12", help="image of the hosts: debian12 or debian13")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    more = {"c": {"sizes": [int(size) for size in arguments.sizes.split(",")]}}
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}, but {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, give_up)
    texts = [f"{arguments.image} hosts, {arguments.runs} run(s), on {machine()}."]
    texts += [PARTS[part](runs=arguments.runs, image=arguments.image, **more.get(part, {})) for part in parts]
    report = "\n\n".join(texts) + "\n"
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "latest.md").write_text(report)
    print(report)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench: interrupted; the hosts are gone")
