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
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MEMORY = ".selfhosted-prefect.json"
"""File in the destination that names what was sent."""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or an empty string where there is none."""
    with contextlib.suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""


def remembered(dest: Path) -> list[str]:
    """Return the files that were sent before."""
    with contextlib.suppress(OSError, ValueError):
        return list(json.loads((dest / MEMORY).read_text()))
    return []


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
    before = remembered(dest)
    if params["only_if_empty"] and dest.is_dir() and (before or any(dest.iterdir())):
        module.exit_json(changed=False, sent=[], removed=[])
    owner = pwd.getpwnam(params["owner"]).pw_uid if params["owner"] and not module.check_mode else -1
    group = grp.getgrnam(params["group"]).gr_gid if params["group"] and not module.check_mode else -1

    send = sorted(name for name, wanted_digest in wanted.items() if digest(dest / name) != wanted_digest)
    remove = sorted(name for name in before if name not in wanted and (dest / name).is_file())
    changed = bool(send or remove) or not dest.is_dir()
    if module.check_mode or not changed or (send and not params["archive"]):
        module.exit_json(changed=changed, sent=send, removed=remove)

    os.umask(0o027)
    dest.mkdir(parents=True, exist_ok=True)
    os.chown(dest, owner, group)
    if params["archive"]:
        with tarfile.open(params["archive"]) as archive:
            for member in archive.getmembers():
                path = dest / member.name
                source = archive.extractfile(member)
                if member.name not in wanted or source is None:
                    continue
                for parent in reversed(
                    [step for step in path.parents if step not in dest.parents and not step.exists()]
                ):
                    parent.mkdir()
                    os.chown(parent, owner, group)
                fresh = path.with_name(f".{path.name}.ansible-new")
                fresh.write_bytes(source.read())
                fresh.chmod(0o750 if member.mode & 0o100 else 0o640)
                os.chown(fresh, owner, group)
                fresh.replace(path)
    for name in remove:
        (dest / name).unlink()
    (dest / MEMORY).write_text(json.dumps(sorted(wanted)))
    os.chown(dest / MEMORY, owner, group)
    module.exit_json(changed=True, sent=send, removed=remove)


if __name__ == "__main__":
    main()
