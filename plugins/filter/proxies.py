"""Filters for the configuration of Nginx and the certificates of Certbot."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


def nginx_variable(name: str) -> str:
    """Return a name as part of a valid Nginx variable name."""
    return re.sub(r"\W", "_", name)


def certbot_names(said: str) -> list[str]:
    """Return the sorted names of a certificate from the output of `certbot certificates`; empty if it lists none."""
    found = re.search(r"^ *(?:Domains|Identifiers): (.+)$", said, re.MULTILINE)
    return sorted(re.split(r"[ ,]+", found[1].strip())) if found else []


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"certbot_names": certbot_names, "nginx_variable": nginx_variable}
