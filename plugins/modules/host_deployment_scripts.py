#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run the scripts that register deployments, each again only when something that it depends on has changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_deployment_scripts
short_description: Run the scripts that register deployments
description:
  - Runs Python scripts and C(prefect.yaml) projects on the host, as the service user, with the settings of the API.
  - Each runs again only if it, the code in O(chdir), the release, the environment or the API has changed since it last
    succeeded.
  - All scripts are compiled before the first one runs, so that a syntax error changes nothing.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
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
        description: Directory of a C(prefect.yaml), relative to O(chdir). All its deployments are registered.
        type: str
      args:
        description: Arguments of the script.
        type: list
        elements: str
        default: []
      hosts:
        description: Hosts and groups of the inventory on which the script runs. Empty means all.
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
    description: Environment of the scripts, which overrides O(settings_file).
    type: dict
    default: {}
  settings_file:
    description: File on the host with the settings of the API's clients. Secrets in it are not logged.
    type: path
    required: true
  user:
    description: User that runs the scripts. Defaults to the user who connects.
    type: str
  state_dir:
    description: Directory that records which scripts have succeeded.
    type: path
    required: true
  force:
    description: Whether to also run scripts that have not changed.
    type: bool
    default: false
  timeout:
    description: Maximum duration of one script in seconds.
    type: int
    default: 600
attributes:
  check_mode:
    description: Reports which scripts would run.
    support: full
"""

EXAMPLES = r"""
- name: Register the deployments
  selfhosted.prefect.host_deployment_scripts:
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
  description: A SHA-256 that changes whenever a script has run.
  returned: success
  type: str
output:
  description: Output of the scripts, by name.
  returned: success
  type: dict
"""

import contextlib
import hashlib
import json
import os
import pwd
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import secrets_in
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.results import conceal
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import safe_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.processes import (
    TimedOutError,
    run_as,
    settings_in,
)

IGNORED = {".git", "__pycache__", ".venv", ".prefect"}
"""Directories whose content is not code."""

CODE = {".cfg", ".ini", ".json", ".py", ".sql", ".toml", ".txt", ".yaml", ".yml"}
"""Suffixes of code files. Flows run where their code is, and may leave data there."""


COMPILER = """
import json, sys
failed = False
for name, text in json.load(sys.stdin).items():
    try:
        compile(text, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        failed = True
        print(f"{name}, line {error.lineno}: {error.msg}")
    except ValueError as error:
        failed = True
        print(f"{name}: {error}")
sys.exit(failed)
"""
"""Reads scripts by name as JSON and prints a line for each that does not compile."""


MOST_SHOWN = 20_000
"""Characters of a script's output in an error."""

COMPILED = 120.0
"""Maximum seconds of compiling all scripts."""


class ScriptError(Exception):
    """A script cannot be run or failed; the message ends with its output."""


def code_digest(directory: Path) -> str:
    """Return the SHA-256 of all code files below a directory. Raises OSError."""
    total = hashlib.sha256()
    safe_files.hash_code(total, directory, suffixes=CODE, skip=IGNORED)
    return total.hexdigest()


def script_digest(script: dict[str, Any], *, shared: str) -> str:
    """Return the SHA-256 of everything that a script depends on."""
    return hashlib.sha256((shared + json.dumps(script, sort_keys=True)).encode()).hexdigest()


def proof(memory: Iterable[Path]) -> str:
    """Return the SHA-256 of the records of successful scripts."""
    return hashlib.sha256("".join(map(remembered, memory)).encode()).hexdigest()


def remembered(file: Path) -> str:
    """Return the content of a file; an empty text if it does not exist."""
    with contextlib.suppress(FileNotFoundError):
        return safe_files.read(file).decode()
    return ""


def refuse(scripts: list[dict[str, Any]]) -> None:
    """Raise ScriptError for scripts with no source, with several sources or with the same name."""
    names = [script["name"] for script in scripts]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ScriptError(f"prefect_flows_deployment_scripts: two scripts have the name {', '.join(doubled)}")
    for script in scripts:
        if sum(script[kind] is not None for kind in ("path", "content", "project")) != 1:
            raise ScriptError(
                f"prefect_flows_deployment_scripts: {script['name']} needs one of src, content, path and project"
            )


def source(script: dict[str, Any], chdir: Path) -> str:
    """Return the text of a script, an empty one for a project. Raises ScriptError if the file does not exist."""
    if script["content"] is not None:
        return str(script["content"])
    path = chdir / (script["path"] or f"{script['project']}/prefect.yaml")
    try:
        text = safe_files.read(path).decode()
    except FileNotFoundError as error:
        raise ScriptError(
            f"prefect_flows_deployment_scripts: {script['name']}: there is no {path} on this host"
        ) from error
    return text if script["path"] else ""


def check_syntax(texts: dict[str, str], python: Path, *, account: pwd.struct_passwd) -> None:
    """Compile scripts by name with the Python that runs them, which may be newer than Ansible's. Raises ScriptError."""
    try:
        answer = run_as(
            account,
            [python, "-I", "-c", COMPILER],
            timeout=COMPILED,
            env={"LANG": "C.UTF-8"},
            stdin=json.dumps(texts),
        )
    except TimedOutError as error:
        raise ScriptError(f"prefect_flows_deployment_scripts: the scripts cannot be compiled: {error}") from error
    except OSError as error:
        raise ScriptError(f"{python} cannot be run: {error.strerror}") from error
    problems = answer.stdout.splitlines() or answer.stderr.splitlines()[-1:]
    if answer.returncode:
        raise ScriptError("\n".join(f"prefect_flows_deployment_scripts: {problem}" for problem in problems))


def command_of(script: dict[str, Any], *, binaries: Path) -> list[str]:
    """Return the command line of a script, which comes from a file, standard input or a project."""
    if script["project"] is not None:
        return [str(binaries / "prefect"), "--no-prompt", "deploy", "--all"]
    return [str(binaries / "python"), script["path"] or "-", *script["args"]]


def account_of(user: str | None) -> pwd.struct_passwd:
    """Return the account of a user, by default that of the user who runs this. Raises KeyError."""
    return pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid())


