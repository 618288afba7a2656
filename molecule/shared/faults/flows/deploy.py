from datetime import timedelta

from prefect.schedules import Interval
from tick import tick

tick.from_source(source=".", entrypoint="tick.py:tick").deploy(
    "every",
    schedule=Interval(timedelta(seconds=20), slug="every"),
    ignore_warnings=True,
)
