"""Render templates on the controller for the module of the same name."""

from __future__ import annotations

import hashlib
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.rendered import FILES, LEDGER, rendered

LARGE = 2000
"""Characters of content from which on a host is asked first whether it has the file already."""


def by_digest(file: dict[str, Any]) -> dict[str, Any]:
    """Return a file with the SHA-256 of its content in place of the content, if that is large."""
    if len(file.get("content") or "") < LARGE or file["state"] != "present":
        return file
    digest = hashlib.sha256(file["content"].encode()).hexdigest()
    return {name: value for name, value in file.items() if name != "content"} | {"sha256": digest}


MODULE = "selfhosted.prefect.host_files"


class ActionModule(ActionBase):
    """Sends the content of all files in one call, or in two: large content goes only to a host that lacks it.

    Secret content goes in an option that is never logged.
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec({"files": FILES, "ledger": LEDGER})
        if not arguments["files"]:
            return result | {"changed": False}
        files, secrets = rendered(self, arguments["files"], task_vars)
        call = {"files": [by_digest(file) for file in files], "secrets": secrets, "ledger": arguments["ledger"]}
        answer = self._execute_module(module_name=MODULE, module_args=call, task_vars=task_vars)
        if lacking := answer.pop("lacking", None):
            call["files"] = [file if file["path"] in lacking else by_digest(file) for file in files]
            answer = self._execute_module(module_name=MODULE, module_args=call, task_vars=task_vars)
        result |= answer
        # Whole files would drown the other output of `-vvv`; `written` and the diff show what was written.
        result.pop("invocation", None)
        return result