def run(script: dict[str, Any], *, params: dict[str, Any], environment: dict[str, str]) -> str:
    """Run one script as the user of the services and return its output. Raises ScriptError if it fails."""
    binaries = Path(params["release"], "bin")
    account = account_of(params["user"])
    identity = {
        "HOME": account.pw_dir,
        "LANG": "C.UTF-8",
        "LOGNAME": account.pw_name,
        "PATH": f"{binaries}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "USER": account.pw_name,
    }
    try:
        process = run_as(
            account,
            command_of(script, binaries=binaries),
            timeout=params["timeout"],
            env=identity | environment,
            directory=Path(params["chdir"], script["project"] or ""),
            stdin=script["content"] or "",
            merge=True,
        )
    except TimedOutError as error:
        what = f"was not done after {params['timeout']} s" if error.late else f"printed {error}"
        raise ScriptError(
            f"prefect_flows_deployment_scripts: {script['name']} {what}; correct it, or raise prefect_flows_timeout. "
            f"It said:\n{error.output.strip()[-MOST_SHOWN:]}"
        ) from error
    output = process.stdout
    if process.returncode:
        raise ScriptError(
            f"prefect_flows_deployment_scripts: {script['name']} failed with exit code {process.returncode}:\n"
            f"{output.strip()}"
        )
    return output


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
            # One text, because Ansible would hide every value of a mapping everywhere, even "1".
            "environment": {"type": "str", "no_log": True, "default": "{}"},
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
    settings_text = remembered(Path(params["settings_file"]))
    try:
        code = code_digest(chdir)
    except FileNotFoundError:
        code = ""
    except OSError as error:
        module.fail_json(msg=f"prefect_flows_dir: {error}", ran=[], output={})
    # What a script registers does not depend on the credential, and registering a schedule again drops its next runs.
    given = {name: value for name, value in settings_in(settings_text).items() if name != "PREFECT_API_AUTH_STRING"}
    shared = json.dumps([os.path.realpath(params["release"]), params["environment"], given, code])
    digests = {script["name"]: script_digest(script, shared=shared) for script in params["scripts"]}
    memory = {name: state_dir / f"script-{quote(name, safe='')}.done" for name in digests}
    due = [
        script
        for script in params["scripts"]
        if params["force"] or remembered(memory[script["name"]]).split()[:1] != [digests[script["name"]]]
    ]
    environment = settings_in(settings_text) | json.loads(params["environment"])
    # A script that fails may write them, as Prefect does with a setting that it rejects.
    secrets = module.no_log_values | secrets_in(environment)
    output: dict[str, str] = {}
    try:
        refuse(params["scripts"])
        if due and not module.check_mode:
            texts = {script["name"]: source(script, chdir) for script in due}
            check_syntax(texts, Path(params["release"], "bin", "python"), account=account_of(params["user"]))
            for script in due:
                output[script["name"]] = run(script, params=params, environment=environment)
                done = f"{digests[script['name']]} {time.time_ns()}\n".encode()
                safe_files.write(memory[script["name"]], done, owner=os.geteuid(), group=os.getegid(), mode=0o644)
    except (ScriptError, OSError, KeyError) as error:
        module.fail_json(**conceal(module, {"msg": str(error), "ran": list(output), "output": output}, secrets))
    names = [script["name"] for script in due]
    result = {"changed": bool(due), "ran": names, "proof": proof(memory.values()), "output": output}
    module.exit_json(**conceal(module, result, secrets))


if __name__ == "__main__":
    main()
