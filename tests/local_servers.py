"""What tests and benchmarks start on this machine for themselves: a PostgreSQL, a Redis, and Prefect servers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jinja2 import Environment

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nowhere"))
REDIS = shutil.which("redis-check-rdb")
"""The server, by the name that it has in Debian's redis-tools, where no service comes with it."""

SECONDS = 180.0


SERVE = Path(__file__).resolve().parents[1] / "templates/opt/prefect/serve.j2"


def serve_launcher(directory: Path, *, split: bool) -> Path:
    """Write the launcher of a server, as hosts have it: of one of several processes, or of one on SQLite."""
    launcher, code = directory / "serve", directory / "lib" / "selfhosted_prefect"
    # Tests of workers have the same code there.
    code.parent.mkdir(exist_ok=True)
    if not code.is_symlink():
        code.symlink_to(SERVE.parents[3] / "plugins/module_utils")
    names: dict[str, object] = {"__prefect_host": {"dirs": {"opt": "/opt/prefect"}}, "__prefect_code_dir": str(code)}
    names |= {"ansible_managed": "", "__prefect_is_split": split}
    environment = Environment(keep_trailing_newline=True)
    environment.filters |= {"comment": "# {}".format, "dirname": os.path.dirname, "to_json": json.dumps}
    launcher.write_text(environment.from_string(SERVE.read_text()).render(names))
    return launcher


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_postgres(*command: str | Path) -> None:
    """Run a command as the user of PostgreSQL, which refuses to be root."""
    account = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    subprocess.run([*account, *map(str, command)], check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def postgres() -> Iterator[str]:
    """Start a PostgreSQL for a while, and provide its address, without the name of a database."""
    port, data = free_port(), Path(tempfile.mkdtemp(prefix="prefect-postgres-", dir="/var/tmp"))
    if os.getuid() == 0:
        shutil.chown(data, "postgres")
    try:
        as_postgres(
            POSTGRES / "initdb", "--auth", "trust", "--username", "postgres", "--no-sync", "--pgdata", data / "pg"
        )
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data} -c fsync=off"
        as_postgres(POSTGRES / "pg_ctl", "--pgdata", data / "pg", "--wait", "-o", options, "-l", data / "log", "start")
        try:
            yield f"postgresql://postgres:s3cret@127.0.0.1:{port}"
        finally:
            as_postgres(POSTGRES / "pg_ctl", "--pgdata", data / "pg", "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(data)


@contextmanager
def new_database(url: str) -> Iterator[str]:
    """Provide the address of an empty database of a PostgreSQL, for as long as it is needed."""
    name = f"test_{os.urandom(4).hex()}"
    psql = [str(POSTGRES / "psql"), "--quiet", f"{url}/postgres", "--command"]
    subprocess.run([*psql, f"CREATE DATABASE {name}"], check=True)
    try:
        yield f"{url}/{name}"
    finally:
        subprocess.run([*psql, f"DROP DATABASE {name} WITH (FORCE)"], check=True)


class Redis:
    """A Redis that keeps what it has in `data`.

    Further `options` are those of redis-server: its file first if there is one, and TLS on `port` included.
    """

    def __init__(self, data: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        place = [] if "--tls-port" in options else ["--port", str(self.port)]
        self._options = [*options, *place, "--bind", "127.0.0.1", "--dir", str(data)]

    def __enter__(self) -> Redis:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._process = subprocess.Popen(["redis-server", *self._options], executable=REDIS, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + SECONDS
        while True:
            assert self._process.poll() is None, f"redis-server {' '.join(self._options)}: {self._process.returncode}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < deadline, f"Redis did not listen within {SECONDS:.0f} s"
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=SECONDS)


@contextmanager
def prefect_server(
    python: Path, home: Path, *, auth: str = "", database: str = "", settings: Mapping[str, object] | None = None
) -> Iterator[str]:
    """Start the server of a release, by its Python, and provide the address of its API once it is ready.

    It reads schedules as a host's does, and keeps its data in SQLite in `home`, or in the PostgreSQL database
    `database`. With `auth`, it asks for that, and for CSRF tokens. Further `settings` are Prefect's, by their names.
    """
    port = str(free_port())
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))},
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PYTHONTZPATH": "",
        "DO_NOT_TRACK": "1",
        **{name: str(value) for name, value in (settings or {}).items()},
    }
    if auth:
        environment |= {
            "PREFECT_API_AUTH_STRING": auth,
            "PREFECT_SERVER_API_AUTH_STRING": auth,
            "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        }
    if database:
        environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database.replace("postgresql:", "postgresql+asyncpg:")
    command = [str(python.with_name("prefect")), "--no-prompt", "server", "start", "--port", port]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + SECONDS
        while not ready(url):
            assert process.poll() is None, (home / "server.log").read_text()
            assert time.monotonic() < deadline, f"the server was not ready within {SECONDS:.0f} s"
            time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=SECONDS)


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=30):
            return True
    except (urllib.error.URLError, OSError):
        return False
