#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Log in to PostgreSQL from a host, and fail if it cannot serve Prefect, before anything changes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_database
short_description: Check that a PostgreSQL database can serve Prefect
description:
  - Logs in from the host on which the module runs, as Prefect will, and checks version, extension and connections.
  - Fails with one message that names the variable to change. It needs no client on the host.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
extends_documentation_fragment: selfhosted.prefect.postgres
options:
  connections:
    description: Maximum number of connections that Prefect opens, over all its processes and hosts.
    type: int
    default: 0
  sqlite:
    description:
      - File of the SQLite database that the instance may have used before. The module fails if the file exists and
        nothing has been moved to PostgreSQL, since all its data would seem lost.
    type: path
  variable:
    description: Variable that names the database, for messages.
    type: str
    default: prefect_database_host
  wait:
    description: Seconds to wait for a database that is starting or not reachable yet.
    type: int
    default: 0
attributes:
  check_mode:
    description: Never changes anything.
    support: full
"""

EXAMPLES = r"""
- name: Check the database
  selfhosted.prefect.host_database:
    host: db1
    name: prefect
    user: prefect
    password: "{{ vault_database_password }}"
    tls: true
    connections: 60
"""

RETURN = r"""
version:
  description: Version of the server, such as 15.6.
  returned: success
  type: str
max_connections:
  description: Connections that the server allows to users that are not superusers.
  returned: success
  type: int
free_connections:
  description: How many of these connections other users leave to this one.
  returned: success
  type: int
trigram:
  description: Whether the extension pg_trgm exists. Otherwise Prefect's migration creates it.
  returned: success
  type: bool
encrypted:
  description: Whether the connection is encrypted.
  returned: success
  type: bool
used:
  description: Whether the database contains flows or work pools.
  returned: success
  type: bool
schema:
  description: Revision of Prefect's schema, empty if there is none yet.
  returned: success
  type: str
"""

import os
import pwd
import re
import ssl
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.postgres import (
    LOGIN,
    Connection,
    DatabaseError,
    connect,
    explain,
)

MIN_VERSION = (14, 9)
STARTING = "57P03"

FACTS = """
select current_setting('server_version'),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true)::int, 0),
       (select count(*) from pg_stat_activity
         where backend_type = 'client backend' and usename is distinct from current_user),
       pg_is_in_recovery(),
       exists (select from pg_extension where extname = 'pg_trgm'),
       exists (select from pg_available_extensions where name = 'pg_trgm'),
       has_database_privilege(current_database(), 'create'),
       has_schema_privilege(coalesce(current_schema(), 'public'), 'create'),
       current_setting('server_encoding'),
       to_regclass('alembic_version') is not null,
       (select rolconnlimit from pg_roles where rolname = current_user),
       (select datconnlimit from pg_database where datname = current_database())
"""


def transient(error: Exception) -> bool:
    """Return whether a starting database or network could cause this error."""
    if isinstance(error, DatabaseError):
        return error.code == STARTING
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLError)


def is_unknown(error: Exception, params: dict[str, Any]) -> bool:
    """Return whether a database rejects the caller on its socket because the service's account does not exist yet."""
    refused = isinstance(error, DatabaseError) and error.code == "28000" and params["host"].startswith("/")
    if not refused or os.geteuid() != 0:
        return False
    try:
        pwd.getpwnam(params["account"])
    except KeyError:
        return bool(params["account"])
    return False


def look(session: Connection) -> dict[str, Any]:
    """Return facts about a database."""
    (row,) = session.query(FACTS)
    text = [value or "" for value in row]
    allowed = int(text[1])
    limits = [int(limit) for limit in text[10:12] if limit and int(limit) >= 0]
    schema = session.query("select version_num from alembic_version") if text[9] == "t" else []
    used = bool(schema) and session.query("select exists (select from flow) or exists (select from work_pool)") == [
        ["t"]
    ]
    return {
        "version": text[0].split()[0],
        "max_connections": min([allowed, *limits]),
        "free_connections": min([allowed - int(text[2]), *limits]),
        "standby": text[3] == "t",
        "trigram": text[4] == "t",
        "trigram_available": text[5] == "t",
        "may_extend": text[6] == "t",
        "may_create": text[7] == "t",
        "encoding": text[8],
        "schema": (schema[0][0] or "") if schema else "",
        "encrypted": session.encrypted,
        "used": used,
    }


def problems_of(found: dict[str, Any], params: dict[str, Any]) -> list[str]:
    """Return the errors of all conditions in a database that would make Prefect fail."""
    where, variable = f"{params['host']}:{params['port']}", params["variable"]
    problems = []
    version = tuple(int(part) for part in re.findall(r"\d+", found["version"])[:2])
    if version < MIN_VERSION:
        problems.append(
            f"{variable}: {where} is PostgreSQL {found['version']}, and Prefect needs "
            f"{MIN_VERSION[0]}.{MIN_VERSION[1]} or newer"
        )
    if found["standby"]:
        problems.append(f"{variable}: {where} is a standby, which can only be read; name the primary")
    if found["encoding"] != "UTF8":
        problems.append(
            f"prefect_database_name: {params['name']} on {where} has the encoding {found['encoding']}; make one in UTF8"
        )
    if not found["trigram"] and not found["trigram_available"]:
        problems.append(f"{variable}: {where} has no extension pg_trgm; install PostgreSQL's contrib package there")
    if not found["may_create"]:
        problems.append(
            f"prefect_database_user: {params['user']} may not create tables in {params['name']} on {where}; make it "
            "the owner of the database, or grant it all on its schema"
        )
    if not found["trigram"] and found["trigram_available"] and not found["may_extend"]:
        problems.append(
            f"prefect_database_user: {params['name']} on {where} has no extension pg_trgm yet, and {params['user']} "
            "may not create it; run create extension pg_trgm there as an administrator, or make the user the owner"
        )
    if params["sqlite"] and not found["used"] and Path(params["sqlite"]).exists():
        problems.append(
            f"{variable}: this instance has its data in {params['sqlite']}, and {where} has none of it; move it with "
            "the playbook sqlite_to_postgres, or rename the file to start with an empty database"
        )
    if params["connections"] > found["free_connections"]:
        problems.append(
            f"{variable}: Prefect opens up to {params['connections']} connections (processes times pool size), and of "
            f"the {found['max_connections']} that {where} allows {found['free_connections']} are left; raise its "
            "max_connections (prefect_postgres_max_connections), or lower the processes or their pools"
        )
    return problems


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **LOGIN,
            "connections": {"type": "int", "default": 0},
            "sqlite": {"type": "path"},
            "variable": {"type": "str", "default": "prefect_database_host"},
            "wait": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    deadline = time.monotonic() + params["wait"]
    while True:
        try:
            with connect(params, timeout=10) as session:
                found = look(session)
            break
        except (DatabaseError, OSError, ValueError) as error:
            if is_unknown(error, params):
                module.exit_json(
                    changed=False,
                    warnings=[
                        f"{params['variable']}: the PostgreSQL at {params['host']} may know {params['user']} by its "
                        f"account {params['account']}, which does not exist on this host yet; it was not looked at"
                    ],
                )
            if not transient(error) or time.monotonic() > deadline:
                module.fail_json(msg=explain(error, params))
            time.sleep(0.25)
    if problems := problems_of(found, params):
        module.fail_json(msg="\n".join(problems), **found)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
