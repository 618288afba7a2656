"""Waits for what others start: each has a bound, returns within a quarter of a second, and says what it last saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime

from .api import Api, ApiError, Failure, worker_online_since

POLL = 0.25


def wait_ready(api: Api, *, timeout: float, given_up: Callable[[], str] = lambda: "") -> float:
    """Wait until the API and its database answer, and return the seconds that it took.

    `given_up` is asked between two looks: a reason to stop waiting, such as that the process is dead, or nothing.
    Raises Failure after `timeout` seconds, or with that reason.
    """
    return _wait(lambda: _unready(api), what=f"{api.url}/ready", timeout=timeout, given_up=given_up)


def wait_workers(
    api: Api,
    *,
    pool: str,
    names: Iterable[str],
    since: datetime,
    timeout: float,
    given_up: Callable[[], str] = lambda: "",
) -> float:
    """Wait until every worker in `names` of `pool` is ONLINE and was heard of after `since`, by our clock.

    Returns the seconds that it took. Raises Failure as `wait_ready` does.
    """
    missing = list(names)

    def look() -> str:
        try:
            missing[:] = [name for name in missing if not worker_online_since(api, pool=pool, worker=name, since=since)]
        except ApiError as error:
            return str(error)
        return f"not online: {', '.join(missing)}" if missing else ""

    return _wait(look, what=f"workers of the work pool {pool} at {api.url}", timeout=timeout, given_up=given_up)


def _unready(api: Api) -> str:
    try:
        api.call("GET", "/ready", patience=0)
    except ApiError as error:
        return str(error)
    return ""


def _wait(look: Callable[[], str], *, what: str, timeout: float, given_up: Callable[[], str]) -> float:
    """Ask `look` what is wrong until it finds nothing."""
    began = time.monotonic()
    while True:
        wrong = look()
        passed = time.monotonic() - began
        if not wrong:
            return passed
        reason = given_up()
        if reason or passed + POLL > timeout:
            raise Failure(f"{what}: {reason or f'waited {timeout:g} s'}; last seen: {wrong}")
        time.sleep(POLL)
