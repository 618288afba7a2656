"""A Prefect API in memory, as far as the modules use it, that can misbehave on demand.

Its answers were copied from Prefect 3.8.8 and 3.9.1: codes, bodies and refusals. What it does not know answers as an
unknown route does there. What it holds besides work pools and flow runs is in `fake_objects`.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import json
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import fake_objects
from ansible.module_utils.common.parameters import PASS_VARS, remove_values
from ansible.module_utils.testing import patch_module_args
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.client import moment

CREATED = "2026-11-21T01:00:00.000000Z"
# From core 2.21 on a result holds the invocation only where the controller asks for it, as it does with -vvv.
VERBOSE = {"_ansible_inject_invocation": True} if "inject_invocation" in PASS_VARS else {}
Reply = tuple[int, Any]


def outcome(main: Callable[[], None], *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    """Run the `main` of a module with `options` in this process and return what it would hand to Ansible."""
    printed = io.StringIO()
    arguments = {"_ansible_check_mode": check_mode, **VERBOSE, **options}
    with patch_module_args(arguments), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main()
    result: dict[str, Any] = json.loads(printed.getvalue())
    # From core 2.22 on: for the controller, which strikes these texts out of what it prints and returns them to no one.
    hidden = result.pop("_ansible_new_secrets", [])
    if "invocation" in result:
        result["invocation"] = remove_values(result["invocation"], hidden)
    return result


def now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one request instead of its answer: `status` None drops the connection.

    `carried_out` does what was asked before, as when only the answer is lost. A `body` of bytes is sent as it is.
    """

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    carried_out: bool = False


class FakeApi:
    """The server and what it holds. Use it as a context manager; `url` is its address.

    `requests` lists everything that came in as `METHOD /path`, `writes` only what changes objects.
    """

    def __init__(self) -> None:
        self.auth: str | None = None
        self.csrf: str | None = None
        """The one token that is good, or None when the protection is off."""
        self.faults: deque[Fault] = deque()
        self.lock = threading.Lock()
        self.before: Callable[[str], None] = lambda request: None
        """Called with `METHOD /path` before a request is answered: another client that is quicker, say."""
        self.requests: list[str] = []
        self.bodies: list[Any] = []
        self.connections = 0
        self.hosts: set[str] = set()
        """The names that it was asked by."""
        self.pools: dict[str, dict[str, Any]] = {}
        self.queues: dict[tuple[str, str], dict[str, Any]] = {}
        self.workers: dict[str, list[dict[str, Any]]] = {}
        self.flows: dict[str, dict[str, Any]] = {}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.objects = fake_objects.Objects()
        self.version = "3.8.8"
        self.runs: dict[str, dict[str, Any]] = {}
        self.states: dict[str, list[dict[str, Any]]] = {}
        """The states that a run has been moved to."""
        self.logs: list[dict[str, Any]] = []
        self.course: list[tuple[str, str]] = [("RUNNING", "Running"), ("COMPLETED", "Completed")]
        """The states that a run goes through, one each time that it is read."""
        self.events: list[datetime] = []
        """When they occurred."""
        self.ready = True
        self.clock_ahead = timedelta(0)
        self.page = 200
        """PREFECT_SERVER_API_DEFAULT_LIMIT."""

    def __enter__(self) -> FakeApi:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.root = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.root}/api"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def writes(self) -> list[str]:
        reads = ("/filter", "/history", "/count", f"/deployments/{fake_objects.NO_DEPLOYMENT}/schedules")
        return [each for each in self.requests if not each.startswith("GET") and not each.endswith(reads)]

    def add_pool(self, name: str, **fields: Any) -> dict[str, Any]:
        self.queues.setdefault((name, "default"), fake_objects.queue(name, "default", priority=1))
        self.pools[name] = {
            "id": str(uuid.uuid4()),
            "created": CREATED,
            "updated": CREATED,
            "name": name,
            "description": None,
            "type": "process",
            "base_job_template": {},
            "is_paused": False,
            "concurrency_limit": None,
            "status": "NOT_READY",
            **fields,
        }
        return self.pools[name]

    def add_worker(
        self, pool: str, name: str, *, status: str = "ONLINE", heartbeat: str = CREATED, created: str = CREATED
    ) -> None:
        row = {"id": str(uuid.uuid4()), "name": name, "status": status, "last_heartbeat_time": heartbeat}
        row["created"] = created
        self.workers.setdefault(pool, []).append(row)

    def add_deployment(self, flow: str, name: str, *, pool: str | None) -> dict[str, Any]:
        flow_id = next((each["id"] for each in self.flows.values() if each["name"] == flow), str(uuid.uuid4()))
        self.flows.setdefault(flow_id, fake_objects.row(name=flow, tags=[], labels={}) | {"id": flow_id})
        made: dict[str, Any] = fake_objects.deployment(flow_id=flow_id, name=name, work_pool_name=pool)
        self.deployments[made["id"]] = made
        return made

    def add_run(self, *, kind: str = "SCHEDULED", name: str = "Scheduled", **fields: Any) -> dict[str, Any]:
        key = str(uuid.uuid4())
        self.runs[key] = {
            "id": key,
            "name": "zealous-otter",
            "state_id": str(uuid.uuid4()),
            "state_type": kind,
            "state_name": name,
            "state": {"type": kind, "name": name, "message": None, "timestamp": now()},
            "total_run_time": 1.5,
            "start_time": None,
            "end_time": None,
            "expected_start_time": CREATED,
            "next_scheduled_start_time": CREATED if kind == "SCHEDULED" else None,
            "work_pool_name": None,
            "work_queue_name": None,
            "idempotency_key": None,
            "deployment_id": None,
            **fields,
        }
        return self.runs[key]

    def move(self, run: dict[str, Any], kind: str, name: str, message: str | None = None) -> None:
        state = {"type": kind, "name": name, "message": message, "timestamp": now()}
        self.states.setdefault(run["id"], []).append(state)
        run.update(state_id=str(uuid.uuid4()), state_type=kind, state_name=name, state=state)
        run["start_time"] = run["start_time"] or (now() if kind == "RUNNING" else None)

    def answer(self, method: str, path: str, body: Any) -> Reply:
        """Return the status and body of a request to `path` below the API's address."""
        if path.endswith("/filter") and body and body.get("limit", 0) > self.page:
            return 422, {"detail": f"Invalid limit: must be less than or equal to {self.page}."}
        for route, handle in ROUTES:
            match = re.fullmatch(route, f"{method} {path}")
            if match:
                return handle(self, *(unquote(part) for part in match.groups()), copy.deepcopy(body))
        return 404, {"detail": "Not Found"}


