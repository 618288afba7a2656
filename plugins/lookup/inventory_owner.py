"""The name that identifies an inventory to a Prefect server that several inventories share."""

from __future__ import annotations

DOCUMENTATION = r"""
name: inventory_owner
author: The selfhosted.prefect maintainers (@selfhosted)
short_description: A unique name for an inventory
description:
  - Returns the name with which M(selfhosted.prefect.resources) tells the objects of one inventory from those of
    another.
  - The name is derived from the directory of the inventory and, in a git repository, from the address of its origin,
    so that every checkout has the same name. It is kept in the file C(owner) beside the generated secrets, so that it
    does not change when the directory or the repository is renamed. Check mode writes no file.
  - Where the directory has another inventory file, with none of O(hosts), the name is also derived from the files in
    O(sources), and kept in C(owner.FILE), so that two inventories in one directory do not share it.
version_added: 1.0.0
options:
  _terms:
    description: Names of instances.
    type: list
    elements: str
    required: true
  directory:
    description: Directory on the controller where generated secrets are kept.
    type: path
    required: true
  inventory:
    description: Directory of the inventory.
    type: path
    required: true
  sources:
    description: Files and directories that are the inventory of this run.
    type: list
    elements: str
    default: []
  hosts:
    description: Hosts of the inventory of this run.
    type: list
    elements: str
    default: []
  former:
    description:
      - Whether to return the name that all inventories of the directory once shared, if this one has another name now
        and no other one has kept it. Otherwise it is empty.
    type: bool
    default: false
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: >-
      {{ lookup('selfhosted.prefect.inventory_owner', 'prefect', directory=inventory_dir ~ '/.secrets',
                inventory=inventory_dir) }}
"""

RETURN = r"""
_raw:
  description: The names, each of at most 40 lowercase letters, digits and dashes.
  type: list
  elements: str
  sample: [prod-3f9a11c2]
"""

import configparser
import contextlib
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_files import write


def origin(directory: Path) -> tuple[str, str]:
    """Return the address of the git repository that contains a directory, and the directory's path in it.

    The address has neither protocol nor user: checkouts by ssh and by https are of the same repository. Without a
    repository or an origin, the address is empty and the path is the directory's own.
    """
    for above in (directory, *directory.parents):
        settings = configparser.ConfigParser(strict=False, interpolation=None)
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            settings.read(above / ".git" / "config", encoding="utf-8")
            url = settings.get('remote "origin"', "url")
            split = urlsplit(url if "://" in url else f"ssh://{url.replace(':', '/', 1)}")
            if split.hostname:
                return f"{split.hostname}{split.path.removesuffix('.git').rstrip('/')}", str(
                    directory.relative_to(above)
                )
    return "", str(directory)


def derived(directory: Path, files: str = "") -> str:
    """Return a name for an inventory that is the same in every checkout and differs from every other inventory's."""
    found = directory.resolve()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{found.name} {files}".lower()).strip("-")[:30].strip("-") or "inventory"
    identity = " ".join([*origin(found), *([files] if files else [])])
    return f"{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Tagged(LOADER):
    """A loader of YAML with tags of Ansible's, such as `!vault`, whose values do not matter."""


Tagged.add_multi_constructor("!", lambda loader, suffix, node: None)


def hosts_of(file: Path) -> set[str]:
    """Return the hosts that an inventory file of YAML, JSON or INI describes; none of another file."""
    if file.suffix not in {"", ".ini", ".json", ".yaml", ".yml"} or not file.is_file():
        return set()
    try:
        text = file.read_text(encoding="utf-8")
        data = yaml.load(text, Loader=Tagged)
    except (OSError, ValueError):
        return set()
    except yaml.YAMLError:
        data = None
    if isinstance(data, Mapping):
        groups = [group for group in data.values() if group]
        parts = {"hosts", "children", "vars"}
        return (
            set(described(data))
            if all(isinstance(group, Mapping) and group.keys() <= parts for group in groups)
            else set()
        )
    # A section of INI is a list in YAML, and what follows it an error.
    return set(listed(text)) if file.suffix in {"", ".ini"} and re.search(r"^\[[\w.-]+(:\w+)?\]", text, re.M) else set()


def described(groups: Mapping[str, Any]) -> Iterator[str]:
    """Yield the hosts of groups of YAML, at any depth."""
    for group in groups.values():
        if isinstance(group, Mapping):
            yield from (str(host) for host in group.get("hosts") or ())
            yield from described(group.get("children") or {})


def listed(text: str) -> Iterator[str]:
    """Yield the hosts of sections of INI."""
    hosts = True
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("["):
            hosts = ":" not in line
        elif hosts and line and line[0] not in "#;":
            yield line.split()[0]


def files_of(inventory: Path, sources: Collection[str], hosts: Collection[str]) -> str:
    """Return the files that are an inventory, if others in their directory are another one; otherwise an empty text.

    A file with one of the hosts is a variant of the same inventory.
    """
    found = inventory.resolve()
    files = {
        Path(source).name for source in sources if Path(source).is_file() and Path(source).resolve().parent == found
    }
    if not files or any(Path(source).resolve() == found for source in sources):
        return ""
    beside = (hosts_of(file) for file in sorted(found.iterdir()) if file.name not in files)
    return "+".join(sorted(files)) if any(others and not others & set(hosts) for others in beside) else ""


def kept_name(kept: Path) -> str:
    """Return the name that a file keeps, or an empty text. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return kept.read_text(encoding="utf-8").strip()
    return ""


def owner(kept: Path, inventory: Path, *, files: str = "", dry: bool) -> str:
    """Return the name kept in a file; generate one if it is missing, and write it unless `dry`. Raises OSError."""
    own = kept.with_name(f"{kept.name}.{files}") if files else kept
    if name := kept_name(own):
        return name
    name = derived(inventory, files)
    if not dry:
        own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(own, f"{name}\n".encode())
    return name


def former(kept: Path, inventory: Path, *, files: str) -> str:
    """Return the name that an inventory shared with others in its directory, or an empty text. Raises OSError."""
    return (kept_name(kept) or derived(inventory)) if files else ""


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        directory, inventory = Path(self.get_option("directory")), Path(self.get_option("inventory"))
        dry = bool((variables or {}).get("ansible_check_mode"))
        try:
            files = files_of(inventory, self.get_option("sources"), self.get_option("hosts"))
            if self.get_option("former"):
                return [former(directory / term / "owner", inventory, files=files) for term in terms]
            return [owner(directory / term / "owner", inventory, files=files, dry=dry) for term in terms]
        except OSError as error:
            raise AnsibleLookupError(f"prefect_secrets_dir: {error}; name a directory that can be written") from error
