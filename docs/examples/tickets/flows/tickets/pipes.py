class ProcessTickets:
    def __init__(self, queue: str) -> None:
        self.queue = queue

    def run(self) -> str:
        print(f"looking into {self.queue}")
        return f"{self.queue} is empty"
