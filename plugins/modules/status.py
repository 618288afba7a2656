#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read the health of a Prefect instance on a host. The checks are in `module_utils/onhost/status.py`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: status
short_description: Read the health of a Prefect instance on a host
description:
  - Checks the services of the host and, with the settings of its clients, the API - whether the API and its database
    answer, whether the work pools have workers, whether the background services schedule and mark flow runs, and
    whether events arrive.
  - C(prefect-info) on a host reports the same. Problems are returned and do not fail the task.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  instance:
    description: Name of the instance.
    type: str
    default: prefect
  name:
    description: Prefix of the names of its services.
    type: str
    default: prefect
  scope:
    description: Whether it was installed for the whole system or for the user who connects.
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
    description: Kind of its database, for display. Empty if the host does not know it.
    type: str
    default: ''
  services:
    description: Services that must run on the host. A name that ends in C(@) stands for at least one instance.
    type: list
    elements: str
    default: []
  backup:
    description: Calendar expression of the host's database backups. Empty if it makes none.
    type: str
    default: ''
  api:
    description: Whether the host has clients of the API. Only then is the API checked.
    type: bool
    default: true
  disks:
    description: Directories that must have free space, as a mapping of their purposes to paths.
    type: dict
    default: {}
  redis_url:
    description: URL of this host's Redis. A server's is found in its settings.
    type: str
    default: ''
  postgres_port:
    description: Port of this host's PostgreSQL. 0 means that it has none.
    type: int
    default: 0
  postgres_database:
    description: Name of its database.
    type: str
    default: prefect
  postgres_user:
    description: User of that database.
    type: str
    default: prefect
  postgres_password:
    description: Password of that user.
    type: str
    default: ''
  proxy_url:
    description: Public address of the API if this host has a proxy, otherwise empty.
    type: str
    default: ''
  proxy_address:
    description: Address that the proxy of this host listens on.
    type: str
    default: 127.0.0.1
attributes:
  check_mode:
    description: Only reads, and sends the server no request that writes.
    support: full
  diff_mode:
    description: Only reads.
    support: none
"""

EXAMPLES = r"""
- name: Read the health of the instance
  selfhosted.prefect.status:
    services: [prefect-server, prefect-worker@]
  register: prefect

- name: Stop unless the instance is healthy
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
      description: All checks, each with C(name), C(healthy), C(detail) and C(shared), which is whether every host of
        the platform would report the same.
      type: list
      elements: dict
    problems:
      description: The checks that are not healthy, one line each.
      type: list
      elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.onhost.status import Instance, read

PLAIN = ("instance", "name", "scope", "manager", "opt", "etc", "database", "services", "backup", "api", "disks")
"""Options that `Instance` takes under the same name."""


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
            "backup": {"type": "str", "default": ""},
            "api": {"type": "bool", "default": True},
            "disks": {"type": "dict", "default": {}},
            "redis_url": {"type": "str", "default": "", "no_log": True},
            "postgres_port": {"type": "int", "default": 0},
            "postgres_database": {"type": "str", "default": "prefect"},
            "postgres_user": {"type": "str", "default": "prefect"},
            "postgres_password": {"type": "str", "default": "", "no_log": True},
            "proxy_url": {"type": "str", "default": ""},
            "proxy_address": {"type": "str", "default": "127.0.0.1"},
        },
        supports_check_mode=True,
    )
    given = module.params
    postgres = {
        "host": "127.0.0.1",
        "port": given["postgres_port"],
        "name": given["postgres_database"],
        "user": given["postgres_user"],
        "password": given["postgres_password"],
    }
    instance = Instance(
        **{name: given[name] for name in PLAIN},
        writes=not module.check_mode,
        redis=given["redis_url"],
        postgres=postgres if given["postgres_port"] else {},
        proxy={"address": given["proxy_address"], "url": given["proxy_url"]} if given["proxy_url"] else {},
    )
    module.exit_json(changed=False, status=read(instance))


if __name__ == "__main__":
    main()
