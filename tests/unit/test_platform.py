"""What a host derives from its inventory: where the API, the database and Redis are, and who trusts the private CA."""

from __future__ import annotations

import copy
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.selfhosted.prefect.plugins.lookup.topology import TEMPLATE, LookupModule
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.platform import (
    FACTS,
    Inventory,
    Platform,
    base_name,
    base_path,
    default_port,
    plain,
)

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {
    "prefect_instance": "prefect",
    "prefect_settings": {},
    "prefect_address": "here.example",
    "prefect_database_url": "",
    "prefect_database_host": "",
    "prefect_redis_url": "",
    "prefect_redis_host": "",
}


def platform(
    host: str = "api1",
    *,
    groups: dict[str, list[str]] | None = None,
    hostvars: dict[str, dict[str, Any]] | None = None,
    **variables: Any,
) -> Platform:
    """Return the platform as a host sees it; `groups` has the hosts of roles, of server `api1` alone by default."""
    hosts = {"server": ["api1"]} | (groups or {})
    known = DEFAULTS | {"prefect_servers": hosts["server"]} | variables

    def read(name: str, *default: Any) -> Any:
        if name not in known and not default:
            raise KeyError(name)
        return known.get(name, *default)

    return Platform(
        host, Inventory({f"prefect_{role}": members for role, members in hosts.items()}, hostvars or {}), read
    )


@pytest.mark.parametrize(
    ("path", "normal"), [("", ""), ("/", ""), ("prefect", "/prefect"), ("/a/b/", "/a/b"), (" /prefect ", "/prefect")]
)
def test_base_path(path: str, normal: str) -> None:
    assert base_path(path) == normal


@pytest.mark.parametrize(
    ("instance", "name"), [("prefect", "prefect"), ("prefect3", "prefect3"), ("blue", "prefect-blue")]
)
def test_base_name(instance: str, name: str) -> None:
    assert base_name(instance) == name


def test_each_instance_has_a_port() -> None:
    assert default_port("prefect") == 4200
    assert default_port("analytics") == 4300 + int(md5(b"analytics").hexdigest()[:6], 16) % 500


# The API


@pytest.mark.parametrize(
    ("host", "own", "url", "public_url"),
    [
        ("api1", {}, "http://127.0.0.1:4200/api", "http://127.0.0.1:4200/api"),
        ("api1", {"host": "0.0.0.0"}, "http://127.0.0.1:4200/api", "http://here.example:4200/api"),
        ("api1", {"host": "10.0.0.7", "port": 80}, "http://10.0.0.7:80/api", "http://10.0.0.7:80/api"),
        ("api1", {"host": "fd00::7"}, "http://[fd00::7]:4200/api", "http://[fd00::7]:4200/api"),
        ("worker", {"host": "0.0.0.0", "port": 1}, "http://10.0.0.1:4300/api", "http://10.0.0.1:4300/api"),
    ],
)
def test_where_the_api_is(host: str, own: dict[str, Any], url: str, public_url: str) -> None:
    hostvars = {"api1": {"ansible_host": "10.0.0.1", "prefect_server_port": 4300}, "worker": {}}
    found = platform(host, hostvars=hostvars, **{f"prefect_server_{name}": value for name, value in own.items()})
    assert (found.api_url, found.ui_api_url, found.api_path) == (url, public_url, "/api")


def test_the_api_has_another_path() -> None:
    found = platform(prefect_settings={"PREFECT_SERVER_API_BASE_PATH": "/p/api"})
    assert (found.api_path, found.api_url) == ("/p/api", "http://127.0.0.1:4200/p/api")


@pytest.mark.parametrize(("path", "wanted"), [("p", "/p/api"), ("", "/api")])
def test_the_api_is_behind_the_proxy(path: str, wanted: str) -> None:
    hostvars = {"api1": {}, "front": {"prefect_proxy_base_path": path}}
    found = platform(groups={"proxy": ["front"]}, hostvars=hostvars)
    assert found.api_path == wanted
    assert found.api_url == found.ui_api_url == f"https://front{wanted}"


def test_a_platform_without_a_proxy() -> None:
    assert plain(platform().proxy) == {"present": False, "path": "", "tls": "", "hosts": []}


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
    given = {f"prefect_proxy_{name}": value for name, value in own.items()}
    found = platform(groups={"proxy": ["front", "other"]}, hostvars={"front": variables, "other": {}}, **given)
    proxy = found.fact("proxy")
    assert (proxy["api_url"], proxy["tls"]) == (url, tls)
    assert proxy["url"] == url.removesuffix("/api")


def test_the_addresses_that_servers_trust() -> None:
    hostvars = {"api1": {}, "front": {"ansible_host": "10.0.0.1"}, "other": {}}
    found = platform(groups={"proxy": ["front", "other", "api1"]}, hostvars=hostvars)
    assert found.fact("proxy")["addresses"] == ["10.0.0.1", "other", "api1"]
    assert found.peers == ["10.0.0.1", "other"]


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
    found = platform(host, groups={"server": ["api1", "api2"]}, hostvars=hostvars, prefect_server_host=listens_on)
    assert found.default_upstreams == [first, "10.0.0.2:4300"]


