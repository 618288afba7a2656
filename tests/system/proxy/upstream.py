"""Stand in for an API server: `upstream.py PORT` says who it is and what it was asked, after `delay` seconds."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PORT = int(sys.argv[1])
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


QUIET = 0.5


class Server(ThreadingHTTPServer):
    """Ends as module_utils/onhost/serve.py does: closes its port first, and answers requests that still arrive."""

    daemon_threads = True
    request_queue_size = 128
    ending = False

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.busy, self.changed = 0, threading.Condition()

    def count(self, change: int) -> None:
        """Keep count of the requests that are being answered."""
        with self.changed:
            self.busy += change
            self.changed.notify_all()

    def end(self) -> None:
        """Take no new connection, and go when no one that there is has been used for a while."""
        self.ending = True
        self.shutdown()
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.process_request(*self.socket.accept())
        self.socket.close()
        with self.changed:
            while self.busy or self.changed.wait(QUIET):
                self.changed.wait_for(lambda: not self.busy)
        os._exit(0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 75

    server: Server

    def counted(self) -> None:
        self.server.count(1)
        try:
            self.answer()
        finally:
            self.server.count(-1)

    def answer(self) -> None:
        asked = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Upgrade") == "websocket":
            self.upgrade()
            return
        time.sleep(float(parse_qs(asked.query).get("delay", ["0"])[0]))
        said = {
            "server": PORT,
            "method": self.command,
            "path": asked.path,
            "length": len(body),
            "headers": dict(self.headers.items()),
        }
        text = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        if self.server.ending:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(text)

    def upgrade(self) -> None:
        key = self.headers["Sec-WebSocket-Key"].encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key + GUID).digest()).decode())
        self.send_header("Sec-WebSocket-Protocol", self.headers.get("Sec-WebSocket-Protocol", ""))
        self.end_headers()
        self.wfile.write(b"\x81\x05hello")
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = counted

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    server = Server(PORT)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.end).start())
    server.serve_forever(poll_interval=0.01)
    signal.pause()


if __name__ == "__main__":
    main()
