"""A host that looks like one of the RHEL family: what needs no packages works there, and what does is refused.

It is the Debian host without apt and dpkg, with the os-release of Rocky Linux, and with Python 3.9 as its python3
beside a newer one. So neither rpm nor SELinux is tested here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cores import interpreter
from real_host import NAME, ROOT, Host, Variables
from states import PODMAN

NEWER = "/usr/bin/python3.13"
"""What the Debian host calls python3."""

RELEASE = {
    "rocky": 'NAME="Rocky Linux"\nPRETTY_NAME="Rocky Linux 9.6 (Blue Onyx)"\nID="rocky"\nID_LIKE="rhel centos fedora"\n'
    'VERSION_ID="9.6"\n',
    "alpine": 'NAME="Alpine Linux"\nPRETTY_NAME="Alpine Linux v3.22"\nID=alpine\nVERSION_ID=3.22.1\n',
}

HIDE = """
mkdir /srv/hidden && mv /usr/bin/apt* /usr/bin/dpkg* /srv/hidden/
rm /etc/os-release /usr/lib/os-release
printf '#!/bin/sh\nexit 1\n' > /usr/bin/dnf && chmod 755 /usr/bin/dnf && ln -s dnf /usr/bin/rpm
"""
"""What the host has of dnf and rpm is their names."""

PACKAGED = {
    "prefect_postgres": ({"prefect_postgres": [NAME]}, "set prefect_database_url to one that runs elsewhere"),
    "prefect_redis": ({"prefect_redis": [NAME]}, "set prefect_redis_url to one that runs elsewhere"),
    "prefect_proxy": ({"prefect_server": ["elsewhere"], "prefect_proxy": [NAME]}, "use a reverse proxy of your own"),
    "prefect_firewall": ({"prefect_server": [NAME]}, "set it to none, and limit the ports by other means"),
}
"""What asks for packages: the groups of the host, and what to do there instead."""


def manifest(host: Host) -> set[str]:
    """List what is on the host, with the dpkg that is hidden there."""
    script = (ROOT / "molecule/shared/manifest.py").read_text()
    found = json.loads(host.sh("PATH=$PATH:/srv/hidden python3 -", stdin=script))
    return {f"{key}: {value}" for key, value in found.items()}


@pytest.fixture(scope="module")
def redhat(host: Host) -> Host:
    """A host without apt and dpkg, which says of itself that it is Rocky Linux 9."""
    host.sh(HIDE)
    host.sh("cat > /etc/os-release", stdin=RELEASE["rocky"])
    host.common["ansible_python_interpreter"] = NEWER
    return host


def refused(redhat: Host, variables: Variables, groups: dict[str, list[str]], *says: str) -> None:
    """Assert that a run fails before it changes the host, and says all that it should."""
    before = manifest(redhat)
    others = {"elsewhere": {"prefect_server_host": "0.0.0.0"}} if "elsewhere" in str(groups) else {}
    ended = redhat.play(variables=variables, groups=groups, others=others, arguments=("--limit", NAME))
    assert ended.rc == 2, ended.output
    missing = [text for text in says if text not in ended.words]
    assert not missing, f"{missing} is not in:\n{ended.output}"
    assert ended.changed == 0
    assert manifest(redhat) == before


@pytest.mark.parametrize("who", PACKAGED)
def test_what_needs_packages_is_refused_with_the_distribution_and_the_reason(redhat: Host, who: str) -> None:
    groups, instead = PACKAGED[who]
    variables = {"prefect_firewall": "nftables" if who == "prefect_firewall" else "none"}
    says = (f"{who}: {NAME} runs Rocky Linux 9.6 (Blue Onyx)", "was written from documentation and never run on a real")
    refused(redhat, variables, groups, *says, instead, "set prefect_experimental_platforms to true")


def test_all_that_a_host_cannot_have_is_said_at_once(redhat: Host) -> None:
    groups = {f"prefect_{name}": [NAME] for name in ("postgres", "redis", "server", "proxy")}
    refused(redhat, {"prefect_firewall": "nftables"}, groups, *(f"{who}: {NAME} runs Rocky" for who in PACKAGED))


def test_the_experiment_needs_dnf(redhat: Host) -> None:
    redhat.sh("mv /usr/bin/dnf /srv/hidden/")
    try:
        says = "and has no dnf and rpm, with which Redis is installed"
        refused(redhat, {"prefect_experimental_platforms": True}, {"prefect_redis": [NAME]}, says)
    finally:
        redhat.sh("mv /srv/hidden/dnf /usr/bin/")


def test_any_other_distribution_without_apt_is_refused(redhat: Host) -> None:
    redhat.sh("cat > /etc/os-release", stdin=RELEASE["alpine"])
    try:
        groups = {"prefect_server": ["elsewhere"], "prefect_proxy": [NAME]}
        says = f"prefect_proxy: {NAME} runs Alpine Linux v3.22 and has no apt-get and dpkg"
        refused(redhat, {"prefect_experimental_platforms": True}, groups, says)
    finally:
        redhat.sh("cat > /etc/os-release", stdin=RELEASE["rocky"])


def test_server_worker_and_flows_beside_a_python_that_is_too_old(redhat: Host, tmp_path: Path) -> None:
    old = interpreter("3.9")
    if old is None:
        pytest.skip("a host whose python3 is 3.9 is not tested: this machine has no Python 3.9")
    unneeded = shutil.ignore_patterns("test", "tests", "__pycache__", "*.a")
    shutil.copytree(Path(old).resolve().parents[1], tmp_path / "python3.9", symlinks=True, ignore=unneeded)
    subprocess.run([PODMAN, "cp", f"{tmp_path}/python3.9", f"{NAME}:/opt/python3.9"], check=True)
    redhat.sh("rm /usr/bin/python3")
    redhat.write(
        "/usr/bin/python3",
        "#!/bin/sh\nexport PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH=/opt/python3.9/lib\n"
        'exec /opt/python3.9/bin/python3.9 "$@"\n',
    )
    assert redhat.sh("python3 --version").startswith("Python 3.9.")
    before = manifest(redhat)
    late = redhat.play(variables={"ansible_python_interpreter": "/usr/bin/python3"})
    assert late.rc == 2 and late.changed == 0, late.output
    assert "ansible_python_interpreter: Ansible runs Python 3.9" in late.words
    assert manifest(redhat) == before

    first = redhat.play()
    assert first.rc == 0, first.output
    assert redhat.last_run() == "COMPLETED"
    assert redhat.sh("/opt/prefect/current/bin/python --version").startswith("Python 3.13")
    again = redhat.play()
    assert (again.rc, again.changed) == (0, 0), again.output
    gone = redhat.play("playbooks/absent.yml", {"prefect_purge": True})
    assert gone.rc == 0, gone.output
    assert manifest(redhat) ^ before == set()
