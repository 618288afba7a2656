"""Have a worker of a Celery application do a task, and see to it that it is done once, in time, or said why not.

Celery's own names for the environment say where the application is: CELERY_BROKER_URL, and CELERY_RESULT_BACKEND,
which is the broker if it is not set.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging import Logger
from typing import Any, TypeVar

from .execution import Limit
from .records import DefinitionError, near

T = TypeVar("T")

FIRST_POLL, LAST_POLL = 0.02, 0.5
"""Seconds between two looks for a result, at first and in the end."""

_importing = threading.Lock()
"""Celery puts another module in its place while it is imported, and a second thread may see the one that it was."""

AWAY = 5.0
"""Seconds between two tries of a broker that is away."""

FIRST_LOOK, LOOK_FOR_WORKER = 3.0, 10.0
"""Seconds to the first look for the worker that has the task, and to the second for one that it has lost; else between
two looks."""


IDLE_LOOKS = 5
"""Looks in a row at which no worker has any task, and no queue a message, after which no result can come any more."""

IGNORES = "ignore_result"
"""The option of a task, or of its application, by which its result is not stored."""

SLACK = 5.0
"""Seconds by which two answers of one worker may differ in when it was started."""


class CeleryTaskFailed(RuntimeError):
    """A task failed in Celery; the message has its exception, the log its traceback."""


class CeleryTaskLost(RuntimeError):
    """No worker has a task any more, and there will be no result."""


def application(environment: Mapping[str, str]) -> Any:
    """Return a client of the Celery application that the environment names. Raises DefinitionError if it names none."""
    broker = environment.get("CELERY_BROKER_URL", "")
    if not broker:
        raise DefinitionError(["CELERY_BROKER_URL is not set on this host; set prefect_celery_broker_url"])
    try:
        with _importing:
            from celery import Celery
    except ImportError as error:
        raise DefinitionError([f"{error}: add celery to prefect_packages"]) from error
    backend = environment.get("CELERY_RESULT_BACKEND") or broker
    app = Celery(broker=broker, backend=backend, set_as_current=False)
    timeouts = {"socket_connect_timeout": AWAY, "socket_timeout": AWAY}
    app.conf.update(
        broker_connection_timeout=AWAY,
        broker_transport_options=timeouts if broker.startswith("redis") else {},
        redis_socket_connect_timeout=AWAY,
        redis_socket_timeout=AWAY,
        result_backend_always_retry=False,
    )
    if backend.startswith("redis"):
        # Results are looked for. A subscription would not outlive a restart of Redis, and be given up for good.
        app.backend.on_task_call = lambda *_: None
    return app


def send(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    queue: str,
    environment: Mapping[str, str],
    limit: Limit,
    logger: Logger,
) -> Any:
    """Return the result of a task that a Celery worker does; revoke it where it takes too long or is cancelled.

    Raises CeleryTaskFailed, CeleryTaskLost, TimeoutError, or Stopped. A broker or backend that is away is waited for.
    """
    app = application(environment)
    # One for this try of the task, however often it takes to hand it over.
    identifier = str(uuid.uuid4())
    tried = False

    def hand_over() -> None:
        nonlocal tried
        # The broker may have taken the message, and only its answer was lost.
        if tried and arrived(app, identifier, queue=queue):
            return
        tried = True
        options = {"queue": queue} if queue else {}
        app.send_task(name, args=args, kwargs=kwargs, task_id=identifier, retry=False, **options)

    try:
        patiently(hand_over, limit=limit, logger=logger)
        logger.info("Sent %s to Celery as %s", name, identifier)
        return wait(app, name, identifier, queue=queue, limit=limit, logger=logger)
    except (CeleryTaskFailed, DefinitionError):
        raise
    except BaseException:
        # Nothing waits for the task any more: no worker needs to run it, even if it returns to the queue.
        revoke(app, identifier, logger=logger)
        raise
    finally:
        app.close()


def patiently(ask: Callable[[], T], *, limit: Limit, logger: Logger) -> T:
    """Return what `ask` does, as often as it takes while there is no connection."""
    from kombu.exceptions import OperationalError
    from redis.exceptions import ConnectionError as RedisAway
    from redis.exceptions import TimeoutError as RedisSlow

    said = False
    while True:
        try:
            return ask()
        except (OperationalError, RedisAway, RedisSlow, ConnectionError) as error:
            if not said:
                logger.warning("Celery's broker or result backend is away, and is waited for: %s", error)
                said = True
            pause(AWAY if limit.seconds is None else min(AWAY, limit.seconds / 10), limit)


def arrived(app: Any, identifier: str, *, queue: str) -> bool:
    """Return whether a task waits in its queue, is with a worker, or was done. Raises what tells of no connection.

    In the order in which it moves, so that it is not missed on its way. Only in Redis can a queue be looked at.
    """
    return (
        waits(app, identifier, queue=queue)
        or any((app.control.inspect(timeout=2).query_task(identifier) or {}).values())
        or app.backend.get_task_meta(identifier)["status"] != "PENDING"
    )


def waits(app: Any, identifier: str, *, queue: str) -> bool:
    """Return whether a task is in its queue in Redis, or was taken from there and not begun."""
    from redis.exceptions import ResponseError

    # A user of Redis need not be allowed to look.
    with suppress(ResponseError), app.connection_for_read() as connection:
        if connection.transport.driver_type != "redis":
            return False
        channel = connection.default_channel
        name, text = queue or app.conf.task_default_queue, identifier.encode()
        for priority in channel.priority_steps:
            if any(text in message for message in channel.client.lrange(channel._q_for_pri(name, priority), 0, -1)):
                return True
        return any(text in message for message in channel.client.hvals(channel.unacked_key))
    return False


def pause(seconds: float, limit: Limit) -> None:
    """Wait, for as long as the task may go on."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        limit.check()
        limit.stop.wait(min(left, 0.1))
    limit.check()


