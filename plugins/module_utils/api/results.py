"""Removes secrets from the result of a module."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.parameters import remove_values


def conceal(module: AnsibleModule, result: dict[str, Any], secrets: Collection[str] | None = None) -> dict[str, Any]:
    """Return `result` with every secret in it replaced, and let Ansible hide the same texts in its output.

    Up to core 2.21 Ansible itself replaces `no_log_values` in a result. From 2.22 on it leaves the result unchanged,
    and the controller hides every text that the module reports in all further output of the run.

    Args:
        secrets: the texts to hide; every value of a `no_log` option by default.
    """
    if secrets is not None:
        module.no_log_values = set(secrets)
        if tracker := getattr(module, "_new_secrets", None):
            # Otherwise all values of `no_log` options are reported.
            tracker.flush()
            result = {**result, "_ansible_new_secrets": sorted(module.no_log_values)}
    kept = {name: value for name, value in result.items() if name == "_ansible_new_secrets"}
    return {**remove_values(result, module.no_log_values), **kept}
