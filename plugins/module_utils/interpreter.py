"""Whether the Python that Ansible found on a host runs the modules of this collection.

What reads a host first imports this, so nothing here or there needs a newer Python to be imported.
"""

from __future__ import annotations

import sys

MIN_PYTHON = (3, 10)
"""The oldest Python that the modules run on, and any version of Prefect that is installed."""


def too_old(python: tuple[int, ...] = sys.version_info[:3]) -> str:
    """Return an obstacle where the Python that runs Ansible's modules on this host is too old for this collection."""
    if python >= MIN_PYTHON:
        return ""
    found, needed = (".".join(map(str, numbers)) for numbers in (python, MIN_PYTHON))
    return (
        f"ansible_python_interpreter: Ansible runs Python {found} on this host ({sys.executable}), and the modules of "
        f"this collection need {needed} or newer; install one, and name it in ansible_python_interpreter"
    )
