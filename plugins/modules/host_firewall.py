#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Restrict ports to the hosts that need them, in a separate nftables table."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_firewall
short_description: Restrict TCP ports to the hosts that need them
description:
  - Writes a separate nftables table, and a unit that loads it at boot and again whenever C(nftables.service) has
    flushed all rules. Other tables stay in effect and do not change.
  - Where firewalld runs on a host of the RHEL family, it writes a policy of firewalld instead, which also opens the
    ports to the sources, and reloads firewalld. Rules of others that were added at run time only are lost by that.
  - The host itself can always reach its ports.
  - A loaded table of this name is refused unless this collection wrote its rules.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
extends_documentation_fragment: selfhosted.prefect.ledger
options:
  name:
    description: Name of the table, with underscores for hyphens. With C(-firewall) appended, it names the unit.
    type: str
    required: true
  ports:
    description: TCP ports to restrict.
    type: list
    elements: int
    default: []
  sources:
    description: Hosts that may reach the ports, as addresses, networks, or names that this host can resolve.
    type: list
    elements: str
    default: []
  state:
    description: Whether the table exists.
    type: str
    choices: [present, absent]
    default: present
  rules_dir:
    description: Directory of the file with the table.
    type: path
    default: /etc/nftables.d
  units_dir:
    description: Directory of the unit.
    type: path
    default: /etc/systemd/system
  policies_dir:
    description: Directory of the policies of firewalld.
    type: path
    default: /etc/firewalld/policies
attributes:
  check_mode:
    description: Reports what would change.
    support: full
  diff_mode:
    description: Shows the rules.
    support: full
"""

EXAMPLES = r"""
- name: Restrict the database's port to the servers
  selfhosted.prefect.host_firewall:
    name: prefect-postgres
    ports: [5432]
    sources: [api1.example.com, 10.0.0.0/24]
"""

RETURN = r"""
sources:
  description: The addresses and networks that may reach the ports.
  returned: success
  type: list
  elements: str
"""

import hashlib
import ipaddress
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import distributions
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.files import FileError
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import (
    LEDGER,
    Ledger,
    LedgerError,
    ensure_files,
    opened,
    recognizable,
)

RULES = """\
# Ansible managed
# A table that is not there cannot be removed: so it is made, removed, and made again, in one step for the kernel.
table inet {table}
delete table inet {table}
table inet {table} {{
{sets}
    chain input {{
        type filter hook input priority filter; policy accept;
        iif lo accept
        ct state established,related accept
{accepts}
        tcp dport {{ {ports} }} counter drop
    }}
}}
"""

SET = """\
    set sources{version} {{
        type ipv{version}_addr
        flags interval
        auto-merge
        elements = {{ {elements} }}
    }}
"""

UNIT = """\
# Ansible managed
[Unit]
Description=Firewall of {name}
After=nftables.service
Before=network-pre.target
Wants=network-pre.target
DefaultDependencies=no
Conflicts=shutdown.target
# Starting or reloading nftables.service flushes all rules, including those of this unit.
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={nft} -f {rules}
ExecReload={nft} -f {rules}
ExecStop={nft} delete table inet {table}

[Install]
WantedBy=multi-user.target nftables.service
"""

POLICY = """\
<?xml version="1.0" encoding="utf-8"?>
<!-- Ansible managed -->
<policy target="CONTINUE" priority="-100">
  <short>{name}</short>
  <ingress-zone name="ANY"/>
  <egress-zone name="HOST"/>
{rules}
</policy>
"""

ACCEPT = """\
  <rule family="ipv{version}" priority="-20">
    <source address="{source}"/>
    <port port="{port}" protocol="tcp"/>
    <accept/>
  </rule>"""

DROP = """\
  <rule priority="-10">
    <port port="{port}" protocol="tcp"/>
    <drop/>
  </rule>"""

LONGEST_POLICY = 17
"""Letters that firewalld allows in the name of a policy."""

SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
"""Directories of nft, which may be missing in the PATH of the user who connects."""


class FirewallError(Exception):
    """A firewall cannot be set up; the message says what to do."""


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(sources: list[str]) -> list[Network]:
    """Return the sorted addresses and networks of sources. Raises FirewallError for a name that cannot be resolved."""
    found: set[Network] = set()
    for source in sources:
        try:
            found.add(ipaddress.ip_network(source, strict=False))
        except ValueError:
            try:
                answers = socket.getaddrinfo(source, None, proto=socket.IPPROTO_TCP)
            except OSError as error:
                raise FirewallError(
                    f"prefect_firewall: {source} cannot be resolved on this host; let your DNS know it, or set that "
                    "host's prefect_address to an address"
                ) from error
            found |= {ipaddress.ip_network(str(answer[4][0])) for answer in answers}
    return sorted(found, key=lambda network: (network.version, network))


def rules(table: str, *, ports: list[int], allowed: list[Network]) -> str:
    """Return the table in the syntax of nft."""
    sets, accepts = [], []
    listed = ", ".join(str(port) for port in sorted(set(ports)))
    for version, family in ((4, "ip"), (6, "ip6")):
        elements = [str(network) for network in allowed if network.version == version]
        if elements:
            sets.append(SET.format(version=version, elements=", ".join(elements)))
            accepts.append(f"        tcp dport {{ {listed} }} {family} saddr @sources{version} accept")
    return RULES.format(table=table, sets="".join(sets), accepts="\n".join(accepts), ports=listed)


def policy_name(name: str) -> str:
    """Return the name of a policy of firewalld, shortened if it has to be."""
    if len(name) <= LONGEST_POLICY:
        return name
    return f"{name[:8].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def policy(name: str, *, ports: list[int], allowed: list[Network]) -> str:
    """Return a policy of firewalld that accepts connections to ports from some sources, and drops all others."""
    listed = sorted(set(ports))
    accepts = [
        ACCEPT.format(version=network.version, source=network, port=port) for port in listed for network in allowed
    ]
    return POLICY.format(name=name, rules="\n".join([*accepts, *(DROP.format(port=port) for port in listed)]))


def run(*command: str, check: bool = True) -> bool:
    """Run a command and return whether it succeeded. With `check`, a failure raises FirewallError with its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise FirewallError(f"{' '.join(command)}: exit code {done.returncode}\n{(done.stderr or done.stdout).strip()}")
    return done.returncode == 0


