"""`molecule test`, typed by hand, works whatever was prepared, ended or left over before."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_host import ROOT

SCENARIO = """\
---
platforms:
  - {name: tiny, image: debian13}
scenario:
  test_sequence: [destroy, create, destroy]
"""

BEFORE = {
    "nothing is prepared": [],
    "it ran before": [],
    "the hosts were ended": ["tests/hosts/host end"],
    "the machine has rebooted": [
        "tests/hosts/host end",
        "umount --recursive --lazy {run} || true",
        "rm --recursive --force {run}",
    ],
    "a run was killed": ["tests/hosts/host up tiny debian13"],
    "the environment was made again": ["rm .venv/bin/podman"],
}
"""What is done before each of the runs, which follow each other."""


@pytest.fixture(scope="module")
def clone(prepared: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout of its own, for the hosts of this one are in use."""
    directory = tmp_path_factory.mktemp("clone")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(ROOT / name):
            shutil.copy2(ROOT / name, directory / name, follow_symlinks=False)
    # Molecule finds its configuration from there.
    subprocess.run(["git", "init", "--quiet", directory], check=True)
    (directory / "molecule" / "tiny").mkdir()
    (directory / "molecule" / "tiny" / "molecule.yml").write_text(SCENARIO)
    subprocess.run([directory / "requirements" / "env.sh", ".venv"], check=True)
    yield directory
    subprocess.run([directory / "tests" / "hosts" / "host", "end"], check=True)


@pytest.mark.parametrize("state", BEFORE)
def test_molecule_in_any_state(clone: Path, state: str) -> None:
    run = f"/run/prefect-hosts-{hashlib.sha256(bytes(clone)).hexdigest()[:8]}"
    for command in BEFORE[state]:
        subprocess.run(command.format(run=run), shell=True, cwd=clone, check=True)
    environment = os.environ | {
        "PATH": f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PREFECT_TEST_IMAGES": str(ROOT / ".cache" / "hosts" / "storage"),
    }
    done = subprocess.run(
        ["molecule", "test", "--scenario-name=tiny"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed = subprocess.run(
        [clone / ".venv" / "bin" / "podman", "ps", "--all", "--quiet"], capture_output=True, text=True, check=True
    )
    assert listed.stdout == ""
