"""Generated pages follow their sources, links lead somewhere, tests run the examples, and words are plain."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from jinja2 import Environment

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PAGES = sorted(
    path
    for pattern in ("README.md", "docs/*.md", "roles/*/README.md", "presets/*/README.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(
    r"^(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

VAGUE = re.compile(
    # A letter in brackets keeps the pattern from finding itself.
    r"(?i:(?<![a-z])(?:[o]urs|[t]heirs|[n]obodys?|[s]omebodys?|[w]hoever|[a]new)(?![a-z]))"
    r"|(?i:(?<![a-z])(?:tak(?:e|es|en|ing)[\s_#]+away|took[\s_#]+away|made[\s_#]+up)(?![a-z]))"
    r"|(?<![A-Za-z])is[\s_#]+there(?![A-Za-z])"
    r"|\b[Aa] Prefect(?=[^\w\s'-]|\s+(?:that|from|of|in|on|is|by|with|without|and|or|as|has|to|for|at|installed)\b)"
)
"""Words that leave the owner, the actor or the object unnamed."""

COLLECTION = "ansible_collections.selfhosted.prefect"


def filters() -> dict[str, Callable[..., Any]]:
    """Return all filters of the collection by name."""
    found: dict[str, Callable[..., Any]] = {}
    for path in sorted((ROOT / "plugins" / "filter").glob("*.py")):
        found |= importlib.import_module(f"{COLLECTION}.plugins.filter.{path.stem}").FilterModule().filters()
    return found


FILTERS = filters()
PLUGINS = [path for kind in ("lookup", "modules") for path in sorted((ROOT / "plugins" / kind).glob("*.py"))]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced block of a page: the file that it shows (or None), its language and its text."""

    file: str | None
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of `page`."""
    return [Block(**match.groupdict()) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


def prose(page: Path) -> str:
    """Return the text of `page` without its fenced blocks and inline code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of `page`."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_somewhere(page: Path, link: str) -> bool:
    """Return whether a local `link` on `page` points to a file, and to a heading of it where it has an anchor."""
    file, _, anchor = link.partition("#")
    target = page.parent / file if file else page
    return target.exists() and (not anchor or anchor in anchors(target))


def is_playbook(text: str) -> bool:
    """Return whether a YAML text is a list of plays."""
    loaded = yaml.load(text, yaml.CSafeLoader)
    plays = [play for play in loaded if isinstance(play, dict)] if isinstance(loaded, list) else []
    return any(key.rpartition(".")[2] in {"hosts", "import_playbook"} for play in plays for key in play)


def test_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@each_page
def test_local_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not leads_somewhere(page, link)] == []


@each_page
def test_playbooks_on_a_page_name_their_file(page: Path) -> None:
    unnamed = [block.text for block in blocks(page) if block.language in {"yaml", "yml"} and block.file is None]
    assert [text for text in unnamed if is_playbook(text)] == [], (
        "precede the fence by <!-- file: docs/examples/x.yml -->"
    )


@each_page
def test_examples_on_a_page_equal_their_file(page: Path) -> None:
    for block in blocks(page):
        if block.file is not None:
            file = ROOT / block.file
            assert file.is_relative_to(EXAMPLES)
            assert block.text == file.read_text(encoding="utf-8").removeprefix("---\n"), block.file


def test_every_example_is_shown() -> None:
    shown = {block.file for page in PAGES for block in blocks(page)}
    files = {str(path.relative_to(ROOT)) for path in EXAMPLES.rglob("*") if path.is_file()}
    assert files - shown == set()


@each_page
def test_make_targets_on_a_page_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z_-]+):", makefile, re.MULTILINE))
    commands = "\n".join(block.text for block in blocks(page) if block.language in {"sh", "bash", "console"})
    named = set(re.findall(r"^(?:\$ )?make ([a-z_-]+)", commands, re.MULTILINE))
    assert named - targets == set()


