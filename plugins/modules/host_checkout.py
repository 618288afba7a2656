# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Check out a git repository without its credential on a command line; see the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_checkout
short_description: Check out a git repository without its credential on a command line
description:
  - Runs M(ansible.builtin.git) on the task's host; use C(delegate_to) to run it on the controller.
  - Passes a user and a password or token of the URL to git in a file that only its user can read, and removes the file
    afterwards. No argument, environment, output or configuration of the checkout contains them.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
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
    description: Directory of the checkout. Local changes there are discarded.
    type: path
    required: true
attributes:
  check_mode:
    description: >-
      On the controller, checks out to a temporary directory, which Ansible removes when it ends. On another host,
      reports what would change.
    support: full
"""

EXAMPLES = r"""
- name: Check out the flows on the controller
  selfhosted.prefect.host_checkout:
    repo: "https://deploy:{{ vault_token }}@git.example.com/flows.git"
    version: main
    dest: /srv/flows
  delegate_to: localhost
"""

RETURN = r"""
after:
  description: The checked-out commit.
  returned: success
  type: str
path:
  description: Directory of the checkout, which in check mode is a temporary one.
  returned: always
  type: str
"""
