"""Work pools by their module, the engine under it, and what the HTTP layer hides from both."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import fake_objects
import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import (
    Api,
    ApiError,
    Failure,
    worker_online_since,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS
from ansible_collections.selfhosted.prefect.plugins.modules import work_pool
from fake_api import FakeApi, Fault, now, outcome

TEMPLATE = {"job_configuration": {"env": "x"}, "variables": {"type": "object"}}
OTHER_TEMPLATE = {**TEMPLATE, "variables": {"type": "object", "properties": {}}}

MISSPELT_TEMPLATE = {"job_configuration": {"env": "{{ evn }}"}, "variables": {"properties": {"env": {}}}}

CREATE, UPDATE, DELETE = "POST /work_pools/", "PATCH /work_pools/main", "DELETE /work_pools/main"

TABLE: list[tuple[dict[str, Any] | None, dict[str, Any], list[str]]] = [
    (None, {}, [CREATE]),
    (None, {"type": "docker", "description": "d", "concurrency_limit": 3, "is_paused": True}, [CREATE]),
    (None, {"concurrency_limit": -1, "description": ""}, [CREATE]),
    (None, {"concurrency_limit": 0}, [CREATE]),
    (None, {"base_job_template": TEMPLATE}, [CREATE]),
    (None, {"state": "absent"}, []),
    ({}, {}, []),
    ({}, {"state": "absent"}, [DELETE]),
    ({"type": "docker"}, {}, []),
    ({"type": "docker"}, {"type": "docker"}, []),
    ({}, {"concurrency_limit": 3}, [UPDATE]),
    ({"concurrency_limit": 3}, {"concurrency_limit": 3}, []),
    ({"concurrency_limit": 3}, {"concurrency_limit": "3"}, []),
    ({"concurrency_limit": 3}, {}, []),
    ({"concurrency_limit": 3}, {"concurrency_limit": -1}, [UPDATE]),
    ({"concurrency_limit": 3}, {"concurrency_limit": 0}, [UPDATE]),
    ({}, {"concurrency_limit": -1}, []),
    ({"description": "d"}, {"description": ""}, [UPDATE]),
    ({"description": "d"}, {"description": "d"}, []),
    ({}, {"description": ""}, []),
    ({"is_paused": True}, {}, []),
    ({"is_paused": True}, {"is_paused": False}, [UPDATE]),
    ({}, {"is_paused": False}, []),
    ({"base_job_template": TEMPLATE}, {}, []),
    ({"base_job_template": TEMPLATE}, {"base_job_template": TEMPLATE}, []),
    ({"base_job_template": TEMPLATE}, {"base_job_template": OTHER_TEMPLATE}, [UPDATE]),
    ({"concurrency_limit": 3, "description": "d"}, {"concurrency_limit": 4, "is_paused": True}, [UPDATE]),
]


def pool(fake: FakeApi, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    result: dict[str, Any] = outcome(
        work_pool.main, check_mode=check_mode, **{"api_url": fake.url, "name": "main", **options}
    )
    return result


def managed(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what is asked for in an object, without what the server adds."""
    return result and {name: result.get(name) for name in ("name", *KINDS["work_pool"].fields)}


@pytest.mark.parametrize(("existing", "wanted", "writes"), TABLE)
def test_dry_for_real_and_again(
    fake: FakeApi, existing: dict[str, Any] | None, wanted: dict[str, Any], writes: list[str]
) -> None:
    if existing is not None:
        fake.add_pool("main", **existing)

    dry = pool(fake, check_mode=True, **wanted)
    assert fake.writes == []

    real = pool(fake, **wanted)
    assert fake.writes == writes
    assert dry["changed"] is real["changed"] is bool(writes)
    assert dry["diff"] == real["diff"]
    assert (real["diff"]["before"] != real["diff"]["after"]) is bool(writes)
    assert managed(real["object"]) == managed(fake.pools.get("main"))
    if existing is not None:
        assert managed(dry["object"]) == managed(real["object"])

    again = pool(fake, **wanted)
    assert again["changed"] is False
    assert fake.writes == writes
    for option, value in wanted.items():
        if option != "state":
            cleared = value in (-1, "")
            assert fake.pools["main"][option] == (None if cleared else type(fake.pools["main"][option])(value))


def test_only_what_differs_is_written(fake: FakeApi) -> None:
    fake.add_pool("main", concurrency_limit=3, description="d")
    pool(fake, concurrency_limit=4, description="d", is_paused=False)
    assert fake.bodies[fake.requests.index(UPDATE)] == {"concurrency_limit": 4}


