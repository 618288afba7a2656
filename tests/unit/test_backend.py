"""What is read from a host that is to run a database, and every problem that is found there."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.modules import host_backend as backend
from fake_api import outcome


@pytest.fixture(autouse=True)
def _suitable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Debian with systemd, whatever runs the test."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"/usr/bin/{name}")


def look(**options: Any) -> dict[str, Any]:
    given = {
        "program_dir": "/etc/prefect-redis",
        "otherwise": "prefect_redis_url",
        "fingerprints": "/nowhere/fingerprints",
    }
    result: dict[str, Any] = outcome(backend.main, **{**given, **options})
    return result


def test_a_host_alone() -> None:
    found = look()
    assert (found["peers"], found["facing"]) == ([], [])
    assert found["memory_mb"] > 100


def test_peers_are_resolved_and_the_loopback_faces_no_peer() -> None:
    found = look(peers={"api1": "127.0.0.1", "api2": "127.0.0.2"})
    assert found["peers"] == ["127.0.0.1", "127.0.0.2"]
    assert found["facing"] == []


def test_the_address_that_faces_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "facing", {"10.0.0.11": "10.0.0.5", "10.0.0.12": "10.0.0.5"}.get)
    assert look(peers={"api1": "10.0.0.11", "api2": "10.0.0.12"})["facing"] == ["10.0.0.5"]


def test_a_peer_that_cannot_be_resolved() -> None:
    assert look(peers={"api1": "nowhere.invalid"})["msg"] == (
        "api1: this host cannot resolve 'nowhere.invalid'; set ansible_host or prefect_address of api1"
    )


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert f"prefect_redis_port: port {port} is in use by" in look(ports={"prefect_redis_port": port})["msg"]


def test_every_obstacle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "is_dir", lambda self: False)
    monkeypatch.setattr(shutil, "which", lambda name, **_: None)
    lines = look(components={"prefect_redis": "redis"})["msg"].splitlines()
    assert len(lines) == 3
    assert all("prefect_redis_url" in line for line in lines[1:])
