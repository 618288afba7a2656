"""A text to look for in every variable that holds a secret, and where to look: processes, files, the journal."""

from __future__ import annotations

import json
import threading
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import certificate_for
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import is_secret_name

ROOT = Path(__file__).resolve().parents[1]
PLACE = "CANARY"

NO_SECRETS = {
    "prefect_flows_source": "its token is tried in tests/preset/test_controller.py, and reaches no host",
    "prefect_secrets_dir": "a path",
    "prefect_database_key": "a path",
    "prefect_postgres_key": "a path",
    "prefect_show_secrets": "a switch",
    "prefect_resources_export_secrets": "a choice",
    "prefect_api_url": "shown to everyone who runs a flow",
    "prefect_server_ui_api_url": "shown to every browser",
    "prefect_postgres_settings": "PostgreSQL's own, none of which is a secret",
}
"""Variables that look as if they held a secret, and do not, or are tried elsewhere."""


def secret_variables() -> Iterator[str]:
    """Name every variable of the roles that holds a secret, by its spec or by what it is called."""
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for spec in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            for name, option in spec.get("options", {}).items():
                looks = name.endswith(("_environment", "_settings", "_url", "_source"))
                secret = option.get("no_log") or looks or is_secret_name(name.removeprefix("prefect_"))
                if secret and not name.startswith("prefect_common_") and name not in NO_SECRETS:
                    yield name


class Canaries(NamedTuple):
    """Variables with a canary in each that holds a secret, and what to look for: the variable's name by each text.

    `ca` has issued the certificate of the proxy.
    """

    variables: dict[str, Any]
    names: dict[str, str]
    ca: str

    def within(self, text: str) -> set[str]:
        """Return the names of the variables whose canaries are in a text."""
        return {name for canary, name in self.names.items() if canary in text}

    def files(self, *directories: Path) -> list[Path]:
        """Return the files with a canary below directories."""
        found = [path for directory in directories for path in directory.rglob("*") if path.is_file()]
        return [path for path in found if any(canary.encode() in path.read_bytes() for canary in self.names)]


def with_canaries(
    directory: Path, *, domain: str, values: Mapping[str, str], same: Mapping[str, str] | None = None
) -> Canaries:
    """Return a value with a canary for each variable that holds a secret.

    `values` are those of URLs and passwords, with the word CANARY where the canary belongs. `same` names the variables
    that have another one's canary, such as a URL and the password in it. The certificate for `domain` is kept in
    `directory`.
    """
    same = same or {}
    texts = {name: f"canary{uuid.uuid4().hex}" for name in secret_variables() if name not in same}
    pair = certificate_for(directory / "own", [domain])
    texts["prefect_proxy_certificate_key"] = pair["key"].splitlines()[1]
    texts |= {name: texts[other] for name, other in same.items()}

    variables: dict[str, Any] = {
        "prefect_api_auth": f"admin:{texts['prefect_api_auth']}",
        "prefect_proxy_certificate_key": pair["key"],
        "prefect_settings": {"PREFECT_LOGGING_EXTRA_LOGGERS": texts["prefect_settings"]},
    }
    for name in ("prefect_server_settings", "prefect_worker_settings"):
        variables[name] = {"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({"X-Canary": texts[name]})}
    for name in (f"prefect_{role}_environment" for role in ("celery", "definitions", "flows", "worker")):
        variables[name] = {f"OF_{name.upper()}": texts[name]}
    variables |= {name: value.replace(PLACE, texts[name]) for name, value in values.items()}
    assert variables.keys() == texts.keys(), (
        "give each variable that holds a secret its canary, or add it to NO_SECRETS"
    )

    names = {text: name for name, text in texts.items() if name not in same}
    names[b64encode(variables["prefect_api_auth"].encode()).decode()] = "prefect_api_auth"
    return Canaries(variables | {"prefect_proxy_certificate": pair["certificate"]}, names, pair["ca"])


class Sight(NamedTuple):
    """A canary in a process: where, in which variable, of which account, of which program."""

    where: str
    name: str
    user: str
    program: str


class Watch:
    """Looks at the command line and the environment of every process of this machine, its containers' included.

    A process that lives for less than `EVERY` seconds may go unseen.
    """

    EVERY = 0.02

    def __init__(self, canaries: Canaries) -> None:
        self.seen: set[Sight] = set()
        self.looks = 0
        self._canaries = {text.encode(): name for text, name in canaries.names.items()}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(self.EVERY):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    for where in ("cmdline", "environ"):
                        text = (process / where).read_bytes()
                        for name in [name for canary, name in self._canaries.items() if canary in text]:
                            self.seen.add(Sight(where, name, owner(process), (process / "comm").read_text().strip()))
                except OSError:
                    # It has ended, or belongs to another user.
                    continue
                self.looks += 1


def owner(process: Path) -> str:
    """Return the account of a process, by the accounts of its container."""
    number = str(process.stat().st_uid)
    accounts = (line.split(":") for line in (process / "root/etc/passwd").read_text().splitlines())
    return next((account[0] for account in accounts if account[2] == number), number)


FIND = r"""
umask 077
cat > /dev/shm/looked-for
{ journalctl --quiet --no-pager --output=export; find /var/log -name '*log*' -type f -exec cat {} +; } |
    grep --text --only-matching --fixed-strings --file=/dev/shm/looked-for | sort --unique | sed 's/^/journal /'
grep --recursive --text --files-with-matches --fixed-strings --file=/dev/shm/looked-for \
    --devices=skip --exclude-dir=site-packages --exclude-dir=uv --exclude-dir=journal --exclude=looked-for \
    /dev/shm /etc /home /opt /root /run /srv /tmp /usr/local /var 2> /dev/null |
while read -r path; do
    held=$(
        grep --text --only-matching --no-filename --fixed-strings --file=/dev/shm/looked-for "$path" |
        sort --unique | paste --serial --delimiters=,
    )
    readers=
    for user in prefect prefect-worker daemon; do
        runuser --user $user -- test -r "$path" && readers="$readers,$user"
    done
    echo "file $path $(stat --format=%U:%a "$path") readers$readers $held"
done
rm /dev/shm/looked-for
"""
"""Prints what of its input is in the journal and in logs, and each file with some of it, with who can read that."""
