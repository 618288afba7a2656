"""The server's own program in place of `prefect`: corrects three things in the libraries that serve Prefect's API.

- `lose_no_request`, for one of several servers or processes: no request is lost on SIGTERM.
- `close_cursors`, for a server on SQLite: several workers would otherwise block it for a minute from time to time.
- `hide_credentials`, for all: the API shows the settings to every user, with the password of Redis in a URL.

The program calls them as it is imported, because Uvicorn's worker processes import it as well, under another name.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

MOMENT = 1.0
"""Seconds for which a server that ends continues to answer requests."""


def lose_no_request() -> None:
    """Close the port of all processes first on SIGTERM, and continue to answer requests for a moment.

    Uvicorn's parent process keeps the port open until its last worker process has ended, which takes seconds. A client
    that connects in the meantime gets no answer, and its connection is finally reset. Also, on SIGTERM each process
    immediately closes the connections that proxies keep open, even if a request has just been sent on them. A proxy
    must not repeat a POST whose connection was reset. With the port closed, proxies use another server.
    """
    from uvicorn import Server
    from uvicorn.supervisors import Multiprocess

    terminate_all, shutdown = Multiprocess.terminate_all, Server.shutdown

    def close_and_terminate_all(parent: Any) -> None:
        # The worker processes also have the port open, and close it on SIGTERM.
        for socket in parent.sockets:
            socket.close()
        terminate_all(parent)

    async def drain_and_shutdown(server: Any, sockets: Any = None) -> None:
        # Accept the clients that have already connected, which takes one more iteration of the event loop.
        for _ in range(2):
            await asyncio.sleep(0)
        for listening in (*server.servers, *(sockets or [])):
            listening.close()
        server.server_state.default_headers.append((b"connection", b"close"))
        await asyncio.sleep(MOMENT)
        await shutdown(server, sockets)

    Multiprocess.terminate_all, Server.shutdown = close_and_terminate_all, drain_and_shutdown


class Remembering:
    """A connection to SQLite that remembers the last cursor that it opened."""

    def __init__(self, connection: Any) -> None:
        self._connection, self.last = connection, None

    async def cursor(self) -> Any:
        self.last = await self._connection.cursor()
        return self.last


def closing(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a cursor's `execute` so that it closes the inner cursor if it fails."""

    def execute_or_close(cursor: Any, *arguments: Any) -> Any:
        connection = cursor._connection = Remembering(cursor._adapt_connection._connection)
        try:
            return execute(cursor, *arguments)
        except Exception:
            if connection.last is not None:
                cursor.await_(connection.last.close())
            raise

    return execute_or_close


def close_cursors() -> None:
    """Close the cursor of a failed statement immediately, in the connection's own thread.

    SQLAlchemy before 2.1 does not close it, for example after one that finds the database locked. When Python's garbage
    collector later closes it, in the thread that answers all requests, it waits for the connection. Another statement
    may then use this connection and wait up to 60 s for its turn to write, while the request that would end this wait
    is itself blocked.
    """
    from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_cursor as Cursor

    # Later versions close it themselves and are implemented differently.
    if "execute" in vars(Cursor):
        Cursor.execute, Cursor.executemany = closing(Cursor.execute), closing(Cursor.executemany)


def hide_credentials() -> None:
    """Hide credentials in the settings that the API shows to every user."""
    from fastapi import APIRouter, Response
    from fastapi.encoders import jsonable_encoder
    from prefect.settings import get_current_settings

    add_api_route = APIRouter.add_api_route

    async def settings_without_credentials() -> Response:
        settings = jsonable_encoder(get_current_settings())
        if headers := settings.get("client", {}).get("custom_headers"):
            settings["client"]["custom_headers"] = dict.fromkeys(headers, "********")
        text = re.sub(r'://[^\s/?#"]+@', "://********@", json.dumps(settings))
        return Response(text, media_type="application/json")

    # FastAPI would look the name of the return type up in the module.
    settings_without_credentials.__annotations__["return"] = Response

    def add_another_api_route(router: Any, path: str, endpoint: Any, **options: Any) -> None:
        if (endpoint.__module__, endpoint.__name__) == ("prefect.server.api.admin", "read_settings"):
            endpoint = settings_without_credentials
        add_api_route(router, path, endpoint, **options)

    APIRouter.add_api_route = add_another_api_route


def main() -> None:
    """Run `prefect` with the arguments of this process."""
    (prefect,) = entry_points(group="console_scripts", name="prefect")
    prefect.load()()
