"""Reject unknown variables and settings that conflict with a variable, before any host is changed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import is_address
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import is_secret_name, userinfo
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import environment_resolver, inventory
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.certificates import problems
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.connections import loopback

ROLES = Path(__file__).resolve().parents[2] / "roles"

OWNED = {
    "PREFECT_API_AUTH_STRING": "prefect_api_auth",
    "PREFECT_API_DATABASE_CONNECTION_URL": "prefect_database_url",
    "PREFECT_API_ENABLE_METRICS": "prefect_server_metrics",
    "PREFECT_API_SSL_CERT_FILE": "prefect_api_ca",
    "PREFECT_API_URL": "prefect_api_url",
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "prefect_api_csrf",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "prefect_flow_run_silence",
    "PREFECT_HOME": "prefect_home",
    "PREFECT_REDIS_MESSAGING_DB": "prefect_redis_database",
    "PREFECT_REDIS_MESSAGING_HOST": "prefect_redis_host",
    "PREFECT_REDIS_MESSAGING_PASSWORD": "prefect_redis_password",
    "PREFECT_REDIS_MESSAGING_PORT": "prefect_redis_port",
    "PREFECT_REDIS_MESSAGING_SSL": "prefect_redis_tls",
    "PREFECT_REDIS_MESSAGING_URL": "prefect_redis_url",
    "PREFECT_REDIS_MESSAGING_USERNAME": "prefect_redis_url",
    "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": "prefect_redis_url",
    "PREFECT_RUNNER_HEARTBEAT_FREQUENCY": "prefect_flow_run_silence",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "prefect_server_analytics",
    "PREFECT_SERVER_API_AUTH_STRING": "prefect_api_auth",
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "prefect_api_csrf",
    "PREFECT_SERVER_API_HOST": "prefect_server_host",
    "PREFECT_SERVER_API_PORT": "prefect_server_port",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "prefect_database_url",
    "PREFECT_SERVER_DATABASE_DRIVER": "prefect_database_host",
    "PREFECT_SERVER_DATABASE_HOST": "prefect_database_host",
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "prefect_database_migrate",
    "PREFECT_SERVER_DATABASE_NAME": "prefect_database_name",
    "PREFECT_SERVER_DATABASE_PASSWORD": "prefect_database_password",
    "PREFECT_SERVER_DATABASE_PORT": "prefect_database_port",
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_MAX_OVERFLOW": "prefect_database_pool_overflow",
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": "prefect_database_pool_size",
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_TLS_CA_FILE": "prefect_database_ca",
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_TLS_CERT_FILE": "prefect_database_cert",
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_TLS_ENABLED": "prefect_database_tls",
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_TLS_KEY_FILE": "prefect_database_key",
    "PREFECT_SERVER_DATABASE_USER": "prefect_database_user",
    "PREFECT_SERVER_DOCKET_URL": "prefect_redis_url",
    "PREFECT_SERVER_METRICS_ENABLED": "prefect_server_metrics",
    "PREFECT_SERVER_UI_API_URL": "prefect_server_ui_api_url",
    "PREFECT_UI_API_URL": "prefect_server_ui_api_url",
    "PREFECT_WORKER_QUERY_SECONDS": "prefect_worker_query_seconds",
    "PREFECT_WORKER_WEBSERVER_HOST": "prefect_worker_health_host",
    "PREFECT_WORKER_WEBSERVER_PORT": "prefect_worker_health_port",
}
"""Settings that have their own variable, which must be the only place to set them."""

OUTDATED = {
    "PREFECT_DATABASE_URL": "set prefect_database_url",
    "PREFECT_SERVER_HOST": "set prefect_server_host",
    "PREFECT_SERVER_PORT": "set prefect_server_port",
    "PREFECT_STORAGE_TYPE": "set prefect_database_host",
    "PREFECT_CLIENT_METRICS_ENABLED": (
        "leave it out: on a process worker every flow run crashes on the port that the worker holds"
    ),
}
"""Settings that Prefect 3 ignores or that break it, and what to do instead."""


UNIT_SECRETS = {
    "prefect_celery_unit_options": "set it in prefect_celery_environment",
    "prefect_worker_unit_options": "set it in prefect_worker_environment",
}
"""Where a credential of a unit belongs, if there is a variable for it."""

KNOWN_SECRETS = re.compile(
    r"123456(78)?|admin|change(it|me)|default|example|guest|letmein|pass(w[o0]rd)?|pg(user|pass)|postgres(ql)?"
    r"|prefect(-rocks)?|redis|root|secret|test|yourpassword",
    re.IGNORECASE,
)
"""Passwords from examples, images and other installers, which attackers try first."""


def known_variables(roles: Path) -> dict[str, dict[str, Any]]:
    """Return the variables of each role with their specs, from the role's argument specs."""
    known: dict[str, dict[str, Any]] = {}
    for path in roles.glob("*/meta/argument_specs.yml"):
        specs = yaml_load(path.read_text(encoding="utf-8"))["argument_specs"]
        known[path.parents[1].name] = {
            name: option for spec in specs.values() for name, option in spec.get("options", {}).items()
        }
    return known


