"""Where clients find the proxies, and where the proxies find the servers."""

from __future__ import annotations

from hashlib import md5
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.filter.proxies import (
    api,
    base_path,
    certbot_names,
    default_port,
    nginx_variable,
    proxy,
    unreachable,
    upstreams,
)


@pytest.mark.parametrize(
    ("path", "normal"), [("", ""), ("/", ""), ("prefect", "/prefect"), ("/a/b/", "/a/b"), (" /prefect ", "/prefect")]
)
def test_base_path(path: str, normal: str) -> None:
    assert base_path(path) == normal


def test_no_proxy() -> None:
    assert proxy([], {}, {})["present"] is False


@pytest.mark.parametrize(
    ("variables", "own", "url", "tls"),
    [
        ({}, {}, "https://front/api", "private"),
        ({"ansible_host": "10.0.0.1"}, {}, "https://10.0.0.1/api", "private"),
        ({"ansible_host": "fd00::1"}, {}, "https://[fd00::1]/api", "private"),
        ({"prefect_proxy_domain": "a.example"}, {}, "https://a.example/api", "private"),
        ({"prefect_proxy_domain": "a.example"}, {"domain": "b.example"}, "https://b.example/api", "private"),
        ({"prefect_proxy_domain": "a.example"}, {"domain": ""}, "https://a.example/api", "private"),
        ({"prefect_proxy_https_port": 8443}, {}, "https://front:8443/api", "private"),
        ({"prefect_proxy_base_path": "prefect/"}, {}, "https://front/prefect/api", "private"),
        ({"prefect_proxy_certificate": "a.pem"}, {}, "https://front/api", "given"),
        ({"prefect_proxy_acme": True}, {}, "https://front/api", "acme"),
        ({"prefect_proxy_acme": True}, {"acme": False}, "https://front/api", "private"),
    ],
)
def test_where_clients_go(variables: dict[str, Any], own: dict[str, Any], url: str, tls: str) -> None:
    found = proxy(["front", "other"], {"front": variables, "other": {}}, own)
    assert (found["api_url"], found["tls"]) == (url, tls)
    assert found["url"] == url.removesuffix("/api")


@pytest.mark.parametrize(
    ("host", "own", "url", "public_url"),
    [
        ("api1", {}, "http://127.0.0.1:4200/api", "http://127.0.0.1:4200/api"),
        ("api1", {"host": "0.0.0.0"}, "http://127.0.0.1:4200/api", "http://here.example:4200/api"),
        ("api1", {"host": "10.0.0.7", "port": 80}, "http://10.0.0.7:80/api", "http://10.0.0.7:80/api"),
        ("api1", {"host": "fd00::7"}, "http://[fd00::7]:4200/api", "http://[fd00::7]:4200/api"),
        ("worker", {"host": "0.0.0.0", "port": 1}, "http://10.0.0.1:4300/api", "http://10.0.0.1:4300/api"),
        ("api1", {"path": "/p/api"}, "http://127.0.0.1:4200/p/api", "http://127.0.0.1:4200/p/api"),
    ],
)
def test_where_the_api_is(host: str, own: dict[str, Any], url: str, public_url: str) -> None:
    hostvars = {"api1": {"ansible_host": "10.0.0.1", "prefect_server_port": 4300}, "worker": {}}
    known = {"host": "", "port": 4200, "default_port": 4200, "address": "here.example", "path": "/api"} | own
    found = api(["api1"], hostvars, host, proxy([], {}, {}), known)
    assert (found["url"], found["public_url"]) == (url, public_url)


def test_the_api_is_behind_the_proxy() -> None:
    known = {"host": "", "port": 4200, "default_port": 4200, "address": "here", "path": "/api"}
    found = api(["api1"], {}, "api1", proxy(["front"], {"front": {"prefect_proxy_base_path": "p"}}, {}), known)
    assert found == {"path": "/p/api", "url": "https://front/p/api", "public_url": "https://front/p/api"}
    assert api(["api1"], {}, "api1", proxy(["front"], {"front": {}}, {}), known)["path"] == "/api"


def test_each_instance_has_a_port() -> None:
    assert default_port("prefect") == 4200
    assert default_port("analytics") == 4300 + int(md5(b"analytics").hexdigest()[:6], 16) % 500


def test_the_addresses_that_servers_trust() -> None:
    found = proxy(["front", "other"], {"front": {"ansible_host": "10.0.0.1"}, "other": {}}, {})
    assert found["addresses"] == ["10.0.0.1", "other"]


@pytest.mark.parametrize(
    ("host", "listens_on", "first"),
    [
        ("front", "", "api1:4200"),
        ("api1", "", "127.0.0.1:4200"),
        ("api1", "0.0.0.0", "127.0.0.1:4200"),
        ("api1", "10.0.0.7", "10.0.0.7:4200"),
        ("api1", "fd00::7", "[fd00::7]:4200"),
    ],
)
def test_where_proxies_go(host: str, listens_on: str, first: str) -> None:
    hostvars = {"api1": {}, "api2": {"ansible_host": "10.0.0.2", "prefect_server_port": 4300}}
    assert upstreams(["api1", "api2"], hostvars, host, listens_on, 4200) == [first, "10.0.0.2:4300"]


def test_servers_that_no_proxy_reaches() -> None:
    hostvars = {"api1": {"prefect_server_host": "127.0.0.1"}, "api2": {}, "api3": {"prefect_server_host": "localhost"}}
    assert unreachable(["api1", "api2", "api3"], hostvars, ["api1"]) == ["api3"]
    assert unreachable(["api1"], hostvars, ["api1", "front"]) == ["api1"]


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
