#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Install a release of Prefect beside the others, verify it, and then switch to it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Install, verify and switch to a release of Prefect
description:
  - A release is an immutable virtual environment. It is built with uv from a hashed lock, verified by importing the
    modules of a server and a worker, and never changed afterwards.
  - If a build is killed half-way, the release has no verification marker and is built again.
version_added: 0.1.0
author: The selfhosted.prefect maintainers
options:
  path:
    description: Directory of the release. Its parent holds the other releases.
    type: path
    required: true
  link:
    description: Symbolic link to the release in use. If left out, the release is only built and verified.
    type: path
  uv:
    description: The uv executable on the host. Required if the release does not exist yet.
    type: path
  uv_lock:
    description:
      - Content of a hashed requirement file of uv, for a host to which the controller sent no uv. The host's own uv is
        used if it is at least as new; otherwise the wheel is fetched from the package index and kept as O(uv).
    type: str
    default: ''
  python:
    description: Interpreter to build on. Required if the release does not exist yet.
    type: path
  requirements:
    description: Content of a hashed requirement file. If empty, O(packages) are resolved on the host.
    type: str
    default: ''
  constraints:
    description: Content of a constraint file, used without a lock.
    type: str
    default: ''
  packages:
    description: Requirements to install in addition to the lock.
    type: list
    elements: str
    default: []
  probe:
    description: Modules that must be importable in the release.
    type: list
    elements: str
    default: []
  index_url:
    description: Package index to use instead of uv's default.
    type: str
    default: ''
  ca_bundle:
    description: File of the certificate authorities to trust when fetching packages. Empty trusts the host's own.
    type: str
    default: ''
  cache_dir:
    description: Directory that keeps downloaded packages for the next release. Empty keeps none.
    type: str
    default: ''
  keep:
    description: How many verified releases to keep, including the one in use.
    type: int
    default: 3
attributes:
  check_mode:
    description: Reports whether a release would be built or switched to.
    support: full
"""

EXAMPLES = r"""
- name: Install Prefect
  selfhosted.prefect.release:
    path: /opt/prefect/releases/3.8.8-0123456789ab
    link: /opt/prefect/current
    uv: /opt/prefect/bin/uv
    python: /usr/bin/python3.11
    requirements: "{{ lookup('ansible.builtin.file', 'prefect-3.8.8.txt') }}"
    probe: [prefect.server.api.server]
"""

RETURN = r"""
built:
  description: Whether this call built the release.
  returned: success
  type: bool
previous:
  description: The release that was in use before, or an empty string.
  returned: success
  type: str
removed:
  description: Old releases that were removed.
  returned: success
  type: list
  elements: str
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils import trusted
from ansible_collections.selfhosted.prefect.plugins.module_utils import uv as own_uv
from ansible_collections.selfhosted.prefect.plugins.module_utils.masking import userinfo, without_userinfo
from ansible_collections.selfhosted.prefect.plugins.module_utils.results import conceal
from ansible_collections.selfhosted.prefect.plugins.module_utils.safe_files import locked

PROOF = ".proven"
COMPILED = (
    *("prefect", "anyio", "asyncpg", "dateparser", "regex", "rich", "tzlocal", "whenever"),
    *("billiard", "celery", "kombu", "vine"),
)
"""Packages of a lock that are compiled whole: services, flow runs and the CLI import more of them than the probe does.

The probe compiles what it imports. That is two fifths of the files of a lock; the rest, such as the other dialects of
SQLAlchemy and the lexers of Pygments, is never imported. Found by running services, flow runs and the CLI of Prefect
3.8.8 with a release that they could write.
"""
LOCK = "lock.txt"

UNREACHABLE = (
    "prefect_index_url: the package index cannot be reached from this host "
    "(a mirror: prefect_index_url; a private CA: prefect_ca_bundle)"
)
NOT_SERVED = "prefect_index_url: the index does not serve what the lock or prefect_packages name"

REASONS = {
    "no space left": "prefect_opt_dir: the disk is full; free some of it or name another directory",
    "hash mismatch": (
        "prefect_lock: a package is not the one that the lock was made from; make the lock again, "
        "or ask who serves the index"
    ),
    "not found in the package registry": NOT_SERVED,
    "there is no version of": f"{NOT_SERVED}; correct prefect_version, or name another index",
    "no solution found": "prefect_version, prefect_packages: these versions cannot be installed together",
    "failed to fetch": UNREACHABLE,
    "request failed": UNREACHABLE,
    "error sending request": UNREACHABLE,
}
"""Messages of uv in lower case, and what to do about them."""


