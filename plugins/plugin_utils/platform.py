"""The platform that an inventory describes, as one of its hosts sees it: API, proxies, database, Redis, CA, and ports.

The lookup `topology` returns these facts to the variables of the roles. Nothing here generates a secret, and a fact
without a secret in it reads none.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import connections
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.connections import bracketed, loopback

Host = Mapping[str, Any]
"""The variables of a host of the inventory."""

LOCKS = Path(__file__).absolute().parents[2] / "roles/prefect/files/locks"
HTTPS = 443
KEEPALIVE_SECONDS = 75
"""How long servers and proxies keep a connection without a request."""

LOCALHOST = "127.0.0.1"
EVERYWHERE = ("", "0.0.0.0", "::")
"""Addresses of a server that listens on all addresses, or on one that is derived from its host."""

SEARCH_PATH = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
"""Where systemd looks for programs by default."""

UNITS = ("server", "services", "exporter", "worker@", "serve@", "celery@", "definitions", "definitions-follow")
"""The services that the roles may create on a host."""


@dataclass(frozen=True)
class NoProxy:
    """The proxies of a platform without proxies."""

    present: bool = False
    path: str = ""
    tls: str = ""
    hosts: Sequence[str] = ()


@dataclass(frozen=True)
class Proxy(NoProxy):
    """What clients and servers know about the proxies of the platform.

    Attributes:
        path: the path prefix of the site, without a slash at the end.
        tls: the source of the certificate: given, acme, or private (the CA of this collection).
        host_header: the domain, with the port unless it is 443.
        addresses: the address of each host.
    """

    domain: str = ""
    port: int = HTTPS
    host_header: str = ""
    url: str = ""
    api_url: str = ""
    certificate: str = ""
    certificate_key: str = ""
    acme: bool = False
    hosts_entry: bool = False
    addresses: Sequence[str] = ()


@dataclass(frozen=True)
class Api:
    """The path of the API, its URL for programs on the host, and its URL for browsers."""

    path: str
    url: str
    public_url: str


def plain(value: Any) -> Any:
    """Return a fact as templates know it: dictionaries and lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(part) for name, part in asdict(value).items()}
    return list(value) if isinstance(value, tuple) else value


def base_path(path: str) -> str:
    """Return a path with a leading slash and no trailing slash; empty for the root."""
    stripped = path.strip().strip("/")
    return f"/{stripped}" if stripped else ""


def base_name(instance: str) -> str:
    """Return the prefix of the names of an instance's directories, accounts and units."""
    return instance if instance.startswith("prefect") else f"prefect-{instance}"


def default_port(instance: str) -> int:
    """Return the port of an instance's server: 4200 for prefect, otherwise 4300 to 4799, derived from the name."""
    if instance == "prefect":
        return 4200
    return 4300 + int(hashlib.md5(instance.encode(), usedforsecurity=False).hexdigest()[:6], 16) % 500


def probed(address: str) -> str:
    """Return the address at which a service is checked: the loopback if it listens on all addresses."""
    return LOCALHOST if address in EVERYWHERE[1:] else address


def secrets_dir(host: str, hostvars: Mapping[str, Host], servers: Sequence[str]) -> str:
    """Return the directory on the controller that holds the generated secrets of a host's platform.

    It is `.secrets` beside the inventory of the platform's first server, or of the host if there is no server, so that
    hosts from several inventories share it. An inventory that is not a file (`-i host,`) has no directory: then it is
    `selfhosted.prefect/<that server or host>` in the user's data directory, wherever Ansible is started.
    """
    first = next(iter(servers), host)
    variables = hostvars[first] if first in hostvars else hostvars[host]
    directory = str(variables.get("inventory_dir") or "")
    if directory not in ("", "None"):
        return str(Path(directory) / ".secrets")
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return str(Path(data) / "selfhosted.prefect" / first)


def uv_settings(host: dict[str, Any], *, index_url: str) -> dict[str, str]:
    """Return the environment in which flow runs find uv, and uv finds the release and the package index.

    Flows can read it, so the URL of the index has no credential. It still names the index, so that uv does not ask a
    public one for the packages of a private one.
    """
    places = [f"{host['dirs']['opt']}/bin", *([host["dirs"]["bin"]] if host["scope"] == "user" else []), *SEARCH_PATH]
    return {
        "PATH": ":".join(places),
        # `uv run --with` adds packages to those of this interpreter's environment, which it does not change.
        "UV_PYTHON": f"{host['dirs']['opt']}/current/bin/python",
        "UV_SYSTEM_CERTS": "true",
    } | ({"UV_DEFAULT_INDEX": re.sub(r"^([A-Za-z0-9+.-]+://)[^/?#]*@", r"\1", index_url)} if index_url else {})