def mistyped_variables(values: dict[str, Any], known: dict[str, dict[str, Any]]) -> list[str]:
    """Return an error for each value that the spec of its variable does not allow.

    Ansible validates a role's variables when the role starts, by which time other roles may have changed the host.
    Ansible also accepts text as a list or a dictionary, which templates cannot use. Text that stands for a boolean or a
    number is accepted: the templates convert it.
    """
    specs = {name: option for options in known.values() for name, option in options.items() if name in values}
    text = {name for name in specs if specs[name]["type"] in ("list", "dict") and isinstance(values[name], str)}
    # The value may contain a secret and is not repeated.
    problems = [
        f"{name}: it is a {specs[name]['type']}, and text was given; on the command line give JSON: "
        f"-e '{json.dumps({name: ['...'] if specs[name]['type'] == 'list' else {'...': '...'}})}'"
        for name in sorted(text)
    ]
    others = {name: option for name, option in specs.items() if name not in text}
    given = {name: values[name] for name in others}
    return problems + list(ArgumentSpecValidator(others).validate(given).error_messages)


def unknown_variables(names: list[str], known: Mapping[str, Collection[str]]) -> list[str]:
    """Return an error for each unknown variable that looks like one of this collection.

    With a role's prefix, every unknown name is an error; without one, only a name close to a known variable.
    """
    valid = set(inventory.NAMES).union(*known.values())
    prefixes = tuple(f"{role}_" for role in known if role != "prefect")
    problems = []
    for name in sorted(name for name in set(names) - valid if not inventory.PATTERN.fullmatch(name)):
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.6 if name.startswith(prefixes) else 0.88)
        if near or name.startswith(prefixes):
            problems.append(f"{name}: there is no such variable" + (f"; did you mean {near[0]}?" if near else ""))
    return problems


def refused_settings(variable: str, settings: dict[str, Any]) -> list[str]:
    """Return an error for each setting in a variable that has its own variable, or that is not a Prefect setting."""
    problems = []
    for name in map(str, settings):
        if name in OWNED:
            problems.append(f"{variable}: set {OWNED[name]}, not {name}")
        elif name in OUTDATED:
            problems.append(f"{variable}: {name}: {OUTDATED[name]}")
        elif not name.startswith("PREFECT_") or name != name.upper():
            also = {
                "prefect_settings": "; for workers and flow runs, set it in prefect_worker_environment",
                "prefect_worker_settings": "; set it in prefect_worker_environment",
            }
            problems.append(
                f"{variable}: {name} is no setting of Prefect; their names start with PREFECT_, in capitals"
                f"{also.get(variable, '')}"
            )
    return problems


def refused_silence(seconds: Any) -> list[str]:
    """Return an error if the time is too short for three heartbeats, which Prefect sends at most every 30 s."""
    if str(seconds).isdecimal() and 0 < int(seconds) < 90:
        return [f"prefect_flow_run_silence: {seconds} s is too short for three heartbeats; at least 90, or 0 for none"]
    return []


def refused_environment(variable: str, names: list[str]) -> list[str]:
    """Return an error for each name in a variable that is a Prefect setting or not a valid environment variable."""
    problems = []
    for name in map(str, names):
        if name.startswith("PREFECT_"):
            problems.append(f"{variable}: {name} is a setting of Prefect; set it in prefect_worker_settings")
        elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            problems.append(
                f"{variable}: {name!r} is no name of an environment variable: letters, digits and underscores, no "
                "digit first"
            )
    return problems


def refused_unit_options(variable: str, options: Mapping[str, Any]) -> list[str]:
    """Return an error, without the secret, for each option of a unit with a credential: every account reads units.

    A path or a specifier, which begins with `%`, is none.
    """
    problems = []
    for option, value in options.items():
        assigned = re.findall(r"(\w+)=[\"']?(?![/%\"'])\S", str(value)) if option == "Environment" else []
        named = next((name for name in assigned if is_secret_name(name)), "")
        if named or userinfo(str(value)):
            problems.append(
                f"{variable}: {option} holds {named or 'a URL with a credential'}, and every account of the host can "
                f"read a unit; {UNIT_SECRETS.get(variable, 'name a file in EnvironmentFile')}"
            )
    return problems


