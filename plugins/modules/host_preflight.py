#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Check a host and report what cannot work there, before anything changes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_preflight
short_description: Check a host and report what cannot work there
description:
  - Determines the directories, the accounts and the service manager of a Prefect instance on a host.
  - Reports all errors together, each with the variable to change, before anything is written.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
extends_documentation_fragment: selfhosted.prefect.secrets
options:
  instance:
    description: Name of the instance. The names of its paths, users and units derive from it.
    type: str
    default: prefect
  scope:
    description:
      - V(system) installs to C(/opt), C(/etc) and C(/var/lib) and needs root.
      - V(user) installs to the home directory of the user who connects.
      - V(auto) is V(system) for root and V(user) for other users.
    type: str
    choices: [auto, system, user]
    default: auto
  service_manager:
    description: What runs the services. V(auto) is systemd if the host runs it, otherwise supervisord.
    type: str
    choices: [auto, systemd, supervisord, none]
    default: auto
  user:
    description: Account of the server in the system scope. Empty derives it from the instance.
    type: str
    default: ''
  worker_user:
    description:
      - Account that flows run as in the system scope. V(auto) derives it from the instance. If it is empty or the same
        as O(user), flows use the server's account; also with V(auto) if O(home) is the home directory of an account
        that this collection did not create.
    type: str
    default: auto
  home:
    description: Directory of the instance's data. Empty derives it from the instance.
    type: str
    default: ''
  opt_dir:
    description: Directory of the releases. Empty derives it from the instance.
    type: str
    default: ''
  etc_dir:
    description: Directory of the settings. Empty derives it from the instance.
    type: str
    default: ''
  python:
    description: Python interpreter to build a release on. Empty selects the newest suitable one.
    type: str
    default: ''
  release:
    description: Name of the wanted release.
    type: str
    default: ''
  version:
    description: Version of Prefect in that release, which determines the Python that it needs.
    type: str
    default: ''
  locked:
    description: Whether a lock lists the packages. Otherwise the module checks that the package index has O(version).
    type: bool
    default: true
  locks:
    description: Versions that a lock of the collection exists for.
    type: list
    elements: str
    default: []
  proven:
    description: Versions of Python that the lock of O(version) was proven on; empty if that is not known.
    type: list
    elements: str
    default: []
  packages:
    description:
      - Requirements of that release, and further texts that name places of packages on the host. Root does not install
        from a path that another account can write.
    type: list
    elements: str
    default: []
  environments:
    description:
      - Environments of deployments, as mappings of their names to the C(release) that is wanted and to C(python), the
        version or path of its interpreter. Without C(python), it is that of O(python).
    type: dict
    default: {}
  cache_dir:
    description: Directory that keeps downloaded packages. Empty keeps none.
    type: str
    default: ''
  requirements:
    description: Content of the lock.
    type: str
    default: ''
  uv:
    description:
      - Platform of the uv that the controller can send, as the lookup P(selfhosted.prefect.uv#lookup) names it; V(any)
        for a uv that the user named. Empty means that it sends none.
    type: str
    default: ''
  uv_file:
    description:
      - Path on the controller of the uv that the user named; empty for none. The task fails if it must be copied to
        the host and does not exist.
    type: str
    default: ''
  uv_lock:
    description:
      - Hashed requirement file of uv. With it, a host that must build a release needs a uv from the controller, its
        own, or the wheel in its package index.
    type: str
    default: ''
  index_url:
    description: Package index to use instead of uv's default.
    type: str
    default: ''
  ca_bundle:
    description: File of the certificate authorities to trust for the package index. Empty trusts the host's own.
    type: str
    default: ''
  ports:
    description: TCP ports that must be free or held by this instance, as a mapping of variable names to ports.
    type: dict
    default: {}
  resolve:
    description: Names that the host must resolve, as a mapping of the variables that contain them to lists.
    type: dict
    default: {}
  needs:
    description:
      - Further paths that services must reach, by the option of their account, C(user) or C(worker_user), as mappings
        of the variables that contain them to paths. Empty paths are ignored.
    type: dict
    default: {}
  peers:
    description:
      - Names or addresses of hosts that connect to a service of this one. This host must be able to resolve them.
    type: list
    elements: str
    default: []
  disks:
    description:
      - Directories outside the instance that must have free space, as a mapping of their purposes to paths.
    type: dict
    default: {}
  clock_of:
    description:
      - URL of an API on another host. If it answers, the clocks of both hosts must not differ by more than 30 seconds.
    type: str
    default: ''
  calendars:
    description: Calendar expressions that systemd on the host must accept, by the variables that set them.
    type: dict
    default: {}
  adopt:
    description: Kinds of existing objects that may be taken over. With C(user), the account may have another home.
    type: list
    elements: str
    default: []
  components:
    description:
      - What roles or variables install from packages of the distribution, by their names, each one of V(postgresql),
        V(redis), V(nginx) and V(firewall). The task fails if that is not possible on this host.
    type: dict
    default: {}
  experimental:
    description: Whether to allow it on distributions of the RHEL family, where it was never run on a real host.
    type: bool
    default: false
  state:
    description: With V(absent), the host is not checked, except for O(components).
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Never changes a host.
    support: full
"""

EXAMPLES = r"""
- name: Check the host
  selfhosted.prefect.host_preflight:
    instance: prefect
    ports: {prefect_server_port: 4200}
  register: host
"""

RETURN = r"""
components:
  description: The facts about each value of O(components) on this host, such as the names of its packages.
  returned: success
  type: dict
addresses:
  description: The addresses of each name to resolve, an empty list if it cannot be resolved.
  returned: success
  type: dict
installation:
  description:
    - Identity of this installation. C(id) is stored on the host, or generated if the host has none yet. C(formerly)
      has the names that its workers had before it had an id, by the names of their units.
  returned: success
  type: dict
fingerprints:
  description: Stored fingerprints of the generated secrets that the host uses, by file and name of the secret.
  returned: success
  type: dict
secrets_compared:
  description: Whether O(secrets) was set and the controller's secrets match the host's fingerprints.
  returned: when O(secrets) is set
  type: bool
instance:
  description: Name of the instance.
  returned: success
  type: str
name:
  description: Prefix of the names of its directories, user and units.
  returned: success
  type: str
dirs:
  description: Absolute directories of the instance, by purpose (opt, etc, home, worker, bin, units, log).
  returned: success
  type: dict
confinement:
  description:
    - Options of the units that make paths below C(/home) visible to them, which are hidden otherwise. Empty if they
      need none there.
  returned: success
  type: dict
user:
  description: Name of the server's account.
  returned: success
  type: str
group:
  description: Name of that account's group.
  returned: success
  type: str
worker_user:
  description: Name of the account that flows run as. It is that of O(user) if there is only one account.
  returned: success
  type: str
worker_group:
  description: Name of that account's group.
  returned: success
  type: str
operators:
  description: Name of the group whose members can read the client's settings.
  returned: success
  type: str
separate:
  description: Whether flows have their own account.
  returned: success
  type: bool
settled:
  description: Whether the accounts and their groups exist, and the data directory is divided between them.
  returned: success
  type: bool
accounts:
  description: The accounts that exist.
  returned: success
  type: list
  elements: str
user_groups:
  description: Further groups of the server's account, for example docker, if this collection created that account.
  returned: success
  type: list
  elements: str
members:
  description: Accounts that were added to the server's group.
  returned: success
  type: list
  elements: str
scope:
  description: Either system or user.
  returned: success
  type: str
service_manager:
  description: One of systemd, supervisord and none.
  returned: success
  type: str
python:
  description: Path and version of the interpreter for new releases.
  returned: when a release must be built
  type: dict
environments:
  description:
    - Of each wanted environment, by its name, whether it is C(present), whether it is C(current), which means in use,
      and the C(python) to build it on, with C(path) and C(version), if it is not present.
  returned: success
  type: dict
other_environments:
  description: Names of environments on the host that are not wanted.
  returned: success
  type: list
  elements: str
uv:
  description:
    - Source of the host's uv if a release or an environment must be built, one of controller, host and index; empty
      otherwise.
  returned: success
  type: str
architecture:
  description: The machine's architecture, for example x86_64.
  returned: success
  type: str
address:
  description: Address from which this host connects to the first peer; empty without peers.
  returned: success
  type: str
peer_addresses:
  description: Addresses of the peers, sorted.
  returned: success
  type: list
  elements: str
home_present:
  description: Whether the data directory exists.
  returned: success
  type: bool
release_present:
  description: Whether the wanted release is installed and verified.
  returned: success
  type: bool
release_current:
  description: Whether the wanted release is also in use.
  returned: success
  type: bool
release:
  description: Name of the release in use, empty if there is none.
  returned: success
  type: str
version:
  description: Version of the release in use, empty if there is none.
  returned: success
  type: str
wanted:
  description: Name of the wanted release.
  returned: success
  type: str
upgrade:
  description:
    - The upgrade that was interrupted on this host, with the names of the releases from and to which it goes
      (C(release), C(to)), the schema's C(revision) before it, the C(backup), and the C(cost) of going back to it.
      Empty if there is none.
  returned: success
  type: dict
"""

import contextlib
import glob
import grp
import hashlib
import http.client
import json
import os
import platform
import pwd
import re
import secrets
import shutil
import socket
import stat
import subprocess
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import ConnectionError as Unreachable
from ansible.module_utils.urls import open_url
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import userinfo
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.results import conceal
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import (
    distributions,
    fingerprints,
    safe_files,
    trusted,
    upgrades,
    uv,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.interpreter import (
    TOO_NEW,
    is_unproven,
    numbers,
    pythons_for,
    too_old,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import (
    COMMENT,
    Ledger,
    LedgerError,
    keeps_owner,
    path_of,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ports import taken
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import exposed
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost.checks import Check, clock_check, disk_checks

NAME_LENGTH = 32
"""Maximum length of the name of an account or a group: useradd(8)."""

VARIABLES = {"opt": "prefect_opt_dir", "etc": "prefect_etc_dir", "home": "prefect_home"}
"""The directories of an instance that have a variable, by purpose."""

HOMES = ("/home", "/root", "/run/user")
"""What ProtectHome= hides from a unit."""

TEMPORARY = ("/tmp", "/var/tmp")
"""What PrivateTmp= replaces in a unit."""

ENVIRONMENTS = "environments"
"""Directory below that of the releases, with a directory for each environment of deployments."""

INSTALLATION = "state/installation"
"""File below the directory of the releases that identifies an installation."""

SCARCE = 100_000_000
"""Free bytes that each file system needs before a play begins: less than `status` requires."""

PROBE = """
import os, sys
print(*sys.version_info[:3], os.path.realpath(sys.executable))
print(*dict.fromkeys(place for place in sys.path if os.path.exists(place)), sep="\\n")
"""
"""Prints the version of a Python and its path, and from where it imports, each on a line."""

RELEASE_MB = 700
"""Megabytes for uv (55), a release with bytecode (260), the files that uv unpacks, and the first data."""


def base_name(instance: str) -> str:
    """Return the prefix of the names of paths, users and units: ``prefect``, and ``prefect-blue`` for blue."""
    return instance if instance.startswith("prefect") else f"prefect-{instance}"


def directories(*, name: str, scope: str, user_home: str, given: dict[str, str]) -> dict[str, str]:
    """Return the absolute directories of an instance; the user scope follows the XDG base directories."""
    if scope == "system":
        derived = {
            "opt": f"/opt/{name}",
            "etc": f"/etc/{name}",
            "home": f"/var/lib/{name}",
            "log": f"/var/log/{name}",
            "bin": "/usr/local/bin",
            "units": "/etc/systemd/system",
        }
    else:
        derived = {
            "opt": f"{user_home}/.local/share/{name}",
            "etc": f"{user_home}/.config/{name}",
            "home": f"{user_home}/.local/state/{name}",
            "log": f"{user_home}/.local/state/{name}/log",
            "bin": f"{user_home}/.local/bin",
            "units": f"{user_home}/.config/systemd/user",
        }
    return derived | {purpose: path for purpose, path in given.items() if path}


def derived_account(name: str, suffix: str) -> str:
    """Return the name of an account or group of an instance, of at most the 32 characters that Linux allows."""
    whole = f"{name}-{suffix}"
    if len(whole) <= NAME_LENGTH:
        return whole
    short = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: NAME_LENGTH - len(suffix) - len(short) - 2]}-{short}-{suffix}"


def lives_in(user: str, home: str) -> bool:
    """Return whether a directory is the home of an account that this collection did not create."""
    with contextlib.suppress(KeyError):
        account = pwd.getpwnam(user)
        return account.pw_dir == home and not account.pw_gecos.startswith("Prefect (")
    return False


def accounts(*, name: str, user: str, worker_user: str, home: str) -> dict[str, Any]:
    """Return the names of the accounts and groups of an instance in the system scope.

    The home directory of an account of others is not divided, so one account is the default there.
    """
    server = user or name
    own = server if lives_in(server, home) else derived_account(name, "worker")
    worker = {"auto": own, "": server}.get(worker_user, worker_user)
    return {
        "user": server,
        "group": server,
        "worker_user": worker,
        "worker_group": worker,
        "operators": derived_account(name, "operators"),
        "separate": worker != server,
    }


def groups_of(user: str) -> list[str]:
    """Return the names of the groups that an account was added to."""
    return sorted(group.gr_name for group in grp.getgrall() if user in group.gr_mem)


def inherited_groups(user: str, *, name: str, operators: str) -> list[str]:
    """Return the further groups of the server's account that the flows' account gets when it is divided from it.

    Only of an account that this collection created: another one has its groups, such as sudo, for its owner.
    """
    with contextlib.suppress(KeyError, LedgerError):
        ledger = Ledger.read(path_of(name))
        entry = ledger.get("user", user)
        is_former = ledger.recognized and pwd.getpwnam(user).pw_gecos.startswith(COMMENT)
        if entry["origin"] == "created" if entry else is_former:
            return [group for group in groups_of(user) if group != operators]
    return []


def exists(user: str) -> bool:
    """Return whether the host has an account of this name."""
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


def members_of(group: str) -> list[str]:
    """Return the names of the accounts that were added to a group; none if it does not exist."""
    with contextlib.suppress(KeyError):
        return sorted(grp.getgrnam(group).gr_mem)
    return []


def is_settled(host: dict[str, Any]) -> bool:
    """Return whether the accounts exist, and the data directory is divided between them.

    The owner of that directory is set last: root, or the only account.
    """
    if host["scope"] == "user":
        return True
    users = {host["user"]: host["group"], host["worker_user"]: host["worker_group"]}
    if not all(has_account(user, group=group) for user, group in users.items()):
        return False
    if not all(host["operators"] in groups_of(user) for user in users):
        return False
    # A home directory of others keeps its owner and is not divided.
    with contextlib.suppress(LedgerError):
        if keeps_owner(Ledger.read(path_of(host["name"])).get("data", host["dirs"]["home"])):
            return True
    owners = {host["dirs"]["home"]: host["user"]}
    if host["separate"]:
        owners = {host["dirs"]["home"]: "root", host["dirs"]["worker"]: host["worker_user"]}
    with contextlib.suppress(OSError, KeyError):
        return all(Path(path).owner() == owner for path, owner in owners.items())
    return False


def installation(dirs: dict[str, str], *, name: str) -> dict[str, Any]:
    """Return the identity of this installation: `id` and, in `formerly`, the former names of its workers by unit.

    The id is generated here and stored by the role `prefect`. A host with workers and no id is being upgraded: its
    workers have started flow runs under the names in their units.
    """
    with contextlib.suppress(OSError, ValueError):
        text = safe_files.read(Path(dirs["opt"], INSTALLATION)).decode()
        kept = json.loads("".join(line for line in text.splitlines() if not line.startswith("#")))
        if isinstance(kept, dict) and re.fullmatch(r"[0-9a-f]{32}", str(kept.get("id"))):
            return {"id": kept["id"], "formerly": dict(kept.get("formerly") or {})}
    files = [
        *Path(dirs["units"]).glob(f"{glob.escape(name)}-worker@?*.service.d/instance.conf"),
        *Path(dirs["opt"], "supervisor/conf.d").glob(f"{glob.escape(name)}-worker@?*.conf"),
    ]
    formerly = {}
    for file in sorted(files):
        unit = re.match(r".*-worker@(.+?)(?:\.service\.d/instance)?\.conf$", str(file))
        with contextlib.suppress(OSError):
            named = re.search(r"""--name ["']*([^\s"']+)""", safe_files.read(file).decode(errors="replace"))
            if unit and named:
                formerly[unit[1]] = named[1].replace("%%", "%")
    return {"id": secrets.token_hex(16), "formerly": formerly}


def systemd_runs(scope: str) -> bool:
    """Return whether systemd manages this host (system) or answers this user (user)."""
    if not Path("/run/systemd/system").is_dir():
        return False
    if scope == "system":
        return True
    environment = os.environ | {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"}
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run(
            ["systemctl", "--user", "show-environment"], env=environment, capture_output=True, timeout=10, check=False
        )
        return answer.returncode == 0
    return False


def has_account(user: str, *, group: str) -> bool:
    """Return whether a user exists whose primary group is called ``group``."""
    with contextlib.suppress(KeyError):
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name == group
    return False


def below(path: str | Path, directories: Iterable[str]) -> str:
    """Return the directory that contains a path after resolving symbolic links; empty if none does."""
    real = Path(os.path.realpath(path))
    return next((top for top in directories if real.is_relative_to(os.path.realpath(top))), "")


def enters(user: str, directory: os.stat_result) -> bool:
    """Return whether an account may enter a directory. An account that does not exist yet has others' permissions."""
    with contextlib.suppress(KeyError):
        account = pwd.getpwnam(user)
        if account.pw_uid in (0, directory.st_uid):
            return account.pw_uid == 0 or bool(directory.st_mode & stat.S_IXUSR)
        if directory.st_gid in os.getgrouplist(user, account.pw_gid):
            return bool(directory.st_mode & stat.S_IXGRP)
    return bool(directory.st_mode & stat.S_IXOTH)


def closed_to(user: str, path: str, *, own: Collection[str]) -> str:
    """Return the first directory above a path that an account may not enter, or an empty string.

    The modes of the instance's own directories and their content are set later.
    """
    for step in reversed(Path(os.path.realpath(path)).parents):
        if str(step) in own:
            return ""
        try:
            if not enters(user, step.stat()):
                return str(step)
        except OSError:
            return ""
    return ""


def confinement(host: dict[str, Any], needs: dict[str, dict[str, str]], *pythons: str) -> dict[str, str]:
    """Return the options that show the units only the paths that they need below `HOMES`.

    `pythons` are the directories of the interpreters. Empty if they need nothing there.
    """
    if host["scope"] != "system" or host["service_manager"] != "systemd":
        return {}
    dirs = host["dirs"]
    others = [dirs["opt"], dirs["etc"], *pythons, *(path for paths in needs.values() for path in paths.values())]
    written = [os.path.realpath(dirs["home"])] if below(dirs["home"], HOMES) else []
    seen: list[str] = []
    for path in sorted(os.path.realpath(path) for path in others if path and below(path, HOMES)):
        if not any(Path(path).is_relative_to(shown) for shown in [*written, *seen]):
            seen.append(path)
    if not written and not seen:
        return {}
    # The dash ignores a path that does not exist yet. An empty option would reset the other one.
    options = {"BindPaths": written, "BindReadOnlyPaths": seen}
    bound = {name: " ".join(f"-{path}" for path in paths) for name, paths in options.items() if paths}
    return {"ProtectHome": "tmpfs", **bound}


def unseen(host: dict[str, Any], needs: dict[str, dict[str, str]]) -> list[str]:
    """Return an error for each path that a service needs but cannot reach as its account and in its unit."""
    if host["scope"] != "system":
        return []
    shared = {variable: host["dirs"][purpose] for purpose, variable in VARIABLES.items()}
    shared["prefect_python"] = host["python"]["path"] if host["python"] else ""
    own = {os.path.realpath(host["dirs"][purpose]) for purpose in VARIABLES}
    found: dict[str, None] = {}
    for role, paths in (("user", shared), ("worker_user", shared), *needs.items()):
        for variable, path in paths.items():
            if not path:
                continue
            if host["service_manager"] == "systemd" and (top := below(path, TEMPORARY)):
                found[
                    f"{variable}: {path} is in {top}, and each service has a {top} of its own (PrivateTmp), so none "
                    "finds it; name another place"
                ] = None
            elif closed := closed_to(host[role], path, own=own):
                found[
                    f"{variable}: {host[role]} has to reach {path} and may not enter {closed}; name another place, or "
                    "let the account enter that directory"
                ] = None
    return list(found)


def reachable_by_others(path: Path) -> bool:
    """Return whether any user may enter every directory above ``path`` and execute it."""
    return all(step.stat().st_mode & stat.S_IXOTH for step in [path, *path.parents])


def find_python(
    wanted: str, *, for_others: bool, version: str = "", proven: Sequence[str] = ()
) -> tuple[dict[str, str] | None, list[str]]:
    """Return the interpreter for a release of a version, or None, and the rejected interpreters.

    ``wanted`` is a path, or the two numbers of a version of Python; empty selects the newest suitable one.
    ``for_others`` rejects interpreters that a service user cannot execute, such as those in a home directory.
    A Python that is newer than all of ``proven`` is the last choice.
    """
    oldest, end = pythons_for(version)
    names = [wanted]
    if re.fullmatch(r"3\.\d+", wanted):
        named = f"python{wanted}"
        possible = [f"/usr/bin/{named}", f"/usr/local/bin/{named}", shutil.which(named) or ""]
        names = [name for name in possible if os.access(name, os.X_OK)]
    elif not wanted:
        names = [f"/usr/bin/python3.{minor}" for minor in range(TOO_NEW[1] - 1, oldest[1] - 1, -1)]
        names += [
            "/usr/bin/python3",
            "/usr/local/bin/python3",
            shutil.which("python3") or "",
            os.path.realpath("/proc/self/exe"),
        ]
    seen, unproven = [], None
    for name in dict.fromkeys(filter(None, names)):
        looked: trusted.Seen = {}
        if weak := trusted.interpreter(name, looked):
            seen.append(f"{name} ({weak}, and root runs it)")
            continue
        try:
            answer = subprocess.run([name, "-I", "-c", PROBE], capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            if wanted:
                seen.append(f"{name} (cannot be run)")
            continue
        said, *imported = answer.stdout.splitlines()
        major, minor, micro, path = said.split(maxsplit=3)
        found = f"{major}.{minor}.{micro}"
        # A script of root's may start a Python elsewhere.
        places = [trusted.interpreter(path.strip(), looked)]
        places += [trusted.weakness(place, depth=1, seen=looked) for place in imported]
        if weak := next(filter(None, places), None):
            seen.append(f"{name} ({weak}, and root runs it)")
        elif (int(major), int(minor)) < oldest:
            seen.append(f"{name} (Python {found} is too old)")
        elif (int(major), int(minor)) >= end:
            seen.append(f"{name} (Python {found} is too new)")
        elif for_others and not reachable_by_others(Path(path.strip())):
            seen.append(f"{name} (only its owner may execute {path.strip()})")
        elif is_unproven(found, proven):
            unproven = unproven or {"path": path.strip(), "version": found}
        else:
            return {"path": path.strip(), "version": found}, seen
    return unproven, seen


def fitting(params: dict[str, Any], *, for_others: bool) -> str:
    """Return the newest version with a lock that a Python of this host can run, or nothing."""
    by_age: list[str] = sorted(params["locks"], key=numbers)
    # The versions that need the same Pythons are asked for once: the newest of them.
    candidates = {pythons_for(version): version for version in by_age}.values()
    for version in sorted(candidates, key=numbers, reverse=True):
        if find_python(params["python"], for_others=for_others, version=version)[0]:
            return version
    return ""


def find_environments(
    params: dict[str, Any], opt: str, *, for_others: bool
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the state of each wanted environment, and an error for each Python that a missing one needs."""
    found: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    oldest, end = pythons_for(params["version"])
    suitable = f"Python {oldest[0]}.{oldest[1]} or newer and older than {end[0]}.{end[1]}"
    for name, wanted in params["environments"].items():
        directory = Path(opt, ENVIRONMENTS, name)
        release = directory / "releases" / wanted["release"]
        is_present = (release / ".proven").exists()
        is_current = is_present and (directory / "current").resolve() == release.resolve()
        found[name] = {"present": is_present, "current": is_current, "python": None}
        if is_present:
            continue
        python = str(wanted.get("python") or "")
        asked = python or params["python"]
        found[name]["python"], seen = find_python(asked, for_others=for_others, version=params["version"])
        if found[name]["python"] is None:
            needed = f"Python {python}" if re.fullmatch(r"[\d.]+", python) else python or suitable
            problems.append(
                f"prefect_environments: {name} needs {needed}, which {os.uname().nodename} does not have or cannot use "
                f"({'; '.join(seen) or 'none found'}); install it, or name another one as its python: Prefect "
                f"{params['version']} needs {suitable}"
            )
    return found, problems


def index_of(params: dict[str, Any]) -> uv.Index:
    """Return the package index that uv will use."""
    return uv.Index(url=params["index_url"], ca_bundle=params["ca_bundle"])


def find_uv(params: dict[str, Any], opt: str) -> tuple[str, list[str]]:
    """Return the source of uv for a release, and an error if there is none."""
    if params["uv"] in (uv.ANY, uv.own_platform()):
        return "controller", []
    if not params["uv_lock"]:
        return "", []
    try:
        lock = uv.Lock.parse(params["uv_lock"])
        if uv.installed(lock.version, f"{opt}/uv"):
            return "host", []
        uv.locate(index_of(params), lock)
    except uv.UvError as error:
        return "", [str(error)]
    return "index", []


def nearest_existing(path: Path) -> Path:
    """Return a path, or the nearest existing one above it, as far as permissions allow to see."""
    for step in (path, *path.parents):
        with contextlib.suppress(PermissionError):
            if step.exists():
                return step
    return Path("/")


def unwritable(path: str) -> str | None:
    """Return the nearest existing directory above ``path`` if it is not writable, otherwise None."""
    nearest = nearest_existing(Path(path))
    return None if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK) else str(nearest)


def addresses(name: str) -> list[str]:
    """Return the IP addresses of a name, or an address itself; none if it cannot be resolved."""
    with contextlib.suppress(OSError, UnicodeError):
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)})
    return []


def unresolved(wanted: dict[str, list[str]], found: dict[str, list[str]]) -> list[str]:
    """Return an error for each name that has no address, with the variable that contains it."""
    also = {"prefect_proxy_domain": ", or set prefect_proxy_hosts_entry to true"}
    return [
        f"{variable}: {name} cannot be resolved on this host; let your DNS know it{also.get(variable, '')}"
        for variable, names in wanted.items()
        for name in names
        if not found[name]
    ]


def address_towards(peer: str) -> str:
    """Return the address from which this host connects to another one. Nothing is sent.

    A host's own name is no help: it often resolves to the loopback address, or to one that a router translates and
    that the host does not have. Raises OSError if there is no route.
    """
    with socket.socket(socket.AF_INET6 if ":" in peer else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))
        return str(probe.getsockname()[0])


def find_peers(peers: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return this host's address towards its peers and their addresses, and an error for each unknown peer."""
    found: dict[str, Any] = {"address": "", "peer_addresses": []}
    problems = []
    for peer in peers:
        known = addresses(peer)
        with contextlib.suppress(OSError, IndexError):
            found["address"] = found["address"] or address_towards(known[0])
        found["peer_addresses"] = sorted({*found["peer_addresses"], *known})
        if not known:
            problems.append(
                f"prefect_address: {peer} cannot be resolved on this host; let your DNS know it, or set that host's "
                "prefect_address to an address"
            )
    return found, problems


def unserved(version: str, index: uv.Index, locks: Sequence[str]) -> list[str]:
    """Return an error if the package index that uv will use lacks this version of Prefect.

    The versions `locks` have a lock.

    An unreadable index is no error here: uv may reach it in other ways, and reports its own errors.
    """
    try:
        with index.opened(index.page("prefect")) as answer:
            text = answer.read(uv.LARGEST_PAGE).decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException):
        return []
    known = set(re.findall(r"\bprefect-(\d[\w.]*?)(?:-py|\.tar\.gz)", text))
    stable = [found for found in known if re.fullmatch(r"\d+(\.\d+)+", found)]
    if not stable or version in known:
        return []
    error = (
        f"prefect_version: the package index has no Prefect {version}; its newest is {max(stable, key=numbers)} "
        "(prefect_index_url)"
    )
    return [error + (f". These have a lock: {', '.join(sorted(locks, key=numbers))}" if locks else "")]


def is_adopted(params: dict[str, Any], user: str) -> bool:
    """Return whether an account exists that this collection did not create, but may use."""
    with contextlib.suppress(KeyError):
        return "user" in params.get("adopt", []) and not pwd.getpwnam(user).pw_gecos.startswith(COMMENT)
    return False


def unfit_accounts(params: dict[str, Any], host: dict[str, Any]) -> list[str]:
    """Return an error for each account that cannot run the services."""
    if host["scope"] == "user":
        if params["worker_user"] in ("auto", "", host["user"]):
            return []
        return [
            f"prefect_worker_user: {params['worker_user']} cannot run flows, because an installation in the user scope "
            f"has one account, {host['user']}; leave prefect_worker_user out, or install as root"
        ]
    dirs, found = host["dirs"], []
    if host["separate"] and lives_in(host["user"], dirs["home"]):
        found.append(
            f"prefect_worker_user: {dirs['home']} is the home of {host['user']}, so it cannot be divided with "
            f"{host['worker_user']}; name another directory in prefect_home and another prefect_user, or set "
            f"prefect_worker_user to {host['user']}"
        )
    way_out = {"prefect_user": "name another user, or set prefect_home to its home"}
    for variable, user, home in (
        ("prefect_user", host["user"], dirs["home"]),
        ("prefect_worker_user", host["worker_user"], dirs["worker"]),
    ):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(user)
            if variable == "prefect_worker_user" and not host["separate"]:
                continue
            if is_adopted(params, user):
                if not has_account(user, group=user):
                    found.append(
                        f"{variable}: the primary group of {user} is {grp.getgrgid(account.pw_gid).gr_name}, whose "
                        f"members could read the settings; name a user whose primary group is its own, called {user}"
                    )
            elif account.pw_dir != home:
                found.append(
                    f"{variable}: {user} exists with the home {account.pw_dir}, not {home}; "
                    f"{way_out.get(variable, 'name another user')}"
                )
    return found


def clock_of(url: str) -> list[Check]:
    """Compare the clock of this host with that of an API, if it answers.

    The request contains no secret, so any certificate is accepted.
    """
    # HTTP libraries raise more than OSError for an invalid answer.
    with contextlib.suppress(OSError, ValueError, TypeError, http.client.HTTPException, Unreachable):
        try:
            answer = open_url(f"{url.rstrip('/')}/health", validate_certs=False, timeout=3)
        except HTTPError as error:
            answer = error
        ahead = parsedate_to_datetime(answer.headers["Date"]) - datetime.now(timezone.utc)
        return [clock_check(ahead, url)]
    return []


def refused_calendar(calendar: str, *, manager: str) -> list[str]:
    """Return the errors in a calendar expression of systemd on this host; none if it is empty."""
    if not calendar:
        return []
    if manager == "supervisord":
        return [
            f"{os.uname().nodename} runs its services by supervisord, which has no timers; leave it empty there, and "
            "have cron on the controller run the playbook backup"
        ]
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run(
            ["systemd-analyze", "calendar", "--", calendar], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return [
                f"systemd on {os.uname().nodename} does not know {calendar!r} as a time: {done.stderr.strip()}; "
                'set one such as daily, hourly or "Mon..Fri 02:30"; `man systemd.time` describes them'
            ]
    return []


def releases_in_use(host: dict[str, Any], release: str) -> list[Path]:
    """Return the environments that root runs: the wanted release, and supervisord's."""
    opt = Path(host["dirs"]["opt"])
    return [path for path in (opt / "releases" / release, opt / "supervisor" / "current") if path.exists()]


def problems_of(params: dict[str, Any], host: dict[str, Any]) -> list[str]:
    """Return the errors of all conditions on the host that would make the installation fail."""
    found = []
    dirs: dict[str, str] = host["dirs"]
    for purpose, variable in VARIABLES.items():
        blocked = unwritable(dirs[purpose])
        if blocked:
            found.append(
                f"{variable}: {dirs[purpose]} cannot be written, because {blocked} does not allow it; "
                "name another directory"
            )
    for purpose, variable in (("opt", "prefect_opt_dir"), ("etc", "prefect_etc_dir")):
        # The parent is checked, because the directory's own owner may still be wrong and is set later.
        if host["scope"] == "system" and (above := exposed(Path(dirs[purpose]).parent)):
            found.append(
                f"{variable}: another account can write {above} or a directory above it, and root runs what is in "
                f"{dirs[purpose]}; name a directory that only root can replace"
            )
    if host["release_present"]:
        found += trusted.refused(releases=releases_in_use(host, params["release"]))
    else:
        names = ("cache_dir", "packages", "requirements", "index_url")
        found += trusted.refused(**{name: params[name] for name in names})
        free = shutil.disk_usage(nearest_existing(Path(dirs["opt"]))).free // 1_000_000
        if free < RELEASE_MB:
            found.append(
                f"prefect_opt_dir: {dirs['opt']} has {free} MB left and a release needs {RELEASE_MB} MB; "
                "free some or name another directory"
            )
        if params["version"] and not params["locked"]:
            found += unserved(params["version"], index_of(params), params["locks"])
        if host["python"] is None:
            looked = "; ".join(host["pythons_seen"]) or "none found"
            oldest, end = pythons_for(params["version"])
            wanted = f"Python {oldest[0]}.{oldest[1]} or newer"
            needs = ""
            if params["version"]:
                wanted += f" and older than {end[0]}.{end[1]}"
                needs = f", which Prefect {params['version']} needs (prefect_version)"
                if other := fitting(params, for_others=host["scope"] == "system"):
                    needs += f"; or set prefect_version: {other}, which runs on this host's Python"
            found.append(f"prefect_python: no {wanted} on this host ({looked}); install one or name it{needs}")
    kept = {"prefect_home": dirs["home"], "prefect_opt_dir": dirs["opt"], "the logs": dirs["log"], **params["disks"]}
    clock = clock_of(params["clock_of"]) if params["clock_of"] else []
    unhealthy = [check for check in [*disk_checks(kept, scarce=SCARCE), *clock] if not check.healthy]
    found += [f"{check.name}: {check.detail}" for check in unhealthy]
    found += unfit_accounts(params, host)
    for command in (host["name"], f"{host['name']}-info"):
        path = Path(dirs["bin"], command)
        if path.exists() and not (path.is_file() and f"{dirs['opt']}/" in path.read_text(errors="replace")):
            found.append(
                f"prefect_instance: {path} exists and does not belong to this instance; remove it or choose another "
                "name for the instance"
            )
    found += unseen(host, params["needs"])
    found += unresolved(params["resolve"], host["addresses"])
    for variable, calendar in params["calendars"].items():
        found += [f"{variable}: {wrong}" for wrong in refused_calendar(calendar, manager=host["service_manager"])]
    return found + taken(params["ports"], program_dir=dirs["opt"])


def main() -> None:
    text = {"type": "str", "default": ""}
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "str", "default": "prefect"},
            "scope": {"type": "str", "choices": ["auto", "system", "user"], "default": "auto"},
            "service_manager": {
                "type": "str",
                "choices": ["auto", "systemd", "supervisord", "none"],
                "default": "auto",
            },
            "user": text,
            "worker_user": {"type": "str", "default": "auto"},
            "home": text,
            "opt_dir": text,
            "etc_dir": text,
            "python": text,
            "release": text,
            "version": text,
            "locked": {"type": "bool", "default": True},
            "locks": {"type": "list", "elements": "str", "default": []},
            "proven": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "cache_dir": text,
            "requirements": text,
            "environments": {"type": "dict", "default": {}},
            "uv": text,
            "uv_lock": text,
            "index_url": {"type": "str", "default": "", "no_log": True},
            "ca_bundle": text,
            "ports": {"type": "dict", "default": {}},
            "resolve": {"type": "dict", "default": {}},
            "needs": {"type": "dict", "default": {}},
            "peers": {"type": "list", "elements": "str", "default": []},
            "disks": {"type": "dict", "default": {}},
            "clock_of": text,
            "adopt": {"type": "list", "elements": "str", "default": []},
            "calendars": {"type": "dict", "default": {}},
            "components": {"type": "dict", "default": {}},
            "experimental": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["state"] == "present" and (old := too_old()):
        module.fail_json(msg=old, problems=[old])
    account = pwd.getpwuid(os.getuid())
    scope = params["scope"]
    if scope == "auto":
        scope = "system" if os.getuid() == 0 else "user"
    if scope == "system" and os.getuid() != 0:
        module.fail_json(msg="prefect_scope: system needs root; use become, or set prefect_scope to user")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,23}", params["instance"]):
        module.fail_json(
            msg=f"prefect_instance: {params['instance']!r} is no name for an instance: "
            "a letter, then at most 23 lower-case letters, digits and hyphens"
        )

    name = base_name(params["instance"])
    dirs = directories(
        name=name,
        scope=scope,
        user_home=account.pw_dir,
        given={"opt": params["opt_dir"], "etc": params["etc_dir"], "home": params["home"]},
    )
    if scope == "system":
        named = accounts(name=name, user=params["user"], worker_user=params["worker_user"], home=dirs["home"])
    else:
        group = grp.getgrgid(account.pw_gid).gr_name
        named = {"user": account.pw_name, "group": group, "worker_user": account.pw_name, "worker_group": group}
        named |= {"operators": group, "separate": False}
    dirs["worker"] = f"{dirs['home']}/worker" if named["separate"] else dirs["home"]
    manager = params["service_manager"]
    if manager == "auto":
        manager = "systemd" if systemd_runs(scope) else "supervisord"
    release = Path(dirs["opt"], "releases", params["release"])
    proven = bool(params["release"]) and (release / ".proven").exists()
    host: dict[str, Any] = {
        "instance": params["instance"],
        "name": name,
        "dirs": dirs,
        "scope": scope,
        **named,
        "service_manager": manager,
        "architecture": platform.machine(),
        "uid": os.getuid(),
        "release_present": proven,
        "release_current": proven and Path(dirs["opt"], "current").resolve() == release.resolve(),
        "home_present": Path(dirs["home"]).exists(),
        "fingerprints": fingerprints.read_all(fingerprints.files(name, dirs["etc"], scope=scope)),
        "installation": installation(dirs, name=name),
        "addresses": {name: addresses(name) for names in params["resolve"].values() for name in names},
        "python": None,
        "uv": "",
    }
    peers, lost = find_peers(params["peers"])
    host |= peers
    current = Path(dirs["opt"], "current")
    host["release"] = current.resolve().name if current.exists() else ""
    host["version"] = host["release"].rpartition("-")[0]
    host["wanted"] = params["release"]
    try:
        host["upgrade"] = upgrades.unfinished(Path(dirs["opt"], "state")) if host["release"] else {}
    except (OSError, upgrades.UpgradeError) as error:
        module.fail_json(msg=str(error))
    host["accounts"] = [user for user in dict.fromkeys([host["user"], host["worker_user"]]) if exists(user)]
    host["settled"] = is_settled(host)
    host["user_groups"] = inherited_groups(host["user"], name=name, operators=host["operators"])
    host["members"] = members_of(host["group"])
    host["environments"], without_python = find_environments(params, dirs["opt"], for_others=scope == "system")
    host["other_environments"] = sorted({*trusted.entries(Path(dirs["opt"], ENVIRONMENTS))} - {*params["environments"]})
    lost += without_python
    if params["state"] == "present" and not host["release_present"]:
        host["python"], host["pythons_seen"] = find_python(
            params["python"], for_others=scope == "system", version=params["version"], proven=params["proven"]
        )
        if host["python"] and is_unproven(host["python"]["version"], params["proven"]):
            module.warn(
                f"prefect_python: Python {host['python']['version']} ({host['python']['path']}) is newer than each "
                f"that the lock of Prefect {params['version']} was proven on ({', '.join(params['proven'])}). The "
                "release is tested before it is used; to be sure, install one of those"
            )
    is_complete = host["release_present"] and all(each["present"] for each in host["environments"].values())
    if params["state"] == "present" and not is_complete:
        host["uv"], without_uv = find_uv(params, dirs["opt"])
        lost += without_uv
    # The interpreter of the wanted release, or of the one in use.
    interpreter = str(Path(host["python"]["path"]).parent.parent) if host["python"] else ""
    interpreter = interpreter or trusted.base_python(release if proven else current)
    others = [
        str(Path(each["python"]["path"]).parent.parent)
        if each["python"]
        else trusted.base_python(Path(dirs["opt"], ENVIRONMENTS, name, "current"))
        for name, each in host["environments"].items()
    ]
    host["confinement"] = confinement(host, params["needs"], interpreter, *others)
    problems = distributions.refused(params["components"], experimental=params["experimental"])
    host["components"] = {what: distributions.facts(what) for what in params["components"].values()}
    if params["state"] == "present":
        problems += problems_of(params, host) + lost
    if problems:
        failure = {"msg": "\n".join(problems), "problems": problems, **host}
        module.fail_json(**conceal(module, failure, userinfo(params["index_url"])))
    # Only the credential in the index's URL is a secret; messages show the rest.
    module.exit_json(**conceal(module, {"changed": False, **host}, userinfo(params["index_url"])))


if __name__ == "__main__":
    main()
