"""A flow for a schedule: it works on the time that it was due, so a late or repeated run gives the same result.

The schedule itself, every day at six, belongs to the deployment: see deploy.py.
"""

from datetime import timedelta

from prefect import flow
from prefect.runtime import flow_run


@flow(log_prints=True)
def scheduled_flow() -> str:
    """Report on the day before the one that this run was due on."""
    day = (flow_run.scheduled_start_time - timedelta(days=1)).date().isoformat()
    print(f"The report for {day} is ready")
    return day


if __name__ == "__main__":
    scheduled_flow()
