"""Client of Prefect's REST API, and the only HTTP client of the collection.

One `Api` holds one connection and keeps it alive: a TLS handshake per request would cost more than the request. It
hides what a caller should not need to know: CSRF tokens, pages, SQLite's random 503, a proxy's maintenance page.
Nothing here needs Ansible: `prefect-info` and the exporter use it on hosts without Ansible.
"""

from __future__ import annotations

import base64
import copy
import http.client
import itertools
import json
import os
import random
import re
import ssl
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

PROBE = "selfhosted_prefect_status_"
"""Prefix of the variables that a status check creates and removes to see whether the server writes."""

PAGE = 200
"""Objects per page: Prefect's default for PREFECT_SERVER_API_DEFAULT_LIMIT.

A server with a lower limit answers 422 and names it.
"""

PASSES = 12
"""How often a listing is read, at most, until it is complete."""

ROWS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (route, frozenset({"id", *fields}))
    for route, fields in (
        (r"/work_pools/[^/]+/workers", ("name", "status", "last_heartbeat_time")),
        (r"/work_pools/[^/]+/queues", ("name", "priority")),
        (r"/work_queues", ("name", "priority")),
        (r"/work_pools", ("name", "type")),
        (r"/deployments/[^/]+/schedules", ("active", "schedule")),
        (r"/deployments/[^/]+/create_flow_run", ("name", "state_type")),
        (r"/deployments", ("name", "flow_id")),
        (r"/flow_runs", ("name", "state_type")),
        (r"/flows", ("name", "tags")),
        (r"/variables", ("name", "value")),
        (r"/v2/concurrency_limits", ("name", "limit")),
        (r"/concurrency_limits", ("tag", "concurrency_limit")),
        (r"/block_types/slug/[^/]+/block_documents", ("data", "block_type")),
        (r"/block_documents", ("data", "block_type")),
        (r"/block_types", ("name", "slug")),
        (r"/block_schemas", ("fields", "block_type_id")),
        (r"/automations", ("name", "trigger")),
        (r"/logs", ("message", "level")),
    )
)
"""Fields of every object below a route, from prefect.server.schemas. The first matching route counts."""

VALUES: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    (r"GET /health", bool, ()),
    (r"GET /ready", dict, ("message",)),
    (r"GET /admin/version", str, ()),
    (r"GET /admin/settings", dict, ("server",)),
    (r"(?:GET|PUT) /admin/storage", dict, ("default_result_storage_block_id",)),
    (r"GET /csrf-token", dict, ("token",)),
    (r"GET /collections/.*", dict, ()),
    (r"POST /.*/count", int, ()),
    (r"POST /flow_runs/history", list, ("states",)),
    (r"GET /flow_run_states/", list, ()),
    (r"POST /events/filter", dict, ("events",)),
    (r"POST /logs/", type(None), ()),
    (r"POST /flow_runs/[^/]+/(?:set_state|resume)", dict, ("status",)),
)
"""Answers other than objects: method and route, type, and the required keys of a mapping or of the list's elements."""

RETRIED = frozenset({408, 429, 502, 503})
"""Status codes that Prefect's own client retries, too. SQLite causes a 503 whenever another writer holds its lock."""


class Failure(Exception):
    """An error that ends a module: a message that the user can act on, and `details` for the play."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class ApiError(Failure):
    """A request that did not succeed.

    `status` is None if no response arrived; `body` is then the reason. `lost` means that an attempt got no response:
    the server may have carried it out nevertheless.
    """

    def __init__(
        self,
        *,
        method: str,
        url: str,
        path: str,
        status: int | None,
        body: Any,
        sent: int = 1,
        lost: bool = False,
        hint: str = "",
    ) -> None:
        self.method, self.path, self.status, self.body, self.lost = method, path, status, _scrub(body), lost
        answer = "no answer" if status is None else f"{status} {http.client.responses.get(status, '')}".rstrip()
        if sent > 1:
            answer += f" (tried {sent} times)"
        parts = (f"{method} {url}{path}", answer, _explain(self.body), hint)
        super().__init__(
            ": ".join(part for part in parts if part),
            request={"method": method, "path": path, "status": status, "body": self.body},
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response: `body` is parsed JSON (None if empty), or the text if it was not JSON."""

    status: int
    headers: Message
    body: Any
    is_json: bool

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300 and self.is_json

    @property
    def refuses_csrf(self) -> bool:
        return self.status == 403 and "CSRF" in str(self.body)

    @property
    def is_maintenance(self) -> bool:
        return self.headers.get("Prefect-Maintenance") == "true"