class ReleaseError(Exception):
    """A release cannot be built or does not work; the message names the variable and the fix."""


def run(command: list[str], *, env: dict[str, str], what: str) -> None:
    """Run one step, or raise `ReleaseError` with the end of its output and a hint."""
    try:
        result = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False)
    except OSError as error:
        raise ReleaseError(f"prefect_uv: {command[0]} cannot be run on this host: {error.strerror}") from error
    if result.returncode == 0:
        return
    output = (result.stderr or result.stdout).strip()
    hint = next(
        (advice for sign, advice in REASONS.items() if sign in output.lower()),
        "prefect_version, prefect_lock and prefect_packages describe a release that cannot be used; correct them",
    )
    raise ReleaseError(without_userinfo(f"{hint}\n{what} failed:\n" + "\n".join(output.splitlines()[-15:])))


def environment(params: dict[str, Any], scratch: str) -> dict[str, str]:
    """Return the environment for uv and for the probe, which keeps both out of the caller's home directory."""
    env = os.environ | {
        "HOME": scratch,
        "PREFECT_HOME": scratch,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "true",
        "UV_CACHE_DIR": params["cache_dir"] or str(Path(params["path"]).with_name(".uv-cache")),
    }
    for variable in ("PREFECT_PROFILE", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"):
        env.pop(variable, None)
    if params["index_url"]:
        env["UV_DEFAULT_INDEX"] = params["index_url"]
    if params["ca_bundle"]:
        env["SSL_CERT_FILE"] = params["ca_bundle"]
    return env


def obtain_uv(params: dict[str, Any]) -> str:
    """Return the path of uv on this host, and fetch it if necessary. Raises `ReleaseError`."""
    if not params["uv_lock"]:
        return str(params["uv"])
    try:
        lock = own_uv.Lock.parse(params["uv_lock"])
        if found := own_uv.installed(lock.version, params["uv"]):
            return found
        own_uv.fetch(own_uv.Index(url=params["index_url"], ca_bundle=params["ca_bundle"]), lock, Path(params["uv"]))
    except own_uv.UvError as error:
        raise ReleaseError(str(error)) from error
    return str(params["uv"])


def overrides(lock: str) -> str:
    """Return the pins of a lock that override every other requirement; its header names the packages."""
    named = re.search(r"^# Overrides: (.+)$", lock, re.MULTILINE)
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)
    return "".join(f"{name}=={version}\n" for name, version in pins if named and name in named[1].split(", "))


