class ProcessTickets:
    def __init__(self, queue: str, priorities: list[str]) -> None:
        self.queue, self.priorities = queue, priorities

    def run(self) -> str:
        print(f"looking into {self.queue}")
        return f"{self.queue} has no {' or '.join(self.priorities)} ticket"


def escalate(after_hours: int) -> str:
    return f"no ticket is older than {after_hours} hours"
