"""A secret that is made up once and kept on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret
author: The selfhosted.prefect maintainers
short_description: A secret that is made up once and kept on the controller
description:
  - Returns what a file of the directory holds, and writes a random secret there where there is none. Only the user
    who runs Ansible can read it, and git does not see it.
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
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('selfhosted.prefect.secret', 'prefect/database', directory=inventory_dir ~ '/.secrets') }}"
"""

RETURN = r"""
_raw:
  description: The secrets, each of 40 letters and digits where it was made up.
  type: list
  elements: str
"""

import os
import secrets
import string
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

LENGTH = 40
"""Letters and digits: 238 bits, and nothing that a shell, a URL or SQL would read something into."""


def secret(directory: Path, name: str) -> str:
    """Return a secret, made up if there is none yet. Of several processes at once, one makes it up.

    Raises OSError where the directory cannot be written.
    """
    path = directory / name
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / ".gitignore").write_text("*\n", encoding="utf-8")
        alphabet = string.ascii_letters + string.digits
        descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=".")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(secrets.choice(alphabet) for _ in range(LENGTH)) + "\n")
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            Path(fresh).unlink()
    return path.read_text(encoding="utf-8").rstrip("\n")


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        directory = Path(self.get_option("directory"))
        try:
            return [secret(directory, term) for term in terms]
        except OSError as error:
            raise AnsibleLookupError(f"prefect_secrets_dir: {error}; name a directory that can be written") from error
