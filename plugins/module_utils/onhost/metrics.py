"""The results of `status` in Prometheus' text format, and the exporter: a small server for them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..api.client import moment

Json = dict[str, Any]
Sample = tuple[Mapping[str, str], float]


def metrics(info: Json) -> str:
    """Return the status in Prometheus' text format."""
    return "".join(
        f"# HELP {name} {what}\n# TYPE {name} gauge\n"
        + "".join(f"{name}{_labels(labels)} {value:.15g}\n" for labels, value in samples)
        for name, what, samples in _families(info)
        if samples
    )


def _families(info: Json) -> Iterator[tuple[str, str, list[Sample]]]:
    """Yield each metric: its name, help text and samples."""
    pools, runs = info.get("work_pools", []), info.get("flow_runs", {})
    versions = {"version": info["version"], "server_version": info.get("server_version", "")}
    yield "prefect_info", "Versions of the release on this host and of the server.", [(versions, 1)]
    yield (
        "prefect_check_healthy",
        "Whether a check of prefect-info is healthy.",
        [({"check": check["name"]}, check["healthy"]) for check in info["checks"]],
    )
    yield "prefect_ready", "Whether the API and its database answer.", [({}, bool(info.get("ready")))]
    yield (
        "prefect_service_running",
        "Whether a service of this host runs.",
        [({"service": name}, state in {"running", "waiting"}) for name, state in info["services"].items()],
    )
    yield (
        "prefect_newest_backup_age_seconds",
        "How old the newest good backup is that this host made of the database.",
        [({}, info["backup"]["age"])] if "backup" in info else [],
    )
    yield (
        "prefect_newest_proven_backup_age_seconds",
        "How old the newest backup is that was proven by a scratch server.",
        [({}, info["backup"]["proven_age"])] if "proven_age" in info.get("backup", {}) else [],
    )
    yield (
        "prefect_work_pool_ready",
        "Whether a work pool has a worker online and is not paused.",
        [({"work_pool": pool["name"]}, pool["status"] == "READY") for pool in pools],
    )
    yield (
        "prefect_work_pool_workers",
        "Workers that a work pool has, by status.",
        [
            ({"work_pool": pool["name"], "status": status.lower()}, list(pool["workers"].values()).count(status))
            for pool in pools
            for status in ("ONLINE", "OFFLINE")
        ],
    )
    yield (
        "prefect_worker_heartbeat_timestamp_seconds",
        "When a worker was last heard of.",
        [
            ({"work_pool": pool["name"], "worker": name}, _stamp(beat))
            for pool in pools
            for name, beat in pool["heartbeats"].items()
            if beat
        ],
    )
    yield (
        "prefect_work_queue_waiting_flow_runs",
        "Flow runs that are due and that no worker has taken.",
        [
            ({"work_pool": pool["name"], "work_queue": queue}, count)
            for pool in pools
            for queue, count in pool["waiting_flow_runs"].items()
        ],
    )
    yield (
        "prefect_work_pool_late_flow_runs",
        "Flow runs of a work pool that are late.",
        [({"work_pool": pool["name"]}, pool["late_flow_runs"]) for pool in pools],
    )
    yield (
        "prefect_certificate_expiry_timestamp_seconds",
        "When a certificate expires.",
        [({"check": check["name"]}, _stamp(check["expires"])) for check in info["checks"] if check["expires"]],
    )
    if not runs:
        return
    yield "prefect_late_flow_runs", "Flow runs that are late.", [({}, runs["late"])]
    yield (
        "prefect_oldest_due_flow_run_seconds",
        "How long the oldest scheduled flow run has been due, 0 where none is.",
        [({}, max(0.0, time.time() - _stamp(runs["oldest_due"])) if runs["oldest_due"] else 0)],
    )
    yield "prefect_upcoming_flow_runs", "Flow runs that the scheduler has made ahead.", [({}, runs["upcoming"])]
    yield (
        "prefect_scheduled_deployments",
        "Deployments, of the first 200, with an active schedule.",
        [({}, info["scheduled_deployments"])],
    )
    yield (
        "prefect_flow_runs",
        "Flow runs under way, by type of state.",
        [({"state": kind.lower()}, count) for kind, count in runs["under_way"].items()],
    )
    yield (
        "prefect_flow_runs_ended_last_hour",
        "Flow runs that ended in the last hour, by type of state.",
        [({"state": kind.lower()}, count) for kind, count in runs["ended_last_hour"].items()],
    )
    event, last = info["newest_event"], info["last_flow_run"]
    yield (
        "prefect_newest_event_timestamp_seconds",
        "When the newest event of the last day occurred.",
        [({}, _stamp(event))] if event else [],
    )
    yield (
        "prefect_last_flow_run_end_timestamp_seconds",
        "When the last flow run ended.",
        [({}, _stamp(last["end_time"]))] if last else [],
    )


def _stamp(text: str) -> float:
    return moment(text).timestamp()


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {name: re.sub(r'([\\"])', r"\\\1", value).replace("\n", r"\n") for name, value in labels.items()}
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}" if labels else ""


class Exporter(ThreadingHTTPServer):
    """Serves /metrics; reads the status again only after `fresh` seconds, so that frequent scrapes cost nothing."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], *, source: Callable[[], Json], fresh: float = 10.0) -> None:
        super().__init__(address, Handler)
        self._source, self._fresh = source, fresh
        self._lock = threading.Lock()
        self._page, self._until = "", 0.0

    def page(self) -> str:
        with self._lock:
            if time.monotonic() >= self._until:
                began = time.monotonic()
                page = metrics(self._source())
                took = time.monotonic() - began
                self._page = (
                    f"{page}# HELP prefect_exporter_seconds How long the reading took.\n"
                    f"# TYPE prefect_exporter_seconds gauge\nprefect_exporter_seconds {took:.3f}\n"
                )
                self._until = time.monotonic() + self._fresh
            return self._page


class Handler(BaseHTTPRequestHandler):
    """Serves /metrics, and /health without reading the status."""

    server: Exporter

    def do_GET(self) -> None:
        pages: dict[str, Callable[[], str]] = {"/metrics": self.server.page, "/health": lambda: "OK\n"}
        page = pages.get(self.path.partition("?")[0])
        content = page().encode() if page else b"Look at /metrics\n"
        self.send_response(200 if page else 404)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Do not log scrapes."""
