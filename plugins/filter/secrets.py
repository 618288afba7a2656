"""Where the secrets of a platform are kept on the controller, and what hosts remember of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.selfhosted.prefect.plugins.module_utils.fingerprints import fingerprint, matches
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_secrets import missing, text_of


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


def fingerprints(secrets: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Return the fingerprint of each secret by its name: the `known` one where it is that of the secret."""
    texts = {name: text_of(name, secret) for name, secret in secrets.items()}
    return {
        name: known[name] if name in known and matches(known[name], name, text) else fingerprint(name, text)
        for name, text in texts.items()
    }


def lacking(names: Sequence[str], directory: str, instance: str) -> list[str]:
    """Return those of the names that the controller has no secret for."""
    return missing(Path(directory) / instance, names)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"fingerprints": fingerprints, "lacking": lacking, "secrets_dir": secrets_dir}
