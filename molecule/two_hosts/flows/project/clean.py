"""A flow of a project that `prefect deploy` deploys."""

from prefect import flow


@flow(log_prints=True)
def clean(what: str = "nothing") -> None:
    print(f"Cleaned {what}")


if __name__ == "__main__":
    clean()
