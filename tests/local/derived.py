#!/usr/bin/env python3
"""Evaluates every variable that the roles derive, for every host of many inventories, with Ansible's own templates.

As a program, started in the directory of `ansible.cfg`, it prints the values as JSON: with the names of inventories, of
these alone. It needs a process of its own, in which Ansible finds collections. What differs between machines and runs
(paths, secrets, certificates) is replaced by words, and each request for a secret is recorded.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play import Play
from ansible.playbook.task import Task
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from jinja2 import Environment

ROOT = Path(__file__).resolve().parents[2]
HARD = Path(__file__).with_name("topologies.yml")
ROLES = ["server", "worker", "flows", "postgres", "redis", "proxy", "celery", "definitions", "resources"]
LOCKS = {"__prefect_proofs", "__prefect_proven", "__prefect_shipped_versions"}
"""Variables that say what the shipped locks were proven on, and change with each lock."""

SHARED = ("prefect", "prefect_vars", "prefect_server")
"""The roles whose variables are the topology. Of the others, only the defaults derive from it."""

ASKING = ("qa", "six")
"""Inventories for which it is recorded which secrets each variable asks for."""

LONGEST = 1_000
"""Characters of a value that is kept as it is, and not as its digest."""

LOADER = DataLoader()
"""Of all inventories, so that the files of the roles are parsed once."""

ASKED: list[str] = []
"""The secrets and certificates that templates asked for."""


def inventories() -> dict[str, dict[str, Any] | Path]:
    """Return the inventories of the repository, those of molecule's scenarios and the hard ones, each by its name."""
    found: dict[str, dict[str, Any] | Path] = {
        path.parent.name: path for path in sorted(ROOT.glob("inventories/*/hosts.yml"))
    }
    base = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text(encoding="utf-8"))
    for path in sorted(ROOT.glob("molecule/*/molecule.yml")):
        own = path.parent / "inventory/hosts.yml"
        scenario = yaml.safe_load(path.read_text(encoding="utf-8"))
        found[f"molecule/{path.parent.name}"] = own if own.exists() else of_scenario(base, scenario)
    found |= yaml.safe_load(HARD.read_text(encoding="utf-8"))
    return found