def refused_version(version: str, shipped: Collection[str]) -> list[str]:
    """Return an error if a version is not an exact Prefect 3 version; the versions `shipped` have a lock here."""
    if not version:
        return []
    known = ", ".join(sorted(shipped, key=numbers))
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", version):
        return [
            f"prefect_version: {version} is no exact version; name one with three numbers, such as {known}, so that "
            "each run installs the same"
        ]
    if numbers(version)[0] != 3:
        return [f"prefect_version: {version} is not supported; name a version of Prefect 3, such as {known}"]
    return []


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as comparable numbers."""
    return tuple(map(int, re.findall(r"\d+", version)))


def unlocked(version: str, shipped: Collection[str]) -> list[str]:
    """Return a warning for a version without a lock, whose packages each host resolves when it installs them."""
    if not version or version in shipped:
        return []
    return [
        f"prefect_version: {version} has no lock in this collection, so its packages are the newest of the day and "
        f"not proven together; name one of {', '.join(sorted(shipped, key=numbers))}, or a lock of your own in "
        "prefect_lock"
    ]


def refused_credential(auth: str) -> list[str]:
    """Return an error, without the secret, if a credential is not `user:password` or not ASCII.

    The server compares it as text with `secrets.compare_digest`, which raises an error for non-ASCII characters.
    """
    if auth and not all(auth.partition(":")):
        return ["prefect_api_auth: it has to be user:password"]
    if not auth.isascii():
        return [
            "prefect_api_auth: it holds a letter beyond ASCII, such as an umlaut, with which Prefect's server answers "
            "500 to every request; choose another user or password"
        ]
    return []


def refused_secrets(secrets: Mapping[str, str]) -> list[str]:
    """Return an error, without the secret, for each variable that holds a well-known password."""
    return [
        f"{variable}: that password is known to everybody; choose another, or leave the variable out: one is generated"
        for variable, value in secrets.items()
        if KNOWN_SECRETS.fullmatch(value)
    ]


def refused_topology(topology: Mapping[str, Any]) -> list[str]:
    """Return an error for each conflict between the hosts of an inventory.

    `servers` are hosts, `processes` is the largest number of API processes of a server, `database` the kind of the
    database, `redis` whether one is used, `backup_host` the host of the backup schedule, empty without a schedule.
    """
    servers, processes = topology.get("servers", []), int(topology.get("processes", 1))
    problems: list[str] = []
    if topology.get("backup_host") and topology["backup_host"] not in servers:
        problems.append(
            f"prefect_server_backup_schedule: the database is on {topology['backup_host']}, which has no server, and a "
            "timer needs the release of one; leave it empty, and have cron on the controller run the playbook backup"
        )
    several = f"{len(servers)} servers ({', '.join(servers)})" if len(servers) > 1 else f"{processes} API processes"
    if len(servers) < 2 and processes < 2:
        return problems
    if topology.get("database") == "sqlite":
        own = '; or, where each is a separate instance, set prefect_servers to ["{{ inventory_hostname }}"] for it'
        problems.append(
            f"prefect_database_host: {several} cannot share SQLite, which is a file for one process; put a host into "
            f"the group prefect_postgres, or set prefect_database_url{own if len(servers) > 1 else ''}"
        )
    if not topology.get("redis"):
        problems.append(
            f"prefect_redis_host: {several} need a Redis to hear of each other's events; put a host into the group "
            "prefect_redis, or set prefect_redis_url"
        )
    return problems


def refused_server(server: dict[str, str]) -> list[str]:
    """Return an error if this host depends on another host's server that listens only on the loopback."""
    if server and loopback(server["listens_on"]):
        return [
            f"prefect_server_host: this host needs the server on {server['name']}, which listens on "
            f"{server['listens_on']} alone; set prefect_server_host for it, to 0.0.0.0 for instance, and "
            "prefect_api_auth for all hosts; or set prefect_api_url to a server that is open"
        ]
    return []


def refused_domain(domain: str) -> list[str]:
    """Return an error if a domain is not a host name or an address; the error names the part to remove."""
    if is_address(domain):
        return []
    if port := re.fullmatch(r"(.+):(\d+)", domain):
        return [
            f"prefect_proxy_domain: {domain} has a port in it; set prefect_proxy_domain to {port[1]} and "
            f"prefect_proxy_https_port to {port[2]}"
        ]
    if "/" in domain:
        return [
            f"prefect_proxy_domain: {domain} is a URL or has a path; give the name alone, and the path in "
            "prefect_proxy_base_path"
        ]
    label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    if not re.fullmatch(rf"{label}(\.{label})*", domain):
        return [f"prefect_proxy_domain: {domain!r} is no name of a host"]
    return []


