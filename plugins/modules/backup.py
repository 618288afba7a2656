#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Back up the database of a Prefect, or put a backup in its place."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Back up the database of a Prefect instance, restore it, or empty it
description:
  - Copies a SQLite database while the server uses it, or dumps Prefect's tables of a PostgreSQL database with
    C(pg_dump). A backup gets its name when all of it is on the disk and was read again. Beside it is a manifest with
    the instance, server, database, version, schema revision, number of rows of each table, size and SHA-256 digest.
  - What is replaced or emptied is backed up first, in the directory C(safety) below O(directory). Stop the servers
    before.
  - A restore of PostgreSQL is one transaction. One of SQLite is written beside the database and renamed. Tables of
    others in the same PostgreSQL stay as they are.
  - Needs to read the SQLite file, or the PostgreSQL client programs of at least the server's major version, which it
    looks for on the PATH and where Debian and Red Hat install each version.
version_added: 0.1.0
author: The selfhosted.prefect maintainers
options:
  state:
    description:
      - V(present) makes a backup. V(checked) sees that O(restore), or without it the database, can be used, and changes
        nothing. V(listed) lists the backups. V(restored) replaces the database by a backup, V(emptied) removes
        Prefect's tables.
    type: str
    choices: [present, checked, listed, restored, emptied]
    default: present
  directory:
    description:
      - Directory of the backups. It is created for its owner alone. Root refuses one that another account can write.
        Several instances may share one.
    type: path
    required: true
  former:
    description:
      - Directory in which earlier versions kept the backups. Those that root made there are moved to O(directory).
    type: path
  instance:
    description: Name of the instance.
    type: str
    required: true
  server:
    description: Name of the server's host in the inventory.
    type: str
    required: true
  version:
    description: Version of Prefect that the database is used by.
    type: str
    default: ''
  target:
    description: Version of Prefect that will use a restored database. Empty is O(version).
    type: str
    default: ''
  restore:
    description:
      - The backup to restore, as a name in O(directory) or its directory C(safety), a path, or V(latest), the newest of
        this instance's database, never one in C(safety).
    type: str
  restore_instance:
    description: Instance that the backup is of, where it is not O(instance).
    type: str
    default: ''
  safety:
    description: Whether what is replaced or emptied is backed up first.
    type: bool
    default: true
  keep:
    description: How many backups of this instance's database to keep, the oldest going first. 0 keeps all.
    type: int
    default: 0
  keep_days:
    description: Days after which a backup of this instance's database is removed, when a newer one is made. 0 keeps it.
    type: int
    default: 0
  command:
    description:
      - Command line that copies a new backup off the host. The path of the backup is added as its last argument, and is
        in the environment as C(PREFECT_BACKUP); beside it is its manifest, the same name with C(.json). Where it fails,
        the task fails, and the backup stays.
    type: list
    elements: str
    default: []
  record:
    description: File to which the time of the newest backup is written.
    type: path
  sqlite:
    description: The SQLite file. Left out, the database is a PostgreSQL.
    type: path
  owner:
    description: Account that a SQLite file is given to where there is none yet. Left out, its directory's owner.
    type: str
  host:
    description: Host of the PostgreSQL. Left out, its socket on this host.
    type: str
  port:
    description: Port of the PostgreSQL.
    type: int
    default: 5432
  database:
    description: Name of the PostgreSQL database.
    type: str
    default: prefect
  user:
    description: PostgreSQL user, and owner of what is restored.
    type: str
    default: prefect
  password:
    description: Password of that user.
    type: str
  search_path:
    description: PostgreSQL's search_path of the server's sessions. Empty is that of the user.
    type: str
    default: ''
  sslmode:
    description: Libpq's word for how far the TLS of the PostgreSQL is trusted.
    type: str
    default: prefer
  ca:
    description: File of the certificate authorities to trust.
    type: path
  cert:
    description: File of the client certificate.
    type: path
  key:
    description: File of its key.
    type: path
  superuser:
    description: User of the host to run the client programs as, who is the PostgreSQL superuser on its socket.
    type: str
attributes:
  check_mode:
    description: Says that it would, and does not.
    support: full
"""

EXAMPLES = r"""
- name: Back up SQLite
  selfhosted.prefect.backup:
    sqlite: /var/lib/prefect/prefect.db
    directory: /var/backups/prefect-server
    instance: prefect
    server: "{{ inventory_hostname }}"
    version: 3.8.8
    keep: 7

- name: Restore the newest backup
  selfhosted.prefect.backup:
    sqlite: /var/lib/prefect/prefect.db
    directory: /var/backups/prefect-server
    instance: prefect
    server: "{{ inventory_hostname }}"
    version: 3.8.8
    restore: latest
    state: restored
"""

RETURN = r"""
path:
  description: The backup that was made. Null in check mode, and where there was nothing to back up before a restore.
  returned: success
  type: str
moved:
  description: Names of the backups that were moved from O(former).
  returned: with O(former)
  type: list
  elements: str
restored:
  description: The backup that was restored, or would be.
  returned: with O(restore)
  type: str
removed:
  description: Older backups that were removed.
  returned: success
  type: list
  elements: str
backups:
  description:
    - The backups, each with its name, when it was made, size in bytes, version, revision, whether it was C(checked) and
      what is wrong with it (C(problem)), whether it is C(latest), and whether it is a C(safety) backup.
  returned: with O(state=listed)
  type: list
  elements: dict
table:
  description: The same as lines of text.
  returned: with O(state=listed)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.databases import FAILURES, message, run


def main() -> None:
    text, file = {"type": "str"}, {"type": "path"}
    states = ["present", "checked", "listed", "restored", "emptied"]
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": states, "default": "present"},
            "directory": {"type": "path", "required": True},
            "instance": {"type": "str", "required": True},
            "server": {"type": "str", "required": True},
            "version": {"type": "str", "default": ""},
            "target": {"type": "str", "default": ""},
            "restore": text,
            "restore_instance": {"type": "str", "default": ""},
            "safety": {"type": "bool", "default": True},
            "keep": {"type": "int", "default": 0},
            "keep_days": {"type": "int", "default": 0},
            "command": {"type": "list", "elements": "str", "default": []},
            "record": file,
            "former": file,
            "sqlite": file,
            "owner": text,
            "host": text,
            "port": {"type": "int", "default": 5432},
            "database": {"type": "str", "default": "prefect"},
            "user": {"type": "str", "default": "prefect"},
            "password": {"type": "str", "no_log": True},
            "search_path": {"type": "str", "default": ""},
            "sslmode": {"type": "str", "default": "prefer"},
            "ca": file,
            "cert": file,
            "key": {"type": "path", "no_log": False},
            "superuser": text,
        },
        required_if=[("state", "restored", ["restore"])],
        supports_check_mode=True,
    )
    try:
        result = run(module.params, dry=module.check_mode, warn=module.warn)
    except FAILURES as error:
        module.fail_json(msg=message(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
