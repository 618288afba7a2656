#!/usr/bin/python
"""Start, cancel, resume or retry a flow run, and wait for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flow_run
short_description: Start, cancel, resume or retry Prefect flow runs
version_added: 0.1.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Starts a flow run of a deployment, cancels one, resumes one that is paused or retries one that failed, and waits
    for what becomes of it.
  - Fails unless the run ends as O(until) wants it, with the reason, the end of its log, and, for a run that nobody
    has picked up, what keeps it from running.
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Looks up the deployment or the run, and says what would change.
    support: full
  diff_mode:
    description: A flow run has nothing to compare.
    support: none
options:
  state:
    description:
      - V(started) creates a run of O(deployment). It does so every time, unless O(idempotency_key) is given.
      - V(cancelled) cancels the run O(id). One that has ended stays as it is.
      - V(resumed) resumes the run O(id), which has to be paused. One that has ended stays as it is.
      - V(retried) runs O(id) again, which has failed, crashed or been cancelled. One that has completed or is under
        way stays as it is.
      - V(waited) only waits for the run O(id).
      - Instead of O(id), O(deployment) takes its latest run, of those that can be cancelled, resumed, retried or
        waited for.
    type: str
    choices: [started, cancelled, resumed, retried, waited]
    default: started
  deployment:
    description:
      - The deployment to start a run of, or whose latest run is meant, as C(flow/deployment).
    type: str
  id:
    description:
      - The run to cancel, resume, retry or wait for.
    type: str
  name:
    description:
      - Name of the new run. Prefect makes one up otherwise.
    type: str
  parameters:
    description:
      - Parameters of the new run, over those of the deployment.
    type: dict
  job_variables:
    description:
      - Variables of the work pool's job template for the new run, over those of the deployment.
    type: dict
  tags:
    description:
      - Tags of the new run, besides those of the deployment.
    type: list
    elements: str
  idempotency_key:
    description:
      - If the deployment has a run that was started with the same key, that run is taken, and nothing changes.
        A run that failed, crashed or was cancelled is not taken but followed by a new one.
    type: str
  run_input:
    description:
      - What a paused run is to get, where it waits for input.
    type: dict
  wait:
    description:
      - Whether to wait until the run is in a state that is named in O(until), or has ended.
    type: bool
    default: true
  until:
    description:
      - The types of state to wait for. A run that ends in another one fails the task.
      - A type that a run only passes through, such as V(RUNNING), may be over between two looks. Name what comes
        after it, too.
      - By default, V(COMPLETED) for a run that was started or resumed, and any end for a cancelled one.
    type: list
    elements: str
    choices: [PENDING, RUNNING, PAUSED, COMPLETED, FAILED, CANCELLED, CRASHED]
  timeout:
    description:
      - Seconds to wait. The run goes on when they are over, and the task fails.
    type: float
    default: 600.0
  poll:
    description:
      - Seconds between two looks at most. The first come after half a second.
    type: float
    default: 2.0
  log_lines:
    description:
      - How many lines of the log to return, out of its last 200 records at most.
      - V(0) reads the log of a run that fails the task alone, which saves up to three seconds of waiting for its end.
    type: int
    default: 50
"""

EXAMPLES = r"""
- name: Run a flow and wait until it has completed
  selfhosted.prefect.flow_run:
    api_url: http://127.0.0.1:4200/api
    deployment: hello/default
    parameters:
      name: Ada
  register: hello

- name: Show the end of its log
  ansible.builtin.debug:
    var: hello.logs

- name: Run the migration of a release once, however often this play runs
  selfhosted.prefect.flow_run:
    api_url: http://127.0.0.1:4200/api
    deployment: migrate/default
    idempotency_key: release-42
    timeout: 3600

- name: Start a flow that pauses for an approval
  selfhosted.prefect.flow_run:
    api_url: http://127.0.0.1:4200/api
    deployment: approval/default
    until: [PAUSED]
  register: approval

- name: Approve it
  selfhosted.prefect.flow_run:
    api_url: http://127.0.0.1:4200/api
    state: resumed
    id: "{{ approval.id }}"
    run_input:
      approved: true

- name: Retry what failed last
  selfhosted.prefect.flow_run:
    api_url: http://127.0.0.1:4200/api
    state: retried
    deployment: hello/default

- name: Cancel a run without waiting for its end
  selfhosted.prefect.flow_run:
    api_url: http://127.0.0.1:4200/api
    state: cancelled
    id: "{{ approval.id }}"
    wait: false
"""

