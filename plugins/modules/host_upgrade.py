#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Record what a host is like before an upgrade, and restore it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_upgrade
short_description: Record what a host is like before an upgrade, and restore it
description:
  - The record has the release in use, the settings and units of the services, and what is known about the database. It
    is written before the upgrade changes anything and removed when the upgrade has ended, so a later run can complete
    or undo an upgrade that was interrupted.
  - Restarts no service and does not change the database.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  state:
    description:
      - V(recorded) writes the record; that of an interrupted upgrade to the same release stays. V(undone) restores the
        release and the files of the record, and keeps it. V(finished) removes the record.
      - V(renewed) is for the record of an interrupted upgrade. With O(backup), the record gets that newer backup, which
        the older release can use. Without it, the record gets the O(cost) of the backup that it has.
    type: str
    choices: [recorded, renewed, undone, finished]
    required: true
  state_dir:
    description: Directory of the record.
    type: path
    required: true
  link:
    description: Symbolic link to the release in use, beside the directory C(releases).
    type: path
    required: true
  to:
    description: Name of the release that the upgrade installs. Required with O(state=recorded).
    type: str
  files:
    description: Settings and units to record. Those that do not exist are left out.
    type: list
    elements: path
    default: []
  revision:
    description: Revision of the database's schema. Empty means unknown.
    type: str
    default: ''
  backup:
    description: Path of the backup that was made for this upgrade. Empty means none.
    type: str
    default: ''
  cost:
    description: What a restore of the recorded backup loses. Empty means nothing but what the upgrade itself wrote.
    type: str
    default: ''
attributes:
  check_mode:
    description: Reports whether the record would be written or removed, and changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Record what the host is like
  selfhosted.prefect.host_upgrade:
    state: recorded
    state_dir: /opt/prefect/state
    link: /opt/prefect/current
    to: 3.9.1-0123456789ab
    files: [/etc/prefect/server.env, /etc/systemd/system/prefect-server.service]
    revision: a3b9c7d2e5f1
"""

RETURN = r"""
record:
  description: C(release), C(to), C(revision), C(backup) and C(cost) of the record; empty if there is none.
  returned: success
  type: dict
restored:
  description: Paths that were restored.
  returned: with O(state=undone)
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import safe_files, upgrades


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["recorded", "renewed", "undone", "finished"], "required": True},
            "state_dir": {"type": "path", "required": True},
            "link": {"type": "path", "required": True},
            "to": {"type": "str"},
            "files": {"type": "list", "elements": "path", "default": []},
            "revision": {"type": "str", "default": ""},
            "backup": {"type": "str", "default": ""},
            "cost": {"type": "str", "default": ""},
        },
        required_if=[("state", "recorded", ["to"])],
        supports_check_mode=True,
    )
    given = module.params
    state, link = Path(given["state_dir"]), Path(given["link"])
    result: dict[str, object] = {}
    try:
        found = upgrades.unfinished(state)
        changed = found.get("to") != given["to"] if given["state"] == "recorded" else bool(found)
        if module.check_mode:
            module.exit_json(changed=changed, record=found)
        if given["state"] == "recorded":
            also = {name: given[name] for name in ("to", "revision", "backup", "files")}
            changed = upgrades.record(state, link=link, **also)
        elif given["state"] == "renewed":
            changed = upgrades.renew(state, **{name: given[name] for name in ("revision", "backup", "cost")})
        elif given["state"] == "undone":
            result["restored"] = upgrades.undo(state, link=link)
            changed = bool(result["restored"])
        else:
            changed = safe_files.remove(state / upgrades.NAME)
        module.exit_json(changed=changed, record=upgrades.unfinished(state), **result)
    except (upgrades.UpgradeError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
