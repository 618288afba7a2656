"""What all modules that use Prefect's REST API share: options, main function and client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule, env_fallback

from .client import (
    PAGE,
    RETRIED,
    Answer,
    Api,
    ApiError,
    Failure,
    moment,
    quoted,
    worker_online_since,
)
from .masking import SURE, Mask
from .results import conceal

__all__ = [
    "API_SPEC",
    "PAGE",
    "RETRIED",
    "SECRETS",
    "Answer",
    "Api",
    "ApiError",
    "Failure",
    "mask_of",
    "moment",
    "quoted",
    "run_module",
    "worker_online_since",
]

SECRETS = "_secrets"
"""Key of a result that lists the texts to hide. It is not returned."""

API_SPEC: dict[str, dict[str, Any]] = {
    "api_url": {"type": "str", "required": True, "fallback": (env_fallback, ["PREFECT_API_URL"])},
    "api_auth": {"type": "str", "no_log": True, "fallback": (env_fallback, ["PREFECT_API_AUTH_STRING"])},
    "api_ca": {"type": "path", "fallback": (env_fallback, ["PREFECT_API_SSL_CERT_FILE"])},
    "api_csrf": {"type": "bool", "default": False},
    "api_headers": {"type": "dict", "no_log": True, "fallback": (env_fallback, ["PREFECT_CLIENT_CUSTOM_HEADERS"])},
    "api_timeout": {"type": "float", "default": 60.0},
    "secret_texts": {"type": "list", "elements": "str", "no_log": True, "default": []},
    "show_secrets": {"type": "bool", "default": False},
    "validate_certs": {"type": "bool", "default": True},
}
"""The options of every module for the API. Documented in `doc_fragments/api.py`."""


def mask_of(params: Mapping[str, Any]) -> Mask:
    """Return what to hide from the user who runs a module with these options."""
    return Mask(known=tuple(filter(None, params["secret_texts"])), show=params["show_secrets"])


def run_module(
    work: Callable[[Api, Mapping[str, Any], bool], dict[str, Any]], spec: Mapping[str, Any], **options: Any
) -> None:
    """Run a module: `work(api, params, check_mode)` returns the result; a Failure becomes `failed`.

    `spec` and `options` are AnsibleModule's; the options of `API_SPEC` are added. Every value in a `no_log` option is
    hidden, unless the result lists the secrets among them under `SECRETS`. In the arguments, which `-vvv` shows,
    `no_log` options are hidden completely.
    """
    spec = {**API_SPEC, **spec}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True, **options)
    params = module.params
    try:
        with Api(
            params["api_url"],
            auth=params["api_auth"],
            ca=params["api_ca"],
            validate_certs=params["validate_certs"],
            timeout=params["api_timeout"],
            csrf=params["api_csrf"],
            headers=params["api_headers"],
        ) as api:
            result = work(api, params, module.check_mode)
    except Failure as failure:
        result = {**failure.details, "msg": str(failure), "failed": True}
    secrets = None
    if SECRETS in result:
        # Ansible would hide every text that equals any value of the option, such as a name.
        headers = [str(value) for value in (params["api_headers"] or {}).values()]
        texts = [*result.pop(SECRETS), *(text for text in params["secret_texts"] if len(text) >= SURE)]
        hidden = [params["api_auth"], *headers, *([] if params["show_secrets"] else texts)]
        secrets = {text for text in hidden if text}
    arguments = {
        name: "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" if value and spec[name].get("no_log") else value
        for name, value in params.items()
        if name in spec
    }
    result["invocation"] = {"module_args": mask_of({**params, "show_secrets": False}).fields(arguments)}
    result = conceal(module, result, secrets)
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)
