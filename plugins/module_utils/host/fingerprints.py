"""Fingerprints of a host's generated secrets: enough to recognize a secret, too little to recover it.

The file has a line per secret: its name, a salt, and the SHA-256 of salt, name and secret. A secret of 40 random
letters and digits cannot be guessed, and only root can read the file, which is beside files that contain the secret
itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable

from . import safe_files

LINE = re.compile(r"(?P<name>[a-z]+) (?P<fingerprint>[0-9a-f]{32}:[0-9a-f]{64})")


def fingerprint(name: str, secret: str, *, salt: str = "") -> str:
    """Return `salt:digest` of a secret, with a new salt of 16 random bytes unless one is given."""
    salt = salt or secrets.token_hex(16)
    return f"{salt}:{hashlib.sha256(f'{salt} {name} {secret}'.encode()).hexdigest()}"


def matches(known: str, name: str, secret: str) -> bool:
    """Return whether a fingerprint belongs to a secret."""
    return secrets.compare_digest(fingerprint(name, secret, salt=known.partition(":")[0]), known)


def read(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the fingerprints in a file by the names of the secrets; none if the file does not exist.

    A file below something that is not a directory does not exist either; preflight rejects that path. Raises OSError.
    """
    try:
        text = safe_files.read(path).decode(errors="replace")
    except (FileNotFoundError, safe_files.UnsafePathError):
        return {}
    return {found["name"]: found["fingerprint"] for line in text.splitlines() if (found := LINE.fullmatch(line))}


def read_all(paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the fingerprints of each file that contains any, by path. Raises OSError."""
    return {path: found for path in paths if (found := read(path))}


def files(name: str, etc: str, *, scope: str) -> list[str]:
    """Return the fingerprint files of the parts of an instance: Prefect, PostgreSQL, Redis, the proxy.

    `name` is the prefix of its paths, `etc` the directory of its settings. Without root, Prefect is the only part.
    """
    own = [f"{etc}/fingerprints"]
    if scope == "user":
        return own
    return [
        *own,
        f"/etc/{name}-postgres/fingerprints",
        f"/etc/{name}-redis/fingerprints",
        f"/etc/nginx/prefect/{name}.fingerprints",
    ]