def _page(rows: list[dict[str, Any]], body: Any) -> Reply:
    limit = body.get("limit", 200)
    if limit > 200:
        return 422, {"exception_message": "Invalid request received."}
    return 200, rows[body.get("offset", 0) :][:limit]


def create_pool(api: FakeApi, body: Any) -> Reply:
    if body["name"].lower().startswith("prefect"):
        return 403, {"detail": "Work pools starting with 'Prefect' are reserved for internal use."}
    if body["name"] in api.pools:
        return 409, {"detail": "A work pool with this name already exists."}
    return 201, api.add_pool(created=now(), **body)


def read_pool(api: FakeApi, name: str, body: Any) -> Reply:
    return (200, api.pools[name]) if name in api.pools else (404, {"detail": f'Work pool "{name}" not found.'})


def update_pool(api: FakeApi, name: str, body: Any) -> Reply:
    if name not in api.pools:
        return read_pool(api, name, body)
    if "type" in body:
        error = {"type": "extra_forbidden", "loc": ["body", "type"], "msg": "Extra inputs are not permitted"}
        echo = {"input": body["type"], **error}
        return 422, {
            "exception_message": "Invalid request received.",
            "exception_detail": [echo],
            "request_body": body,
        }
    api.pools[name].update(body)
    return 204, None


def delete_pool(api: FakeApi, name: str, body: Any) -> Reply:
    if name not in api.pools:
        return read_pool(api, name, body)
    del api.pools[name]
    for place in [place for place in api.queues if place[0] == name]:
        del api.queues[place]
    for each in api.deployments.values():
        if each["work_pool_name"] == name:
            each.update(work_pool_name=None, work_queue_name=None)
    return 204, None


def read_workers(api: FakeApi, pool: str, body: Any) -> Reply:
    if pool not in api.pools:
        return read_pool(api, pool, body)
    wanted = body.get("workers", {}).get("status", {}).get("any_", ["ONLINE", "OFFLINE"])
    return _page([row for row in api.workers.get(pool, []) if row["status"] in wanted], body)


def read_deployment(api: FakeApi, flow: str, name: str, body: Any) -> Reply:
    for each in api.deployments.values():
        if each["name"] == name and api.flows[each["flow_id"]]["name"] == flow:
            return 200, fake_objects.shown(api, each)
    return 404, {"detail": "Deployment not found"}


def create_run(api: FakeApi, deployment: str, body: Any) -> Reply:
    # A key is unique in its flow, whatever the deployment.
    pool, flow = (api.deployments[deployment][name] for name in ("work_pool_name", "flow_id"))
    for run in api.runs.values():
        if (run.get("flow_id"), run["idempotency_key"]) == (flow, body["idempotency_key"]):
            return 200, run
    return 201, api.add_run(work_pool_name=pool, deployment_id=deployment, flow_id=flow, **body)