RETURN = r"""
id:
  description: The run. Null in check mode for one that would be started.
  returned: when there is a run
  type: str
  sample: 4d3b0a3e-6c0e-4f0b-9f0a-3a0b5f0f3c11
name:
  description: Its name.
  returned: when there is a run
  type: str
  sample: zealous-otter
state_type:
  description: The type of its state.
  returned: when there is a run
  type: str
  sample: COMPLETED
state_name:
  description: The name of its state, which says more than the type at times, such as C(Late) or C(TimedOut).
  returned: when there is a run
  type: str
  sample: Completed
state_message:
  description: What the flow, the worker or the server said about the state.
  returned: when there is a run
  type: str
result:
  description:
    - What the server keeps of its result. With persisted results, that says where the result is stored; otherwise
      null.
  returned: when there is a run
  type: raw
duration:
  description: Seconds that it has been running, without the time that it waited.
  returned: when there is a run
  type: float
  sample: 1.52
logs:
  description: The last lines of its log, as many as O(log_lines) says.
  returned: when there is a run
  type: list
  elements: str
  sample: ["01:12:05 | INFO    | prefect.flow_runs | Hello, Ada!"]
url:
  description: Where the run is shown in the UI, if that is served where the API is.
  returned: when there is a run
  type: str
  sample: http://127.0.0.1:4200/runs/flow-run/4d3b0a3e-6c0e-4f0b-9f0a-3a0b5f0f3c11
waiting_for:
  description: What keeps a run that nobody has picked up from running.
  returned: when the time is over and the run has not begun
  type: list
  elements: str
  sample: ["the work pool main is paused"]
request:
  description:
    - The request that failed. Its C(status) is null when there was no answer.
  returned: when the API was the reason of a failure
  type: dict
"""

import difflib
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from ..module_utils.api import PAGE, Api, Failure, moment, quoted, run_module

ENDS = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})
CANDIDATES = {
    "cancelled": ["PENDING", "RUNNING", "PAUSED"],
    "resumed": ["PAUSED"],
    "retried": ["FAILED", "CRASHED", "CANCELLED"],
    "waited": ["PENDING", "RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED"],
}
"""The types of state that the latest run of a deployment may be in."""

LAST_WORDS = 20
"""Lines of the log that a failure shows where none were asked for."""

SETTLE = 3.0
"""Seconds that the log of a run may take to arrive: flows send theirs every 2 s, the rest when they exit."""


