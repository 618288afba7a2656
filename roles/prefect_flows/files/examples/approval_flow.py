"""A flow that asks a person before it goes on, and does not wait for ever.

While the run is paused, answer in the UI with its Resume button, or over the API:

    curl -X POST $PREFECT_API_URL/flow_runs/<id>/resume \
        -H 'Content-Type: application/json' -d '{"run_input": {"approved": true, "comment": "ship it"}}'
"""

from prefect import flow, pause_flow_run, task
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput


class Approval(RunInput):
    """What the person is asked for; the UI makes a form of it."""

    approved: bool = False
    comment: str = ""


@task
def release(version: str) -> str:
    return f"Released {version}"


@flow(log_prints=True)
def approval_flow(version: str = "1.0", wait_seconds: int = 3600) -> bool:
    """Release a version once somebody has approved it; no answer within `wait_seconds` means no."""
    try:
        answer = pause_flow_run(wait_for_input=Approval, timeout=wait_seconds, poll_interval=2)
    except FlowPauseTimeout:
        answer = Approval(comment=f"nobody answered within {wait_seconds} seconds")
    print(release(version) if answer.approved else f"Did not release {version}: {answer.comment}")
    return answer.approved


if __name__ == "__main__":
    approval_flow(wait_seconds=2)
