"""The options of `module_utils/files.py`, for the documentation of the modules that write files."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
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
        description:
          - Whether what an account that no longer exists has left below a directory gets the same owner and group. What
            belongs to other accounts is left as it is.
        type: bool
        default: false
      recurse_root:
        description: Whether O(files[].recurse) gives root's files too, where the directory itself belongs to root.
        type: bool
        default: false
      secret:
        description: Whether neither a diff nor a log may show the content.
        type: bool
        default: false
"""
