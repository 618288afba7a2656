"""Whether the Python that Ansible found on a host can run the modules of this collection.

The modules that read a host first import this, so neither they nor this file may need a newer Python to be imported.
"""

from __future__ import annotations

import sys

MIN_PYTHON = (3, 10)
"""The oldest Python that runs the modules and every version of Prefect that can be installed."""


def too_old(python: tuple[int, ...] = sys.version_info[:3]) -> str:
    """Return an error if the Python that runs Ansible's modules on this host is too old for this collection."""
    if python >= MIN_PYTHON:
        return ""
    found, needed = (".".join(map(str, numbers)) for numbers in (python, MIN_PYTHON))
    return (
        f"ansible_python_interpreter: Ansible runs Python {found} on this host ({sys.executable}), and the modules of "
        f"this collection need {needed} or newer; install one, and name it in ansible_python_interpreter"
    )