def test_unchanged_takes_one_request(fake: FakeApi) -> None:
    fake.add_pool("main")
    pool(fake, type="process")
    assert fake.requests == ["GET /work_pools/main"]


def test_a_name_is_one_segment_of_the_path(fake: FakeApi) -> None:
    pool(fake, name="Ünï ?#1")
    assert pool(fake, name="Ünï ?#1")["changed"] is False
    assert list(fake.pools) == ["Ünï ?#1"]


def test_an_immutable_field_where_that_is_allowed(fake: FakeApi) -> None:
    fake.add_pool("main", type="docker")
    fake.add_deployment("hello", "default", pool="main")["work_queue_name"] = "slow"
    fake.queues[("main", "slow")] = fake_objects.queue("main", "slow", priority=2, concurrency_limit=3)
    dry = pool(fake, type="process", recreate=True, check_mode=True)
    assert (dry["changed"], fake.writes) == (True, [])
    assert pool(fake, type="process", recreate=True)["changed"] is True
    assert fake.pools["main"]["type"] == "process"
    (deployment,) = fake.deployments.values()
    assert (deployment["work_pool_name"], deployment["work_queue_name"]) == ("main", "slow")
    assert fake.queues[("main", "slow")]["concurrency_limit"] == 3


def test_immutable_field(fake: FakeApi) -> None:
    fake.add_pool("main", type="docker")
    result = pool(fake, type="process", concurrency_limit=1)
    assert result["failed"]
    assert "type is 'docker', not 'process'" in result["msg"]
    assert "recreate: true" in result["msg"]
    assert fake.writes == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "Prefect-pool"}, "start with 'prefect'"),
        ({"name": "a/b"}, "/ % & < >"),
        ({"concurrency_limit": -2}, "concurrency_limit is -2"),
        ({"base_job_template": {}}, "leave it out"),
        ({"base_job_template": {"variables": {}}}, "job_configuration"),
        ({"base_job_template": {"job_configuration": {"a": 1}, "variables": {}}}, "neither empty"),
        (
            {"base_job_template": {"job_configuration": {"a": "{{ evn }}"}, "variables": {"properties": {"env": {}}}}},
            "env?",
        ),
        ({"api_url": "localhost:4200/api"}, "http://127.0.0.1:4200/api"),
        ({"api_url": "http://user:secret@localhost:4200/api"}, "api_auth"),
        ({"api_ca": "/no/such/file.pem"}, "api_ca is /no/such/file.pem"),
    ],
)
def test_refused_before_the_first_request(fake: FakeApi, options: dict[str, Any], words: str) -> None:
    result = pool(fake, **options)
    assert result["failed"]
    assert words in result["msg"]
    assert fake.requests == []


def test_all_problems_at_once(fake: FakeApi) -> None:
    message = pool(fake, name="prefect/", concurrency_limit=-2)["msg"]
    assert all(words in message for words in ("start with 'prefect'", "/ % & < >", "concurrency_limit is -2"))


def test_a_name_that_cannot_be_is_absent(fake: FakeApi) -> None:
    assert pool(fake, name="prefect", state="absent")["changed"] is False


def test_two_hosts_create_at_the_same_time(fake: FakeApi) -> None:
    def other(request: str) -> None:
        if request == CREATE and "main" not in fake.pools:
            fake.add_pool("main")

    fake.before = other
    assert pool(fake)["changed"] is False


def test_two_hosts_create_differently_at_the_same_time(fake: FakeApi) -> None:
    def other(request: str) -> None:
        if request == CREATE and "main" not in fake.pools:
            fake.add_pool("main", concurrency_limit=7)

    fake.before = other
    assert pool(fake, concurrency_limit=3)["changed"] is True
    assert fake.pools["main"]["concurrency_limit"] == 3


def test_two_hosts_delete_at_the_same_time(fake: FakeApi) -> None:
    fake.add_pool("main")

    def other(request: str) -> None:
        if request == DELETE:
            fake.pools.clear()

    fake.before = other
    result = pool(fake, state="absent")
    assert not result.get("failed")
    assert result["changed"] is False


def test_a_conflict_that_stays_fails(fake: FakeApi) -> None:
    def refuse(request: str) -> None:
        if request == CREATE:
            fake.faults.append(Fault(status=409, body={"detail": "for another reason"}))

    fake.before = refuse
    result = pool(fake)
    assert result["failed"]
    assert "409 Conflict: for another reason" in result["msg"]


