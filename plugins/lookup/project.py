"""Deployments of `prefect.yaml` files."""

from __future__ import annotations

DOCUMENTATION = r"""
name: project
author: The selfhosted.prefect maintainers (@selfhosted)
short_description: Deployments of prefect.yaml files
version_added: 1.0.0
description:
  - Returns the deployments of Prefect projects as entries of C(prefect_deployments), without running anything. The
    name, description and parameters of a flow are read from its source.
  - YAML anchors work. C({{ $NAME }}) is taken from the environment of the controller. Pull steps and job variables
    keep C({{ prefect.blocks... }}) and C({{ prefect.variables... }}), which Prefect fills in for each run.
  - Build and push steps, outputs of steps, C({{ prefect... }}) elsewhere, and C(triggers) are rejected by name.
options:
  _terms:
    description: C(prefect.yaml) files, or their directories.
    type: list
    elements: path
    required: true
  directory:
    description:
      - Directory of the flow code on the hosts that run it. It is the working directory of deployments without pull
        steps.
    type: str
    required: true
  source:
    description:
      - Directory on the controller that corresponds to O(directory). A project below it is at the same path below
        O(directory).
    type: str
    default: ''
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ query('selfhosted.prefect.project', 'stock/prefect.yaml', directory='/var/lib/prefect/flows') }}"
"""

RETURN = r"""
_raw:
  description: The deployments.
  type: list
  elements: dict
"""

import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.project import FILE, ProjectError, deployments


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        found: list[dict[str, Any]] = []
        for term in terms:
            path = Path(self._loader.path_dwim(term)).resolve()
            root = path if path.is_dir() else path.parent
            directory = placed(root, self.get_option("source") and self._loader.path_dwim(self.get_option("source")))
            try:
                found += deployments(
                    path, directory=str(Path(self.get_option("directory"), directory)), environment=os.environ
                )
            except FileNotFoundError as error:
                raise AnsibleLookupError(f"prefect_resources_projects: there is no {error.filename or FILE}") from error
            except (OSError, ProjectError) as error:
                raise AnsibleLookupError(f"prefect_resources_projects: {error}") from error
        return found


def placed(root: Path, source: str) -> str:
    """Return the path of a project relative to the source directory of the flow code."""
    base = Path(source).resolve() if source else root
    return str(root.relative_to(base)) if root.is_relative_to(base) else "."
