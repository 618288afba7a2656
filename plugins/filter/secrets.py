"""Where the secrets of a platform are kept on the controller."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def secrets_dir(host: str, hostvars: Mapping[str, Any], servers: Sequence[str]) -> str:
    """Return the directory on the controller that keeps the generated secrets of the platform that a host is part of.

    It is `.secrets` beside the inventory of the platform's first server, or of the host where there is none: hosts that
    come from several inventories share it. An inventory that is no file (`-i host,`) has no place of its own: then it
    is `selfhosted.prefect/<that server or host>` in the user's data directory, wherever Ansible is started.
    """
    first = next(iter(servers), host)
    variables = hostvars[first] if first in hostvars else hostvars[host]
    directory = str(variables.get("inventory_dir") or "")
    if directory not in ("", "None"):
        return str(Path(directory) / ".secrets")
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return str(Path(data) / "selfhosted.prefect" / first)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"secrets_dir": secrets_dir}
