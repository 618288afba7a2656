"""What an owner made on a server, remembered there: in variables, since most objects have no place for a mark.

An object is remembered by its id, so one of the same name that a person creates later is not taken for it. What is
about to be created has no id yet: a promise holds its name, what it is to be, and when that was. A promise proves
nothing by its name. It is believed only of an object that was created within `PROMISED` after it and has nothing in it
that was not promised; and it never lets anything be deleted before it was replaced by the object's own mark.

A variable is written once and never changed, since two controllers that change one at the same time lose what one of
them wrote. New marks go into a new variable; old ones are deleted after their marks were written to another.
A variable takes 5000 characters: an object is ten of them, and there are as many variables as it takes.
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

from .client import Api, ApiError, moment
from .kinds import REGISTRY

WIDTH = 10
MOST = 480
"""Objects a variable."""

SPARE = 4
"""How many more variables there may be than the marks need, before they are written together."""

PROMISED = timedelta(hours=1)
"""How long after a promise an object may have been created by it."""

INEXACT = timedelta(seconds=3)
"""How far a server's clock is known: an HTTP header has whole seconds."""

FORMER = "ansible"
"""The owner of every inventory before each had its own; what it made is the inventory's that describes it."""

TAGS = ["ansible", "selfhosted.prefect"]


def mark(kind: str, identity: str) -> str:
    """Return what an object is remembered by."""
    digest = hashlib.sha256(f"{kind} {identity}".encode()).digest()
    return base64.urlsafe_b64encode(digest).decode()[:WIDTH]


def promise(kind: str, key: str, wanted: Mapping[str, Any]) -> tuple[str, str]:
    """Return what an object is remembered by before it has an id: its name, and what it is to be."""
    content = json.dumps(wanted, sort_keys=True, default=str)
    return mark(f"new {kind}", key), mark(f"content {kind}", content)


class Ownership:
    """The marks of one owner, as they are on the server; `others` are those of other owners, with who that is."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.marks: set[str] = set()
        self.others: dict[str, str] = {}
        self.rest: list[dict[str, Any]] = []
        """The variables of the registry that hold no marks."""
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
        """Whether the owner made an object."""
        return mark(kind, identity) in self.marks

    def may_have_made(self, kind: str, key: str, row: Mapping[str, Any]) -> bool:
        """Whether an object of this name was created shortly after it was promised, as far as its age tells."""
        return any(mark(f"new {kind}", key) in promises for _, promises in self._believable(row))

    def proves(self, kind: str, key: str, wanted: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
        """Whether an object was created shortly after exactly this was promised."""
        name, content = promise(kind, key, wanted)
        return any(promises.get(name) == content for _, promises in self._believable(row))

    def _believable(self, row: Mapping[str, Any]) -> list[tuple[datetime, dict[str, str]]]:
        created = moment(str(row["created"])) if row.get("created") else None
        return [
            each for each in self._promises.values() if created and -INEXACT <= created - each[0] <= PROMISED + INEXACT
        ]

    def give(self, api: Api, promises: Iterable[tuple[str, str]]) -> None:
        """Remember what is about to be created. Raises ApiError."""
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
        """Forget promises of which all were kept or broken: the names in `done`, or every one of this run and before.

        Others may be another controller's that is at work; they prove nothing when they are old, and go then.
        """
        known = None if done is None else set(done)
        old = datetime.now(timezone.utc) + api.ahead - PROMISED - INEXACT
        for name, (since, promises) in list(self._promises.items()):
            if known is None or since < old or promises.keys() <= known:
                _delete(api, name)
                del self._promises[name]

    def change(self, api: Api, *, add: Iterable[str] = (), drop: Iterable[str] = (), take: Iterable[str] = ()) -> None:
        """Add, drop and take marks, beside those that are on the server now. Raises ApiError.

        What is taken is added, and no other owner's any more.
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
        # A request that was sent again because its answer was lost had been carried out.
        if error.status != 409:
            raise


def _delete(api: Api, name: str) -> None:
    try:
        api.call("DELETE", f"/variables/name/{name}")
    except ApiError as error:
        if error.status != 404:
            raise
