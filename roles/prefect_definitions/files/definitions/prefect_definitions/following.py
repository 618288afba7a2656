"""Apply a database of definitions as it changes: put them on this host and, from one host of all, register them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import sources
from .checks import problems_here
from .directory import FILE, PATHS, content, differing, enter, write
from .records import DefinitionError
from .resources import Inactive, resources
from .schema import Definitions, Rows, rows_of, with_factory

Data = Mapping[str, Sequence[Mapping[str, Any]]]

PACKAGE = Path(__file__).parent
CHECK_SECONDS = 600.0
"""Seconds that a process may take to check definitions."""

KEPT = "definitions.kept.json"
"""File in the directory of the definitions: what is paused because the database has lost it."""

SHARE = 0.5
"""What part of the deployments, of the work pools, or of a flow's tasks has to go at once for that to be doubted."""


def place(
    directory: Path,
    rows: Rows,
    *,
    paths: list[str],
    work_pool: str,
    inactive: Inactive,
    dry: bool = False,
    kept: Collection[tuple[str, str, str]] = (),
) -> dict[str, Any]:
    """Check definitions, put them into a directory, and return its former and its new content and what to register.

    Raises DefinitionError with everything that is wrong, and leaves the directory as it is then.
    """
    definitions = Definitions.of(rows)
    enter(directory, paths)
    before = content(directory) if (directory / FILE).is_file() else {}
    # What is here already was built when it came.
    if problems := problems_here(definitions, os.environ, flows=differing(definitions, before)):
        raise DefinitionError(problems)
    after = sources.data_of(rows)
    return {
        "before": {kind: held for kind, held in before.items() if kind != PATHS},
        "after": after,
        "changed": write(directory, after, paths=paths, dry=dry),
        "resources": resources(definitions, directory=directory, work_pool=work_pool, inactive=inactive, kept=kept),
    }


