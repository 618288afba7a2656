"""Debian's Chromium without a screen, spoken to by the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGES = {"chromium": "chromium", "certutil": "libnss3-tools"}
"""What is called, and the package that it is in."""

WIDTH, HEIGHT = 1280, 800
TIMEOUT = 180
"""Seconds that a page has to show what it should, on a machine that is busy with other things."""


def install() -> None:
    """Install the browser on this machine where it is missing."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(command, env=environment, capture_output=True, check=False).returncode:
            subprocess.run(["apt-get", "update", "-qq"], check=True)
            subprocess.run(command, env=environment, check=True)


class Browser:
    """A page."""

    def __init__(self, process: subprocess.Popen[bytes], *, write: int, read: int) -> None:
        self._process, self._write, self._read = process, write, read
        self._numbers, self._buffer, self._session = itertools.count(1), b"", ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Security"):
            self.call(f"{domain}.enable")

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            received = os.read(self._read, 1 << 16)
            assert received, "the browser has ended"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page, waiting where it is a promise, and return its value."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def open(self, url: str) -> None:
        """Go to an address. A certificate that is not trusted is an error."""
        went = self.call("Page.navigate", url=url)
        assert "errorText" not in went, f"{url}: {went['errorText']}"

    def wait_for(self, script: str) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + TIMEOUT
        while not self.run(script):
            if time.monotonic() > deadline:
                shown = self.run("location.href + '\\n' + document.body.innerText")
                raise AssertionError(f"{script} did not come true on\n{shown}")
            time.sleep(0.2)

    def wait_for_text(self, text: str) -> None:
        self.wait_for(f"document.body?.innerText.includes({json.dumps(text)}) ?? false")

    def type(self, text: str) -> None:
        """Type into what has the focus, and Enter."""
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            key = {"key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}
            self.call("Input.dispatchKeyEvent", type=kind, **key)

    def screenshot(self) -> bytes:
        """Return what the page looks like, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def browsing(home: Path, *, addresses: dict[str, str], authority: Path) -> Iterator[Browser]:
    """Run a browser that knows the `addresses` of some names and trusts one more authority; `home` is its alone."""
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    subprocess.run([*certutil, "-A", "-n", "authority", "-t", "C,,", "-i", str(authority)], check=True)
    rules = ", ".join(f"MAP {name} {address}" for name, address in addresses.items())
    (browser_reads, test_writes), (test_reads, browser_writes) = os.pipe(), os.pipe()

    # The protocol's two ends are the descriptors 3 and 4 of the browser, whatever they are here.
    script = f'exec 3<&{browser_reads} 4>&{browser_writes} && exec "$@"'
    command = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--remote-debugging-pipe",
        f"--user-data-dir={home / 'profile'}",
        f"--window-size={WIDTH},{HEIGHT}",
        f"--host-resolver-rules={rules}",
        "about:blank",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            env=environment | {"HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(browser_reads, browser_writes),
            start_new_session=True,
        )
    os.close(browser_reads)
    os.close(browser_writes)
    try:
        yield Browser(process, write=test_writes, read=test_reads)
    finally:
        os.killpg(process.pid, 15)
        process.wait()
        os.close(test_writes)
        os.close(test_reads)
