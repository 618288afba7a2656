"""The secrets that the controller keeps, compared with the fingerprints on the hosts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.prefect.plugins.lookup.secret import hide_from_git
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.fingerprints import matches
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.certificates import MISSING, public_key
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_files import sync, write

NAMES = ("api", "database", "redis", "ca")
"""The generated secrets. Certificates that the CA signs are generated again whenever they are missing."""

PREVIOUS = ".previous"
"""Suffix of the file of a replaced secret, which is kept even after all hosts have the new one."""


def file_of(name: str) -> str:
    """Return the name of the file whose existence shows that a secret is kept; for a CA, its certificate."""
    return "ca.crt" if name == "ca" else name


def text_of(name: str, content: str) -> str:
    """Return the text to fingerprint: a secret, or the public key of a CA, which a renewal does not change.

    Raises ValueError for an invalid CA certificate.
    """
    return public_key(content) if name == "ca" else content.rstrip("\n")


def kept(directory: Path, name: str) -> list[str]:
    """Return a secret in the directory of an instance, and the secret that it replaced, if they exist.

    Raises OSError and ValueError.
    """
    paths = [directory / file_of(name), directory / f"{file_of(name)}{PREVIOUS}"]
    return [text_of(name, path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def missing(directory: Path, names: Collection[str]) -> list[str]:
    """Return the names for which the directory of an instance has no secret."""
    return [name for name in names if not (directory / file_of(name)).exists()]


def refusals(
    host: str,
    directory: Path,
    names: Collection[str],
    remembered: Mapping[str, Mapping[str, str]],
    *,
    replaced: Collection[str] = (),
) -> list[str]:
    """Return an error for the secrets that a host has and the controller lacks, and one for secrets that differ.

    `names` are the secrets that the host uses, `remembered` the fingerprints in its files by path, `replaced` the names
    of the secrets that this run replaces. Raises OSError and ValueError.
    """
    asked = [name for name in names if name not in replaced]
    known = {name: [found[name] for found in remembered.values() if name in found] for name in asked}
    candidates = {name: kept(directory, name) for name in asked if known[name]}
    odd = [
        name
        for name, texts in candidates.items()
        if not all(any(matches(each, name, text) for text in texts) for each in known[name])
    ]
    lost = [name for name in odd if name in missing(directory, odd)]
    differing = [name for name in odd if name not in lost]
    found = []
    if lost:
        found.append(
            f"prefect_secrets_dir: {host} remembers {listed(lost)}, generated at an earlier run, and {directory} on "
            f"this controller does not hold {'it' if len(lost) == 1 else 'them'}. {ways_out(lost)}"
        )
    if differing:
        found.append(
            f"prefect_secrets_dir: {host} remembers {listed(differing)}, and {directory} on this controller holds "
            f"{'another one' if len(differing) == 1 else 'others'}: another controller has replaced what this one "
            f"holds, or this one has generated its own. Move {listed_files(directory, differing)} away first. "
            f"{ways_out(differing)}"
        )
    return found


def listed(names: Collection[str]) -> str:
    """Return the names of secrets as text."""
    return ", ".join("the CA" if name == "ca" else f"the secret {name!r}" for name in names)


def listed_files(directory: Path, names: Collection[str]) -> str:
    """Return the files of secrets as text."""
    return ", ".join(str(directory / (f"{name}.*" if name == "ca" else name)) for name in names)


def ways_out(names: Collection[str]) -> str:
    """Return advice on secrets that the controller does not have."""
    quoted = ", ".join(f'"{name}"' for name in names)
    ways = ["Copy that directory from the controller that has it"]
    if fetched := [name for name in names if name != "ca"]:
        ways.append(f"fetch {listed(fetched)} from the hosts with the playbook secrets (make secrets)")
    ways.append(f"generate new ones for all hosts with the playbook rotate: -e '{{\"prefect_rotate\": [{quoted}]}}'")
    said = "; or ".join(ways)
    return f"{said}. The key of a CA is on no host and cannot be fetched" if "ca" in names else said


def replace(directory: Path, names: Collection[str]) -> list[str]:
    """Set secrets aside, so that new ones are generated; return the names of those that existed. Raises OSError."""
    put_aside = []
    for name in names:
        path = directory / file_of(name)
        if name == "ca":
            for key in ("ca.key", "ca.key.next"):
                (directory / key).unlink(missing_ok=True)
        if path.exists():
            path.replace(path.with_name(f"{path.name}{PREVIOUS}"))
            put_aside.append(name)
    if directory.is_dir():
        sync(directory)
    return put_aside


def store(root: Path, instance: str, fetched: Mapping[str, str], *, dry: bool) -> list[str]:
    """Write the secrets that the directory lacks, readable by its user only; return their paths.

    Raises OSError, and ValueError if the directory has a different secret.
    """
    written, directory = [], root / instance
    for name, text in fetched.items():
        path = directory / name
        if path.exists():
            if path.read_text(encoding="utf-8").rstrip("\n") != text:
                raise ValueError(
                    f"{path} holds another secret than this host; it is not overwritten. Move it away to have the "
                    "host's, or generate a new one for all hosts with the playbook rotate"
                )
            continue
        written.append(str(path))
        if dry:
            continue
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        hide_from_git(root)
        write(path, f"{text}\n".encode(), replace=False)
    return written


SIGNS = {
    "must have a tty to run sudo": (
        "ansible_pipelining: sudo on this host asks for a terminal (requiretty in its sudoers), which Ansible's "
        "pipelining does not have; set ansible_pipelining to false for this host, or remove requiretty there"
    ),
}
"""Errors of a host that cannot run any module, and what to do about each."""


def explained(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a module; the message of a failure in SIGNS starts with what to do."""
    said = " ".join(str(result.get(name, "")) for name in ("msg", "module_stdout", "module_stderr"))
    advice = next((advice for sign, advice in SIGNS.items() if sign in said), "")
    if not advice or not (result.get("failed") or result.get("unreachable")):
        return result
    return result | {"msg": f"{advice}\n{result.get('msg', '')}".rstrip()}


class ReadHost(ActionBase):
    """Runs the module that reads a host, and fails if the controller lacks a package or secret that the host needs."""

    module = ""

    def read(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Return the module's result."""
        found = self._execute_module(module_name=self.module, module_args=arguments, task_vars=task_vars)
        return explained(found)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        secrets = arguments.pop("secrets", None) or {}
        if MISSING and "ca" in secrets.get("names", []):
            return result | {"failed": True, "msg": f"prefect_secrets_dir: {MISSING}"}
        result |= self.read(arguments, task_vars)
        if not secrets or result.get("failed"):
            return result
        try:
            found = refusals(
                (task_vars or {})["inventory_hostname"],
                Path(secrets["directory"]),
                secrets["names"],
                result["fingerprints"],
                replaced=secrets["replaced"],
            )
        except (OSError, ValueError) as error:
            found = [f"prefect_secrets_dir: {error}; put the file back as it was"]
        if found:
            return {"failed": True, "msg": "\n".join(found)}
        return result | {"secrets_compared": True}
