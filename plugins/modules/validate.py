#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validate
short_description: Reject variables that nothing reads
description:
  - Argument specs check only the variables that they know, and silently accept misspelt ones. This module rejects them.
  - Runs on the controller and connects to no host.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  version:
    description: Version of Prefect to install; empty for none. A version without a lock gives a warning.
    type: str
    default: ''
  lock:
    description: Path of the user's own lock for that version; empty for none.
    type: str
    default: ''
  settings:
    description:
      - Settings for Prefect, by the variable that contains them. They must neither contradict a variable nor be
        outdated.
    type: dict
    default: {}
  environments:
    description: The environments of deployments on the host.
    type: list
    elements: raw
    default: []
  environment_names:
    description:
      - Names of environment variables that are not settings for Prefect, by the variable that contains them and their
        values. The values are secret.
    type: dict
    default: {}
  api_auth:
    description: The API's credential, as C(user:password) or empty. It is never shown.
    type: str
    default: ''
  server:
    description:
      - The server on another host that this host depends on, as C(name) and the address that it C(listens_on).
        Empty if there is none.
    type: dict
    default: {}
  proxy:
    description:
      - The proxies of the inventory, with their C(domain), C(hosts), C(servers), C(certificate), C(certificate_key) and
        C(acme). The certificate must match its key and the domain, and be valid now.
    type: dict
    default: {}
  secrets:
    description: Passwords that must not be well-known ones, by the variable that contains them. They are never shown.
    type: dict
    default: {}
  topology:
    description:
      - The parts of one Prefect instance. C(servers) is a list of hosts, C(processes) is the highest number of API
        processes on any of them, C(database) is V(sqlite) or V(postgresql), C(redis) is whether it uses Redis.
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
  description: All errors, one line each, with the name that was probably meant.
  returned: failure
  type: str
"""
