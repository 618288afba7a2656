"""Every flow that `definitions.json` defines, by its name: the entrypoints `definitions.py:<flow>` of deployments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from prefect import Flow

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))


def __getattr__(name: str) -> Flow[..., Any]:
    from prefect_definitions.directory import flow_in

    if name.startswith("__"):
        raise AttributeError(name)
    return flow_in(HERE, name)
