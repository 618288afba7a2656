"""A proxy on a real host, in front of servers that only say who they are: what it refuses, passes on and survives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup import certificate
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import certificate_for
from real_host import NAME, Ended, Host, Variables

HERE = Path(__file__).parent / "proxy"
DOMAIN = "prefect.example.com"
PORTS = (9101, 9102)
API = "/prefect/api"
WEBSOCKETS = [
    "/events/in",
    "/events/out",
    "/logs/out",
    "/task_runs/subscriptions/scheduled",
    "/work_pools/default/workers/connect",
]
OTHER_SITE = "server { listen 80; listen 443 ssl; server_name shop.example.com; %s return 200 shop; }"
OTHER_TLS = "ssl_certificate /srv/proxy/shop.crt; ssl_certificate_key /srv/proxy/shop.key;"


def served(**more: Any) -> Variables:
    """Give the variables of the proxy that most tests ask."""
    return {
        "prefect_proxy_domain": DOMAIN,
        "prefect_proxy_base_path": "prefect",
        "prefect_proxy_servers": [f"127.0.0.1:{port}" for port in PORTS],
        "prefect_proxy_timeout": 10,
        **more,
    }


class Proxied:
    """The host, with a proxy and two servers behind it."""

    def __init__(self, host: Host, *, secrets: Path) -> None:
        self.host, self.secrets = host, secrets

    def play(self, variables: Variables, playbook: str = "site.yml", **more: Any) -> Ended:
        """Run a playbook on the proxy alone."""
        more = {"groups": {"prefect_proxy": [NAME]}} | more
        return self.host.play(playbook, variables | {"prefect_secrets_dir": str(self.secrets)}, **more)

    def start(self, port: int) -> None:
        """Start a server and wait until it listens."""
        self.host.sh(
            f"systemd-run --quiet --unit=upstream-{port} python3 /srv/proxy/upstream.py {port}; "
            f"until ss -tln | grep -q 127.0.0.1:{port}; do sleep 0.1; done"
        )

    def ask(self, *requests: dict[str, Any], authority: str = "") -> list[dict[str, Any]]:
        """Ask the proxy from the host, trusting one authority alone: that of the controller unless given in PEM."""
        self.host.write("/run/ask.crt", authority or (self.secrets / "prefect" / "ca.crt").read_text())
        command = f"python3 /srv/proxy/client.py 127.0.0.1 {DOMAIN} /run/ask.crt"
        answers: list[dict[str, Any]] = json.loads(self.host.sh(command, stdin=json.dumps(requests)))
        return answers


@pytest.fixture(scope="module")
def proxied(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """A host that has no Nginx yet, but what a proxy would pass requests to."""
    made = Proxied(host, secrets=tmp_path_factory.mktemp("secrets"))
    host.sh("mkdir -p /srv/proxy")
    for script in HERE.glob("*.py"):
        host.write(f"/srv/proxy/{script.name}", script.read_text())
    for port in PORTS:
        made.start(port)
    yield made
    host.sh("systemctl stop 'upstream-*'; rm -r /srv/proxy")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Certificates that a user provides, by what they are: good, for others, expired."""
    directory = tmp_path_factory.mktemp("pairs")
    for name, subject in (("good", DOMAIN), ("another", DOMAIN), ("others", "*.example.org")):
        certificate_for(directory / name, [subject])
    real, certificate.DAYS = certificate.DAYS, 0
    try:
        certificate_for(directory / "expired", [DOMAIN])
    finally:
        certificate.DAYS = real
    return {path.stem: path.with_suffix("") for path in directory.glob("*.crt")}


def given(pairs: dict[str, Path], name: str, *, key: str = "") -> Variables:
    return {
        "prefect_proxy_certificate": f"{pairs[name]}.crt",
        "prefect_proxy_certificate_key": f"{pairs[key or name]}.key",
    }


@dataclass(frozen=True)
class Bad:
    """Something bad: `variables`, which name a certificate of `pairs`, or a taken `port`, and what the run `says`."""

    name: str
    variables: Variables
    says: tuple[str, ...]
    pair: str = ""
    key: str = ""
    port: int = 0

    def __str__(self) -> str:
        return self.name


