"""Run the module of the same name, and compare the controller's secrets with the fingerprints on the host."""

from __future__ import annotations

from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_secrets import ReadHost


class ActionModule(ReadHost):
    module = "selfhosted.prefect.host_backend"
