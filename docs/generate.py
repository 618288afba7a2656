"""Write the reference pages from what the collection declares about itself.

The sources are the roles' argument specs and defaults, the presets, the playbooks' head comments, the modules'
documentation, and the locks with the record of what was proven of them. ``python docs/generate.py`` writes the pages;
with ``--check`` it writes nothing, prints a diff and ends with exit code 1 when a page differs from its sources.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "docs" / "templates"
COLLECTION = "selfhosted.prefect"
INTERNAL = ("host_", "validate", "environment_locks")
"""Beginnings of the names of modules that only the roles use."""
REQUIRED = "required"

Spec = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One row of a table: a role's variable, a preset's parameter or a module's option, ready for Markdown."""

    name: str
    type: str
    default: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A role's entry point, a preset, a playbook or a module: a name, what it is for, and its options."""

    name: str
    summary: str
    paragraphs: Sequence[str] = ()
    options: Sequence[Option] = ()
    internal: bool = False
    """Whether a module is one of the roles' own, which may change in any version."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role, its entry points (``main`` first), and its example playbook (empty where there is none)."""

    name: str
    entry_points: Sequence[Topic]
    example: str


@dataclass(frozen=True, kw_only=True)
class Proven:
    """A lock: the oldest and the newest Python that it is for, and those that it was proven on, where and when."""

    title: str
    oldest: str
    newest: str
    pythons: Sequence[str]
    systems: Sequence[str]
    date: str


def markdown(text: str) -> str:
    """Return `text` on one line, with Ansible's markup (``C(x)``, ``O(x)``, ...) as Markdown code."""
    return re.sub(r"\b(?:[BCEIMOPV]|RV)\(([^()]*)\)", r"`\1`", " ".join(text.split()))


def cell(text: str) -> str:
    """Return `text` as the content of a table's cell, where a bare ``|`` would end it."""
    return text.replace("|", r"\|")


def code(value: object) -> str:
    """Return a YAML value as inline code: strings bare, everything else as JSON, nothing for null."""
    if value is None:
        return ""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return f"`{' '.join(text.split())}`"


def paragraphs(description: str | list[str] | None) -> list[str]:
    """Return a spec's ``description`` (a text, a list of paragraphs, or missing) as a list of paragraphs."""
    given = description.strip().split("\n\n") if isinstance(description, str) else description or []
    return [markdown(paragraph) for paragraph in given]


def options(specs: Mapping[str, Spec], *, defaults: Mapping[str, Any], prefix: str = "") -> Iterator[Option]:
    """Yield one row per option of `specs`, each followed by its suboptions as ``option.suboption``.

    `defaults` holds the values that stand elsewhere (a role's ``defaults/main.yml``) and win over the spec's own.
    """
    for name, spec in specs.items():
        kind = spec.get("type", "str")
        sentences = paragraphs(spec.get("description"))
        if "choices" in spec:
            sentences.append(f"One of {', '.join(code(choice) for choice in spec['choices'])}.")
        if "variable" in spec:
            sentences.append(f"Sets {code(spec['variable'])}.")
        if "example" in spec:
            sentences.append(f"Example: {code(spec['example'])}.")
        yield Option(
            name=f"{prefix}{name}",
            type=f"{kind} of {spec['elements']}" if "elements" in spec else kind,
            default=REQUIRED if spec.get("required") else code(defaults.get(name, spec.get("default"))),
            description=" ".join(sentences),
        )
        yield from options(spec.get("options") or spec.get("suboptions") or {}, defaults={}, prefix=f"{prefix}{name}.")


def load(path: Path) -> Any:
    """Return the content of a YAML file, or an empty mapping where there is none."""
    return (yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader) or {}) if path.exists() else {}


def read_role(path: Path) -> Role:
    """Return the role in directory `path`."""
    defaults = load(path / "defaults" / "main.yml")
    described = load(path / "meta" / "main.yml")["galaxy_info"]["description"]
    # A role without tasks takes no arguments, and Galaxy refuses a role without a README.
    alone = {"main": {"short_description": described}}
    specs = load(path / "meta" / "argument_specs.yml").get("argument_specs", alone)
    example = path.parent.parent / "docs" / "examples" / f"{path.name}.yml"
    return Role(
        name=path.name,
        entry_points=[
            Topic(
                name=name,
                summary=markdown(spec.get("short_description", "")),
                paragraphs=paragraphs(spec.get("description")),
                options=list(options(spec.get("options") or {}, defaults=defaults)),
            )
            for name, spec in sorted(specs.items(), key=lambda item: (item[0] != "main", item[0]))
        ],
        example=example.read_text(encoding="utf-8").removeprefix("---\n") if example.exists() else "",
    )


def read_preset(path: Path) -> Topic:
    """Return the preset that the file `path` declares."""
    preset = load(path)
    summary, *rest = paragraphs(preset.get("description"))
    return Topic(
        name=path.parent.name,
        summary=summary,
        paragraphs=rest,
        options=list(options(preset.get("parameters") or {}, defaults={})),
    )


