#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make a directory on the host equal to one on the controller. The action plugin of the same name sends the files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tree
short_description: Make a directory on the host equal to one on the controller
description:
  - Sends what differs, in one archive, and removes what it has sent before and is gone from the source.
  - Files that it has not sent stay as they are.
version_added: 0.1.0
author: The selfhosted.prefect maintainers
options:
  src:
    description: Directory on the controller.
    type: path
    required: true
  dest:
    description: Directory on the host. It is made if it is missing.
    type: path
    required: true
  owner:
    description: Owner of what is sent. Left out, whoever connects.
    type: str
  group:
    description: Group of what is sent. Left out, that of whoever connects.
    type: str
  exclude:
    description: Names of files and directories to leave out, as shell patterns.
    type: list
    elements: str
    default: [.git, __pycache__, '*.pyc', .venv, .env]
  only_if_empty:
    description: Whether to do nothing where files are already.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would be sent and removed.
    support: full
"""

EXAMPLES = r"""
- name: Send the flows
  selfhosted.prefect.tree:
    src: flows
    dest: /var/lib/prefect/flows
    owner: prefect
    group: prefect
"""

RETURN = r"""
sent:
  description: Files that were sent, relative to O(dest).
  returned: success
  type: list
  elements: str
removed:
  description: Files that were removed.
  returned: success
  type: list
  elements: str
"""

import contextlib
import grp
import hashlib
import json
import os
import pwd
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MEMORY = ".selfhosted-prefect.json"
"""File in the destination that names what was sent."""


@dataclass(frozen=True)
class Memory:
    """What was sent to a directory before, and whether that was done: a run may have been killed."""

    files: tuple[str, ...] = ()
    complete: bool = True

    @classmethod
    def of(cls, dest: Path) -> Memory:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((dest / MEMORY).read_text())
            return cls(tuple(found["files"]), found["complete"])
        return cls()

    def write(self, dest: Path, *, owner: int, group: int) -> None:
        replace(
            dest / MEMORY,
            json.dumps({"complete": self.complete, "files": sorted(self.files)}).encode(),
            owner=owner,
            group=group,
            mode=0o640,
        )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file and an x where it is executable, or an empty string where there is none."""
    with contextlib.suppress(OSError):
        executable = "x" if path.stat().st_mode & 0o100 else ""
        return hashlib.sha256(path.read_bytes()).hexdigest() + executable
    return ""


def replace(path: Path, content: bytes, *, owner: int, group: int, mode: int) -> None:
    """Write a file as a whole or not at all."""
    fresh = path.with_name(f".{path.name}.ansible-new")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    os.chown(fresh, owner, group)
    fresh.replace(path)


def make(directory: Path, *, below: Path, owner: int, group: int) -> None:
    """Make a directory and what is missing above it, down from ``below``."""
    for step in reversed([step for step in [directory, *directory.parents] if step.is_relative_to(below)]):
        if not step.is_dir():
            step.mkdir(mode=0o750)
            os.chown(step, owner, group)


def unpack(archive: str, dest: Path, *, wanted: dict[str, str], owner: int, group: int) -> None:
    """Write the files of an archive that are wanted, each at once."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            source = tar.extractfile(member)
            if source is None or member.name not in wanted:
                continue
            path = dest / member.name
            make(path.parent, below=dest, owner=owner, group=group)
            mode = 0o750 if wanted[member.name].endswith("x") else 0o640
            replace(path, source.read(), owner=owner, group=group, mode=mode)


def remove(path: Path) -> None:
    """Remove a file and the directories that are empty without it; the destination is not, for the memory is there."""
    path.unlink()
    with contextlib.suppress(OSError):
        for step in path.parents:
            step.rmdir()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "only_if_empty": {"type": "bool", "default": False},
            "wanted": {"type": "dict", "required": True},
            "archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    dest, wanted = Path(params["dest"]), params["wanted"]
    before = Memory.of(dest)
    if params["only_if_empty"] and before.complete and dest.is_dir() and any(dest.iterdir()):
        module.exit_json(changed=False, sent=[], removed=[])

    send = sorted(name for name, wanted_digest in wanted.items() if digest(dest / name) != wanted_digest)
    doomed = sorted(name for name in before.files if name not in wanted and (dest / name).is_file())
    changed = bool(send or doomed) or not dest.is_dir() or not before.complete
    if module.check_mode or not changed or (send and not params["archive"]):
        module.exit_json(changed=changed, sent=send, removed=doomed)

    os.umask(0o022)
    try:
        owner = pwd.getpwnam(params["owner"]).pw_uid if params["owner"] else -1
        group = grp.getgrnam(params["group"]).gr_gid if params["group"] else -1
        dest.parent.mkdir(parents=True, exist_ok=True)
        make(dest, below=dest, owner=owner, group=group)
        os.chown(dest, owner, group)
        Memory((*{*before.files, *wanted},), complete=False).write(dest, owner=owner, group=group)
        # Before anything is written: what was a file may have become a directory.
        for name in doomed:
            remove(dest / name)
        if params["archive"]:
            unpack(params["archive"], dest, wanted=wanted, owner=owner, group=group)
        Memory(tuple(wanted)).write(dest, owner=owner, group=group)
    except (OSError, KeyError) as error:
        module.fail_json(msg=f"{dest} cannot be written: {error}")
    module.exit_json(changed=True, sent=send, removed=doomed)


if __name__ == "__main__":
    main()
