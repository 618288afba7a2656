"""Filters for the secrets that the controller keeps, and for the fingerprints of them on the hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.selfhosted.prefect.plugins.module_utils.host.fingerprints import fingerprint, matches
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_secrets import missing, text_of


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
        return {"fingerprints": fingerprints, "lacking": lacking}