def read_run(api: FakeApi, run_id: str, body: Any) -> Reply:
    run = api.runs.get(run_id)
    if run is None:
        return 404, {"detail": "Flow run not found"}
    if api.course and run["state_type"] != "PAUSED":
        api.move(run, *api.course.pop(0))
    return 200, run


def set_state(api: FakeApi, run_id: str, body: Any) -> Reply:
    run = api.runs[run_id]
    if body["state"]["name"] == "AwaitingRetry":
        if run["deployment_id"] is None:
            reason = "Cannot restart a run without an associated deployment."
            return 200, {"status": "ABORT", "state": run["state"], "details": {"reason": reason}}
        api.move(run, "SCHEDULED", "AwaitingRetry", body["state"].get("message"))
        return 201, {"status": "ACCEPT", "state": run["state"], "details": {}}
    if run["state_type"] == "SCHEDULED":
        api.move(run, "CANCELLED", "Cancelled")
        return 201, {"status": "REJECT", "state": run["state"], "details": {"reason": "It has not begun."}}
    api.move(run, body["state"]["type"], body["state"]["name"], body["state"].get("message"))
    return 201, {"status": "ACCEPT", "state": run["state"], "details": {}}


def resume(api: FakeApi, run_id: str, body: Any) -> Reply:
    run = api.runs[run_id]
    if body.get("run_input") == {"approved": "maybe"}:
        return 200, {"status": "REJECT", "state": run["state"], "details": {"reason": "not of type 'boolean'"}}
    api.move(run, "SCHEDULED", "Resuming")
    return 201, {"status": "ACCEPT", "state": run["state"], "details": {}}


def write_logs(api: FakeApi, body: Any) -> Reply:
    api.logs += body
    return 201, None


def read_logs(api: FakeApi, body: Any) -> Reply:
    return 200, api.logs[:: -1 if body["sort"] == "TIMESTAMP_DESC" else 1][: body["limit"]]


def history(api: FakeApi, body: Any) -> Reply:
    states = [{"state_type": run["state_type"], "count_runs": 1} for run in api.runs.values()]
    return 200, [{"states": states}]


def chosen(api: FakeApi, body: Any) -> list[dict[str, Any]]:
    """Return the runs that a filter lets through, as far as the modules use filters."""
    wanted = body.get("flow_runs") or {}
    runs = list(api.runs.values())
    for field_name, key in (("state_type", "type"), ("state_name", "name")):
        if allowed := wanted.get("state", {}).get(key):
            runs = [run for run in runs if run[field_name] in allowed["any_"]]
    for field_name in ("next_scheduled_start_time", "end_time"):
        limits = wanted.get(field_name, {})
        if limits:
            runs = [run for run in runs if run[field_name]]
        if "before_" in limits:
            runs = [run for run in runs if moment(run[field_name]) <= moment(limits["before_"])]
        if "after_" in limits:
            runs = [run for run in runs if moment(run[field_name]) >= moment(limits["after_"])]
    if keys := wanted.get("idempotency_key", {}).get("any_"):
        runs = [run for run in runs if run["idempotency_key"] in keys]
    if deployments := (body.get("deployments") or {}).get("id", {}).get("any_"):
        runs = [run for run in runs if run["deployment_id"] in deployments]
    if flows := (body.get("flows") or {}).get("id", {}).get("any_"):
        runs = [run for run in runs if run.get("flow_id") in flows]
    for name in (body.get("work_pools") or {}).get("name", {}).get("any_", []):
        runs = [run for run in runs if run["work_pool_name"] == name]
    for key in (body.get("work_pool_queues") or {}).get("id", {}).get("any_", []):
        pool, queue = next(place for place, row in api.queues.items() if row["id"] == key)
        runs = [run for run in runs if (run["work_pool_name"], run["work_queue_name"] or "default") == (pool, queue)]
    return runs


def read_runs(api: FakeApi, body: Any) -> Reply:
    runs = chosen(api, body)
    if body.get("sort") == "EXPECTED_START_TIME_DESC":
        runs.reverse()
    if body.get("sort") == "END_TIME_DESC":
        runs.sort(key=lambda run: moment(run["end_time"]), reverse=True)
    if body.get("sort") == "NEXT_SCHEDULED_START_TIME_ASC":
        runs.sort(key=lambda run: moment(run["next_scheduled_start_time"]))
    return _page(runs, body)


def read_queues(api: FakeApi, pool: str, body: Any) -> Reply:
    return _page([queue for (owner, _), queue in api.queues.items() if owner == pool], body)


