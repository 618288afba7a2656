"""Who an inventory is: the same in every checkout and after a rename, and no other inventory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup.inventory_owner import derived, files_of, former, owner


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


def named(directory: Path, *files: str, hosts: str) -> tuple[str, str]:
    """Return the name and the former one of an inventory of files in a directory, or of the directory."""
    kept, sources = directory / ".secrets/prefect/owner", [str(directory / file) for file in files] or [str(directory)]
    found = files_of(directory, sources, hosts.split())
    return owner(kept, directory, files=found, dry=False), former(kept, directory, files=found)


INVENTORIES = {
    "a.yml": "prefect_resources: {hosts: {api-a: {key: !vault x}}, vars: {prefect_variables: [{name: a}]}}\nempty:\n",
    "b.yml": "all: {children: {prefect_resources: {hosts: {api-b: }}}}\n",
    "c": "# of team c\n[prefect_resources]\napi-c ansible_host=10.0.0.3\n[all:vars]\nprefect_version=1\n",
}


def test_two_inventories_in_a_directory_have_two(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(INVENTORIES["a.yml"])
    alone, none = named(tmp_path, "a.yml", hosts="api-a")
    assert (alone, none) == (derived(tmp_path), "")
    for file, text in INVENTORIES.items():
        (tmp_path / file).write_text(text)
    each = {file: named(tmp_path, file, hosts=f"api-{file[0]}") for file in INVENTORIES}
    assert len({name for name, _ in each.values()} | {alone}) == 4
    assert all(re.fullmatch(r"[a-z0-9-]{1,40}", name) for name, _ in each.values())
    assert {shared for _, shared in each.values()} == {alone}
    assert each["a.yml"] == named(tmp_path, "a.yml", hosts="api-a")
    # All of them together are the directory.
    assert named(tmp_path, hosts="api-a api-b api-c") == (alone, "")


def test_other_files_of_a_directory_are_no_inventories(tmp_path: Path) -> None:
    """Variants of an inventory share hosts; definitions, variables and settings have none."""
    others = {
        "definitions.yml": "prefect_flows: [{name: a}]\n",
        "settings.yml": "web: {port: 1}\n",
        "2.json": '{"all": {"hosts": {"one": {}, "two": {}}}}',
        "ansible.cfg": "[defaults]\ninventory=hosts\n",
        "notes": "[a link](page)\nwords\n",
        "bad.yml": "{",
        "README.md": "# Hosts\n",
    }
    for file, text in others.items():
        (tmp_path / file).write_text(text)
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    (tmp_path / "1.json").write_text('{"all": {"hosts": {"one": {}}}}')
    assert named(tmp_path, "1.json", hosts="one") == (derived(tmp_path), "")


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    assert owner(tmp_path / ".secrets/prefect/owner", tmp_path, dry=True) == derived(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "owner").touch()
    assert (
        owner(tmp_path / "owner", tmp_path, dry=False) == (tmp_path / "owner").read_text().strip() == derived(tmp_path)
    )
