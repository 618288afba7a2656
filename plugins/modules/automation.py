#!/usr/bin/python
"""Create, change or delete an automation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: automation
short_description: Manage Prefect automations
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes an automation over Prefect's API. It is found by its name, which must be unique.
  - >-
    Triggers and actions refer to objects by name: C(deployment: flow/name), C(block: type/name), C(work_pool),
    C(work_queue: pool/queue), C(automation), and in the labels that a trigger matches
    C(prefect.deployment.flow/name), C(prefect.flow.name) and so on. Prefect's ids are accepted as well.
  - An option that is left out keeps its value on an existing automation.
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Reports what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the options that change.
    support: full
options:
  name:
    description:
      - Name of the automation.
    type: str
    required: true
  state:
    description:
      - Whether the automation exists.
    type: str
    choices: [present, absent]
    default: present
  description:
    description:
      - What the automation is for. An empty text clears it.
    type: str
  enabled:
    description:
      - Whether the automation is enabled.
    type: bool
  tags:
    description:
      - Tags. An empty list clears them.
    type: list
    elements: str
  trigger:
    description:
      - >-
        When it acts: a trigger of type C(event) (the default), C(compound) or C(sequence), with Prefect's fields.
        The default of C(posture) is C(Reactive), that of C(require) is C(all); durations are in seconds. Required for
        a new automation.
    type: dict
  actions:
    description:
      - Its actions, with Prefect's fields and names instead of ids. Required for a new automation.
    type: list
    elements: dict
  actions_on_trigger:
    description:
      - Its actions when it is triggered.
    type: list
    elements: dict
  actions_on_resolve:
    description:
      - Its actions when the trigger is resolved.
    type: list
    elements: dict
"""

EXAMPLES = r"""
- name: Notify the team of failed runs
  selfhosted.prefect.automation:
    api_url: http://127.0.0.1:4200/api
    name: Tell of failures
    trigger:
      expect: [prefect.flow-run.Failed, prefect.flow-run.Crashed]
      match:
        prefect.resource.id: prefect.flow-run.*
      match_related:
        prefect.resource.id: prefect.flow.stock
    actions:
      - type: send-notification
        block: slack-webhook/team
        subject: A run of stock failed
        body: "See {% raw %}{{ flow_run|ui_url }}{% endraw %}"

- name: Mark runs as crashed when their process is gone
  selfhosted.prefect.automation:
    api_url: http://127.0.0.1:4200/api
    name: Crash zombie flow runs
    trigger:
      posture: Proactive
      after: [prefect.flow-run.heartbeat]
      expect: [prefect.flow-run.*]
      match:
        prefect.resource.id: prefect.flow-run.*
      for_each: [prefect.resource.id]
      within: 540
    actions:
      - type: change-flow-run-state
        state: CRASHED
        message: It sends no heartbeats any more

- name: Run one deployment after another
  selfhosted.prefect.automation:
    api_url: http://127.0.0.1:4200/api
    name: Report after stock
    trigger:
      expect: [prefect.flow-run.Completed]
      match_related:
        prefect.resource.id: prefect.deployment.stock/daily
    actions:
      - type: run-deployment
        deployment: report/daily
"""

RETURN = r"""
object:
  description:
    - The automation as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    name: Tell of failures
    enabled: true
    trigger:
      type: event
      posture: Reactive
      expect: [prefect.flow-run.Crashed, prefect.flow-run.Failed]
    actions:
      - type: send-notification
        block: slack-webhook/team
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from ..module_utils.objects.table import main as of_kind


def main() -> None:
    of_kind("automation")


if __name__ == "__main__":
    main()
