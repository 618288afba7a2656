"""Run a command, and see to it that nothing of it outlives its task: `python guard.py COMMAND...`.

Standard input is a pipe to the parent process. Once its other end is closed, for whatever reason, this program ends
the command and every process that it has started, in any session. The exit code is the command's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def descendants() -> list[int]:
    """Return the processes below us, of which those whose parent ended have become our children."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    found, added = set(), {os.getpid()}
    while added:
        added = {process for process, parent in parents.items() if parent in added}
        found |= added
    return list(found)


def end() -> None:
    """End all processes below us: first as they are asked to, then as they are made to."""
    deadline = time.monotonic() + GRACE
    asked: set[int] = set()
    while processes := descendants():
        late = time.monotonic() > deadline
        for process in processes:
            if late or process not in asked:
                asked.add(process)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.02)


def listen_again() -> None:
    """Undo, in the command, that we ignore signals."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)


def main() -> int:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Who started us may be told to stop together with us; what happens then is his decision.
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        command = subprocess.Popen(
            sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=listen_again
        )
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    while command.poll() is None:
        ready, _, _ = select.select([sys.stdin, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        if sys.stdin in ready:
            break
    end()
    code = command.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
