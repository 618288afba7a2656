"""Every field of every kind on a real server: created, changed, cleared, predicted, repeated and read back."""

from __future__ import annotations

from collections.abc import Iterator

import matrix
import pytest
from conftest import PrefectServer


@pytest.fixture(scope="module")
def prepared(server: PrefectServer) -> Iterator[PrefectServer]:
    with server.api() as api:
        matrix.prepare(api)
        yield server
        matrix.clear(api)


@pytest.mark.parametrize(("kind", "name"), matrix.CASES)
def test_field(prepared: PrefectServer, kind: str, name: str) -> None:
    with prepared.api() as api:
        matrix.go_through(api, kind, name, newer=prepared.version >= (3, 9))
