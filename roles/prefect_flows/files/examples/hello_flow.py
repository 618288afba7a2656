"""The smallest useful flow: a parameter, a task, a line in the log.

Run it here with `python hello_flow.py`, or on a worker with `prefect deployment run hello-flow/example`.
"""

from prefect import flow, task


@task
def greet(name: str) -> str:
    return f"Hello, {name}!"


@flow(log_prints=True)
def hello_flow(name: str = "world") -> str:
    greeting = greet(name)
    print(greeting)
    return greeting


if __name__ == "__main__":
    hello_flow()
