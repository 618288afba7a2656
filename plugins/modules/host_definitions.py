#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Install definitions of flows for a host's workers. The action plugin of the same name reads files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_definitions
short_description: Install definitions of flows for the workers of a host
description:
  - Reads definitions, checks them, reports all errors together, and writes them beside the code that runs them.
  - It also rejects what would fail on this host, such as a callable that cannot be imported, an environment variable
    that is not set, and a Celery task that no Celery worker serves.
  - Registers nothing. It returns the objects of the definitions for M(selfhosted.prefect.resources).
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  directory:
    description: Directory with the package C(prefect_definitions), to which the definitions are written.
    type: path
    required: true
  source:
    description:
      - SQLAlchemy URL of a database that this host can reach, or file or directory on the controller.
        Defaults to O(data).
    type: str
  data:
    description: Definitions, in the format of a definitions file.
    type: dict
    default: {}
  files:
    description:
      - Definitions by the name of their file, which errors then name. Takes precedence over O(data).
      - A file with C(orchestrator) is the configuration of an application. Its runners are definitions.
    type: dict
    default: {}
  factory:
    description:
      - Python that returns the callable or class that a name in C(use) stands for, as C(package.module:callable).
        Not called for import paths.
    type: str
    default: ""
  paths:
    description: Directories that C(use) imports from.
    type: list
    elements: str
    default: []
  work_pool:
    description: Work pool of deployments that do not name one.
    type: str
    default: default
  inactive:
    description: Whether inactive deployments are paused or absent.
    type: str
    choices: [paused, absent]
    default: paused
  load_into:
    description:
      - SQLAlchemy URL of a database to write O(data) to instead of O(directory). Missing tables are created.
      - Rows that differ are changed. Rows that O(data) lacks stay unless O(prune) is set.
    type: str
  prune:
    description: Whether to delete rows of O(load_into) that O(data) lacks.
    type: bool
    default: false
  python:
    description: Python interpreter of the release.
    type: path
    required: true
  show_secrets:
    description: Whether to show the secrets of definitions in the diff. The variable C(prefect_show_secrets) sets it.
    type: bool
    default: false
  user:
    description: User that flows run as. Defaults to the user who connects.
    type: str
  timeout:
    description: Maximum duration of the checks in seconds.
    type: int
    default: 600
attributes:
  check_mode:
    description: Reports whether the definitions would change, and their errors.
    support: full
"""

EXAMPLES = r"""
- name: Install the definitions of a database
  selfhosted.prefect.host_definitions:
    source: postgresql://reader:{{ password }}@db.example.com/flows
    directory: /var/lib/prefect/definitions
    python: /opt/prefect/current/bin/python
    user: prefect
"""

RETURN = r"""
resources:
  description: Work pools, flows and deployments, as M(selfhosted.prefect.resources) takes them.
  returned: success, if a release is installed
  type: dict
changes:
  description: Tables and rows of O(load_into) that differed, one line each.
  returned: with O(load_into)
  type: list
  elements: str
problems:
  description: All errors, one sentence each.
  returned: failure
  type: list
  elements: str
"""

import json
import os
import pwd
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import Mask, masked_diff
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.processes import TimedOutError, run_as


def place(params: dict[str, Any], *, dry: bool) -> dict[str, Any]:
    """Return the package's report on the definitions. Raises OSError, ValueError or TimedOutError if there is none."""
    account = pwd.getpwnam(params["user"]) if params["user"] else pwd.getpwuid(os.getuid())
    names = ("source", "factory", "paths", "work_pool", "inactive", "load_into", "prune")
    request = {name: params[name] for name in names} | {
        name: json.loads(params[name] or "{}") for name in ("data", "files")
    }
    request["dry"] = dry
    answer = run_as(
        account,
        [params["python"], "-m", "prefect_definitions", "place", params["directory"]],
        timeout=params["timeout"],
        stdin=json.dumps(request),
        directory=params["directory"],
        env={
            "HOME": account.pw_dir,
            "LANG": "C.UTF-8",
            "PATH": f"{Path(params['python']).parent}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    try:
        return dict(json.loads(answer.stdout))
    except ValueError as error:
        ended = f"the check ended with exit code {answer.returncode} and gave no answer"
        raise ValueError(answer.stderr.strip() or f"{ended}; a module that use names may end the process") from error


def main() -> None:
    text = {"type": "str"}
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            # The URL of a database may contain its password.
            "source": {"type": "str", "no_log": True},
            # Over ssh, `-vvv` shows what the module returns, its arguments included.
            "data": {"type": "str", "no_log": True},
            "files": {"type": "str", "no_log": True},
            "factory": {"type": "str", "default": ""},
            "paths": {"type": "list", "elements": "str", "default": []},
            "work_pool": {"type": "str", "default": "default"},
            "inactive": {"type": "str", "choices": ["paused", "absent"], "default": "paused"},
            "load_into": {"type": "str", "no_log": True},
            "prune": {"type": "bool", "default": False},
            "python": {"type": "path", "required": True},
            "show_secrets": {"type": "bool", "default": False},
            "user": text,
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode and not (Path(params["python"]).exists() and Path(params["directory"]).is_dir()):
        module.exit_json(changed=True)
    try:
        answer = place(params, dry=module.check_mode)
    except TimedOutError as error:
        hint = "a module that use names waits for something when it is imported"
        module.fail_json(msg=f"the definitions cannot be read: {error}; {hint}\n{error.output}".strip(), problems=[])
    except (OSError, ValueError, KeyError) as error:
        module.fail_json(msg=f"the definitions cannot be read: {error}", problems=[])
    if answer["problems"]:
        module.fail_json(msg="\n".join(answer["problems"]), problems=answer["problems"])
    if params["load_into"]:
        changes = "".join(f"{line}\n" for line in answer["changes"])
        module.exit_json(changed=bool(changes), changes=answer["changes"], diff={"prepared": changes})
    diff = {name: json.dumps(answer[name], indent=1, sort_keys=True) + "\n" for name in ("before", "after")}
    diff = masked_diff(diff, Mask(show=params["show_secrets"]))
    module.exit_json(changed=answer["changed"], resources=answer["resources"], diff=diff)


if __name__ == "__main__":
    main()
