"""What a host remembers of the generated secrets that it uses: enough to recognize one, too little to recover it.

The file has a line for each: its name, a salt, and the SHA-256 of both and the secret. A secret of 40 random letters
and digits cannot be found by trial, and only root reads the file, which lies beside files that hold the secret itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable

from ansible_collections.selfhosted.prefect.plugins.module_utils import safe_files

LINE = re.compile(r"(?P<name>[a-z]+) (?P<fingerprint>[0-9a-f]{32}:[0-9a-f]{64})")


def fingerprint(name: str, secret: str, *, salt: str = "") -> str:
    """Return `salt:digest` of a secret, with a new salt of 16 random bytes unless one is given."""
    salt = salt or secrets.token_hex(16)
    return f"{salt}:{hashlib.sha256(f'{salt} {name} {secret}'.encode()).hexdigest()}"


def matches(known: str, name: str, secret: str) -> bool:
    """Return whether a fingerprint is that of a secret."""
    return secrets.compare_digest(fingerprint(name, secret, salt=known.partition(":")[0]), known)


def read(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the fingerprints in a file by the names of the secrets; none where it does not exist.

    A file below something that is not a directory does not exist either; preflight refuses that path. Raises OSError.
    """
    try:
        text = safe_files.read(path).decode(errors="replace")
    except (FileNotFoundError, safe_files.UnsafePathError):
        return {}
    return {found["name"]: found["fingerprint"] for line in text.splitlines() if (found := LINE.fullmatch(line))}


def read_all(paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the fingerprints of each file that holds any, by its path. Raises OSError."""
    return {path: found for path in paths if (found := read(path))}


def files(name: str, etc: str, *, scope: str) -> list[str]:
    """Return the files with fingerprints that the parts of an instance have: Prefect, PostgreSQL, Redis, the proxy.

    `name` is what its paths start with, `etc` the directory of its settings. Without root there is Prefect alone.
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
