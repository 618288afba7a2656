#!/usr/bin/python
"""Start, cancel, resume or retry a flow run, and wait for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flow_run
short_description: Start, cancel, resume or retry Prefect flow runs
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Starts a flow run of a deployment, cancels one, resumes a paused one or retries a failed one, and waits for its
    outcome.
  - Fails unless the run reaches a state in O(until). The error has the reason, the end of the run's log and, if no
    worker has picked up the run, why not.
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Looks up the deployment or the run, and reports what would change.
    support: full
  diff_mode:
    description: A flow run has nothing to compare.
    support: none
options:
  state:
    description:
      - V(started) creates a run of O(deployment). It does so every time, unless O(idempotency_key) is given.
      - V(cancelled) cancels the run O(id). A run that has ended does not change.
      - V(resumed) resumes the run O(id), which must be paused. A run that has ended does not change.
      - V(retried) runs O(id) again if it has failed, crashed or been cancelled. A run that has completed or is in
        progress does not change.
      - V(waited) only waits for the run O(id).
      - O(deployment) instead of O(id) selects the latest of its runs that can be cancelled, resumed, retried or waited
        for.
    type: str
    choices: [started, cancelled, resumed, retried, waited]
    default: started
  deployment:
    description:
      - The deployment to start a run of, or whose latest run is selected, as C(flow/deployment).
    type: str
  id:
    description:
      - The run to cancel, resume, retry or wait for.
    type: str
  name:
    description:
      - Name of the new run. By default, Prefect generates one.
    type: str
  parameters:
    description:
      - Parameters of the new run, which override those of the deployment.
    type: dict
  job_variables:
    description:
      - Variables of the work pool's job template for the new run, which override those of the deployment.
    type: dict
  tags:
    description:
      - Tags of the new run, in addition to those of the deployment.
    type: list
    elements: str
  idempotency_key:
    description:
      - If a run of the deployment was started with the same key, the module uses that run, and nothing changes.
        If that run failed, crashed or was cancelled, a new one is started.
    type: str
  run_input:
    description:
      - Input for a paused run that waits for it.
    type: dict
  wait:
    description:
      - Whether to wait until the run is in a state listed in O(until) or has ended.
    type: bool
    default: true
  until:
    description:
      - The state types to wait for. The task fails if the run ends in another one.
      - A run may pass through a type such as V(RUNNING) between two polls. List the types that follow it, too.
      - By default, V(COMPLETED) for a run that was started, resumed or retried or is waited for, and any final type
        for a cancelled one.
    type: list
    elements: str
    choices: [PENDING, RUNNING, PAUSED, COMPLETED, FAILED, CANCELLED, CRASHED]
  timeout:
    description:
      - Seconds to wait. The task then fails, and the run continues.
    type: float
    default: 600.0
  poll:
    description:
      - Maximum seconds between two polls. The first poll comes after half a second, and the interval then grows.
    type: float
    default: 2.0
  log_lines:
    description:
      - How many lines of the log to return, from its last 200 records at most.
      - With V(0), the log is read only if the run fails the task. This saves up to three seconds of waiting for the
        end of the log.
    type: int
    default: 50
"""

EXAMPLES = r"""
- name: Run a flow and wait for its completion
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

- name: Approve the flow run
  selfhosted.prefect.flow_run:
    api_url: http://127.0.0.1:4200/api
    state: resumed
    id: "{{ approval.id }}"
    run_input:
      approved: true

- name: Retry the run that failed last
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
  description: Id of the run. Null in check mode if the run would be started.
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
  description: The name of its state, which can be more precise than the type, such as C(Late) or C(TimedOut).
  returned: when there is a run
  type: str
  sample: Completed
state_message:
  description: The message of the flow, the worker or the server about the state.
  returned: when there is a run
  type: str
result:
  description:
    - The server's data about the result. For a persisted result, it says where the result is stored; otherwise null.
  returned: when there is a run
  type: raw
duration:
  description: Seconds that the run has been running, without the time that it waited.
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
  description: Address of the run in the UI, if the UI is served at the address of the API.
  returned: when there is a run
  type: str
  sample: http://127.0.0.1:4200/runs/flow-run/4d3b0a3e-6c0e-4f0b-9f0a-3a0b5f0f3c11
waiting_for:
  description: Why no worker has picked up the run.
  returned: when the timeout has passed and the run has not started
  type: list
  elements: str
  sample: ["the work pool main is paused"]
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

import difflib
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from ..module_utils.api.module import PAGE, Api, Failure, moment, quoted, run_module

ENDS = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})
CANDIDATES = {
    "cancelled": ["PENDING", "RUNNING", "PAUSED"],
    "resumed": ["PAUSED"],
    "retried": ["FAILED", "CRASHED", "CANCELLED"],
    "waited": ["PENDING", "RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED"],
}
"""The state types in which the latest run of a deployment is selected, by `state`."""

LAST_WORDS = 20
"""Lines of the log that an error shows if the task requests none."""

SETTLE = 3.0
"""Seconds that the log of a run may take to arrive: flows send it every 2 s, and the rest when they exit."""


def work(api: Api, params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Apply `state` and return the module's result. Raises Failure with the same facts in its details."""
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
    """Create a run of the deployment; return whether it is new, and the run (empty if check mode would create one)."""
    deployment = find(api, params["deployment"])
    if check_mode:
        known = started(api, deployment["flow_id"], params["idempotency_key"])
        return not known, known
    body = {option: params[option] for option in ("name", "parameters", "job_variables", "tags") if params[option]}
    # With a key, a request that is repeated because its response was lost starts no second run.
    body["idempotency_key"] = params["idempotency_key"] or uuid.uuid4().hex
    patience = params["timeout"] if params["wait"] else None
    answer = api.call("POST", f"/deployments/{deployment['id']}/create_flow_run", body, patience=patience)
    while answer.status == 200 and answer.body["state_type"] in ENDS - {"COMPLETED"}:
        body["idempotency_key"] = after(params["idempotency_key"], answer.body)
        answer = api.call("POST", f"/deployments/{deployment['id']}/create_flow_run", body, patience=patience)
    return answer.status == 201 or not params["idempotency_key"], answer.body


