"""Real Prefect servers, with authentication and CSRF protection, one for each release.

PREFECT_TEST_PYTHONS names the Python of each release, separated by colons. The servers keep their data in SQLite, or in
the empty PostgreSQL database of PREFECT_TEST_DATABASE_URL.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from ansible_collections.selfhosted.prefect.plugins.module_utils.api import Api, Failure

PYTHONS = [Path(python) for python in os.environ.get("PREFECT_TEST_PYTHONS", "").split(":") if python]
RELEASES: list[Path | None] = [*PYTHONS] or [None]
AUTH = "admin:s3cret"
SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class PrefectServer:
    """A server: its address and its version, such as `(3, 9, 1)`."""

    url: str
    version: tuple[int, ...]

    def api(self) -> Api:
        return Api(self.url, auth=AUTH, csrf=True)


@pytest.fixture(scope="session", params=RELEASES, ids=lambda python: str(python and python.parents[1].name))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    python: Path | None = request.param
    if python is None:
        pytest.skip("PREFECT_TEST_PYTHONS is not set: name the Pythons of Prefect releases")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}/api"
    home = tmp_path_factory.mktemp("home")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))},
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_API_AUTH_STRING": AUTH,
        "PREFECT_SERVER_API_AUTH_STRING": AUTH,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    if database := os.environ.get("PREFECT_TEST_DATABASE_URL"):
        environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
    command = [str(python.with_name("prefect")), "--no-prompt", "server", "start", "--port", port]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        with Api(url, auth=AUTH) as api:
            deadline = time.monotonic() + SECONDS
            while not ready(api):
                assert process.poll() is None, (home / "server.log").read_text()
                assert time.monotonic() < deadline, f"the server was not ready within {SECONDS:.0f} s"
                time.sleep(0.5)
            version = tuple(int(part) for part in str(api.get("/admin/version")).split(".")[:3])
        yield PrefectServer(url=url, version=version)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def ready(api: Api) -> bool:
    try:
        api.get("/ready")
    except Failure:
        return False
    return True
