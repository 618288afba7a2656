"""The firewall, on directories of the test, with a nft and a systemctl that write down what they are told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import distributions
from ansible_collections.selfhosted.prefect.plugins.modules import host_firewall as firewall
from fake_api import outcome

NFT = """#!/bin/sh
case $1 in
list) test -e {loaded} ;;
esac
"""
SYSTEMCTL = """#!/bin/sh
echo "$*" >> {calls}
case $1 in
reload-or-restart) touch {loaded} ;;
disable) rm -f {loaded} ;;
esac
"""


@dataclass
class Host:
    directory: Path

    def ensure(self, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        given = {
            "name": "prefect-server",
            "rules_dir": str(self.directory / "rules"),
            "units_dir": str(self.directory / "units"),
            "policies_dir": str(self.directory / "policies"),
            "ports": [4200],
            "sources": ["10.0.0.2", "10.1.0.7/16", "fd00::2", "localhost"],
        }
        return dict(outcome(firewall.main, check_mode=check_mode, **(given | options)))

    @property
    def calls(self) -> list[str]:
        path = self.directory / "calls"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.rglob("prefect-server*"))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("nft", NFT), ("systemctl", SYSTEMCTL)):
        (tools / name).write_text(text.format(loaded=tmp_path / "loaded", calls=tmp_path / "calls"))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(firewall, "SYSTEM_PATH", str(tools))
    (tmp_path / "units").mkdir()
    return Host(tmp_path)


def test_dry_for_real_and_again(host: Host) -> None:
    assert host.ensure(check_mode=True)["changed"]
    assert (host.files, host.calls) == ([], [])
    first = host.ensure()
    assert first["changed"]
    assert "tcp dport { 4200 } counter drop" in first["diff"][0]["after"]
    assert host.files == ["prefect-server-firewall.service", "prefect-server.nft"]
    unit = "prefect-server-firewall.service"
    assert host.calls == ["daemon-reload", f"enable --quiet {unit}", f"reload-or-restart {unit}"]
    assert not host.ensure()["changed"]
    assert host.calls == []


def test_rules_that_were_flushed_are_loaded_again(host: Host) -> None:
    host.ensure()
    (host.directory / "loaded").unlink()
    assert host.ensure()["changed"]
    assert host.calls[-1].startswith("reload-or-restart")


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("check_mode", [False, True])
def test_a_table_of_others_is_refused(host: Host, file: bool, check_mode: bool) -> None:
    (host.directory / "loaded").touch()
    if file:
        (host.directory / "rules").mkdir()
        (host.directory / "rules/prefect-server.nft").write_text("table inet prefect_server {}\n")
    ledger = {"name": str(host.directory / "state/prefect.json"), "adopt": ["files"]}
    said = host.ensure(check_mode=check_mode, ledger=ledger)["msg"]
    assert said.startswith(
        "prefect_firewall: nftables has a table inet prefect_server, and this collection did not load"
    )
    assert host.calls == []
    assert host.files == (["prefect-server.nft"] if file else [])


def test_our_own_table_is_replaced(host: Host) -> None:
    ledger = {"name": str(host.directory / "state/prefect.json")}
    host.ensure(ledger=ledger)
    assert host.ensure(ledger=ledger, ports=[4201])["changed"]
    assert host.calls[-1].startswith("reload-or-restart")


def test_absent_dry_for_real_and_again(host: Host) -> None:
    host.ensure()
    assert host.calls
    assert host.ensure(state="absent", check_mode=True)["changed"]
    assert len(host.files) == 2
    assert host.ensure(state="absent")["changed"]
    assert host.calls == ["disable --quiet --now prefect-server-firewall.service", "daemon-reload"]
    assert host.files == []
    assert not (host.directory / "rules").exists()
    assert not host.ensure(state="absent")["changed"]


def test_rules_of_another_owner_stay(host: Host) -> None:
    host.ensure()
    (host.directory / "rules" / "foreign.nft").touch()
    host.ensure(state="absent")
    assert [path.name for path in (host.directory / "rules").iterdir()] == ["foreign.nft"]


def test_sources_are_addresses_and_networks_of_both_kinds(host: Host) -> None:
    said = host.ensure()
    assert {"10.0.0.2/32", "10.1.0.0/16", "fd00::2/128"} < set(said["sources"])
    assert any(source in said["sources"] for source in ("127.0.0.1/32", "::1/128"))
    text = (host.directory / "rules" / "prefect-server.nft").read_text()
    assert re.search(
        r"tcp dport { 4200 } ip saddr @sources4 accept\n +tcp dport { 4200 } ip6 saddr @sources6 accept", text
    )


def test_an_empty_list_of_sources_allows_no_other_host(host: Host) -> None:
    host.ensure(sources=[])
    text = (host.directory / "rules" / "prefect-server.nft").read_text()
    assert "saddr" not in text
    assert "iif lo accept" in text


def test_a_name_that_cannot_be_resolved(host: Host) -> None:
    said = host.ensure(sources=["nowhere.invalid"])
    assert said["msg"].startswith("prefect_firewall: nowhere.invalid cannot be resolved on this host")
    assert host.files == []


def test_without_nft(host: Host) -> None:
    (host.directory / "bin" / "nft").unlink()
    assert host.ensure(check_mode=True)["changed"]
    assert host.ensure()["msg"] == "prefect_firewall: there is no nft on this host; install nftables"
    assert not host.ensure(state="absent")["changed"]


FIREWALL_CMD = """#!/bin/sh
echo "firewall-cmd $*" >> {calls}
case $1 in
--info-policy=*) test -e {directory}/policies/${{1#*=}}.xml ;;
esac
"""


@pytest.fixture
def redhat(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host of the RHEL family on which firewalld runs."""
    rocky = distributions.Distribution("Rocky Linux 9.4", distributions.REDHAT, 9)
    monkeypatch.setattr(distributions, "current", lambda: rocky)
    monkeypatch.setattr(distributions, "firewalld_runs", lambda: True)
    program = host.directory / "bin/firewall-cmd"
    program.write_text(FIREWALL_CMD.format(calls=host.directory / "calls", directory=host.directory))
    program.chmod(0o755)
    (host.directory / "policies").mkdir()
    (host.directory / "bin/nft").unlink()
    return host


def test_firewalld_gets_a_policy_dry_for_real_and_again(redhat: Host) -> None:
    assert redhat.ensure(check_mode=True)["changed"]
    assert redhat.files == []
    redhat.calls.clear()
    assert redhat.ensure()["changed"]
    assert redhat.files == ["prefect-server.xml"]
    assert redhat.calls[-2:] == ["daemon-reload", "firewall-cmd --quiet --reload"]
    assert not redhat.ensure()["changed"]
    assert "firewall-cmd --quiet --reload" not in redhat.calls
    assert redhat.ensure(state="absent")["changed"]
    assert redhat.files == [] and redhat.calls[-1] == "firewall-cmd --quiet --reload"
    assert (redhat.directory / "policies").is_dir()


def test_the_policy_accepts_the_sources_before_it_drops_the_rest(redhat: Host) -> None:
    redhat.ensure(ports=[4200, 4201])
    rules = ElementTree.parse(redhat.directory / "policies/prefect-server.xml").findall("rule")
    found = [
        (
            int(rule.attrib["priority"]),
            rule[-1].tag,
            [source.attrib["address"] for source in rule.findall("source")],
            [port.attrib["port"] for port in rule.findall("port")],
        )
        for rule in rules
    ]
    assert (-20, "accept", ["10.1.0.0/16"], ["4201"]) in found
    assert (-20, "accept", ["fd00::2/128"], ["4200"]) in found
    assert [rule for rule in found if rule[1] == "drop"] == [(-10, "drop", [], ["4200"]), (-10, "drop", [], ["4201"])]


@pytest.mark.parametrize(
    ("name", "policy"), [("prefect-server", "prefect-server"), ("prefect-blue-postgres", "prefect-")]
)
def test_names_of_policies_are_short(name: str, policy: str) -> None:
    assert firewall.policy_name(name).startswith(policy)
    assert len(firewall.policy_name(name)) <= 17
    assert firewall.policy_name("prefect-blue-postgres") != firewall.policy_name("prefect-blue-server")


def test_firewalld_replaces_the_table_of_an_earlier_run(redhat: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (redhat.directory / "bin/nft").write_text(NFT.format(loaded=redhat.directory / "loaded"))
    (redhat.directory / "bin/nft").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(distributions, "firewalld_runs", lambda: False)
        redhat.ensure()
    assert "prefect-server.nft" in redhat.files
    redhat.ensure()
    assert redhat.files == ["prefect-server.xml"]
    assert "disable --quiet --now prefect-server-firewall.service" in redhat.calls


@pytest.mark.skipif(shutil.which("firewall-offline-cmd") is None or os.getuid() != 0, reason="needs firewalld and root")
def test_firewalld_reads_the_policy(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    text = firewall.policy("prefect-test", ports=[4200, 5432], allowed=firewall.networks(["10.0.0.2", "fd00::/8"]))
    (tmp_path / "policies/prefect-test.xml").write_text(text)
    command = ["firewall-offline-cmd", f"--system-config={tmp_path}", "--check-config"]
    subprocess.run(command, check=True)


@pytest.mark.skipif(shutil.which("nft") is None or os.getuid() != 0, reason="needs nft and root")
def test_nft_reads_the_rules(tmp_path: Path) -> None:
    allowed = firewall.networks(["10.0.0.2", "10.0.0.0/24", "fd00::/8"])
    (tmp_path / "rules").write_text(firewall.rules("prefect_test", ports=[4200, 5432], allowed=allowed))
    subprocess.run(["nft", "--check", "--file", str(tmp_path / "rules")], check=True)
