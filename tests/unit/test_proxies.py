"""Names in the configuration of Nginx, and in the certificates of Certbot."""

from __future__ import annotations

import pytest
from ansible_collections.selfhosted.prefect.plugins.filter.proxies import certbot_names, nginx_variable


def test_nginx_variable() -> None:
    assert nginx_variable("prefect-blue") == "prefect_blue"


CERTBOT = """
Found the following certs:
  Certificate Name: prefect
    Serial Number: 3f
    Key Type: ECDSA
    {label}: {names}
    Expiry Date: 2027-02-19 05:44:11+00:00 (VALID: 89 days)
    Certificate Path: /etc/letsencrypt/live/prefect/fullchain.pem
"""


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("No certificates found.", []),
        (CERTBOT.format(label="Domains", names="b.example a.example"), ["a.example", "b.example"]),
        (CERTBOT.format(label="Identifiers", names="b.example, a.example"), ["a.example", "b.example"]),
    ],
)
def test_what_certbot_has(said: str, names: list[str]) -> None:
    assert certbot_names(said) == names
