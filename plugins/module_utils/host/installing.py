"""Runs uv to resolve and to install packages, and says what its errors mean."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from ..api.masking import without_userinfo

UNREACHABLE = (
    "prefect_index_url: the package index cannot be reached from {here} "
    "(a mirror: prefect_index_url; a private CA: prefect_ca_bundle)"
)
NOT_SERVED = "prefect_index_url: the index does not serve what {contents} name"

REASONS = {
    "no space left": "prefect_opt_dir: the disk is full; free some of it or name another directory",
    "hash mismatch": (
        "{lock}: a package is not the one that the lock was made from; make the lock again, or ask who serves the index"
    ),
    "not found in the package registry": NOT_SERVED,
    "there is no version of": f"{NOT_SERVED}; correct prefect_version, or name another index",
    "no solution found": "prefect_version, {packages}: these versions cannot be installed together",
    "failed to fetch": UNREACHABLE,
    "request failed": UNREACHABLE,
    "error sending request": UNREACHABLE,
}
"""Messages of uv in lower case, and what to do about them."""

OF_RELEASE = {
    "here": "this host",
    "lock": "prefect_lock",
    "packages": "prefect_packages",
    "contents": "the lock or prefect_packages",
    "all": "prefect_version, prefect_lock and prefect_packages describe a release that cannot be used; correct them",
}
"""The variables that say what is in a release, for `REASONS`."""


class InstallError(Exception):
    """Packages cannot be resolved or installed, or do not work; the message names the variable and the fix."""


def of_environment(name: str, *, here: str = "this host") -> dict[str, str]:
    """Return the variables that say what is in an environment, for `REASONS`; `here` is where uv runs."""
    variable = f"prefect_environments ({name})"
    described = f"{variable} describes an environment that cannot be used; correct it"
    contents = f"{variable} or its lock"
    return {"here": here, "lock": variable, "packages": variable, "contents": contents, "all": described}


def run(command: Sequence[str], *, env: dict[str, str], what: str, variables: dict[str, str] = OF_RELEASE) -> str:
    """Run one step and return its output, or raise `InstallError` with the end of that and a hint."""
    try:
        result = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False)
    except OSError as error:
        raise InstallError(f"prefect_uv: {command[0]} cannot be run on this host: {error.strerror}") from error
    if result.returncode == 0:
        return result.stdout
    output = (result.stderr or result.stdout).strip()
    hint = next((advice for sign, advice in REASONS.items() if sign in output.lower()), "{all}").format(**variables)
    raise InstallError(without_userinfo(f"{hint}\n{what} failed:\n" + "\n".join(output.splitlines()[-15:])))


def environment(*, scratch: str, cache_dir: str, index_url: str, ca_bundle: str) -> dict[str, str]:
    """Return the environment for uv and for what it installs, which keeps both out of the caller's home directory."""
    env = os.environ | {
        "HOME": scratch,
        "PREFECT_HOME": scratch,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "true",
        "UV_CACHE_DIR": cache_dir,
    }
    for variable in ("PREFECT_PROFILE", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"):
        env.pop(variable, None)
    if index_url:
        env["UV_DEFAULT_INDEX"] = index_url
    if ca_bundle:
        env["SSL_CERT_FILE"] = ca_bundle
    return env


def overrides(lock: str) -> str:
    """Return the pins of a lock that override every other requirement; its header names the packages."""
    named = re.search(r"^# Overrides: (.+)$", lock, re.MULTILINE)
    return "".join(f"{name}=={version}\n" for name, version in pins(lock) if named and name in named[1].split(", "))


def pins(lock: str) -> list[tuple[str, str]]:
    """Return name and version of each pin of a lock. A package may have several, for other Pythons or machines."""
    found: list[Any] = re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock, re.MULTILINE)
    return found
