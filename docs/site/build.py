#!/usr/bin/env python
"""Build the documentation as a site: the pages of the archive that Galaxy gets, and the reference of the collection.

    docs/site/build.py [DIRECTORY]     .cache/docs unless given

antsibull-docs writes the reference from the collection itself, Sphinx makes the site, and a warning of either is an
error. Links to files that the archive lacks lead to the repository. Then every link of the site to itself has to lead
to a file and, with an anchor, to a place in it. Needs no network. The exit code is 1 if a link leads nowhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from galaxy import archive, path_of, unpacked  # noqa: E402

REFERENCE = ("Plugins and roles <reference/index>",)
PROJECT = ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")
FILES = "https://github.com/selfhosted/prefect/blob/main"
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Page(HTMLParser):
    """The links of a page, and the places that a link can lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif value and (name == "id" or (tag == "a" and name == "name")):
                self.places.add(value)


def dead_links(site: Path) -> Iterator[str]:
    """Yield the page and the link for each link within a site that leads nowhere."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.exists() or (target in pages and place not in pages[target].places):
                yield f"{path.relative_to(site.resolve())}: {link}"


def index(text: str, roles: list[str]) -> str:
    """Return the first page: docs/README.md with links from above its directory, and its sections as the navigation."""
    title, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    seen = set(PROJECT)
    trees = []
    for section in sections:
        caption, _, body = section.partition("\n")
        found = [link.partition("#")[0] for link in LINK.findall(body)]
        names = [os.path.normpath(f"docs/{name}").removesuffix(".md") for name in found if name.endswith(".md")]
        pages = [name for name in dict.fromkeys(names) if name not in seen]
        seen.update(pages)
        trees.append((caption.strip(), pages))
    trees += [("Collection", list(REFERENCE)), ("Roles", roles), ("Project", list(PROJECT))]
    navigation = "\n".join(
        "\n".join(["```{toctree}", ":hidden:", ":maxdepth: 1", f":caption: {caption}", "", *pages, "```", ""])
        for caption, pages in trees
    )
    moved = LINK.sub(lambda link: f"]({relative(link[1])})", text.removeprefix(title))
    return f"# selfhosted.prefect\n\n{title.partition(chr(10))[2].strip()}\n\n{moved}\n{navigation}"


def on_site(page: Path, place: Path) -> str:
    """Return the text of a page with links that lead somewhere on the site or, if they cannot, in the repository."""

    def link(found: re.Match[str]) -> str:
        target = found[1]
        path = os.path.normpath(page.parent.relative_to(place) / target.partition("#")[0])
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        if path == "docs/README.md":
            return f"]({os.path.relpath(place / 'index.md', page.parent)})"
        if (place / path).is_file():
            return found[0]
        return f"]({FILES}/{path})" if (ROOT / path).exists() else found[0]

    return LINK.sub(link, page.read_text(encoding="utf-8"))


def relative(link: str) -> str:
    """Return a link of a page in docs/ as one of a page above it."""
    return link if re.match(r"[a-z]+:|#", link) else os.path.normpath(f"docs/{link}")


def build(site: Path) -> None:
    """Write the site to a directory; CalledProcessError after an error or a warning."""
    tools = Path(sys.executable).parent
    with archive(tools) as built, unpacked(built) as place:
        environment = os.environ | {"PATH": path_of(tools)}
        environment["ANSIBLE_COLLECTIONS_PATH"] = str(place.parents[2])
        reference = place / "reference"
        reference.mkdir()
        command = ["antsibull-docs", "collection", "--use-current", "--squash-hierarchy", "--fail-on-error"]
        command += ["--dest-dir", str(reference), ".".join(place.parts[-2:])]
        subprocess.run(command, env=environment, check=True)
        (place / "_static").mkdir()
        shutil.copy(HERE / "site.css", place / "_static")
        shutil.copy(HERE / "conf.py", place)
        roles = sorted(f"roles/{path.parent.name}/README" for path in place.glob("roles/*/README.md"))
        contents = (place / "docs" / "README.md").read_text(encoding="utf-8")
        (place / "index.md").write_text(index(contents, roles), encoding="utf-8")
        for page in place.rglob("*.md"):
            page.write_text(on_site(page, place), encoding="utf-8")
        shutil.rmtree(site, ignore_errors=True)
        command = ["sphinx-build", "--builder", "html", "--nitpicky", "--fail-on-warning", "--quiet", "--fresh-env"]
        command += ["--doctree-dir", str(place.parents[2] / "doctrees"), str(place), str(site)]
        subprocess.run(command, env=environment, check=True)


def main() -> int:
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".cache" / "docs"
    build(site)
    dead = list(dead_links(site))
    for link in dead:
        print(link)
    print(f"{site / 'index.html'}: {len(list(site.rglob('*.html')))} pages, {len(dead)} links that lead nowhere")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
