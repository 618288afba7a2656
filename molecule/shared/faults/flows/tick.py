from prefect import flow


@flow(log_prints=True)
def tick() -> None:
    print("tick")