@pytest.mark.parametrize("status", [None, 502])
def test_an_answer_that_was_lost_is_still_a_change(fake: FakeApi, status: int | None) -> None:
    def lose(request: str) -> None:
        if request == CREATE and not fake.pools:
            fake.faults.append(Fault(status=status, carried_out=True))

    fake.before = lose
    result = pool(fake)
    assert result["changed"] is True
    assert list(fake.pools) == ["main"]


@pytest.mark.parametrize("status", [408, 429, 502, 503, None])
def test_tried_again(fake: FakeApi, status: int | None) -> None:
    fake.faults.append(Fault(status=status))
    assert pool(fake)["changed"] is True
    assert len(fake.requests) == 4


def test_a_connection_that_the_server_ends_after_503_is_not_tried(fake: FakeApi) -> None:
    with Api(fake.url) as api:
        api.get("/admin/version")
        fake.faults.append(Fault(status=503))
        api.get("/admin/version")
        assert api.sent == len(fake.requests) == 3


def test_retries_end(fake: FakeApi) -> None:
    fake.faults.extend([Fault(status=503, body={"exception_message": "Service Unavailable"})] * 9)
    with Api(fake.url, patience=0.5) as api, pytest.raises(ApiError, match=r"503 .*tried \d times.*Unavailable"):
        api.get("/work_pools/main")
    assert len(fake.requests) >= 2


def test_other_errors_are_not_tried_again(fake: FakeApi) -> None:
    fake.faults.append(Fault(status=500, body={"exception_message": "Internal Server Error"}))
    result = pool(fake)
    assert result["request"] == {
        "method": "GET",
        "path": "/work_pools/main",
        "status": 500,
        "body": {"exception_message": "Internal Server Error"},
    }
    assert len(fake.requests) == 1


def test_retry_after_is_kept_to(fake: FakeApi) -> None:
    fake.add_pool("main")
    fake.faults.append(Fault(status=429, headers={"Retry-After": "1"}))
    began = time.monotonic()
    with Api(fake.url) as api:
        api.get("/work_pools/main")
    assert time.monotonic() - began >= 1


def test_retry_after_beyond_our_patience_fails_at_once(fake: FakeApi) -> None:
    fake.faults.append(Fault(status=503, headers={"Retry-After": "3600"}))
    with Api(fake.url) as api, pytest.raises(ApiError):
        api.get("/work_pools/main")
    assert len(fake.requests) == 1


def test_maintenance_is_waited_for_longer(fake: FakeApi) -> None:
    fake.add_pool("main")
    fake.faults.append(Fault(status=503, headers={"Prefect-Maintenance": "true"}))
    with Api(fake.url, patience=0.0) as api:
        assert api.get("/work_pools/main")["name"] == "main"


def test_one_connection_for_many_requests(fake: FakeApi) -> None:
    with Api(fake.url) as api:
        for _ in range(20):
            api.get("/admin/version")
    assert fake.connections == 1


def test_nothing_listens(fake: FakeApi) -> None:
    began = time.monotonic()
    result = pool(fake, api_url="http://127.0.0.1:1/api")
    assert "GET http://127.0.0.1:1/api/work_pools/main: no answer" in result["msg"]
    assert "refused" in result["msg"]
    assert time.monotonic() - began < 1


def test_a_server_that_goes_away_half_way_is_waited_for(fake: FakeApi) -> None:
    with Api(fake.url, patience=0.5) as api:
        api.get("/admin/version")
        fake.faults.extend([Fault(status=None)] * 99)
        with pytest.raises(ApiError, match=r"no answer \(tried"):
            api.get("/admin/version")
    assert len(fake.requests) > 2


def test_a_server_that_restarts_is_waited_for() -> None:
    with FakeApi() as fake:
        api = Api(fake.url, patience=0.5)
        api.get("/admin/version")
        api.close()
    with pytest.raises(ApiError, match=r"no answer \(tried \d times\): .*refused"):
        api.get("/admin/version")


