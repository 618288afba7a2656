"""Filters that turn the description of a service into a systemd unit, a supervisord program and settings."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def setting_text(value: Any) -> str:
    """Return a value as text for a Prefect setting: `true` or `false`, empty for None, JSON for lists and mappings."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True)
    return "" if value is None else str(value)


def env_value(value: Any) -> str:
    """Return a value quoted for both systemd's EnvironmentFile and a shell: in double quotes, with escapes.

    Raises AnsibleFilterError for control characters, because systemd silently drops a variable that has one.
    """
    text = setting_text(value)
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text):
        raise AnsibleFilterError("prefect_settings: a value holds a control character, which no environment file can")
    return '"' + re.sub(r'(["\\$`])', r"\\\1", text) + '"'


def unit_word(word: Any) -> str:
    """Return a word quoted for a systemd unit, which then reads specifiers and quotes literally."""
    text = str(word).replace("%", "%%")
    if re.fullmatch(r"[\w@:/.,=+%-]+", text):
        return text
    for character, escaped in (("\\", r"\\"), ('"', r"\""), ("\n", r"\n")):
        text = text.replace(character, escaped)
    return f'"{text}"'


def unit_command(command: list[Any]) -> str:
    """Return a command line for ExecStart, with all expansion disabled."""
    return " ".join(unit_word(str(word).replace("$", "$$")) for word in command)


def program_word(word: Any) -> str:
    """Return a word quoted for a shell, without a # or ; after a space, which supervisord reads as a comment.

    Raises AnsibleFilterError for a line break, which supervisord's configuration cannot express.
    """
    if "\n" in str(word):
        raise AnsibleFilterError(f"{word!r} holds a line break, which the command line of a service cannot")
    return re.sub(r"(\s)([#;])", r"\1''\2", shlex.quote(str(word)))


def program_command(service: dict[str, Any], settings: str) -> str:
    """Return a command line for supervisord: a shell reads the settings file, then executes the service's command."""
    exports = "".join(
        f"export {name}={program_word(value)}; " for name, value in sorted(service.get("environment", {}).items())
    )
    command = " ".join(map(program_word, service["command"]))
    # supervisord runs nothing after a program has ended, so the cleanup runs before the next start.
    cleanup = " ".join(map(program_word, service.get("cleanup", [])))
    script = f"set -a; . {program_word(settings)}; set +a; {exports}{cleanup and cleanup + '; '}exec {command}"
    return f"/bin/sh -c {shlex.quote(script)}".replace("%", "%%")


def service_files(services: list[dict[str, Any]], host: dict[str, Any], supervisor: str) -> list[dict[str, Any]]:
    """Return the files of services, each once, in the form of the `files` module.

    A service with a `template` is an instance of that template unit: shared options are in the template, its own in a
    drop-in. A service with a `schedule` has the name of its timer; its unit runs the command once each time.
    """
    files: dict[str, dict[str, Any]] = {}

    def add(path: str, template: str, service: dict[str, Any], **more: Any) -> None:
        files.setdefault(
            path, {"path": path, "template": template, "vars": {"service": service}, "mode": "0644"} | more
        )

    units, etc = host["dirs"]["units"], host["dirs"]["etc"]
    for service in services:
        for file in service.get("files", []):
            add(**file, service=service)
        secret = {"mode": "0640", "group": service["account"]["group"], "secret": True}
        add(f"{etc}/{service['settings_file']}", "etc/prefect/settings.env.j2", service, **secret)
        if service.get("schedule"):
            job = service["name"].removesuffix(".timer")
            add(f"{units}/{job}.service", "etc/systemd/system/job.service.j2", service)
            add(f"{units}/{job}.timer", "etc/systemd/system/timer.j2", service)
            continue
        if host["service_manager"] == "supervisord":
            add(f"{supervisor}/conf.d/{service['name']}.conf", "opt/prefect/supervisor/program.conf.j2", service)
            continue
        unit = service.get("template") or service["name"]
        add(f"{units}/{unit}.service", "etc/systemd/system/service.j2", service)
        if service.get("template"):
            add(f"{units}/{service['name']}.service.d/instance.conf", "etc/systemd/system/instance.conf.j2", service)
    return list(files.values())


def service_states(services: list[dict[str, Any]], host: dict[str, Any], supervisor: str) -> list[dict[str, Any]]:
    """Return the `services` module's description of each service."""
    current = f"{host['dirs']['opt']}/current"
    return [
        {
            "name": service["name"],
            "files": [file["path"] for file in service_files([service], host, supervisor)],
            "watch": [current, *service.get("watch", [])],
            "prepare": service.get("prepare", {}),
            "health": service.get("health", {}),
            "settings": f"{host['dirs']['etc']}/{service['settings_file']}",
            "user": service["account"]["user"],
            "ports": service.get("ports", {}),
        }
        for service in services
    ]


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "env_value": env_value,
            "program_command": program_command,
            "service_files": service_files,
            "service_states": service_states,
            "unit_command": unit_command,
            "unit_word": unit_word,
        }