def of_scenario(base: Mapping[str, Any], scenario: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inventory that molecule makes of a scenario's platforms and variables."""
    own = scenario.get("provisioner", {}).get("inventory", {})
    variables = base["provisioner"]["inventory"]["group_vars"]["all"] | own.get("group_vars", {}).get("all", {})
    groups: dict[str, Any] = {}
    for platform in scenario["platforms"]:
        for group in platform.get("groups", ["ungrouped"]):
            known = groups.setdefault(group, {"hosts": {}})["hosts"]
            known[platform["name"]] = own.get("host_vars", {}).get(platform["name"], {})
    return {"all": {"vars": variables, "children": groups}}


def fake_secrets() -> None:
    """Make lookups of secrets return words, and record what is asked for."""
    from ansible_collections.selfhosted.prefect.plugins.lookup import certificate, inventory_owner, secret, uv

    def find_secret(self: Any, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        ASKED.extend(f"{term} in {kwargs['directory']}, generate={kwargs.get('generate')}" for term in terms)
        return [f"SECRET-{term}" for term in terms]

    def find_certificate(self: Any, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, str]]:
        ASKED.extend(f"{term} in {kwargs['directory']}, names={[*kwargs.get('names', [])]}" for term in terms)
        return [{part: f"{part.upper()}-{term}" for part in ("certificate", "key", "ca")} for term in terms]

    def find_owner(self: Any, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        ASKED.extend(f"owner {term} in {kwargs['directory']}" for term in terms)
        return ["former" if kwargs.get("former") else "owner"]

    def find_uv(self: Any, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, str]]:
        return [{"path": "UV", "platform": "linux"}]

    replaced = {secret: find_secret, certificate: find_certificate, inventory_owner: find_owner, uv: find_uv}
    for module, find in replaced.items():
        mock.patch.object(module.LookupModule, "run", find).start()


def read_host(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a host of these variables says about itself, in the words of the module `preflight`."""
    instance = variables.get("prefect_instance", "prefect")
    name = instance if instance.startswith("prefect") else f"prefect-{instance}"
    found: dict[str, Any] = {
        "name": name,
        "instance": instance,
        "scope": "system",
        "service_manager": variables.get("prefect_service_manager", "systemd"),
        "user": variables.get("prefect_user") or name,
        "worker_user": variables.get("prefect_worker_user") or f"{name}-flows",
        "operators": f"{name}-operators",
        "address": "10.9.9.9",
        "peer_addresses": ["10.8.8.8", "fd00::8"],
        "installation": {"id": "0123456789ab", "formerly": {}},
        "fingerprints": {},
        "secrets_compared": True,
        "confinement": {"BindPaths": "/home/data"} if variables.get("prefect_home") else {},
        "addresses": {variables.get("ansible_host", "front"): ["10.7.7.7"]},
        "version": "",
        "upgrade": {},
    } | variables.get("read", {})
    found |= {"group": found["user"], "worker_group": found["worker_user"]}
    home, opt = variables.get("prefect_home") or f"/var/lib/{name}", variables.get("prefect_opt_dir") or f"/opt/{name}"
    units, binary = "/etc/systemd/system", "/usr/local/bin"
    dirs = {"opt": opt, "etc": f"/etc/{name}", "home": home, "worker": f"{home}/worker", "bin": binary}
    return found | {"dirs": dirs | {"units": units, "log": f"/var/log/{name}"}}


def holds_template(value: Any) -> bool:
    """Return whether a variable is a template, or has one in it."""
    if isinstance(value, Mapping):
        return any(map(holds_template, value.values()))
    if isinstance(value, list):
        return any(map(holds_template, value))
    return isinstance(value, str) and "{{" in value


def compile_once() -> None:
    """Compile equal templates once, as Ansible does not."""
    compiled: dict[str, Any] = {}
    slow = Environment.compile

    def fast(self: Environment, source: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(source, str):
            return slow(self, source, *args, **kwargs)
        if source not in compiled:
            compiled[str(source)] = slow(self, source, *args, **kwargs)
        return compiled[source]

    mock.patch.object(Environment, "compile", fast).start()


class Evaluator:
    """The hosts of one inventory, in a play with roles of this collection."""

    def __init__(self, content: dict[str, Any] | Path, directory: Path, roles: list[str]) -> None:
        path = directory / "hosts.yml"
        if isinstance(content, Path):
            path.write_bytes(content.read_bytes())
            for file in content.parent.glob("group_vars/*.yml"):
                (directory / "group_vars").mkdir(exist_ok=True)
                (directory / "group_vars" / file.name).write_bytes(file.read_bytes())
        else:
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
        self.loader = LOADER
        self.loader.set_basedir(str(directory))
        self.inventory = InventoryManager(loader=self.loader, sources=[str(path)])
        self.manager = VariableManager(loader=self.loader, inventory=self.inventory)
        HostVars(self.inventory, self.manager, self.loader)
        self.manager._extra_vars = {
            "molecule_ephemeral_directory": "MOLECULE",
            "molecule_scenario_directory": "SCENARIO",
            "ansible_playbook_python": "PYTHON",
            "ansible_check_mode": False,
        }
        names = [f"selfhosted.prefect.{role}" for role in roles]
        description = {"name": "all", "hosts": "all", "gather_facts": False, "roles": names}
        self.play = Play.load(description, variable_manager=self.manager, loader=self.loader)
        self.hosts = [host.name for host in self.inventory.get_hosts("all")]
        task = {"ansible.builtin.debug": {"msg": "x"}}
        self.task = Task.load(task, role=self.play.roles[0], variable_manager=self.manager, loader=self.loader)
        self.replaced = {
            str(directory): "INVENTORY",
            str(ROOT / ".collections/ansible_collections/selfhosted/prefect"): "HERE",
        }
        # The package index of an inventory, without its credentials.
        self.replaced |= {"https://mirror.example.org/simple": "INDEX"}
        self.replaced |= {str(ROOT): "HERE", str(Path.home()): "HOME", os.environ.get("PWD", "-"): "PWD"}

    def read(self, host: str) -> None:
        """Make the facts of a host known, as the first tasks of the roles do."""
        known = self.variables(host)
        backend = {"secrets_compared": True, "peers": ["10.8.8.8"], "facing": ["10.9.9.9"], "fingerprints": {}}
        facts = {"__prefect_host": read_host(known), "__prefect_proxy_nginx": {"ipv6": True}}
        facts |= {f"__prefect_{name}_backend": backend for name in ("postgres", "redis") if host in self.group(name)}
        self.manager.set_nonpersistent_facts(host, facts)

    def group(self, name: str) -> list[str]:
        return list(self.inventory.get_groups_dict().get(f"prefect_{name}", []))

    def variables(self, host: str) -> dict[str, Any]:
        """Return the variables of a task of the first role on a host, as Ansible collects them."""
        found: dict[str, Any] = self.manager.get_vars(
            play=self.play,
            host=self.inventory.get_host(host),
            task=self.task,
            _hosts=self.hosts,
            _hosts_all=self.hosts,
        )
        return found

    def value(self, name: str, variables: dict[str, Any]) -> Any:
        """Return the value of a variable; raises AnsibleError if it has none."""
        return Templar(loader=self.loader, variables=variables).template(variables[name])

    def plain(self, value: Any) -> Any:
        """Return a value as JSON, with words for paths."""
        text = self.worded(json.dumps(value, sort_keys=True, default=str))
        return json.loads(text) if len(text) < LONGEST else f"{sha256(text.encode()).hexdigest()} of {text[:40]}"

    def all_values(self, host: str) -> Iterator[tuple[str, Any]]:
        """Yield every derived variable of a host with its value.

        A variable that has its value is no template for those that refer to it, which would evaluate it again.
        """
        variables = self.variables(host)
        for name in self.in_order():
            try:
                value = self.value(name, variables)
            except AnsibleError:
                yield name, "ERROR"
            else:
                variables[name] = value
                yield name, self.plain(value)

    def in_order(self) -> list[str]:
        """Return the derived variables, each after those that it refers to."""
        known = {name: str(value) for name, value in self.derived().items()}
        found: dict[str, None] = {}

        def visit(name: str, above: frozenset[str]) -> None:
            for other in re.findall(r"\w+", known[name]):
                if other in known and other not in above and other not in found:
                    visit(other, above | {name})
            found.setdefault(name)

        for name in sorted(known):
            visit(name, frozenset({name}))
        return list(found)

    def derived(self) -> dict[str, Any]:
        """Return the templates of the derived variables of the roles of the play."""
        found: dict[str, Any] = {}
        for role in self.play.roles:
            for one in [role, *role.get_all_dependencies()]:
                found |= one.get_default_vars()
                found |= one.get_vars(include_params=False) if one.get_name().split(".")[-1] in SHARED else {}
        return {name: value for name, value in found.items() if holds_template(value) and name not in LOCKS}

    def worded(self, text: str) -> str:
        for path, word in self.replaced.items():
            text = text.replace(path, word)
        return text


def values(content: dict[str, Any] | Path) -> Iterator[tuple[str, str, Any]]:
    """Yield a place (the host, and what is known of it), a variable and its value there."""
    with tempfile.TemporaryDirectory(prefix="inventory") as directory:
        everything = Evaluator(content, Path(directory), [f"prefect_{role}" for role in ROLES])
        alone = Evaluator(content, Path(directory), ["prefect"])
        for evaluator, state in ((everything, "unread"), (everything, "read"), (alone, "alone")):
            if state != "unread":
                for host in evaluator.hosts:
                    evaluator.read(host)
            # That a host was not read, or has few roles, makes a difference that no other host repeats.
            for host in evaluator.hosts if state == "read" else evaluator.hosts[:1]:
                for name, value in evaluator.all_values(host):
                    yield f"{host} {state}", name, value


def asked(content: dict[str, Any] | Path) -> Iterator[tuple[str, str, Any]]:
    """Yield a place, a variable, and the secrets that its evaluation alone asks for."""
    with tempfile.TemporaryDirectory(prefix="inventory") as directory:
        evaluator = Evaluator(content, Path(directory), [f"prefect_{role}" for role in ROLES])
        for host in evaluator.hosts:
            evaluator.read(host)
        for host in evaluator.hosts:
            for name in evaluator.derived():
                ASKED.clear()
                with contextlib.suppress(AnsibleError):
                    evaluator.value(name, evaluator.variables(host))
                yield f"{host} asks", name, [evaluator.worded(one) for one in dict.fromkeys(ASKED)]


def by_value(places: Mapping[str, Any]) -> list[list[Any]]:
    """Return each value with its places; the most common one comes first, and its place is `*`."""
    found: dict[str, list[str]] = {}
    for place, value in places.items():
        found.setdefault(json.dumps(value, sort_keys=True), []).append(place)
    common = max(found, key=lambda value: len(found[value]))
    rest = {value: where for value, where in found.items() if value != common}
    return [["*", json.loads(common)], *([where, json.loads(value)] for value, where in rest.items())]


def collected(only: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the value of each variable at each place, and the secrets that it asks for."""
    found: dict[str, dict[str, Any]] = {}
    for inventory, content in inventories().items():
        if only and inventory not in only:
            continue
        for place, name, value in values(content):
            found.setdefault(name, {})[f"{inventory} {place}"] = value
        if inventory in ASKING:
            for place, name, value in asked(content):
                found.setdefault(f"secrets of {name}", {})[f"{inventory} {place}"] = value
    return found


def main() -> None:
    init_plugin_loader([str(ROOT / ".collections")])
    fake_secrets()
    compile_once()
    rows = []
    for name, places in sorted(collected(sys.argv[1:]).items()):
        entries = ",\n  ".join(json.dumps(entry, sort_keys=True, ensure_ascii=False) for entry in by_value(places))
        rows.append(f"{json.dumps(name)}: [\n  {entries}\n]")
    print("{", ",\n".join(rows), "}", sep="\n")


if __name__ == "__main__":
    main()
