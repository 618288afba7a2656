"""A secret, generated once and kept on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret
author: The selfhosted.prefect maintainers (@selfhosted)
short_description: A secret that is generated once and kept on the controller
version_added: 1.0.0
description:
  - Returns the content of a file in the directory. If the file does not exist, writes a random secret to it first. Only
    the user who runs Ansible can read it, and git ignores it.
  - In check mode nothing is written, and a placeholder is returned for a secret that does not exist yet.
  - M(ansible.builtin.password) also keeps secrets, but Ansible may read its directory beside the inventory as part of
    the inventory, with the secrets as host names.
options:
  _terms:
    description: Names of secrets, relative to the directory.
    type: list
    elements: str
    required: true
  directory:
    description: Directory on the controller. When Ansible reads an inventory, it skips names that start with a dot.
    type: path
    required: true
  generate:
    description: Whether to generate a secret that does not exist. If not, a random placeholder is returned.
    type: bool
    default: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('selfhosted.prefect.secret', 'prefect/database', directory=inventory_dir ~ '/.secrets') }}"
"""

RETURN = r"""
_raw:
  description: The secrets. A generated secret has 40 letters and digits.
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
"""Letters and digits: 238 bits, and no character that is special in a shell, a URL or SQL."""

ALPHABET = string.ascii_letters + string.digits


STAND_IN = secrets.token_bytes(32)
"""Key of the placeholders: makes them unpredictable, but constant within a task."""


def stand_in(name: str) -> str:
    """Return a placeholder for a secret that does not exist and must not be generated yet."""
    return hashlib.sha256(STAND_IN + name.encode()).hexdigest()[:LENGTH]


def is_dry(variables: Mapping[str, Any] | None) -> bool:
    """Return whether a lookup with these variables runs in check mode, which writes nothing on the controller."""
    return bool((variables or {}).get("ansible_check_mode", context.CLIARGS.get("check", False)))


def secret(directory: Path, name: str, *, dry: bool = False) -> str:
    """Return a secret; generate it if it does not exist. If several processes run at once, one of them generates it.

    A `dry` run writes nothing and returns a placeholder for a secret that does not exist.
    Raises OSError if the directory is not writable, ValueError if the file is empty.
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
    """Make git ignore a directory, in case it is in a repository."""
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
