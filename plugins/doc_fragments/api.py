"""The options of `module_utils/api.py`, for the documentation of every module that has them."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  api_url:
    description:
      - Address of Prefect's API. It ends in C(/api), or in what E(PREFECT_SERVER_API_BASE_PATH) says.
      - Without it, the environment variable E(PREFECT_API_URL) of the host that runs the module is used.
    type: str
    required: true
  api_auth:
    description:
      - The server's C(user:password), where it asks for one (E(PREFECT_SERVER_API_AUTH_STRING)).
      - Without it, the environment variable E(PREFECT_API_AUTH_STRING) is used.
    type: str
  api_ca:
    description:
      - A PEM file on the host that runs the module, with the certificate authorities to trust.
      - Without it, E(PREFECT_API_SSL_CERT_FILE) is used, and then the system's authorities.
    type: path
  api_csrf:
    description:
      - Fetch a CSRF token before the first change. It saves a refused request on servers with
        E(PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED). Without it, a token is fetched when the server asks for one.
    type: bool
    default: false
  api_headers:
    description:
      - Further HTTP headers for every request, such as those that an authenticating proxy wants.
      - Without it, E(PREFECT_CLIENT_CUSTOM_HEADERS) is used (JSON).
    type: dict
  api_timeout:
    description:
      - Seconds without a sign from the server after which a request has failed.
    type: float
    default: 60.0
  secret_texts:
    description:
      - Texts that are hidden wherever a result, a diff or an error would show them, such as what C(ansible-vault)
        decrypted.
    type: list
    elements: str
    default: []
  show_secrets:
    description:
      - Show in results and diffs what is hidden otherwise, every field of a block that is not known to be harmless,
        values under keys that look like those of credentials, and URLs with a password or of a webhook.
    type: bool
    default: false
  validate_certs:
    description:
      - Whether the server's certificate has to be valid.
    type: bool
    default: true
notes:
  - A request is tried again for 20 seconds when the server is busy (408, 429, 502, 503) or drops the connection, and
    for 5 minutes while a proxy answers 503 with C(Prefect-Maintenance:true).
  - Proxies are taken from E(http_proxy), E(https_proxy) and E(no_proxy).
  - Set these options once for all modules with C(module_defaults) and the group C(group/selfhosted.prefect.api).
"""
