#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read the parameters of flows from their code like `prefect deploy`, as the account that runs them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_flow_parameters
short_description: Read the schemas of flows' parameters from their code
description:
  - Reads from the entrypoints of deployments what C(prefect deploy) registers as C(parameter_openapi_schema), with the
    Prefect of a release. Prefect parses the code, and imports it only if it does not find the function.
  - The code is read in a process of O(user), and again only if the code in O(directory), the entrypoints or the
    release have changed.
  - An entrypoint whose file does not exist on the host is left out.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  entrypoints:
    description:
      - For each deployment (C(flow/name)), its C(entrypoint) and the C(directory) of this, relative to O(directory).
    type: dict
    required: true
  directory:
    description: Directory of the flow code.
    type: path
    required: true
  release:
    description: Directory (or link) of the release whose Python reads the code. If it does not exist, nothing is read.
    type: path
    required: true
  user:
    description: User that reads the code. Defaults to the user who connects.
    type: str
  home:
    description: Directory of the user to which Prefect may write.
    type: path
    required: true
  state_dir:
    description: Directory that stores the schemas that were read.
    type: path
    required: true
  timeout:
    description: Maximum duration of reading in seconds.
    type: int
    default: 300
attributes:
  check_mode:
    description: Reads, but does not store the schemas.
    support: full
"""

EXAMPLES = r"""
- name: Read the parameters of the flows
  selfhosted.prefect.host_flow_parameters:
    entrypoints:
      stock/daily: {directory: ., entrypoint: "stock.py:stock"}
    directory: /var/lib/prefect/flows
    release: /opt/prefect/current
    user: prefect
    home: /var/lib/prefect
    state_dir: /opt/prefect/state
"""

RETURN = r"""
schemas:
  description: The schema of the flow's parameters of each deployment.
  returned: success
  type: dict
  sample: {stock/daily: {title: Parameters, type: object, properties: {day: {type: string, position: 0, title: day}}}}
"""

import contextlib
import hashlib
import json
import os
import pwd
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import safe_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.processes import TimedOutError, run_as

IGNORED = {".git", "__pycache__", ".venv", ".prefect"}
"""Directories whose content is not code."""

MEMORY = "flow-parameters.json"

READER = """
import importlib.util, json, os, pathlib, sys

answer = os.fdopen(os.dup(1), "w")
# What the code prints is no answer.
os.dup2(2, 1)
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema, parameter_schema_from_entrypoint

def exists(entrypoint):
    place, colon, _ = entrypoint.rpartition(":")
    if colon:
        return pathlib.Path(place).is_file()
    try:
        return importlib.util.find_spec(entrypoint.rpartition(".")[0]) is not None
    except (ImportError, ValueError):
        return False

found = {}
for key, place in json.load(sys.stdin).items():
    if not os.path.isdir(place["directory"]):
        continue
    os.chdir(place["directory"])
    sys.path.insert(0, place["directory"])
    try:
        if not exists(place["entrypoint"]):
            continue
        try:
            schema = parameter_schema_from_entrypoint(place["entrypoint"])
        except (OSError, SyntaxError):
            raise
        except Exception:
            schema = parameter_schema(load_flow_from_entrypoint(place["entrypoint"]))
        found[key] = {"schema": schema.model_dump(mode="json", exclude_unset=True)}
    except SyntaxError as error:
        found[key] = {"error": f"line {error.lineno}: {error.msg}"}
    except BaseException as error:
        found[key] = {"error": f"{type(error).__name__}: {error}"}
    finally:
        sys.path.remove(place["directory"])
json.dump(found, answer, default=str)
answer.flush()
os._exit(0)
"""
"""Reads entrypoints by deployment as JSON, and writes a schema or an error for each that exists."""


class ReadingError(Exception):
    """The parameters of some code cannot be read; the message has a sentence for each deployment."""


def digest(places: dict[str, Any], release: str, directory: Path) -> str:
    """Return the SHA-256 of everything that schemas depend on. Raises OSError."""
    total = hashlib.sha256(json.dumps([places, os.path.realpath(release)], sort_keys=True).encode())
    safe_files.hash_code(total, directory, suffixes={".py"}, skip=IGNORED)
    return total.hexdigest()


def read(places: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of the entrypoints on this host. Raises ReadingError."""
    python = Path(params["release"], "bin", "python")
    account = pwd.getpwnam(params["user"]) if params["user"] else pwd.getpwuid(os.getuid())
    try:
        process = run_as(
            account,
            [python, "-c", READER],
            timeout=params["timeout"],
            env={
                "HOME": account.pw_dir,
                "LANG": "C.UTF-8",
                "LOGNAME": account.pw_name,
                "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
                "PREFECT_HOME": params["home"],
                "PYTHONDONTWRITEBYTECODE": "1",
                "USER": account.pw_name,
            },
            stdin=json.dumps(places),
        )
    except TimedOutError:
        raise ReadingError(
            f"prefect_deployments: the parameters of {', '.join(places)} were not read after {params['timeout']} s: "
            "their code waits for something; give these deployments a parameter_openapi_schema"
        ) from None
    output, errors = process.stdout, process.stderr
    answers = parsed(output)
    if answers is None:
        last = (errors.strip().splitlines() or [f"it ended with exit code {process.returncode}"])[-1]
        raise ReadingError(f"prefect_deployments: the parameters of {', '.join(places)} cannot be read: {last}")
    wrong = [
        f"prefect_deployments: {key}: the parameters of {places[key]['entrypoint']} in {places[key]['directory']} "
        f"cannot be read: {answer['error']}; correct the code, or give the deployment a parameter_openapi_schema"
        for key, answer in sorted(answers.items())
        if "error" in answer
    ]
    if wrong:
        raise ReadingError("\n".join(wrong))
    return {key: answer["schema"] for key, answer in answers.items()}


def parsed(output: str) -> dict[str, Any] | None:
    """Return the answers by deployment, or None if they are invalid, since flow code can interfere with them."""
    with contextlib.suppress(ValueError):
        answers = json.loads(output)
        if isinstance(answers, dict) and all(
            isinstance(each, dict) and (isinstance(each.get("schema"), dict) or isinstance(each.get("error"), str))
            for each in answers.values()
        ):
            return answers
    return None


def remembered(file: Path, wanted: str) -> dict[str, Any] | None:
    """Return the schemas that a file stores for a digest, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        memory = json.loads(safe_files.read(file))
        if memory["digest"] == wanted:
            return dict(memory["schemas"])
    return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "entrypoints": {"type": "dict", "required": True},
            "directory": {"type": "path", "required": True},
            "release": {"type": "path", "required": True},
            "user": {"type": "str"},
            "home": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    params = module.params
    directory, memory = Path(params["directory"]), Path(params["state_dir"], MEMORY)
    places = {
        key: {**place, "directory": str(directory / place["directory"])} for key, place in params["entrypoints"].items()
    }
    try:
        if not places or not Path(params["release"], "bin", "python").exists() or not directory.is_dir():
            module.exit_json(changed=False, schemas={})
        known = digest(places, params["release"], directory)
        schemas = remembered(memory, known)
        if schemas is None:
            schemas = read(places, params)
            if not module.check_mode:
                text = json.dumps({"digest": known, "schemas": schemas}).encode()
                safe_files.write(memory, text, owner=os.geteuid(), group=os.getegid(), mode=0o600)
    except (ReadingError, OSError, KeyError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, schemas=schemas)


if __name__ == "__main__":
    main()