BAD = [
    Bad(
        "port in the domain",
        {"prefect_proxy_domain": f"{DOMAIN}:8443"},
        ("prefect_proxy_domain", "has a port in it", "prefect_proxy_https_port to 8443"),
    ),
    Bad(
        "no such name of a server",
        {"prefect_proxy_servers": ["127.0.0.1:9101", "nowhere.invalid:4200"]},
        ("prefect_proxy_servers: nowhere.invalid has no address on", "/etc/hosts"),
    ),
    Bad("name to listen on", {"prefect_proxy_listen": ["front"]}, ("prefect_proxy_listen: front is not an address",)),
    Bad("no servers", {"prefect_proxy_servers": []}, ("prefect_proxy: the group has hosts", "prefect_server has none")),
    Bad(
        "no such file",
        {"prefect_proxy_certificate": "/nowhere.crt", "prefect_proxy_certificate_key": "/nowhere.key"},
        ("prefect_proxy_certificate", "/nowhere.crt"),
    ),
    Bad(
        "key of another certificate",
        {},
        ("prefect_proxy_certificate_key: it is not the key of the certificate",),
        pair="good",
        key="another",
    ),
    Bad("expired certificate", {}, ("prefect_proxy_certificate: it has expired",), pair="expired"),
    Bad(
        "certificate for others",
        {},
        (f"prefect_proxy_certificate: it is for *.example.org, and prefect_proxy_domain is {DOMAIN}",),
        pair="others",
    ),
    *(
        Bad(
            f"{scheme} port of another program",
            {f"prefect_proxy_{scheme}_port": port},
            (f"prefect_proxy_{scheme}_port: port {port} is in use by", f"-m http.server {port} (pid "),
            port=port,
        )
        for scheme, port in (("http", 80), ("https", 443))
    ),
]


@pytest.fixture(scope="module")
def refused(proxied: Proxied, pairs: dict[str, Path]) -> tuple[Ended, set[str], set[str]]:
    """All bad cases in one run, each a host of its own to Ansible: how it ended; the manifest before and after."""
    cases: dict[str, Variables] = {}
    for number, bad in enumerate(BAD):
        own = {
            "ansible_host": NAME,
            "prefect_proxy_http_port": 8100 + number,
            "prefect_proxy_https_port": 8200 + number,
        }
        certificate_of = given(pairs, bad.pair, key=bad.key) if bad.pair else {}
        own["prefect_secrets_dir"] = str(proxied.secrets)
        cases[f"case{number}"] = served(**own | certificate_of | bad.variables)
    for port in filter(None, (bad.port for bad in BAD)):
        proxied.host.sh(
            f"systemd-run --quiet --unit=faults-port-{port} python3 -m http.server {port}; "
            f"until ss -tln | grep -q :{port}; do sleep 0.1; done"
        )
    try:
        before = proxied.host.manifest()
        ended = proxied.play({}, others=cases, groups={"prefect_proxy": [*cases]})
        return ended, before, proxied.host.manifest()
    finally:
        proxied.host.sh("systemctl stop 'faults-port-*'")


def test_what_is_refused_changes_nothing(refused: tuple[Ended, set[str], set[str]]) -> None:
    ended, before, after = refused
    assert ended.rc not in (0, 250), ended.output
    assert sorted(before ^ after) == []


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_it_is_refused(refused: tuple[Ended, set[str], set[str]], bad: Bad) -> None:
    said = refused[0].failure(f"case{BAD.index(bad)}")
    assert [text for text in bad.says if text not in said] == [], refused[0].output


def test_a_certificate_that_is_given_beside_the_site_of_another_owner(proxied: Proxied, pairs: dict[str, Path]) -> None:
    """Another owner's Nginx and site stay when Prefect is removed, and errors in that site are reported as such."""
    variables = served(**given(pairs, "good"), prefect_proxy_servers=[f"localhost:{port}" for port in PORTS])
    for suffix in ("crt", "key"):
        proxied.host.write(f"/srv/proxy/shop.{suffix}", Path(f"{pairs['good']}.{suffix}").read_text())
    proxied.host.sh(
        "apt-get update -qq && apt-get install -qq -y --no-install-recommends nginx > /srv/proxy/apt.log 2>&1"
    )
    authority = (pairs["good"].parent / "ca.crt").read_text()
    proxied.host.write("/etc/nginx/sites-enabled/shop", OTHER_SITE % OTHER_TLS)
    proxied.host.sh("systemctl reload-or-restart nginx")
    before = proxied.host.manifest()
    try:
        proxied.host.write("/etc/nginx/sites-enabled/shop2", "# broken\nnonsense on;\n")
        broken = proxied.host.manifest()
        refused = proxied.play(variables)
        assert "even without the files of this instance" in refused.words, refused.output
        assert 'unknown directive "nonsense" in /etc/nginx/sites-enabled/shop2:2' in refused.words, refused.output
        assert sorted(proxied.host.manifest() ^ broken) == []
        proxied.host.sh("rm /etc/nginx/sites-enabled/shop2")

        added = proxied.play(variables)
        assert "localhost" not in proxied.host.sh("cat /etc/nginx/conf.d/prefect.conf")
        prefect, shop = proxied.ask(
            {"path": f"{API}/version"}, {"path": "/", "plain": True, "host": "shop.example.com"}, authority=authority
        )
        gone = proxied.play(variables | {"prefect_purge": True}, "playbooks/absent.yml")
        assert (added.rc, gone.rc) == (0, 0), added.output + gone.output
        assert (prefect["status"], shop["text"]) == (200, "shop")
        assert sorted(proxied.host.manifest() ^ before) == []
    finally:
        proxied.host.sh(
            "apt-get purge -qq -y --auto-remove nginx nginx-common >/dev/null 2>&1; rm -rf /etc/nginx /var/www"
        )


