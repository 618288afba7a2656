"""A flow that asks a person before it goes on.

While the run is paused, answer in the UI with its Resume button, or over the API:

    curl -X POST $PREFECT_API_URL/flow_runs/<id>/resume \
        -H 'Content-Type: application/json' -d '{"run_input": {"approved": true, "comment": "ship it"}}'

A run that gets no answer within the hour fails. A run that is started with an answer does not ask.
"""

from prefect import flow, pause_flow_run, task
from prefect.input import RunInput


class Approval(RunInput):
    """What the person is asked for; the UI makes a form of it."""

    approved: bool = False
    comment: str = ""


@task
def release(version: str) -> str:
    return f"Released {version}"


@flow(log_prints=True)
def approval_flow(version: str = "1.0", answer: Approval | None = None) -> bool:
    """Release `version` once a person has approved it."""
    if answer is None:
        answer = pause_flow_run(wait_for_input=Approval, timeout=3600, poll_interval=5)
    print(release(version) if answer.approved else f"Did not release {version}: {answer.comment}")
    return answer.approved


if __name__ == "__main__":
    approval_flow(answer=Approval(approved=True))
