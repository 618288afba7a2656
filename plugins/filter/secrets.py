"""Filters for the secrets that the controller keeps, and for the fingerprints of them on the hosts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.selfhosted.prefect.plugins.module_utils.host.fingerprints import fingerprint, matches
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_secrets import missing, text_of


def secrets_dir(host: str, hostvars: Mapping[str, Any], servers: Sequence[str]) -> str:
    """Return the directory on the controller that holds the generated secrets of a host's platform.

    It is `.secrets` beside the inventory of the platform's first server, or of the host if there is no server, so that
    hosts from several inventories share it. An inventory that is not a file (`-i host,`) has no directory: then it is
    `selfhosted.prefect/<that server or host>` in the user's data directory, wherever Ansible is started.
    """
    first = next(iter(servers), host)
    variables = hostvars[first] if first in hostvars else hostvars[host]
    directory = str(variables.get("inventory_dir") or "")
    if directory not in ("", "None"):
        return str(Path(directory) / ".secrets")
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return str(Path(data) / "selfhosted.prefect" / first)


def fingerprints(secrets: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Return the fingerprint of each secret by name: the `known` one if it matches the secret, otherwise a new one."""
    texts = {name: text_of(name, secret) for name, secret in secrets.items()}
    return {
        name: known[name] if name in known and matches(known[name], name, text) else fingerprint(name, text)
        for name, text in texts.items()
    }


def lacking(names: Sequence[str], directory: str, instance: str) -> list[str]:
    """Return the names for which the controller has no secret."""
    return missing(Path(directory) / instance, names)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"fingerprints": fingerprints, "lacking": lacking, "secrets_dir": secrets_dir}
