"""What root executes or installs code from, and which other account can write it.

Every path that root runs, or from which it builds or installs what it runs later, is checked by `refused` before the
host changes: code that another account can write makes that account root. Without root, everything is the user's own.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .safe_files import MOST_LINKS, absolute, account_name, read

ENVIRONMENT = (
    *("UV_BUILD_CONSTRAINT", "UV_CONSTRAINT", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX"),
    *("UV_INDEX_URL", "UV_OVERRIDE"),
)
"""Variables from which uv takes further places of packages."""

ALL = 1000
"""Levels below a directory that are checked if all of them are."""


@dataclass(frozen=True)
class Weakness:
    """A file or directory that other accounts can write."""

    path: str
    accounts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{' and '.join(self.accounts)} can write {self.path}"


def members(gid: int) -> list[str]:
    """Return the accounts in a group, except root."""
    names = {user.pw_name for user in pwd.getpwall() if user.pw_gid == gid}
    with contextlib.suppress(KeyError):
        names.update(grp.getgrgid(gid).gr_mem)
    return sorted(names - {"root"})


def writers(found: os.stat_result) -> list[str]:
    """Return the accounts other than root that can write a file or directory. A group may have no members."""
    names = [account_name(found.st_uid)] if found.st_uid else []
    if found.st_mode & stat.S_IWGRP and found.st_gid:
        names += [name for name in members(found.st_gid) if name not in names]
    return [*names, "every account"] if found.st_mode & stat.S_IWOTH else names


def is_shared(found: os.stat_result) -> bool:
    """Return whether accounts can create files in a directory of root's, but cannot replace root's files."""
    return not found.st_uid and stat.S_ISDIR(found.st_mode) and bool(found.st_mode & stat.S_ISVTX)


Seen = dict[tuple[int, int], int]
"""How many levels below each directory were looked at, by device and inode. A weakness ends the look."""


def weakness(path: str | os.PathLike[str], *, depth: int = 0, seen: Seen | None = None) -> Weakness | None:
    """Return what another account can write of a path; None if only root can replace it, or a part of it.

    Looks at all directories and links that lead to it, and at `depth` levels below it. What does not exist is weak if
    another account can create it. `seen` spares a second look at what is below a directory.
    """
    return None if os.geteuid() else _weakness(path, depth, {} if seen is None else seen)


def _weakness(path: str | os.PathLike[str], depth: int, seen: Seen) -> Weakness | None:
    todo, here, links = list(absolute(path).parts[1:]), Path("/"), 0
    while todo:
        name = todo.pop(0)
        if name == "..":
            here = here.parent
            continue
        step, above = here / name, here.lstat()
        accounts = tuple(writers(above))
        try:
            found = step.lstat()
        except NotADirectoryError:
            return None
        except FileNotFoundError:
            return Weakness(str(here), accounts) if accounts else None
        if accounts and found.st_uid:
            return Weakness(str(step), (account_name(found.st_uid),))
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MOST_LINKS:
                return None
            target = Path(step.readlink())
            here = Path("/") if target.is_absolute() else here
            todo[:0] = target.parts[1:] if target.is_absolute() else target.parts
            continue
        accounts = tuple(writers(found))
        if accounts and not (is_shared(found) and (todo or not depth)):
            return Weakness(str(step), accounts)
        here = step
    return _below(str(here), here.lstat(), depth, seen)


def _below(directory: str, state: os.stat_result, depth: int, seen: Seen) -> Weakness | None:
    key = (state.st_dev, state.st_ino)
    if depth <= seen.get(key, 0) or not stat.S_ISDIR(state.st_mode):
        return None
    seen[key] = depth
    for name in entries(directory):
        path = f"{directory}/{name}"
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            weak = _weakness(path, depth - 1, seen)
        elif is_uv_lock(name, found):
            weak = None
        elif accounts := writers(found):
            weak = Weakness(path, tuple(accounts))
        else:
            weak = _below(path, found, depth - 1, seen)
        if weak:
            return weak
    return None


def is_uv_lock(name: str, found: os.stat_result) -> bool:
    """Return whether a file of root's is one that uv locks, which it lets every account write, and never reads."""
    return name == ".lock" and stat.S_ISREG(found.st_mode) and not found.st_uid


def entries(directory: str | Path) -> list[str]:
    """Return the names in a directory; none if it does not exist."""
    with contextlib.suppress(OSError), os.scandir(directory) as found:
        return sorted(entry.name for entry in found)
    return []


