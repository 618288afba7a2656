"""Definitions by the hundred, of every shape."""

from __future__ import annotations

import random
from typing import Any


def generated(flows: int, *, seed: int = 5) -> dict[str, list[dict[str, Any]]]:
    """Return flows of up to 30 tasks: diamonds, fans, chains, and whatever comes."""
    dice = random.Random(seed)
    data: dict[str, list[dict[str, Any]]] = {"prefect_flows": [], "prefect_tasks": [], "prefect_deployments": []}
    for number in range(flows):
        name, size = f"flow_{number}", dice.randint(1, 30)
        shape = ("diamond", "fan", "chain", "any")[number % 4]
        data["prefect_flows"].append({"name": name})
        data["prefect_deployments"].append({"name": "generated", "flow_name": name})
        for place in range(size):
            before = {
                "diamond": [] if place == 0 else [*range(1, place)] if place == size - 1 and size > 2 else [0],
                "fan": [] if place == 0 else [0],
                "chain": [] if place == 0 else [place - 1],
                "any": dice.sample(range(place), k=min(place, dice.randint(0, 3))),
            }[shape]
            data["prefect_tasks"].append(
                {
                    "name": f"t{place}",
                    "flow_name": name,
                    "use": "operator:add",
                    "task_args": [place, 1],
                    "depends_on": [f"t{item}" for item in before],
                }
            )
    dice.shuffle(data["prefect_tasks"])
    return data
