#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Write several files in one round trip. The action plugin of the same name renders the templates."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Create directories, write templates and remove both in one round trip
description:
  - M(ansible.builtin.file) and M(ansible.builtin.template) need several round trips for each file; this module needs
    one for all files.
  - A file is replaced atomically, with its owner and mode.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
extends_documentation_fragment:
  - selfhosted.prefect.files
  - selfhosted.prefect.ledger
attributes:
  check_mode:
    description: Reports what would be written.
    support: full
  diff_mode:
    description: Shows what changes, except in secret files.
    support: full
"""

EXAMPLES = r"""
- name: Write the settings
  selfhosted.prefect.host_files:
    files:
      - {path: /etc/prefect, mode: "0750", group: prefect}
      - path: /etc/prefect/server.env
        template: etc/prefect/settings.env.j2
        mode: "0640"
        group: prefect
        secret: true
"""

RETURN = r"""
written:
  description: Paths that were created or written, or whose owner or mode changed.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.results import conceal
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.files import FILES, SECRETS, FileError, known
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import (
    LEDGER,
    LedgerError,
    ensure_files,
    opened,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={"files": FILES, "secrets": SECRETS, "ledger": LEDGER}, supports_check_mode=True
    )
    params = module.params
    files, lacking = known(params["files"])
    if lacking:
        module.exit_json(changed=False, lacking=lacking)
    try:
        with opened(params["ledger"], dry=module.check_mode) as ledger:
            written, diff = ensure_files(ledger, files, params["secrets"], dry=module.check_mode, warn=module.warn)
    except (FileError, LedgerError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**conceal(module, {"changed": bool(written), "written": written, "diff": diff}))


if __name__ == "__main__":
    main()
