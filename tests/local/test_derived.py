"""Every variable that the roles derive has the same value as before, for every host of many inventories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, str(Path(__file__).with_name("derived.py")))
GOLDEN = Path(__file__).with_name("derived.json")
"""What the program prints. A wanted change of a variable is a change of this file."""


def expanded(entries: list[list[Any]], places: set[str]) -> dict[str, Any]:
    """Return the value at each place."""
    (_, common), *others = entries
    return dict.fromkeys(places, common) | {place: value for where, value in others for place in where}


def test_every_value_is_what_it_was() -> None:
    environment = os.environ | {"PWD": str(ROOT)}
    done = subprocess.run(PROGRAM, capture_output=True, check=False, cwd=ROOT, env=environment, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    found, known = json.loads(done.stdout), json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert found.keys() == known.keys()
    places = {place for entries in [*found.values(), *known.values()] for where, _ in entries[1:] for place in where}
    wrong = []
    for name in sorted(known):
        before, now = expanded(known[name], places), expanded(found[name], places)
        different = sorted(place for place in places if before[place] != now[place])
        wrong += [f"{name}: {place}: {before[place]} -> {now[place]}" for place in different]
    assert wrong == []
