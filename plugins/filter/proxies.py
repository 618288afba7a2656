"""Filters that derive URLs and addresses of the API servers and their proxies from the inventory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.selfhosted.prefect.plugins.filter.connections import address, loopback

HTTPS = 443
EVERYWHERE = ("", "0.0.0.0", "::")


def bracketed(host: str) -> str:
    """Return a host as written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def base_path(path: str) -> str:
    """Return a path with a leading slash and no trailing slash; empty for the root."""
    stripped = path.strip().strip("/")
    return f"/{stripped}" if stripped else ""


def proxy(hosts: list[str], hostvars: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about the proxies `hosts` that clients and servers need; `present` is false without a proxy.

    `own` holds this host's variables by name without `prefect_proxy_`; the first proxy's variables are the defaults.
    `tls` is the source of the certificate: given, acme, or private (the CA of this collection).
    """
    if not hosts:
        return {"present": False, "path": "", "tls": "", "hosts": []}
    first = hostvars.get(hosts[0], {})

    def value(name: str, default: Any) -> Any:
        candidates = (own.get(name), first.get(f"prefect_proxy_{name}"))
        return next((found for found in candidates if found not in (None, "")), default)

    domain, port = str(value("domain", address(hosts[0], hostvars))), int(value("https_port", HTTPS))
    path = base_path(str(value("base_path", "")))
    origin = bracketed(domain) if port == HTTPS else f"{bracketed(domain)}:{port}"
    return {
        "present": True,
        "domain": domain,
        "port": port,
        "path": path,
        "host_header": origin,
        "url": f"https://{origin}{path}",
        "api_url": f"https://{origin}{path}/api",
        "certificate": value("certificate", ""),
        "certificate_key": value("certificate_key", ""),
        "acme": boolean(value("acme", False)),
        "tls": "given" if value("certificate", "") else "acme" if boolean(value("acme", False)) else "private",
        "hosts_entry": boolean(value("hosts_entry", False)),
        "hosts": hosts,
        "addresses": [address(host, hostvars) for host in hosts],
    }


def default_port(instance: str) -> int:
    """Return the port of an instance's server: 4200 for prefect, otherwise 4300 to 4799, derived from the name."""
    if instance == "prefect":
        return 4200
    return 4300 + int(hashlib.md5(instance.encode(), usedforsecurity=False).hexdigest()[:6], 16) % 500


def api(
    servers: list[str], hostvars: Mapping[str, Any], host: str, through: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the API's `path`, its `url` for programs on `host`, and its `public_url` for browsers.

    `through` is the result of `proxy`. `own` holds host, port, default_port, address and path of a server on `host`.
    """
    path = f"{through['path']}/api" if through["path"] else own["path"]
    if through["present"]:
        return {"path": path, "url": through["api_url"], "public_url": through["api_url"]}
    listens_on, port = own["host"], own["port"]
    if servers and host not in servers:
        port = hostvars[servers[0]].get("prefect_server_port") or own["default_port"]
        reached = public = address(servers[0], hostvars)
    else:
        reached = "127.0.0.1" if listens_on in EVERYWHERE else listens_on
        public = own["address"] if listens_on in EVERYWHERE[1:] else reached
    return {
        "path": path,
        "url": f"http://{bracketed(reached)}:{port}{path}",
        "public_url": f"http://{bracketed(public)}:{port}{path}",
    }


def upstreams(
    servers: list[str], hostvars: Mapping[str, Any], host: str, listens_on: str, default_port: int
) -> list[str]:
    """Return the address at which a proxy on `host` reaches each API server, as host:port.

    A server on the proxy's own host, which listens on `listens_on`, is reached locally.
    """
    found = []
    for server in servers:
        known = hostvars.get(server, {})
        reached = address(server, hostvars)
        if server == host:
            reached = listens_on if listens_on not in EVERYWHERE else "127.0.0.1"
        found.append(f"{bracketed(reached)}:{known.get('prefect_server_port') or default_port}")
    return found


def unreachable(servers: list[str], hostvars: Mapping[str, Any], proxies: list[str]) -> list[str]:
    """Return the servers that are configured to listen on the loopback although another host's proxy needs them."""
    return [
        server
        for server in servers
        if set(proxies) - {server} and loopback(str(hostvars.get(server, {}).get("prefect_server_host", "")))
    ]


def nginx_variable(name: str) -> str:
    """Return a name as part of a valid Nginx variable name."""
    return re.sub(r"\W", "_", name)


def certbot_names(said: str) -> list[str]:
    """Return the sorted names of a certificate from the output of `certbot certificates`; empty if it lists none."""
    found = re.search(r"^ *(?:Domains|Identifiers): (.+)$", said, re.MULTILINE)
    return sorted(re.split(r"[ ,]+", found[1].strip())) if found else []


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "api": api,
            "base_path": base_path,
            "bracketed": bracketed,
            "certbot_names": certbot_names,
            "default_port": default_port,
            "nginx_variable": nginx_variable,
            "proxy": proxy,
            "unreachable": unreachable,
            "upstreams": upstreams,
        }
