"""Real Prefect servers, with authentication and CSRF protection, one for each release.

PREFECT_TEST_PYTHONS names the Python of each release, the oldest first, separated by colons. The oldest has a server
that keeps its data in SQLite, and the newest, where this machine has PostgreSQL, one with that. With
PREFECT_TEST_ALL=1, which `make test ALL=1` sets, every release has both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api
from local_servers import POSTGRES, new_database, postgres, prefect_server

PYTHONS = [Path(python) for python in os.environ.get("PREFECT_TEST_PYTHONS", "").split(":") if python]
AUTH = "admin:s3cret"


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release by its Python, which there is none of where none is named, and the database of its server."""

    python: Path | None = None
    database: str = "sqlite"

    def __str__(self) -> str:
        return f"{self.python.parents[1].name}-{self.database}" if self.python else "None"


RELEASES = [
    Release(python=python, database=database)
    for database, pythons in (("sqlite", PYTHONS[:1]), ("postgresql", PYTHONS[-1:]))
    for python in (PYTHONS if os.environ.get("PREFECT_TEST_ALL") == "1" else pythons)
] or [Release()]


@dataclass(frozen=True, kw_only=True)
class PrefectServer:
    """A server: its address and its version, such as `(3, 9, 1)`, and its PostgreSQL database, if it has one.

    Without that, its SQLite database is `prefect.db` in its home. `python` is that of its release.
    """

    url: str
    version: tuple[int, ...]
    python: Path
    home: Path
    database: str = ""

    def api(self) -> Api:
        return Api(self.url, auth=AUTH, csrf=True)


@pytest.fixture(scope="session", params=RELEASES, ids=str)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    release: Release = request.param
    if release.python is None:
        pytest.skip("PREFECT_TEST_PYTHONS is not set: name the Pythons of Prefect releases")
    if release.database == "postgresql" and not POSTGRES.exists():
        pytest.skip("needs PostgreSQL: install postgresql")
    with ExitStack() as stack:
        database = ""
        if release.database == "postgresql":
            database = stack.enter_context(new_database(stack.enter_context(postgres())))
        home = tmp_path_factory.mktemp("home")
        url = stack.enter_context(prefect_server(release.python, home, auth=AUTH, database=database))
        with Api(url, auth=AUTH) as api:
            version = tuple(int(part) for part in str(api.get("/admin/version")).split(".")[:3])
        yield PrefectServer(url=url, version=version, python=release.python, home=home, database=database)
