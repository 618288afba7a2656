"""Objects that Prefect's API manages: read one, compare it with the wanted state, and write what differs.

A `Kind` describes a kind of object, `Server` caches the present objects, and one engine (`plan`, `carry_out`) does the
rest, for a single object or for thousands. `run` is the main function of a module.
"""

from __future__ import annotations

import difflib
import math
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..api.client import NOT_A_NUMBER, Api, ApiError, Failure, quoted
from ..api.masking import SURE, Mask, hidden_texts, marked
from . import recreations
from .recreations import Recreation

Action = Literal["nothing", "create", "update", "recreate", "delete"]
Row = dict[str, Any]
"""An object as the server returns it."""

Values = dict[str, Any]
"""Fields of an object under this collection's names, with names in place of the server's ids."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Describes one field of a kind.

    `spec` is the Ansible option. `normalise` converts the wanted and the present value to the form that is compared and
    shown, `clear` is the option value that stands for null on the server, and `default` is the value of a new object if
    the option is not set. A new object must have a `required` field. An `immutable` field can only be set at creation.
    Of a `partial` field, a mapping, only the wanted keys are compared. `api_name` is the field's name in the API if it
    differs.
    """

    spec: Mapping[str, Any]
    normalise: Callable[[Any], Any] = lambda value: value
    clear: Any = None
    default: Any = None
    required: bool = False
    immutable: bool = False
    partial: bool = False
    api_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of object: one row of the table.

    `collection` is the path to create an object, `item` the path to change and delete it, `lookup` the path to read it
    if that differs from `item`, and `listing` the path to read all in pages. Paths contain fields of the object in
    braces. `keys` together identify an object, as `pool/queue`. `level` orders the kinds: an object refers only to
    kinds of a lower level. A subclass overrides what a kind does differently.
    """

    name: str
    label: str
    collection: str
    item: str
    listing: str
    fields: Mapping[str, Field]
    lookup: str = ""
    keys: tuple[str, ...] = ("name",)
    level: int = 1
    recreatable: bool = False
    shows: tuple[str, ...] = ("id",)

    @property
    def list_name(self) -> str:
        """The inventory variable that lists all objects of the kind."""
        return f"prefect_{self.name}s"

    def key(self, values: Mapping[str, Any]) -> str:
        return "/".join(str(values[part]) for part in self.keys)

    def parts(self, key: str) -> dict[str, str]:
        return dict(zip(self.keys, key.split("/", len(self.keys) - 1), strict=True))

    def path(self, template: str, values: Mapping[str, Any]) -> str:
        return template.format(**{name: quoted(str(value)) for name, value in values.items()})

    def item_path(self, row: Mapping[str, Any], key: str) -> str:
        return self.path(self.item, {**self.parts(key), "id": row.get("id")})

    def is_system(self, row: Mapping[str, Any]) -> bool:
        """Whether an object belongs to Prefect itself."""
        return False

    def renamed(self, entry: Values) -> Values:
        """Return an entry with former option names replaced by current ones."""
        return entry

    def problems(self, values: Mapping[str, Any]) -> Iterable[str]:
        """Yield the errors in an object that can be found without a request."""
        return ()

    def checks(self, todo: Plan, server: Server) -> Iterable[str]:
        """Yield the errors in an object about to be written that the server's state shows."""
        return ()

    def clashes(self, wanted: Mapping[str, Values]) -> Iterable[tuple[str, str]]:
        """Yield the key of every object, of those described by their keys, that contradicts another one, and how."""
        return ()

    def inquiries(self, todos: Sequence[Plan], server: Server) -> Iterable[tuple[Plan, str]]:
        """Yield (plan, reason) for every object that the server would reject, in one request."""
        return ()

    def uses(self, key: str, values: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Yield kind and key of every object that the fields refer to."""
        return ()

    def references(self, todo: Plan) -> Iterable[tuple[str, str]]:
        """Yield kind and key of every object that this one will need."""
        return self.uses(todo.key, todo.changes)

    def find(self, server: Server, key: str) -> Row | None:
        return server.api.find(self.path(self.lookup or self.item, self.parts(key)))

    def rows(self, server: Server) -> Iterator[Row]:
        return server.api.pages(self.listing)

    def key_of(self, row: Mapping[str, Any], server: Server) -> str | None:
        """Return the key of an object from the server, or None if it cannot be one that a user describes."""
        return self.key(row)

    def shape(self, row: Mapping[str, Any], server: Server) -> Values:
        """Return all fields of an object from the server under this collection's names."""
        return {name: about.normalise(row.get(about.api_name or name)) for name, about in self.fields.items()}

    def canonical(self, values: Mapping[str, Any], server: Server) -> Values:
        """Return the wanted fields in the form that is compared: unset fields are missing, cleared fields are None."""
        return {
            name: about.normalise(None if values[name] == about.clear else values[name])
            for name, about in self.fields.items()
            if values.get(name) is not None
        }

    def target(self, wanted: Values, before: Values | None, *, keep: bool) -> tuple[Values, list[str]]:
        """Return the fields as they will be, given the present ones, and the fields kept despite what is wanted."""
        if before is None:
            defaults = {name: about.default for name, about in self.fields.items() if about.default is not None}
            return {**defaults, **wanted}, []
        return {
            name: {**(before[name] or {}), **(value or {})} if self.fields[name].partial else value
            for name, value in wanted.items()
        }, []

    def body(self, values: Mapping[str, Any], server: Server) -> Row:
        """Return the request body for fields."""
        return {self.fields[name].api_name or name: value for name, value in values.items()}

    def create(self, server: Server, key: str, values: Values) -> Row:
        given = {name: value for name, value in values.items() if value is not None}
        body = {**self.parts(key), **self.body(given, server)}
        made: Row = server.api.post(self.path(self.collection, self.parts(key)), body)
        return made

    def update(self, server: Server, todo: Plan) -> None:
        assert todo.row is not None
        server.api.call("PATCH", self.item_path(todo.row, todo.key), self.body(todo.changes, server))

    def delete(self, server: Server, row: Row, key: str) -> None:
        server.api.call("DELETE", self.item_path(row, key))

    def recreate(self, server: Server, todo: Plan) -> Row:
        """Delete an object and create it again, or finish a recreation that an earlier run began.

        What is deleted with it is recorded on the server first, until `Server.finish`.
        """
        assert todo.row is not None
        if todo.begun:
            row = self._resumed(server, todo)
        else:
            server.note(recreations.write(server.api, self.name, todo.key, todo.row, self.attached(server, todo.key)))
            self.delete(server, todo.row, todo.key)
            row = self.create(server, todo.key, todo.after)
        for noted in server.recreations[self.name, todo.key]:
            self.restore(server, todo.key, noted.restored)
        return row

    def _resumed(self, server: Server, todo: Plan) -> Row:
        """Return an object as wanted; it may already have been recreated, completely or in part."""
        present = self.find(server, todo.key)
        if present is None:
            return self.create(server, todo.key, todo.after)
        before = self.shape(present, server)
        changes = {name: value for name, value in todo.after.items() if not same(value, before[name])}
        if any(self.fields[name].immutable for name in changes):
            self.delete(server, present, todo.key)
            return self.create(server, todo.key, todo.after)
        if changes:
            self.update(server, replace(todo, row=present, wanted=todo.after, changes=changes))
        return present

    def attached(self, server: Server, key: str) -> Row:
        """Return what is deleted along with an object, and what `restore` needs to restore it."""
        return {}

    def restore(self, server: Server, key: str, attached: Mapping[str, Any]) -> None:
        """Restore what was deleted along with an object, as far as it does not exist."""

    def restored(self, noted: Recreation) -> Iterable[tuple[str, str]]:
        """Yield kind and key of every other object that a recreation restores."""
        return ()

    def shown(self, values: Mapping[str, Any], server: Server, key: str) -> Values:
        """Return fields that are safe to show to a user. Names are never hidden."""
        fields = {name: value for name, value in values.items() if name in self.fields}
        return {**values, **server.mask.fields(fields)}

    def secrets(self, values: Mapping[str, Any], server: Server, key: str) -> Iterator[str]:
        """Yield the hidden texts in fields that are long enough not to occur in another text by chance."""
        found = hidden_texts(dict(values), self.shown(values, server, key))
        yield from (text for text in found if len(text) >= SURE)

    def suspects(self, entry: Mapping[str, Any], mask: Mask) -> Iterator[str]:
        """Yield all texts that may be secret in an object that has not been validated."""
        yield from hidden_texts(dict(entry), mask.fields(entry))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do with one object.

    `wanted` is the requested state, `after` the resulting object, `changes` the fields of it that differ, `diff` what
    the user sees, and `kept` what stays as a person set it, despite what is wanted.
    """

    kind: Kind
    key: str
    state: str
    action: Action
    row: Row | None
    wanted: Values = field(default_factory=dict)
    after: Values = field(default_factory=dict)
    changes: Values = field(default_factory=dict)
    diff: dict[str, Any] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    recreate: bool = False
    keep: bool = False
    begun: bool = False
    """Whether an earlier run deleted the object in order to recreate it; `row` is the deleted object."""

    @property
    def label(self) -> str:
        return f"{self.kind.label} {self.key}"


class Server:
    """The known objects of one server: by kind and key, and by id.

    Objects are read on demand, one by one, or with `bulk` all of a kind at once. Every thread gets its own connection.
    """

    def __init__(self, api: Api, kinds: Mapping[str, Kind], *, bulk: bool = False, mask: Mask | None = None) -> None:
        self.kinds, self.bulk, self.mask = kinds, bulk, mask or Mask()
        self.namesakes: dict[tuple[str, str], list[Row]] = {}
        """Objects that share kind and key with an older one."""
        self.schemas: dict[str, list[Row]] = {}
        """Schemas by block type slug, newest first."""
        self.recreations: dict[tuple[str, str], list[Recreation]] = {}
        """Recreations that this run or an earlier one began, by kind and key."""
        self.replaced: list[tuple[str, str, str]] = []
        """Kind, former id and id of objects that were deleted along with another one and restored."""
        self._first, self._before = api, api.sent
        self._local = threading.local()
        self._local.api = api
        self._apis = [api]
        self._rows: dict[str, dict[str, Row | None]] = {name: {} for name in kinds}
        self._keys: dict[str, dict[str, str]] = {name: {} for name in kinds}
        self._loaded: set[str] = set()
        self._paged: set[str] = set()
        """Kinds with more than one page: an object missing from such a listing is looked up before it counts as absent.
        """

    @property
    def api(self) -> Api:
        """The connection of this thread."""
        api: Api | None = getattr(self._local, "api", None)
        if api is None:
            api = self._local.api = self._first.twin()
            self._apis.append(api)
        return api

    @property
    def sent(self) -> int:
        """The number of requests sent."""
        return sum(api.sent for api in self._apis) - self._before

    def close(self) -> None:
        for api in self._apis:
            api.close()

    def load(self, name: str) -> dict[str, Row | None]:
        """Read all objects of a kind, once, and return them by key, including later changes. Raises ApiError."""
        if name not in self._loaded:
            kind = self.kinds[name]
            for number, row in enumerate(kind.rows(self), 1):
                if number >= self.api.page:
                    self._paged.add(name)
                key = kind.key_of(row, self)
                if key is None:
                    continue
                # Of objects that share a name, the oldest one counts.
                other = self._rows[name].get(key)
                if other is not None and other["id"] != row["id"]:
                    first, second = sorted((other, row), key=lambda each: (str(each["created"]), str(each["id"])))
                    self.namesakes.setdefault((name, key), []).append(second)
                    row = first
                self.put(name, key, row)
            self._loaded.add(name)
        return dict(self._rows[name])

    def note(self, *noted: Recreation) -> None:
        """Record recreations that were begun."""
        for each in noted:
            self.recreations.setdefault((each.kind, each.key), []).append(each)

    def begun(self, name: str, key: str, row: Row | None) -> list[Recreation]:
        """Return the recreations of an object, now `row`, that have deleted it."""
        known = self.recreations.get((name, key), ())
        return [each for each in known if row is None or each.row["id"] != row["id"]]

    def finish(self, done: Iterable[Plan]) -> None:
        """Remove the recreation records of objects that are as wanted. Raises ApiError."""
        for todo in done:
            for each in self.recreations.pop((todo.kind.name, todo.key), ()):
                recreations.forget(self.api, each.names)

    def put(self, name: str, key: str, row: Row | None) -> None:
        """Record an object, or its absence."""
        self._rows[name][key] = row
        if row is not None:
            self._keys[name][row["id"]] = key

    def gone(self, name: str, key: str, row: Row) -> None:
        """Record that an object was deleted; another one of the same name may exist."""
        if (self._rows[name].get(key) or row)["id"] == row["id"]:
            self.put(name, key, None)

    def find(self, name: str, key: str) -> Row | None:
        """Return an object, or None if it does not exist. Raises ApiError.

        An object missing from a listing of several pages is looked up by key: creating an object that exists would
        overwrite it, and with it the schedules of a deployment.
        """
        if self.bulk:
            self.load(name)
        kind = self.kinds[name]
        if key not in self._rows[name] and (name in self._paged or name not in self._loaded):
            self.put(name, key, kind.find(self, key) if key.count("/") >= len(kind.keys) - 1 else None)
        return self._rows[name].get(key)

    def again(self, name: str, key: str) -> Row | None:
        """Return an object as it is now. Raises ApiError."""
        self.put(name, key, self.kinds[name].find(self, key))
        return self._rows[name][key]

    def name_of(self, name: str, identity: str) -> str:
        """Return the key of the object with an id; unknown ids and other texts unchanged."""
        known = self._keys[name].get(identity)
        if known is None and name not in self._loaded and len(identity) == 36 and identity.count("-") == 4:
            self.load(name)
            known = self._keys[name].get(identity)
        return known or identity

    def id_of(self, name: str, key: str) -> str:
        """Return the id of an object; ids unchanged. Raises Failure if there is no such object."""
        if key in self._keys[name] or (len(key) == 36 and key.count("-") == 4):
            return key
        row = self.find(name, key)
        if row is None:
            raise Failure(f"there is no {self.kinds[name].label} {key} at {self._first.url}")
        return str(row["id"])


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: unlike in Python, true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def plan(
    server: Server,
    kind: Kind,
    *,
    key: str,
    wanted: Mapping[str, Any],
    state: str,
    row: Row | None,
    recreate: bool = False,
    keep: bool = False,
) -> Plan:
    """Compare the wanted state with the present object (`row`, or None) and return what to do.

    Fields that are not in `wanted` are left alone. Raises Failure if an immutable field would have to change and
    `recreate` does not allow it.
    """
    values = kind.canonical(wanted, server)
    begun = server.begun(kind.name, key, row)
    if begun and (row is None or state == "present"):
        row = begun[-1].row
    basis: dict[str, Any] = {"kind": kind, "key": key, "state": state, "row": row, "recreate": recreate, "keep": keep}
    basis["begun"] = bool(begun)
    before = None if row is None else kind.shape(row, server)
    if state == "absent":
        diff = _diff(server, kind, key, before or {}, {})
        return Plan(**basis, action="nothing" if row is None else "delete", diff=diff)
    after, kept = kind.target(values, before, keep=keep)
    basis.update(wanted=dict(wanted), kept=kept)
    if before is None:
        shown = {name: value for name, value in after.items() if value is not None}
        diff = _diff(server, kind, key, {}, {**kind.parts(key), **shown})
        return Plan(**basis, action="create", after=after, changes=after, diff=diff)
    changes = {name: value for name, value in after.items() if not same(value, before[name])}
    stuck = [name for name in changes if kind.fields[name].immutable]
    if stuck and not begun and not (recreate and kind.recreatable):
        raise Failure(_stuck(server, kind, key, before, after, stuck), immutable=stuck)
    diff = _diff(server, kind, key, {name: before[name] for name in after}, after)
    whole = {**before, **after}
    action: Action = "recreate" if stuck or begun else "update" if changes else "nothing"
    return Plan(**basis, action=action, after=whole, changes=changes, diff=diff)


def carry_out(server: Server, todo: Plan) -> bool:
    """Carry out a plan and return whether that changed anything. Raises ApiError and Failure.

    If another client was faster, or a response was lost, it reads the object again and does what remains.
    """
    kind, changed = todo.kind, False
    tried: set[tuple[Action, int | None]] = set()
    while todo.action != "nothing":
        try:
            _write(server, todo)
        except ApiError as error:
            attempt = (todo.action, error.status)
            if not (error.status in {404, 409} or error.lost) or attempt in tried:
                raise
            tried.add(attempt)
            changed = changed or error.lost
            row = server.again(kind.name, todo.key)
            todo = plan(
                server,
                kind,
                key=todo.key,
                wanted=todo.wanted,
                state=todo.state,
                row=row,
                recreate=todo.recreate,
                keep=todo.keep,
            )
        else:
            return True
    return changed


def _write(server: Server, todo: Plan) -> None:
    kind = todo.kind
    if todo.action == "delete":
        assert todo.row is not None
        row = kind.find(server, todo.key) if todo.begun else todo.row
        if row is not None:
            kind.delete(server, row, todo.key)
        server.gone(kind.name, todo.key, todo.row)
    elif todo.action == "create":
        server.put(kind.name, todo.key, kind.create(server, todo.key, todo.after))
    elif todo.action == "recreate":
        server.put(kind.name, todo.key, kind.recreate(server, todo))
    else:
        kind.update(server, todo)


def ensure(
    server: Server,
    kind: Kind,
    *,
    key: str,
    wanted: Mapping[str, Any],
    state: str,
    check_mode: bool,
    recreate: bool = False,
    keep: bool = False,
) -> dict[str, Any]:
    """Ensure that one object exists with the `wanted` fields, or is absent; return `changed`, `object` and `diff`.

    Raises Failure, before the first request if the error can be found without one, and ApiError.
    """
    problems = list(kind.problems({**kind.parts(key), **wanted})) if state == "present" else []
    problems += not_json({**kind.parts(key), **wanted})
    if problems:
        raise Failure(f"{kind.label} {key}: {'; '.join(problems)}")
    row = server.again(kind.name, key)
    if kind.recreatable and (recreate or state == "absent"):
        named = {"variables": {"name": {"like_": recreations.prefix(kind.name, key)}}}
        server.note(*recreations.read(server.api.pages("/variables/filter", named), [kind.name])[0])
    todo = plan(server, kind, key=key, wanted=wanted, state=state, row=row, recreate=recreate, keep=keep)
    if todo.action in {"create", "update", "recreate"}:
        missing = missing_fields(kind, wanted) if row is None else []
        problems = [*missing, *unresolved(server, todo), *kind.checks(todo, server)]
        problems += [problem for _, problem in kind.inquiries([todo], server)]
        if problems:
            raise Failure(f"{kind.label} {key}: {'; '.join(problems)}")
    changed = todo.action != "nothing"
    if changed and not check_mode:
        changed = carry_out(server, todo)
        server.finish([todo])
        row = None if state == "absent" else server.again(kind.name, key)
    elif changed and check_mode:
        row = None if state == "absent" else row
    shown: dict[str, Any] | None = None
    if state == "present":
        values = todo.after if row is None or check_mode else kind.shape(row, server)
        extra = {name: row[name] for name in kind.shows if row and name in row}
        shown = {**kind.parts(key), **kind.shown(values or {}, server, key), **extra}
    elif row is not None and not check_mode:
        shown = {**kind.parts(key)}
    return {"changed": changed, "object": shown, "diff": todo.diff, "kept": todo.kept}


def not_json(wanted: Mapping[str, Any]) -> list[str]:
    """Return an error for each field with a value that no server can store, so that it could not be read back."""
    found: list[str] = []
    for name, value in wanted.items():
        reasons: dict[str, list[str]] = {}
        for path, reason in _unstorable(value, name):
            reasons.setdefault(reason, []).append(path)
        found += [f"{name}: {reason} ({', '.join(paths)})" for reason, paths in reasons.items()]
    return found


def _unstorable(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield path and reason of values that JSON or a database cannot represent, at any depth."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _unstorable(str(name), path)
            yield from _unstorable(each, f"{path}.{name}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _unstorable(each, f"{path}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, NOT_A_NUMBER
    elif isinstance(value, str) and "\0" in value:
        yield path, "it holds the character U+0000, which PostgreSQL does not store: remove it"
    elif isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value):
        yield path, "it holds half of a surrogate pair, after which a server cannot read its own data: remove it"


def missing_fields(kind: Kind, wanted: Mapping[str, Any]) -> list[str]:
    """Return an error for each missing field that a new object needs."""
    return [
        f"{name} is missing: a new {kind.label} needs it"
        for name, about in kind.fields.items()
        if about.required and wanted.get(name) is None
    ]


def unresolved(server: Server, todo: Plan, expected: Container[tuple[str, str]] = ()) -> Iterator[str]:
    """Yield an error for each object that is referred to, does not exist and is not `expected` to."""
    for name, key in dict.fromkeys(todo.kind.references(todo)):
        if (name, key) not in expected and server.find(name, key) is None:
            known = [other for other, row in server.load(name).items() if row is not None]
            near = difflib.get_close_matches(key, known, n=1)
            yield f"there is no {server.kinds[name].label} {key}" + (f"; {near[0]}?" if near else "")


def options(kind: Kind) -> dict[str, dict[str, Any]]:
    """Return the options of a kind's module."""
    extra: dict[str, dict[str, Any]] = {}
    if kind.recreatable:
        extra["recreate"] = {"type": "bool", "default": False}
    return {
        **{name: {"type": "str", "required": True} for name in kind.keys},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        # The system log and `-vvv` show the arguments of a module, and these may contain secrets at any depth.
        **{
            name: {**about.spec, **({"no_log": True} if about.spec["type"] in {"dict", "list", "raw"} else {})}
            for name, about in kind.fields.items()
        },
        **extra,
    }


def run(kind: Kind, kinds: Mapping[str, Kind], spec: Mapping[str, Any] | None = None, **more: Any) -> None:
    """Run a kind's module. `spec` holds further options; `more` is passed to AnsibleModule."""
    # Imported here because a host that only reconciles has no Ansible.
    from ..api.module import SECRETS, mask_of, run_module

    def work(api: Api, params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
        server = Server(api, kinds, mask=mask_of(params))
        wanted = {name: params[name] for name in kind.fields if params[name] is not None}
        try:
            result = ensure(
                server,
                kind,
                key=kind.key(params),
                wanted=wanted,
                state=params["state"],
                check_mode=check_mode,
                recreate=params.get("recreate", False),
                keep=params.get("pauses") == "keep",
            )
        except Failure as failure:
            failure.details[SECRETS] = list(kind.suspects(wanted, server.mask))
            raise
        kept = result.pop("kept")
        result[SECRETS] = list(kind.secrets(wanted, server, kind.key(params)))
        return {**result, "kept": kept} if "pauses" in params else result

    run_module(work, {**options(kind), **(spec or {})}, **more)


def _stuck(server: Server, kind: Kind, key: str, before: Values, after: Values, stuck: Iterable[str]) -> str:
    old, new = kind.shown(before, server, key), kind.shown(after, server, key)
    changes = ", ".join(f"{name} is {old[name]!r}, not {new[name]!r}" for name in stuck)
    way = "allow it with recreate: true" if kind.recreatable else f"delete the {kind.label} first (state: absent)"
    return (
        f"{kind.label} {key}: {changes}, and that cannot be changed. It would have to be deleted and recreated: {way}, "
        "or leave the option out to keep its value"
    )


def _diff(server: Server, kind: Kind, key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return Ansible's diff; for a secret it shows that it changes, but not its value."""
    label = f"{kind.label} {key}"
    old, new = kind.shown(before, server, key), kind.shown(after, server, key)
    new = marked(old, new, before, after)
    return {"before_header": label, "after_header": label, "before": old, "after": new}
