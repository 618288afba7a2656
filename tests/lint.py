#!/usr/bin/env python
"""ansible-lint with Ansible's syntax check run once for all that it lints, instead of once for each playbook and role.

`ansible-playbook --syntax-check` takes any number of playbooks, and nearly all of its time goes into starting: one
call for all takes a seventh of the time. Only when that call finds something is each checked alone, by ansible-lint
itself, which then says where. Everything else is ansible-lint's own (its options too: `tests/lint.py --help`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from ansible_compat.runtime import Runtime
from ansiblelint.__main__ import main
from ansiblelint.file_utils import Lintable
from ansiblelint.runner import Runner

each_alone = Runner._map_syntax_check_workers


def all_at_once(runner: Runner, worker: Callable[..., Any], files: list[Lintable]) -> Any:
    """What is wrong with the syntax of `files`: nothing, or what `worker` says of each."""
    paths = [str(file.path) for file in files if file.kind == "playbook"]
    roles = [file.path for file in files if file.kind == "role"]
    if len(paths) + len(roles) != len(files):
        return each_alone(runner, worker, files)
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as play:
        play.write("- hosts: localhost\n  tasks:\n")
        play.writelines(f"    - ansible.builtin.import_role:\n        name: {role}\n" for role in roles)
        play.flush()
        command = ["ansible-playbook", "--syntax-check", *paths, *([play.name] if roles else [])]
        passed = subprocess.run(command, env=runner.app.runtime.environ, capture_output=True, check=False)
    return [] if passed.returncode == 0 else each_alone(runner, worker, files)


def has_playbook(runtime: Runtime, playbook: str, **_: Any) -> bool:
    """Whether an imported playbook is sound: left to the check of the one that imports it, which loads it too."""
    return True


Runner._map_syntax_check_workers = all_at_once  # type: ignore[assignment, method-assign]
Runtime.has_playbook = has_playbook  # type: ignore[assignment, method-assign]

if __name__ == "__main__":
    sys.exit(main())
