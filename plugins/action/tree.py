"""Send a directory of the controller to a host: only what differs, in one archive."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


def contents(source: Path, *, exclude: list[str]) -> dict[str, str]:
    """Return the files below ``source`` with their SHA-256, by relative path."""
    found = {}
    for directory, names, files in os.walk(source):
        names[:] = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in exclude)]
        for name in files:
            if not any(fnmatch.fnmatch(name, pattern) for pattern in exclude):
                path = Path(directory, name)
                found[path.relative_to(source).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class ActionModule(ActionBase):
    """Asks the host what differs, and sends that."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        text = {"type": "str"}
        _, arguments = self.validate_argument_spec(
            {
                "src": {"type": "path", "required": True},
                "dest": {"type": "str", "required": True},
                "owner": text,
                "group": text,
                "exclude": {
                    "type": "list",
                    "elements": "str",
                    "default": [".git", "__pycache__", "*.pyc", ".venv", ".env"],
                },
                "only_if_empty": {"type": "bool", "default": False},
            }
        )
        source = Path(self._find_needle("files", arguments["src"]))
        if not source.is_dir():
            raise AnsibleActionFail(f"src: {source} is no directory")
        wanted = contents(source, exclude=arguments["exclude"])
        call = {name: arguments[name] for name in ("dest", "owner", "group", "only_if_empty")} | {"wanted": wanted}
        answer = self._execute_module(module_name="selfhosted.prefect.tree", module_args=call, task_vars=task_vars)
        if answer.get("sent") and not answer.get("failed") and not self._task.check_mode:
            with tempfile.NamedTemporaryFile(suffix=".tar.gz") as archive:
                with tarfile.open(fileobj=archive, mode="w:gz") as tar:
                    for name in answer["sent"]:
                        tar.add(source / name, arcname=name)
                archive.flush()
                remote = self._connection._shell.join_path(self._make_tmp_path(), "tree.tar.gz")
                self._transfer_file(archive.name, remote)
            call["archive"] = remote
            answer = self._execute_module(module_name="selfhosted.prefect.tree", module_args=call, task_vars=task_vars)
            self._remove_tmp_path(self._connection._shell.tmpdir)
        answer.pop("invocation", None)
        return result | answer
