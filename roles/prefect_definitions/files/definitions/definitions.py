"""Every flow that `definitions.json` defines, by its name: the entrypoints `definitions.py:<flow>` of deployments.

This module has no name of its own but those with two underscores in front, which no flow gets: a flow may be called
`sys`, `Path` or `annotations`.
"""


def __getattr__(name: str) -> object:
    import sys
    from pathlib import Path

    if name.startswith("__"):
        raise AttributeError(name)
    here = Path(__file__).resolve().parent
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    from prefect_definitions.directory import flow_in

    return flow_in(here, name)
