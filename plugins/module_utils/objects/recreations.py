"""Records of what is lost when an object is deleted to be recreated, kept on the server until it is restored.

Deleting a work pool also deletes its queues and every deployment's link to it, and no request deletes and creates at
once. So all of it is stored in variables before the deletion, and a run that finds such a record finishes what another
run began. A record is compressed JSON, split over as many variables as it needs; it is valid once all of them exist.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from ..api.client import Api, ApiError, moment

PREFIX = "ansible_owner__recreate-"
"""Prefix of these variables. It cannot be an owner's mark: an owner's name has no underscore."""

PART = 4500
"""Characters per variable, of the 5000 that it can hold."""

FORGOTTEN = timedelta(hours=1)
"""Age of a record after which no controller can still be working on it."""

TAGS = ["ansible", "selfhosted.prefect"]


@dataclass(frozen=True, kw_only=True)
class Recreation:
    """An object being recreated: its former `row`, and what to restore, in the form that its kind defines."""

    kind: str
    key: str
    row: dict[str, Any]
    restored: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def prefix(kind: str, key: str) -> str:
    """Return the prefix of the variables that record the recreation of an object."""
    return PREFIX + hashlib.sha256(f"{kind} {key}".encode()).hexdigest()[:12]


def read(rows: Iterable[Mapping[str, Any]], known: Iterable[str]) -> tuple[list[Recreation], list[str]]:
    """Return the recreations of `known` kinds stored in variables, latest last, and the names of useless variables.

    An incomplete record is useless: either nothing had been changed yet, or the recreation is finished.
    """
    parts: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        found = re.fullmatch(rf"({re.escape(PREFIX)}[0-9a-f]+-[0-9a-f]+)_(\d+)", str(row["name"]))
        if found and isinstance(row["value"], dict):
            parts.setdefault(found[1], {})[int(found[2])] = row
    whole: list[Recreation] = []
    useless: list[str] = []
    for each in sorted(parts.values(), key=lambda each: min(str(row["created"]) for row in each.values())):
        names = tuple(str(row["name"]) for row in each.values())
        try:
            texts = [each[number]["value"]["text"] for number in range(int(next(iter(each.values()))["value"]["of"]))]
            said = json.loads(zlib.decompress(base64.b64decode("".join(texts))))
            recreation = Recreation(**{name: said[name] for name in ("kind", "key", "row", "restored")}, names=names)
        except (KeyError, TypeError, ValueError, binascii.Error, zlib.error):
            recreation = None
        if recreation is not None and recreation.kind in known:
            whole.append(recreation)
        elif all(_is_old(row) for row in each.values()):
            useless += names
    return whole, useless


def write(api: Api, kind: str, key: str, row: Mapping[str, Any], restored: Mapping[str, Any]) -> Recreation:
    """Record an object to be recreated. Raises ApiError."""
    said = json.dumps({"kind": kind, "key": key, "row": row, "restored": restored}, separators=(",", ":"))
    text = base64.b64encode(zlib.compress(said.encode(), 9)).decode()
    name = f"{prefix(kind, key)}-{uuid.uuid4().hex[:8]}"
    cut = [text[at : at + PART] for at in range(0, len(text), PART)]
    about = f"What the {kind} {key} was before selfhosted.prefect recreates it"
    names = []
    for number, part in enumerate(cut):
        names.append(f"{name}_{number}")
        body = {"name": names[-1], "value": {"about": about, "of": len(cut), "text": part}, "tags": TAGS}
        try:
            api.post("/variables/", body)
        except ApiError as error:
            # A request that was repeated because its response was lost had already succeeded.
            if error.status != 409:
                raise
    return Recreation(kind=kind, key=key, row=dict(row), restored=dict(restored), names=tuple(names))


def forget(api: Api, names: Iterable[str]) -> None:
    """Delete variables that may already have been deleted. Raises ApiError."""
    for name in names:
        try:
            api.call("DELETE", f"/variables/name/{name}")
        except ApiError as error:
            if error.status != 404:
                raise


def _is_old(row: Mapping[str, Any]) -> bool:
    return moment(str(row["created"])) < datetime.now(timezone.utc) - FORGOTTEN
