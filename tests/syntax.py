#!/usr/bin/env python
"""`ansible-playbook` with copies that share their strings.

Each play and role that loads a file gets a copy of its own, in which each string and its tags (the file, line and
column that it comes from) are copied as well. Neither ever changes. With copies that share them, the syntax check of
all playbooks takes a third of the time.
"""

from __future__ import annotations

import sys
from typing import Any

from ansible.module_utils._internal import _datatag

UNCHANGING = (
    _datatag._AnsibleTaggedStr,
    _datatag._AnsibleTaggedInt,
    _datatag._AnsibleTaggedFloat,
    _datatag._AnsibleTagsMapping,
)


def itself(value: Any, memo: dict[int, Any]) -> Any:
    """The copy of a value that never changes."""
    return value


for kind in UNCHANGING:
    kind.__deepcopy__ = itself

if __name__ == "__main__":
    from ansible.cli.playbook import main

    sys.exit(main())
