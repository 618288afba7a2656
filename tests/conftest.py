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


def pytest_collection_finish() -> None:
    """Keep the collector of garbage away from what lives as long as the process: modules and thousands of tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Modules set the umask of their process, which in a unit test is everybody's."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible collects the warnings of a module in its process, which in a unit test is everyone's."""
    monkeypatch.setattr(warnings, "_global_warnings", {})


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """From core 2.22 on a process hides each secret of a module in all that it displays, in later tests as well."""
    if MASKER:
        for name in ("_matcher", "_secrets", "_forms", "_json_forms"):
            monkeypatch.setattr(MASKER, name, type(getattr(MASKER, name))())


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    """Provide an API in memory that holds nothing."""
    with FakeApi() as api:
        yield api
