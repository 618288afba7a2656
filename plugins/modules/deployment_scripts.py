#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run the scripts that register deployments, each again exactly when something that it depends on has changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_scripts
short_description: Run the scripts that register deployments
description:
  - Runs Python scripts and C(prefect.yaml) projects on the host, as the service user, with the API set.
  - Each runs again exactly when it, the code in O(watch), the release, the environment or the API has changed since it
    last succeeded.
  - All scripts are compiled before the first one runs, so that a syntax error changes nothing.
version_added: 0.1.0
author: The selfhosted.prefect maintainers
options:
  scripts:
    description: The scripts, in the order in which they run.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the script, unique on the host.
        type: str
        required: true
      path:
        description: Script on the host, relative to O(chdir).
        type: str
      src:
        description: Script on the controller, below C(files) of the playbook or absolute.
        type: str
      content:
        description: Text of the script.
        type: str
      project:
        description: Directory of a C(prefect.yaml), relative to O(chdir), all of whose deployments are registered.
        type: str
      args:
        description: Arguments of the script.
        type: list
        elements: str
        default: []
      hosts:
        description: Hosts and groups of the inventory that the script is meant for. Empty means all.
        type: list
        elements: str
        default: []
  chdir:
    description: Directory of the flow code, in which the scripts run.
    type: path
    required: true
  release:
    description: Directory (or link) of the release whose Python runs the scripts.
    type: path
    required: true
  environment:
    description: Environment of the scripts, over that of O(settings_file).
    type: dict
    default: {}
  settings_file:
    description: File on the host with the settings of the API's clients. It may hold secrets, which no log shows.
    type: path
    required: true
  user:
    description: User that runs the scripts. Left out, whoever connects.
    type: str
  state_dir:
    description: Directory that remembers what has succeeded.
    type: path
    required: true
  force:
    description: Whether to run scripts that have not changed, too.
    type: bool
    default: false
  timeout:
    description: Seconds that one script may take.
    type: int
    default: 600
attributes:
  check_mode:
    description: Says which scripts would run.
    support: full
"""

EXAMPLES = r"""
- name: Register the deployments
  selfhosted.prefect.deployment_scripts:
    scripts:
      - {name: deploy, path: deploy.py}
    chdir: /var/lib/prefect/flows
    release: /opt/prefect/current
    settings_file: /etc/prefect/client.env
    user: prefect
    state_dir: /opt/prefect/state
"""

RETURN = r"""
ran:
  description: Names of the scripts that ran.
  returned: success
  type: list
  elements: str
proof:
  description: A SHA-256 that is another one whenever a script has run.
  returned: success
  type: str
output:
  description: What the scripts printed, by name.
  returned: success
  type: dict
