"""Workers of a host, out of what an inventory says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.selfhosted.prefect.plugins.filter.workers import (
    celery_services,
    serve_services,
    worker_command,
    worker_services,
    workers,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost import launch
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.platform import uv_settings

HOST = {"dirs": {"opt": "/opt/prefect"}, "service_manager": "systemd"}
LAUNCHER = ["/opt/prefect/current/bin/python", "/opt/prefect/lib/launch-worker"]
START = [
    "/opt/prefect/current/bin/prefect",
    "--no-prompt",
    "worker",
    "start",
    "--name",
    "a-default",
    "--pool",
    "default",
    "--type",
    "process",
]
KEPT = ["--install-policy", "never", "--with-healthcheck", "--no-create-pool-if-not-found"]


def found(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    return workers(list(entries), host="a", installation={}, first_port=5200, limit=10)


@pytest.mark.parametrize(
    ("entries", "units", "ports"),
    [
        ([], [], []),
        ([{"pool": "default"}], ["default"], [5200]),
        ([{"pool": "default", "count": 0}], [], []),
        ([{"pool": "default", "count": 3}], ["default", "default-2", "default-3"], [5200, 5201, 5202]),
        ([{"pool": "a", "count": "2"}, {"pool": "b"}], ["a", "a-2", "b"], [5200, 5201, 5202]),
        ([{"pool": "a"}, {"pool": "b", "health_port": "6000", "count": 2}], ["a", "b", "b-2"], [5200, 6000, 6001]),
        ([{"pool": "a", "health_port": None}], ["a"], [5200]),
        ([{"pool": "Team A/ü @1%"}], ["Team-A----1-"], [5200]),
        ([{"pool": "a.b_c-1"}], ["a.b_c-1"], [5200]),
    ],
)
def test_units_and_ports(entries: list[dict[str, Any]], units: list[str], ports: list[int]) -> None:
    seen = found(*entries)
    assert [worker["unit"] for worker in seen] == units
    assert [worker["name"] for worker in seen] == [f"a-{unit}" for unit in units]
    assert [worker["health_port"] for worker in seen] == ports


def test_what_an_entry_leaves_out() -> None:
    assert found({"pool": "a b"}) == [
        {
            "unit": "a-b",
            "name": "a-a-b",
            "identity": "",
            "formerly": "",
            "pool": "a b",
            "type": "process",
            "limit": 10,
            "queues": [],
            "health_port": 5200,
        }
    ]


def test_a_name_ends_in_what_only_this_worker_of_this_installation_has() -> None:
    def names(*, host: str, key: str) -> list[str]:
        given = {"id": key, "formerly": {"default": "old-default"}}
        two = workers([{"pool": "default", "count": 2}], host=host, installation=given, first_port=5200, limit=10)
        assert [worker["formerly"] for worker in two] == ["old-default", ""]
        assert all(worker["name"] == f"{host}-{worker['unit']}-{worker['identity']}" for worker in two)
        return [worker["identity"] for worker in two]

    assert names(host="localhost", key="1" * 32) == names(host="renamed", key="1" * 32)
    four = names(host="localhost", key="1" * 32) + names(host="localhost", key="2" * 32)
    assert len(set(four)) == 4
    assert all(len(identity) == 8 for identity in four)


@pytest.mark.parametrize(("manager", "limit"), [("systemd", ["--limit", "2"]), ("supervisord", [])])
def test_the_rescue_gets_the_identity_the_name_before_and_the_limit(manager: str, limit: list[str]) -> None:
    """supervisord does not say whether a program was stopped, so nothing counts there."""
    given = {"id": "1" * 32, "formerly": {"b": "old-b"}}
    (worker,) = workers([{"pool": "b"}], host="a", installation=given, first_port=5200, limit=10)
    (service,) = worker_services(
        [worker | {"template": "prefect-worker@"}],
        HOST | {"service_manager": manager},
        {},
        version="3.8.8",
        interrupted="crash",
        limit=2,
    )
    assert service["health"]["worker"] == worker["name"]
    known = ["--worker", worker["name"], "--identity", worker["identity"], "--formerly", "old-b"]
    assert service["cleanup"][3:] == ["--pool", "b", *known, *limit, "--then", "crash"]


def test_what_an_entry_says() -> None:
    own = {"pool": "a", "type": "docker", "limit": 0, "queues": ["high"]}
    assert found(own)[0].items() >= own.items()


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([{}], "names no pool"),
        ([{"pool": ""}], "names no pool"),
        ([{"pool": "a"}, {"pool": "a"}], "two workers would be called a; use count"),
        ([{"pool": "a b"}, {"pool": "a-b"}], "two workers would be called a-b"),
        ([{"pool": "a", "count": 2}, {"pool": "a-2"}], "two workers would be called a-2"),
        ([{"pool": "a"}, {"pool": "b", "health_port": 5200}], "two workers would have the health port 5200"),
        (
            [{"pool": "a", "count": 2, "health_port": 6000}, {"pool": "b", "health_port": 6001}],
            "two workers would have the health port 6001",
        ),
    ],
)
def test_refused(entries: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(AnsibleFilterError, match=f"prefect_worker_instances: .*{says}"):
        found(*entries)


@pytest.mark.parametrize(
    ("own", "more"),
    [
        ({}, ["--limit", "10"]),
        ({"limit": 3}, ["--limit", "3"]),
        ({"limit": "3"}, ["--limit", "3"]),
        ({"limit": 0}, []),
        ({"limit": None}, []),
        ({"limit": -1}, []),
        ({"limit": 0, "queues": ["high", "low"]}, ["--work-queue", "high", "--work-queue", "low"]),
    ],
)
def test_command(own: dict[str, Any], more: list[str]) -> None:
    command = worker_command(found({"pool": "default"} | own)[0], opt="/opt/prefect", version="3.8.8")
    assert command == [*LAUNCHER, *START, *KEPT, *more]


@pytest.mark.parametrize(
    ("ways", "options"),
    [
        ({}, []),
        ({"idle_minutes": 15, "preload": ["pandas"]}, []),
        ({"warm": True, "preload": ["pandas", "a.b"]}, ["--warm", "--preload=pandas", "--preload=a.b"]),
        ({"wake": True}, ["--wake", "default"]),
        (
            {"warm": True, "idle_minutes": 15},
            ["--warm", "--environments", "/opt/prefect/environments", "--idle-minutes", "15"],
        ),
    ],
)
def test_a_warm_worker_has_its_launcher_say_so(ways: dict[str, Any], options: list[str]) -> None:
    command = worker_command(found({"pool": "default"})[0], opt="/opt/prefect", version="3.8.8", **ways)
    assert command[: command.index(START[0])] == [*LAUNCHER, *options]
    parsed = launch.parsed(command[2:])
    assert parsed.program[0] == START[0]
    expected = Path("/opt/prefect/environments") if "--environments" in options else None
    assert (parsed.warm, parsed.environments) == (ways.get("warm", False), expected)
    assert parsed.wake == ("default" if ways.get("wake") else None)


def test_only_flow_runs_that_are_processes_here_need_a_launcher() -> None:
    command = worker_command(found({"pool": "default", "type": "docker"})[0], opt="/opt/prefect", version="3.8.8")
    assert command[0] == "/opt/prefect/current/bin/prefect"


def test_services() -> None:
    merged = [
        worker | {"template": "prefect-worker@", "settings_file": "worker.env"} for worker in found({"pool": "b"})
    ]
    (service,) = worker_services(merged, HOST, {"MemoryMax": "1G"}, version="3.8.8", interrupted="leave", limit=2)
    assert service["name"] == "prefect-worker@b"
    assert service["command"][:3] == [*LAUNCHER, "/opt/prefect/current/bin/prefect"]
    assert service["environment"] == {"PREFECT_WORKER_WEBSERVER_PORT": 5200}
    assert service["health"] == {"pool": "b", "worker": "a-b"}
    assert service["instance_options"] == {"MemoryMax": "1G"}
    assert service["settings_file"] == "worker.env"


def test_a_process_worker_drains_by_its_launcher_and_has_time_for_it() -> None:
    """A worker of another type has the same template, and what the unit's options say stays."""
    shared = {"template": "prefect-worker@", "stop_timeout": 60, "options": {"ProtectHome": True}}
    merged = [worker | shared for worker in found({"pool": "a", "limit": 0}, {"pool": "b", "type": "docker"})]
    merged[0]["options"] = {"TimeoutStopSec": "1h"}

    def services(*, drain: int) -> list[dict[str, Any]]:
        options = {"MemoryMax": "1G"}
        return worker_services(merged, HOST, options, version="3.8.8", interrupted="leave", limit=2, drain=drain)

    plain, (own, docker) = services(drain=0), services(drain=600)
    assert docker == plain[1]
    assert plain[0]["command"][2] == "/opt/prefect/current/bin/prefect" and "--limit" not in plain[0]["command"]
    assert plain[0]["stop_timeout"] == 60
    # The launcher knows flow runs by the slots that they hold.
    assert own["command"][2:5] == ["--drain", "600", "/opt/prefect/current/bin/prefect"]
    assert own["command"][-2:] == ["--limit", "1000000"]
    assert own["stop_timeout"] == 660
    assert own["instance_options"] == {"MemoryMax": "1G", "KillMode": "mixed"}
    merged[0]["options"] = {}
    more = {"KillMode": "mixed", "TimeoutStopSec": 660}
    assert services(drain=600)[0]["instance_options"] == {"MemoryMax": "1G", **more}


