# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Check a git repository out, with its credential on no command line. The action plugin of the same name does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: checkout
short_description: Check a git repository out, with its credential on no command line
description:
  - Runs M(ansible.builtin.git) where the task runs, by C(delegate_to) on the controller.
  - A user and a password or token in the URL are handed to git in a file that only its user can read, and that is
    removed afterwards. They are in no argument, no environment, no output, and not in the checkout's configuration.
version_added: 0.2.0
author: The selfhosted.prefect maintainers
options:
  repo:
    description: URL or path of the repository.
    type: str
    required: true
  version:
    description: Branch, tag or commit.
    type: str
    default: HEAD
  dest:
    description: Directory of the checkout. What was changed there is discarded.
    type: path
    required: true
attributes:
  check_mode:
    description: Says what would change.
    support: full
"""

EXAMPLES = r"""
- name: Check the flows out on the controller
  selfhosted.prefect.checkout:
    repo: "https://deploy:{{ vault_token }}@git.example.com/flows.git"
    version: main
    dest: /srv/flows
  delegate_to: localhost
"""

RETURN = r"""
after:
  description: The commit that is checked out.
  returned: success
  type: str
"""
