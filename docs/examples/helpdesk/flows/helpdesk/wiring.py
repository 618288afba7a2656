from helpdesk.pipes import ProcessTickets

PIPES = {"TicketProcessor": ProcessTickets}


def make(name: str) -> type | None:
    return PIPES.get(name)
