"""A filter that finds misspelled names of groups."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def misnamed(groups: Mapping[str, list[str]], known: Sequence[str]) -> list[str]:
    """Return what is probably wrong about the names of groups: `prefect_wokrer (prefect_worker?)`.

    A name that goes on after a known one is meant, such as `prefect_worker_gpu`, and so is that of a group below the
    one that it resembles, such as `prefect_workers` in `prefect_worker`.
    """
    found = []
    for name, hosts in groups.items():
        is_meant = name in known or name.startswith(tuple(f"{other}_" for other in known))
        near = [] if is_meant else difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near and not {*hosts} <= {*groups.get(near[0], [])}:
            found.append(f"{name} ({near[0]}?)")
    return sorted(found)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"misnamed": misnamed}