def work(api: Api, params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Do what `state` says and return the module's result. Raises Failure, with the same facts in its details."""
    acts = {"started": start, "cancelled": cancel, "resumed": resume, "retried": retry, "waited": wait}
    if params["state"] != "started" and params["id"] is None:
        params = {**params, "id": latest(api, params["deployment"], params["state"])}
        if params["id"] is None:
            return {"changed": False, "id": None}
    changed, run = acts[params["state"]](api, params, check_mode)
    lines = params["log_lines"]
    if check_mode:
        return {"changed": changed, **(facts(api, run, lines=lines) if run else {"id": None})}
    until = set(params["until"] or (ENDS if params["state"] == "cancelled" else {"COMPLETED"}))
    if params["wait"]:
        run = follow(api, run, until=until, timeout=params["timeout"], poll=params["poll"])
    kind = run["state_type"]
    if kind in until or not (params["wait"] or kind in ENDS):
        return {"changed": changed, **facts(api, run, lines=lines)}
    raise explained(api, run, changed=changed, timeout=params["timeout"], lines=lines)


def start(api: Api, params: Mapping[str, Any], check_mode: bool) -> tuple[bool, dict[str, Any]]:
    """Create a run of the deployment; return whether it is new, and the run (empty where check mode creates none)."""
    deployment = find(api, params["deployment"])
    if check_mode:
        known = started(api, deployment["flow_id"], params["idempotency_key"])
        return not known, known
    body = {option: params[option] for option in ("name", "parameters", "job_variables", "tags") if params[option]}
    # With a key, a request that is sent again because its answer was lost starts no second run.
    body["idempotency_key"] = params["idempotency_key"] or uuid.uuid4().hex
    patience = params["timeout"] if params["wait"] else None
    answer = api.call("POST", f"/deployments/{deployment['id']}/create_flow_run", body, patience=patience)
    while answer.status == 200 and answer.body["state_type"] in ENDS - {"COMPLETED"}:
        body["idempotency_key"] = after(params["idempotency_key"], answer.body)
        answer = api.call("POST", f"/deployments/{deployment['id']}/create_flow_run", body, patience=patience)
    return answer.status == 201 or not params["idempotency_key"], answer.body


def after(key: str, failed: Mapping[str, Any]) -> str:
    """Return the idempotency key of the run that follows a failed one: of the same length for each further attempt."""
    return f"{key} {failed['id']}"


def started(api: Api, flow: str, key: str | None) -> dict[str, Any]:
    """Return the run that a start with an idempotency key takes, or an empty mapping where it creates one.

    The server knows a key by its flow: a run of a deployment that was deleted since then is taken, too.
    """
    wanted = key
    while wanted:
        body = {"flows": {"id": {"any_": [flow]}}, "flow_runs": {"idempotency_key": {"any_": [wanted]}}}
        run = next(api.pages("/flow_runs/filter", body, most=1), None)
        if run is None or run["state_type"] not in ENDS - {"COMPLETED"}:
            return run or {}
        wanted = after(str(key), run)
    return {}


def find(api: Api, key: str) -> dict[str, Any]:
    """Return the deployment `flow/name`. Raises Failure where there is none."""
    flow, slash, name = key.partition("/")
    if not (flow and slash and name):
        raise Failure(f"deployment is {key!r}: it should be like flow/deployment")
    deployment: dict[str, Any] | None = api.find(f"/deployments/name/{quoted(flow)}/{quoted(name)}")
    if deployment is None:
        near = _near(api, flow, name)
        raise Failure(f"there is no deployment {flow}/{name} at {api.url}, but {', '.join(near) or 'none at all'}")
    return deployment


def latest(api: Api, key: str, state: str) -> str | None:
    """Return the latest run of a deployment that `state` can be about; None where there is nothing to cancel."""
    body = {
        "deployments": {"id": {"any_": [find(api, key)["id"]]}},
        "flow_runs": {"state": {"type": {"any_": CANDIDATES[state]}}},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": 1,
    }
    found = api.post("/flow_runs/filter", body)
    if not found and state != "cancelled":
        raise Failure(f"deployment {key} has no run that can be {state}")
    return str(found[0]["id"]) if found else None


def cancel(api: Api, params: Mapping[str, Any], check_mode: bool) -> tuple[bool, dict[str, Any]]:
    """Cancel the run unless it has ended or is being cancelled; return whether that changes it, and the run."""
    run = read(api, params["id"])
    if run["state_type"] in ENDS | {"CANCELLING"}:
        return False, run
    if not check_mode:
        order = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        _expect(api.post(f"/flow_runs/{run['id']}/set_state", order), run, "cancel")
    return True, run if check_mode else read(api, params["id"])


def resume(api: Api, params: Mapping[str, Any], check_mode: bool) -> tuple[bool, dict[str, Any]]:
    """Resume the run unless it has ended; return whether that changes it, and the run."""
    run = read(api, params["id"])
    if run["state_type"] in ENDS:
        return False, run
    if run["state_type"] != "PAUSED":
        raise Failure(
            f"flow run {run['name']} is {run['state_name']}, not Paused: there is nothing to resume. "
            "Wait for its pause first, with until: [PAUSED] where it is started",
            **facts(api, run, lines=params["log_lines"]),
        )
    if not check_mode:
        body = {} if params["run_input"] is None else {"run_input": params["run_input"]}
        _expect(api.post(f"/flow_runs/{run['id']}/resume", body), run, "resume")
    return True, run if check_mode else read(api, params["id"])


def retry(api: Api, params: Mapping[str, Any], check_mode: bool) -> tuple[bool, dict[str, Any]]:
    """Have a run that ended badly run again; return whether that changes it, and the run."""
    run = read(api, params["id"])
    if run["state_type"] not in ENDS - {"COMPLETED"}:
        return False, run
    if not check_mode:
        order = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retried by Ansible"}}
        answer = api.post(f"/flow_runs/{run['id']}/set_state", order)
        if answer["status"] != "ACCEPT":
            reason = (answer.get("details") or {}).get("reason") or answer["status"]
            raise Failure(f"cannot retry flow run {run['name']}: {reason}", id=run["id"])
    return True, run if check_mode else read(api, params["id"])


def wait(api: Api, params: Mapping[str, Any], check_mode: bool) -> tuple[bool, dict[str, Any]]:
    return False, read(api, params["id"])


def read(api: Api, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] | None = api.find(f"/flow_runs/{quoted(run_id)}")
    if run is None:
        raise Failure(f"there is no flow run {run_id} at {api.url}")
    return run


def follow(api: Api, run: dict[str, Any], *, until: set[str], timeout: float, poll: float) -> dict[str, Any]:
    """Look at the run until it is in a state of `until`, has ended, or the time is over; return it as it is then.

    A server that does not answer in between, as SQLite's may for a minute when flow runs begin everywhere, has as long.
    """
    deadline = time.monotonic() + timeout
    pause = min(0.5, poll)
    while run["state_type"] not in until | ENDS and time.monotonic() < deadline:
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(pause * 1.5, poll)
        left = max(0.0, deadline - time.monotonic())
        run = api.call("GET", f"/flow_runs/{quoted(run['id'])}", patience=left).body
    return run


def facts(api: Api, run: Mapping[str, Any], *, lines: int) -> dict[str, Any]:
    """Return what the module tells about a run."""
    return {
        "id": run["id"],
        "name": run["name"],
        "state_type": run["state_type"],
        "state_name": run["state_name"],
        "state_message": (run.get("state") or {}).get("message"),
        "result": (run.get("state") or {}).get("data"),
        "duration": run["total_run_time"],
        "logs": tail(api, run, lines=lines) if lines else [],
        "url": f"{api.url.removesuffix('/api')}/runs/flow-run/{run['id']}",
    }


def tail(api: Api, run: Mapping[str, Any], *, lines: int) -> list[str]:
    """Return the last lines of a run's log. Of one that has run and ended, wait a little for the very last."""
    # Whatever is wanted, the flow's last words are looked for among what the engine and the worker say after them.
    limit = max(20, min(lines, PAGE))
    body = {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_DESC"}
    settling = run["state_type"] in ENDS and run["start_time"] is not None
    deadline = time.monotonic() + SETTLE
    while True:
        newest = list(api.pages("/logs/filter", body, most=limit))
        complete = any(line["message"].startswith("Finished in state") for line in newest)
        if complete or not settling or time.monotonic() > deadline:
            break
        time.sleep(0.25)
    text = "\n".join(
        f"{moment(line['timestamp']):%H:%M:%S} | {_level(line['level']):<8}| {line['name']} | {line['message']}"
        for line in reversed(newest)
    )
    return text.splitlines()[-lines:]


def explained(api: Api, run: Mapping[str, Any], *, changed: bool, timeout: float, lines: int) -> Failure:
    """Return the failure of a run that did not come to the wanted state."""
    ended = run["state_type"] in ENDS
    result = {"changed": changed, **facts(api, run, lines=lines or LAST_WORDS)}
    label = f"flow run {run['name']} is {run['state_name']}" + ("" if ended else f" after {timeout:g} s")
    parts = [f"{label}: {result['state_message'].rstrip('.')}" if result["state_message"] else label]
    if run["state_type"] == "PAUSED":
        parts.append("It waits to be resumed: state: resumed, or the UI")
    if run["state_type"] == "SCHEDULED":
        result["waiting_for"] = list(obstacles(api, run))
        parts.append("; ".join(result["waiting_for"]))
    if missing := re.search(r"No module named '([\w.]+)'", "\n".join(result["logs"])):
        parts.append(f"{missing[1]} is not there where it runs: correct the import, or add it to prefect_packages")
    parts.append(f"See {result['url']}")
    if result["logs"]:
        parts.append("The end of its log:\n" + "\n".join(result["logs"]))
    return Failure(". ".join(parts), **result)


def obstacles(api: Api, run: Mapping[str, Any]) -> Iterator[str]:
    """Yield what keeps a scheduled run from being picked up."""
    due = moment(run["expected_start_time"]) if run["expected_start_time"] else None
    if due and due > datetime.now(timezone.utc):
        yield f"it is due at {due:%Y-%m-%d %H:%M:%S} UTC"
        return
    pool_name, queue_name = run["work_pool_name"], run["work_queue_name"]
    if not pool_name:
        yield "its deployment has no work pool, so only the process that serves it (flow.serve) can run it"
        return
    pool = api.find(f"/work_pools/{quoted(pool_name)}")
    if pool is None:
        yield f"its work pool {pool_name} is gone"
        return
    path = f"/work_pools/{quoted(pool_name)}"
    workers = [row["name"] for row in api.pages(f"{path}/workers/filter") if row["status"] == "ONLINE"]
    queue = api.find(f"{path}/queues/{quoted(queue_name)}") if queue_name else None
    found = [
        f"{label} {obstacle}"
        for label, row in ((f"the work pool {pool_name}", pool), (f"the work queue {queue_name}", queue or {}))
        for obstacle, stands in (
            ("is paused", row.get("is_paused")),
            ("has a concurrency limit of 0", row.get("concurrency_limit") == 0),
        )
        if stands
    ]
    if not workers:
        found.append(f"no worker is online in the work pool {pool_name}")
    if run["state_name"] == "AwaitingConcurrencySlot":
        found.append("it waits for a slot of its deployment's concurrency limit")
    if not found:
        found.append(f"the workers {', '.join(workers)} are online and have not taken it: see their limits and queues")
    yield from found


def _expect(answer: Mapping[str, Any], run: Mapping[str, Any], verb: str) -> None:
    """Raise Failure when the server did not do as it was told: it says so in a 200."""
    if answer["status"] in {"ABORT", "WAIT"} or (answer["status"] == "REJECT" and not _overtaken(answer)):
        reason = (answer.get("details") or {}).get("reason") or answer["status"]
        raise Failure(f"cannot {verb} flow run {run['name']}: {reason}", id=run["id"])


def _overtaken(answer: Mapping[str, Any]) -> bool:
    """Whether a refused order led to the same end: a run that has not begun goes to Cancelled at once."""
    return bool((answer.get("state") or {}).get("type") in ENDS)


def _near(api: Api, flow: str, name: str) -> list[str]:
    """Return the deployments that somebody may have meant: names alike, or else the first ones."""
    flows = {row["id"]: row["name"] for row in api.pages("/flows/filter")}
    known = sorted(f"{flows.get(row['flow_id'])}/{row['name']}" for row in api.pages("/deployments/filter"))
    return difflib.get_close_matches(f"{flow}/{name}", known) or known[:10]


def _level(level: int) -> str:
    return {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}.get(level, str(level))


def main() -> None:
    run_module(
        work,
        {
            "state": {
                "type": "str",
                "choices": ["started", "cancelled", "resumed", "retried", "waited"],
                "default": "started",
            },
            "deployment": {"type": "str"},
            "id": {"type": "str"},
            "name": {"type": "str"},
            "parameters": {"type": "dict"},
            "job_variables": {"type": "dict"},
            "tags": {"type": "list", "elements": "str"},
            "idempotency_key": {"type": "str"},
            "run_input": {"type": "dict"},
            "wait": {"type": "bool", "default": True},
            "until": {
                "type": "list",
                "elements": "str",
                "choices": ["PENDING", "RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED", "CRASHED"],
            },
            "timeout": {"type": "float", "default": 600.0},
            "poll": {"type": "float", "default": 2.0},
            "log_lines": {"type": "int", "default": 50},
        },
        required_if=[
            ("state", "started", ["deployment"]),
            *(("state", state, ["id", "deployment"], True) for state in CANDIDATES),
        ],
        mutually_exclusive=[("deployment", "id")],
    )


if __name__ == "__main__":
    main()
