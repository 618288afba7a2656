"""What an owner made on a server, remembered there: in variables, since most objects have no place for a mark.

An object is remembered by its id, so one of the same name that a person made later is not taken for it. What is about
to be made has no id yet and is remembered by its name until it has one; a run that is killed meanwhile loses nothing.
A variable takes 5000 characters: an object is ten of them, and there are as many variables as it takes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from .client import Api, ApiError
from .kinds import REGISTRY

WIDTH = 10
MOST = 480
"""Objects a variable."""

TAGS = ["ansible", "selfhosted.prefect"]


def mark(kind: str, identity: str) -> str:
    """Return what an object is remembered by."""
    digest = hashlib.sha256(f"{kind} {identity}".encode()).digest()
    return base64.urlsafe_b64encode(digest).decode()[:WIDTH]


def promise(kind: str, key: str) -> str:
    """Return what an object is remembered by before it has an id."""
    return mark(f"new {kind}", key)


class Ownership:
    """The marks of one owner, as they are on the server; `others` are those of others, with who that is."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.marks: set[str] = set()
        self.others: dict[str, str] = {}
        self._stored: dict[str, set[str]] = {}
        self._theirs: dict[str, tuple[str, set[str]]] = {}

    @property
    def _prefix(self) -> str:
        return f"{REGISTRY}{self.owner}_"

    def read(self, api: Api) -> None:
        """Read the marks. Raises ApiError."""
        self._stored, self._theirs, self.others = {}, {}, {}
        for row in api.pages("/variables/filter", {"variables": {"name": {"like_": REGISTRY}}}):
            found = re.fullmatch(rf"{REGISTRY}([a-z0-9-]+)_\d+", row["name"])
            if found is None or not isinstance(row["value"], dict):
                continue
            text = str(row["value"].get("objects", ""))
            marks = {text[at : at + WIDTH] for at in range(0, len(text), WIDTH)}
            if found[1] == self.owner:
                self._stored[row["name"]] = marks
            else:
                self._theirs[row["name"]] = (found[1], marks)
                self.others |= dict.fromkeys(marks, found[1])
        self.marks = set().union(*self._stored.values())

    def has(self, kind: str, key: str, identity: str) -> bool:
        """Whether the owner made an object."""
        return mark(kind, identity) in self.marks or promise(kind, key) in self.marks

    def change(self, api: Api, *, add: Iterable[str] = (), drop: Iterable[str] = (), take: Iterable[str] = ()) -> None:
        """Add, drop and take marks, over those that are on the server now: another controller may have written there.

        What is taken is added, and no other owner's any more.
        """
        take = set(take)
        add, drop = set(add) | take, set(drop)
        if not (add - self.marks) and not (drop & self.marks) and not (take & self.others.keys()):
            return
        self.read(api)
        for name, (owner, marks) in self._theirs.items():
            if marks & take:
                self._write(api, name, owner, marks - take)
        self.marks = (self.marks | add) - drop
        listed = sorted(self.marks)
        parts = [listed[at : at + MOST] for at in range(0, len(listed), MOST)]
        names = [f"{self._prefix}{number}" for number in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            if self._stored.get(name) == set(part):
                continue
            self._write(api, name, self.owner, part, new=name not in self._stored)
        for name in self._stored.keys() - set(names):
            api.call("DELETE", f"/variables/name/{name}")
        self._stored = {name: set(part) for name, part in zip(names, parts, strict=True)}

    def _write(self, api: Api, name: str, owner: str, marks: Iterable[str], *, new: bool = False) -> None:
        about = f"What selfhosted.prefect.resources made as owner {owner}, by which it prunes"
        value = {"about": about, "objects": "".join(sorted(marks))}
        if new:
            try:
                api.post("/variables/", {"name": name, "value": value, "tags": TAGS})
                return
            except ApiError as error:
                if error.status != 409:
                    raise
        api.call("PATCH", f"/variables/name/{name}", {"value": value})
