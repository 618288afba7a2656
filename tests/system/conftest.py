"""The host that all system tests share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from real_host import IMAGE, NAME, ROOT, Host


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A bare host."""
    prepared = subprocess.run([ROOT / "tests/hosts/prepare"], capture_output=True, text=True, check=False)
    if prepared.returncode:
        pytest.skip((prepared.stdout + prepared.stderr).strip())
    tool = ROOT / "tests/hosts/host"
    try:
        subprocess.run([tool, "up", NAME, IMAGE], check=True)
        yield Host(scratch=tmp_path_factory.mktemp("runs"))
    finally:
        subprocess.run([tool, "down", NAME], check=True)
