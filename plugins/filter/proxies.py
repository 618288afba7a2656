"""What Jinja needs to know of the proxies in front of the API servers, from what an inventory says of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.selfhosted.prefect.plugins.filter.connections import address, loopback

HTTPS = 443
EVERYWHERE = ("", "0.0.0.0", "::")


def bracketed(host: str) -> str:
    """Return a host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def base_path(path: str) -> str:
    """Return a path with a slash in front and none behind; nothing for the root."""
    stripped = path.strip().strip("/")
    return f"/{stripped}" if stripped else ""


def proxy(hosts: list[str], hostvars: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what clients and servers know of the proxies `hosts`; `present` says whether there is one.

    `own` holds the variables of the host that asks, by their names without `prefect_proxy_`; what it does not define is
    the first proxy's. `tls` says where the certificate is from: given, acme, or private, our own authority.
    """
    if not hosts:
        return {"present": False, "path": "", "tls": "", "hosts": []}
    first = hostvars.get(hosts[0], {})

    def value(name: str, default: Any) -> Any:
        mine, theirs = own.get(name), first.get(f"prefect_proxy_{name}")
        return next((found for found in (mine, theirs) if found not in (None, "")), default)

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


def upstreams(
    servers: list[str], hostvars: Mapping[str, Any], host: str, listens_on: str, default_port: int
) -> list[str]:
    """Return where a proxy on `host` reaches each API server, as host:port.

    A server on the proxy's own host, which listens on the address `listens_on`, is reached without leaving it.
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
    """Return the servers that were told to listen on their loopback while a proxy on another host has to reach them."""
    return [
        server
        for server in servers
        if set(proxies) - {server} and loopback(str(hostvars.get(server, {}).get("prefect_server_host", "")))
    ]


def nginx_variable(name: str) -> str:
    """Return a name as a variable of Nginx can have it."""
    return re.sub(r"\W", "_", name)


def certbot_names(said: str) -> list[str]:
    """Return the names, sorted, that `certbot certificates` says of a certificate; none where it knows no such."""
    found = re.search(r"^ *(?:Domains|Identifiers): (.+)$", said, re.MULTILINE)
    return sorted(re.split(r"[ ,]+", found[1].strip())) if found else []


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "base_path": base_path,
            "bracketed": bracketed,
            "certbot_names": certbot_names,
            "nginx_variable": nginx_variable,
            "proxy": proxy,
            "unreachable": unreachable,
            "upstreams": upstreams,
        }
