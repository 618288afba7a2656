"""Definitions of flows: `python -m prefect_definitions check | run | load | serve | schema`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from . import sources
from .directory import FILE, PATHS, content, definitions_in, enter
from .records import DefinitionError
from .schema import Definitions, published, rows_of


def check(options: argparse.Namespace) -> None:
    """Say everything that is wrong with a source, and, with --here, what this host lacks to run it."""
    definitions = Definitions.of(sources.read(options.source, factory=options.factory))
    if options.here:
        from .checks import problems_here

        enter(Path.cwd(), [])
        if problems := problems_here(definitions, os.environ):
            raise DefinitionError(problems)
    print(f"{len(definitions.flows)} flows, {len(definitions.tasks)} tasks, {len(definitions.deployments)} deployments")


def place(options: argparse.Namespace) -> dict[str, Any]:
    """Check definitions, put them into a directory, and return what to register (for the Ansible module, in JSON)."""
    from . import following

    request = json.load(sys.stdin)
    answer: dict[str, Any] = {"problems": []}
    try:
        factory = request.get("factory", "")
        if request["source"]:
            rows = sources.read(request["source"], factory=factory)
            if not (any(rows.values()) or request.get("load_into")):
                refuse_to_lose(Path(options.directory).resolve())
        elif request.get("files"):
            rows = sources.merged(request["files"], factory=factory)
        else:
            rows = rows_of(request["data"], factory=factory)
        if request.get("load_into"):
            answer["changes"] = sources.load(rows, request["load_into"], prune=request["prune"], dry=request["dry"])
        else:
            given = {name: request[name] for name in ("paths", "work_pool", "inactive", "dry")}
            given["kept"] = {tuple(key) for key in request.get("kept", ())}
            answer |= following.place(Path(options.directory).resolve(), rows, **given)
    except DefinitionError as error:
        answer["problems"] = error.problems
    return answer


def refuse_to_lose(directory: Path) -> None:
    """Raise DefinitionError where a directory holds definitions: a database that is reloaded is empty for a moment."""
    held = len(content(directory).get("prefect_flows", [])) if (directory / FILE).is_file() else 0
    if held:
        raise DefinitionError(
            [
                f"prefect_definitions_source: the database holds no definitions, and this host has {held} flows of it; "
                "to remove them, name a file with prefect_flows: [] instead"
            ]
        )


def answered(options: argparse.Namespace) -> None:
    """The same, its answer being all that standard output has: what callables print goes to standard error.

    The process ends then and there, whatever a module wants to do at exit, or has left running.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        try:
            answer = place(options)
        except Exception:
            traceback.print_exc()
            os._exit(1)
        json.dump(answer, output)
    sys.stderr.flush()
    os._exit(0)


def follow(options: argparse.Namespace) -> None:
    """Apply a database as it changes, as PREFECT_DEFINITIONS_FOLLOW says."""
    from .following import Following

    Following.of(os.environ).forever()


def load(options: argparse.Namespace) -> None:
    """Make the tables of a database hold what files do, and print what differed."""
    rows = sources.read(options.source, factory=options.factory)
    changes = sources.load(rows, options.database, prune=options.prune, dry=options.dry_run)
    print("\n".join(changes) or "nothing to change")


def run(options: argparse.Namespace) -> None:
    """Run a flow in this process."""
    from .flows import flow_of

    directory = Path(options.directory).resolve()
    enter(directory, content(directory).get(PATHS, []))
    flow_of(definitions_in(directory), options.flow)(**json.loads(options.parameters))


def serve(options: argparse.Namespace) -> None:
    """Serve the flows of a directory."""
    from .application import serve as serve_flows

    serve_flows(Path(options.directory).resolve())


def schema(options: argparse.Namespace) -> None:
    """Print the JSON schema of a file of definitions."""
    print(json.dumps(published(), indent=2))


def main() -> int:
    parser = argparse.ArgumentParser(prog="prefect_definitions", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    for verb in (check, follow, run, load, serve, schema):
        verbs.add_parser(verb.__name__, help=verb.__doc__).set_defaults(verb=verb)
    verbs.add_parser("place", help=place.__doc__).set_defaults(verb=answered)
    named = verbs.choices
    named["check"].add_argument("source", help="file, directory or URL of a database")
    named["check"].add_argument("--here", action="store_true", help="also what this host lacks")
    named["load"].add_argument("source", help="file or directory")
    named["load"].add_argument("database", nargs="?", default=os.environ.get("PREFECT_DEFINITIONS_DATABASE", ""))
    named["load"].add_argument("--prune", action="store_true", help="delete rows that the files do not have")
    named["load"].add_argument("--dry-run", action="store_true", help="write nothing")
    for name in ("check", "load"):
        named[name].add_argument("--factory", default="", help="what resolves names in use, as package.module:callable")
    named["run"].add_argument("flow")
    named["run"].add_argument("--directory", default=".")
    named["run"].add_argument("--parameters", default="{}", help="a JSON object")
    named["place"].add_argument("directory")
    named["serve"].add_argument("directory")
    options = parser.parse_args()
    try:
        options.verb(options)
    except DefinitionError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
