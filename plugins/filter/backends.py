"""Filters that format the configuration of Redis and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.selfhosted.prefect.plugins.module_utils.host.backups import SCRATCH


def redis_word(value: Any) -> str:
    """Return a value quoted for redis.conf: in double quotes, with every byte outside printable ASCII escaped."""
    parts = []
    for byte in str(value).encode():
        character = chr(byte)
        if character in '"\\':
            parts.append(f"\\{character}")
        else:
            parts.append(character if 0x20 <= byte < 0x7F else f"\\x{byte:02x}")
    return f'"{"".join(parts)}"'


def postgres_tuning(memory_mb: int, share: int) -> dict[str, str]:
    """Return settings for PostgreSQL to use a share (percent) of a host's memory (megabytes).

    The proportions are those of PostgreSQL's documentation (a quarter for the shared buffers), for disks without seek
    times. Prefect writes many small rows and reads the newest of them.
    """
    memory = max(int(memory_mb) * int(share) // 100, 256)
    return {
        "shared_buffers": f"{min(max(memory // 4, 64), 16384)}MB",
        "effective_cache_size": f"{memory * 3 // 4}MB",
        "maintenance_work_mem": f"{min(max(memory // 16, 32), 1024)}MB",
        "work_mem": f"{min(max(memory // 256, 4), 64)}MB",
        "wal_buffers": "16MB",
        "min_wal_size": "256MB",
        "max_wal_size": f"{min(max(memory // 2, 1024), 8192)}MB",
        "random_page_cost": "1.1",
        "effective_io_concurrency": "200",
    }


def hba_name(name: str) -> str:
    """Return the name of a database or user quoted for pg_hba.conf, where an unquoted word may be a keyword."""
    return '"' + name.replace('"', '""') + '"'


def hba_lines(peers: list[str], *, database: str, user: str) -> list[str]:
    """Return the pg_hba.conf lines that admit a user to a database from the loopback and the peers, and no one else.

    From the loopback, the user is also admitted to the scratch database of a proof. Addresses may have a prefix length:
    `10.0.0.0/24`.
    """
    who = f"{hba_name(database)} {hba_name(user)}"
    both = f"{hba_name(database)},{hba_name(database + SCRATCH)}"
    everybody = [f"host all {hba_name(user)} all reject", f"host {both} all all reject"]
    local = [f"host {both} {hba_name(user)} {address} scram-sha-256" for address in ("127.0.0.1/32", "::1/128")]
    remote = [
        f"hostssl {who} {peer if '/' in peer else f'{peer}/128' if ':' in peer else f'{peer}/32'} scram-sha-256"
        for peer in peers
    ]
    return [*local, *remote, *everybody]


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"hba_lines": hba_lines, "postgres_tuning": postgres_tuning, "redis_word": redis_word}