def interpreter(python: str | os.PathLike[str], seen: Seen | None = None) -> Weakness | None:
    """Return what another account can write of a Python: the program, what links lead to, its library.

    Runs nothing. A virtual environment includes the Python that it was created from. `seen` is that of `weakness`.
    """
    waiting, programs = [Path(python)], set[Path]()
    seen = {} if seen is None else seen
    while waiting:
        program = waiting.pop()
        if program in programs:
            continue
        programs.add(program)
        if weak := weakness(program):
            return weak
        # The chain of links is safe from here on.
        waiting.append(Path(os.path.realpath(program)))
        if weak := prefix(program.parent.parent, seen):
            return weak
        if home := base_python(program.parent.parent):
            waiting.append(Path(home, "bin", program.name))
    return None


def prefix(directory: Path, seen: Seen) -> Weakness | None:
    """Return what another account can write of the library of a Python, including its first levels of packages."""
    if weak := weakness(directory / "pyvenv.cfg"):
        return weak
    for above in ("lib", "lib64"):
        for name in entries(directory / above):
            if re.fullmatch(r"(lib)?python3.*", name) and (
                weak := weakness(directory / above / name, depth=2, seen=seen)
            ):
                return weak
    return None


def base_python(release: Path) -> str:
    """Return the directory of the Python that a virtual environment was created from, or an empty string."""
    with contextlib.suppress(OSError, ValueError):
        found = re.search(r"^home *= *(/.+?)/bin *$", read(release / "pyvenv.cfg").decode(), re.MULTILINE)
        return found[1] if found else ""
    return ""


def sources(texts: Iterable[str]) -> list[str]:
    """Return the paths on this host in requirements, requirement files and addresses of indexes.

    uv reads `package @ file:///path`, `./path`, `path/package.whl`, `-e path` and `--find-links=path`, among others.
    """
    return list(dict.fromkeys(path for text in texts for line in text.splitlines() for path in _sources(line)))


def _sources(line: str) -> Iterator[str]:
    line = re.sub(r"(^|\s)#.*", "", line).strip()
    # A path may contain what separates words elsewhere.
    whole = [line] if re.match(r"\.{0,2}/", line) and re.search(r"\s", line) else []
    for word in [*whole, *line.split()]:
        if re.search(r"(?<!file)://", word):
            continue
        starts = re.match(r"\.{0,2}/|~|\$|(\w+\+)?file:", word)
        for part in [word] if starts else re.split(r"[=,;'\"@]", word):
            if re.match(r"(\w+\+)?file:", part):
                yield unquote(urlsplit(part.partition("+")[2] or part).path).partition("@")[0]
            elif "/" in part:
                yield re.sub(r"(\[[\w.,\s-]*\])?(\s*;.*)?$", "", part.partition("#")[0])


def place(path: str) -> str:
    """Return the absolute path of a source, as uv reads it: it runs in the root directory."""
    return str(Path("/", os.path.expandvars(Path(path).expanduser())))


def refused(
    *,
    python: str = "",
    releases: Iterable[Path] = (),
    uv: str = "",
    cache_dir: str = "",
    packages: Iterable[str] = (),
    requirements: str = "",
    index_url: str = "",
) -> list[str]:
    """Return a sentence for each place from which root would run code that another account can write."""
    found = []
    if python and (weak := interpreter(python)):
        found.append(
            f"prefect_python: {weak}, and root runs {python}; install a Python that only root can write, and name it"
        )
    for release in releases:
        if weak := interpreter(release / "bin" / "python"):
            found.append(
                f"prefect_python: {weak}, and root runs {release}, which was built on it; name a Python that only root "
                f"can write, remove {release}, and run the playbook again"
            )
    if uv and (weak := weakness(uv)):
        found.append(f"prefect_uv: {weak}, and root runs {uv}; remove it, or let only root write it")
    if cache_dir and (weak := weakness(cache_dir, depth=2)):
        found.append(
            f"prefect_uv_cache_dir: {weak}, and root installs and runs what is in {cache_dir}; name a directory that "
            "only root can write"
        )
    surroundings = [text for name in ENVIRONMENT for text in os.environ.get(name, "").split()]
    for variable, texts in (
        ("prefect_packages", packages),
        ("prefect_lock", [requirements]),
        ("prefect_index_url", [index_url]),
        ("environment", surroundings),
    ):
        for path in sources(texts):
            if weak := weakness(place(path), depth=ALL):
                found.append(
                    f"{variable}: {weak}, and root builds or installs {path}; copy it to a directory that only root "
                    "can write, and name that one"
                )
    return found
