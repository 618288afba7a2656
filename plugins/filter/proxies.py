"""What Jinja needs to know of the proxies in front of the API servers, from what an inventory says of them."""

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


def default_port(instance: str) -> int:
    """Return the port of an instance's server: 4200 for prefect, and one from 4300 to 4799, by its name, for others."""
    if instance == "prefect":
        return 4200
    return 4300 + int(hashlib.md5(instance.encode(), usedforsecurity=False).hexdigest()[:6], 16) % 500


def api(
    servers: list[str], hostvars: Mapping[str, Any], host: str, through: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the API's `path`, its `url` for programs on `host`, and its `public_url` for a browser.

    `through` is what `proxy` returns. `own` holds the host, port, default_port, address and path of a server on `host`.
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
