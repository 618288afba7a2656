"""The options of `module_utils/host/files.py`, for the documentation of the modules that write files."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  files:
    description: The directories and files, in the order in which they are created.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path on the host.
        type: path
        required: true
      template:
        description: Template of the file on the controller. If left out, O(files[].path) is a directory.
        type: str
      package:
        description:
          - A package below C(plugins/module_utils). O(files[].path) is then a directory with its modules and with all
            that these import, each below the name of its own package.
        type: str
      vars:
        description: Variables of that template.
        type: dict
        default: {}
      owner:
        description: Owner. Defaults to the user who connects.
        type: str
      group:
        description: Group. Defaults to that of the user who connects.
        type: str
      mode:
        description: Permissions in octal digits. Required unless the path is removed.
        type: str
      state:
        description:
          - V(kept) sets owner and mode of a directory if it exists, and does not create it. V(unused) removes an empty
            directory, V(absent) removes a directory with its content.
        type: str
        choices: [present, kept, unused, absent]
        default: present
      recurse:
        description:
          - Whether files below the directory whose account no longer exists get the same owner and group. Files of
            other accounts do not change.
        type: bool
        default: false
      recurse_root:
        description: Whether O(files[].recurse) also changes root's files, if the directory itself belongs to root.
        type: bool
        default: false
      secret:
        description: Whether to hide the content in diffs and logs.
        type: bool
        default: false
"""
