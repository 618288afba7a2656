"""A real Prefect server with a worker, for the tests beside this file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from local_servers import free_port, serve_launcher

PYTHON = Path(os.environ.get("PREFECT_TEST_PYTHON", ""))
SECONDS = 180.0
END = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

needs_release = pytest.mark.skipif(
    "PREFECT_TEST_PYTHON" not in os.environ,
    reason="PREFECT_TEST_PYTHON is not set: name the Python of a Prefect release",
)


class Api:
    """A Prefect server's REST API, at `url`, with the credential of PREFECT_API_AUTH_STRING if there is one."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if credential := os.environ.get("PREFECT_API_AUTH_STRING"):
            headers["Authorization"] = f"Basic {b64encode(credential.encode()).decode()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        for _ in range(10):
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as response:
                    text = response.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                # SQLite is locked for a moment now and then, and nothing was done.
                if error.code != 503:
                    raise
                time.sleep(1)
        raise AssertionError(f"{method} {path}: 503 ten times")

    def ready(self) -> bool:
        try:
            self("GET", "/ready")
        except (urllib.error.URLError, OSError, AssertionError):
            return False
        return True

    def state(self, run: str) -> str:
        return str(self("GET", f"/flow_runs/{run}")["state"]["type"])

    def log(self, run: str) -> str:
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return "\n".join(line["message"] for line in self("POST", "/logs/filter", wanted))


def alone(home: Path) -> dict[str, str]:
    """Return an environment in which Prefect has no server and a home of its own, and sends no telemetry."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))},
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(int(SECONDS)),
        "PREFECT_LOGGING_COLORS": "false",
        "DO_NOT_TRACK": "1",
    }


DEFAULT: Mapping[str, Sequence[str]] = {"default": ()}


@contextmanager
def started(
    environment: dict[str, str],
    directory: Path,
    *,
    launchers: Mapping[str, Sequence[str]] = DEFAULT,
    limit: int | None = None,
    options: Sequence[str] = (),
) -> Iterator[Api]:
    """Start a server with a worker for each pool, by its launcher if it has one, and end them all in the end.

    `limit` is how many flow runs a pool runs at once; `options` are further ones of `prefect worker start`.
    """
    port = str(free_port())
    environment = environment | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    prefect = [str(PYTHON.with_name("prefect")), "--no-prompt"]
    call = Api(environment["PREFECT_API_URL"])
    # A worker stops on SIGINT only, and inherits that it is ignored from a shell that runs pytest in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    serve = [str(PYTHON), str(serve_launcher(directory, split=False)), "--no-prompt"]
    server = subprocess.Popen([*serve, "server", "start", "--port", port], env=environment, cwd=directory)
    processes = [server]
    try:
        until(lambda: server.poll() is not None or call.ready(), "the server to become ready")
        for pool, launcher in launchers.items():
            call("POST", "/work_pools/", {"name": pool, "type": "process", "concurrency_limit": limit})
            worker = ["worker", "start", "--pool", pool, "--type", "process", "--install-policy", "never"]
            processes.append(subprocess.Popen([*launcher, *prefect, *worker, *options], env=environment, cwd=directory))
        yield call
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=SECONDS)


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll `condition` until it holds; fail after SECONDS, saying `what` was waited for."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {SECONDS:.0f} s for {what}"
        time.sleep(0.5)
