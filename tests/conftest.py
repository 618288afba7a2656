"""What every test may rely on."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from ansible.module_utils.common import warnings
from fake_api import FakeApi


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


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    """Provide an API in memory that holds nothing."""
    with FakeApi() as api:
        yield api
