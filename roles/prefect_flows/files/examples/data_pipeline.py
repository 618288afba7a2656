"""Extract, transform, report: retries, caching, parallel tasks and an artifact.

The first run of a day fetches every shop's orders; one shop is unreachable at first, and a retry helps. Run it again
within the hour and nothing is fetched: the results come from the cache. The report is in the UI, under Artifacts.
"""

from datetime import date, timedelta

from prefect import flow, task, unmapped
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import INPUTS
from prefect.runtime import task_run

SHOPS = ["berlin", "lima", "osaka"]


@task(retries=3, retry_delay_seconds=1, cache_policy=INPUTS, cache_expiration=timedelta(hours=1))
def fetch_orders(shop: str, day: date) -> list[float]:
    """Return the day's order totals of a shop; stands in for a call over an unreliable network."""
    if shop == "lima" and task_run.run_count == 1:
        raise ConnectionError(f"{shop} does not answer")
    return [round(10 + 7.5 * order + len(shop), 2) for order in range(day.day)]


@task
def summarise(shop: str, orders: list[float]) -> dict[str, object]:
    return {"shop": shop, "orders": len(orders), "revenue": round(sum(orders), 2)}


@flow(log_prints=True)
def data_pipeline(shops: list[str] = SHOPS, day: date | None = None) -> float:
    """Report the revenue of all shops on one day, by default today."""
    orders = fetch_orders.map(shops, day=unmapped(day or date.today()))
    rows = summarise.map(shops, orders).result()
    create_table_artifact(key="revenue-by-shop", table=rows, description="Revenue by shop")
    revenue = sum(row["revenue"] for row in rows)
    print(f"{len(rows)} shops, revenue {revenue:.2f}")
    return revenue


if __name__ == "__main__":
    data_pipeline()
