"""Filters that derive the workers and served flows of a host from the inventory."""

from __future__ import annotations

import functools
import hashlib
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def workers(
    instances: list[dict[str, Any]], *, host: str, installation: dict[str, Any], first_port: int, limit: int
) -> list[dict[str, Any]]:
    """Return each worker with its unit instance, name, identity, pool, type, limit, queues and health port.

    The first worker of a pool has the name of the pool, the others get a number: `default`, `default-2`, ...
    The workers of an entry with a health port use that port and the following ones.
    A worker's name ends in its `identity`, which is unique to the installation, so that two hosts of the same name do
    not share a worker, and a renamed host still recognizes the flow runs of its workers. `formerly` is the worker's
    name from before it had an identity. `installation` is what `preflight` read from the host; before that, the
    identity is empty.
    Raises AnsibleFilterError for an entry without a pool and for two workers with the same name or port.
    """
    found: list[dict[str, Any]] = []
    for entry in instances:
        if not entry.get("pool"):
            raise AnsibleFilterError(f"prefect_worker_instances: an entry names no pool: {entry}")
        for number in range(1, int(entry.get("count", 1)) + 1):
            unit = re.sub(r"[^A-Za-z0-9_.-]", "-", entry["pool"]) + (f"-{number}" if number > 1 else "")
            identity = identity_of(installation, unit)
            found.append(
                {
                    "unit": unit,
                    "name": "-".join(filter(None, [host, unit, identity])),
                    "identity": identity,
                    "formerly": installation.get("formerly", {}).get(unit, ""),
                    "pool": entry["pool"],
                    "type": entry.get("type", "process"),
                    "limit": entry.get("limit", limit),
                    "queues": entry.get("queues", []),
                    "health_port": (
                        int(entry["health_port"]) + number - 1 if entry.get("health_port") else first_port + len(found)
                    ),
                }
            )
    units = [worker["unit"] for worker in found]
    doubled = sorted({unit for unit in units if units.count(unit) > 1})
    if doubled:
        raise AnsibleFilterError(
            f"prefect_worker_instances: two workers would be called {', '.join(doubled)}; use count"
        )
    ports = [worker["health_port"] for worker in found]
    doubled = sorted({str(port) for port in ports if ports.count(port) > 1})
    if doubled:
        raise AnsibleFilterError(
            f"prefect_worker_instances: two workers would have the health port {', '.join(doubled)}; "
            "give one of them another health_port"
        )
    return found


def identity_of(installation: dict[str, Any], unit: str) -> str:
    """Return eight hexadecimal digits that are unique to this unit of this installation."""
    if "id" not in installation:
        return ""
    return hashlib.sha256(f"{installation['id']} {unit}".encode()).hexdigest()[:8]


UNLIMITED = 1_000_000
"""Limit of a worker that drains and has no limit: by the slots of a limit, the launcher knows what is under way."""


def worker_command(
    worker: dict[str, Any],
    *,
    opt: str,
    version: str,
    drain: int = 0,
    warm: bool = False,
    idle_minutes: int = 0,
    preload: Sequence[str] | None = None,
    wake: bool = False,
) -> list[str]:
    """Return the command line of a worker for a version of Prefect.

    If its flow runs are processes on this host, a launcher lets the kernel kill these first when memory is short.
    `--type` lets the worker start while the API is down, and `--install-policy` keeps it from adding packages to
    the release. From Prefect 3.7 on, an option keeps it from creating a missing pool: the inventory defines the pools.
    With `drain`, in seconds, it also lets the worker drain. With `warm`, it starts flow runs by a fork of a process
    that has imported Prefect and the modules `preload`; that of an environment remains for `idle_minutes` after its
    last flow run, and 0 keeps none. With `wake`, it looks at once for each flow run that is scheduled in its pool.
    """
    launcher = [f"{opt}/current/bin/python", f"{opt}/lib/launch-worker"] if worker["type"] == "process" else []
    if launcher:
        launcher += ["--drain", str(drain)] if drain else []
        launcher += ["--wake", worker["pool"]] if wake else []
        launcher += ["--warm", *(f"--preload={module}" for module in preload or ())] if warm else []
        launcher += ["--environments", f"{opt}/environments"] if warm and idle_minutes > 0 else []
        launcher += ["--idle-minutes", str(idle_minutes)] if warm and idle_minutes > 0 else []
    command = [*launcher, f"{opt}/current/bin/prefect", "--no-prompt"]
    command += ["worker", "start", "--name", worker["name"], "--pool", worker["pool"]]
    command += ["--type", worker["type"], "--install-policy", "never", "--with-healthcheck"]
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= (3, 7):
        command.append("--no-create-pool-if-not-found")
    if limit := max(int(worker["limit"] or 0), 0) or (UNLIMITED if drain else 0):
        command += ["--limit", str(limit)]
    for queue in worker["queues"]:
        command += ["--work-queue", queue]
    return command


def rescue_command(worker: dict[str, Any], *, opt: str, then: str, limit: int, knows_endings: bool = True) -> list[str]:
    """Return the command that handles the flow runs of a worker that has ended, or an empty list if none is wanted.

    Only flow runs that are processes on this host end with their worker.
    """
    if then == "leave" or worker["type"] != "process":
        return []
    command = [f"{opt}/current/bin/python", "-I", f"{opt}/lib/rescue-flow-runs"]
    command += ["--pool", worker["pool"], "--worker", worker["name"], "--identity", worker["identity"]]
    command += ["--formerly", worker["formerly"]] if worker["formerly"] else []
    # supervisord does not say how a program has ended, so a planned restart would count.
    command += ["--limit", str(limit)] if knows_endings else []
    return [*command, "--then", then]


