"""A server that listens on a free port, on a thread of its own, and speaks with one client after another."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable


class Listener:
    """Use it as a context manager; `port` is where it listens, or the end of the `path` of its socket.

    What a client does wrong ends its session alone.
    """

    def __init__(self, session: Callable[[socket.socket], None], *, path: str = "") -> None:
        self._session = session
        self._path = path

    def __enter__(self) -> Listener:
        if self._path:
            self._listener = socket.create_server(self._path, family=socket.AF_UNIX)
            self.port = int(self._path.rpartition(".")[2])
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closed alone, its number may become another listener's while the thread still waits for a client of it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with contextlib.suppress(OSError, ValueError, KeyError, struct.error), client:
                    self._session(client)
