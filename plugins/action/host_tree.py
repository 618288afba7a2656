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


def contents(source: Path, *, exclude: list[str], links_outside: bool = True) -> dict[str, str]:
    """Return the files below ``source`` by relative path, each as its SHA-256, with an x if it is executable.

    Symbolic links are followed, because their targets do not exist on the host.
    Raises AnsibleActionFail for a dangling link, for a link to a directory that contains it and, without
    ``links_outside``, for a link that leads out of ``source``.
    """
    found = {}
    for place, names, files in os.walk(source, followlinks=True):
        directory = Path(place)
        names[:] = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in exclude)]
        for name in names:
            check_link(directory / name, source, exclude=exclude, links_outside=links_outside)
            if (directory / name).is_symlink() and directory.resolve().is_relative_to((directory / name).resolve()):
                raise AnsibleActionFail(f"src: {directory / name} leads to a directory that it is in")
        for name in files:
            path = directory / name
            if any(fnmatch.fnmatch(name, pattern) for pattern in exclude):
                continue
            check_link(path, source, exclude=exclude, links_outside=links_outside)
            if not path.exists():
                raise AnsibleActionFail(f"src: {path} leads nowhere")
            if path.is_file():
                executable = "x" if path.stat().st_mode & 0o100 else ""
                found[path.relative_to(source).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest() + executable
    return found


def check_link(path: Path, source: Path, *, exclude: list[str], links_outside: bool) -> None:
    """Raise AnsibleActionFail for a link out of the source, or to a part of it that is not sent, if neither may be."""
    if links_outside or not path.is_symlink():
        return
    # Path.resolve fails for a link to itself, on some versions of Python.
    target, top = Path(os.path.realpath(path)), source.resolve()
    parts = target.relative_to(top).parts if target.is_relative_to(top) else None
    if parts is None or any(fnmatch.fnmatch(part, pattern) for part in parts for pattern in exclude):
        raise AnsibleActionFail(
            f"src: the link {path.relative_to(source)} leads to {path.readlink()}, which is not part of what is sent; "
            "a repository must not name files of the controller. Commit the file itself, or leave the link out"
        )


def pack(archive: Path, source: Path, names: list[str]) -> None:
    """Write the named files below ``source`` to a compressed archive; links are replaced with their targets."""
    with tarfile.open(archive, mode="w:gz", dereference=True) as tar:
        for name in names:
            tar.add(source / name, arcname=name)


MODULE = "selfhosted.prefect.host_tree"


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
                "links_outside": {"type": "bool", "default": True},
                "only_if_empty": {"type": "bool", "default": False},
                "ledger": LEDGER,
            }
        )
        source = Path(self._find_needle("files", arguments["src"]))
        if not source.is_dir():
            raise AnsibleActionFail(f"src: {source} is no directory")
        own = {name: arguments.pop(name) for name in ("exclude", "links_outside")}
        wanted = contents(source, **own)
        call = {name: value for name, value in arguments.items() if name != "src"} | {"wanted": wanted}
        answer = self._execute_module(module_name=MODULE, module_args=call, task_vars=task_vars)
        if answer.get("sent") and not answer.get("failed") and not self._task.check_mode:
            with tempfile.NamedTemporaryFile(suffix=".tar.gz") as archive:
                pack(Path(archive.name), source, answer["sent"])
                directory = self._connection._shell.tmpdir or self._make_tmp_path()
                remote = self._connection._shell.join_path(directory, "tree.tar.gz")
                self._transfer_file(archive.name, remote)
            self._fixup_perms2([directory, remote])
            call["archive"] = remote
            answer = self._execute_module(module_name=MODULE, module_args=call, task_vars=task_vars)
        answer.pop("invocation", None)
        result |= answer
        return result