def read_events(api: FakeApi, body: Any) -> Reply:
    occurred = body["filter"]["occurred"]
    found = [each for each in api.events if moment(occurred["since"]) <= each <= moment(occurred["until"])]
    events = [{"occurred": each.isoformat()} for each in sorted(found, reverse=True)]
    return 200, {"events": events[: body["limit"]], "total": len(found), "next_page": None}


SETTINGS = {
    "ui_url": None,
    "server": {
        "ui": {"enabled": True, "serve_base": "/"},
        "database": {"connection_url": "**********", "driver": None},
    },
}

ROUTES: tuple[tuple[str, Callable[..., Reply]], ...] = (
    (r"GET /ready", lambda api, body: (200, {"message": "OK"}) if api.ready else (503, {"message": "Database not up"})),
    (r"GET /health", lambda api, body: (200, True)),
    (r"GET /admin/version", lambda api, body: (200, api.version)),
    (r"GET /admin/settings", lambda api, body: (200, SETTINGS)),
    (r"POST /work_pools/", create_pool),
    (r"POST /work_pools/filter", lambda api, body: _page(list(api.pools.values()), body)),
    (r"GET /work_pools/([^/]+)", read_pool),
    (r"PATCH /work_pools/([^/]+)", update_pool),
    (r"DELETE /work_pools/([^/]+)", delete_pool),
    (r"POST /work_pools/([^/]+)/workers/filter", read_workers),
    (r"GET /deployments/name/([^/]+)/([^/]+)", read_deployment),
    (r"POST /deployments/([^/]+)/create_flow_run", create_run),
    (r"GET /flow_runs/([^/]+)", read_run),
    (r"POST /flow_runs/([^/]+)/set_state", set_state),
    (r"POST /flow_runs/([^/]+)/resume", resume),
    (r"POST /flow_runs/history", history),
    (r"GET /flow_run_states/", lambda api, body: (200, api.states.get(body["flow_run_id"], []))),
    (r"POST /flow_runs/count", lambda api, body: (200, len(chosen(api, body)))),
    (r"POST /flow_runs/filter", read_runs),
    (r"POST /work_pools/([^/]+)/queues/filter", read_queues),
    (r"POST /events/filter", read_events),
    (r"POST /logs/", write_logs),
    (r"POST /logs/filter", read_logs),
    *fake_objects.ROUTES,
)


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body in one packet: two make the client wait 40 ms for the second (Nagle).
        wbufsize = -1

        def setup(self) -> None:
            super().setup()
            api.connections += 1

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(int(time.time() + api.clock_ahead.total_seconds()))

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def reply(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
            content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def refusal(self, path: str) -> Reply | None:
            """Return what keeps a request from being looked at: the credentials, the token."""
            basic = "Basic " + base64.b64encode((api.auth or "").encode()).decode()
            if (
                api.auth is not None
                and path not in {"/health", "/ready"}
                and self.headers.get("Authorization") != basic
            ):
                return 401, {"exception_message": "Unauthorized"}
            if api.csrf is not None and self.command != "GET":
                if self.headers.get("Prefect-Csrf-Token") is None:
                    return 403, {"detail": "Missing CSRF token."}
                if self.headers["Prefect-Csrf-Token"] != api.csrf or not self.headers.get("Prefect-Csrf-Client"):
                    return 403, {"detail": "Invalid CSRF token or client identifier."}
            return None

        def handle_any(self) -> None:
            received = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(received) if received else None
            address = urlsplit(self.path)
            request = f"{self.command} {address.path.removeprefix('/api')}"
            api.requests.append(request)
            api.hosts.add(self.headers["Host"])
            api.bodies.append(body)
            api.before(request)
            fault = api.faults.popleft() if api.faults else None
            if fault and fault.carried_out:
                api.answer(self.command, address.path.removeprefix("/api"), body)
            if fault and fault.status is None:
                self.close_connection = True
            elif fault and fault.status is not None:
                self.reply(fault.status, fault.body, fault.headers)
                # Prefect ends the connection then, without a word.
                self.close_connection = self.close_connection or fault.status == 503
            elif not address.path.startswith("/api/"):
                self.reply(404, {"detail": "Not Found"})
            elif address.path == "/api/csrf-token" and api.csrf is None:
                self.reply(422, {"detail": "CSRF protection is disabled."})
            elif address.path == "/api/csrf-token" and parse_qs(address.query).get("client"):
                self.reply(200, {"token": api.csrf})
            else:
                path = address.path.removeprefix("/api")
                if "include_secrets=true" in address.query:
                    body = {"include_secrets": True}
                if wanted := parse_qs(address.query).get("flow_run_id"):
                    body = {"flow_run_id": wanted[0]}
                with api.lock:
                    reply = self.refusal(path) or api.answer(self.command, path, body)
                self.reply(*reply)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    return Handler