class Inventory(Mapping[str, Host]):
    """The hosts of an inventory and their groups; the variables of each host are collected once.

    Args:
        groups: the hosts of each group.
        hostvars: the variables of each host.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]], hostvars: Mapping[str, Host]) -> None:
        self._groups = groups
        self._hostvars = hostvars
        self._known: dict[str, Host] = {}

    def __getitem__(self, host: str) -> Host:
        if host not in self._known:
            # Ansible's own mapping raises no KeyError.
            if host not in self._hostvars:
                raise KeyError(host)
            self._known[host] = self._hostvars[host]
        return self._known[host]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hostvars)

    def __len__(self) -> int:
        return len(self._hostvars)

    def group(self, role: str) -> list[str]:
        """Return the hosts of a role's group: those of `prefect_worker` for worker."""
        return list(self._groups.get(f"prefect_{role}") or [])

    def address(self, host: str) -> str:
        """Return the address at which other hosts reach a host: its prefect_address, ansible_host or name."""
        known = self.get(host, {})
        return str(known.get("prefect_address") or known.get("ansible_host") or host)

    def addresses(self, hosts: Iterable[str]) -> list[str]:
        """Return the address of each host."""
        return [self.address(host) for host in hosts]

    def of_each(self, hosts: Iterable[str], variable: str, default: Any) -> list[Any]:
        """Return a variable's value for each of the hosts in the inventory, or the default where it is not set."""
        return [self[host].get(variable, default) for host in hosts if host in self]


