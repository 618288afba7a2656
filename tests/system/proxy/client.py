"""Ask a site by TLS, from a list of requests on standard input, and print the answers: `client.py ADDRESS NAME CA`.

Each request is an object with `method`, `path`, and, if they differ from the ordinary, `port`, `host`, `headers`,
`body` (a length in bytes) and `plain` (no TLS). With `seconds` it is asked again and again for so long, by `threads`
clients, and the answer counts the statuses.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPResponse
from typing import Any

ADDRESS, NAME, CA = sys.argv[1:4]
TRUSTING = ssl.create_default_context(cafile=CA)


def connect(request: dict[str, Any]) -> socket.socket:
    """Open a connection whose certificate is that of the site and of its authority."""
    port = request.get("port") or (80 if request.get("plain") else 443)
    raw = socket.create_connection((ADDRESS, port), timeout=30)
    return raw if request.get("plain") else TRUSTING.wrap_socket(raw, server_hostname=NAME)


def ask(request: dict[str, Any]) -> dict[str, Any]:
    connection = HTTPConnection(ADDRESS)
    connection.sock = connect(request)
    headers = {"Host": request.get("host", NAME)} | request.get("headers", {})
    connection.request(request.get("method", "GET"), request["path"], b"x" * request.get("body", 0), headers)
    if headers.get("Upgrade"):
        # http.client closes after an answer without a length.
        answer = HTTPResponse(connection.sock)
        answer.begin()
        frame = answer.fp.read(7).decode("latin-1") if answer.status == 101 else ""
        return {"status": answer.status, "headers": lower(answer), "text": frame}
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return {"status": answer.status, "headers": lower(answer), "text": text}


def lower(answer: HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}


def hammer(request: dict[str, Any]) -> dict[str, Any]:
    """Ask for some seconds; return how often there was which status, or which error, and the longest wait."""
    counts: Counter[str] = Counter()
    waits = [0.0]
    until = time.monotonic() + request["seconds"]

    def work() -> None:
        while time.monotonic() < until:
            begun = time.monotonic()
            try:
                counts[str(ask(request)["status"])] += 1
            except OSError as error:
                counts[type(error).__name__] += 1
            waits.append(time.monotonic() - begun)

    threads = [threading.Thread(target=work) for _ in range(request.get("threads", 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"counts": counts, "longest": max(waits)}


print(json.dumps([hammer(request) if "seconds" in request else ask(request) for request in json.load(sys.stdin)]))
