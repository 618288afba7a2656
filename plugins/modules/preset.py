#!/usr/bin/python
"""Documentation of the preset task, whose code is the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preset
short_description: Run a preset, a named bundle of steps with typed parameters, as one task
version_added: 0.1.0
description:
  - A preset is a file C(presets/<name>/preset.yml) that declares parameters and steps. The steps are ordinary tasks, so
    roles, includes, blocks, loops and handlers work in them.
  - The steps run on the task's host with the task's own variables, connection, privilege escalation, environment,
    C(module_defaults), check and diff mode. They see facts, registered variables and the loop's item. What they
    register or set themselves stays with them, except that facts which they gather are kept.
  - Every step is printed under the task as it ends, and the task's result sums them up.
  - The short name V(preset) works in a clone of the collection, in plays with C(collections), and everywhere once
    C(ansible-playbook selfhosted.prefect.shortname) has run. The full name works always.
options:
  name:
    description:
      - Name of the preset. May also be the task's only value, as in C(preset:) V(prefect).
      - Looked for in C(presets/) beside the playbook, in C(presets/) of the working directory, in
        C(~/.ansible/presets), and among the collection's own presets, in this order.
    type: str
    required: true
  with:
    description:
      - The preset's parameters. They may as well stand beside O(name), or in the task's C(args).
      - A parameter with a C(variable) in the preset sets that variable for the steps, above everything but extra
        variables. When the parameter is left out and has no default, the variable keeps the value it has.
    type: dict
    default: {}
notes:
  - The preset is chosen or skipped as a whole by the task's own tags and C(when). Once chosen, all its steps run,
    whatever C(--tags) says. Steps tagged C(never) need one of their tags in C(--tags). C(--skip-tags) skips steps by
    their tags.
  - C(ignore_errors), C(until), C(retries), C(failed_when), C(timeout) and C(loop) act on the task as a whole, never on
    a step.
  - C(run_once) in a step means once on this host, since every host runs its preset on its own.
  - C(async) is refused, and so is a preset that would run itself.
  - With a stdout callback that is not derived from P(ansible.builtin.default#callback), such as
    P(ansible.posix.json#callback), steps are printed from C(-vv) on.
attributes:
  check_mode:
    description: Runs the steps in check mode, from the command line or by the task's C(check_mode).
    support: full
  diff_mode:
    description: Prints the steps' diffs.
    support: full
author:
  - The selfhosted.prefect maintainers (@selfhosted)
"""

EXAMPLES = r"""
- name: Put a complete Prefect on the host
  selfhosted.prefect.preset: prefect

- name: Put a given version there
  selfhosted.prefect.preset: prefect
  args:
    version: 3.8.8

- name: The same with everything in one place
  selfhosted.prefect.preset:
    name: prefect
    with:
      version: 3.8.8

- name: Take it away
  selfhosted.prefect.preset:
    name: prefect
    state: absent
"""

RETURN = r"""
preset:
  description: Name of the preset.
  type: str
  returned: always
  sample: prefect
path:
  description: The file that was run.
  type: str
  returned: always
  sample: /home/ann/site/presets/prefect/preset.yml
parameters:
  description: The parameters after conversion and defaults. Those with C(no_log) are masked.
  type: dict
  returned: always
  sample: {state: present}
steps:
  description:
    - What became of each step, in order.
    - When the task fails, only the steps that changed something and the one that failed.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: The step's name, with the role's in front of it.
      type: str
    changed:
      description: Whether it changed something.
      type: bool
    failed:
      description: Whether it failed or its host could not be reached.
      type: bool
    skipped:
      description: Whether it was skipped.
      type: bool
    msg:
      description: Its message, where it has one that says more than C(ok).
      type: str
"""
