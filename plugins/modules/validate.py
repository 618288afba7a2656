#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validate
short_description: Refuse variables that nothing reads
description:
  - Argument specs check the variables that they know and accept misspelt ones in silence. This one does not.
  - Runs on the controller and touches no host.
version_added: 0.1.0
author: The selfhosted.prefect maintainers
options:
  version:
    description: Version of Prefect that is to be installed; empty for none. One that has no lock is warned about.
    type: str
    default: ''
  lock:
    description: Path of the user's own lock of that version; empty for none.
    type: str
    default: ''
  settings:
    description:
      - Settings for Prefect that must neither contradict a variable nor be outdated, by the variable that holds them.
    type: dict
    default: {}
  environment_names:
    description:
      - Names of environment variables that are no settings for Prefect, by the variable that holds them and their
        values, which are secret.
    type: dict
    default: {}
  api_auth:
    description: The API's credential, C(user:password) or empty. It is never shown.
    type: str
    default: ''
  server:
    description:
      - The server on another host that this host depends on, as C(name) and the address that it C(listens_on).
        Empty where there is none.
    type: dict
    default: {}
  proxy:
    description:
      - The proxies of the inventory, with their C(domain), C(hosts), C(servers), C(certificate), C(certificate_key) and
        C(acme). The certificate is checked against its key, the domain and the clock.
    type: dict
    default: {}
  secrets:
    description: Passwords that must not be known to everybody, by the variable that holds them. They are never shown.
    type: dict
    default: {}
  topology:
    description:
      - What makes up one Prefect. C(servers) is a list of hosts, C(processes) is how many processes of the API the
        busiest of them has, C(database) is V(sqlite) or V(postgresql), C(redis) says whether there is one.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Never changes anything.
    support: full
"""

EXAMPLES = r"""
- name: Check the variables
  selfhosted.prefect.validate:
    settings:
      prefect_settings: {PREFECT_LOGGING_LEVEL: DEBUG}
"""

RETURN = r"""
msg:
  description: Every complaint, a line each, with the name that was probably meant.
  returned: failure
  type: str
"""
