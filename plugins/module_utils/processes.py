"""What a process that outlives a module starts with."""

from __future__ import annotations

import os
import pwd


def clean_environment() -> dict[str, str]:
    """Return the environment for a daemon: that of the account, and nothing of the play's, which may hold secrets.

    A daemon hands its environment on to all that it starts, and keeps it for as long as it runs.
    """
    account = pwd.getpwuid(os.geteuid())
    return {
        "HOME": account.pw_dir,
        "LANG": "C.UTF-8",
        "LOGNAME": account.pw_name,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "USER": account.pw_name,
    }
