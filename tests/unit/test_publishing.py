"""What Galaxy, ansible-test and the changelog ask of a collection, as far as it can be seen without their programs."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import cores
import galaxy
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

# The directory `site` has the name of a module of Python's own.
_spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "site" / "build.py")
assert _spec is not None
assert _spec.loader is not None
site = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(site)

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


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
IGNORED = sorted((ROOT / "tests" / "sanity").glob("ignore-*.txt"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_its_actions_by_digest(workflow: Path) -> None:
    used = re.findall(r"uses: (.+)$", workflow.read_text(encoding="utf-8"), re.MULTILINE)
    assert used
    pinned = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} +# v\d+\.\d+\.\d+")
    assert [action for action in used if not pinned.fullmatch(action)] == []


def test_each_core_has_an_ignore_file() -> None:
    assert {path.stem.removeprefix("ignore-") for path in IGNORED} == {core.version for core in cores.CORES}


@pytest.mark.parametrize("ignored", IGNORED, ids=lambda path: path.name)
def test_what_a_sanity_test_ignores_has_a_reason(ignored: Path) -> None:
    """`make sanity-ignore` writes these files again when a file was moved or a rule has another reason."""
    for line in ignored.read_text(encoding="utf-8").splitlines():
        entry, _, reason = line.partition(" # ")
        file, rule = entry.split(" ")
        assert (ROOT / file).is_file()
        assert reason in [known.text for known in galaxy.REASONS if known.covers(file, rule)]


def test_a_reason_does_not_accept_a_rule_elsewhere() -> None:
    documented = "validate-modules:nonexistent-parameter-documented"
    assert galaxy.ignored(
        [
            galaxy.Finding(file=file, rule=rule, line="1", message="")
            for file, rule in (
                ("plugins/modules/host_files.py", documented),
                ("plugins/modules/work_queue.py", documented),
                ("plugins/modules/host_files.py", "pylint:ansible-bad-function"),
                ("plugins/modules/host_files.py", "pylint:unknown"),
            )
        ]
    ) == (
        [
            f"plugins/modules/host_files.py {documented} # "
            "The documented options are those of its action plugin, which passes others to the module."
        ],
        [
            galaxy.Finding(file="plugins/modules/work_queue.py", rule=documented, line="1", message=""),
            galaxy.Finding(
                file="plugins/modules/host_files.py", rule="pylint:ansible-bad-function", line="1", message=""
            ),
            galaxy.Finding(file="plugins/modules/host_files.py", rule="pylint:unknown", line="1", message=""),
        ],
    )


def test_reports_of_ansible_test_are_read(tmp_path: Path) -> None:
    said = {
        "pylint": ["a.py:84:46: disallowed-name: Disallowed name"],
        "import-python-3.11": ["b.py:1:0: traceback: No module: named c"],
        "no-assert": ["c.py:2:0: raise AssertionError instead of: assert"],
    }
    for test, output in said.items():
        report = {"results": [{"message": "", "output": "\n".join(output)}]}
        (tmp_path / f"ansible-test-sanity-{test}.json").write_text(json.dumps(report))
    assert sorted(map(str, galaxy.findings(tmp_path))) == [
        "a.py:84: pylint:disallowed-name: Disallowed name",
        "b.py:1: import: traceback: No module: named c",
        "c.py:2: no-assert: raise AssertionError instead of: assert",
    ]


def test_public_modules_are_those_of_objects_and_two_more() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    named = re.search(r"^\| modules \| Options and return values of (.+?), and the action group", page, re.MULTILINE)
    assert named
    runtime = yaml.load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    assert set(re.findall(r"`(\w+)`", named[1])) == {*runtime["action_groups"]["api"], "preset", "status"}


def test_the_site_has_each_page_once_and_links_from_its_own_place() -> None:
    listed = "- [A](a.md#one), [Begin](../README.md#begin)\n- [B](b.md), [A](a.md), [S](s.json)\n"
    text = f"# Documentation\n\n## Try it\n\n{listed}"
    first = site.index(text, ["roles/prefect/README"])
    assert "- [A](docs/a.md#one), [Begin](README.md#begin)\n- [B](docs/b.md), [A](docs/a.md), [S](docs/s.json)" in first
    assert ":caption: Try it\n\ndocs/a\ndocs/b\n```" in first
    assert first.count("\nREADME\n") == 1


def test_a_dead_link_of_the_site_is_found(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    links = [
        "docs/page.html#place",
        "docs/page.html#none",
        "docs/none.html",
        "https://example.com/none",
        "#top",
        "#none",
    ]
    text = "".join(f'<a href="{link}">' for link in links)
    (tmp_path / "index.html").write_text(f'<h1 id="top">{text}<img src="none.png">')
    (tmp_path / "docs" / "page.html").write_text('<h1 id="place"><a href="../index.html">')
    expected = ["docs/page.html#none", "docs/none.html", "#none", "none.png"]
    assert list(site.dead_links(tmp_path)) == [f"index.html: {link}" for link in expected]
