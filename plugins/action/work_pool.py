"""Pass decrypted vault values to the module of the same name, so that it can mask them."""

from ansible_collections.selfhosted.prefect.plugins.plugin_utils.vaulted import ActionModule

__all__ = ["ActionModule"]