class Api:
    """A connection to one Prefect API.

    `auth` is `user:password`, `ca` a PEM file of certificate authorities, `timeout` the seconds to wait for data.
    `csrf` fetches a token before the first write; without it, a token is fetched when the server requires one.
    `patience` and `maintenance` limit, in seconds, how long a request is retried: after a retryable response or a
    dropped connection, and while a proxy sends `Prefect-Maintenance: true`. A server that has never answered is not
    retried: a wrong address is more likely than a restart, and `services` waits for restarts. An instance must not be
    shared by threads: give each its own, by `twin`. `direct` bypasses the environment's proxies, for a server on this
    host. `busy` is called whenever the server could not handle a request, `sent` counts the requests sent.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: str | None = None,
        ca: str | None = None,
        validate_certs: bool = True,
        timeout: float = 60.0,
        csrf: bool = False,
        headers: Mapping[str, str] | None = None,
        patience: float = 20.0,
        maintenance: float = 300.0,
        direct: bool = False,
    ) -> None:
        self.url = url.strip().rstrip("/")
        split = urlsplit(self.url)
        if split.scheme not in {"http", "https"} or not split.hostname:
            raise Failure(f"api_url is {url!r}: it should look like http://127.0.0.1:4200/api")
        if split.username is not None:
            raise Failure("api_url holds a user and password: give them in api_auth, as user:password")
        if ca and not Path(ca).is_file():
            raise Failure(f"api_ca is {ca}: there is no such file on this host")
        self.timeout, self.patience, self.maintenance = timeout, patience, maintenance
        self.busy: Callable[[], None] = lambda: None
        self.sent = 0
        self.page = PAGE
        """How many objects to request at once: at most as many as the server returns."""
        self._split, self._ca, self._validate_certs = split, ca, validate_certs
        self._headers = {"Accept": "application/json", **{name: str(value) for name, value in (headers or {}).items()}}
        if auth:
            self._headers["Authorization"] = _basic(auth)
        self._target = split.path
        self._csrf = csrf
        self._csrf_headers: dict[str, str] = {}
        self._connection: http.client.HTTPConnection | None = None
        self._answered = False
        self._direct = direct
        self._via = ""
        """The proxy of the requests and the variable that names it; empty without a proxy."""
        self.ahead = timedelta(0)
        """How far the server's clock is ahead of this host's, by its last response; 0 below 2 s, its precision."""

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def twin(self) -> Api:
        """Return another connection to the same server, for another thread."""
        other = copy.copy(self)
        other._connection, other._headers, other.sent = None, dict(self._headers), 0
        return other

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str) -> Any:
        """Return the object at `path`. Raises ApiError."""
        return self.call("GET", path).body

    def post(self, path: str, body: Any) -> Any:
        """Send `body` and return the server's response. Raises ApiError."""
        return self.call("POST", path, body).body

    def find(self, path: str) -> Any | None:
        """Return the object at `path`, or None if it does not exist. Raises ApiError."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404 and not _is_unknown_route(error.body):
                return None
            raise

    def pages(
        self, path: str, body: Mapping[str, Any] | None = None, *, most: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield each object of a `.../filter` route once, or only the first `most` of them. Raises ApiError.

        PostgreSQL may order objects that sort as equal (deployments of one name) differently for each page, so that one
        is returned twice and another not at all. After a pass that returned an object twice, another pass with a
        different page size follows, until as many objects are known as a pass returned.
        """
        known: set[str] = set()
        size = self.page
        for attempt in range(PASSES):
            returned = 0
            while True:
                page = self._listed(path, body, limit=min(size, most or size), offset=returned)
                size = min(size, self.page)
                returned += len(page)
                for row in page:
                    if row["id"] not in known:
                        known.add(row["id"])
                        yield row
                    if most is not None and len(known) >= most:
                        return
                if len(page) < size:
                    break
            if len(known) >= returned:
                return
            size = self.page - attempt % (self.page // 2 + 1)
        raise Failure(
            f"{self.url}{path}: {returned} objects were returned and {len(known)} different ones are known after "
            f"{PASSES} attempts: they change faster than they can be read; run this again"
        )

    def _listed(self, path: str, body: Mapping[str, Any] | None, *, limit: int, offset: int) -> list[dict[str, Any]]:
        """Return one page; if the server names a lower limit, request that many."""
        try:
            page: list[dict[str, Any]] = self.post(path, {**(body or {}), "limit": limit, "offset": offset})
        except ApiError as error:
            bound = re.search(r"less than or equal to (\d+)", str(error.body)) if error.status == 422 else None
            if bound is None or not 0 < int(bound[1]) < limit:
                raise
            self.page = int(bound[1])
            return self._listed(path, body, limit=self.page, offset=offset)
        return page

    def call(
        self, method: str, path: str, body: Any = None, *, patience: float | None = None, repeatable: bool = True
    ) -> Answer:
        """Send a request, retry it if that can help, and return its 2xx response. `patience` 0 sends it once.

        A request that is not `repeatable` would take effect twice: it is not sent again once the server may have
        carried it out, and the error says `lost`. Raises ApiError for any other response, and if none arrived.
        """
        began = time.monotonic()
        renewed = lost = False
        if self._csrf and method != "GET" and not self._csrf_headers:
            self._renew_csrf()
        for sent in itertools.count(1):
            idle = self._connection is not None
            pause = _backoff(sent)
            bound = self.patience if patience is None else patience
            try:
                answer = self._exchange(method, path, body)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                failure = self._failure(method, path, status=None, body=_reason(error), sent=sent, lost=lost)
                lost = failure.lost = lost or not isinstance(error, ConnectionRefusedError)
                self.busy()
                if lost and not repeatable:
                    raise failure from error
                if not self._answered and not isinstance(error, (ConnectionResetError, BrokenPipeError)):
                    raise failure from error
                # The server closed a connection that was idle for longer than its keep-alive time: retry at once.
                if idle and sent == 1:
                    pause = 0.0
            else:
                self._answered = True
                if answer.ok:
                    if wrong := misfit(method, path, answer.status, answer.body):
                        raise self._failure(
                            method, path, status=answer.status, body=wrong, sent=sent, lost=lost, hint=FOREIGN
                        )
                    return answer
                if answer.refuses_csrf and not renewed:
                    renewed = True
                    self._renew_csrf()
                    continue
                status, hint = answer.status, _hint(answer)
                failure = self._failure(method, path, status=status, body=answer.body, sent=sent, lost=lost, hint=hint)
                if status not in RETRIED:
                    raise failure
                # Prefect closes the connection silently after a 503: a retry on it would fail.
                self.close()
                # A proxy that gave up on the server does not know whether the request was carried out.
                lost = lost or status in {408, 502}
                failure.lost = lost
                self.busy()
                if lost and not repeatable:
                    raise failure
                if answer.is_maintenance and patience is None:
                    bound = self.maintenance
                pause = _retry_after(answer.headers) or pause
            if time.monotonic() - began + pause > bound:
                raise failure
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _failure(
        self, method: str, path: str, *, status: int | None, body: Any, hint: str = "", **answer: Any
    ) -> ApiError:
        # Prefect rejects requests in JSON; any other response that comes through a proxy may be the proxy's own.
        if self._via and not (isinstance(body, dict) and body.keys() & {"detail", "exception_message"}):
            hint = "; ".join(part for part in (hint, self._via) if part)
        return ApiError(method=method, url=self.url, path=path, status=status, body=body, hint=hint, **answer)

    def _exchange(self, method: str, path: str, body: Any) -> Answer:
        """Send one request once. Raises OSError or HTTPException if no complete response arrives."""
        if self._connection is None:
            self._connection = self._connect()
        self.sent += 1
        headers = dict(self._headers)
        content = None
        if body is not None:
            try:
                content = json.dumps(body, allow_nan=False).encode()
            except ValueError:
                raise Failure(f"{method} {path}: {NOT_A_NUMBER}") from None
            headers["Content-Type"] = "application/json"
        if method != "GET":
            headers.update(self._csrf_headers)
        self._connection.request(method, f"{self._target}{path}", body=content, headers=headers)
        response = self._connection.getresponse()
        received = response.read()
        date = _date(response.headers.get("Date"))
        ahead = timedelta(0) if date is None else date - datetime.now(timezone.utc)
        self.ahead = ahead if abs(ahead) >= timedelta(seconds=2) else timedelta(0)
        try:
            return Answer(
                status=response.status,
                headers=response.headers,
                body=json.loads(received) if received else None,
                is_json=True,
            )
        except ValueError:
            text = received.decode(errors="replace")
            return Answer(status=response.status, headers=response.headers, body=text, is_json=False)

    def _connect(self) -> http.client.HTTPConnection:
        """Return a connection to the server, or to the environment's proxy for it."""
        host, port = self._split.hostname or "", self._split.port
        secure = self._split.scheme == "https"
        passed_by = self._direct or urllib.request.proxy_bypass(host)
        proxy = None if passed_by else urllib.request.getproxies().get(self._split.scheme)
        via = urlsplit(proxy if "//" in proxy else f"http://{proxy}") if proxy else None
        self._via = _through(via, scheme=self._split.scheme, host=host) if via else ""
        first = (via.hostname or "", via.port) if via else (host, port)
        identity = {}
        if via and via.username:
            identity = {"Proxy-Authorization": _basic(f"{unquote(via.username)}:{unquote(via.password or '')}")}
        if secure:
            context = ssl.create_default_context(cafile=self._ca)
            if not self._validate_certs:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection(*first, timeout=self.timeout, context=context)
            if via:
                connection.set_tunnel(host, port, identity)
            return connection
        if via:
            # A plain HTTP proxy needs the absolute URL in the request line.
            self._target = self.url
            self._headers.update(identity)
        return http.client.HTTPConnection(*first, timeout=self.timeout)

    def _renew_csrf(self) -> None:
        client = uuid.uuid4().hex
        try:
            token = self.get(f"/csrf-token?client={client}")
        except ApiError as error:
            # 422: CSRF protection is off, whatever `csrf` says.
            if error.status != 422:
                raise
            self._csrf = False
            return
        self._csrf_headers = {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token["token"]}


def worker_online_since(api: Api, *, pool: str, worker: str, since: datetime) -> bool:
    """Whether the server marks `worker` ONLINE and got a heartbeat after `since` (this host's clock). Raises ApiError.

    The server may mark a worker ONLINE for up to two minutes after it died.
    """
    online = {"workers": {"status": {"any_": ["ONLINE"]}}}
    beats = [
        moment(row["last_heartbeat_time"])
        for row in api.pages(f"/work_pools/{quoted(pool)}/workers/filter", online)
        if row["name"] == worker and row["last_heartbeat_time"]
    ]
    return any(beat > since + api.ahead for beat in beats)


NOT_A_NUMBER = "JSON has no NaN or Infinity: use a text, null or a large number"

FOREIGN = "that is not Prefect's API, or something between here and there changes its answers: check api_url"


def misfit(method: str, path: str, status: int, body: Any) -> str:
    """Return how a 2xx response differs from what Prefect answers to a request, or an empty string if it does not."""
    route = path.partition("?")[0]
    for pattern, kind, keys in VALUES:
        if re.fullmatch(pattern, f"{method} {route}"):
            if isinstance(body, list) and kind is list:
                return _unlike(body, frozenset(keys))
            if isinstance(body, kind) and (kind is bool or not isinstance(body, bool)) and _has(body, keys):
                return ""
            return f"{_described(body)} in place of {_article(kind)}{_with(keys)}"
    fields = next((fields for pattern, fields in ROWS if re.match(rf"{pattern}(/|$)", route)), frozenset({"id"}))
    if method in {"PATCH", "PUT", "DELETE"}:
        # Deleting a tag's limit is the only change that answers 200, with null.
        return "" if body is None and (status == 204 or method == "DELETE") else f"{_described(body)} in place of none"
    if route.endswith(("/filter", "/schedules")):
        if not isinstance(body, list):
            return f"{_described(body)} in place of a list of objects"
        return _unlike(body, fields)
    return "" if _has(body, fields) else f"{_described(body)} in place of an object{_with(fields)}"


def _unlike(rows: list[Any], fields: frozenset[str]) -> str:
    """Return how a list differs from a list of objects with some fields, or an empty string if it does not."""
    others = [row for row in rows if not _has(row, fields)]
    return f"a list with {_described(others[0])} in place of objects{_with(fields)}" if others else ""


def _has(body: Any, keys: Iterable[str]) -> bool:
    return not keys or (isinstance(body, dict) and all(key in body for key in keys))


def _with(keys: Iterable[str]) -> str:
    return f" with {', '.join(sorted(keys))}" if keys else ""


def _article(kind: type) -> str:
    words = {bool: "true or false", str: "a text", int: "a number", list: "a list", type(None): "none"}
    return words.get(kind, "an object")


def _described(body: Any) -> str:
    """Describe a response body without its content, which may be a secret of another program."""
    if body is None:
        return "an empty answer"
    if isinstance(body, dict):
        return f"an object with {', '.join(sorted(body)[:5]) or 'nothing in it'}"
    if isinstance(body, list):
        return f"a list of {len(body)}"
    return (
        f"the {'value' if isinstance(body, bool) else 'text' if isinstance(body, str) else 'number'} {str(body)[:40]!r}"
    )


def quoted(part: str) -> str:
    """Return `part` (such as a name) as one path segment."""
    return quote(part, safe="")


def moment(text: str) -> datetime:
    """Parse a time that the API wrote (ISO 8601; Python 3.10 does not accept the `Z`)."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _basic(auth: str) -> str:
    return "Basic " + base64.b64encode(auth.encode()).decode()


def _through(proxy: SplitResult, *, scheme: str, host: str) -> str:
    """Return the hint for a response that came through a proxy of the environment, without its credentials."""
    # As in urllib, the lower-case name takes precedence if both are set.
    names = [name for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()) if os.environ.get(name)]
    address = f"{proxy.hostname}:{proxy.port}" if proxy.port else proxy.hostname
    return (
        f"the request went through the proxy {address}, which {names[0] if names else 'the system'} names in the "
        f"environment; if this host reaches {host} without it, add {host} to no_proxy"
    )


def _backoff(sent: int) -> float:
    """Return the seconds to wait after attempt number `sent`, at random so that many clients do not retry together."""
    return min(0.03 * 2.0**sent, 2.0) * random.uniform(0.5, 1.0)


def _retry_after(headers: Message) -> float:
    """Return the seconds in a Retry-After header, which may be a date; 0 without one."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    date = _date(value)
    return 0.0 if date is None else max(0.0, (date - datetime.now(timezone.utc)).total_seconds())


def _date(value: str | None) -> datetime | None:
    """Parse the date in an HTTP header; None if it is not a date."""
    try:
        return datetime.fromtimestamp(parsedate_to_datetime(value or "").timestamp(), timezone.utc)
    except (TypeError, ValueError):
        return None


def _reason(error: Exception) -> str:
    reason = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{reason}: set api_ca to a PEM file of the authority that signed it"
    return reason


def _is_unknown_route(body: Any) -> bool:
    """Whether a 404 means a wrong address: for an unknown object, Prefect names it; for an unknown route, not."""
    return not isinstance(body, dict) or body == {"detail": "Not Found"}


def _hint(answer: Answer) -> str:
    if answer.status == 401:
        return "set api_auth (or PREFECT_API_AUTH_STRING) to the server's user:password"
    if 300 <= answer.status < 400:
        return f"it redirects to {answer.headers.get('Location')}: correct api_url"
    if (answer.status == 404 and _is_unknown_route(answer.body)) or answer.status < 300:
        return "that is not Prefect's API: api_url usually ends in /api"
    return ""


def _scrub(body: Any) -> Any:
    """Return an error's body without the request that it repeats, which may contain secrets."""
    if isinstance(body, dict):
        return {key: _scrub(value) for key, value in body.items() if key not in {"request_body", "input", "ctx"}}
    if isinstance(body, list):
        return [_scrub(value) for value in body]
    return body


def _explain(body: Any) -> str:
    """Return the server's message from an error's body, in any of its formats."""
    if isinstance(body, dict):
        texts = [_explain(body[key]) for key in ("exception_message", "exception_detail", "detail") if body.get(key)]
        if not texts and "msg" in body:
            place = ".".join(str(part) for part in body.get("loc", ()) if part != "body")
            texts = [part for part in (place, str(body["msg"])) if part]
        return ": ".join(texts)
    if isinstance(body, list):
        return "; ".join(_explain(entry) for entry in body)
    text = " ".join(str("" if body is None else body).split())
    if text.startswith("<"):
        return "a page of HTML"
    return text if len(text) <= 300 else f"{text[:300]}..."