def refused_proxy(proxy: dict[str, Any]) -> list[str]:
    """Return the errors in the proxies of the inventory; empty without proxies.

    `servers` and `unreachable` are hosts, the latter those whose server no proxy can reach. `listen` holds the
    addresses that this host listens on, if it is a proxy.
    """
    if not proxy.get("present"):
        return []
    found = refused_domain(proxy["domain"])
    if not proxy["servers"]:
        found.append(
            f"prefect_proxy: the group has hosts ({', '.join(proxy['hosts'])}) and the group prefect_server has none; "
            "put hosts into prefect_server, or name others in prefect_proxy_servers"
        )
    found += [
        f"prefect_server_host: the server on {server} was told to listen on its loopback alone, and the proxy is on "
        f"{', '.join(proxy['hosts'])}; leave prefect_server_host out, or set it to an address that the proxy reaches"
        for server in proxy["unreachable"]
    ]
    found += [
        f"prefect_proxy_listen: {address} is not an address, and Nginx does not start with a name that it cannot "
        "resolve; list addresses of this host, IPv6 ones in brackets"
        for address in proxy.get("listen", [])
        if not is_address(address.removeprefix("[").removesuffix("]"))
    ]
    if bool(proxy["certificate"]) != bool(proxy["certificate_key"]):
        found.append("prefect_proxy_certificate: it comes with prefect_proxy_certificate_key, or without it not at all")
    if proxy["certificate"] and proxy["acme"]:
        found.append("prefect_proxy_acme: there is a certificate in prefect_proxy_certificate already; set one of both")
    if proxy["acme"] and is_address(proxy["domain"]):
        found.append(f"prefect_proxy_acme: {proxy['domain']} is an address, and certificates by ACME are for names")
    return found


class ActionModule(ActionBase):
    """Runs on the controller only."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "settings": {"type": "dict", "default": {}},
                "environments": {"type": "list", "elements": "raw", "default": []},
                "environment_names": {"type": "dict", "default": {}},
                "unit_options": {"type": "dict", "default": {}},
                "api_auth": {"type": "str", "default": ""},
                "version": {"type": "str", "default": ""},
                "lock": {"type": "str", "default": ""},
                "server": {"type": "dict", "default": {}},
                "proxy": {"type": "dict", "default": {}},
                "secrets": {"type": "dict", "default": {}},
                "topology": {"type": "dict", "default": {}},
            }
        )
        prefixed = {name: value for name, value in (task_vars or {}).items() if name.startswith("prefect_")}
        known = known_variables(ROLES)
        problems = unknown_variables(list(prefixed), known)
        # The value of a template is not known yet; the role validates it.
        problems += mistyped_variables(
            {name: value for name, value in prefixed.items() if not self._templar.is_template(value)}, known
        )
        for variable, settings in arguments["settings"].items():
            problems += refused_settings(variable, settings)
        shipped = [path.stem for path in (ROLES / "prefect" / "files" / "locks").glob("[0-9]*.txt")]
        problems += refused_version(arguments["version"], shipped)
        problems += environment_resolver.problems_of(arguments["environments"])
        for variable, names in arguments["environment_names"].items():
            problems += refused_environment(variable, names)
        for variable, options in arguments["unit_options"].items():
            problems += refused_unit_options(variable, options)
        problems += refused_silence(prefixed.get("prefect_flow_run_silence"))
        auth = arguments["api_auth"]
        problems += refused_credential(auth) + refused_server(arguments["server"])
        problems += refused_secrets({"prefect_api_auth": auth.partition(":")[2]} | arguments["secrets"])
        problems += refused_topology(arguments["topology"])
        problems += refused_proxy(arguments["proxy"]) or self.refused_certificate(arguments["proxy"])
        if problems:
            return result | {"failed": True, "msg": "\n".join(problems)}
        warnings = [] if arguments["lock"] else unlocked(arguments["version"], shipped)
        return result | {"changed": False} | ({"warnings": warnings} if warnings else {})

    def refused_certificate(self, proxy: dict[str, Any]) -> list[str]:
        """Return the errors in the certificate that the user provides for the proxies, if any."""
        if not proxy.get("certificate"):
            return []
        given = {}
        for name in ("certificate", "certificate_key"):
            try:
                given[name] = self.pem(proxy[name])
            except AnsibleError as error:
                return [f"prefect_proxy_{name}: {error.message}"]
        return problems(
            given["certificate"],
            given["certificate_key"],
            proxy["domain"],
            now=datetime.now(timezone.utc),
            variable="prefect_proxy_certificate",
        )

    def pem(self, value: str) -> str:
        """Return a PEM text given as text or as a path on the controller, where the file may be vault-encrypted."""
        if "-----BEGIN" in value:
            return value
        return str(self._loader.get_text_file_contents(self._find_needle("files", value)))
