"""A flow that says where it runs."""

import socket

from prefect import flow

UNIT = "boxes"


@flow(log_prints=True)
def stock(number: int = 3) -> None:
    print(f"{number} {UNIT} at {socket.gethostname()}")


if __name__ == "__main__":
    stock()
