"""What every test may rely on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Modules set the umask of their process, which in a unit test is everybody's."""
    before = os.umask(0o022)
    yield
    os.umask(before)