def files(name: str, content: str, *, nft: str, by_firewalld: bool, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the wanted state of the files of the rules, the unit and the policy."""
    path, state = f"{params['rules_dir']}/{name}.nft", "absent" if by_firewalld else params["state"]
    unit = UNIT.format(name=name, nft=nft, rules=path, table=name.replace("-", "_"))
    shared = {"owner": None, "group": None, "secret": False, "recurse": False}
    found = [
        {"path": path, "content": content, "mode": "0644", "state": state},
        {"path": f"{params['units_dir']}/{name}-firewall.service", "content": unit, "mode": "0644", "state": state},
    ]
    if state == "absent":
        found.append({"path": params["rules_dir"], "content": None, "mode": None, "state": "unused"})
    file = f"{params['policies_dir']}/{policy_name(name)}.xml"
    state = params["state"] if by_firewalld else "absent"
    found.append({"path": file, "content": content, "mode": "0644", "state": state})
    return [shared | wanted for wanted in found]


def belongs_to_instance(ledger: Ledger | None, unit: Path) -> bool:
    """Return whether a unit exists and this instance, or an earlier version, created it."""
    if ledger is None or not unit.exists():
        return unit.exists()
    return ledger.knows(unit) is not None or recognizable(ledger, "file", unit)


def require_own_table(ledger: Ledger | None, rules_file: Path, *, table: str) -> None:
    """Raise FirewallError if a loaded table is another owner's, because this collection wrote no rules for it."""
    recorded = ledger is None or ledger.knows(rules_file) is not None or recognizable(ledger, "file", rules_file)
    if not (recorded and rules_file.exists()):
        raise FirewallError(
            f"prefect_firewall: nftables has a table inet {table}, and this collection did not load it; rename it, or "
            "set prefect_firewall to none and limit the ports there"
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "ports": {"type": "list", "elements": "int", "default": []},
            "sources": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "rules_dir": {"type": "path", "default": "/etc/nftables.d"},
            "units_dir": {"type": "path", "default": "/etc/systemd/system"},
            "policies_dir": {"type": "path", "default": "/etc/firewalld/policies"},
            "ledger": LEDGER,
        },
        required_if=[("state", "present", ["ports"])],
        supports_check_mode=True,
    )
    params, name = module.params, module.params["name"]
    present, table, unit = params["state"] == "present", name.replace("-", "_"), f"{name}-firewall.service"
    nft = shutil.which("nft", path=SYSTEM_PATH)
    by_firewalld = distributions.current().family == distributions.REDHAT and distributions.firewalld_runs()
    allowed: list[Network] = []
    content = ""
    try:
        if present:
            allowed = networks(params["sources"])
            given = {"ports": params["ports"], "allowed": allowed}
            content = policy(name, **given) if by_firewalld else rules(table, **given)
            if nft is None and not by_firewalld and not module.check_mode:
                raise FirewallError("prefect_firewall: there is no nft on this host; install nftables")
        if by_firewalld:
            loaded = run("firewall-cmd", f"--info-policy={policy_name(name)}", check=False)
        else:
            loaded = nft is not None and run(nft, "list", "table", "inet", table, check=False)
        wanted = files(name, content, nft=nft or "/usr/sbin/nft", by_firewalld=by_firewalld, params=params)
        with opened(params["ledger"], dry=module.check_mode) as ledger:
            if present and loaded and not by_firewalld:
                require_own_table(ledger, Path(wanted[0]["path"]), table=table)
            if (
                (by_firewalld or not present)
                and not module.check_mode
                and belongs_to_instance(ledger, Path(params["units_dir"], unit))
            ):
                run("systemctl", "disable", "--quiet", "--now", unit)
            written, diff = ensure_files(ledger, wanted, [], dry=module.check_mode)
        changed = bool(written) or (present and not loaded)
        if changed and not module.check_mode:
            run("systemctl", "daemon-reload")
            if by_firewalld:
                run("firewall-cmd", "--quiet", "--reload")
            elif present:
                run("systemctl", "enable", "--quiet", unit)
                # Reloading replaces the table atomically, so that the ports are restricted at all times.
                run("systemctl", "reload-or-restart", unit)
    except (FirewallError, FileError, LedgerError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, sources=[str(network) for network in allowed], diff=diff)


if __name__ == "__main__":
    main()