PEBBLE = {
    "listenAddress": "127.0.0.1:14000",
    "managementListenAddress": "127.0.0.1:15000",
    "certificate": "/srv/proxy/pebble.crt",
    "privateKey": "/srv/proxy/pebble.key",
    "httpPort": 80,
    "tlsPort": 443,
}
SERIAL = (
    "python3 -c 'import hashlib, ssl; "
    'print(hashlib.sha256(ssl.get_server_certificate(("127.0.0.1", 443)).encode()).hexdigest())\''
)
ROOT = (
    "python3 -c 'import ssl, urllib.request as u; "
    'print(u.urlopen("https://127.0.0.1:15000/roots/0", context=ssl._create_unverified_context()).read().decode())\''
)


@pytest.fixture
def pebble(proxied: Proxied, tmp_path: Path) -> Iterator[str]:
    """An ACME server on the host, which the host trusts; give the root of what it issues, in PEM."""
    certificate_for(tmp_path / "pebble", ["localhost", "127.0.0.1"])
    for suffix in ("crt", "key"):
        proxied.host.write(f"/srv/proxy/pebble.{suffix}", (tmp_path / f"pebble.{suffix}").read_text())
    proxied.host.write("/srv/proxy/pebble.json", json.dumps({"pebble": PEBBLE}))
    proxied.host.write("/srv/proxy/trusted.crt", (tmp_path / "ca.crt").read_text())
    proxied.host.sh(
        "apt-get update -qq && apt-get install -qq -y --no-install-recommends pebble > /srv/proxy/apt.log 2>&1; "
        "cp /etc/ssl/certs/ca-certificates.crt /srv/proxy/bundle.crt; cp /etc/hosts /srv/proxy/hosts; "
        "cat /srv/proxy/trusted.crt >> /etc/ssl/certs/ca-certificates.crt; "
        f"echo 127.0.0.1 {DOMAIN} api.example.com >> /etc/hosts; "
        "systemd-run --quiet --unit=pebble --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0 "
        "pebble -config /srv/proxy/pebble.json; until ss -tln | grep -q :15000; do sleep 0.1; done"
    )
    yield proxied.host.sh(ROOT)
    proxied.host.sh(
        "systemctl stop pebble; cat /srv/proxy/bundle.crt > /etc/ssl/certs/ca-certificates.crt; "
        "cat /srv/proxy/hosts > /etc/hosts; apt-get purge -qq -y --auto-remove pebble > /srv/proxy/apt.log 2>&1"
    )


def test_a_certificate_by_acme(proxied: Proxied, pebble: str) -> None:
    before = proxied.host.manifest()
    variables = served(prefect_proxy_acme=True, prefect_proxy_acme_directory="https://localhost:14000/dir")
    try:
        first = proxied.play(variables)
        assert first.rc == 0, first.output
        assert proxied.ask({"path": f"{API}/version"}, authority=pebble)[0]["status"] == 200
        again = proxied.play(variables)
        assert (again.rc, again.changed) == (0, 0), again.output

        served_first = proxied.host.sh(SERIAL)
        proxied.host.sh("certbot renew --quiet --force-renewal --no-random-sleep-on-renew")
        proxied.host.sh(f"for i in $(seq 50); do [ $({SERIAL}) = {served_first} ] || exit 0; sleep 0.2; done; exit 1")

        more = proxied.play(variables | {"prefect_proxy_aliases": ["api.example.com"]})
        assert more.rc == 0, more.output
        assert "api.example.com" in proxied.host.sh("certbot certificates --cert-name prefect")
    finally:
        gone = proxied.play(variables | {"prefect_purge": True}, "playbooks/absent.yml")
    assert gone.rc == 0, gone.output
    assert sorted(proxied.host.manifest() ^ before) == []