def test_what_is_served() -> None:
    shared = {"template": "prefect-serve@", "working_directory": "/flows", "settings_file": "serve.env"}
    scripts: list[dict[str, Any]] = [
        {"name": "shop", "path": "shop/serve.py"},
        {"name": "mail", "path": "m.py", "args": ["a b"]},
    ]
    shop, mail = serve_services(scripts, HOST, shared)
    assert (shop["name"], mail["name"]) == ("prefect-serve@shop", "prefect-serve@mail")
    assert shop["command"] == ["/opt/prefect/current/bin/python", "/flows/shop/serve.py"]
    assert mail["command"][1:] == ["/flows/m.py", "a b"]
    assert shop["settings_file"] == "serve.env"
    *_, warm = serve_services(scripts, HOST, shared, warm=True)
    assert warm["command"] == [*LAUNCHER, "--warm", "--served", "/flows/m.py", "a b"]
    parsed = launch.parsed([*warm["command"][2:], "--warm"])
    assert (parsed.served, parsed.environments, parsed.program) == (True, None, ["/flows/m.py", "a b", "--warm"])


@pytest.mark.parametrize(
    ("version", "told"), [("3.5.0", False), ("3.6.29", False), ("3.7.0", True), ("3.10.1rc1", True)]
)
def test_only_a_prefect_that_knows_the_option_is_told_to_make_no_pool(version: str, told: bool) -> None:
    command = worker_command(found({"pool": "default"})[0], opt="/opt/prefect", version=version)
    assert ("--no-create-pool-if-not-found" in command) is told


