#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Back up the database of a Prefect instance, or restore a backup."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_backup
short_description: Back up the database of a Prefect instance, restore it, or empty it
description:
  - Copies a SQLite database while the server uses it, or dumps Prefect's tables of a PostgreSQL database with
    C(pg_dump). A backup gets its name when it is completely on disk and has been read back. Its manifest, beside it,
    has the instance, server, database, version, schema revision, rows of each table, size and SHA-256 digest.
  - Before a database is replaced or emptied, it is backed up to the directory C(safety) below O(directory). Stop the
    servers first.
  - PostgreSQL is restored in one transaction. SQLite is restored to a file beside the database, which is then renamed.
    Other tables in the same PostgreSQL database do not change.
  - Needs read access to the SQLite file, or the PostgreSQL client programs of at least the server's major version.
    It looks for these on the PATH and where Debian and Red Hat install each version.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  state:
    description:
      - V(present) makes a backup. V(secured) makes one in the directory C(safety). V(checked) checks that O(restore),
        or without it the database, can be used, and changes nothing. V(listed) lists the backups. V(restored) replaces
        the database by a backup. V(emptied) removes Prefect's tables.
      - V(proven) proves O(restore) with the scratch server of O(proof). V(cleared) removes what a proof that was
        killed left.
    type: str
    choices: [present, secured, checked, listed, restored, emptied, proven, cleared]
    default: present
  directory:
    description:
      - Directory of the backups. It is created with access for its owner only. Root refuses a directory that another
        account can write to. Several instances may share one.
    type: path
    required: true
  former:
    description:
      - Directory in which earlier versions kept the backups. Backups that root made there are moved to O(directory).
    type: path
  instance:
    description: Name of the instance.
    type: str
    required: true
  server:
    description: Name of the server's host in the inventory.
    type: str
    required: true
  installation:
    description:
      - Identity of the installation that a SQLite file belongs to, as M(selfhosted.prefect.host_preflight) returns it.
        It tells hosts apart that have the same name in their inventories; a backup with another one is neither removed
        nor V(latest). PostgreSQL has an identity of its own.
    type: str
    default: ''
  version:
    description: Version of Prefect that uses the database.
    type: str
    default: ''
  target:
    description: Version of Prefect that will use a restored database. Empty means O(version).
    type: str
    default: ''
  restore:
    description:
      - The backup to restore, as a name in O(directory) or its directory C(safety), a path, or V(latest), the newest
        backup of this instance's database outside C(safety).
    type: str
  restore_instance:
    description: Instance of the backup, if it is not O(instance).
    type: str
    default: ''
  since:
    description:
      - Path of the backup that was made before an upgrade which was interrupted. With O(state=secured), the new backup
        is compared with it. A damaged SQLite database is then copied as it is.
    type: path
  safety:
    description: Whether to back up the database before it is replaced or emptied.
    type: bool
    default: true
  copies:
    description: Number of copies of a SQLite database for which V(checked) requires space in O(directory).
    type: int
    default: 1
  keep:
    description: How many of the newest backups of this instance's database to keep. 0 keeps all.
    type: int
    default: 0
  keep_days:
    description:
      - Days to keep a backup of this instance's database. A new backup removes the two oldest of those that are older,
        but not the one before it. 0 keeps all.
    type: int
    default: 0
  command:
    description:
      - Command line that copies a new backup off the host. The path of the backup is its last argument, and is in the
        environment as C(PREFECT_BACKUP); the manifest beside it has the same name with C(.json). If the command fails,
        the task fails and the backup is kept.
    type: list
    elements: str
    default: []
  record:
    description: File to which the time of the newest backup is written, and whether it is proven.
    type: path
  verify:
    description:
      - Whether to prove a new backup. It is restored into a scratch database. The number of rows of each table, and
        digests of every kind of object and of the newest flow runs, are compared with those of the database when it was
        backed up. A scratch server then has to list the same objects.
      - If the proof fails, the task fails. The backup is kept with the reason in its manifest, no older backup is
        removed, and V(latest) does not mean it.
      - In PostgreSQL, the user needs the attribute CREATEDB, unless O(superuser) is set. The scratch database has the
        name of O(database) with C(_proof) at its end.
    type: bool
    default: false
  proof:
    description: The scratch server of O(verify). Everything of it is removed in the end, or by the next run.
    type: dict
    suboptions:
      release:
        description: Directory of the release of Prefect, the same as the one that uses the database.
        type: path
        required: true
      settings:
        description:
          - File of the settings of the server that uses the database. The scratch server gets those of the database and
            the encryption key.
        type: path
        required: true
      scratch:
        description: Directory of the scratch server, in one that only root can write. A run creates and removes it.
        type: path
        required: true
      account:
        description: The server's account. Defaults to the one that runs the module.
        type: str
      unit:
        description: Name of the unit in which systemd runs the scratch server. Without it, it is a process.
        type: str
      scope:
        description: Whether the unit is the system's or the user's.
        type: str
        choices: [system, user]
        default: system
      options:
        description: Properties of that unit.
        type: dict
      timeout:
        description: Seconds in which the scratch server must answer.
        type: int
        default: 180
  sqlite:
    description: The SQLite file. If left out, the database is PostgreSQL.
    type: path
  owner:
    description: Owner of a SQLite file that does not exist yet. Defaults to its directory's owner.
    type: str
  host:
    description: Host of PostgreSQL. Defaults to its socket on this host.
    type: str
  port:
    description: Port of PostgreSQL.
    type: int
    default: 5432
  database:
    description: Name of the PostgreSQL database.
    type: str
    default: prefect
  user:
    description: PostgreSQL user, and owner of the restored objects.
    type: str
    default: prefect
  password:
    description: Password of that user.
    type: str
  search_path:
    description: PostgreSQL's search_path of the server's sessions. Empty means that of the user.
    type: str
    default: ''
  sslmode:
    description: The sslmode of libpq for the connection to PostgreSQL.
    type: str
    default: prefer
  ca:
    description: File of the certificate authorities to trust.
    type: path
  cert:
    description: File of the client certificate.
    type: path
  key:
    description: File of the client certificate's key.
    type: path
  superuser:
    description: User of the host that runs the client programs and is the PostgreSQL superuser on its socket.
    type: str
