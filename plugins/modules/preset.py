#!/usr/bin/python
"""Documentation of the preset task, whose code is the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preset
short_description: Run a preset, a named bundle of steps with typed parameters, as one task
version_added: 1.0.0
description:
  - A preset is a file C(presets/<name>/preset.yml) that declares parameters and steps. The steps are ordinary tasks, so
    roles, includes, blocks, loops and handlers work.
  - The steps run on the task's host with the task's own variables, connection, privilege escalation, environment,
    C(module_defaults), check and diff mode. They see facts, registered variables and the loop's item. Variables that
    they register or set are visible only to the steps; facts that they gather are kept.
  - Every step is printed under the task as it ends, and the task's result summarizes them.
  - The short name V(preset) works in a clone of the collection, in plays with C(collections), and everywhere after
    C(ansible-playbook selfhosted.prefect.shortname) has run. The full name always works.
options:
  name:
    description:
      - Name of the preset. It may also be the task's only value, as in C(preset:) V(prefect).
      - The search order is C(presets/) beside the playbook, C(presets/) in the working directory,
        C(~/.ansible/presets), and the collection's own presets.
    type: str
    required: true
  with:
    description:
      - The preset's parameters. They may also be set beside O(name) or in the task's C(args).
      - A parameter with a C(variable) in the preset sets that variable for the steps and overrides everything but
        extra variables. If the parameter is left out and has no default, the variable keeps its value.
    type: dict
    default: {}
notes:
  - The task's own tags and C(when) select or skip the preset as a whole. If it is selected, all its steps run,
    regardless of C(--tags). Steps tagged C(never) need one of their tags in C(--tags). C(--skip-tags) skips steps by
    their tags.
  - C(ignore_errors), C(until), C(retries), C(failed_when), C(timeout) and C(loop) apply to the task as a whole, never
    to a step.
  - C(run_once) in a step means once on this host, since every host runs its own preset.
  - C(async) is rejected, and so is a preset that would run itself.
  - With a stdout callback that is not derived from P(ansible.builtin.default#callback), such as
    P(ansible.posix.json#callback), steps are printed only with C(-vv) or higher.
attributes:
  check_mode:
    description: Runs the steps in check mode if the command line or the task's C(check_mode) sets it.
    support: full
  diff_mode:
    description: Prints the steps' diffs.
    support: full
author:
  - The selfhosted.prefect maintainers (@selfhosted)
"""

EXAMPLES = r"""
- name: Install a complete Prefect platform on the host
  selfhosted.prefect.preset: prefect

- name: Install a given version
  selfhosted.prefect.preset: prefect
  args:
    version: 3.8.8

- name: Install a given version with the parameters in one place
  selfhosted.prefect.preset:
    name: prefect
    with:
      version: 3.8.8

- name: Remove Prefect from the host
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
    - The outcome of each step, in order.
    - If the task fails, only the steps that changed something and the one that failed.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: The step's name, prefixed with the role's.
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
      description: Its message, if it says more than C(ok).
      type: str
"""
