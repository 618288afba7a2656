"""Certificates that certbot keeps (lineages): those of this collection are recorded, and others' are left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from . import safe_files
from .ledger import Ledger, LedgerError

DIRECTORY = Path("/etc/letsencrypt")

LINEAGE: dict[str, Any] = {
    "type": "dict",
    "options": {"name": {"type": "str", "required": True}, "webroot": {"type": "path", "required": True}},
}
"""Module option: certbot's name of a certificate, and the directory of its challenges."""


def renewal(lineage: dict[str, Any]) -> Path:
    """Return the file by which certbot renews a certificate, which is its name in the ledger."""
    return DIRECTORY / "renewal" / f"{lineage['name']}.conf"


def found(lineage: dict[str, Any]) -> list[Path]:
    """Return the paths of a certificate that exist."""
    paths = [renewal(lineage), *(DIRECTORY / name / lineage["name"] for name in ("live", "archive"))]
    return [path for path in paths if os.path.lexists(path)]


def is_recorded(ledger: Ledger, lineage: dict[str, Any]) -> bool:
    """Return whether this collection requested a certificate. Earlier versions only left the name of their webroot."""
    path = renewal(lineage)
    if ledger.get("lineage", path):
        return True
    return path.is_file() and lineage["webroot"] in safe_files.read(path).decode(errors="replace")


def expect(ledger: Ledger, lineage: dict[str, Any], *, write: bool) -> None:
    """Record a certificate before it is requested. Raises LedgerError if another owner has one of this name."""
    if found(lineage) and not is_recorded(ledger, lineage):
        raise LedgerError(
            f"prefect_proxy_acme: certbot has a certificate {lineage['name']} ({found(lineage)[0]}), and this "
            "collection did not request it; give it another name (certbot certonly --cert-name), or set "
            "prefect_proxy_certificate and prefect_proxy_certificate_key to use it"
        )
    if write:
        ledger.record([{"kind": "lineage", "name": str(renewal(lineage)), "origin": "created"}])


def remove(ledger: Ledger, lineage: dict[str, Any]) -> bool:
    """Delete a certificate that this collection requested; return whether there was one. Raises LedgerError."""
    exists = bool(found(lineage)) and is_recorded(ledger, lineage)
    if exists and not ledger.dry:
        program = shutil.which("certbot", path=f"{os.environ.get('PATH', '')}:/usr/local/bin:/usr/bin:/snap/bin")
        command = [program or "certbot", "delete", "--non-interactive", "--cert-name", lineage["name"]]
        done = subprocess.run(command, capture_output=True, text=True, check=False) if program else None
        if done is None or done.returncode:
            said = done.stderr.strip() if done else "certbot is not installed"
            raise LedgerError(f"prefect_proxy_acme: the certificate {lineage['name']} cannot be deleted: {said}")
    ledger.forget("lineage", renewal(lineage))
    ledger.write()
    return exists
