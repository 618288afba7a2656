"""The program that a host's timer runs: backs up the database, and proves the backup if it should.

Its options are in the environment, as JSON; the database's password is in the settings of the server.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from ..host.databases import DEFAULTS, FAILURES, OPTIONS, message, run, server_password


def main() -> int:
    """Run a timer's job, and return the exit code of its unit."""
    given = {**DEFAULTS, **json.loads(os.environ[OPTIONS]), "password": server_password(os.environ)}
    given["version"] = Path(given.pop("release")).resolve().name.rpartition("-")[0]
    # The proof removes what it has created, also when the unit is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        result = run(given, dry=False, warn=print)
    except FAILURES as error:
        print(message(error), file=sys.stderr)
        return 1
    state = ", and is proven" if result["proven"] else ""
    print(f"The backup is {result['path']}{state}", *(f"Removed {path}" for path in result["removed"]), sep="\n")
    return 0