@pytest.fixture(scope="module")
def site(proxied: Proxied) -> Iterator[Proxied]:
    """The proxy, whose Nginx came with it; at the end everything is gone again."""
    before = proxied.host.manifest()
    first = proxied.play(served())
    assert first.rc == 0, first.output
    again = proxied.play(served())
    assert (again.rc, again.changed) == (0, 0), again.output
    yield proxied
    gone = proxied.play(served(prefect_purge=True), "playbooks/absent.yml")
    assert gone.rc == 0, gone.output
    assert sorted(proxied.host.manifest() ^ before) == []


def test_what_a_server_is_told_and_a_client_is_sent(site: Proxied) -> None:
    (answer,) = site.ask({"path": f"{API}/version", "headers": {"X-Forwarded-Proto": "gopher"}})
    said = json.loads(answer["text"])
    assert said["path"] == f"{API}/version"
    wanted = {
        "Host": DOMAIN,
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": DOMAIN,
        "X-Forwarded-Port": "443",
        "X-Forwarded-For": "127.0.0.1",
        "X-Real-IP": "127.0.0.1",
    }
    assert {name: said["headers"].get(name) for name in wanted} == wanted
    assert answer["headers"]["strict-transport-security"] == "max-age=63072000"
    assert answer["headers"]["x-content-type-options"] == "nosniff"
    assert answer["headers"]["server"] != ""
    assert not re.search(r"nginx/\d", answer["headers"]["server"])


def test_where_clients_are_sent(site: Proxied) -> None:
    plain, short, outside, other = site.ask(
        {"path": "/prefect/x?y=1", "plain": True},
        {"path": "/prefect"},
        {"path": "/"},
        {"path": f"{API}/version", "host": "attacker.example.org"},
    )
    assert (plain["status"], plain["headers"]["location"]) == (301, f"https://{DOMAIN}/prefect/x?y=1")
    assert (short["status"], short["headers"]["location"]) == (308, f"https://{DOMAIN}/prefect/")
    assert outside["status"] == 404
    assert json.loads(other["text"])["headers"]["Host"] == DOMAIN


def test_every_websocket(site: Proxied) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "prefect",
    }
    answers = site.ask(*({"path": f"{API}{path}", "headers": upgrade} for path in [*WEBSOCKETS, "/of/tomorrow"]))
    assert [answer["status"] for answer in answers] == [101] * 6
    assert {answer["headers"]["sec-websocket-protocol"] for answer in answers} == {"prefect"}
    assert {answer["text"] for answer in answers} == {"\x81\x05hello"}


def test_the_size_of_a_body(site: Proxied) -> None:
    large, too_large = site.ask(
        {"method": "POST", "path": f"{API}/logs/", "body": 15 * 1024**2},
        {"method": "POST", "path": f"{API}/logs/", "body": 17 * 1024**2},
    )
    assert json.loads(large["text"])["length"] == 15 * 1024**2
    assert too_large["status"] == 413


