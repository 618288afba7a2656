"""The name that identifies an inventory to a Prefect server that several inventories share."""

from __future__ import annotations

DOCUMENTATION = r"""
name: inventory_owner
author: The selfhosted.prefect maintainers
short_description: A unique name for an inventory
description:
  - Returns the name with which M(selfhosted.prefect.resources) tells the objects of one inventory from those of
    another.
  - The name is derived from the directory of the inventory and, in a git repository, from the address of its origin,
    so that every checkout has the same name. It is kept in the file C(owner) beside the generated secrets, so that it
    does not change when the directory or the repository is renamed. Check mode writes no file.
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
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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


def derived(directory: Path) -> str:
    """Return a name for an inventory that is the same in every checkout and differs from every other inventory's."""
    found = directory.resolve()
    slug = re.sub(r"[^a-z0-9]+", "-", found.name.lower()).strip("-")[:30].strip("-") or "inventory"
    return f"{slug}-{hashlib.sha256(' '.join(origin(found)).encode()).hexdigest()[:8]}"


def owner(kept: Path, inventory: Path, *, dry: bool) -> str:
    """Return the name kept in a file; generate one if it is missing, and write it unless `dry`. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if name := kept.read_text(encoding="utf-8").strip():
            return name
    name = derived(inventory)
    if not dry:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(kept, f"{name}\n".encode())
    return name


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        directory, inventory = Path(self.get_option("directory")), Path(self.get_option("inventory"))
        dry = bool((variables or {}).get("ansible_check_mode"))
        try:
            return [owner(directory / term / "owner", inventory, dry=dry) for term in terms]
        except OSError as error:
            raise AnsibleLookupError(f"prefect_secrets_dir: {error}; name a directory that can be written") from error
