#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Log in to a Redis from a host, and refuse one that cannot serve Prefect, before anything is changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis
short_description: Refuse a Redis that cannot serve Prefect
description:
  - Logs in from the host on which it runs, as Prefect will, and selects the databases that Prefect will use.
  - Fails with one message that names the variable to change. It needs no client on the host.
version_added: 0.2.0
author: The selfhosted.prefect maintainers
options:
  host:
    description: Host of the Redis.
    type: str
    required: true
  port:
    description: Port of the Redis.
    type: int
    default: 6379
  user:
    description: User, for a Redis that has more than the default one.
    type: str
    default: ''
  password:
    description: Password.
    type: str
    default: ''
  tls:
    description: Whether the server has to speak TLS.
    type: bool
    default: false
  verify:
    description: Whether it then has to prove who it is.
    type: bool
    default: true
  ca:
    description:
      - File on the host with the certificate authorities to trust, or themselves in PEM. Empty trusts the host's own.
    type: str
    default: ''
  databases:
    description: Numbers of the databases that have to be there.
    type: list
    elements: int
    default: [0]
  variable:
    description: Variable that says where the Redis is, for messages.
    type: str
    default: prefect_redis_host
attributes:
  check_mode:
    description: Never changes anything.
    support: full
"""

EXAMPLES = r"""
- name: Check the Redis
  selfhosted.prefect.redis:
    host: redis1
    password: "{{ vault_redis_password }}"
    tls: true
    databases: [0, 1]
"""

RETURN = r"""
encrypted:
  description: Whether the connection is.
  returned: success
  type: bool
"""

import socket
import ssl
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.ports import unreachable

TIMEOUT = 10


class RedisError(Exception):
    """What a Redis answered, or that what answered is none."""


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
        # A Redis without TLS takes the greeting for a command, and waits for its end.
        connection.close()
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, "it does not answer") from error
    except BaseException:
        connection.close()
        raise


def ask(connection: socket.socket, *words: str) -> str:
    """Return what a Redis answers to a command, in one line. Raises RedisError where it refuses."""
    parts = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
    connection.sendall(b"*%d\r\n%s" % (len(words), parts))
    answer = b""
    while not answer.endswith(b"\r\n"):
        try:
            part = connection.recv(4096)
        except ConnectionResetError:
            part = b""
        if not part:
            raise RedisError("it closed the connection; is it a Redis, or does it want TLS?")
        answer += part
    line = answer.decode(errors="replace").splitlines()[0]
    # What is still reading its data is there, and will answer.
    if line.startswith("-") and not line.startswith("-LOADING"):
        raise RedisError(line.removeprefix("-"))
    if not line.startswith(("+", "-")):
        raise RedisError("what answers there is no Redis")
    return line


def look(params: dict[str, Any]) -> None:
    """Log in and select each database. Raises RedisError, or OSError."""
    with connect(params) as connection:
        if params["password"]:
            ask(connection, "AUTH", *([params["user"]] if params["user"] else []), params["password"])
        ask(connection, "PING")
        for number in params["databases"]:
            ask(connection, "SELECT", str(number))


def explain(error: Exception, params: dict[str, Any]) -> str:
    """Return one message that names what is wrong, the variable and the way out."""
    where, variable = f"{params['host']}:{params['port']}", params["variable"]
    by_url = variable == "prefect_redis_url"
    if isinstance(error, RedisError):
        if str(error).startswith(("WRONGPASS", "NOAUTH", "ERR AUTH", "ERR invalid password")):
            named = variable if by_url else "prefect_redis_password"
            return f"{named}: {where} refuses the password ({error})"
        if "DB index" in str(error) or str(error).startswith("ERR SELECT"):
            numbers = " and ".join(map(str, params["databases"]))
            return f"{variable}: {where} has not the databases {numbers}, which Prefect needs ({error})"
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
        look(module.params)
    except (RedisError, OSError) as error:
        module.fail_json(msg=explain(error, module.params))
    module.exit_json(changed=False, encrypted=module.params["tls"])


if __name__ == "__main__":
    main()