def build(params: dict[str, Any], release: Path) -> None:
    """Build and verify the release. The marker is written last, so that an interrupted build is recognized."""
    shutil.rmtree(release, ignore_errors=True)
    uv, python = obtain_uv(params), str(release / "bin" / "python")
    with tempfile.TemporaryDirectory() as scratch:
        env = environment(params, scratch)
        run(
            [uv, "venv", "--quiet", "--python", params["python"], str(release)],
            env=env,
            what="Making the virtual environment",
        )
        if params["requirements"]:
            lock = release / LOCK
            lock.write_text(params["requirements"])
            command = [uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", str(lock)]
            run(command, env=env, what="Installing the lock")
        if params["packages"]:
            command = [uv, "pip", "install", "--quiet", "--python", python]
            lock = params["requirements"]
            for option, held in (("--constraint", lock or params["constraints"]), ("--override", overrides(lock))):
                if held:
                    file = Path(scratch, f"{option.strip('-')}.txt")
                    file.write_text(held)
                    command += [option, str(file)]
            plain = [name for name in params["packages"] if without_userinfo(name) == name]
            if hidden := [name for name in params["packages"] if name not in plain]:
                # Every account of the host can read the credential of a URL on a command line.
                file = Path(scratch, "packages.txt")
                file.write_text("\n".join(hidden) + "\n")
                command += ["--requirements", str(file)]
            run([*command, *plain], env=env, what=f"Installing {', '.join(params['packages'])}")
        probe = "; ".join(f"import {module}" for module in params["probe"])
        # The service user cannot write bytecode, and would compile at every start what the probe does not import.
        # Which modules of the user's packages flows import is unknown. Some packages ship files that cannot be
        # compiled, so errors are ignored.
        library = release / "lib"
        named = [] if params["packages"] else [path for name in COMPILED for path in library.glob(f"*/*/{name}")]
        compiled = named or [library]
        compiler = [python, "-m", "compileall", "-qq", *map(str, compiled)]
        # The installed code runs here for the first time and must not see the credential of the index.
        env.pop("UV_DEFAULT_INDEX", None)
        with subprocess.Popen(compiler, env=env, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            run([python, "-c", probe], env=env, what=f"Proving the release ({probe})")
    if not params["cache_dir"]:
        shutil.rmtree(release.with_name(".uv-cache"), ignore_errors=True)
    # uv's lock, which every account could hold or write.
    (release / ".lock").unlink(missing_ok=True)
    (release / PROOF).write_text(time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()))


def unsafe(params: dict[str, Any], release: Path, *, built: bool) -> list[str]:
    """Return a sentence for each place of this release's code that another account can write."""
    if not built:
        return trusted.refused(releases=[release])
    names = ("python", "uv", "cache_dir", "packages", "requirements", "index_url")
    return trusted.refused(**{name: params[name] for name in names if params[name]})


def running(releases: Path) -> set[str]:
    """Return the names of the releases from which a running process has loaded a library or another file."""
    names: set[str] = set()
    above = f"{releases.resolve()}/".encode()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        # The process may have ended or belong to another user.
        with contextlib.suppress(OSError):
            names.update(os.fsdecode(part.partition(b"/")[0]) for part in maps.read_bytes().split(above)[1:])
    return names


def prune(releases: Path, *, keep: int, in_use: set[str]) -> list[str]:
    """Remove all but the newest ``keep`` verified releases, and all incomplete ones; return their names.

    A release that a process still runs from stays until a later call.
    """
    spared = in_use | running(releases)
    others = [path for path in releases.iterdir() if path.is_dir() and path.name not in {*spared, ".uv-cache"}]
    proven = sorted(
        (path for path in others if (path / PROOF).exists()), key=lambda path: -(path / PROOF).stat().st_mtime
    )
    spared |= {path.name for path in proven[: max(keep - len(in_use), 0)]}
    removed = sorted(path.name for path in others if path.name not in spared)
    for name in removed:
        shutil.rmtree(releases / name)
    return removed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "link": {"type": "path"},
            "uv": {"type": "path"},
            "uv_lock": {"type": "str", "default": ""},
            "python": {"type": "path"},
            "requirements": {"type": "str", "default": ""},
            "constraints": {"type": "str", "default": ""},
            "packages": {"type": "list", "elements": "str", "default": []},
            "probe": {"type": "list", "elements": "str", "default": []},
            "index_url": {"type": "str", "default": "", "no_log": True},
            "ca_bundle": {"type": "str", "default": ""},
            "cache_dir": {"type": "str", "default": ""},
            "keep": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    params = module.params
    # `-vvv` shows the invocation, and a package may be a URL with a credential.
    shown = {**params, "index_url": without_userinfo(params["index_url"])}
    invocation = {"module_args": {**shown, "packages": [without_userinfo(name) for name in params["packages"]]}}
    secrets = userinfo(" ".join([params["index_url"], *params["packages"]]))
    release, link = Path(params["path"]), Path(params["link"]) if params["link"] else None
    previous = link.readlink().name if link and link.is_symlink() else ""
    built, switched, removed = not (release / PROOF).exists(), bool(link) and previous != release.name, []
    diff = {"before": f"{link} -> {previous}\n" if previous else "", "after": f"{link} -> {release.name}\n"}
    if not link:
        diff = {"before": "", "after": f"{release}\n" if built else ""}

    if refused := unsafe(params, release, built=built):
        failure = {"msg": "\n".join(refused), "invocation": invocation}
        module.fail_json(**conceal(module, failure, secrets))
    if built and not module.check_mode and not (params["uv"] and params["python"]):
        module.fail_json(msg=f"{release} is not there, and without uv and python it cannot be built")
    if not module.check_mode and (built or switched):
        os.umask(0o022)
        release.parent.mkdir(parents=True, exist_ok=True)
        with locked(f"releases {release.parent}"):
            # The lock file of earlier versions, which every account could lock.
            (release.parent / ".lock").unlink(missing_ok=True)
            try:
                # Checked again: another run may have held the lock and built it.
                if not (release / PROOF).exists():
                    build(params, release)
            except ReleaseError as error:
                shutil.rmtree(release, ignore_errors=True)
                module.fail_json(**conceal(module, {"msg": str(error), "invocation": invocation}, secrets))
            if link:
                fresh = link.with_name(f".{link.name}.new")
                fresh.unlink(missing_ok=True)
                fresh.symlink_to(Path("releases", release.name))
                fresh.replace(link)
                removed = prune(release.parent, keep=params["keep"], in_use={release.name, previous} - {""})
    result = {
        "changed": built or switched,
        "built": built,
        "previous": previous,
        "removed": removed,
        "diff": diff,
        "invocation": invocation,
    }
    module.exit_json(**conceal(module, result, secrets))


if __name__ == "__main__":
    main()
