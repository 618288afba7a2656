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

from .api import Api, ApiError
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
    """The marks of one owner, as they are on the server."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.marks: set[str] = set()
        self._stored: dict[str, set[str]] = {}

    @property
    def _prefix(self) -> str:
        return f"{REGISTRY}{self.owner}_"

    def read(self, api: Api) -> None:
        """Read the marks. Raises ApiError."""
        self._stored = {}
        wanted = {"variables": {"name": {"like_": self._prefix}}}
        for row in api.pages("/variables/filter", wanted):
            if re.fullmatch(rf"{re.escape(self._prefix)}\d+", row["name"]) and isinstance(row["value"], dict):
                text = str(row["value"].get("objects", ""))
                self._stored[row["name"]] = {text[at : at + WIDTH] for at in range(0, len(text), WIDTH)}
        self.marks = set().union(*self._stored.values())

    def has(self, kind: str, key: str, identity: str) -> bool:
        """Whether the owner made an object."""
        return mark(kind, identity) in self.marks or promise(kind, key) in self.marks

    def change(self, api: Api, *, add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
        """Add and drop marks, over those that are on the server now: another controller may have written there."""
        add, drop = set(add), set(drop)
        if not (add - self.marks) and not (drop & self.marks):
            return
        self.read(api)
        self.marks = (self.marks | add) - drop
        listed = sorted(self.marks)
        parts = [listed[at : at + MOST] for at in range(0, len(listed), MOST)]
        names = [f"{self._prefix}{number}" for number in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            if self._stored.get(name) == set(part):
                continue
            about = f"What selfhosted.prefect.resources made as owner {self.owner}, by which it prunes"
            value = {"about": about, "objects": "".join(part)}
            if name in self._stored:
                api.call("PATCH", f"/variables/name/{name}", {"value": value})
            else:
                self._make(api, name, value)
        for name in self._stored.keys() - set(names):
            api.call("DELETE", f"/variables/name/{name}")
        self._stored = {name: set(part) for name, part in zip(names, parts, strict=True)}

    def _make(self, api: Api, name: str, value: dict[str, str]) -> None:
        try:
            api.post("/variables/", {"name": name, "value": value, "tags": TAGS})
        except ApiError as error:
            if error.status != 409:
                raise
            api.call("PATCH", f"/variables/name/{name}", {"value": value})
