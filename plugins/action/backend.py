"""Compare the secrets of the controller with what the module of the same name reads on a host."""

from __future__ import annotations

from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_secrets import ReadHost


class ActionModule(ReadHost):
    module = "selfhosted.prefect.backend"