def test_a_server_that_the_inventory_does_not_have_is_reached_by_its_name() -> None:
    found = platform("front", groups={"server": ["api.example"]}, hostvars={"front": {}})
    assert found.default_upstreams == ["api.example:4200"]


@pytest.mark.parametrize(("proxies", "unreachable"), [(["api1"], ["api3"]), (["api1", "front"], ["api1", "api3"])])
def test_servers_that_no_proxy_reaches(proxies: list[str], unreachable: list[str]) -> None:
    hostvars = {"api1": {"prefect_server_host": "127.0.0.1"}, "api2": {}, "api3": {"prefect_server_host": "localhost"}}
    found = platform(groups={"server": [*hostvars], "proxy": proxies}, hostvars={**hostvars, "front": {}})
    assert found.checked_proxy["unreachable"] == unreachable
    assert found.checked_proxy["servers"] == [*hostvars]


@pytest.mark.parametrize(
    ("listening", "wanted"),
    [
        ([None, "127.0.0.1"], False),
        (["localhost", "::1"], False),
        (["127.0.0.1", "0.0.0.0"], True),
        (["srv"], True),
        ([], False),
    ],
)
def test_servers_that_others_reach(listening: list[str | None], wanted: bool) -> None:
    hostvars = {str(number): {"prefect_server_host": host} if host else {} for number, host in enumerate(listening)}
    servers = [*hostvars, "not in the inventory"]
    assert platform("worker", groups={"server": servers}, hostvars=hostvars).is_exposed is wanted


@pytest.mark.parametrize(("host", "wanted"), [("api1", True), ("worker", False)])
def test_a_servers_own_address_exposes_it(host: str, wanted: bool) -> None:
    assert platform(host, prefect_server_host="10.0.0.1").is_exposed is wanted


# Database and Redis


@pytest.mark.parametrize(
    ("known", "wanted"),
    [({}, "one"), ({"ansible_host": "10.0.0.1"}, "10.0.0.1"), ({"ansible_host": "1", "prefect_address": "2"}, "2")],
)
def test_where_others_reach_a_host(known: dict[str, str], wanted: str) -> None:
    inventory = Inventory({}, {"one": known})
    assert inventory.addresses(["one", "two"]) == [wanted, "two"]


def test_what_the_inventory_says_of_several_hosts() -> None:
    assert Inventory({}, {"one": {"n": 3}, "two": {}}).of_each(["one", "two", "three"], "n", 1) == [3, 1]


@pytest.mark.parametrize(
    ("host", "hosts", "wanted"),
    [("one", [], ""), ("one", ["one", "two"], "127.0.0.1"), ("two", ["one", "two"], "10.0.0.1")],
)
def test_where_a_backend_of_the_inventory_is(host: str, hosts: list[str], wanted: str) -> None:
    hostvars = {"one": {"ansible_host": "10.0.0.1"}, "two": {}}
    found = platform(host, groups={"postgres": hosts, "redis": hosts}, hostvars=hostvars)
    assert found.database_host == found.redis_host == wanted


@pytest.mark.parametrize(
    ("url", "chosen", "certificate", "wanted"),
    [
        ("", "10.0.0.1", "", True),
        ("", "10.0.0.1", "own.pem", False),
        ("", "db.example", "", False),
        ("", "", "", False),
        ("postgresql://db.example/prefect", "10.0.0.1", "", False),
    ],
)
def test_whether_the_database_presents_a_certificate_of_the_private_ca(
    url: str, chosen: str, certificate: str, wanted: bool
) -> None:
    hostvars = {"one": {"ansible_host": "10.0.0.1", "prefect_postgres_certificate": certificate}}
    given = {"prefect_database_url": url, "prefect_database_host": chosen}
    assert platform(groups={"postgres": ["one"]}, hostvars=hostvars, **given).has_database_ca is wanted
    assert platform(groups={"postgres": []}, hostvars=hostvars, **given).has_database_ca is False


@pytest.mark.parametrize(
    ("celery", "wanted"),
    [([], {"api2": "api2"}), (["worker"], {"api2": "api2", "worker": "w.example", "flows": "flows"})],
)
def test_hosts_that_use_the_redis_of_a_host(celery: list[str], wanted: dict[str, str]) -> None:
    groups = {"server": ["api1", "api2"], "celery": celery, "definitions": ["worker", "flows"]}
    hostvars = {"api1": {}, "api2": {}, "worker": {"ansible_host": "w.example"}, "flows": {}}
    assert platform(groups=groups, hostvars=hostvars).redis_others == wanted


# Secrets and the lookup


