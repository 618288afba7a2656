"""Settings of Sphinx for the documentation as a site. `build.py`, beside this file, runs it."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer

project = "selfhosted.prefect"
author = "The selfhosted.prefect maintainers"
html_title = project
html_theme = "sphinx_rtd_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False

extensions = ["myst_parser", "sphinx_antsibull_ext"]
include_patterns = ["*.md", "docs/*.md", "roles/*/README.md", "presets/README.md", "reference/*.rst"]
# The index of the site is made of it.
exclude_patterns = ["docs/README.md"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
# Links to headings are those of GitHub.
myst_heading_anchors = 6
highlight_language = "text"

ANSIBLE = "https://docs.ansible.com/ansible/latest"
LABELS = {
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}
"""Pages of Ansible's own documentation by the labels that antsibull-docs uses."""


def resolve(app: Any, env: Any, node: Any, contents: Any) -> Any:
    """Return a link to Ansible's own documentation for a reference to it, None for any other, which is a warning."""
    target = node["reftarget"]
    plugin = re.fullmatch(r"ansible_collections\.(ansible|community)\.(\w+)\.(\w+)", target)
    page = f"collections/{'/'.join(plugin.groups())}.html" if plugin else LABELS.get(target)
    if not page:
        return None
    link = nodes.reference("", "", internal=False, refuri=f"{ANSIBLE}/{page}")
    link += contents
    return link


def setup(app: Any) -> None:
    app.add_lexer("csv", TextLexer)
    app.connect("missing-reference", resolve)