FAULTS = {
    "stop": ("systemctl stop upstream-9101", ("GET", "POST")),
    "kill": ("systemctl kill --signal=KILL upstream-9101", ("GET",)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_goes_away_is_not_noticed(site: Proxied, fault: str) -> None:
    command, methods = FAULTS[fault]
    paths = {"GET": f"{API}/flows/1", "POST": f"{API}/flow_runs/"}
    requests = [{"method": method, "path": paths[method], "seconds": 4, "threads": 3, "body": 10} for method in methods]
    reads = {"method": "POST", "path": f"{API}/flow_runs/filter", "seconds": 4, "threads": 3, "body": 10}
    with ThreadPoolExecutor() as pool:
        hammering = [pool.submit(site.ask, request) for request in (*requests, reads)]
        site.host.sh(f"sleep 1.5; {command}")
        results = [done.result()[0] for done in hammering]
    site.host.sh("systemctl reset-failed 'upstream-*' || true")
    site.start(9101)
    assert [set(result["counts"]) for result in results] == [{"200"}] * len(results), results
    assert all(sum(result["counts"].values()) > 20 for result in results), results


def test_no_server_at_all(site: Proxied) -> None:
    site.host.sh("systemctl stop upstream-9101 upstream-9102")
    try:
        (answer,) = site.ask({"path": f"{API}/version"})
        refused = site.play(served(prefect_proxy_timeout=1))
    finally:
        for port in PORTS:
            site.start(port)
    (after,) = site.ask({"path": f"{API}/version"})
    assert (answer["status"], after["status"]) == (502, 200)
    assert f"https://{DOMAIN}:443 does not answer as it should: {API}/ready answers 502" in refused.words


def test_the_maintenance_switch(site: Proxied) -> None:
    on = site.play(served(prefect_proxy_maintenance="true"), "playbooks/maintenance.yml")
    assert (on.rc, on.changed) == (0, 1), on.output
    answers = site.ask(
        {"path": f"{API}/version"}, {"method": "POST", "path": f"{API}/flow_runs/filter"}, {"path": "/prefect/"}
    )
    run = site.play(served())
    off = site.play(served(prefect_proxy_maintenance="false"), "playbooks/maintenance.yml")
    (after,) = site.ask({"path": f"{API}/version"})
    assert [answer["status"] for answer in answers] == [503] * 3
    assert {answer["headers"]["prefect-maintenance"] for answer in answers} == {"true"}
    assert {answer["headers"]["retry-after"] for answer in answers} == {"5"}
    assert (run.rc, run.changed) == (0, 0), run.output
    assert (off.rc, off.changed, after["status"]) == (0, 1, 200), off.output


def test_what_nginx_refuses_is_not_put_in_place(site: Proxied) -> None:
    before = site.host.manifest()
    written = site.host.sh("stat --format=%Z /etc/nginx/conf.d/prefect.conf")
    ended = site.play(served(prefect_proxy_directives=["nonsense on;"]))
    assert ended.rc not in (0, 250)
    assert 'unknown directive "nonsense" in /etc/nginx/conf.d/prefect.conf:' in ended.words
    assert "Nothing was changed." in ended.words
    assert site.host.manifest() == before
    assert site.host.sh("stat --format=%Z /etc/nginx/conf.d/prefect.conf") == written
    assert site.ask({"path": f"{API}/version"})[0]["status"] == 200


def test_a_reload_that_a_killed_run_left_out_is_done_later(site: Proxied) -> None:
    """What a run has written and not loaded yet looks like this: the files are new and the processes old."""
    site.host.sh("touch /etc/nginx/conf.d/prefect.conf")
    ended = site.play(served())
    assert (ended.rc, ended.changed) == (0, 1), ended.output


def test_a_renewed_certificate_is_served_without_a_lost_request(site: Proxied) -> None:
    (site.secrets / "prefect" / "proxy.crt").unlink()
    with ThreadPoolExecutor() as pool:
        hammering = pool.submit(
            site.ask, {"method": "POST", "path": f"{API}/flow_runs/", "seconds": 12, "threads": 2, "body": 10}
        )
        ended = site.play(served())
        (result,) = hammering.result()
    assert (ended.rc, ended.changed) == (0, 1), ended.output
    assert set(result["counts"]) == {"200"}, result


def test_a_second_instance_below_the_same_domain(site: Proxied) -> None:
    blue = served(
        prefect_instance="blue",
        prefect_proxy_base_path="/blue",
        prefect_proxy_site="prefect",
        prefect_proxy_servers=["127.0.0.1:9102"],
    )
    added = site.play(blue)
    both = site.ask({"path": "/blue/api/version"}, {"path": f"{API}/version"})
    gone = site.play(blue, "playbooks/absent.yml")
    after = site.ask({"path": "/blue/api/version"}, {"path": f"{API}/version"})
    assert (added.rc, gone.rc) == (0, 0), added.output + gone.output
    assert [answer["status"] for answer in (*both, *after)] == [200, 200, 404, 200]


def test_a_second_instance_that_forgets_to_say_so_is_refused(site: Proxied) -> None:
    blue = served(prefect_instance="blue", prefect_proxy_base_path="/blue")
    ended = site.play(blue)
    # It has installed Nginx by then, which stays as long as an instance needs it.
    gone = site.play(blue | {"prefect_purge": True}, "playbooks/absent.yml")
    assert ended.rc not in (0, 250)
    assert f"prefect_proxy_domain: this Nginx serves {DOMAIN} already" in ended.words
    assert gone.rc == 0, gone.output
    assert site.ask({"path": f"{API}/version"})[0]["status"] == 200
