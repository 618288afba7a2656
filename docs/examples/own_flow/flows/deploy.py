from prefect.schedules import Cron
from stock import stock

stock.from_source(source=".", entrypoint="stock.py:stock").deploy(
    "hourly",
    work_pool_name="default",
    schedule=Cron("0 * * * *", timezone="UTC", slug="hourly"),
    ignore_warnings=True,
)
