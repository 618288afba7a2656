#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read how an instance of Prefect on a host is. The reading itself is in `module_utils/status.py`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: status
short_description: Read how an instance of Prefect on a host is
description:
  - Looks at the services of the host and, with the settings that its clients have, at the API - whether it and its
    database answer, whether the work pools have workers, whether the background services plan and mark flow runs, and
    whether events arrive.
  - What C(prefect-info) on a host says is the same. That something is wrong is a fact here, not a failure.
version_added: 0.1.0
author: The selfhosted.prefect maintainers
options:
  instance:
    description: Name of the instance.
    type: str
    default: prefect
  name:
    description: What the names of its services begin with.
    type: str
    default: prefect
  scope:
    description: Whether it was installed for everybody or for the user who connects.
    type: str
    choices: [system, user]
    default: system
  manager:
    description: What runs its services.
    type: str
    choices: [systemd, supervisord, none]
    default: systemd
  opt:
    description: Directory of its releases.
    type: path
    default: /opt/prefect
  etc:
    description: Directory of its settings.
    type: path
    default: /etc/prefect
  database:
    description: Kind of its database, for the reader. Empty where the host does not know it.
    type: str
    default: ''
  services:
    description: Services that the host has to have. A name that ends in C(@) stands for at least one instance.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Reads as it always does.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Read how it is
  selfhosted.prefect.status:
    services: [prefect-server, prefect-worker@]
  register: prefect

- name: Stop here unless all is well
  ansible.builtin.assert:
    that: prefect.status.problems | length == 0
    fail_msg: "{{ prefect.status.problems | join('\n') }}"
"""

RETURN = r"""
status:
  description: What C(prefect-info --json) prints.
  returned: success
  type: dict
  contains:
    checks:
      description: Everything that was looked at, each with C(name), C(healthy), C(detail) and C(shared), which is
        whether every host of the platform would say the same.
      type: list
      elements: dict
    problems:
      description: The checks that are not healthy, a line each.
      type: list
      elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.status import Instance, read


def main() -> None:
    text = {"type": "str"}
    module = AnsibleModule(
        argument_spec={
            "instance": text | {"default": "prefect"},
            "name": text | {"default": "prefect"},
            "scope": text | {"choices": ["system", "user"], "default": "system"},
            "manager": text | {"choices": ["systemd", "supervisord", "none"], "default": "systemd"},
            "opt": {"type": "path", "default": "/opt/prefect"},
            "etc": {"type": "path", "default": "/etc/prefect"},
            "database": text | {"default": ""},
            "services": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, status=read(Instance(**module.params)))


if __name__ == "__main__":
    main()
