#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Log in to Redis from a host, and fail if it cannot serve Prefect, before anything changes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_redis
short_description: Check that Redis can serve Prefect
description:
  - Logs in from the host on which the module runs, as Prefect will, and selects the databases that Prefect will use.
  - Writes a key there and removes it, except in check mode. Fails for a replica, and for a Redis server that evicts
    keys when its memory is full.
  - Fails with one message that names the variable to change. It needs no client on the host.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  host:
    description: Host of Redis.
    type: str
    required: true
  port:
    description: Port of Redis.
    type: int
    default: 6379
  user:
    description: User, if it is not the default one.
    type: str
    default: ''
  password:
    description: Password of the user.
    type: str
    default: ''
  tls:
    description: Whether to require TLS.
    type: bool
    default: false
  verify:
    description: Whether to verify the server's certificate.
    type: bool
    default: true
  ca:
    description:
      - The certificate authorities to trust, as a file on the host or as PEM text. Empty trusts the host's own.
    type: str
    default: ''
  databases:
    description: Numbers of the databases that must exist.
    type: list
    elements: int
    default: [0]
  variable:
    description: Variable that names the Redis server, for messages.
    type: str
    default: prefect_redis_host
attributes:
  check_mode:
    description: Never changes anything.
    support: full
"""

EXAMPLES = r"""
- name: Check Redis
  selfhosted.prefect.host_redis:
    host: redis1
    password: "{{ vault_redis_password }}"
    tls: true
    databases: [0, 1]
"""

RETURN = r"""
encrypted:
  description: Whether the connection is encrypted.
  returned: success
  type: bool