def after(key: str, failed: Mapping[str, Any]) -> str:
    """Return the idempotency key of the run that follows a failed one. Its length does not grow with the attempts."""
    return f"{key} {failed['id']}"


def started(api: Api, flow: str, key: str | None) -> dict[str, Any]:
    """Return the run that a start with an idempotency key reuses, or an empty mapping if it creates one.

    The server stores a key per flow, so a run of a deployment that has been deleted since is reused, too.
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
    """Return the deployment `flow/name`. Raises Failure if it does not exist."""
    flow, slash, name = key.partition("/")
    if not (flow and slash and name):
        raise Failure(f"deployment is {key!r}: it should be like flow/deployment")
    deployment: dict[str, Any] | None = api.find(f"/deployments/name/{quoted(flow)}/{quoted(name)}")
    if deployment is None:
        near = _near(api, flow, name)
        raise Failure(f"there is no deployment {flow}/{name} at {api.url}, but {', '.join(near) or 'none at all'}")
    return deployment


def latest(api: Api, key: str, state: str) -> str | None:
    """Return the latest run of a deployment to which `state` applies; None if there is nothing to cancel."""
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
    """Cancel the run unless it has ended or is being cancelled; return whether it changes, and the run."""
    run = read(api, params["id"])
    if run["state_type"] in ENDS | {"CANCELLING"}:
        return False, run
    if not check_mode:
        order = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        _expect(api.post(f"/flow_runs/{run['id']}/set_state", order), run, "cancel")
    return True, run if check_mode else read(api, params["id"])


def resume(api: Api, params: Mapping[str, Any], check_mode: bool) -> tuple[bool, dict[str, Any]]:
    """Resume the run unless it has ended; return whether it changes, and the run."""
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
    """Retry a run that failed, crashed or was cancelled; return whether it changes, and the run."""
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
    """Poll the run until it reaches a state of `until`, has ended or the timeout has passed; return its last version.

    A server that stops answering has until the timeout, too: with SQLite, it may take a minute when many runs start.
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
    """Return the module's result for a run."""
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
    """Return the last lines of a run's log. If the run has ended, wait briefly for the very last lines."""
    # At least 20 lines, since the engine and the worker write some after the flow's last one.
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
    """Return the Failure for a run that did not reach the wanted state."""
    ended = run["state_type"] in ENDS
    result = {"changed": changed, **facts(api, run, lines=lines or LAST_WORDS)}
    label = f"flow run {run['name']} is {run['state_name']}" + ("" if ended else f" after {timeout:g} s")
    parts = [f"{label}: {result['state_message'].rstrip('.')}" if result["state_message"] else label]
    if run["state_type"] == "PAUSED":
        parts.append("It waits to be resumed: state: resumed, or the UI")
    if run["state_type"] == "SCHEDULED":
        result["waiting_for"] = list(reasons(api, run))
        parts.append("; ".join(result["waiting_for"]))
    if missing := re.search(r"No module named '([\w.]+)'", "\n".join(result["logs"])):
        parts.append(f"{missing[1]} is not there where it runs: correct the import, or add it to prefect_packages")
    parts.append(f"See {result['url']}")
    if result["logs"]:
        parts.append("The end of its log:\n" + "\n".join(result["logs"]))
    return Failure(". ".join(parts), **result)


def reasons(api: Api, run: Mapping[str, Any]) -> Iterator[str]:
    """Yield the reasons why no worker has picked up a scheduled run."""
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
        f"{label} {reason}"
        for label, row in ((f"the work pool {pool_name}", pool), (f"the work queue {queue_name}", queue or {}))
        for reason, stands in (
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
    """Raise Failure if the server did not accept the state, which it reports with status 200."""
    if answer["status"] in {"ABORT", "WAIT"} or (answer["status"] == "REJECT" and not _overtaken(answer)):
        reason = (answer.get("details") or {}).get("reason") or answer["status"]
        raise Failure(f"cannot {verb} flow run {run['name']}: {reason}", id=run["id"])


def _overtaken(answer: Mapping[str, Any]) -> bool:
    """Whether the run has ended in spite of the rejection: a run that has not started is Cancelled at once."""
    return bool((answer.get("state") or {}).get("type") in ENDS)


def _near(api: Api, flow: str, name: str) -> list[str]:
    """Return the deployments that the user may have meant: those with similar names, or else the first ones."""
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
            "idempotency_key": {"type": "str", "no_log": False},
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