def celery(*workers: dict[str, Any], broker: str = "redis://h/2", app: str = "shop:app") -> list[dict[str, Any]]:
    shared = {
        "template": "prefect-celery@",
        "settings": {"CELERY_BROKER_URL": broker},
        "working_directory": "/my flows",
    }
    return celery_services(list(workers), HOST, shared, host="a", defaults={"app": app, "queues": [], "concurrency": 2})


def test_celery_workers_take_what_they_leave_out_from_the_role() -> None:
    one, two = celery({"name": "default"}, {"name": "big", "queues": ["q", "r"], "concurrency": 8, "options": ["-E"]})
    begin = ["/opt/prefect/current/bin/python", "-m", "celery", "--app", "shop:app", "worker", "--hostname"]
    assert one["name"] == "prefect-celery@default"
    assert one["command"] == [*begin, "default@a", "--concurrency", "2", "--loglevel", "INFO"]
    ping = "cd '/my flows' && exec /opt/prefect/current/bin/python -m celery --app shop:app inspect ping"
    assert one["health"]["command"][:3] == ["/bin/sh", "-c", f"{ping} --destination default@a"]
    assert two["command"] == [*begin, "big@a", "--concurrency", "8", "--queues", "q,r", "--loglevel", "INFO", "-E"]


@pytest.mark.parametrize(
    ("workers", "options", "said"),
    [
        ([{"name": "a"}], {"broker": ""}, "prefect_celery_broker_url: there is no Redis in the inventory"),
        ([{"name": "a"}], {"app": ""}, "prefect_celery_app: name the application of a"),
        ([{"name": "a"}, {"name": "a"}], {}, "two workers have the name a"),
    ],
)
def test_celery_workers_that_cannot_be_are_refused(
    workers: list[dict[str, Any]], options: dict[str, str], said: str
) -> None:
    with pytest.raises(AnsibleFilterError, match=said):
        celery(*workers, **options)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://mirror.example.com/index", "https://mirror.example.com/index"),
        ("https://user:pass@mirror.example.com/index", "https://mirror.example.com/index"),
        ("https://token@mirror.example.com/a@b/index", "https://mirror.example.com/a@b/index"),
        ("http://user:p@ss@[::1]:8080/index", "http://[::1]:8080/index"),
        ("https://mirror.example.com/a@b", "https://mirror.example.com/a@b"),
    ],
)
def test_flows_get_the_package_index_without_its_credential(url: str, shown: str) -> None:
    host = {"scope": "system", "dirs": {"opt": "/opt/prefect", "bin": "/usr/local/bin"}}
    assert uv_settings(host, index_url=url)["UV_DEFAULT_INDEX"] == shown


def test_flows_find_uv_before_anything_else_and_the_release_below_it() -> None:
    dirs = {"opt": "/opt/prefect", "bin": "/usr/local/bin"}
    found = uv_settings({"scope": "system", "dirs": dirs}, index_url="")
    assert found == {
        "PATH": "/opt/prefect/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "UV_PYTHON": "/opt/prefect/current/bin/python",
        "UV_SYSTEM_CERTS": "true",
    }
    dirs = {"opt": "/home/ada/.local/share/prefect", "bin": "/home/ada/.local/bin"}
    path = uv_settings({"scope": "user", "dirs": dirs}, index_url="")["PATH"]
    assert path.startswith("/home/ada/.local/share/prefect/bin:/home/ada/.local/bin:/usr/local/sbin:")
