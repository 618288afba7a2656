#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Find the generated secrets of an instance on a host. The action plugin of the same name stores them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_secrets
short_description: Fetch the generated secrets of an instance from a host, or move those of the controller aside
description:
  - With V(fetched), finds the generated secrets in the settings of a host's services, and writes those that the
    controller lacks to O(directory). The output shows only names and paths. The key of a CA is not on any host.
  - With V(replaced), moves secrets in O(directory) aside, so that new ones are generated. Needs no host.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  state:
    description: Whether to fetch secrets or to move them aside.
    type: str
    choices: [fetched, replaced]
    required: true
  directory:
    description: Directory of generated secrets on the controller.
    type: path
    required: true
  instance:
    description: Name of the instance, and of its directory in O(directory).
    type: str
    required: true
  names:
    description: Names of the secrets to move aside.
    type: list
    elements: str
    default: []
  name:
    description: Prefix of the names of the instance's paths on the host.
    type: str
  etc_dir:
    description: Directory of the instance's settings on the host.
    type: path
  scope:
    description: Scope of the installation, either system or user.
    type: str
attributes:
  check_mode:
    description: Reports which secrets would be written.
    support: full
"""

EXAMPLES = r"""
- name: Fetch the generated secrets of the host
  selfhosted.prefect.host_secrets:
    state: fetched
    directory: "{{ inventory_dir }}/.secrets"
    instance: prefect
    name: prefect
    etc_dir: /etc/prefect
    scope: system
"""

RETURN = r"""
found:
  description: Names of the secrets found on the host.
  returned: with O(state=fetched)
  type: list
  elements: str
written:
  description: Files on the controller that were written.
  returned: with O(state=fetched)
  type: list
  elements: str
replaced:
  description: Names of the secrets that were moved aside.
  returned: with O(state=replaced)
  type: list
  elements: str
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import fingerprints, safe_files

SETTING = re.compile(r'^(?P<name>\w+)="(?P<value>(?:\\.|[^"\\])*)"$', re.MULTILINE)
REQUIREPASS = re.compile(r'^requirepass "(?P<value>[^"\\]*)"$', re.MULTILINE)
GENERATED = re.compile(r"[A-Za-z0-9]{40}")


def candidates(text: str) -> Iterator[tuple[str, str]]:
    """Yield the texts in a settings file that may be secrets, each with the name of its setting."""
    for found in SETTING.finditer(text):
        value = re.sub(r"\\(.)", r"\1", found["value"])
        yield found["name"], value
        yield found["name"], value.partition(":")[2]
        with contextlib.suppress(ValueError):
            url = urlsplit(value)
            yield f"{found['name']} {url.scheme.upper()}", unquote(url.password or "")
    for found in REQUIREPASS.finditer(text):
        yield "REDIS", found["value"]


def name_of(setting: str, value: str) -> str | None:
    """Return the name of a setting's secret on a host without fingerprints, if it looks like a generated one."""
    if not GENERATED.fullmatch(value):
        return None
    kinds = {"API_AUTH_STRING": "api", "DATABASE": "database", "REDIS": "redis"}
    return next((name for part, name in kinds.items() if part in setting), None)


def find(texts: list[str], remembered: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the generated secrets in settings files by name.

    `remembered` are fingerprints by file and name. A secret that the user has set matches none of them.
    """
    known = [each for one in remembered.values() for each in one.items()]
    found = {}
    for text in texts:
        for setting, value in candidates(text):
            if not value:
                continue
            name = (
                next((name for name, each in known if fingerprints.matches(each, name, value)), None)
                if known
                else name_of(setting, value)
            )
            if name:
                found[name] = value
    return found


def main() -> None:
    text: dict[str, Any] = {"type": "str", "required": True}
    module = AnsibleModule(argument_spec={"name": text, "etc_dir": text, "scope": text}, supports_check_mode=True)
    name, etc, scope = (module.params[option] for option in ("name", "etc_dir", "scope"))
    texts = []
    for path in (f"{etc}/client.env", f"{etc}/server.env", f"/etc/{name}-redis/redis.conf"):
        with contextlib.suppress(FileNotFoundError):
            texts.append(safe_files.read(path).decode(errors="replace"))
    remembered = fingerprints.read_all(fingerprints.files(name, etc, scope=scope))
    # The action plugin stores them, and shows only their names.
    module.exit_json(changed=False, secrets=find(texts, remembered))


if __name__ == "__main__":
    main()