"""

import contextlib
import hashlib
import json
import os
import pwd
import shlex
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

IGNORED = {".git", "__pycache__", ".venv", ".prefect"}
"""Directories whose content is not code."""

CODE = {".cfg", ".ini", ".json", ".py", ".sql", ".toml", ".txt", ".yaml", ".yml"}
"""Endings of files that are code: flows run where their code is, and may leave data there."""


class ScriptError(Exception):
    """A script that cannot be run or that failed; the message ends with its output."""


def code_digest(directory: Path) -> str:
    """Return the SHA-256 of every file of code below a directory."""
    total = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not IGNORED & set(path.parts) and path.suffix in CODE:
            total.update(str(path.relative_to(directory)).encode())
            with contextlib.suppress(OSError):
                total.update(path.read_bytes())
    return total.hexdigest()


def settings(path: str) -> dict[str, str]:
    """Return a settings file, as a shell reads it."""
    lines = (line.split("=", 1) for line in Path(path).read_text(encoding="utf-8").splitlines() if "=" in line)
    return {name: "".join(shlex.split(value)) for name, value in lines if not name.startswith("#")}


def script_digest(script: dict[str, Any], *, shared: str) -> str:
    """Return what one script depends on, as a SHA-256."""
    return hashlib.sha256((shared + json.dumps(script, sort_keys=True)).encode()).hexdigest()


def proof(memory: Iterable[Path]) -> str:
    """Return the SHA-256 of when which script succeeded."""
    return hashlib.sha256("".join(path.read_text() for path in memory if path.exists()).encode()).hexdigest()


def source(script: dict[str, Any], chdir: Path) -> str | None:
    """Return the text of a script, None for a project. Raises ScriptError where there is nothing."""
    given = [kind for kind in ("path", "content", "project") if script[kind] is not None]
    if len(given) != 1:
        raise ScriptError(
            f"prefect_flows_deployment_scripts: {script['name']} needs one of src, content, path and project"
        )
    if script["content"] is not None:
        return str(script["content"])
    path = chdir / script["project"] / "prefect.yaml" if script["path"] is None else chdir / script["path"]
    if not path.is_file():
        raise ScriptError(f"prefect_flows_deployment_scripts: {script['name']}: there is no {path} on this host")
    return path.read_text(encoding="utf-8") if script["path"] is not None else None


def run(script: dict[str, Any], *, params: dict[str, Any], text: str | None) -> str:
    """Run one script as the user of the services and return what it printed."""
    binaries, chdir = Path(params["release"], "bin"), Path(params["chdir"])
    account = pwd.getpwnam(params["user"]) if params["user"] else pwd.getpwuid(os.getuid())
    environment = {
        "HOME": account.pw_dir,
        "LANG": "C.UTF-8",
        "LOGNAME": account.pw_name,
        "PATH": f"{binaries}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "USER": account.pw_name,
    }
    environment |= settings(params["settings_file"]) | {k: str(value) for k, value in params["environment"].items()}
    if script["project"] is not None:
        command, chdir = [str(binaries / "prefect"), "--no-prompt", "deploy", "--all"], chdir / script["project"]
    elif script["path"] is not None:
        command = [str(binaries / "python"), script["path"], *script["args"]]
    else:
        command = [str(binaries / "python"), "-", *script["args"]]
    become: dict[str, Any] = {}
    if os.getuid() == 0 and account.pw_uid != 0:
        become = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        result = subprocess.run(
            command,
            cwd=chdir,
            env=environment,
            input=text if script["content"] is not None else "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=params["timeout"],
            check=False,
            **become,
        )
    except subprocess.TimeoutExpired as error:
        raise ScriptError(
            f"{script['name']} was not done after {params['timeout']} s:\n{error.stdout or ''}"
        ) from error
    if result.returncode:
        raise ScriptError(f"{script['name']} failed with exit code {result.returncode}:\n{result.stdout.strip()}")
    return result.stdout


def main() -> None:
    text = {"type": "str"}
    module = AnsibleModule(
        argument_spec={
            "scripts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "path": text,
                    "content": text,
                    "project": text,
                    "args": {"type": "list", "elements": "str", "default": []},
                },
            },
            "chdir": {"type": "path", "required": True},
            "release": {"type": "path", "required": True},
            "environment": {"type": "dict", "default": {}},
            "settings_file": {"type": "path", "required": True},
            "user": text,
            "state_dir": {"type": "path", "required": True},
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    params = module.params
    chdir, state_dir = Path(params["chdir"]), Path(params["state_dir"])
    shared = "\n".join(
        [
            os.path.realpath(params["release"]),
            json.dumps(params["environment"], sort_keys=True),
            Path(params["settings_file"]).read_text() if Path(params["settings_file"]).exists() else "",
            code_digest(chdir) if chdir.is_dir() else "",
        ]
    )
    digests = {script["name"]: script_digest(script, shared=shared) for script in params["scripts"]}
    memory = {name: state_dir / f"script-{name.replace('/', '-')}.done" for name in digests}
    due = [
        script
        for script in params["scripts"]
        if params["force"]
        or not memory[script["name"]].exists()
        or memory[script["name"]].read_text().split()[:1] != [digests[script["name"]]]
    ]
    names = [script["name"] for script in due]
    if module.check_mode or not due:
        module.exit_json(changed=bool(due), ran=names, proof=proof(memory.values()), output={})
    output = {}
    try:
        if len(digests) < len(params["scripts"]):
            raise ScriptError("prefect_flows_deployment_scripts: two scripts have the same name")
        texts = {script["name"]: source(script, chdir) for script in due}
        for name, code in texts.items():
            try:
                compile(code or "", name, "exec")
            except SyntaxError as error:
                raise ScriptError(
                    f"prefect_flows_deployment_scripts: {name}, line {error.lineno}: {error.msg}"
                ) from error
        for script in due:
            output[script["name"]] = run(script, params=params, text=texts[script["name"]])
            state_dir.mkdir(parents=True, exist_ok=True)
            memory[script["name"]].write_text(f"{digests[script['name']]} {time.time():.0f}\n")
    except ScriptError as error:
        module.fail_json(msg=str(error), ran=list(output), output=output)
    module.exit_json(changed=True, ran=names, proof=proof(memory.values()), output=output)


if __name__ == "__main__":
    main()
