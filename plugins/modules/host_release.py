#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Install a release of Prefect beside the others, verify it, and then switch to it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_release
short_description: Install, verify and switch to a release of Prefect
description:
  - A release is an immutable virtual environment. It is built with uv from a hashed lock, verified by importing the
    modules of a server and a worker, and never changed afterwards.
  - If a build is killed half-way, the release has no verification marker and is built again.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  state:
    description:
      - V(absent) removes a directory of releases, such as that of an environment, with its link C(current). While a
        process runs from a release there, it only removes the link. A process that only waits for flow runs to start
        ends without the link, and is waited for.
    type: str
    choices: [present, absent]
    default: present
  path:
    description:
      - Directory of the release. Its parent holds the other releases. With V(absent), the directory above that parent.
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
  environment:
    description:
      - Name of the environment that the release is of, for error messages. All its packages are compiled, because flows
        import more than O(probe).
    type: str
    default: ''
attributes:
  check_mode:
    description: Reports whether a release would be built or switched to.
    support: full
"""

EXAMPLES = r"""
- name: Install Prefect
  selfhosted.prefect.host_release:
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
import functools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import userinfo, without_userinfo
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.results import conceal
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import trusted
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import uv as own_uv
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.installing import (
    OF_RELEASE,
    InstallError,
    environment,
    of_environment,
    overrides,
    run,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import locked

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
PATIENCE = 15.0
"""Seconds in which a zygote ends whose environment was removed: it looks every 5 s, see zygotes.REAPING."""


def obtain_uv(params: dict[str, Any]) -> str:
    """Return the path of uv on this host, and fetch it if necessary. Raises `InstallError`."""
    if not params["uv_lock"]:
        return str(params["uv"])
    try:
        lock = own_uv.Lock.parse(params["uv_lock"])
        if found := own_uv.installed(lock.version, params["uv"]):
            return found
        own_uv.fetch(own_uv.Index(url=params["index_url"], ca_bundle=params["ca_bundle"]), lock, Path(params["uv"]))
    except own_uv.UvError as error:
        raise InstallError(str(error)) from error
    return str(params["uv"])


def build(params: dict[str, Any], release: Path) -> None:
    """Build and verify the release. The marker is written last, so that an interrupted build is recognized."""
    shutil.rmtree(release, ignore_errors=True)
    uv, python = obtain_uv(params), str(release / "bin" / "python")
    variables = of_environment(params["environment"]) if params["environment"] else OF_RELEASE
    with tempfile.TemporaryDirectory() as scratch:
        env = environment(
            scratch=scratch,
            cache_dir=params["cache_dir"] or str(release.with_name(".uv-cache")),
            index_url=params["index_url"],
            ca_bundle=params["ca_bundle"],
        )
        install = functools.partial(run, env=env, variables=variables)
        install(
            [uv, "venv", "--quiet", "--python", params["python"], str(release)],
            what="Making the virtual environment",
        )
        if params["requirements"]:
            lock = release / LOCK
            lock.write_text(params["requirements"])
            command = [uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", str(lock)]
            install(command, what="Installing the lock")
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
            install([*command, *plain], what=f"Installing {', '.join(params['packages'])}")
        probe = "; ".join(f"import {module}" for module in params["probe"])
        # The service user cannot write bytecode, and would compile at every start what the probe does not import.
        # Which modules of the user's packages flows import is unknown. Some packages ship files that cannot be
        # compiled, so errors are ignored.
        library = release / "lib"
        of_user = params["packages"] or params["environment"]
        named = [] if of_user else [path for name in COMPILED for path in library.glob(f"*/*/{name}")]
        compiled = named or [library]
        compiler = [python, "-m", "compileall", "-qq", *map(str, compiled)]
        # The installed code runs here for the first time and must not see the credential of the index.
        env.pop("UV_DEFAULT_INDEX", None)
        with subprocess.Popen(compiler, env=env, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            install([python, "-c", probe], what=f"Proving the release ({probe})")
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


def running(releases: Path, *, waiting: bool = True) -> set[str]:
    """Return the names of the releases from which a running process has loaded a library or another file.

    Unless `waiting`, without the zygotes of environments, see the module zygotes.
    """
    names: set[str] = set()
    above = f"{releases.resolve()}/".encode()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        # The process may have ended or belong to another user.
        with contextlib.suppress(OSError):
            if not waiting and b"--zygote" in maps.with_name("cmdline").read_bytes().split(b"\0"):
                continue
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


def withdraw(module: AnsibleModule, directory: Path) -> None:
    """Remove a directory of releases with the link to the one in use, and end the module.

    What a process still runs from stays until a later call, without the link, so that nothing else starts from it.
    """
    link, releases = directory / "current", directory / "releases"
    in_use = running(releases, waiting=False) if releases.is_dir() else set()
    doomed = [] if in_use or not directory.exists() else [directory.name]
    changed = bool(doomed) or link.is_symlink()
    if changed and not module.check_mode:
        with locked(f"releases {releases}"):
            link.unlink(missing_ok=True)
            deadline = time.monotonic() + PATIENCE
            while doomed and running(releases) and time.monotonic() < deadline:
                time.sleep(0.5)
            # A process may have started before the link was removed.
            if doomed and not running(releases):
                shutil.rmtree(directory)
    diff = {"before": f"{directory}\n" if changed else "", "after": ""}
    module.exit_json(changed=changed, built=False, previous="", removed=doomed, diff=diff)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
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
            "environment": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["state"] == "absent":
        withdraw(module, Path(params["path"]))
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
            except InstallError as error:
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