@dataclass(frozen=True)
class Holder:
    """A worker that has a task: its name, its process, when that was started, and what was known of the task then."""

    name: str
    process: int
    started: float
    known: tuple[str, ...]

    def restarted(self, now: Holder) -> bool:
        """Return whether the worker is another process `now`; in a container that has the same number."""
        return now.process != self.process or now.started > self.started + SLACK


def holder_of(app: Any, name: str, meta: Mapping[str, Any]) -> Holder | None:
    """Return the worker called `name`, or None where it does not answer."""
    answer = (asked(lambda: app.control.inspect(destination=[name], timeout=2, limit=1).stats()) or {}).get(name)
    if not answer:
        return None
    known = (str(meta["status"]), str(meta.get("date_done")), str(meta.get("traceback")))
    # Celery 4 does not say how long it has been up.
    started = time.monotonic() - float(answer["uptime"]) if "uptime" in answer else 0.0
    return Holder(name, int(answer["pid"]), started, known)


def wait(app: Any, name: str, identifier: str, *, queue: str, limit: Limit, logger: Logger) -> Any:
    """Return the result of a task that was sent.

    Only a worker that had it and was restarted has lost it. A worker that goes on and has it no more has put it off,
    by `self.retry` with a countdown or for a chord in its place, and no worker shows such a task until it is due. Or
    its result is not stored: the task says so, or nothing is left from which a result could come.
    """
    poll, look, missed, idle = FIRST_POLL, time.monotonic() + FIRST_LOOK, 0, 0
    seen: set[str] = set()
    holder: Holder | None = None
    while True:
        meta = patiently(lambda: app.backend.get_task_meta(identifier), limit=limit, logger=logger)
        if meta["status"] == "SUCCESS":
            return meta["result"]
        if meta["status"] in ("FAILURE", "REVOKED"):
            raise failed(app, name, meta, logger=logger)
        if time.monotonic() > look:
            holders = whereabouts(app, identifier)
            if host := next((host for host, has in holders.items() if has), ""):
                if holder is None or host != holder.name:
                    logger.info("%s is with Celery worker %s", identifier, host)
                holder, missed = holder_of(app, host, meta) or holder, 0
            elif holder is not None and holder.name in holders:
                now = holder_of(app, holder.name, meta)
                if now is not None and (now.known != holder.known or not holder.restarted(now)):
                    logger.info("Celery worker %s has put %s off", holder.name, identifier)
                    holder, missed = None, 0
                elif now is not None:
                    # Twice, since a result may have come in between.
                    missed += 1
                    if missed > 1:
                        raise CeleryTaskLost(
                            f"{name} ({identifier}) is lost: Celery worker {holder.name} was restarted"
                        )
            elif not holders:
                logger.warning("No Celery worker answers; %s waits in the queue, or its worker is busy", identifier)
            if holders and not any(holders.values()) and meta["status"] == "PENDING":
                if not asked(lambda: waits(app, identifier, queue=queue)) and name in ignoring(app):
                    raise CeleryTaskLost(f"{name} ({identifier}): the task stores no result ({IGNORES})")
                # A worker that does not answer any more may be busy.
                idle = idle + 1 if seen <= holders.keys() and is_idle(app) else 0
                if idle >= IDLE_LOOKS:
                    raise CeleryTaskLost(
                        f"{name} ({identifier}): the task stores no result ({IGNORES}, Ignore or Reject), or not in "
                        "the result backend of the flow; no Celery worker has anything to do"
                    )
            else:
                idle = 0
            seen |= holders.keys()
            look = time.monotonic() + (FIRST_LOOK if missed else LOOK_FOR_WORKER)
        pause(poll, limit)
        poll = min(poll * 1.5, LAST_POLL)


