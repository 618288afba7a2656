"""What every test may rely on."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from ansible.module_utils.common import warnings
from fake_api import FakeApi

try:
    from ansible.module_utils._internal._secrets import _secret_masker as MASKER
except ImportError:
    MASKER = None

MASKED = ("_matcher", "_secrets", "_forms", "_json_forms") if MASKER else ()


def pytest_collection_finish() -> None:
    """Keep the collector of garbage away from what lives as long as the process: modules and thousands of tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    """Give each test what modules change in their process, as if it were a process of its own.

    Modules set its umask. Ansible collects their warnings in it, and from core 2.22 on hides each of their secrets in
    all that it displays. One fixture, and no monkeypatch, because it costs its time for each of thousands of tests.
    """
    umask = os.umask(0o022)
    before = vars(warnings)["_global_warnings"]
    vars(warnings)["_global_warnings"] = {}
    hidden = {name: getattr(MASKER, name) for name in MASKED}
    for name, value in hidden.items():
        setattr(MASKER, name, type(value)())
    yield
    for name, value in hidden.items():
        setattr(MASKER, name, value)
    vars(warnings)["_global_warnings"] = before
    os.umask(umask)


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    """Provide an API in memory that holds nothing."""
    with FakeApi() as api:
        yield api