def test_a_proxy_is_asked_for_the_whole_address(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", fake.root)
    assert pool(fake, api_url="http://prefect.example.org/api")["changed"] is True
    assert fake.hosts == {"prefect.example.org"}


def test_no_proxy(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert pool(fake)["changed"] is True


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=403, body=b"<html>Access denied</html>"),
        Fault(status=407, body=b""),
        Fault(status=200, body=b"<html>Please log in</html>"),
        Fault(status=200, body={"message": "blocked"}),
    ],
)
def test_an_answer_of_a_proxy_names_it(
    fake: FakeApi, monkeypatch: pytest.MonkeyPatch, variable: str, fault: Fault
) -> None:
    address = fake.root.removeprefix("http://")
    monkeypatch.setenv(variable, f"http://me:s3cret@{address}")
    fake.faults.append(fault)
    said = pool(fake, api_url="http://prefect.example.org/api")["msg"]
    assert f"the request went through the proxy {address}, which {variable} names in the environment" in said
    assert said.endswith("add prefect.example.org to no_proxy")
    assert "s3cret" not in said
    # Prefect's own refusal came through it as well, and is not the proxy's.
    fake.faults.append(Fault(status=409, body={"detail": "no"}))
    assert "proxy" not in pool(fake, api_url="http://prefect.example.org/api")["msg"]
    assert "proxy" not in pool(fake, api_url="ftp://prefect.example.org/api")["msg"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_away_is_named(fake: FakeApi, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", "127.0.0.1:1")
    said = pool(fake, api_url=f"{scheme}://prefect.example.org/api")["msg"]
    assert f"the request went through the proxy 127.0.0.1:1, which {scheme}_proxy names" in said


def test_a_server_of_this_host_is_asked_without_a_proxy(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with Api(fake.url, direct=True) as api:
        assert api.get("/admin/version")


def test_a_wrong_address_is_not_absence(fake: FakeApi) -> None:
    result = pool(fake, api_url=fake.root, state="absent")
    assert result["failed"]
    assert "api_url usually ends in /api" in result["msg"]


def test_a_page_is_not_an_answer(fake: FakeApi) -> None:
    fake.faults.append(Fault(status=200, body=b"<html>the UI</html>"))
    assert "that is not Prefect's API" in pool(fake)["msg"]


def test_a_redirect_names_its_target(fake: FakeApi) -> None:
    fake.faults.append(Fault(status=301, headers={"Location": "https://prefect.example.org/api"}))
    assert "redirects to https://prefect.example.org/api: correct api_url" in pool(fake)["msg"]


def test_a_trailing_slash_is_taken(fake: FakeApi) -> None:
    assert pool(fake, api_url=f"{fake.url}/")["changed"] is True


def test_an_error_does_not_repeat_the_request(fake: FakeApi) -> None:
    fake.add_pool("main")
    with Api(fake.url) as api, pytest.raises(ApiError) as caught:
        api.call("PATCH", "/work_pools/main", {"type": "s3cret"})
    assert "type: Extra inputs are not permitted" in str(caught.value)
    assert "s3cret" not in f"{caught.value} {caught.value.details}"


def test_auth(fake: FakeApi) -> None:
    fake.auth = "admin:pass:wörd"
    assert pool(fake, api_auth="admin:pass:wörd")["changed"] is True
    assert "set api_auth" in pool(fake)["msg"]


def test_options_from_the_environment(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.auth = "admin:password"
    monkeypatch.setenv("PREFECT_API_URL", fake.url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:password")
    assert outcome(work_pool.main, name="main")["changed"] is True


@pytest.mark.parametrize("csrf", [True, False])
def test_csrf_token(fake: FakeApi, csrf: bool) -> None:
    fake.csrf = "token"
    assert pool(fake, api_csrf=csrf)["changed"] is True
    assert len(fake.requests) == (4 if csrf else 5)


def test_csrf_token_that_expired(fake: FakeApi) -> None:
    fake.csrf = "first"
    with Api(fake.url) as api:
        api.post("/work_pools/", {"name": "one"})
        fake.csrf = "second"
        api.post("/work_pools/", {"name": "two"})
    assert list(fake.pools) == ["one", "two"]


def test_csrf_where_the_server_has_none(fake: FakeApi) -> None:
    assert pool(fake, api_csrf=True)["changed"] is True


def test_pages(fake: FakeApi) -> None:
    for number in range(401):
        fake.add_pool(f"pool-{number}")
    with Api(fake.url) as api:
        assert len(list(api.pages("/work_pools/filter"))) == 401
    assert len(fake.requests) == 3


def test_pages_of_a_server_with_a_lower_limit(fake: FakeApi) -> None:
    fake.page = 50
    for number in range(120):
        fake.add_pool(f"pool-{number}")
    with Api(fake.url) as api:
        assert len(list(api.pages("/work_pools/filter"))) == 120
        assert len(list(api.pages("/work_pools/filter"))) == 120
        assert len(list(api.pages("/work_pools/filter", most=70))) == 70
    assert len(fake.requests) == 1 + 3 + 3 + 2, "the limit is asked for once"


def test_pages_whose_order_changes(fake: FakeApi) -> None:
    """PostgreSQL orders deployments of one name as it likes, differently for each page."""
    for number in range(450):
        fake.add_pool(f"pool-{number}")
    order = random.Random(7)

    def shuffle(request: str) -> None:
        pools = list(fake.pools.items())
        order.shuffle(pools)
        fake.pools = dict(pools)

    fake.before = shuffle
    with Api(fake.url) as api:
        names = [row["name"] for row in api.pages("/work_pools/filter")]
    assert len(names) == len(set(names)) == 450


def test_pages_that_never_agree(fake: FakeApi) -> None:
    """A proxy that answers each page from its cache, say."""
    fake.add_pool("main")
    row = fake.pools["main"]
    fake.faults.extend([Fault(status=200, body=[row] * 200), Fault(status=200, body=[row])] * 12)
    with Api(fake.url) as api, pytest.raises(Failure, match="201 objects were returned and 1 different"):
        list(api.pages("/work_pools/filter"))


FOREIGN: list[bytes | None] = [
    None,
    b"null",
    b"[]",
    b"{}",
    b"true",
    b"7",
    b'"ok"',
    b'{"status": "ok"}',
    b'[{"status": "ok"}]',
    b'{"id": 7}',
]
REQUESTS: dict[str, list[bytes | None]] = {
    "GET /admin/version": [b'"ok"'],
    "GET /work_pools/main": [],
    "POST /work_pools/": [],
    "POST /variables/": [],
    "POST /deployments/": [],
    "POST /work_pools/filter": [b"[]"],
    "POST /flow_runs/count": [b"7"],
    "POST /flow_runs/1/set_state": [b'{"status": "ok"}'],
    "POST /deployments/1/create_flow_run": [],
    "POST /events/filter": [],
    "PATCH /work_pools/main": [],
    "DELETE /work_pools/main": [None, b"null"],
}
"""Requests, with those of the foreign answers that Prefect might give as well."""


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize(
    ("request_", "body"), [(each, body) for each, known in REQUESTS.items() for body in FOREIGN if body not in known]
)
def test_what_is_not_prefect_is_no_success(fake: FakeApi, request_: str, status: int, body: bytes | None) -> None:
    """A health check of another program answers everything with 200."""
    fake.faults.append(Fault(status=status, body=body))
    method, path = request_.split()
    with Api(fake.url) as api, pytest.raises(ApiError, match="that is not Prefect's API"):
        api.call(method, path, {})


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"[]", b'{"status": "ok"}', b'"ok"'])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_module_fails_at_what_is_not_prefect(fake: FakeApi, state: str, body: bytes) -> None:
    fake.faults.extend([Fault(status=200, body=body)] * 9)
    result = pool(fake, state=state)
    assert result["failed"] and "that is not Prefect's API" in result["msg"]
    assert not result.get("changed")


def test_a_worker_that_is_offline_is_not_online(fake: FakeApi) -> None:
    fake.add_pool("main")
    fake.add_worker("main", "one", status="OFFLINE", heartbeat=now())
    with Api(fake.url) as api:
        since = datetime(2026, 1, 1, tzinfo=timezone.utc)
        assert not worker_online_since(api, pool="main", worker="one", since=since)


def test_clocks_that_differ(fake: FakeApi) -> None:
    """The heartbeat is in the server's time, `since` in the client's: a server an hour ahead has heard nothing new."""
    fake.add_pool("main")
    ahead = timedelta(hours=1)
    before_the_start = datetime.now(timezone.utc) + ahead - timedelta(minutes=1)
    fake.add_worker("main", "one", heartbeat=before_the_start.isoformat())
    with Api(fake.url) as api:
        fake.clock_ahead = ahead
        assert not worker_online_since(api, pool="main", worker="one", since=datetime.now(timezone.utc))
        fake.workers["main"][0]["last_heartbeat_time"] = (datetime.now(timezone.utc) + ahead).isoformat()
        since = datetime.now(timezone.utc) - timedelta(seconds=10)
        assert worker_online_since(api, pool="main", worker="one", since=since)


@pytest.mark.parametrize("body", [b"[null]", b"[1]", b"[[]]", b"[{}]", b'[{"id": 1}]'])
@pytest.mark.parametrize("path", ["/work_pools/filter", "/variables/filter", "/flow_runs/history"])
def test_a_list_of_something_else_is_no_answer(fake: FakeApi, path: str, body: bytes) -> None:
    fake.faults.append(Fault(status=200, body=body))
    with Api(fake.url) as api, pytest.raises(ApiError, match=r"a list with .* in place of objects"):
        api.post(path, {})
