"""The options of `module_utils/api/module.py`, for the documentation of the modules that call the API."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  api_url:
    description:
      - Address of Prefect's API. It ends in C(/api), or in the value of E(PREFECT_SERVER_API_BASE_PATH).
      - Defaults to the environment variable E(PREFECT_API_URL) of the host that runs the module.
    type: str
    required: true
  api_auth:
    description:
      - The server's C(user:password), if it requires one (E(PREFECT_SERVER_API_AUTH_STRING)).
      - Defaults to the environment variable E(PREFECT_API_AUTH_STRING).
    type: str
  api_ca:
    description:
      - A PEM file with the certificate authorities to trust, on the host that runs the module.
      - Defaults to E(PREFECT_API_SSL_CERT_FILE), and then to the system's authorities.
    type: path
  api_csrf:
    description:
      - Fetch a CSRF token before the first change. This saves a rejected request on servers with
        E(PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED). Otherwise a token is fetched when the server asks for one.
    type: bool
    default: false
  api_headers:
    description:
      - Further HTTP headers for every request, such as those that an authenticating proxy requires.
      - Defaults to E(PREFECT_CLIENT_CUSTOM_HEADERS) (JSON).
    type: dict
  api_timeout:
    description:
      - Seconds without a response from the server after which a request fails.
    type: float
    default: 60.0
  secret_texts:
    description:
      - Texts to hide in results, diffs and errors, such as those that C(ansible-vault) decrypted.
    type: list
    elements: str
    default: []
  show_secrets:
    description:
      - >-
        Show in results and diffs what is hidden by default: every field of a block that is not known to be harmless,
        values under keys that look like credentials', URLs with a password and URLs of webhooks.
    type: bool
    default: false
  validate_certs:
    description:
      - Whether the server's certificate must be valid.
    type: bool
    default: true
notes:
  - A request is retried for 20 seconds if the server is busy (408, 429, 502, 503) or drops the connection, and for
    5 minutes while a proxy answers 503 with C(Prefect-Maintenance:true).
  - E(http_proxy), E(https_proxy) and E(no_proxy) set the proxy.
  - Set these options once for all modules with C(module_defaults) and the group C(group/selfhosted.prefect.api).
"""
