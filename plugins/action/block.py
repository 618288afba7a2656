"""Tell the module of the same name what ansible-vault decrypted, so that it does not show it."""

from ansible_collections.selfhosted.prefect.plugins.plugin_utils.vaulted import ActionModule

__all__ = ["ActionModule"]
