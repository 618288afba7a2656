#!/usr/bin/env python3
"""Watch a Prefect server from outside while things go wrong.

Usage: watch.py send FILE             send a steady stream of requests until told to end, and write down how each went
       watch.py judge FILE BEGIN END  what became of the requests that began between two times
       watch.py runs BEGIN END        what became of the flow runs that a schedule wanted between two times

Reads PREFECT_API_URL, PREFECT_API_AUTH_STRING and PREFECT_API_SSL_CERT_FILE. Times are seconds since 1970; answers are
JSON. Every request has a connection of its own, as those of many clients have.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

EVERY = 0.25
"""Seconds between two requests of a kind."""

PAGE = 200

TIMEOUT = 120.0
"""Seconds of silence after which a request has failed: more than a busy machine that holds all the hosts ever needs."""

AGAIN = {408, 429, 500, 502, 503}
"""What workers and flow runs ask again after."""

KINDS: dict[str, tuple[str, str, Any]] = {
    "read": ("GET", "/deployments/name/tick/every", None),
    "list": ("POST", "/deployments/filter", {"limit": 5}),
    "write": ("POST", "/variables/", {"value": 1}),
}
"""Kinds of requests: a proxy may repeat the first anywhere, a POST only if no server has received it."""


def call(method: str, path: str, body: Any) -> tuple[int, Any]:
    """Send one request and return status and body of the answer. Raises OSError when it is an error, or none comes."""
    headers = {"Content-Type": "application/json"}
    if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    wanted = urllib.request.Request(os.environ["PREFECT_API_URL"] + path, data, headers, method=method)
    ca = os.environ.get("PREFECT_API_SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=ca) if ca else None
    with urllib.request.urlopen(wanted, timeout=TIMEOUT, context=context) as answer:
        return answer.status, json.load(answer)


def request(kind: str) -> dict[str, Any]:
    """Send one request of a kind and return how it went; status 0 is no answer at all."""
    method, path, body = KINDS[kind]
    if kind == "write":
        body = body | {"name": f"watch_{uuid.uuid4().hex}"}
    began, status, reason = time.time(), 0, ""
    try:
        status, _ = call(method, path, body)
    except urllib.error.HTTPError as error:
        status, reason = error.code, error.read().decode(errors="replace")[:200]
    except OSError as error:
        reason = str(error)
    return {"at": began, "seconds": time.time() - began, "kind": kind, "status": status, "reason": reason}


def look_up_once() -> None:
    """Ask for each name once, and give its addresses in any order, as a name server does.

    The name server of the test hosts knows no name for a moment when one of them starts or stops.
    """
    look_up = functools.cache(socket.getaddrinfo)

    def addresses(*arguments: Any) -> list[Any]:
        found = look_up(*arguments)
        return random.sample(found, len(found))

    socket.getaddrinfo = addresses  # type: ignore[assignment]


def send(file: Path) -> NoReturn:
    """Send requests of each kind, one after the other, until a signal ends the process."""
    look_up_once()
    with file.open("a", buffering=1) as out:

        def steadily(kind: str) -> None:
            while True:
                went = request(kind)
                out.write(json.dumps(went) + "\n")
                time.sleep(max(0.0, EVERY - went["seconds"]))

        for kind in KINDS:
            threading.Thread(target=steadily, args=(kind,), daemon=True).start()
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        while True:
            signal.pause()


def requests(file: Path) -> list[dict[str, Any]]:
    """Return how each request went that is written down."""
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def judge(file: Path, begin: float, end: float) -> dict[str, Any]:
    """Return what became of the requests that began between `begin` and `end`, once all of them have ended."""
    while {one["kind"] for one in requests(file) if one["at"] > end} != KINDS.keys():
        if time.time() > end + 2 * TIMEOUT:
            raise SystemExit(f"no process sends requests: {file} has none that began after {end}")
        time.sleep(EVERY)
    sent = [one for one in requests(file) if begin <= one["at"] <= end]
    failed = [one for one in sent if not 200 <= one["status"] < 300]
    return {
        "sent": {kind: sum(one["kind"] == kind for one in sent) for kind in KINDS},
        "failed": {kind: sum(one["kind"] == kind for one in failed) for kind in KINDS},
        "lost": sum(one["status"] not in AGAIN for one in failed),
        "failing_for": round(max(one["at"] + one["seconds"] for one in failed) - failed[0]["at"], 1) if failed else 0.0,
        "slowest": round(max((one["seconds"] for one in sent), default=0.0), 2),
        "reasons": sorted({f"{one['kind']}: {one['status']} {one['reason']}" for one in failed})[:10],
    }


def runs(begin: float, end: float) -> dict[str, Any]:
    """Return which flow runs of the deployment `tick` are missing, doubled or not completed, by expected start."""
    _, deployment = call("GET", "/deployments/name/tick/every", None)
    interval = int(deployment["schedules"][0]["schedule"]["interval"])
    found: dict[int, list[str]] = {}
    for offset in itertools.count(step=PAGE):
        body = {
            "deployments": {"id": {"any_": [deployment["id"]]}},
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": PAGE,
            "offset": offset,
        }
        _, page = call("POST", "/flow_runs/filter", body)
        for run in page:
            at = round(datetime.fromisoformat(run["expected_start_time"].replace("Z", "+00:00")).timestamp())
            if int(begin) <= at < int(end) and run["auto_scheduled"]:
                found.setdefault(at, []).append(run["state_name"])
        if len(page) < PAGE:
            break
    # Which second of the interval it is, any run tells.
    first = min(found, default=0)
    wanted = range(int(begin) + (first - int(begin)) % interval, int(end), interval)
    return {
        "wanted": len(wanted) if found else 0,
        "missing": [at for at in wanted if at not in found],
        "doubled": [at for at, states in found.items() if len(states) > 1],
        "states": dict(Counter(state for states in found.values() for state in states)),
    }


def main() -> None:
    match sys.argv[1:]:
        case ["send", file]:
            send(Path(file))
        case ["judge", file, begin, end]:
            print(json.dumps(judge(Path(file), float(begin), float(end))))
        case ["runs", begin, end]:
            print(json.dumps(runs(float(begin), float(end))))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
