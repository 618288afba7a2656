#!/usr/bin/env python
"""ansible-lint with Ansible's syntax check run once for all that it lints, instead of once for each playbook and role.

`ansible-playbook --syntax-check` takes any number of playbooks: one call for all starts once and parses a role once
(tests/syntax.py keeps down what its copies cost). Only when that call finds something is each checked alone, by
ansible-lint itself, which then says where. What ansible-lint computes again for each of its forty rules is computed
once, and yamllint's findings are left to `make check-yaml`, which reads every YAML file with the same settings.
Everything else is ansible-lint's own (its options too: `tests/lint.py --help`).
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import syntax
from ansible_compat.runtime import Runtime
from ansiblelint import file_utils, skip_utils, utils
from ansiblelint.__main__ import main
from ansiblelint.errors import MatchError
from ansiblelint.file_utils import Lintable
from ansiblelint.rules import AnsibleLintRule
from ansiblelint.runner import Runner
from wcmatch import _wcparse
from yamllint import linter

each_alone = Runner._map_syntax_check_workers
read_comments = skip_utils.append_skipped_rules
copy_task = utils._sanitize_task
parse = utils._parse_yaml_linenumbers_cached.__wrapped__
resolve = functools.cache(Path.resolve)
match_lines = AnsibleLintRule.matchlines
copies: dict[int, tuple[Any, Any]] = {}


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
        command = [sys.executable, syntax.__file__, "--syntax-check", *paths, *([play.name] if roles else [])]
        passed = subprocess.run(command, env=runner.app.runtime.environ, capture_output=True, check=False)
    return [] if passed.returncode == 0 else each_alone(runner, worker, files)


def has_playbook(runtime: Runtime, playbook: str, **_: Any) -> bool:
    """Whether an imported playbook is sound: left to the check of the one that imports it, which loads it too."""
    return True


def copied_once(task: Any) -> Any:
    """The copy of a task that its arguments are read from: most of the time that a rule takes goes into it."""
    # The task itself is kept, since another one may get its id otherwise.
    if id(task) not in copies:
        copies[id(task)] = task, copy_task(task)
    return copies[id(task)][1]


def read_where_needed(pyyaml_data: Any, lintable: Lintable) -> Any:
    """What a file holds, with the rules that its comments skip: only a file that names `noqa` is parsed for them."""
    return read_comments(pyyaml_data, lintable) if "noqa" in lintable.content else pyyaml_data


def lines_where_needed(rule: AnsibleLintRule, file: Lintable) -> list[MatchError]:
    """What a rule finds in the lines of a file: nothing where it has no `match`, which is asked for each line."""
    return [] if type(rule).match is AnsibleLintRule.match else match_lines(rule, file)


def left_to_yamllint(*_: Any, **__: Any) -> list[Any]:
    """What yamllint finds in a file: left to `make check-yaml`."""
    return []


def parsed(lintable: Lintable) -> Any:
    """What a file holds: a file is loaded once, and what is loaded once needs no copy."""
    return parse(str(lintable.abspath), lintable.content)


def inside(child: Path, parent: Path) -> bool:
    """Whether a path is a directory or in it."""
    return bool(resolve(child).is_relative_to(resolve(parent)))


Runner._map_syntax_check_workers = all_at_once  # type: ignore[assignment, method-assign]
Runtime.has_playbook = has_playbook  # type: ignore[assignment, method-assign]
# ansible-lint loads its rules by another name: to replace what they import is what reaches them.
linter.run = left_to_yamllint
utils.parse_yaml_linenumbers = parsed
file_utils.path_is_inside = inside
AnsibleLintRule.matchlines = lines_where_needed  # type: ignore[assignment, method-assign]
utils._sanitize_task = copied_once
skip_utils.append_skipped_rules = read_where_needed
file_utils.kind_from_path = functools.cache(file_utils.kind_from_path)
# The patterns of a kind are compiled again for each file.
_wcparse.compile = functools.cache(_wcparse.compile)

if __name__ == "__main__":
    sys.exit(main())