def key_of(kind: str, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what tells a row from all others."""
    return kind, str(row.get("flow_name", "")), str(row["name"])


def missing(before: Data, after: Data, *, share: float) -> dict[str, list[tuple[str, str, str]]]:
    """Return the deployments, work pools and tasks of a flow that are gone, where more than a share of them is.

    A flow with some of its tasks is as valid as one with all, and would run without the rest. One that was renamed is
    not gone.
    """
    found: dict[str, list[tuple[str, str, str]]] = {}
    now = [key_of(kind, row) for kind, rows in after.items() for row in rows]
    there, flows = set(now), {name for kind, _, name in now if kind == "prefect_flows"}
    tasks = Counter(flow for kind, flow, _ in now if kind == "prefect_tasks")
    for kind in ("prefect_deployments", "prefect_work_pools"):
        held = [key_of(kind, row) for row in before.get(kind, ())]
        gone = [key for key in held if key not in there]
        if len(gone) > share * len(held):
            found[kind] = gone
    steps: dict[str, list[tuple[str, str, str]]] = {}
    for row in before.get("prefect_tasks", ()):
        steps.setdefault(str(row["flow_name"]), []).append(key_of("prefect_tasks", row))
    for flow, held in steps.items():
        if flow in flows and len(held) - tasks[flow] > share * len(held):
            found.setdefault("prefect_tasks", []).extend(key for key in held if key not in there)
    return found


def with_paused(before: Data, after: Data, kept: set[tuple[str, str, str]]) -> dict[str, list[dict[str, Any]]]:
    """Return definitions `after` with the rows `kept` of those `before` in them, paused, and what those belong to."""
    merged = {kind: [dict(row) for row in rows] for kind, rows in after.items()}
    there = {key_of(kind, row) for kind, rows in merged.items() for row in rows}
    flows = {flow for _, flow, _ in kept}

    def add(kind: str, row: Mapping[str, Any], **more: Any) -> None:
        if key_of(kind, row) not in there:
            merged.setdefault(kind, []).append({**row, **more})

    gone = flows - {str(row["name"]) for row in after.get("prefect_flows", ())}
    for kind in ("prefect_deployments", "prefect_work_pools"):
        for row in before.get(kind, ()):
            if key_of(kind, row) in kept:
                add(kind, row, is_active=False)
    for row in before.get("prefect_flows", ()):
        if row["name"] in gone:
            add("prefect_flows", row)
    # A flow that is still there has tasks of its own.
    with_tasks = {str(row["flow_name"]) for row in after.get("prefect_tasks", ())}
    for row in before.get("prefect_tasks", ()):
        if row["flow_name"] in flows - with_tasks:
            add("prefect_tasks", row)
    return merged


def resumed(before: Data, after: Data) -> dict[str, list[dict[str, Any]]]:
    """Return definitions in which what was paused and is not so any more is active, if it does not say."""
    paused = {key_of(kind, row) for kind, rows in before.items() for row in rows if row.get("is_active") in (False, 0)}
    return {
        kind: [
            {**row, "is_active": True} if row.get("is_active") is None and key_of(kind, row) in paused else dict(row)
            for row in rows
        ]
        for kind, rows in after.items()
    }


@dataclass(frozen=True, kw_only=True)
class Following:
    """How a database is followed: looked at `every` so many seconds, and registered by the collection's `engine`.

    The engine is the directory with the code of the collection, and empty on the hosts that register nothing.
    """

    source: str
    directory: Path
    paths: list[str]
    work_pool: str
    inactive: Inactive
    owner: str
    every: float
    engine: str
    factory: str = ""
    former: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Following:
        """Return what the environment of the service says, in JSON."""
        given = json.loads(environment["PREFECT_DEFINITIONS_FOLLOW"])
        return cls(**{**given, "directory": Path(given["directory"])})

    def forever(self) -> None:
        """Apply the database whenever it differs from what was applied last, and say what is wrong with it, once."""
        look = Look(self)
        while True:
            look()
            time.sleep(self.every)

    def held(self) -> dict[str, Any]:
        """Return the definitions that are on this host."""
        found = content(self.directory) if (self.directory / FILE).is_file() else {}
        return {kind: rows for kind, rows in found.items() if kind != PATHS}

    def apply(self, rows: Rows, *, kept: Collection[tuple[str, str, str]]) -> None:
        """Place definitions, and register them; what is `kept` is paused at most. Raises DefinitionError."""
        answer = self.placed(rows, kept=kept)
        if answer["changed"]:
            print("the definitions on this host have changed", flush=True)
        if self.engine:
            # Meanwhile the other hosts read the database, before one of them gets a run of a new flow.
            time.sleep(self.every if answer["changed"] else 0)
            for line in self.register(answer["resources"]):
                print(line, flush=True)

    def placed(self, rows: Rows, *, kept: Collection[tuple[str, str, str]]) -> dict[str, Any]:
        """Return what `place` does in a process of its own, since this one has the code that it has imported before.

        Raises DefinitionError.
        """
        request = {"source": "", "data": sources.data_of(rows), "kept": sorted(kept), "dry": False}
        request |= {"paths": self.paths, "work_pool": self.work_pool, "inactive": self.inactive}
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
        }
        command = [sys.executable, "-m", PACKAGE.name, "place", str(self.directory)]
        try:
            done = subprocess.run(
                command,
                cwd=self.directory,
                env=environment,
                input=json.dumps(request),
                stdout=subprocess.PIPE,
                text=True,
                timeout=CHECK_SECONDS,
                check=False,
            )
            answer = dict(json.loads(done.stdout))
        except subprocess.TimeoutExpired as error:
            raise DefinitionError(
                [f"the check was not done after {CHECK_SECONDS:g} s; a module that use names waits when it is imported"]
            ) from error
        except ValueError as error:
            raise DefinitionError([f"the check ended with exit code {done.returncode} and gave no answer"]) from error
        if answer["problems"]:
            raise DefinitionError(answer["problems"])
        return answer

    def register(self, made: dict[str, list[dict[str, Any]]]) -> list[str]:
        """Have a server hold what definitions make, and return the plan. Raises DefinitionError."""
        engine = Path(self.engine)
        if str(engine.parent) not in sys.path:
            sys.path.append(str(engine.parent))
        client = importlib.import_module(f"{engine.name}.api.client")
        wishes = importlib.import_module(f"{engine.name}.objects.wishes")
        reconcile = importlib.import_module(f"{engine.name}.objects.reconcile")
        wanted = {kind: entries for kind, entries in made.items() if entries or kind != "prefect_work_pools"}
        wish = wishes.Wish(
            owner=self.owner, former=self.former, prune=True, adopt="unowned", pauses="enforce", typed=True
        )
        url, names = (
            os.environ["PREFECT_API_URL"],
            {"auth": "PREFECT_API_AUTH_STRING", "ca": "PREFECT_API_SSL_CERT_FILE"},
        )
        try:
            with client.Api(url, **{name: os.environ.get(variable) for name, variable in names.items()}) as api:
                report, server = reconcile.reconcile(api, wanted, wish)
                server.close()
                return list(report.result(server)["plan"])
        except client.Failure as failure:
            raise DefinitionError([str(failure)]) from failure


class Look:
    """One look at the database after the other, and what is remembered from one to the next.

    A database that is restored or reloaded is empty for a moment. So what makes more than a share of the deployments
    or work pools, or of the tasks of a flow, go has to be the same at the next look. Then deployments and work pools
    are paused: only Ansible deletes them.
    """

    def __init__(self, following: Following) -> None:
        self.following = following
        self.applied = self.doubted = self.said = ""
        self.file = following.directory / KEPT
        self.kept: set[tuple[str, str, str]] = set()
        # A loss of power may have left it empty.
        with contextlib.suppress(OSError, ValueError):
            self.kept = {(kind, flow, name) for kind, flow, name in json.loads(self.file.read_text(encoding="utf-8"))}

    def __call__(self) -> None:
        try:
            after = sources.data_of(with_factory(sources.read(self.following.source), self.following.factory))
            text = json.dumps(after, sort_keys=True)
            if text == self.applied:
                self.doubted = ""
            else:
                self.consider(after, text)
        except DefinitionError as error:
            if str(error) != self.said:
                self.said = str(error)
                print(self.said, file=sys.stderr, flush=True)

    def consider(self, after: Data, text: str) -> None:
        """Apply what the database holds, unless so much is gone that it is better looked at again."""
        before = self.following.held()
        # Once in doubt, all that is gone is doubted: it may come back row by row.
        gone = missing(before, after, share=0 if self.doubted else SHARE)
        if gone and text != self.doubted:
            self.doubted = text
            print(f"{counted(gone, before)} are gone from the database; nothing is changed before the next look")
            sys.stdout.flush()
            return
        gone.pop("prefect_tasks", None)
        self.kept |= {key for keys in gone.values() for key in keys}
        self.kept -= {key_of(kind, row) for kind, rows in after.items() for row in rows}
        self.remember()
        wanted = with_paused(before, resumed(before, after), self.kept)
        self.following.apply(rows_of(wanted), kept=self.kept)
        if gone:
            print(
                f"{counted(gone, before)} are gone from the database; they are paused, not deleted. "
                "To delete them, run playbooks/definitions.yml",
                flush=True,
            )
        self.applied, self.doubted, self.said = text, "", ""

    def remember(self) -> None:
        """Write down what is paused and not deleted, for the next start of the service."""
        text = json.dumps(sorted(self.kept))
        if text != (self.file.read_text(encoding="utf-8") if self.file.is_file() else "[]"):
            fresh = self.file.with_suffix(".new")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(self.file)


def counted(gone: Mapping[str, Sequence[object]], before: Data) -> str:
    """Return how many are gone, in words."""
    words = {"prefect_deployments": "deployments", "prefect_work_pools": "work pools", "prefect_tasks": "tasks"}
    return " and ".join(f"{len(keys)} of {len(before[kind])} {words[kind]}" for kind, keys in gone.items())
