"""The table of kinds, gone through field by field on the API in memory; `tests/api` does it on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matrix
import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS
from fake_api import FakeApi


@pytest.fixture(scope="module")
def prepared() -> Iterator[FakeApi]:
    with FakeApi() as fake:
        with Api(fake.url) as api:
            matrix.prepare(api)
        yield fake


@pytest.mark.parametrize(("kind", "name"), matrix.CASES)
def test_field(prepared: FakeApi, kind: str, name: str) -> None:
    with Api(prepared.url) as api:
        matrix.go_through(api, kind, name)


def test_every_field_is_in_the_matrix() -> None:
    fields: Any = {kind: set(about.fields) for kind, about in KINDS.items()}
    assert {kind: set(values) for kind, values in matrix.VALUES.items()} == fields
