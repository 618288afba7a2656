"""Processes that root starts for other accounts, and the environments that a module gives to processes."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST = 64 * 2**20
"""Bytes of output that are read. Code of another account may print without end."""

ENTER = 'cd -- "$0" && exec "$@"'
"""Shell script that enters a directory and becomes a command, after root has dropped its privileges."""


class TimedOutError(Exception):
    """A process was killed, because it took too long or printed too much; `output` is what it printed before."""

    def __init__(self, message: str, output: str, *, late: bool) -> None:
        super().__init__(message)
        self.output = output
        self.late = late


def clean_environment() -> dict[str, str]:
    """Return the environment for a daemon: the account's, without the play's variables, which may contain secrets.

    A daemon passes its environment to every process that it starts, and keeps it as long as it runs.
    """
    account = pwd.getpwuid(os.geteuid())
    return {
        "HOME": account.pw_dir,
        "LANG": "C.UTF-8",
        "LOGNAME": account.pw_name,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "USER": account.pw_name,
    }


def settings_in(text: str) -> dict[str, str]:
    """Return the settings in the text of a settings file, where every value is in double quotes, with escapes.

    This is how a shell reads them. The filter `env_value` wrote the values.
    """
    found = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE)
    return {name: re.sub(r'\\(["\\$`])', r"\1", value) for name, value in found}


def run_as(
    account: pwd.struct_passwd | None,
    command: Sequence[str | Path],
    *,
    timeout: float,
    env: Mapping[str, str],
    directory: str | Path = "/",
    stdin: str = "",
    groups: Sequence[int] = (),
    merge: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command as an account, by default the user who runs this, and return the completed process.

    The account, not root, enters `directory`. `merge` adds the errors to the output. Raises TimedOutError after
    `timeout` seconds, once the process and all that it started are killed, and OSError if it cannot be started.
    """
    become: dict[str, Any] = {}
    if account is not None and os.getuid() == 0 and account.pw_uid != 0:
        become = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": list(groups)}
    words = list(map(str, command))
    process = subprocess.Popen(
        words if str(directory) == "/" else ["/bin/sh", "-c", ENTER, str(directory), *words],
        cwd="/",
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merge else subprocess.PIPE,
        # A process group of its own, so that the timeout also ends what the process has started.
        start_new_session=True,
        **become,
    )
    with process:
        output, errors, reason = _exchange(process, stdin.encode(), deadline=time.monotonic() + timeout)
        if reason:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise TimedOutError(reason.format(timeout), f"{output}{errors}", late="{" in reason)
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def _exchange(process: subprocess.Popen[bytes], given: bytes, *, deadline: float) -> tuple[str, str, str]:
    """Write to a process and read from it; return its output, its errors, and why it has to be killed, if it has to."""
    assert process.stdin is not None and process.stdout is not None
    parts: dict[int, list[bytes]] = {stream.fileno(): [] for stream in (process.stdout, process.stderr) if stream}
    total, reason = 0, ""
    with selectors.DefaultSelector() as waiting:
        for descriptor in parts:
            waiting.register(descriptor, selectors.EVENT_READ)
        os.set_blocking(process.stdin.fileno(), False)
        waiting.register(process.stdin.fileno(), selectors.EVENT_WRITE)
        while waiting.get_map() and not reason:
            ready = waiting.select(max(deadline - time.monotonic(), 0))
            if not ready and time.monotonic() >= deadline:
                reason = "no end after {:g} s"
            for key, _ in ready:
                if key.fd in parts:
                    part = os.read(key.fd, 65536)
                    total += len(part)
                    parts[key.fd].append(part)
                    if not part:
                        waiting.unregister(key.fd)
                    continue
                try:
                    given = given[os.write(key.fd, given[:65536]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    given = b""
                if given:
                    continue
                waiting.unregister(key.fd)
                process.stdin.close()
            if total > MOST:
                reason = f"more than {MOST >> 20} MiB of output"
    if not reason:
        # It may have closed its output and run on.
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            reason = "no end after {:g} s"
    said = [b"".join(part).decode(errors="replace") for part in parts.values()]
    return said[0], said[1] if len(said) > 1 else "", reason