def worker_services(
    found: list[dict[str, Any]],
    host: dict[str, Any],
    instance_options: dict[str, Any],
    *,
    version: str,
    interrupted: str,
    limit: int,
    drain: int = 0,
    warm: bool = False,
    idle_minutes: int = 0,
    preload: Sequence[str] | None = None,
    wake: bool = False,
) -> list[dict[str, Any]]:
    """Return the services of workers, whose shared options are already merged into each.

    `interrupted` is what to do with the flow runs that a worker leaves behind when it ends, and `limit` how often a
    flow run is restarted after its worker ended without being stopped. `drain` is how many seconds a process worker
    that is stopped waits for its flow runs; 0 is not at all. A worker of another type leaves them where they run.
    `warm`, `idle_minutes`, `preload` and `wake` are those of `worker_command`. Raises AnsibleFilterError if `preload`
    has what is no module.
    """
    if wrong := [module for module in preload or () if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", str(module))]:
        raise AnsibleFilterError(f"prefect_worker_preload: {', '.join(map(repr, wrong))}: not the name of a module")
    opt = host["dirs"]["opt"]
    command = functools.partial(
        worker_command, opt=opt, version=version, warm=warm, idle_minutes=idle_minutes, preload=preload, wake=wake
    )

    def draining(worker: dict[str, Any]) -> dict[str, Any]:
        if drain <= 0 or worker["type"] != "process":
            return {"command": command(worker)}
        return {
            "command": command(worker, drain=drain),
            "stop_timeout": worker["stop_timeout"] + drain,
            # In the instance's drop-in: a worker of another type has the same template. SIGTERM is for the worker only.
            "instance_options": instance_options
            | {
                name: value
                for name, value in {"KillMode": "mixed", "TimeoutStopSec": worker["stop_timeout"] + drain}.items()
                if name not in worker["options"]
            },
        }

    return [
        worker
        | {"instance_options": instance_options}
        | draining(worker)
        | {
            "name": f"{worker['template']}{worker['unit']}",
            "environment": {"PREFECT_WORKER_WEBSERVER_PORT": worker["health_port"]},
            "cleanup": rescue_command(
                worker,
                opt=opt,
                then=interrupted,
                limit=limit,
                knows_endings=host["service_manager"] == "systemd",
            ),
            "ports": {f"prefect_worker_health_port of {worker['unit']}": worker["health_port"]},
            "health": {"pool": worker["pool"], "worker": worker["name"]},
        }
        for worker in found
    ]


def serve_services(
    scripts: list[dict[str, Any]], host: dict[str, Any], shared: dict[str, Any], *, warm: bool = False
) -> list[dict[str, Any]]:
    """Return the services that run scripts which serve flows.

    With `warm`, a launcher starts their flow runs by a fork of a process that has imported Prefect.
    """
    python = [f"{host['dirs']['opt']}/current/bin/python"]
    python += [f"{host['dirs']['opt']}/lib/launch-worker", "--warm", "--served"] if warm else []
    return [
        shared
        | {
            "name": f"{shared['template']}{script['name']}",
            "command": [*python, f"{shared['working_directory']}/{script['path']}", *script.get("args", [])],
        }
        for script in scripts
    ]


def celery_services(
    found: list[dict[str, Any]], node: dict[str, Any], shared: dict[str, Any], *, host: str, defaults: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the services of Celery workers; ``defaults`` holds the default app, queues and concurrency.

    Raises AnsibleFilterError for a worker without an application, for two with the same name, or without a broker.
    """
    if not shared["settings"]["CELERY_BROKER_URL"]:
        raise AnsibleFilterError("prefect_celery_broker_url: there is no Redis in the inventory, so set it")
    names = [worker["name"] for worker in found]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise AnsibleFilterError(f"prefect_celery_workers: two workers have the name {', '.join(doubled)}")
    services = []
    for worker in found:
        given = defaults | {name: value for name, value in worker.items() if value is not None}
        if not given["app"]:
            raise AnsibleFilterError(f"prefect_celery_app: name the application of {given['name']}, as shop.tasks:app")
        python, name = f"{node['dirs']['opt']}/current/bin/python", f"{given['name']}@{host}"
        command = [python, "-m", "celery", "--app", given["app"], "worker"]
        command += ["--hostname", name, "--concurrency", str(given["concurrency"])]
        command += ["--queues", ",".join(given["queues"])] if given["queues"] else []
        command += ["--loglevel", "INFO", *given.get("options", [])]
        services.append(
            shared
            | {
                "name": f"{shared['template']}{given['name']}",
                "command": command,
                "health": {
                    "command": celery_ping(python, app=given["app"], name=name, directory=shared["working_directory"])
                },
            }
        )
    return services


def celery_ping(python: str, *, app: str, name: str, directory: str) -> list[str]:
    """Return the command that checks whether a Celery worker answers.

    It imports the application, which is flow code, so the module `services` runs it as the flows' account with the
    worker's settings. The shell changes to the code directory, and drops the process number that is appended.
    """
    ping = [python, "-m", "celery", "--app", app, "inspect", "ping", "--destination", name]
    return ["/bin/sh", "-c", f"cd {shlex.quote(directory)} && exec {shlex.join(ping)}", "celery-ping"]


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "celery_services": celery_services,
            "serve_services": serve_services,
            "worker_services": worker_services,
            "workers": workers,
        }
