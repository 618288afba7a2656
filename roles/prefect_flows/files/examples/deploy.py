"""Register the flows of this directory as deployments. Run it as often as you like: it updates existing deployments.

To add a flow of your own, put its file here and its line below.
"""

import os
from pathlib import Path

from prefect import flow
from prefect.schedules import Cron

# A schedule with a slug is updated in place; one without is replaced, and with it the runs that it has planned.
DEPLOYMENTS = {
    "hello_flow.py:hello_flow": {},
    "data_pipeline.py:data_pipeline": {},
    "approval_flow.py:approval_flow": {},
    "scheduled_flow.py:scheduled_flow": {"schedule": Cron("0 6 * * *", timezone="UTC", slug="daily")},
    "database_sync.py:database_sync": {"schedule": Cron("0 2 * * *", timezone="UTC", slug="daily")},
}

if __name__ == "__main__":
    for entrypoint, options in DEPLOYMENTS.items():
        flow.from_source(source=str(Path(__file__).parent), entrypoint=entrypoint).deploy(
            "example",
            work_pool_name=os.environ.get("PREFECT_DEFAULT_WORK_POOL_NAME", "default"),
            tags=["example"],
            print_next_steps=False,
            ignore_warnings=True,
            **options,
        )
