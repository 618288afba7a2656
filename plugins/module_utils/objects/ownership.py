"""The registry of what an owner created, kept in the server's variables because most objects have no field for a mark.

An object is registered by its id, so another object that a person later creates under the same name is not mistaken for
it. An object about to be created has no id yet: a promise records its name, its content, and the time. A name alone
proves nothing: the promise counts only for an object that was created within `PROMISED` after it and has no content
that was not promised. It never permits a deletion until the object's own mark has replaced it.

A variable is written once and never changed, because two controllers that change one at the same time lose what one of
them wrote. New marks go into a new variable; old variables are deleted after their marks were written to another. A
variable holds 5000 characters: a mark takes ten of them, and an owner has as many variables as its marks need.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from ..api.client import Api, ApiError, moment
from .kinds.variables import REGISTRY

WIDTH = 10
MOST = 480
"""Objects per variable."""

SPARE = 4
"""How many variables beyond those that the marks need may exist before they are merged."""

PROMISED = timedelta(hours=1)
"""How long after a promise an object may be created for it."""

INEXACT = timedelta(seconds=3)
"""Uncertainty of a server's clock: an HTTP header has whole seconds."""

FORMER = "ansible"
"""The owner of every inventory before each had its own; its objects belong to the inventory that describes them."""

TAGS = ["ansible", "selfhosted.prefect"]


def mark(kind: str, identity: str) -> str:
    """Return the mark that registers an object."""
    digest = hashlib.sha256(f"{kind} {identity}".encode()).digest()
    return base64.urlsafe_b64encode(digest).decode()[:WIDTH]


def promise(kind: str, key: str, wanted: Mapping[str, Any]) -> tuple[str, str]:
    """Return the marks that register an object before it has an id: of its name and of its content."""
    content = json.dumps(wanted, sort_keys=True, default=str)
    return mark(f"new {kind}", key), mark(f"content {kind}", content)


class Ownership:
    """The marks of one owner on the server; `others` maps the marks of other owners to those owners."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.marks: set[str] = set()
        self.others: dict[str, str] = {}
        self.rest: list[dict[str, Any]] = []
        """The variables of the registry that contain no marks."""
        self._promises: dict[str, tuple[datetime, dict[str, str]]] = {}
        self._rows: dict[str, tuple[str, set[str]]] = {}

    def read(self, api: Api) -> None:
        """Read the marks. Raises ApiError."""
        self._rows, self._promises, self.others, self.marks, self.rest = {}, {}, {}, set(), []
        for row in api.pages("/variables/filter", {"variables": {"name": {"like_": REGISTRY}}}):
            found = re.fullmatch(rf"{REGISTRY}([a-z0-9-]+)_(promise-)?[0-9a-f]+", row["name"])
            if found is None or not isinstance(row["value"], dict):
                self.rest.append(row)
                continue
            owner, promised, value = found[1], found[2], row["value"]
            if promised:
                if owner == self.owner:
                    pairs = _cut(value.get("promises"), 2 * WIDTH)
                    self._promises[row["name"]] = (
                        moment(value["since"]),
                        {pair[:WIDTH]: pair[WIDTH:] for pair in pairs},
                    )
                continue
            marks = set(_cut(value.get("objects"), WIDTH))
            self._rows[row["name"]] = (owner, marks)
            if owner == self.owner:
                self.marks |= marks
            else:
                self.others |= dict.fromkeys(marks, owner)

    def has(self, kind: str, identity: str) -> bool:
        """Whether the owner created an object."""
        return mark(kind, identity) in self.marks

    def may_have_made(self, kind: str, key: str, row: Mapping[str, Any]) -> bool:
        """Whether an object of this name was created shortly after it was promised, judging by its creation time."""
        return any(mark(f"new {kind}", key) in promises for _, promises in self._believable(row))

    def proves(self, kind: str, key: str, wanted: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
        """Whether an object was created shortly after exactly this content was promised."""
        name, content = promise(kind, key, wanted)
        return any(promises.get(name) == content for _, promises in self._believable(row))

    def _believable(self, row: Mapping[str, Any]) -> list[tuple[datetime, dict[str, str]]]:
        created = moment(str(row["created"])) if row.get("created") else None
        return [
            each for each in self._promises.values() if created and -INEXACT <= created - each[0] <= PROMISED + INEXACT
        ]

    def give(self, api: Api, promises: Iterable[tuple[str, str]]) -> None:
        """Record what is about to be created. Raises ApiError."""
        listed, since = sorted(promises), datetime.now(timezone.utc) + api.ahead
        for at in range(0, len(listed), MOST // 2):
            part = dict(listed[at : at + MOST // 2])
            name = f"{REGISTRY}{self.owner}_promise-{uuid.uuid4().hex[:12]}"
            text = "".join(each + content for each, content in part.items())
            about = f"What selfhosted.prefect.resources is creating as owner {self.owner}"
            value = {"about": about, "since": since.isoformat(), "promises": text}
            self._promises[name] = (since, part)
            _create(api, name, value)

    def redeem(self, api: Api, done: Iterable[str] | None = None) -> None:
        """Delete settled promises: those whose names are all in `done`, or without `done` all that this owner has.

        The others may belong to another controller that is still running; old ones prove nothing, and are deleted too.
        """
        known = None if done is None else set(done)
        old = datetime.now(timezone.utc) + api.ahead - PROMISED - INEXACT
        for name, (since, promises) in list(self._promises.items()):
            if known is None or since < old or promises.keys() <= known:
                _delete(api, name)
                del self._promises[name]

    def change(self, api: Api, *, add: Iterable[str] = (), drop: Iterable[str] = (), take: Iterable[str] = ()) -> None:
        """Add, drop and take over marks, on top of those now on the server. Raises ApiError.

        Marks to take are added, and removed from other owners.
        """
        take = set(take)
        add, drop = set(add) | take, set(drop)
        if not (add - self.marks) and not (drop & self.marks) and not (take & self.others.keys()):
            return
        promises = dict(self._promises)
        self.read(api)
        self._promises |= promises
        for name, (owner, marks) in list(self._rows.items()):
            if owner != self.owner and marks & take:
                self._write(api, owner, marks - take)
                _delete(api, name)
        mine = [name for name, (owner, _) in self._rows.items() if owner == self.owner]
        after = (self.marks | add) - drop
        if drop & self.marks or len(mine) > len(after) // MOST + SPARE:
            self._write(api, self.owner, after)
            for name in mine:
                _delete(api, name)
        else:
            self._write(api, self.owner, add - self.marks)
        self.marks = after

    def _write(self, api: Api, owner: str, marks: Iterable[str]) -> None:
        listed = sorted(marks)
        about = f"What selfhosted.prefect.resources made as owner {owner}, by which it prunes"
        for at in range(0, len(listed), MOST):
            name = f"{REGISTRY}{owner}_{uuid.uuid4().hex[:12]}"
            _create(api, name, {"about": about, "objects": "".join(listed[at : at + MOST])})


def _cut(text: Any, width: int) -> list[str]:
    text = str(text or "")
    return [text[at : at + width] for at in range(0, len(text), width)]


def _create(api: Api, name: str, value: Mapping[str, Any]) -> None:
    try:
        api.post("/variables/", {"name": name, "value": value, "tags": TAGS})
    except ApiError as error:
        # A request that was repeated because its response was lost had already succeeded.
        if error.status != 409:
            raise


def _delete(api: Api, name: str) -> None:
    try:
        api.call("DELETE", f"/variables/name/{name}")
    except ApiError as error:
        if error.status != 404:
            raise