attributes:
  check_mode:
    description: Reports what would be done, and changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Back up SQLite
  selfhosted.prefect.host_backup:
    sqlite: /var/lib/prefect/prefect.db
    directory: /var/backups/prefect-server
    instance: prefect
    server: "{{ inventory_hostname }}"
    version: 3.8.8
    keep: 7

- name: Restore the newest backup
  selfhosted.prefect.host_backup:
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
  description: The backup that was made. Null in check mode, and if there was nothing to back up before a restore.
  returned: success
  type: str
revision:
  description: Revision of the schema of the backup that was made or, with O(state=checked), of the PostgreSQL database.
  returned: if a backup was made, and for PostgreSQL with O(state=checked) and without O(restore)
  type: str
proven:
  description: Whether the backup is proven.
  returned: if a backup was made or proven
  type: bool
moved:
  description: Names of the backups that were moved from O(former).
  returned: with O(former)
  type: list
  elements: str
restored:
  description: The backup that was restored, or would be.
  returned: with O(restore)
  type: str
since:
  description:
    - Whether the schema of the new backup is that of the one in O(since), so that the same version of Prefect can use
      it (C(usable)), and otherwise what a restore of the one in O(since) loses (C(cost)).
  returned: with O(state=secured) and O(since), except in check mode
  type: dict
removed:
  description: Older backups that were removed.
  returned: success
  type: list
  elements: str
backups:
  description:
    - The backups, each with its name, creation time, size in bytes, version, revision, whether it was C(checked), when
      it was C(proven) or why it is C(unproven), its error if it is damaged (C(problem)), whether it is C(latest),
      whether it is dated in the future (C(ahead)), and whether it is a C(safety) backup. They are in the order in which
      they were made.
  returned: with O(state=listed)
  type: list
  elements: dict
table:
  description: The backups as lines of text.
  returned: with O(state=listed)
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.databases import FAILURES, message, run

PROOF: dict[str, Any] = {
    "release": {"type": "path", "required": True},
    "settings": {"type": "path", "required": True},
    "scratch": {"type": "path", "required": True},
    "account": {"type": "str"},
    "unit": {"type": "str"},
    "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
    "options": {"type": "dict"},
    "timeout": {"type": "int", "default": 180},
}
"""Option: the scratch server of a proof."""


def main() -> None:
    text, file = {"type": "str"}, {"type": "path"}
    states = ["present", "secured", "checked", "listed", "restored", "emptied", "proven", "cleared"]
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": states, "default": "present"},
            "directory": {"type": "path", "required": True},
            "instance": {"type": "str", "required": True},
            "server": {"type": "str", "required": True},
            "installation": {"type": "str", "default": ""},
            "version": {"type": "str", "default": ""},
            "target": {"type": "str", "default": ""},
            "restore": text,
            "restore_instance": {"type": "str", "default": ""},
            "since": file,
            "safety": {"type": "bool", "default": True},
            "copies": {"type": "int", "default": 1},
            "keep": {"type": "int", "default": 0},
            "keep_days": {"type": "int", "default": 0},
            "command": {"type": "list", "elements": "str", "default": []},
            "record": file,
            "verify": {"type": "bool", "default": False},
            "proof": {"type": "dict", "options": PROOF},
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
        required_if=[("state", "restored", ["restore"]), ("state", "proven", ["restore", "proof"])],
        supports_check_mode=True,
    )
    try:
        result = run(module.params, dry=module.check_mode, warn=module.warn)
    except FAILURES as error:
        module.fail_json(msg=message(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
