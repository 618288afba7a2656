"""The table of objects that Prefect's API manages: a row per kind, in the order in which they are applied.

To add a kind, add it to a family below `kinds`, here, and as a module with its documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .engine import Kind, Server, Values, run
from .kinds import automations, blocks, deployments, flows, limits, pools, schedules, variables

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        blocks.BLOCK_TYPE,
        blocks.BLOCK,
        variables.VARIABLE,
        limits.GLOBAL_CONCURRENCY_LIMIT,
        limits.TAG_CONCURRENCY_LIMIT,
        flows.FLOW,
        pools.WORK_POOL,
        pools.WORK_QUEUE,
        deployments.DEPLOYMENT,
        automations.AUTOMATION,
    )
}


def listed(server: Server, names: Iterable[str], *, secrets: bool = False) -> dict[str, list[Values]]:
    """Return all objects of some kinds in the format of `resources`, keyed by its list names, except for Prefect's own.

    Applying the result changes nothing, unless secrets are hidden; with `secrets`, it includes them. Raises ApiError.
    """
    found: dict[str, list[Values]] = {}
    for name in names:
        kind = KINDS[name]
        rows = {key: row for key, row in server.load(name).items() if row is not None and not kind.is_system(row)}
        if name in {"block", "block_type"}:
            blocks.load_schemas(server, {key.split("/")[0] for key in rows})
        found[kind.list_name] = []
        for key, row in sorted(rows.items()):
            values = kind.shape(row, server)
            shown = values if secrets else kind.shown(values, server, key)
            found[kind.list_name].append({**kind.parts(key), **written(shown)})
    return found


def written(values: Values) -> Values:
    """Return fields as a user would write them: without what is not set and what the server adds."""
    after = {
        name: value
        for name, value in values.items()
        if value is not None and (value != {} or name in {"value", "data"})
    }
    labels = {name: value for name, value in after.pop("labels", {}).items() if not name.startswith("prefect.")}
    if labels:
        after["labels"] = labels
    if "schedules" in after:
        after["schedules"] = [schedules.canonical(each) for each in after["schedules"]]
    return after


def main(name: str, spec: Mapping[str, Any] | None = None, **more: Any) -> None:
    """Run the module of a kind. `spec` holds further options; `more` is passed to AnsibleModule."""
    run(KINDS[name], KINDS, spec, **more)
