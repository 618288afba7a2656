#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Check a host that will run PostgreSQL or Redis, and report what cannot work there before anything changes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_backend
short_description: Check a host that will run PostgreSQL or Redis
description:
  - Resolves the addresses of the hosts that need the service, and finds the host's own addresses that face them.
  - Reports all errors together, each with the variable to change, before anything is written.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
extends_documentation_fragment: selfhosted.prefect.secrets
options:
  peers:
    description: Addresses of the hosts that need the service, by inventory name, without the host itself.
    type: dict
    default: {}
  ports:
    description: TCP ports that must be free on the host or held by the program of O(program_dir), by variable name.
    type: dict
    default: {}
  program_dir:
    description:
      - Directory of the program that may hold the ports, or of a file on its command line. Without it, it is that of
        the first of O(components).
    type: path
  fingerprints:
    description: File in which this host stores the fingerprints of its generated secrets.
    type: path
    required: true
  otherwise:
    description: Variable to set instead if this host cannot run the service.
    type: str
    required: true
  components:
    description:
      - What roles or variables install from packages of the distribution, by their names, each one of V(postgresql),
        V(redis), V(nginx) and V(firewall). The task fails if that is not possible on this host.
    type: dict
    default: {}
  experimental:
    description: Whether to allow it on distributions of the RHEL family, where it was never run on a real host.
    type: bool
    default: false
attributes:
  check_mode:
    description: Never changes a host.
    support: full
"""

EXAMPLES = r"""
- name: Check the host
  selfhosted.prefect.host_backend:
    peers: {api1: 10.0.0.11}
    ports: {prefect_redis_port: 6379}
    program_dir: /etc/prefect-redis
    fingerprints: /etc/prefect-redis/fingerprints
    otherwise: prefect_redis_url
"""

RETURN = r"""
components:
  description: The facts about each value of O(components) on this host, such as the names of its packages.
  returned: success
  type: dict
fingerprints:
  description: Stored fingerprints of the generated secrets that the host uses, by file and name of the secret.
  returned: success
  type: dict
secrets_compared:
  description: Whether O(secrets) was set and the controller's secrets match the host's fingerprints.
  returned: when O(secrets) is set
  type: bool
peers:
  description: IP addresses of the peers, as this host resolves them.
  returned: success
  type: list
  elements: str
facing:
  description: IP addresses of this host that the peers see, except loopback addresses.
  returned: success
  type: list
  elements: str
memory_mb:
  description: Memory of the host, in megabytes.
  returned: success
  type: int
"""

import contextlib
import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import distributions
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.fingerprints import read_all
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.interpreter import too_old
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ports import taken


def resolve(name: str) -> list[str]:
    """Return the IP addresses of a host, none if its name does not resolve."""
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        return sorted({str(info[4][0]).split("%", maxsplit=1)[0] for info in found})
    return []


def facing(peer: str) -> str | None:
    """Return the address of this host from which it connects to a peer, and at which the peer reaches it."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    # Nothing is sent: connecting a datagram socket only queries the routing table.
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))
        return str(probe.getsockname()[0])
    return None


def memory_mb() -> int:
    """Return the memory of this host in megabytes."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def problems_of(params: dict[str, Any], addresses: dict[str, list[str]]) -> list[str]:
    """Return the errors of all conditions on the host that would make the installation fail."""
    instead = f"set {params['otherwise']} to one that runs elsewhere"
    found = [old] if (old := too_old()) else []
    if os.geteuid() != 0:
        found.append("become: installing it needs root; use become")
    if not Path("/run/systemd/system").is_dir():
        found.append(f"this host does not run systemd, which is to run it; {instead}")
    found += distributions.refused(params["components"], experimental=params["experimental"])
    found += [
        f"{name}: this host cannot resolve {params['peers'][name]!r}; set ansible_host or prefect_address of {name}"
        for name, resolved in addresses.items()
        if not resolved
    ]
    own = params["program_dir"] or distributions.facts(next(iter(params["components"].values())))["program_dir"]
    return found + taken(params["ports"], program_dir=own)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "peers": {"type": "dict", "default": {}},
            "ports": {"type": "dict", "default": {}},
            "program_dir": {"type": "path"},
            "fingerprints": {"type": "path", "required": True},
            "otherwise": {"type": "str", "required": True},
            "components": {"type": "dict", "default": {}},
            "experimental": {"type": "bool", "default": False},
        },
        required_one_of=[("program_dir", "components")],
        supports_check_mode=True,
    )
    params = module.params
    addresses = {name: resolve(str(address)) for name, address in params["peers"].items()}
    if found := problems_of(params, addresses):
        module.fail_json(msg="\n".join(found))
    peers = sorted({address for resolved in addresses.values() for address in resolved})
    faces = {face for peer in peers if (face := facing(peer)) and not ipaddress.ip_address(face).is_loopback}
    module.exit_json(
        changed=False,
        peers=peers,
        facing=sorted(faces),
        memory_mb=memory_mb(),
        components={what: distributions.facts(what) for what in params["components"].values()},
        fingerprints=read_all([params["fingerprints"]]),
    )


if __name__ == "__main__":
    main()
