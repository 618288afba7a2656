"""Whether the Python that Ansible found on a host can run the modules of this collection, and which ones run Prefect.

The modules that read a host first import this, so neither they nor this file may need a newer Python to be imported.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

MIN_PYTHON = (3, 10)
"""The oldest Python that runs the modules and every version of Prefect that can be installed."""

TOO_NEW = (3, 15)
"""Prefect 3.9 allows this version, but orjson and pyyaml have no wheels for it, and hosts have no compiler."""

PYTHONS = {(3, 9): ((3, 11), TOO_NEW), (0, 0): (MIN_PYTHON, TOO_NEW)}
"""The oldest Python and the first that is too new, by the first version of Prefect that has these limits."""


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as comparable numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def pythons_for(version: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the oldest Python that a version of Prefect runs on, and the first that is too new."""
    if not (release := numbers(version)[:2]):
        return MIN_PYTHON, (99, 0)
    return next(pythons for since, pythons in PYTHONS.items() if release >= since)


def is_unproven(python: str, proven: Sequence[str]) -> bool:
    """Return whether a Python is newer than each that a lock was proven on; not if it is not known which those are."""
    return bool(proven) and numbers(python)[:2] > max(numbers(version)[:2] for version in proven)


def too_old(python: tuple[int, ...] = sys.version_info[:3]) -> str:
    """Return an error if the Python that runs Ansible's modules on this host is too old for this collection."""
    if python >= MIN_PYTHON:
        return ""
    found, needed = (".".join(map(str, numbers)) for numbers in (python, MIN_PYTHON))
    return (
        f"ansible_python_interpreter: Ansible runs Python {found} on this host ({sys.executable}), and the modules of "
        f"this collection need {needed} or newer; install one, and name it in ansible_python_interpreter"
    )