def test_a_fact_without_a_secret_asks_for_none() -> None:
    names = ("host", "name", "user", "ca", "cert", "key")
    parts: dict[str, Any] = {f"prefect_database_{name}": "x" for name in names}
    found = platform(**parts, prefect_database_port=5432, prefect_database_tls=False, prefect_database_migrate=True)
    assert (found.database_kind, found.backup_local, found.server_migrates) == ("postgresql", False, True)
    with pytest.raises(KeyError, match="prefect_database_password"):
        found.fact("database")


def test_the_variables_of_a_host_are_collected_once() -> None:
    class Counting(dict[str, dict[str, Any]]):
        asked = 0

        def __getitem__(self, host: str) -> dict[str, Any]:
            self.asked += 1
            return super().__getitem__(host)

    hostvars = Counting(one={"n": 1})
    inventory = Inventory({}, hostvars)
    assert (inventory.address("one"), inventory.of_each(["one"], "n", 0)) == ("one", [1])
    assert hostvars.asked == 1


def look_up(variables: dict[str, Any], *names: str) -> list[Any]:
    lookup = LookupModule(loader=DataLoader(), templar=Templar(loader=DataLoader(), variables=variables))
    return lookup.run(list(names), variables=variables)


@pytest.fixture
def variables() -> dict[str, Any]:
    own = {"prefect_server_port": trust_as_template("{{ base + 1 }}"), "base": 4200}
    return {**DEFAULTS, "prefect_servers": ["api1"], "inventory_hostname": "api1", "groups": {}, "hostvars": {}, **own}


def test_facts_are_in_the_order_of_their_names(variables: dict[str, Any]) -> None:
    assert look_up(variables, "api_url", "default_port") == ["http://127.0.0.1:4201/api", 4200]


def test_a_fact_is_computed_once_for_the_variables_of_a_task(variables: dict[str, Any]) -> None:
    of_the_next_task = {**variables, "base": 5000}
    assert look_up(variables, "api_url") == ["http://127.0.0.1:4201/api"]
    variables["base"] = 5000
    assert look_up(variables, "api_url") == ["http://127.0.0.1:4201/api"]
    assert look_up(of_the_next_task, "api_url") == ["http://127.0.0.1:5001/api"]


def test_variables_that_were_read_are_templates_no_more(variables: dict[str, Any]) -> None:
    variables |= {f"{prefix}prefect_api_url": trust_as_template(TEMPLATE % "api_url") for prefix in ("__", "")}
    look_up(variables, "api_url")
    assert variables["prefect_server_port"] == 4201
    assert variables["prefect_api_url"] == variables["__prefect_api_url"] == "http://127.0.0.1:4201/api"


def test_a_variable_that_the_user_sets_stays(variables: dict[str, Any]) -> None:
    variables["prefect_api_url"] = "https://api.example/api"
    assert look_up(variables, "api_url") == ["http://127.0.0.1:4201/api"]
    assert variables["prefect_api_url"] == "https://api.example/api"


def test_an_undefined_variable_is_an_error_unless_there_is_a_default(variables: dict[str, Any]) -> None:
    variables["prefect_server_host"] = trust_as_template("{{ missing.address }}")
    assert look_up(variables, "api_path") == ["/api"]
    for _ in range(2):
        with pytest.raises(AnsibleUndefinedVariable, match="missing"):
            look_up(variables, "server_host")
    assert look_up(variables, "is_exposed") == [False]
    with pytest.raises(AnsibleUndefinedVariable, match="'prefect_lock' is undefined"):
        look_up(variables, "lock")


def test_a_wrong_url_is_an_error_that_names_the_variable(variables: dict[str, Any]) -> None:
    names = ("host", "port", "name", "user", "ca", "cert", "key", "tls")
    variables |= {f"prefect_database_{name}": "" for name in names} | {"prefect_database_url": "mysql://u:pw@host/db"}
    with pytest.raises(AnsibleError, match=r"^prefect_database_url: ") as caught:
        look_up(variables, "database_kind")
    assert "pw" not in str(caught.value)


def test_variables_with_a_platform_can_be_copied(variables: dict[str, Any]) -> None:
    """The template lookup makes a deep copy of a task's variables."""
    look_up(variables, "api_url")
    assert copy.deepcopy(variables)["__prefect_platform"] is variables["__prefect_platform"]


def test_a_fact_that_does_not_exist_is_an_error(variables: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        look_up(variables, "_servers")


def test_each_fact_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("roles/*/*/*.yml"))
    assert {fact for fact in FACTS if f"'selfhosted.prefect.topology', '{fact}'" in text} == FACTS


@pytest.mark.parametrize("role", ["prefect", "prefect_server"])
def test_a_variable_has_the_name_of_its_fact(role: str) -> None:
    """The lookup sets the variable with the name of a fact, so that a task needs no further lookup for it."""
    known = yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text(encoding="utf-8"))
    shown = {name: value for name, value in known.items() if "'selfhosted.prefect.topology'" in str(value)}
    assert shown == {name: TEMPLATE % name.removeprefix("__prefect_") for name in shown}
    assert len(shown) > 10
