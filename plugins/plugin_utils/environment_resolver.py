"""Environments of deployments: what an inventory may say of them, and the lock of each on the controller."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import without_userinfo
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import installing
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import uv as own_uv
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.installing import (
    InstallError,
    of_environment,
    pins,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.interpreter import pythons_for
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.kinds.deployments import ENVIRONMENT_NAME
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import kept_files

REQUIREMENT = r"[A-Za-z0-9][\w.-]*\s*(\[[\w\s.,-]*\])?\s*([<>=!~(;].*)?"
"""A package of an index, with extras, versions and a marker. Other requirements have no hash that a lock could hold."""

BESIDE = ("tzdata", "importlib-metadata")
"""What the locks of releases add to Prefect, see requirements/locks.py."""

FROM = "# From: "


def problems_of(entries: Sequence[Any]) -> Iterator[str]:
    """Yield the errors in `prefect_environments` that can be found without a file or a package index.

    The types of the options are those of the argument specs, which are checked elsewhere.
    """
    names = [str(entry["name"]) for entry in entries if isinstance(entry, Mapping) and entry.get("name") is not None]
    for name in dict.fromkeys(names):
        if not re.fullmatch(ENVIRONMENT_NAME, name):
            yield (
                f"prefect_environments: {name!r} is no name for an environment: letters, digits, hyphens and "
                "underscores, 50 at most, and a letter or digit first"
            )
        elif names.count(name) > 1:
            yield f"prefect_environments: {name} is the name of {names.count(name)} environments; give each its own"
    for entry in entries:
        if not isinstance(entry, Mapping):
            continue
        about = f"prefect_environments ({entry.get('name')})"
        python = str(entry.get("python") or "")
        for text in entry.get("requirements") or ():
            if not re.fullmatch(REQUIREMENT, str(text).strip()):
                yield (
                    f"{about}: {without_userinfo(str(text))!r} is not a package of the index; "
                    "name it with its versions, as pandas==2.3.*; a package of your own belongs into an index "
                    "(prefect_index_url) or, as code, to the flows"
                )
        if re.fullmatch(r"3\.\d", python):
            yield f"{about}: Python {python} is too old, or is 3.10 without quotes: write '3.10'"
        elif python and not re.fullmatch(r"3\.\d+|/.+", python):
            yield (
                f"{about}: python is {python!r}; give two numbers, such as '3.12', or the path of a Python on the hosts"
            )


@dataclass(frozen=True, kw_only=True)
class Release:
    """The Prefect that every environment of a host has: its version, the release's lock, and what is known to break."""

    version: str
    lock: str = ""
    constraints: str = ""


@dataclass(frozen=True, kw_only=True)
class Uv:
    """The uv of the controller, or an empty path if it has none, and where a locked one and packages come from."""

    path: str
    lock: str
    index: own_uv.Index

    @contextmanager
    def ready(self) -> Iterator[str]:
        """Yield the path of a uv; a fetched one is removed afterwards. Raises InstallError."""
        if self.path:
            yield self.path
            return
        with tempfile.TemporaryDirectory() as scratch:
            try:
                lock = own_uv.Lock.parse(self.lock)
                path = own_uv.installed(lock.version)
                if not path:
                    path = str(Path(scratch, "uv"))
                    own_uv.fetch(self.index, lock, Path(path))
            except own_uv.UvError as error:
                raise InstallError(str(error).replace("this host", "the controller")) from error
            yield path


def lock_file(directory: str | Path, name: str, version: str) -> Path:
    """Return the path of the lock of an environment for a version of Prefect."""
    return Path(directory, f"{name}-{version}.txt")