def read_playbook(path: Path) -> Topic:
    """Return the playbook `path`; its head comment says what it is for."""
    lines = path.read_text(encoding="utf-8").removeprefix("---\n").splitlines()
    head = takewhile(lambda line: line.startswith("#"), lines)
    return Topic(name=path.stem, summary=markdown(" ".join(line.lstrip("# ") for line in head)))


def read_module(path: Path) -> Topic:
    """Return the module in the file `path`, with the options of the doc fragments that it extends."""
    documentation = yaml.load(literals(ast.parse(path.read_text(encoding="utf-8")))["DOCUMENTATION"], yaml.CSafeLoader)
    specs = dict(documentation.get("options") or {})
    extended = documentation.get("extends_documentation_fragment") or []
    for fragment in [extended] if isinstance(extended, str) else extended:
        if fragment.startswith(f"{COLLECTION}."):
            shared = read_fragment(path.parent.parent / "doc_fragments", fragment.removeprefix(f"{COLLECTION}."))
            specs |= {name: {**spec, **specs.get(name, {})} for name, spec in shared.items()}
    return Topic(
        name=path.stem,
        summary=markdown(documentation["short_description"]).rstrip("."),
        paragraphs=paragraphs(documentation.get("description")),
        options=list(options(specs, defaults={})),
        internal=path.stem.startswith(INTERNAL),
    )


def read_fragment(directory: Path, name: str) -> dict[str, Spec]:
    """Return the options of doc fragment `name`: ``file`` (its ``DOCUMENTATION``) or ``file.attribute``."""
    file, _, attribute = name.partition(".")
    module = ast.parse((directory / f"{file}.py").read_text(encoding="utf-8"))
    fragment = next(node for node in module.body if isinstance(node, ast.ClassDef))
    loaded = yaml.load(literals(fragment)[attribute.upper() or "DOCUMENTATION"], yaml.CSafeLoader)
    return dict(loaded.get("options") or {})


def read_locks(root: Path) -> list[Proven]:
    """Return the locks that were proven, in their order, with the date of the last proof."""
    sys.path.insert(0, str(root / "requirements"))
    from locks import LOCKS, recorded

    known = recorded()
    return [
        Proven(
            title=re.sub(r"^celery/(.*)", r"Celery with Prefect `\1`", re.sub(r"^(\d.*)", r"Prefect `\1`", lock.name)),
            oldest=lock.pythons[0],
            newest=lock.pythons[-1],
            pythons=[proof["python"] for proof in known[lock.name]["proofs"]],
            systems=sorted({proof["system"] for proof in known[lock.name]["proofs"]}),
            date=max(proof["date"] for proof in known[lock.name]["proofs"]),
        )
        for lock in LOCKS
        if lock.name in known
    ]


def literals(node: ast.Module | ast.ClassDef) -> dict[str, str]:
    """Return the names that `node` assigns string literals to, without running any of it."""
    return {
        target.id: statement.value.value
        for statement in node.body
        if isinstance(statement, ast.Assign)
        if isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def pages(root: Path) -> dict[Path, str]:
    """Return every generated page of the collection in `root`: its path relative to `root`, and its text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["cell"] = cell
    roles = [read_role(path) for path in sorted((root / "roles").glob("*/"))]
    reference = {
        "modules": [read_module(path) for path in sorted((root / "plugins" / "modules").glob("*.py"))],
        "playbooks": [read_playbook(path) for path in sorted((root / "playbooks").glob("*.yml"))],
        "presets": [read_preset(path) for path in sorted((root / "presets").glob("*/preset.yml"))],
        "variables": roles,
        "versions": read_locks(root),
    }
    readme = environment.get_template("role.md.j2")
    schema = json.dumps(definitions_schema(root), indent=2) + "\n"
    return (
        {Path("docs", "definitions.schema.json"): schema}
        | {Path("roles", role.name, "README.md"): readme.render(role=role) for role in roles}
        | {
            Path("docs", f"{name}.md"): environment.get_template(f"{name}.md.j2").render({name: topics})
            for name, topics in reference.items()
        }
    )


def definitions_schema(root: Path) -> dict[str, Any]:
    """Return the JSON schema of definitions, from the package that reads them."""
    sys.path.insert(0, str(root / "roles" / "prefect_definitions" / "files" / "definitions"))
    from prefect_definitions.schema import published

    return published()


def drift(root: Path) -> list[str]:
    """Return the unified diff, by lines, from the pages as they are in `root` to what the sources say."""
    difference: list[str] = []
    for path, wanted in pages(root).items():
        page = root / path
        present = page.read_text(encoding="utf-8") if page.exists() else ""
        difference += difflib.unified_diff(
            present.splitlines(), wanted.splitlines(), f"{path} (as it is)", f"{path} (generated)", lineterm="", n=1
        )
    return difference


def write(root: Path) -> None:
    """Write every page whose text changed."""
    for path, text in pages(root).items():
        page = root / path
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {path}")


def main() -> int:
    """Write or check the pages, and return the exit code."""
    parser = argparse.ArgumentParser(description="Write the reference pages from what the collection declares.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 with a diff when a page drifted")
    if not parser.parse_args().check:
        write(ROOT)
        return 0
    difference = drift(ROOT)
    if difference:
        print(*difference, "The pages drifted from their sources: run `python docs/generate.py`.", sep="\n")
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
