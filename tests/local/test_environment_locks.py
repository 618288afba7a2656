"""Locks of environments, made by the controller's uv from an index of a few wheels without content."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.installing import InstallError, pins
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.uv import Index
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.environment_resolver import (
    Release,
    Uv,
    lock_file,
    locked,
)
from uv import find_uv_bin

PREFECT = "3.8.8"
ETL: dict[str, Any] = {"name": "etl", "requirements": ["humanize<4.9"]}
PACKAGES = {
    ("prefect", PREFECT): ["click>=8"],
    ("prefect", "3.5.0"): [],
    ("click", "7.0"): [],
    ("click", "8.1"): [],
    ("click", "8.2"): [],
    ("humanize", "4.8.0"): [],
    ("humanize", "4.9.0"): [],
    ("tzdata", "2026.1"): [],
    ("importlib-metadata", "9.0"): [],
}


class Controller:
    """A directory of an inventory, and an index."""

    def __init__(self, directory: Path) -> None:
        self.base, self.directory = directory / "inventory", directory / "inventory" / "environments"
        self.index = directory / "simple"
        self.base.mkdir()
        self.release = Release(version=PREFECT, lock="# nothing\n")
        for (name, version), needs in PACKAGES.items():
            self.serve(name, version, needs)
        self.uv = Uv(path=find_uv_bin(), lock="", index=Index(url=self.index.as_uri()))

    def serve(self, name: str, version: str, needs: list[str]) -> None:
        page, stem = self.index / name / "index.html", f"{name.replace('-', '_')}-{version}"
        page.parent.mkdir(parents=True, exist_ok=True)
        wheel = page.with_name(f"{stem}-py3-none-any.whl")
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(
                f"{stem}.dist-info/METADATA", about + "".join(f"Requires-Dist: {each}\n" for each in needs)
            )
            archive.writestr(
                f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{stem}.dist-info/RECORD", "")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        with page.open("a") as listed:
            listed.write(f'<a href="{wheel.name}#sha256={digest}">{wheel.name}</a><br>\n')

    def lock(self, *, dry: bool = False, **entry: Any) -> tuple[str, bool]:
        where = {"directory": str(self.directory), "base": str(self.base)}
        return locked(ETL | entry, self.release, self.uv, dry=dry, **where)

    def pinned(self, **entry: Any) -> dict[str, str]:
        return dict(pins(self.lock(**entry)[0]))

    def refused(self, **entry: Any) -> str:
        with pytest.raises(InstallError) as error:
            self.lock(**entry)
        return str(error.value)


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def test_dry_for_real_and_again(controller: Controller) -> None:
    dry = controller.lock(dry=True)
    assert not controller.directory.exists()
    text, is_new = controller.lock()
    assert (text, is_new) == dry and is_new
    file = lock_file(controller.directory, "etl", PREFECT)
    assert file.read_text() == text
    found = dict(pins(text))
    assert found == {
        "prefect": PREFECT,
        "click": "8.2",
        "humanize": "4.8.0",
        "tzdata": "2026.1",
        "importlib-metadata": "9.0",
    }
    assert text.count("--hash=sha256:") == len(found)
    assert "://" not in text
    assert controller.lock() == (text, False)


def test_a_lock_is_kept_until_what_it_was_made_from_changes(controller: Controller) -> None:
    before, _ = controller.lock()
    controller.serve("humanize", "4.8.1", [])
    assert controller.lock() == (before, False)
    assert controller.lock(requirements=["humanize<4.9", "click"])[1]
    assert controller.pinned(python="3.12")["humanize"] == "4.8.1"
    controller.release = replace(controller.release, version="3.5.0")
    assert controller.pinned()["prefect"] == "3.5.0"
    assert sorted(path.name for path in controller.directory.iterdir()) == ["etl-3.5.0.txt", "etl-3.8.8.txt"]


def test_what_the_release_has_is_preferred_and_not_required(controller: Controller) -> None:
    controller.release = replace(controller.release, lock=f"prefect=={PREFECT}\nclick==8.1\nhumanize==4.9.0\n")
    assert controller.pinned() == controller.pinned() | {"click": "8.1", "humanize": "4.8.0"}
    assert controller.pinned(requirements=["click>8.1"])["click"] == "8.2"
    controller.release = replace(controller.release, constraints="click<8.2\n")
    assert controller.pinned(requirements=["click"])["click"] == "8.1"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"requirements": ["click<8"]},
            ["prefect_version, prefect_environments (etl): these versions cannot be installed", "click>=8", "click<8"],
        ),
        ({"requirements": ["prefect==3.5.0"]}, ["prefect_environments (etl): these versions", "prefect==3.5.0"]),
        (
            {"requirements": ["nosuch"]},
            ["prefect_index_url: the index does not serve what prefect_environments (etl)", "nosuch was not found"],
        ),
        ({"requirements_file": "gone.txt"}, ["(etl): the controller cannot read", "gone.txt (No such file"]),
    ],
)
def test_what_cannot_be_resolved(controller: Controller, entry: dict[str, Any], said: list[str]) -> None:
    refused = controller.refused(**entry)
    assert all(text in " ".join(refused.split()) for text in said), refused
    assert not controller.directory.exists()


def test_an_index_that_the_controller_does_not_reach(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    controller.uv = replace(controller.uv, index=Index(url="http://ada:hush@127.0.0.1:9/simple"))
    refused = controller.refused()
    assert refused.startswith("prefect_index_url: the package index cannot be reached from the controller")
    assert "hush" not in refused


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("more.txt", "click==8.1  # why\n"),
        ("pyproject.toml", '[project]\nname = "own"\nversion = "1"\ndependencies = ["click==8.1"]\n'),
    ],
)
def test_a_file_of_requirements(controller: Controller, name: str, text: str) -> None:
    (controller.base / name).write_text(text)
    assert controller.pinned(requirements_file=name) == controller.pinned(requirements_file=name) | {
        "click": "8.1",
        "humanize": "4.8.0",
    }
    (controller.base / name).write_text(text.replace("8.1", "8.2"))
    assert controller.pinned(requirements_file=name)["click"] == "8.2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prefect==3.5.0 --hash=sha256:0\n", "has Prefect 3.5.0, and the release has 3.8.8 (prefect_version)"),
        ("click==8.1 --hash=sha256:0\n", "has no Prefect, and the release has 3.8.8"),
    ],
)
def test_a_lock_of_the_user_without_the_prefect_of_the_release(controller: Controller, text: str, said: str) -> None:
    (controller.base / "own.txt").write_text(text)
    assert said in controller.refused(requirements=[], requirements_file="own.txt")


def test_a_lock_of_the_user_stays_as_it_is(controller: Controller) -> None:
    own = f"prefect=={PREFECT} \\\n    --hash=sha256:0\n"
    (controller.base / "own.txt").write_text(own)
    assert controller.lock(requirements=[], requirements_file="own.txt") == (own, False)
    assert "to which requirements add nothing" in controller.refused(requirements_file="own.txt")


def test_the_task(controller: Controller) -> None:
    given = {
        "environments": [ETL],
        "directory": str(controller.directory),
        "base": str(controller.base),
        "version": PREFECT,
        "uv": find_uv_bin(),
        "index_url": controller.index.as_uri(),
    }

    def run(*more: str, **options: Any) -> dict[str, Any]:
        command: list[str | Path] = [
            Path(sys.executable).with_name("ansible"),
            "localhost",
            "-c",
            "local",
            "-i",
            "localhost,",
        ]
        command += ["-m", "selfhosted.prefect.environment_locks", "-a", json.dumps(given | options), *more]
        settings = os.environ | {"ANSIBLE_CONFIG": str(Path(__file__).resolve().parents[2] / "ansible.cfg")}
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        result: dict[str, Any] = yaml.safe_load(done.stdout.partition("=>")[2])
        return result

    assert run("--check")["made"] == ["etl"]
    assert not controller.directory.exists()
    first = run()
    assert first["changed"] and first["made"] == ["etl"]
    again = run()
    assert not again["changed"] and again["locks"] == first["locks"]
    assert "is the name of 2 environments" in run(environments=[ETL, ETL])["msg"]
