"""Who an inventory is: the same in every checkout and after a rename, and no other inventory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup.inventory_owner import derived, owner


def checkout(path: Path, url: str, *names: str) -> list[Path]:
    (path / ".git").mkdir(parents=True)
    (path / ".git" / "config").write_text(f'[core]\n\tbare = false\n[remote "origin"]\n\turl = {url}\n')
    made = [path / name for name in names]
    for each in made:
        each.mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.com/shop/infra.git",
        "https://token:secret@git.example.com/shop/infra",
        "ssh://git@git.example.com:2222/shop/infra.git",
        "git@git.example.com:shop/infra.git",
    ],
)
def test_every_checkout_has_the_same(tmp_path: Path, url: str) -> None:
    (one,) = checkout(tmp_path / "ada", "git@git.example.com:shop/infra.git", "inventories/prod")
    (other,) = checkout(tmp_path / "ci" / "build-7", url, "inventories/prod")
    assert derived(one) == derived(other)
    assert re.fullmatch(r"prod-[0-9a-f]{8}", derived(one))


def test_no_two_inventories_have_the_same(tmp_path: Path) -> None:
    found = checkout(tmp_path / "a", "git@git.example.com:shop/infra.git", "dev", "prod", "old/prod")
    found += checkout(tmp_path / "b", "git@git.example.com:shop/other.git", "prod")
    found += [tmp_path / "c" / "prod", tmp_path / "d" / "prod", tmp_path / "Prod!"]
    assert len({derived(each) for each in found}) == len(found)
    assert all(re.fullmatch(r"[a-z0-9-]{1,40}", derived(each)) for each in found)


def test_a_rename_keeps_it(tmp_path: Path) -> None:
    inventory = tmp_path / "stock"
    name = owner(inventory / ".secrets/prefect/owner", inventory, dry=False)
    renamed = inventory.rename(tmp_path / "shop")
    assert owner(renamed / ".secrets/prefect/owner", renamed, dry=False) == name != derived(renamed)


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    assert owner(tmp_path / ".secrets/prefect/owner", tmp_path, dry=True) == derived(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "owner").touch()
    assert (
        owner(tmp_path / "owner", tmp_path, dry=False) == (tmp_path / "owner").read_text().strip() == derived(tmp_path)
    )