"""

import contextlib
import os
import re
import socket
import ssl
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ports import unreachable

TIMEOUT = 10

KEEPS = "noeviction"
"""The only maxmemory-policy with which Redis never evicts a key."""

UNFIT = {
    "READONLY": "is a replica, which can only be read; name the primary",
    "EVICTS": "removes keys when its memory is full, and Prefect loses events and locks; set its maxmemory-policy to "
    f"{KEEPS}",
    "OOM": "has no memory left for what Prefect writes; raise its maxmemory",
    "MISCONF": "takes no writes because it cannot save its data; free its disk, or see its log",
    "NOREPLICAS": "takes no writes because too few of its replicas are connected; start them, or lower its "
    "min-replicas-to-write",
    "NOPERM": "does not let this user write; give it the commands and keys that Prefect uses, or name another user",
}
"""Errors of Redis on a write, by their first word, and what to do."""


class RedisError(Exception):
    """Redis answered with an error, or the answer is not from Redis."""


def connect(params: dict[str, Any]) -> socket.socket:
    """Return a connection. Raises OSError."""
    connection = socket.create_connection((params["host"], params["port"]), TIMEOUT)
    if not params["tls"]:
        return connection
    ca = params["ca"]
    pem = {"cadata" if ca.startswith("-----BEGIN") else "cafile": ca} if ca else {}
    try:
        context = ssl.create_default_context(**pem)
        context.check_hostname = params["verify"]
        context.verify_mode = ssl.CERT_REQUIRED if params["verify"] else ssl.CERT_NONE
        return context.wrap_socket(connection, server_hostname=params["host"])
    except (TimeoutError, ConnectionError) as error:
        # Redis without TLS takes the handshake for a command, and waits for its end.
        connection.close()
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, "it does not answer") from error
    except BaseException:
        connection.close()
        raise


def ask(connection: socket.socket, *words: str) -> str:
    """Return the answer of Redis to a command: a line, a number or a text. Raises RedisError for an error."""
    parts = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
    connection.sendall(b"*%d\r\n%s" % (len(words), parts))
    answer = b""
    while b"\r\n" not in answer:
        answer += received(connection)
    head, _, rest = answer.partition(b"\r\n")
    line = head.decode(errors="replace")
    # A server that is still loading its data is running, and will answer.
    if line.startswith("-") and not line.startswith("-LOADING"):
        raise RedisError(line.removeprefix("-"))
    if re.fullmatch(r"\$\d+", line):
        while len(rest) < int(line[1:]) + 2:
            rest += received(connection)
        return rest.decode(errors="replace")
    if not line.startswith(("+", "-", ":", "$")):
        raise RedisError("what answers there is no Redis")
    return line


def received(connection: socket.socket) -> bytes:
    """Return the next part of an answer. Raises RedisError if the connection was closed."""
    part = b""
    with contextlib.suppress(ConnectionResetError):
        part = connection.recv(4096)
    if not part:
        raise RedisError("it closed the connection; is it a Redis, or does it want TLS?")
    return part


def look(params: dict[str, Any], *, write: bool) -> None:
    """Log in, select each database and, with `write`, write a temporary key there. Raises RedisError or OSError."""
    with connect(params) as connection:
        if params["password"]:
            ask(connection, "AUTH", *([params["user"]] if params["user"] else []), params["password"])
        ask(connection, "PING")
        said = ""
        # The user may lack the permission for it.
        with contextlib.suppress(RedisError):
            said = ask(connection, "INFO")
        facts = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
        if facts.get("role") == "slave" and facts.get("slave_read_only", "1") == "1":
            raise RedisError("READONLY it is a replica")
        if facts.get("maxmemory_policy", KEEPS) != KEEPS:
            raise RedisError(f"EVICTS its maxmemory-policy is {facts['maxmemory_policy']}")
        for number in params["databases"]:
            ask(connection, "SELECT", str(number))
            if write:
                leave_a_trace(connection)


def leave_a_trace(connection: socket.socket) -> None:
    """Write a key with a unique name and remove it; it also expires by itself. Raises RedisError."""
    key = f"prefect-preflight-{os.urandom(8).hex()}"
    try:
        ask(connection, "SET", key, "", "PX", "10000")
        ask(connection, "DEL", key)
    except RedisError as error:
        # The user may be restricted to the names that Prefect uses.
        if not re.match(r"NOPERM .*\bkeys?\b", str(error)):
            raise


def explain(error: Exception, params: dict[str, Any]) -> str:
    """Return one message with the error, the variable and the fix."""
    where, variable = f"{params['host']}:{params['port']}", params["variable"]
    by_url = variable == "prefect_redis_url"
    if isinstance(error, RedisError):
        if str(error).startswith(("WRONGPASS", "NOAUTH", "ERR AUTH", "ERR invalid password")):
            named = variable if by_url else "prefect_redis_password"
            return f"{named}: {where} refuses the password ({error})"
        if "DB index" in str(error) or str(error).startswith("ERR SELECT"):
            numbers = " and ".join(map(str, params["databases"]))
            return f"{variable}: {where} has not the databases {numbers}, which Prefect needs ({error})"
        for sign, advice in UNFIT.items():
            if str(error).startswith(sign):
                return f"{variable}: {where} {advice} ({error})"
        return f"{variable}: {where}: {error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{variable if by_url else 'prefect_redis_ca'}: the certificate of {where} is refused: "
            f"{error.verify_message.rstrip('.')}; name the authority that signed it "
            f"({'ssl_ca_certs in the URL' if by_url else 'prefect_redis_ca'}), or the host as the certificate does"
        )
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or error.strerror
        return f"{variable if by_url else 'prefect_redis_tls'}: {where} does not speak TLS with us: {reason}"
    silent = "is a firewall between this host and it, or does it want TLS?"
    return unreachable(
        error, variable=variable, host=params["host"], port=params["port"], service="Redis", silent=silent
    )


def main() -> None:
    text = {"type": "str", "default": ""}
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 6379},
            "user": text,
            "password": {"type": "str", "default": "", "no_log": True},
            "tls": {"type": "bool", "default": False},
            "verify": {"type": "bool", "default": True},
            "ca": text,
            "databases": {"type": "list", "elements": "int", "default": [0]},
            "variable": {"type": "str", "default": "prefect_redis_host"},
        },
        supports_check_mode=True,
    )
    try:
        look(module.params, write=not module.check_mode)
    except (RedisError, OSError) as error:
        module.fail_json(msg=explain(error, module.params))
    module.exit_json(changed=False, encrypted=module.params["tls"])


if __name__ == "__main__":
    main()
