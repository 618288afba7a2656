from prefect import flow, task


@task(retries=2, retry_delay_seconds=5)
def count(item: str) -> int:
    return len(item)


@flow(log_prints=True)
def stock(items: list[str] | None = None) -> int:
    total = sum(count.map(items or ["apples", "pears"]).result())
    print(f"{total} in stock")
    return total
