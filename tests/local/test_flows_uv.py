"""Programs on the PATH of workers: uv, on top of the release, and the one that runs flows in an environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from ansible.plugins.filter.core import comment, quote
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.platform import uv_settings
from jinja2 import Environment, StrictUndefined

ROOT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv", path=str(Path(sys.executable).parent))


def host_of(directory: Path) -> dict[str, object]:
    return {"scope": "system", "dirs": {"opt": str(directory / "opt"), "bin": str(directory / "bin")}}


def install(directory: Path, *, name: str = "uv", ca_bundle: str = "") -> Path:
    """Write a program as the role does, and return it."""
    text = (ROOT / f"templates/opt/prefect/bin/{name}.j2").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)
    environment.filters |= {"comment": comment, "quote": quote}
    values = {"ansible_managed": "managed", "prefect_instance": "prefect", "prefect_ca_bundle": ca_bundle}
    program = directory / "opt" / "bin" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(environment.from_string(text).render(**values, __prefect_host=host_of(directory)))
    program.chmod(0o755)
    return program


def has_uv(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(program: Path | str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": "/usr/bin:/bin", **environment}
    # uv would take a pyproject.toml in the working directory for that of the flow.
    return subprocess.run([program, *arguments], env=given, cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.skipif(UV is None, reason="no uv beside this Python")
def test_a_package_of_one_deployment_comes_on_top_of_the_release(tmp_path: Path) -> None:
    """Without a network: the package is a file. The release is neither changed nor hidden."""
    assert UV is not None
    release = tmp_path / "opt" / "releases" / "1"
    venv.create(release, symlinks=True)
    (tmp_path / "opt" / "current").symlink_to("releases/1")
    (packages,) = release.glob("lib/python3*/site-packages")
    (packages / "of_release.py").write_text("")
    wheel = tmp_path / "added-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("added.py", "")
        archive.writestr("added-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: added\nVersion: 1.0\n")
        archive.writestr("added-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("added-1.0.dist-info/RECORD", "")
    install(tmp_path)
    shutil.copy(UV, tmp_path / "opt" / "uv")
    settings = uv_settings(host_of(tmp_path), index_url="") | {"HOME": str(tmp_path / "home"), "UV_OFFLINE": "1"}
    (tmp_path / "home").mkdir()
    before = sorted(release.rglob("*"))
    done = run(
        "/bin/sh", "-c", f"uv run --with {wheel} python -B -c 'import added, of_release; print(6 * 7)'", **settings
    )
    assert done.stdout == "42\n", done.stderr
    assert [path for path in release.rglob("*") if path not in before and path.name != ".lock"] == []


def test_the_locked_one_comes_before_one_of_the_host(tmp_path: Path) -> None:
    program = install(tmp_path)
    has_uv(tmp_path / "bin" / "uv", 'echo of the host "$@"')
    assert run(program, "run", "a b").stdout == "of the host run a b\n"
    has_uv(tmp_path / "opt" / "uv", 'echo locked "$@"')
    assert run(program, "run", "a b").stdout == "locked run a b\n"


def test_one_that_fails_is_not_followed_by_another(tmp_path: Path) -> None:
    program = install(tmp_path)
    has_uv(tmp_path / "opt" / "uv", "exit 3")
    has_uv(tmp_path / "bin" / "uv", "echo again")
    done = run(program)
    assert (done.returncode, done.stdout) == (3, "")


@pytest.mark.skipif(
    any(Path(path, "uv").exists() for path in ("/usr/local/bin", "/usr/bin", "/bin")), reason="has a uv"
)
def test_a_host_without_one_says_what_to_do(tmp_path: Path) -> None:
    done = run(install(tmp_path))
    assert (done.returncode, done.stdout) == (127, "")
    assert f"install one in {tmp_path}/bin" in done.stderr


def test_only_uv_trusts_the_authorities_of_the_index(tmp_path: Path) -> None:
    has_uv(tmp_path / "opt" / "uv", 'echo "${SSL_CERT_FILE-none}"')
    assert run(install(tmp_path)).stdout == "none\n"
    program = install(tmp_path, ca_bundle="/etc/own certs/it's.pem")
    assert run(program).stdout == "/etc/own certs/it's.pem\n"
    assert run(program, SSL_CERT_FILE="/mine.pem").stdout == "/mine.pem\n"
    assert "SSL_CERT_FILE" not in uv_settings(host_of(tmp_path), index_url="https://x/index")


@pytest.fixture
def environments(tmp_path: Path) -> Path:
    """Two releases of an environment in a directory with a blank, and the program."""
    install(tmp_path / "a b", name="prefect-environment")
    releases = tmp_path / "a b" / "opt" / "environments" / "etl" / "releases"
    for name in ("1", "2"):
        venv.create(releases / name, symlinks=True)
    (releases.parent / "current").symlink_to("releases/1")
    return releases


def in_environment(releases: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start the program as a worker does, which finds it on its PATH."""
    path = uv_settings(host_of(releases.parents[3]), index_url="")["PATH"]
    return run("/bin/sh", "-c", 'exec "$@"', "sh", "prefect-environment", *arguments, PATH=path)


def test_a_flow_runs_in_the_release_that_its_environment_has_at_its_start(environments: Path) -> None:
    show = (
        "import os, subprocess, sys; print(sys.prefix); print(os.environ['UV_PYTHON']);"
        "subprocess.run(['python', '-c', 'import sys; print(sys.prefix)'], check=True)"
    )
    for name in ("1", "2"):
        link = environments.parent / "current"
        link.unlink()
        link.symlink_to(f"releases/{name}")
        release = str(environments / name)
        done = in_environment(environments, "etl", "-u", "-c", show)
        assert done.stdout.splitlines() == [release, f"{release}/bin/python", release], done.stderr


def test_a_flow_runs_prefects_engine(environments: Path) -> None:
    (packages,) = (environments / "1").glob("lib/python3*/site-packages")
    (packages / "prefect").mkdir()
    (packages / "prefect" / "engine.py").write_text("print(__name__, 'runs')")
    assert in_environment(environments, "etl").stdout == "__main__ runs\n"


def test_an_environment_that_the_host_does_not_have(environments: Path) -> None:
    done = in_environment(environments, "other")
    assert done.returncode == 127
    assert done.stderr == "prefect-environment: this host has no environment other (prefect_environments)\n"
    assert "name an environment" in in_environment(environments).stderr
