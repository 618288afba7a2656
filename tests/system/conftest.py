"""The host of a test file, in the state that the file asks for.

A test file takes one of these fixtures, each for the whole file, and so depends on no other file:

    host      a bare host
    sqlite    server, worker and the examples on SQLite, by default variables, after a completed run of hello-flow
    older     the same with an older release, which can be upgraded
    host_in   a function that starts the host in any `State` of states.py, or one of the file's own, again and again

A state is made at most once, saved, and started from in seconds: see states.py. With PREFECT_TEST_KEEP=1 the hosts stay
up after the tests.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from real_host import NAME, ROOT, Host
from states import BARE, KEEP, OLDER, SQLITE, TOOL, State, start


@pytest.fixture(scope="session")
def prepared() -> None:
    """The machine, able to run test hosts."""
    done = subprocess.run([ROOT / "tests/hosts/prepare"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip((done.stdout + done.stderr).strip())


@pytest.fixture(scope="module")
def host_in(prepared: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[State], Host]]:
    """What starts the host in a state, in place of the one that is up."""
    try:
        yield lambda state: start(state, tmp_path_factory.mktemp("runs"))
    finally:
        if not KEEP:
            subprocess.run([TOOL, "down", NAME], check=True)


@pytest.fixture(scope="module")
def host(host_in: Callable[[State], Host]) -> Host:
    """A bare host."""
    return host_in(BARE)


@pytest.fixture(scope="module")
def sqlite(host_in: Callable[[State], Host]) -> Host:
    """A host with server, worker and examples on SQLite."""
    return host_in(SQLITE)


@pytest.fixture(scope="module")
def older(host_in: Callable[[State], Host]) -> Host:
    """A host with server, worker and examples on SQLite, and a release that can be upgraded."""
    return host_in(OLDER)
