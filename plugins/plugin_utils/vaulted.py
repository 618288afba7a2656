"""The values that ansible-vault decrypted for a play, for the modules that must mask them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.parsing.vault import EncryptedString
from ansible.plugins.action.normal import ActionModule as NormalAction

try:
    from ansible._internal._datatag._tags import Origin
except ImportError:
    # Ansible's internal tag for a value's origin. Without it, only the variables named vault_* are found in files.
    Origin = None

ELSEWHERE = frozenset({"ansible_facts", "group_names", "groups", "hostvars", "play_hosts", "vars"})
"""Ansible's own variables, which hold other hosts and facts."""


def vaulted_texts(variables: Mapping[str, Any]) -> list[str]:
    """Return the secret texts in variables: encrypted with `!vault`, from an encrypted file, or named `vault_*`.

    A variable that refers to another is covered by the variable it refers to. Values that cannot be decrypted are
    skipped: a task that uses one fails anyway.
    """
    found: dict[str, None] = {}
    for name, value in variables.items():
        if name not in ELSEWHERE and not name.startswith("ansible_"):
            found.update(dict.fromkeys(_encrypted(value, by_name=name.startswith("vault_"))))
    return list(found)


def _encrypted(value: Any, *, by_name: bool) -> Iterator[str]:
    if isinstance(value, EncryptedString):
        try:
            yield str(value)
        except AnsibleError:
            return
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _encrypted(each, by_name=by_name)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for each in value:
            yield from _encrypted(each, by_name=by_name)
    elif value is not None and not isinstance(value, bool) and (by_name or _from_encrypted_file(value)):
        text = str(value)
        if "{{" not in text and text:
            yield text


def _from_encrypted_file(value: Any) -> bool:
    origin = Origin.get_tag(value) if Origin else None
    return bool(origin and origin.path and is_encrypted(str(origin.path)))


@functools.lru_cache(maxsize=4096)
def is_encrypted(path: str) -> bool:
    """Return whether a file is encrypted with ansible-vault."""
    try:
        with Path(path).open("rb") as file:
            return file.read(15).startswith(b"$ANSIBLE_VAULT;")
    except OSError:
        return False


class ActionModule(NormalAction):
    """Runs the module with the task's name, and passes it the secret texts in the variables of the host."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        arguments = dict(self._task.args)
        if arguments.get("show_secrets") is None:
            arguments["show_secrets"] = self._templar.template(variables.get("prefect_show_secrets", False))
        arguments["secret_texts"] = [*(arguments.get("secret_texts") or []), *vaulted_texts(variables)]
        self._task.args = arguments
        result: dict[str, Any] = super().run(tmp, task_vars)
        return result
