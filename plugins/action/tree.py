"""Send a directory of the controller to a host: only the files that differ, in one archive."""

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
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.rendered import LEDGER


def contents(source: Path, *, exclude: list[str]) -> dict[str, str]:
    """Return the files below ``source`` by relative path, each as its SHA-256, with an x if it is executable.

    Symbolic links are followed, because their targets do not exist on the host.
    Raises AnsibleActionFail for a dangling link and for a link to a directory that contains it.
    """
    found = {}
    for place, names, files in os.walk(source, followlinks=True):
        directory = Path(place)
        names[:] = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in exclude)]
        for name in names:
            if (directory / name).is_symlink() and directory.resolve().is_relative_to((directory / name).resolve()):
                raise AnsibleActionFail(f"src: {directory / name} leads to a directory that it is in")
        for name in files:
            path = directory / name
            if any(fnmatch.fnmatch(name, pattern) for pattern in exclude):
                continue
            if not path.exists():
                raise AnsibleActionFail(f"src: {path} leads nowhere")
            if path.is_file():
                executable = "x" if path.stat().st_mode & 0o100 else ""
                found[path.relative_to(source).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest() + executable
    return found


def pack(archive: Path, source: Path, names: list[str]) -> None:
    """Write the named files below ``source`` to a compressed archive; links are replaced with their targets."""
    with tarfile.open(archive, mode="w:gz", dereference=True) as tar:
        for name in names:
            tar.add(source / name, arcname=name)


class ActionModule(ActionBase):
    """Asks the host which files differ, and sends those."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        text = {"type": "str"}
        _, arguments = self.validate_argument_spec(
            {
                "src": {"type": "path", "required": True},
                "dest": {"type": "str", "required": True},
                "state_dir": {"type": "str", "required": True},
                "owner": text,
                "group": text,
                "exclude": {
                    "type": "list",
                    "elements": "str",
                    "default": [".git", "__pycache__", "*.pyc", ".venv", ".env"],
                },
                "only_if_empty": {"type": "bool", "default": False},
                "ledger": LEDGER,
            }
        )
        source = Path(self._find_needle("files", arguments["src"]))
        if not source.is_dir():
            raise AnsibleActionFail(f"src: {source} is no directory")
        wanted = contents(source, exclude=arguments["exclude"])
        call = {name: value for name, value in arguments.items() if name not in ("src", "exclude")} | {"wanted": wanted}
        answer = self._execute_module(module_name="selfhosted.prefect.tree", module_args=call, task_vars=task_vars)
        if answer.get("sent") and not answer.get("failed") and not self._task.check_mode:
            with tempfile.NamedTemporaryFile(suffix=".tar.gz") as archive:
                pack(Path(archive.name), source, answer["sent"])
                directory = self._connection._shell.tmpdir or self._make_tmp_path()
                remote = self._connection._shell.join_path(directory, "tree.tar.gz")
                self._transfer_file(archive.name, remote)
            self._fixup_perms2([directory, remote])
            call["archive"] = remote
            answer = self._execute_module(module_name="selfhosted.prefect.tree", module_args=call, task_vars=task_vars)
        answer.pop("invocation", None)
        result |= answer
        return result
