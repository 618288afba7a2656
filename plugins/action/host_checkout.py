"""Run ansible.builtin.git with the URL's credentials in a git credential store."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ansible import constants
from ansible.plugins.action import ActionBase

CONFIGURATION = """[include]
\tpath = ~/.config/git/config
[include]
\tpath = ~/.gitconfig
[credential]
\thelper =
\thelper = store --file '{store}'
\tuseHttpPath = false
"""
"""The user's own git configuration, with another credential helper."""


def split(repo: str) -> tuple[str, str]:
    """Return a URL without its credentials, and the credentials as a line for git's credential store.

    An SSH URL keeps its user name, which is not a secret. A token may stand in place of the user, without a password.
    """
    parts = urlsplit(repo)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return repo, ""
    userinfo, _, host = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    return urlunsplit(parts._replace(netloc=host)), f"{parts.scheme}://{user}:{password}@{host}\n"


class ActionModule(ActionBase):
    """Runs git on the task's host, which is the controller."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "repo": {"type": "str", "required": True, "no_log": True},
                "version": {"type": "str", "default": "HEAD"},
                "dest": {"type": "path", "required": True},
            }
        )
        url, credential = split(arguments["repo"])
        dest = Path(arguments["dest"])
        if self._task.check_mode and self._connection.transport == "local":
            # What is compared with the checkout needs one. Ansible removes this directory when it ends.
            dest = Path(constants.DEFAULT_LOCAL_TMP, dest.name)
            self._task.check_mode = False
        call = {"repo": url, "version": arguments["version"], "dest": str(dest), "force": True}
        with tempfile.TemporaryDirectory() as directory:
            if credential:
                store, configuration = Path(directory, "credentials"), Path(directory, "config")
                store.touch(mode=0o600)
                store.write_text(credential, encoding="utf-8")
                configuration.write_text(CONFIGURATION.format(store=store), encoding="utf-8")
                self._task.environment = [
                    *(self._task.environment or []),
                    {"GIT_CONFIG_GLOBAL": str(configuration), "GIT_TERMINAL_PROMPT": "0"},
                ]
            result |= self._execute_module(module_name="ansible.builtin.git", module_args=call, task_vars=task_vars)
        return result | {"path": str(dest)}
