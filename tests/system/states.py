"""States of a test host, such as "server and worker on SQLite", each made once, saved as an image, and started from it.

A state is made from another one by a run of a playbook. Its image is named after a digest of all that decides what is
on such a host, so it is made again exactly when one of those has changed, and kept in `.cache/hosts` until then.

What a saved host brings along: it was stopped and boots again, so its services start, /run is empty, and no timer has
missed a run. It keeps its name, for Prefect knows workers by that, and gets another address. Hosts of one state share
their machine id. The controller's secrets are saved with it and copied for each host.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from real_host import IMAGE, NAME, ROOT, Host, Variables

TOOL = ROOT / "tests/hosts/host"
PODMAN = ROOT / ".venv/bin/podman"
CACHE = ROOT / ".cache/hosts/states"
KEEP = os.environ.get("PREFECT_TEST_KEEP") == "1"
"""Whether hosts stay up after the tests, to be looked at; the next run replaces them."""

MADE_OF = (
    *("ansible.cfg", "playbooks", "plugins", "presets", "requirements", "roles", "site.yml", "templates"),
    *(".config/molecule/config.yml", "tests/hosts", "tests/system/real_host.py", "tests/system/states.py"),
)
"""The files and directories that decide what is on a host when a playbook has run."""

HEALTHY = "timeout 300 sh -c 'until prefect-info --json > /dev/null; do sleep 0.5; done'"


@dataclass(frozen=True)
class State:
    """What a host is in: `after` another state, a run of site.yml with `variables` and `groups`, and a command.

    Later runs have the variables of the last state as well.
    `ready` is a command that ends when the host is in its state, after it has booted.
    """

    name: str
    after: State | None = None
    variables: Variables = field(default_factory=dict)
    groups: dict[str, list[str]] | None = None
    then: str = "true"
    ready: str = "true"


BARE = State("bare")

SQLITE = State("sqlite", after=BARE, ready=HEALTHY)
"""Server, worker and the examples on SQLite, all by default; one run of hello-flow has completed."""

OLDER = State("older", after=BARE, variables={"prefect_version": "3.8.8"}, ready=HEALTHY)
"""The same with a release that can be upgraded."""


def output_of(*command: str | Path) -> str:
    """Return what a command writes."""
    return str(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@functools.lru_cache
def made_of() -> str:
    """Return a digest of all files that a state is made of."""
    listed = output_of("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *MADE_OF)
    digest = hashlib.sha256()
    for name in sorted(filter(None, listed.split("\0"))):
        path = ROOT / name
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes() if path.exists() else b""
        digest.update(os.fsencode(name) + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def image_of(state: State) -> str:
    """Return the name of the image that hosts in a state start from."""
    if state.after is None:
        return str(IMAGE)
    base = output_of(PODMAN, "image", "inspect", "--format={{.Id}}", f"localhost/{IMAGE}")
    facts = [image_of(state.after), base, state.variables, state.groups, state.then, made_of()]
    return f"state-{state.name}:{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time make a state."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(state: State) -> str:
    """Make a state where it is missing, save it, and return its image."""
    image = image_of(state)
    if state.after is None:
        return image
    with locked(state.name):
        if not subprocess.run([PODMAN, "image", "exists", f"localhost/{image}"], check=False).returncode:
            return image
        kept = CACHE / image.replace(":", "-")
        shutil.rmtree(kept, ignore_errors=True)
        host = start(state.after, kept)
        ended = host.play(variables=state.variables, groups=state.groups)
        assert ended.rc == 0, ended.output
        host.sh(state.then)
        subprocess.run([TOOL, "save", NAME, image], check=True)
        forget_others(state, image)
    return image


def forget_others(state: State, image: str) -> None:
    """Remove what the state was before; what a host still runs from stays until the next time."""
    for name in output_of(PODMAN, "images", "--format={{.Repository}}:{{.Tag}}").split():
        if name.startswith(f"localhost/state-{state.name}:") and name != f"localhost/{image}":
            subprocess.run([PODMAN, "rmi", name], capture_output=True, check=False)
    for directory in CACHE.glob(f"state-{state.name}-*"):
        if directory.is_dir() and directory.name != image.replace(":", "-"):
            shutil.rmtree(directory)


def start(state: State, scratch: Path) -> Host:
    """Start the host in a state, in place of the one that is up."""
    image = make(state)
    scratch.mkdir(parents=True, exist_ok=True)
    saved = CACHE / image.replace(":", "-") / ".secrets"
    if state.after is not None and saved.exists():
        shutil.copytree(saved, scratch / ".secrets")
    subprocess.run([TOOL, "up", NAME, image], check=True)
    host = Host(scratch=scratch)
    host.common |= state.variables
    host.sh(state.ready)
    return host
