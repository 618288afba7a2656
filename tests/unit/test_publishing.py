"""What Galaxy, ansible-test and the changelog ask of a collection, as far as it can be seen without their programs."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GALAXY = yaml.load((ROOT / "galaxy.yml").read_text(encoding="utf-8"), yaml.CSafeLoader)
PLUGINS = sorted(
    path
    for pattern in ("plugins/modules/*.py", "plugins/lookup/*.py", "plugins/filter/*.yml")
    for path in ROOT.glob(pattern)
)
ROLES = sorted(path for path in (ROOT / "roles").glob("*/") if path.is_dir())
FRAGMENTS = sorted((ROOT / "changelogs" / "fragments").glob("*.y*ml"))

each_plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: f"{path.parent.name}/{path.stem}")


def documentation(plugin: Path) -> dict[str, Any]:
    """Return the documentation of a module, a lookup or a filter."""
    text = plugin.read_text(encoding="utf-8")
    if plugin.suffix == ".yml":
        return dict(yaml.load(text, yaml.CSafeLoader)["DOCUMENTATION"])
    found = next(
        node.value.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if [getattr(target, "id", "") for target in node.targets] == ["DOCUMENTATION"]
    )
    return dict(yaml.load(found, yaml.CSafeLoader))


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers, for a comparison."""
    return tuple(int(number) for number in version.split("."))


def added(documented: Any) -> list[str]:
    """Return each `version_added` in a documentation: that of the plugin, and those of its options."""
    if isinstance(documented, dict):
        own = [str(documented["version_added"])] if "version_added" in documented else []
        return own + [version for value in documented.values() for version in added(value)]
    return [version for value in documented for version in added(value)] if isinstance(documented, list) else []


@each_plugin
def test_a_plugin_says_since_which_version_it_exists(plugin: Path) -> None:
    documented = documentation(plugin)
    assert "version_added" in documented
    # 1.0.0 is the first version on Galaxy.
    assert [version for version in added(documented) if numbers(version) < (1, 0, 0)] == []
    assert [version for version in added(documented) if numbers(version) > numbers(GALAXY["version"])] == []


@each_plugin
def test_an_author_has_an_account(plugin: Path) -> None:
    author = documentation(plugin)["author"]
    authors = author if isinstance(author, list) else [author]
    assert [name for name in authors if not re.search(r" \(@[\w-]+\)$", name)] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_galaxy_finds_a_readme_of_each_role(role: Path) -> None:
    assert (role / "README.md").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.name)
def test_a_fragment_is_sections_with_sentences(fragment: Path) -> None:
    config = yaml.load((ROOT / "changelogs" / "config.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    sections = {name for name, _ in config["sections"]} | {config["trivial_section_name"]}
    for section, found in yaml.load(fragment.read_text(encoding="utf-8"), yaml.CSafeLoader).items():
        if section == config["prelude_section_name"]:
            assert isinstance(found, str)
            continue
        assert section in sections
        # An unquoted colon in a sentence makes a mapping of it.
        assert [sentence for sentence in found if not isinstance(sentence, str)] == []