class Platform:
    """The facts of one host; each is computed when it is first read.

    Args:
        host: the name of the host.
        inventory: the groups and the other hosts.
        read: returns a variable of the host, evaluated; or the second argument, if there is one and the variable, or
            another one that its template refers to, is not defined.
    """

    def __init__(self, host: str, inventory: Inventory, read: Callable[..., Any]) -> None:
        self._host = host
        self._inventory = inventory
        self._read = read

    def __deepcopy__(self, memo: dict[int, Any]) -> Platform:
        return self

    def fact(self, name: str) -> Any:
        """Return a fact by name, in plain dictionaries and lists. Raises KeyError if there is none with this name."""
        if name not in FACTS:
            raise KeyError(name)
        return plain(getattr(self, name))

    def _text(self, name: str, *default: str) -> str:
        return str(self._read(name, *default) or "")

    def _flag(self, name: str, *default: bool) -> bool:
        return bool(boolean(self._read(name, *default), strict=False))

    def _number(self, name: str, *default: int) -> int:
        return int(self._read(name, *default))

    def _is_in(self, *roles: str) -> bool:
        """Return whether the host is in the group of any of the roles."""
        return any(self._host in self._inventory.group(role) for role in roles)

    def _without_self(self, hosts: Iterable[str]) -> list[str]:
        return [host for host in dict.fromkeys(hosts) if host != self._host]

    # The instance and its hosts

    @cached_property
    def _servers(self) -> list[str]:
        return list(self._read("prefect_servers"))

    @cached_property
    def _is_server(self) -> bool:
        return self._host in self._servers

    @cached_property
    def _instance(self) -> str:
        return str(self._read("prefect_instance"))

    @cached_property
    def _record(self) -> dict[str, Any]:
        """What the module `preflight` returned for the host."""
        found: dict[str, Any] = self._read("__prefect_host")
        return found

    @cached_property
    def _known(self) -> dict[str, Any]:
        """The same; empty if the host has not been read."""
        found: dict[str, Any] = self._read("__prefect_host", {})
        return found

    @property
    def _dirs(self) -> dict[str, str]:
        found: dict[str, str] = self._record["dirs"]
        return found

    @property
    def _name(self) -> str:
        return str(self._record["name"])

    @property
    def _is_system(self) -> bool:
        return bool(self._record["scope"] == "system")

    @cached_property
    def ledger_name(self) -> str:
        return base_name(self._instance)

    @cached_property
    def default_port(self) -> int:
        return default_port(self._instance)

    @cached_property
    def _proxies(self) -> list[str]:
        return self._inventory.group("proxy")

    @cached_property
    def database_group(self) -> list[str]:
        return self._inventory.group("postgres")

    @cached_property
    def redis_group(self) -> list[str]:
        return self._inventory.group("redis")

    @cached_property
    def keepalive_seconds(self) -> int:
        return KEEPALIVE_SECONDS

    @cached_property
    def peers(self) -> list[str]:
        """The addresses of the proxies on other hosts."""
        return self._inventory.addresses(host for host in self._proxies if host != self._host)

    @cached_property
    def is_split(self) -> bool:
        """Whether background services have a separate unit."""
        return len(self._servers) > 1 or self._number("prefect_server_processes", 1) > 1

    @cached_property
    def processes(self) -> int:
        """The largest number of processes that a server of the instance has."""
        others = self._inventory.of_each(self._servers, "prefect_server_processes", 1)
        return max(map(int, [self._number("prefect_server_processes", 1), *others]))

    @cached_property
    def has_clients(self) -> bool:
        """Whether the host has clients of the API: not if it has only a database, Redis or a proxy."""
        return self._is_in("server", "worker", "flows") or not self._is_in("postgres", "redis", "proxy")

    @cached_property
    def shipped_lock(self) -> str:
        return str(LOCKS / f"{self._read('prefect_version')}.txt")

    @cached_property
    def lock(self) -> str:
        """The path of the user's lock or the shipped one; empty without a lock."""
        return self._text("prefect_lock") or (self.shipped_lock if Path(self.shipped_lock).is_file() else "")

    # The API and the proxies in front of it

    @cached_property
    def proxy(self) -> NoProxy:
        """The first proxy's variables are the defaults of a host's own."""
        if not self._proxies:
            return NoProxy()
        first = self._inventory.get(self._proxies[0], {})

        def value(name: str, default: Any) -> Any:
            for found in (self._read(f"prefect_proxy_{name}", ""), first.get(f"prefect_proxy_{name}")):
                if found not in (None, ""):
                    return found
            return default

        domain, port = str(value("domain", self._inventory.address(self._proxies[0]))), int(value("https_port", HTTPS))
        path = base_path(str(value("base_path", "")))
        certificate, acme = value("certificate", ""), bool(boolean(value("acme", False)))
        origin = bracketed(domain) if port == HTTPS else f"{bracketed(domain)}:{port}"
        return Proxy(
            present=True,
            domain=domain,
            port=port,
            path=path,
            host_header=origin,
            url=f"https://{origin}{path}",
            api_url=f"https://{origin}{path}/api",
            certificate=certificate,
            certificate_key=value("certificate_key", ""),
            acme=acme,
            tls="given" if certificate else "acme" if acme else "private",
            hosts_entry=bool(boolean(value("hosts_entry", False))),
            hosts=self._proxies,
            addresses=self._inventory.addresses(self._proxies),
        )

    @cached_property
    def proxy_names(self) -> list[str]:
        """The names and addresses of the site of a proxy on this host, as browsers send them."""
        return [bracketed(str(self._read("prefect_proxy_domain"))), *self._read("prefect_proxy_aliases")]

    @cached_property
    def checked_proxy(self) -> dict[str, Any]:
        """The proxy, with the servers, and those of them that no proxy reaches, for the check of the variables."""
        listening = {host: self._inventory.get(host, {}).get("prefect_server_host", "") for host in self._servers}
        unreachable = [
            server for server, host in listening.items() if {*self._proxies} - {server} and loopback(str(host))
        ]
        return {**plain(self.proxy), "servers": self._servers, "unreachable": unreachable}

    @cached_property
    def default_domain(self) -> str:
        return self._inventory.address((self._proxies or [self._host])[0])

    @cached_property
    def default_upstreams(self) -> list[str]:
        """The address at which a proxy on this host reaches each server, as host:port; one on this host, locally."""
        found = []
        for server in self._servers:
            reached = self._inventory.address(server)
            if server == self._host:
                reached = self._own_server_host if self._own_server_host not in EVERYWHERE else LOCALHOST
            port = self._inventory.get(server, {}).get("prefect_server_port") or self.default_port
            found.append(f"{bracketed(reached)}:{port}")
        return found

    @property
    def _own_server_host(self) -> str:
        """The address of a server on this host: by default, the one towards the proxies on other hosts."""
        return self._text("prefect_server_host", "") or str(self._known.get("address", ""))

    @cached_property
    def api_is_remote(self) -> bool:
        return bool(self._servers) and not self._is_server

    @cached_property
    def _api(self) -> Api:
        settings = self._read("prefect_settings")
        path = f"{self.proxy.path}/api" if self.proxy.path else settings.get("PREFECT_SERVER_API_BASE_PATH", "/api")
        if isinstance(self.proxy, Proxy):
            return Api(path=path, url=self.proxy.api_url, public_url=self.proxy.api_url)
        if self.api_is_remote:
            port = self._inventory[self._servers[0]].get("prefect_server_port") or self.default_port
            reached = public = self._inventory.address(self._servers[0])
        else:
            listens_on, port = (
                self._text("prefect_server_host", ""),
                self._read("prefect_server_port", self.default_port),
            )
            reached = LOCALHOST if listens_on in EVERYWHERE else listens_on
            public = str(self._read("prefect_address")) if listens_on in EVERYWHERE[1:] else reached
        url, public_url = (f"http://{bracketed(host)}:{port}{path}" for host in (reached, public))
        return Api(path=path, url=url, public_url=public_url)

    @cached_property
    def api_path(self) -> str:
        return self._api.path

    @cached_property
    def api_url(self) -> str:
        return self._api.url

    @cached_property
    def ui_api_url(self) -> str:
        return self._api.public_url

    @cached_property
    def is_exposed(self) -> bool:
        """Whether anyone beyond the server's own host can reach the API."""
        if self._proxies:
            return True
        listening = [str(host) for host in self._inventory.of_each(self._servers, "prefect_server_host", "") if host]
        own = self._text("prefect_server_host", "") if self._is_server else ""
        return any(not loopback(host) for host in listening) or own not in ("", LOCALHOST, "::1", "localhost")

    @property
    def _proxied_settings(self) -> dict[str, Any]:
        """Settings of a server for the proxies: how long they keep a connection, and the path prefix."""
        if not self.proxy.present:
            return {}
        prefix = {
            "PREFECT_SERVER_API_BASE_PATH": self._api.path,
            "PREFECT_SERVER_UI_SERVE_BASE": self.proxy.path,
        }
        return {"PREFECT_SERVER_API_KEEPALIVE_TIMEOUT": KEEPALIVE_SECONDS} | (prefix if self.proxy.path else {})

    @cached_property
    def hosts_line(self) -> str:
        """The line in /etc/hosts for the domain of the proxy."""
        assert isinstance(self.proxy, Proxy)
        found = self._record["addresses"].get(self.proxy.addresses[0], [])
        return f"{next(iter(found), '')} {self.proxy.domain}"

    # The private CA, and the generated secrets

    @cached_property
    def secrets_dir(self) -> str:
        return secrets_dir(self._host, self._inventory, self._servers)

    @cached_property
    def may_generate(self) -> bool:
        """Whether the host's own record of its secrets was compared with those of the controller."""
        read = [self._read(name, {}) for name in ("__prefect_postgres_backend", "__prefect_redis_backend")]
        return any("secrets_compared" in found for found in [self._known, *read])

    @cached_property
    def has_ca(self) -> bool:
        """Whether clients on this host trust the private CA to reach the API."""
        return self.proxy.tls == "private" and bool(self._read("prefect_api_url") == self._api.url)

    @cached_property
    def api_ca(self) -> str:
        """The path on the host is known only after the host was read."""
        return self._backends_ca if self.has_ca else ""

    @property
    def _backends_ca(self) -> str:
        return f"{self._known['dirs']['etc']}/ca.crt" if self._known else ""

    @cached_property
    def has_backends_ca(self) -> bool:
        """Whether a server on this host trusts the private CA to reach the database or Redis."""
        return self._is_server and (
            (self._flag("prefect_database_tls") and self.has_database_ca)
            or (self._flag("prefect_redis_tls") and self.has_redis_ca)
        )

    @property
    def _has_certificate(self) -> bool:
        """Whether this host presents a certificate of the private CA."""
        return (
            (self._is_in("postgres") and not self._text("prefect_postgres_certificate", ""))
            or (self._is_in("redis") and self._flag("prefect_redis_tls"))
            or (self._is_in("proxy") and self.proxy.tls == "private")
        )

    @cached_property
    def generated(self) -> list[str]:
        """The generated secrets that this host uses and whose fingerprints it records."""

        def is_generated(name: str) -> bool:
            generated = self._text(f"__prefect_{name}")
            return bool(generated) and bool(self._read(f"prefect_{name}") == generated)

        uses_database = self._host in [*self._servers, *self.database_group]
        found = {
            "api": self.has_clients and is_generated("api_auth"),
            "database": uses_database and is_generated("database_password"),
            "redis": self._host in self._redis_users and is_generated("redis_password"),
            "ca": self.has_ca or self.has_backends_ca or self._has_certificate,
        }
        return [name for name, uses in found.items() if uses]

    @cached_property
    def _redis_users(self) -> list[str]:
        group = self._inventory.group
        return [*self._servers, *self.redis_group, *group("celery"), *group("definitions")]

    @cached_property
    def recorders(self) -> dict[str, list[str]]:
        """The hosts to ask before the controller generates a secret; for the CA, which all record, one suffices."""
        ca = [*self._servers, *self.database_group, *self.redis_group, *self._proxies]
        asked = {*ca} & {*self._read("ansible_play_hosts_all")}
        return {
            "api": self._servers,
            "database": self.database_group,
            "redis": self.redis_group,
            "ca": [] if asked else ca,
        }

    # The database and Redis

    def _backend_host(self, hosts: list[str]) -> str:
        """Return the address at which this host reaches what runs on the first of the hosts; empty without hosts."""
        if not hosts:
            return ""
        return LOCALHOST if hosts[0] == self._host else self._inventory.address(hosts[0])

    def _is_own(self, hosts: list[str], name: str) -> bool:
        """Return whether the database or Redis in use is the one on the first of the hosts."""
        return (
            bool(hosts)
            and not self._text(f"prefect_{name}_url")
            and self._read(f"prefect_{name}_host") == self._backend_host(hosts)
        )

    @cached_property
    def database_host(self) -> str:
        return self._backend_host(self.database_group)

    @cached_property
    def redis_host(self) -> str:
        return self._backend_host(self.redis_group)

    @cached_property
    def has_database_ca(self) -> bool:
        """Whether the database presents a certificate of the private CA: not if the user sets another one."""
        return self._is_own(self.database_group, "database") and not self._inventory[self.database_group[0]].get(
            "prefect_postgres_certificate"
        )

    @cached_property
    def has_redis_ca(self) -> bool:
        return self._is_own(self.redis_group, "redis")

    @cached_property
    def database_ca(self) -> str:
        return self._backends_ca if self._flag("prefect_database_tls") and self.has_database_ca else ""

    @cached_property
    def redis_ca(self) -> str:
        return self._backends_ca if self._flag("prefect_redis_tls") and self.has_redis_ca else ""

    @cached_property
    def database(self) -> dict[str, Any]:
        return connections.database(self._given_database | {"password": self._read("prefect_database_password")})

    @cached_property
    def redis(self) -> dict[str, Any]:
        return connections.redis(self._given_redis | {"password": self._read("prefect_redis_password")})

    @cached_property
    def _database_place(self) -> dict[str, Any]:
        """The database, without a generated password, which is asked for only where it is needed."""
        return connections.database(self._given_database)

    @cached_property
    def _given_database(self) -> dict[str, Any]:
        names = ("url", "host", "port", "name", "user", "ca", "cert", "key")
        found = {name: self._read(f"prefect_database_{name}") for name in names}
        return found | {"tls": self._flag("prefect_database_tls")}

    @cached_property
    def _given_redis(self) -> dict[str, Any]:
        found = {name: self._read(f"prefect_redis_{name}") for name in ("url", "host", "port", "database", "ca")}
        return found | {"tls": self._flag("prefect_redis_tls")}

    @cached_property
    def database_kind(self) -> str:
        return str(self._database_place["kind"])

    @cached_property
    def _is_postgresql(self) -> bool:
        return self.database_kind == "postgresql"

    @cached_property
    def server_database_is_here(self) -> bool:
        """Whether the database is reached without a network."""
        host = str(self._database_place.get("host", ""))
        return not self._is_postgresql or host in ("localhost", LOCALHOST, "::1") or host.startswith("/")

    @property
    def _has_redis(self) -> bool:
        return bool(connections.redis(self._given_redis)["present"])

    @cached_property
    def postgres_others(self) -> dict[str, str]:
        """The address of each other host that uses the database on this one."""
        return {host: self._inventory.address(host) for host in self._without_self(self._servers)}

    @cached_property
    def redis_others(self) -> dict[str, str]:
        """The same for Redis: servers, Celery workers, and the hosts whose flows send tasks to these workers."""
        celery = self._inventory.group("celery")
        users = [*self._servers, *celery, *(self._inventory.group("definitions") if celery else [])]
        return {host: self._inventory.address(host) for host in self._without_self(users)}

    # Settings of clients

    @cached_property
    def client_settings(self) -> dict[str, Any]:
        """Settings of every client of the API: workers, scripts, and the `prefect` on the PATH."""
        auth, ca = self._read("prefect_api_auth"), self._read("prefect_api_ca")
        found = {
            "PREFECT_API_URL": self._read("prefect_api_url"),
            "PREFECT_UI_URL": re.sub(r"/api$", "", str(self._read("prefect_server_ui_api_url", self.ui_api_url))),
            "PREFECT_SERVER_ANALYTICS_ENABLED": False,
            "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": self._flag("prefect_api_csrf"),
            "DO_NOT_TRACK": "1",
        }
        found |= {"PREFECT_API_AUTH_STRING": auth} if auth else {}
        return found | ({"PREFECT_API_SSL_CERT_FILE": ca} if ca else {})

    @cached_property
    def runner_settings(self) -> dict[str, Any]:
        """Settings of everything that runs flows.

        While PostgreSQL restarts, a server answers 500, which Prefect's clients do not retry by default: the flow run
        would stay Running forever.
        """
        silence = self._number("prefect_flow_run_silence")
        return {
            **self.client_settings,
            "PREFECT_HOME": self._dirs["worker"],
            "PREFECT_LOCAL_STORAGE_PATH": f"{self._dirs['home']}/storage",
            "PREFECT_LOGGING_COLORS": False,
            "PREFECT_SERVER_EPHEMERAL_ENABLED": False,
            "PREFECT_CLIENT_RETRY_EXTRA_CODES": 500,
            **uv_settings(self._record, index_url=self._read("prefect_index_url")),
            **({"PREFECT_RUNNER_HEARTBEAT_FREQUENCY": silence // 3} if silence > 0 else {}),
        }

    @cached_property
    def has_private_tmp(self) -> bool:
        """Whether every unit has its own temporary directory.

        Prefect keeps a directory with a fixed name in it, writable only by its first user.
        """
        return bool(self._record["service_manager"] == "systemd") and self._is_system

    @property
    def _tmp_settings(self) -> dict[str, str]:
        return {} if self.has_private_tmp else {"TMPDIR": f"{self._dirs['home']}/tmp"}

    @cached_property
    def runner_tmp_settings(self) -> dict[str, str]:
        return {} if self.has_private_tmp else {"TMPDIR": f"{self._dirs['worker']}/tmp"}

    # The server

    @cached_property
    def server_host(self) -> str:
        return self._text("prefect_server_host") or str(self._known.get("address") or LOCALHOST)

    @cached_property
    def server_own_url(self) -> str:
        return f"http://{bracketed(probed(self.server_host))}:{self._read('prefect_server_port')}{self._api.path}"

    @cached_property
    def server_exporter_probe_host(self) -> str:
        return probed(str(self._read("prefect_server_exporter_host")))

    @cached_property
    def server_settings(self) -> dict[str, Any]:
        home, auth = self._dirs["home"], self._read("prefect_api_auth")
        migrates = self._flag("prefect_database_migrate")
        trusted = self._record.get("peer_addresses", [])
        return {
            "DO_NOT_TRACK": "1",
            "PREFECT_HOME": home,
            "PREFECT_API_URL": self._read("prefect_api_url"),
            "PREFECT_LOGGING_COLORS": False,
            "PREFECT_SERVER_ANALYTICS_ENABLED": self._flag("prefect_server_analytics"),
            "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": self._flag("prefect_api_csrf"),
            "PREFECT_SERVER_API_HOST": self.server_host,
            "PREFECT_SERVER_API_PORT": self._read("prefect_server_port"),
            "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": migrates and not self.is_split,
            "PREFECT_SERVER_EPHEMERAL_ENABLED": False,
            "PREFECT_SERVER_METRICS_ENABLED": self._flag("prefect_server_metrics"),
            "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": not self.is_split or not migrates,
            "PREFECT_SERVER_UI_API_URL": self._read("prefect_server_ui_api_url"),
            "PREFECT_SERVER_UI_ENABLED": self._flag("prefect_server_ui"),
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": False,
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": f"{home}/prefect-ui",
            **(self._pool_settings if self._is_postgresql else {}),
            **self.database["settings"],
            **self.redis["settings"],
            **({"FORWARDED_ALLOW_IPS": ",".join([LOCALHOST, *trusted])} if trusted else {}),
            **({"PREFECT_SERVER_API_AUTH_STRING": auth, "PREFECT_API_AUTH_STRING": auth} if auth else {}),
            # Before 3.9, Prefect lists all time zones again for each schedule that it reads: from a system directory
            # with hundreds of files, which takes 5 ms, or else from the release's own list. In a lock, a semicolon
            # after tzdata limits it to some Python versions.
            **({"PYTHONTZPATH": ""} if re.search(r"(?m)^tzdata==[^;]*$", self._text("__prefect_requirements")) else {}),
            **self._tmp_settings,
            **self._proxied_settings,
            **self._read("prefect_settings"),
            **self._read("prefect_server_settings"),
        }

    @property
    def _pool_settings(self) -> dict[str, Any]:
        return {
            "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": self._read("prefect_database_pool_size"),
            "PREFECT_SERVER_DATABASE_SQLALCHEMY_MAX_OVERFLOW": self._read("prefect_database_pool_overflow"),
        }

    @cached_property
    def server_search_path(self) -> str:
        """The schema search path that the server sets; empty if that of the database user applies."""
        found = {
            **self._database_place["settings"],
            **self._read("prefect_settings"),
            **self._read("prefect_server_settings"),
        }
        return str(found.get(f"{connections.CONNECT_ARGS}_SEARCH_PATH", ""))

    @cached_property
    def server_callers(self) -> list[str]:
        """The addresses that may reach the server through a firewall: the proxies or, without proxies, its clients."""
        clients = [*self._inventory.group("worker"), *self._inventory.group("flows")]
        return self._inventory.addresses(self._without_self(self._proxies or clients))

    @cached_property
    def server_connections(self) -> int:
        """The connections that all processes of all servers may open at the same time."""
        processes = self._number("prefect_server_processes") + 1 if self.is_split else 1
        each = self._number("prefect_database_pool_size") + self._number("prefect_database_pool_overflow")
        return max(len(self._servers), 1) * processes * each

    @cached_property
    def server_data(self) -> str:
        """The data directory, before the host has been read."""
        return self._text("prefect_home") or f"/var/lib/{self.ledger_name}"

    @cached_property
    def server_sqlite(self) -> str:
        url = self._text("prefect_database_url")
        return re.sub(r"^sqlite[^:]*:///", "", url) if url else f"{self._dirs['home']}/prefect.db"

    @cached_property
    def server_is_launched(self) -> bool:
        """With Redis, the launcher hides the password of Redis in the settings that the API shows."""
        return not self._is_postgresql or self._has_redis

    @cached_property
    def server_migrates(self) -> bool:
        """Whether a unit migrates before the server starts; the server itself migrates SQLite.

        A migration may take longer than the start timeout of a server, and only one of several servers may run it.
        """
        return self._flag("prefect_database_migrate") and self._is_postgresql

    @cached_property
    def server_keeps_database(self) -> bool:
        """Whether this host works on the database for the instance: the servers share PostgreSQL, but not SQLite.

        The choice of the server does not depend on which servers have failed.
        """
        playing = [host for host in self._read("ansible_play_hosts_all") if host in self._servers]
        return not self._is_postgresql or self._host == next(iter(playing), self._host)

    @cached_property
    def server_login_account(self) -> str:
        """The account that connects to the socket of PostgreSQL."""
        return str(self._known["user"]) if self._known else self._text("prefect_user", "") or self.ledger_name

    @cached_property
    def server_log(self) -> str:
        """Where the log of the server is: a command that shows it, or a directory."""
        if self._record["service_manager"] != "systemd" or self._flag("prefect_log_files"):
            return self._dirs["log"]
        return f"journalctl{'' if self._is_system else ' --user'} -u {self._name}-server"

    # Backups of the database: on its own host if that is in the inventory, otherwise on a server

    @cached_property
    def backup_local(self) -> bool:
        return self._is_postgresql and not self._text("prefect_database_url") and bool(self.database_group)

    @cached_property
    def backup_timer_host(self) -> str:
        if not self._is_postgresql:
            return self._host
        return (self.database_group if self.backup_local else [*self._servers, self._host])[0]

    @cached_property
    def server_backup_host(self) -> str:
        return self.database_group[0] if self.backup_local else self._host

    @cached_property
    def server_backup_dir(self) -> str:
        first = next(iter(self._servers), self._host)
        if chosen := self._text("prefect_server_backup_dir"):
            return chosen
        if self.backup_local and self.server_backup_host != first:
            return f"/var/backups/{self._name}"
        return f"/var/backups/{self._name}-server" if self._is_system else f"{self._dirs['home']}/backups"

    @cached_property
    def server_backup(self) -> dict[str, Any]:
        """How a backup reaches the database: as its superuser on its own host, otherwise as the server."""
        if not self._is_postgresql:
            return {"sqlite": self.server_sqlite}
        found = self._database_place
        if self.backup_local:
            return {
                "superuser": "postgres",
                "port": self._read("prefect_database_port"),
                "database": found["name"],
                "user": found["user"],
            }
        verified = "verify-full" if found["check_hostname"] else "verify-ca"
        names = ("host", "port", "user", "password", "ca", "cert", "key")
        return {
            **{name: self.database[name] for name in names},
            "database": found["name"],
            "sslmode": verified if found["tls"] else found["query"].get("ssl", "prefer"),
        }

    @cached_property
    def server_proof_host(self) -> dict[str, Any]:
        """The host of the backup, if a proof finds the release, the settings and the account of a server there."""
        host = self.server_backup_host
        if host == self._host:
            return self._record
        return dict(self._inventory[host].get("__prefect_host", {})) if host in self._servers else {}

    @cached_property
    def purge_backup_dir(self) -> str:
        if self._is_system:
            return f"/var/backups/{self._name}"
        return f"{PurePosixPath(self._dirs['home']).parent}/{self._name}-backups"

    # What the host needs and has

    @cached_property
    def status_backup(self) -> str:
        """The schedule of the backups that this host makes."""
        makes = self._is_server and self.backup_timer_host == self._host
        return self._text("prefect_server_backup_schedule", "") if makes else ""

    @cached_property
    def services_wanted(self) -> list[str]:
        """The units that the host must have; one that ends with an at sign stands for at least one instance."""
        background = self._is_server and self.is_split and self._flag("prefect_server_background", True)
        wanted = {
            "server": self._is_server,
            "services": background,
            "worker@": self._is_in("worker"),
            "redis": self._is_in("redis"),
            "backup.timer": bool(self.status_backup),
        }
        return [f"{self._name}-{service}" for service, is_wanted in wanted.items() if is_wanted]

    @cached_property
    def data_disks(self) -> dict[str, str]:
        """Directories on this host that grow over time, besides those of the instance."""
        url, has_database = self._text("prefect_database_url"), self._host in self.database_group
        found = {}
        if self._is_server or has_database:
            found["the backups"] = self._text("prefect_server_backup_dir", "") or "/var/backups"
        if self._is_server and url.startswith("sqlite"):
            found["prefect_database_url"] = str(PurePosixPath(re.sub(r"^sqlite[^:]*:///", "", url)).parent)
        return found | ({"PostgreSQL": "/var/lib/postgresql"} if has_database else {})

    @cached_property
    def needs(self) -> dict[str, dict[str, str]]:
        """Paths that services need besides the instance's own directories, by the account that they run as."""
        directories = ("prefect_celery_dir", "prefect_definitions_dir", "prefect_flows_dir")
        return {
            "user": self._server_needs if self._is_server else {},
            "worker_user": {
                "prefect_api_ca": self._read("prefect_api_ca"),
                **{name: self._text(name, "") for name in directories},
            },
        }

    @property
    def _server_needs(self) -> dict[str, str]:
        place = self._database_place
        socket = str(place.get("host", ""))
        return {
            **{f"prefect_database_{name}": place.get(name, "") for name in ("ca", "cert", "key")},
            "prefect_database_host": socket if socket.startswith("/") else "",
            "prefect_redis_ca": self._read("prefect_redis_ca"),
        }

    @cached_property
    def logrotate(self) -> str:
        return f"/etc/logrotate.d/{self._name}" if self._is_system else f"{self._dirs['etc']}/logrotate.conf"

    @cached_property
    def ledger_probes(self) -> list[str]:
        """Files that later tasks write: a file of another owner is rejected before anything changes."""
        units, programs = (f"{self._dirs[part]}/{self._name}" for part in ("units", "bin"))
        return [
            *(f"{units}-{unit}.service" for unit in UNITS),
            *(f"{units}-backup.{kind}" for kind in ("service", "timer")),
            programs,
            f"{programs}-info",
            self.logrotate,
        ]


FACTS = frozenset(
    name for name, value in vars(Platform).items() if isinstance(value, cached_property) and not name.startswith("_")
)
"""The facts that the lookup returns."""
