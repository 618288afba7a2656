"""What a host is, what it can have from packages, and that everything else is refused with a way out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import distributions
from ansible_collections.selfhosted.prefect.plugins.modules import host_backend as backend
from ansible_collections.selfhosted.prefect.plugins.modules import host_preflight as preflight
from fake_api import outcome

ROOT = Path(__file__).resolve().parents[2]
Runs = Callable[..., None]

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n'
MINT = 'NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="22"\n'
ROCKY = (
    'NAME="Rocky Linux"\nPRETTY_NAME="Rocky Linux 9.4 (Blue Onyx)"\nID="rocky"\n'
    'ID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n'
)
RHEL10 = 'PRETTY_NAME="Red Hat Enterprise Linux 10.0 (Coughlan)"\nID="rhel"\nVERSION_ID="10.0"\n'
RHEL8 = 'PRETTY_NAME="AlmaLinux 8.10"\nID="almalinux"\nID_LIKE="rhel centos fedora"\nVERSION_ID="8.10"\n'
ALPINE = 'PRETTY_NAME="Alpine Linux v3.20"\nID=alpine\nVERSION_ID=3.20.1\n'
APT, DNF = ("apt-get", "dpkg-query"), ("dnf", "rpm")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Let this machine be another one: what its os-release says, and the programs that it has."""

    def become(release: str, *programs: str) -> None:
        (tmp_path / "os-release").write_text(release)
        monkeypatch.setattr(distributions, "RELEASE_FILES", (str(tmp_path / "none"), str(tmp_path / "os-release")))
        monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/usr/bin/{name}" if name in programs else None)

    return become


@pytest.mark.parametrize(
    ("release", "programs", "is_found"),
    [
        (DEBIAN, APT, ("Debian GNU/Linux 13 (trixie)", "debian", 13)),
        (MINT, APT, ("Linux Mint", "debian", 22)),
        (DEBIAN, ("apt-get",), ("Debian GNU/Linux 13 (trixie)", "", 13)),
        # EPEL has apt and dpkg, with which nothing can be installed there.
        (ROCKY, (*APT, *DNF), ("Rocky Linux 9.4 (Blue Onyx)", "redhat", 9)),
        (RHEL10, DNF, ("Red Hat Enterprise Linux 10.0 (Coughlan)", "redhat", 10)),
        (ALPINE, (), ("Alpine Linux v3.20", "", 3)),
        ("", APT, ("an unknown system", "debian", 0)),
    ],
)
def test_a_distribution(runs: Runs, release: str, programs: tuple[str, ...], is_found: tuple[str, str, int]) -> None:
    runs(release, *programs)
    assert distributions.current() == distributions.Distribution(*is_found)


@pytest.mark.parametrize("what", distributions.COMPONENTS)
@pytest.mark.parametrize(
    ("release", "programs", "experimental", "says"),
    [
        (DEBIAN, APT, False, ""),
        (ALPINE, (), True, "runs Alpine Linux v3.20 and has no apt-get and dpkg"),
        (
            ROCKY,
            DNF,
            False,
            "runs Rocky Linux 9.4 (Blue Onyx); for the RHEL family, {title} was written from documenta",
        ),
        (ROCKY, DNF, True, ""),
        (RHEL10, DNF, True, ""),
        (RHEL8, DNF, True, "runs AlmaLinux 8.10; of the RHEL family only versions 9 and 10 are known"),
        (ROCKY, ("rpm",), True, "runs Rocky Linux 9.4 (Blue Onyx) and has no dnf, with which {title} is installed"),
    ],
)
def test_what_cannot_be_installed_is_refused(
    runs: Runs, what: str, release: str, programs: tuple[str, ...], experimental: bool, says: str
) -> None:
    runs(release, *programs)
    component = distributions.COMPONENTS[what]
    found = distributions.refused({"prefect_x": what}, experimental=experimental)
    assert len(found) == bool(says)
    for message in found:
        assert message.startswith("prefect_x: ") and says.format(title=component.title) in message
        assert component.otherwise in message
        assert ("set prefect_experimental_platforms to true" in message) == ("written from documenta" in message)


@pytest.mark.parametrize("state", ["present", "absent"])
def test_preflight_refuses_it_before_anything_changes(runs: Runs, state: str) -> None:
    runs(ROCKY, *DNF)
    asked = {"prefect_proxy": "nginx", "prefect_firewall": "firewall"}
    given = {"scope": "user", "service_manager": "none", "state": state, "components": asked}
    said = outcome(preflight.main, **given)
    lines = [line for line in said["msg"].splitlines() if "Rocky" in line]
    assert [line.partition(":")[0] for line in lines] == ["prefect_proxy", "prefect_firewall"]
    given["state"] = "absent"
    allowed = outcome(preflight.main, **given, experimental=True)
    assert allowed["components"]["nginx"]["packages"] == ["nginx"]
    assert not outcome(preflight.main, **{**given, "components": {}}).get("failed")


