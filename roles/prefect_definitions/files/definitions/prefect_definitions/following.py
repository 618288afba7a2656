"""Apply a database of definitions as it changes: put them on this host and, from one host of all, register them."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import sources
from .checks import problems_here
from .directory import FILE, PATHS, content, differing, enter, write
from .records import DefinitionError
from .resources import Inactive, resources
from .schema import Definitions, Rows


def place(
    directory: Path, rows: Rows, *, paths: list[str], work_pool: str, inactive: Inactive, dry: bool = False
) -> dict[str, Any]:
    """Check definitions, put them into a directory, and return what was there, is there now, and is to be registered.

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
        "resources": resources(definitions, directory=directory, work_pool=work_pool, inactive=inactive),
    }


@dataclass(frozen=True, kw_only=True)
class Following:
    """How a database is followed: looked at `every` so many seconds, and registered by the collection's `engine`.

    The engine is a directory with the module_utils of the collection, and empty on the hosts that register nothing.
    """

    source: str
    directory: Path
    paths: list[str]
    work_pool: str
    inactive: Inactive
    owner: str
    every: float
    engine: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Following:
        """Return what the environment of the service says, in JSON."""
        given = json.loads(environment["PREFECT_DEFINITIONS_FOLLOW"])
        return cls(**{**given, "directory": Path(given["directory"])})

    def forever(self) -> None:
        """Apply the database whenever it differs from what was applied last, and say what is wrong with it, once."""
        applied, said = "", ""
        while True:
            try:
                rows = sources.read(self.source)
                held = json.dumps(sources.data_of(rows), sort_keys=True)
                if held != applied:
                    self.apply(rows)
                    applied, said = held, ""
            except DefinitionError as error:
                if str(error) != said:
                    said = str(error)
                    print(said, file=sys.stderr, flush=True)
            time.sleep(self.every)

    def apply(self, rows: Rows) -> None:
        """Place definitions, and register them. Raises DefinitionError."""
        answer = place(self.directory, rows, paths=self.paths, work_pool=self.work_pool, inactive=self.inactive)
        if answer["changed"]:
            print("the definitions on this host have changed", flush=True)
        if self.engine:
            # The other hosts have looked at the database, too, before a run of a new flow is theirs.
            time.sleep(self.every if answer["changed"] else 0)
            for line in self.register(answer["resources"]):
                print(line, flush=True)

    def register(self, made: dict[str, list[dict[str, Any]]]) -> list[str]:
        """Have a server hold what definitions make, and return the plan. Raises DefinitionError."""
        engine = Path(self.engine)
        if str(engine.parent) not in sys.path:
            sys.path.append(str(engine.parent))
        client = importlib.import_module(f"{engine.name}.client")
        reconcile = importlib.import_module(f"{engine.name}.reconcile")
        wanted = {kind: entries for kind, entries in made.items() if entries or kind != "prefect_work_pools"}
        wish = reconcile.Wish(owner=self.owner, prune=True, adopt=True, pauses="enforce", typed=True)
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
