"""A secret that is generated once and kept on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret
author: The selfhosted.prefect maintainers
short_description: A secret that is generated once and kept on the controller
description:
  - Returns what a file of the directory holds, and writes a random secret there where there is none. Only the user
    who runs Ansible can read it, and git does not see it.
  - In check mode nothing is written, and a secret that does not exist yet is predicted by a text in its place.
  - M(ansible.builtin.password) keeps secrets, too. A directory beside the inventory it does not keep from being read
    as a part of the inventory, secrets as names of hosts.
options:
  _terms:
    description: Names of secrets, relative to the directory.
    type: list
    elements: str
    required: true
  directory:
    description: Directory on the controller. Ansible passes over one that starts with a dot when it reads inventories.
    type: path
    required: true
  generate:
    description: Whether a secret that does not exist is generated. If not, a random text stands in its place.
    type: bool
    default: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('selfhosted.prefect.secret', 'prefect/database', directory=inventory_dir ~ '/.secrets') }}"
"""

RETURN = r"""
_raw:
  description: The secrets, each of 40 letters and digits where it was generated.
  type: list
  elements: str
"""

import hashlib
import secrets
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_files import write

LENGTH = 40
"""Letters and digits: 238 bits, and nothing that a shell, a URL or SQL would read something into."""

ALPHABET = string.ascii_letters + string.digits


STAND_IN = secrets.token_bytes(32)
"""Makes a text that stands for a secret one that no one can know, and the same for the length of a task."""


def stand_in(name: str) -> str:
    """Return a text in the place of a secret that does not exist and is not to be generated yet."""
    return hashlib.sha256(STAND_IN + name.encode()).hexdigest()[:LENGTH]


def is_dry(variables: Mapping[str, Any] | None) -> bool:
    """Return whether a lookup with these variables is part of check mode, which writes nothing on the controller."""
    return bool((variables or {}).get("ansible_check_mode", context.CLIARGS.get("check", False)))


def secret(directory: Path, name: str, *, dry: bool = False) -> str:
    """Return a secret, generated if it does not exist. Of several processes at once, one generates it.

    In a `dry` run nothing is written: a secret that does not exist is predicted by a text that stands for it.
    Raises OSError where the directory cannot be written, ValueError where the file is empty.
    """
    path = directory / name
    if dry and not path.exists():
        return hashlib.sha256(f"predicted {name}".encode()).hexdigest()[:LENGTH]
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        hide_from_git(directory)
        generated = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
        write(path, f"{generated}\n".encode(), replace=False)
    text = path.read_text(encoding="utf-8").rstrip("\n")
    if not text:
        raise ValueError(
            f"{path} is empty; put the secret back, or remove the file to have a new one generated, which restarts "
            "what uses it"
        )
    return text


def hide_from_git(directory: Path) -> None:
    """Keep a directory out of the repository that it may be in."""
    path = directory / ".gitignore"
    if not path.exists():
        write(path, b"*\n", mode=0o644)


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        directory = Path(self.get_option("directory"))
        try:
            return [
                secret(directory, term, dry=is_dry(variables))
                if self.get_option("generate") or (directory / term).exists()
                else stand_in(term)
                for term in terms
            ]
        except OSError as error:
            raise AnsibleLookupError(f"prefect_secrets_dir: {error}; name a directory that can be written") from error
        except ValueError as error:
            raise AnsibleLookupError(f"prefect_secrets_dir: {error}") from error