def test_a_host_of_a_database_is_refused_with_all_that_it_would_get(runs: Runs) -> None:
    runs(ALPINE)
    asked = {"prefect_redis": "redis", "prefect_proxy": "nginx"}
    said = outcome(
        backend.main, components=asked, program_dir="/x", fingerprints="/nowhere", otherwise="prefect_redis_url"
    )
    found = [line.partition(":")[0] for line in said["msg"].splitlines() if "Alpine" in line]
    assert found == ["prefect_redis", "prefect_proxy"]


@pytest.mark.parametrize("what", distributions.COMPONENTS)
def test_every_family_says_the_same_of_a_component(what: str) -> None:
    component = distributions.COMPONENTS[what]
    assert component.redhat.keys() == set(distributions.VERSIONS_OF_RHEL)
    for about in component.redhat.values():
        assert {*about} >= {*component.debian}


@pytest.mark.parametrize(
    ("release", "what", "packages"),
    [
        (DEBIAN, "redis", ["redis-server"]),
        (ROCKY, "redis", ["redis"]),
        (RHEL10, "redis", ["valkey"]),
        (ROCKY, "postgresql", ["postgresql-server", "postgresql-contrib"]),
        (RHEL8, "nginx", ["nginx"]),
    ],
)
def test_the_facts_are_those_of_the_host(runs: Runs, release: str, what: str, packages: list[str]) -> None:
    runs(release, *APT)
    assert distributions.facts(what)["packages"] == packages


@pytest.mark.parametrize(
    ("major", "python", "package"),
    [
        (9, (3, 9), "python3-psycopg2"),
        (9, (3, 11), "python3.11-psycopg2"),
        (10, (3, 12), "python3-psycopg2"),
        (10, (3, 13), "python3.13-psycopg2"),
    ],
)
def test_psycopg2_is_that_of_the_python_that_runs_the_modules(
    major: int, python: tuple[int, int], package: str
) -> None:
    assert distributions.psycopg2_of_redhat(major, python) == package


@pytest.mark.parametrize(("is_confined", "needs"), [(False, set[str]()), (True, {"policycoreutils-python-utils"})])
def test_what_tells_selinux_is_installed_where_it_is_enabled(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, is_confined: bool, needs: set[str]
) -> None:
    runs(ROCKY, *DNF)
    monkeypatch.setattr(distributions, "confined", lambda: is_confined)
    assert {*distributions.facts("redis")["packages"]} == {"redis", *needs}
    assert distributions.facts("firewall")["packages"] == ["nftables"]
    runs(DEBIAN, *APT)
    assert distributions.facts("redis")["packages"] == ["redis-server"]


@pytest.mark.parametrize(
    ("programs", "code", "packages"),
    [
        (("firewall-cmd", "systemctl"), 0, []),
        (("firewall-cmd", "systemctl"), 3, ["nftables"]),
        (("systemctl",), 0, ["nftables"]),
    ],
)
def test_firewalld_needs_no_packages_where_it_runs(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, programs: tuple[str, ...], code: int, packages: list[str]
) -> None:
    runs(ROCKY, *DNF, *programs)
    done = subprocess.CompletedProcess[str]([], code)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert distributions.facts("firewall")["packages"] == packages


ALL = {"prefect_postgres", "prefect_redis", "prefect_proxy", "prefect_firewall"}


GROUPS = {"database": "postgres", "redis": "redis"}


@pytest.mark.parametrize(
    ("groups", "variables", "asks"),
    [
        ("postgres redis server proxy worker flows celery definitions", {"prefect_firewall": "nftables"}, ALL),
        ("postgres redis server proxy", {"prefect_firewall": "absent"}, ALL - {"prefect_firewall"}),
        ("server", {"prefect_firewall": "nftables"}, {"prefect_firewall"}),
        ("server worker flows celery definitions", {}, set()),
        # It limits no port of a host that has only clients.
        ("worker flows celery definitions", {"prefect_firewall": "nftables"}, set()),
        ("server proxy", {"prefect_proxy_state": "absent"}, set()),
        ("postgres redis", {"prefect_postgres_state": "absent", "prefect_redis_state": "absent"}, set()),
    ],
)
def test_what_a_host_asks_for_by_its_groups(groups: str, variables: dict[str, str], asks: set[str]) -> None:
    described = yaml.load((ROOT / "roles/prefect/vars/main.yml").read_text(), yaml.CSafeLoader)
    members = {f"prefect_{name}": ["one"] for name in groups.split()}
    known = {"__prefect_components": trust_as_template(described["__prefect_components"])}
    known |= {f"__prefect_{kind}_group": members.get(f"prefect_{name}", []) for kind, name in GROUPS.items()}
    known |= {"groups": members, "inventory_hostname": "one", "prefect_servers": members.get("prefect_server", [])}
    found = Templar(loader=DataLoader(), variables=known | {"prefect_firewall": "none"} | variables).template(
        known["__prefect_components"]
    )
    assert {*found} == asks
    assert {*found.values()} <= {*distributions.COMPONENTS}