def test_each_playbook_is_a_make_target_with_help() -> None:
    helped = set(re.findall(r"^([a-z_]+): ## .", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    imported = {"inventory", "present", "reached"}
    assert {path.stem for path in (ROOT / "playbooks").glob("*.yml")} - imported == helped - {"help"}


def undescribed(entries: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Yield the options or return values, at any depth, that lack a type or a description."""
    for name, entry in entries.items():
        if not entry.get("type") or not entry.get("description") or (entry["type"] == "list") != ("elements" in entry):
            yield f"{place}{name}"
        for below in ("options", "suboptions", "contains"):
            yield from undescribed(entry.get(below) or {}, f"{place}{name}.")


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_is_documented_as_it_is_called(name: str) -> None:
    path = ROOT / "plugins" / "filter" / f"{name}.yml"
    assert path.is_file(), f"document the filter {name} in {path.relative_to(ROOT)}"
    documented = yaml.safe_load(path.read_text(encoding="utf-8"))
    about, returned = documented["DOCUMENTATION"], documented["RETURN"]
    assert about["name"] == name and about["short_description"] and about["description"]
    assert [*undescribed(about["options"]), *undescribed(returned)] == []
    assert [*returned] == ["_value"]

    taken = inspect.signature(FILTERS[name]).parameters
    assert [*about["options"]] == ["_input", *[*taken][1:]]
    positional = about.get("positional", "").split(", ") if len(taken) > 1 else []
    assert positional == [*taken][1:]
    for parameter in [*taken.values()][1:]:
        option = about["options"][parameter.name]
        needed = parameter.default is inspect.Parameter.empty
        assert option.get("required", False) is needed
        assert needed or option["default"] == parameter.default

    examples = documented["EXAMPLES"]
    assert f"selfhosted.prefect.{name}" in examples
    environment = Environment(autoescape=False)
    environment.filters |= {f"selfhosted.prefect.{each}": function for each, function in FILTERS.items()}
    for task in yaml.safe_load(examples):
        environment.parse(task["ansible.builtin.debug"]["msg"])


def test_no_documentation_is_of_a_filter_that_is_gone() -> None:
    assert {path.stem for path in (ROOT / "plugins" / "filter").glob("*.yml")} == FILTERS.keys()


def with_fragments(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plugin's options, those of the collection's fragments that it extends included."""
    options: dict[str, Any] = {}
    named = about.get("extends_documentation_fragment", [])
    for name in [named] if isinstance(named, str) else named:
        file, _, attribute = name.removeprefix("selfhosted.prefect.").partition(".")
        fragment = importlib.import_module(f"{COLLECTION}.plugins.doc_fragments.{file}").ModuleDocFragment
        options |= yaml.safe_load(getattr(fragment, attribute.upper() or "DOCUMENTATION"))["options"]
    own = about.get("options") or {}
    return options | {name: options.get(name, {}) | option for name, option in own.items()}


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_module_or_lookup_is_documented(path: Path) -> None:
    texts = {
        target.id: yaml.safe_load(str(statement.value.value))
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name) and target.id in {"DOCUMENTATION", "EXAMPLES", "RETURN"}
    }
    about = texts["DOCUMENTATION"]
    assert about.get("name", about.get("module")) == path.stem
    assert about["short_description"] and about["description"]
    assert [*undescribed(with_fragments(about)), *undescribed(texts["RETURN"] or {})] == []
    assert f"selfhosted.prefect.{path.stem}" in str(texts["EXAMPLES"])


def test_words() -> None:
    """Every tracked file names owners, actors and objects: this collection's, another owner's, the user who."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = [path for path in map(ROOT.joinpath, filter(None, names)) if path.is_file()]
    found = []
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        for match in VAGUE.finditer(text):
            found.append(f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}")
    assert len(paths) > 500
    assert found == [], (
        "name the owner, the actor or the object: another owner's, the user who, no host, exists, removes"
    )
