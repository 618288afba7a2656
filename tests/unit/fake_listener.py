"""A server that listens on a free port, on a thread of its own, and speaks with one client after another."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable


class Listener:
    """Use it as a context manager; `port` is where it listens. What a client does wrong ends its session alone."""

    def __init__(self, session: Callable[[socket.socket], None]) -> None:
        self._session = session

    def __enter__(self) -> Listener:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with contextlib.suppress(OSError, ValueError, KeyError, struct.error), client:
                    self._session(client)
