"""A real browser opens the UI through TLS, signs in, sees a run that has completed, and hears of events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, browsing, install
from real_host import NAME, Host

DOMAIN = "prefect.example.com"
AUTH = "admin:correct horse"
GROUPS = {name: [NAME] for name in ("prefect_server", "prefect_proxy", "prefect_worker", "prefect_flows")}
VARIABLES = {"prefect_proxy_domain": DOMAIN, "prefect_proxy_hosts_entry": True, "prefect_api_auth": AUTH}

EVENTS = """
new Promise((resolve, reject) => {
  const socket = new WebSocket(`wss://${location.host}/api/events/out`, ["prefect"]), heard = [];
  socket.onopen = () => socket.send(JSON.stringify({type: "auth", token: TOKEN}));
  socket.onerror = () => reject(new Error("error"));
  socket.onclose = (closed) => reject(new Error(`closed with ${closed.code} after ${heard}`));
  socket.onmessage = (message) => {
    heard.push(JSON.parse(message.data).type);
    if (heard.at(-1) === "auth_success") {
      const filter = {occurred: {since: "2020-01-01T00:00:00Z", until: "2100-01-01T00:00:00Z"}};
      socket.send(JSON.stringify({type: "filter", backfill: true, filter}));
    }
    if (heard.at(-1) === "event") resolve(heard);
  };
  setTimeout(() => reject(new Error(`after 30 s: ${heard}`)), 30000);
})
"""


KEPT = """
Promise.all([document.querySelector('script[src*="/assets/"]').src, "/assets/none.js", "/api/health"].map(
  (url) => fetch(url).then((answer) => answer.headers.get("Cache-Control"))
))
"""

COMPLETED = """
fetch("/api/flow_runs/filter", {
  method: "POST",
  headers: {"Content-Type": "application/json", Authorization: `Basic ${btoa(TOKEN)}`},
  body: JSON.stringify({flow_runs: {state: {type: {any_: ["COMPLETED"]}}}, limit: 1}),
}).then((answer) => answer.json()).then((runs) => runs[0].id)
"""


@pytest.fixture(scope="module")
def page(sqlite: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser on this machine, and a host with all of Prefect, where a flow run has completed."""
    install()
    secrets = tmp_path_factory.mktemp("secrets")
    variables = VARIABLES | {"prefect_secrets_dir": str(secrets)}
    ended = sqlite.play(variables=variables, groups=GROUPS)
    assert ended.rc == 0, ended.output
    address = sqlite.sh(f"getent ahostsv4 {NAME}").split()[0]
    home = tmp_path_factory.mktemp("browser")
    with browsing(home, addresses={DOMAIN: address}, authority=secrets / "prefect" / "ca.crt") as opened:
        yield opened


def test_it_is_sent_to_tls_and_asks_who_one_is(page: Browser) -> None:
    page.open(f"http://{DOMAIN}/")
    page.wait_for("location.protocol === 'https:' && document.querySelector('input[type=password]') !== null")


def test_the_run_that_has_completed(page: Browser) -> None:
    page.run("document.querySelector('input[type=password]').focus()")
    page.type(AUTH)
    page.wait_for("document.querySelector('input[type=password]') === null")
    page.open(f"https://{DOMAIN}/v2/runs")
    page.wait_for_text("hello-flow")
    page.wait_for_text("Completed")


def test_the_websocket(page: Browser) -> None:
    heard = page.run(EVENTS.replace("TOKEN", json.dumps(AUTH)))
    assert heard == ["auth_success", "event"]


def test_the_browser_keeps_the_files_of_the_ui(page: Browser) -> None:
    """But not the page that the server sends in place of one that it does not have."""
    assert page.run(KEPT) == ["max-age=31536000", None, None]


def test_the_picture(page: Browser, tmp_path: Path) -> None:
    """With PREFECT_TEST_SCREENSHOT=docs/ui.png it is written where the README shows it."""
    run = page.run(COMPLETED.replace("TOKEN", json.dumps(AUTH)))
    page.open(f"https://{DOMAIN}/v2/runs/flow-run/{run}")
    page.wait_for_text("Finished in state Completed()")
    # Charts move into their places.
    page.run("new Promise((resolve) => setTimeout(resolve, 6000))")
    picture = Path(os.environ.get("PREFECT_TEST_SCREENSHOT", tmp_path / "ui.png"))
    picture.write_bytes(page.screenshot())
    assert picture.read_bytes().startswith(b"\x89PNG")