def locked(
    entry: Mapping[str, Any], release: Release, uv: Uv, *, directory: str, base: str, dry: bool
) -> tuple[str, bool]:
    """Return the lock of an environment, and whether it was made now, to be kept in `directory`.

    A `requirements_file` is relative to `base`. If it has hashes, it is the lock itself. With `dry`, the lock is made
    and not kept. Raises InstallError.
    """
    name = str(entry["name"])
    file = Path(base, entry["requirements_file"]) if entry.get("requirements_file") else None
    text = _read(file, name) if file else ""
    if "--hash=" in text:
        return _own_lock(entry, text, release), False
    digest = _digest(entry, text, release)
    kept = lock_file(directory, name, release.version)
    if kept.is_file():
        known = kept.read_text(encoding="utf-8")
        if f"{FROM}{digest}\n" in known:
            return known, False
    made = (
        f"# Packages of the environment {name} with Prefect {release.version} (prefect_environments). Remove this file "
        f"to resolve them again.\n{FROM}{digest}\n{_resolved(entry, file, release, uv)}"
    )
    if not dry:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept_files.write(kept, made.encode(), mode=0o644)
    return made, True


def _read(file: Path, name: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text"
        raise InstallError(
            f"prefect_environments ({name}): the controller cannot read {file} ({reason}); correct "
            "requirements_file, a path relative to the inventory"
        ) from error


def _own_lock(entry: Mapping[str, Any], text: str, release: Release) -> str:
    """Return a lock that the user made. Raises InstallError if it lacks the release's Prefect."""
    about, file = f"prefect_environments ({entry['name']})", entry["requirements_file"]
    if entry.get("requirements"):
        raise InstallError(f"{about}: {file} is a lock, to which requirements add nothing; put them into it")
    found = sorted({version for name, version in pins(text) if name.lower() == "prefect"})
    if found != [release.version]:
        has = " and ".join(f"Prefect {version}" for version in found) or "no Prefect"
        raise InstallError(
            f"{about}: the lock {file} has {has}, and the release has {release.version} "
            f"(prefect_version); lock it again with prefect=={release.version}"
        )
    return text


def _digest(entry: Mapping[str, Any], text: str, release: Release) -> str:
    """Return the digest of what an environment is resolved from."""
    asked = [release.version, list(entry.get("requirements") or ()), text, _version_of(entry, release)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _version_of(entry: Mapping[str, Any], release: Release) -> str:
    """Return the oldest Python that the lock of an environment has to suit."""
    python = str(entry.get("python") or "")
    return python if python and "/" not in python else ".".join(map(str, pythons_for(release.version)[0]))


def _resolved(entry: Mapping[str, Any], file: Path | None, release: Release, uv: Uv) -> str:
    """Resolve an environment with the release's Prefect. Raises InstallError.

    What the release's lock holds is preferred: another version is taken only where the environment needs it.
    """
    name = str(entry["name"])
    asked = [f"prefect=={release.version}", *BESIDE, *map(str, entry.get("requirements") or ())]
    texts = {
        "lock.txt": release.lock,
        "requirements.txt": "".join(f"{line}\n" for line in asked),
        "constraints.txt": release.constraints,
        "overrides.txt": installing.overrides(release.lock),
    }
    with uv.ready() as program, tempfile.TemporaryDirectory() as scratch:
        for title, text in texts.items():
            Path(scratch, title).write_text(text, encoding="utf-8")
        # The bundle is a file of the hosts.
        bundle = uv.index.ca_bundle if Path(uv.index.ca_bundle).is_file() else ""
        environment = installing.environment(
            scratch=scratch, cache_dir=f"{scratch}/cache", index_url=uv.index.url, ca_bundle=bundle
        )
        command = [program, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header"]
        command += ["--no-annotate", "--python", sys.executable, "--python-version", _version_of(entry, release)]
        command += ["--constraints", f"{scratch}/constraints.txt", "--overrides", f"{scratch}/overrides.txt"]
        command += ["--output-file", f"{scratch}/lock.txt", f"{scratch}/requirements.txt"]
        command += [str(file)] if file else []
        what = f"Resolving the environment {name} with Prefect {release.version} on the controller"
        installing.run(command, env=environment, what=what, variables=of_environment(name, here="the controller"))
        return Path(scratch, "lock.txt").read_text(encoding="utf-8")