def failed(app: Any, name: str, meta: Mapping[str, Any], *, logger: Logger) -> CeleryTaskFailed:
    """Return the exception of a task that failed, having logged its traceback."""
    error = app.backend.exception_to_python(meta["result"]) or meta["status"]
    kind = type(error).__name__
    if meta.get("traceback"):
        logger.error("%s failed in Celery:\n%s", name, meta["traceback"].rstrip())
    if kind == "NotRegistered":
        return CeleryTaskFailed(f"no Celery worker serves {name}: it is not registered there")
    return CeleryTaskFailed(f"{name} failed in Celery: {kind}: {error}")


def whereabouts(app: Any, identifier: str) -> dict[str, bool]:
    """Return which workers answer, and whether each has the task."""
    answers = asked(lambda: app.control.inspect(timeout=2).query_task(identifier)) or {}
    return {host: bool(tasks) for host, tasks in answers.items()}


def ignoring(app: Any) -> set[str]:
    """Return the names of the tasks of which a worker says that it stores no result."""
    answers = asked(lambda: app.control.inspect(timeout=2).registered(IGNORES)) or {}
    return names_of(answers, f"{IGNORES}=True")


def names_of(answers: Mapping[str, Sequence[str]], said: str = "") -> set[str]:
    """Return the names of the tasks that workers serve, or of those of which they have `said` that in brackets."""
    split = [task.partition(" [") for tasks in answers.values() for task in tasks]
    return {name for name, _, rest in split if said in rest}


def is_idle(app: Any) -> bool:
    """Return whether no worker has any task, nor any queue a message, from which a result could come."""
    inspect = app.control.inspect(timeout=2)
    for ask in (inspect.active, inspect.reserved, inspect.scheduled):
        answers = asked(ask)
        if not answers or any(answers.values()):
            return False
    return asked(lambda: is_empty(app)) is True


def is_empty(app: Any) -> bool:
    """Return whether no queue in Redis has a message. Another broker's cannot be looked at, and count as full."""
    from redis.exceptions import ResponseError

    # A user of Redis need not be allowed to look.
    with suppress(ResponseError), app.connection_for_read() as connection:
        if connection.transport.driver_type != "redis":
            return False
        channel = connection.default_channel
        if channel.client.hlen(channel.unacked_key):
            return False
        bindings = [
            binding
            for key in channel.client.scan_iter(match=channel.keyprefix_queue % "*", count=1000)
            for binding in channel.client.smembers(key)
        ]
        queues = {binding.split(channel.sep.encode())[-1].decode() for binding in bindings}
        # Those of the workers themselves.
        queues -= {name for name in queues if "pidbox" in name or name.startswith("celeryev")}
        return bool(queues) and not any(
            channel.client.llen(channel._q_for_pri(name, priority))
            for name in queues
            for priority in channel.priority_steps
        )
    return False


def asked(ask: Callable[[], Any]) -> Any:
    """Return what the workers answer, and nothing where the broker is away."""
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    try:
        return ask()
    except (OperationalError, RedisError, OSError):
        return None


def revoke(app: Any, identifier: str, *, logger: Logger) -> None:
    """Take a task back: from the queue, or from the worker that does it."""
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    try:
        app.control.revoke(identifier, terminate=True)
        logger.info("Revoked %s", identifier)
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("%s could not be revoked: %s", identifier, error)


def unserved(names: set[str], environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each name that no Celery worker serves, or that stores no result.

    There is none where no worker answers, or no broker.
    """
    app = application(environment)
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    try:
        answers = app.control.inspect(timeout=2).registered(IGNORES) or {}
    except (OperationalError, RedisError, OSError):
        return []
    finally:
        app.close()
    served, silent = names_of(answers), names_of(answers, f"{IGNORES}=True")
    if not served:
        return []
    return [
        f"celery_task_name {name!r} stores no result on the Celery workers ({IGNORES}), and the flow would wait "
        f"for it; set {IGNORES}=False for the task"
        for name in sorted(names & silent)
    ] + [
        f"celery_task_name {name!r} is served by none of the Celery workers{near(name, served)}"
        for name in sorted(names - served)
    ]
