#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Write several files in one round trip. The action plugin of the same name renders the templates."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Make directories, write templates and remove either, all in one round trip
description:
  - What M(ansible.builtin.file) and M(ansible.builtin.template) do in several round trips for each file, this does in
    one for all of them.
  - A file is replaced as a whole, with its owner and mode, or not at all.
version_added: 0.1.0
author: The selfhosted.prefect maintainers
options:
  files:
    description: The directories and files, in the order in which they are made.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path on the host.
        type: path
        required: true
      template:
        description: Template on the controller that the file is written from. Left out, O(files[].path) is a directory.
        type: str
      vars:
        description: Variables of that template.
        type: dict
        default: {}
      owner:
        description: Owner. Left out, whoever connects.
        type: str
      group:
        description: Group. Left out, that of whoever connects.
        type: str
      mode:
        description: Permissions, in octal digits. Needed unless the path is to be absent.
        type: str
      state:
        description: V(kept) gives a directory owner and mode if it is there, and makes none.
        type: str
        choices: [present, kept, absent]
        default: present
      recurse:
        description: Whether what is below a directory gets the same owner and group.
        type: bool
        default: false
      secret:
        description: Whether neither a diff nor a log may show the content.
        type: bool
        default: false
attributes:
  check_mode:
    description: Says what would be written.
    support: full
  diff_mode:
    description: Shows what changes, except in secret files.
    support: full
"""

EXAMPLES = r"""
- name: Write the settings
  selfhosted.prefect.files:
    files:
      - {path: /etc/prefect, mode: "0750", group: prefect}
      - {path: /etc/prefect/server.env, template: etc/prefect/settings.env.j2, mode: "0640", group: prefect, secret: true}
"""

RETURN = r"""
written:
  description: Paths that were made, written, or given another owner or mode.
  returned: success
  type: list
  elements: str
"""

import contextlib
import grp
import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def ids(file: dict[str, Any], *, dry: bool) -> tuple[int, int]:
    """Return the user and group id that a file is to have; in check mode -1 for those that are still to be made."""
    try:
        owner = pwd.getpwnam(file["owner"]).pw_uid if file["owner"] else os.geteuid()
        group = grp.getgrnam(file["group"]).gr_gid if file["group"] else os.getegid()
    except KeyError:
        if dry:
            return -1, -1
        raise
    return owner, group


def is_right(path: Path, *, owner: int, group: int, mode: int) -> bool:
    """Return whether a path is there with the wanted owner, group and permissions."""
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (owner, group, mode)
    return False


def give(path: Path, *, owner: int, group: int, mode: int) -> None:
    """Set owner and permissions, without following a link."""
    os.chown(path, owner, group, follow_symlinks=False)
    path.chmod(mode)


def write(path: Path, content: str, *, owner: int, group: int, mode: int) -> None:
    """Replace a file; nobody ever sees half of it, or sees it with the wrong permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.ansible-new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(content)
    give(fresh, owner=owner, group=group, mode=mode)
    fresh.replace(path)


def remove(path: Path, *, dry: bool) -> tuple[bool, list[dict[str, str]]]:
    """Remove a file or a directory with what is in it; return whether it was there, and the diff."""
    if not os.path.lexists(path):
        return False, []
    if not dry:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return True, [{"before_header": str(path), "after_header": str(path), "prepared": f"remove {path}\n"}]


def ensure(file: dict[str, Any], *, dry: bool) -> tuple[bool, list[dict[str, str]]]:
    """Make one file or directory as it is wanted; return whether it changed, and its diff."""
    path = Path(file["path"])
    if file["state"] == "absent" or (file["state"] == "kept" and not path.exists()):
        return remove(path, dry=dry) if file["state"] == "absent" else (False, [])
    mode = int(file["mode"], 8)
    owner, group = ids(file, dry=dry)
    content = file["secret_content"] if file["secret_content"] is not None else file["content"]
    right = is_right(path, owner=owner, group=group, mode=mode)
    if content is None:
        if right and path.is_dir() and not file["recurse"]:
            return False, []
        if not dry:
            path.mkdir(parents=True, exist_ok=True)
            give(path, owner=owner, group=group, mode=mode)
            for below in path.rglob("*") if file["recurse"] else ():
                os.chown(below, owner, group, follow_symlinks=False)
        return True, [{"before_header": str(path), "after_header": str(path), "prepared": f"directory {path}\n"}]
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError:
        before = "(not text)"
    if right and before == content:
        return False, []
    if not dry:
        write(path, content, owner=owner, group=group, mode=mode)
    if file["secret_content"] is not None:
        return True, [{"before_header": str(path), "after_header": str(path), "prepared": f"{path} (secret)\n"}]
    return True, [{"before_header": str(path), "after_header": str(path), "before": before, "after": content}]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "secret_content": {"type": "str", "no_log": True},
                    "owner": {"type": "str"},
                    "group": {"type": "str"},
                    "mode": {"type": "str"},
                    "state": {"type": "str", "choices": ["present", "kept", "absent"], "default": "present"},
                    "recurse": {"type": "bool", "default": False},
                },
            }
        },
        supports_check_mode=True,
    )
    written, diff = [], []
    for file in module.params["files"]:
        try:
            changed, shown = ensure(file, dry=module.check_mode)
        except (OSError, KeyError) as error:
            module.fail_json(msg=f"{file['path']} cannot be written: {error}")
        if changed:
            written.append(file["path"])
            diff += shown
    module.exit_json(changed=bool(written), written=written, diff=diff)


if __name__ == "__main__":
    main()
