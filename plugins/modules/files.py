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
        description:
          - V(kept) gives a directory owner and mode if it is there, and makes none. V(unused) removes a directory that
            is empty, V(absent) removes it with all that is in it.
        type: str
        choices: [present, kept, unused, absent]
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
      - path: /etc/prefect/server.env
        template: etc/prefect/settings.env.j2
        mode: "0640"
        group: prefect
        secret: true
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
    """Return the user and group id that a file is to have; in check mode -1 for those that are still to be made.

    Raises KeyError where there is no such user or group.
    """
    try:
        owner = pwd.getpwnam(file["owner"]).pw_uid if file["owner"] else os.geteuid()
        group = grp.getgrnam(file["group"]).gr_gid if file["group"] else os.getegid()
    except KeyError:
        if dry:
            return -1, -1
        raise
    return owner, group


def belongs(path: Path, *, owner: int, group: int) -> bool:
    """Return whether a path, or the link that it is, has the wanted owner and group."""
    found = path.lstat()
    return (found.st_uid, found.st_gid) == (owner, group)


def allows(path: Path, mode: int) -> bool:
    """Return whether a path, or the link that it is, has exactly the wanted permissions."""
    return stat.S_IMODE(path.lstat().st_mode) == mode


def write(path: Path, content: bytes, *, owner: int, group: int, mode: int) -> None:
    """Replace a file; nobody ever sees half of it, or sees it with the wrong permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.ansible-new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
    os.chown(fresh, owner, group)
    fresh.chmod(mode)
    fresh.replace(path)


def ensure_directory(file: dict[str, Any], *, dry: bool) -> bool:
    """Make a directory as it is wanted, where it is a link the directory behind it; return whether it changed."""
    path, mode = Path(file["path"]).resolve(), int(file["mode"], 8)
    owner, group = ids(file, dry=dry)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is there and is no directory")
    below = list(path.rglob("*")) if file["recurse"] else []
    strangers = [step for step in below if not belongs(step, owner=owner, group=group)]
    if path.is_dir() and belongs(path, owner=owner, group=group) and allows(path, mode) and not strangers:
        return False
    if not dry:
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, owner, group)
        path.chmod(mode)
        for step in strangers:
            os.chown(step, owner, group, follow_symlinks=False)
    return True


def ensure_file(file: dict[str, Any], content: bytes, *, dry: bool) -> tuple[bool, bytes]:
    """Make a file, in place of a link if there is one; return whether it changed, and what it held before."""
    path, mode = Path(file["path"]), int(file["mode"], 8)
    owner, group = ids(file, dry=dry)
    before = b""
    with contextlib.suppress(FileNotFoundError):
        before = path.read_bytes()
        if before == content and belongs(path, owner=owner, group=group) and allows(path, mode):
            return False, before
    if not dry:
        write(path, content, owner=owner, group=group, mode=mode)
    return True, before


def remove(path: Path, *, dry: bool) -> bool:
    """Remove a file, or a directory with what is in it; return whether it was there."""
    if not os.path.lexists(path):
        return False
    if not dry and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif not dry:
        path.unlink()
    return True


def ensure(file: dict[str, Any], *, secret: str | None, dry: bool) -> tuple[bool, dict[str, str]]:
    """Make one file or directory as it is wanted, or remove it; return whether it changed, and its diff."""
    path, content = file["path"], file["content"] if secret is None else secret
    diff = {"before_header": path, "after_header": path}
    if file["state"] == "absent":
        return remove(Path(path), dry=dry), diff | {"prepared": f"remove {path}\n"}
    if file["state"] == "unused":
        empty = Path(path).is_dir() and not any(Path(path).iterdir())
        return empty and remove(Path(path), dry=dry), diff | {"prepared": f"remove {path}\n"}
    if file["state"] == "kept" and not Path(path).exists():
        return False, diff
    if content is None:
        return ensure_directory(file, dry=dry), diff | {"prepared": f"directory {path}\n"}
    changed, before = ensure_file(file, content.encode(), dry=dry)
    if secret is not None:
        return changed, diff | {"prepared": f"{path} (secret)\n"}
    return changed, diff | {"before": before.decode(errors="replace"), "after": content}


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
                    "owner": {"type": "str"},
                    "group": {"type": "str"},
                    "mode": {"type": "str"},
                    "state": {"type": "str", "choices": ["present", "kept", "unused", "absent"], "default": "present"},
                    "recurse": {"type": "bool", "default": False},
                    "secret": {"type": "bool", "default": False},
                },
                "required_if": [("state", "present", ["mode"]), ("state", "kept", ["mode"])],
            },
            # What the secret files hold, in their order. It does not stand in `files`, because Ansible logs every
            # module's options and does not find a suboption of several lines there again, to hide it.
            "secrets": {"type": "list", "elements": "str", "no_log": True, "default": []},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    written, diff = [], []
    secrets = iter(module.params["secrets"])
    for file in module.params["files"]:
        try:
            changed, shown = ensure(file, secret=next(secrets) if file["secret"] else None, dry=module.check_mode)
        except (OSError, KeyError) as error:
            module.fail_json(msg=f"{file['path']} cannot be written: {error}")
        if changed:
            written.append(file["path"])
            diff.append(shown)
    module.exit_json(changed=bool(written), written=written, diff=diff)


if __name__ == "__main__":
    main()
