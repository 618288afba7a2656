"""The environment of processes that outlive a module."""

from __future__ import annotations

import os
import pwd


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
