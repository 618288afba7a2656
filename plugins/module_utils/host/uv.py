"""Finds or fetches uv for a host: an installed uv, or the locked wheel from its package index, using only Python.

The lock is a requirements file with hashes, in pip's format. It contains the digest of each platform's wheel, so a file
from an index or a mirror is either the locked one or rejected.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import platform
import re
import shutil
import ssl
import struct
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from ..api.masking import without_userinfo
from .trusted import weakness

ANY = "any"
"""The platform of a uv that the user named, about which nothing is known."""

PUBLIC_INDEX = urlunsplit(("https", "pypi.org", "simple", "", ""))
"""The Python Package Index, which uv uses where neither UV_DEFAULT_INDEX nor UV_INDEX_URL names another index."""

ATTEMPTS = 3
LARGEST_PAGE = 32 * 2**20
LARGEST_WHEEL = 256 * 2**20
"""Maximum bytes of a list of files and of a wheel of uv; the wheel of 0.13 has 25 MB."""

TIMEOUT = 60
"""Seconds without data after which the index counts as unreachable."""

SEARCHED = ("/usr/local/bin", "/usr/bin", "/bin")

ELSEWHERE = "or name a uv for this host in prefect_uv (a path on the controller)"
UNREACHABLE = (
    "prefect_index_url: neither the controller nor this host has a uv, and the package index cannot be reached from "
    f"this host; correct prefect_index_url (a private CA: prefect_ca_bundle), {ELSEWHERE}"
)


class UvError(Exception):
    """uv is not available; the message names the variable, what was found, and what to do."""


@dataclass(frozen=True)
class Lock:
    """One version of uv, and the SHA-256 digests of its files."""

    version: str
    digests: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Lock:
        """Parse a lock. Raises UvError if the text pins no uv."""
        if not (pin := re.search(r"^uv==([^\s;\\]+)", text, re.MULTILINE)):
            raise UvError("The lock of uv pins no version of uv.")
        return cls(version=pin[1], digests=frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", text)))


@dataclass(frozen=True)
class Index:
    """Where a host fetches packages; `ca_bundle` is the file of trusted certificate authorities, or empty."""

    url: str = ""
    ca_bundle: str = ""

    def page(self, package: str) -> str:
        """Return the URL of the list of a package's files."""
        named = self.url or os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or PUBLIC_INDEX
        return f"{named.rstrip('/')}/{package}/"

    @contextlib.contextmanager
    def opened(self, url: str) -> Iterator[IO[bytes]]:
        """Open a URL that the index names, through the environment's proxy, as uv does.

        Raises:
            OSError: it cannot be read; urllib.error.HTTPError for an HTTP error.
        """
        parts = urlsplit(url)
        userinfo, _, place = parts.netloc.rpartition("@")
        request = urllib.request.Request(urlunsplit(parts._replace(netloc=place, fragment="")))
        request.add_header("Accept", "text/html")
        request.add_header("User-Agent", "selfhosted.prefect")
        if userinfo:
            # The credentials are not sent to the target of a redirect.
            name = base64.b64encode(":".join(map(unquote, userinfo.split(":", 1))).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {name}")
        context = ssl.create_default_context(cafile=self.ca_bundle or None)
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        with opener.open(request, timeout=TIMEOUT) as answer:
            yield answer


class Links(HTMLParser):
    """The files on a page of a package index: URLs by file name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.page = page
        self.files: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "base" and target:
            self.page = urljoin(self.page, target)
        elif tag == "a" and target:
            address = urljoin(self.page, target)
            self.files[unquote(urlsplit(address).path.rpartition("/")[2])] = address


def own_platform() -> str:
    """Return the platform of this machine for uv, such as `linux-x86_64-glibc`."""
    system = platform.system().lower()
    return "-".join([system, machine(), *([] if system != "linux" else ["musl"] if is_musl() else ["glibc"])])


def machine() -> str:
    """Return the architecture of this machine's programs, as wheels name it."""
    name = platform.machine().lower()
    if struct.calcsize("P") == 4:
        # A 32-bit system on a 64-bit kernel.
        name = {"x86_64": "i686", "aarch64": "armv7l"}.get(name, name)
    return {"amd64": "x86_64", "i386": "i686", "i586": "i686", "armv8l": "armv7l"}.get(name, name)


def is_musl() -> bool:
    """Return whether the C library of this system is musl, whose loader is named after the architecture."""
    return not platform.libc_ver()[0] and any(Path("/lib").glob("ld-musl-*"))


def platform_tags() -> Iterator[tuple[int, int, str]]:
    """Yield patterns of the wheel tags that fit this machine, best first, each with the newest C library version."""
    if is_musl():
        yield 1, 2, rf"musllinux_(\d+)_(\d+)_{machine()}"
    else:
        found = re.match(r"(\d+)\.(\d+)", platform.libc_ver()[1])
        yield (*((int(found[1]), int(found[2])) if found else (2, 17)), rf"manylinux_(\d+)_(\d+)_{machine()}")
    # For any C library.
    yield 0, 0, rf"linux_()(){machine()}"


def wheel(names: Iterable[str], version: str) -> str | None:
    """Return the file name of a version's wheel for this machine, or None if there is none."""
    wheels = re.compile(rf"uv-{re.escape(version)}-py3-none-(.+)\.whl")
    tags = [(tag, name) for name in sorted(names) if (match := wheels.fullmatch(name)) for tag in match[1].split(".")]
    for major, minor, pattern in platform_tags():
        fitting = [
            (int(match[1] or 0), int(match[2] or 0), name)
            for tag, name in tags
            if (match := re.fullmatch(pattern, tag)) and (int(match[1] or 0), int(match[2] or 0)) <= (major, minor)
        ]
        if fitting:
            return max(fitting)[2]
    return None


def installed(version: str, *paths: str) -> str | None:
    """Return the path of a uv on this host that has at least a version and that no other account can replace.

    Args:
        paths: files to look at before the PATH.
    """
    here = {str(Path("~/.local/bin").expanduser()), *SEARCHED, *os.environ.get("PATH", "").split(":")} - {""}
    found = [shutil.which("uv", path=directory) or "" for directory in sorted(here)]
    for path in dict.fromkeys(filter(None, [*paths, *found])):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if os.access(path, os.X_OK) and not weakness(path) and _key(_version(path)) >= _key(version):
                return path
    return None


def _version(path: str) -> str:
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True, cwd="/")
    found = re.match(r"uv (\d[\w.]*)", answer.stdout)
    return found[1] if found else "0"


def _key(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def locate(index: Index, lock: Lock) -> str:
    """Return the URL of the locked wheel for this machine.

    Raises:
        UvError: the index cannot be reached, or has no such wheel.
    """
    listed = index.page("uv")
    links = Links(listed)
    try:
        page = _patiently(lambda: _read(index, listed))
    except OSError as error:
        raise _unread(listed, error) from error
    links.feed(page.decode(errors="replace"))
    name = wheel(links.files, lock.version)
    if name is None:
        raise UvError(
            f"prefect_index_url: neither the controller nor this host has a uv, and {without_userinfo(listed)} has "
            f"no wheel of uv {lock.version} for {own_platform()}; name another index, {ELSEWHERE}"
        )
    address, page_parts = urlsplit(links.files[name]), urlsplit(listed)
    if address.netloc == page_parts.netloc.rpartition("@")[2]:
        address = address._replace(netloc=page_parts.netloc)
    return urlunsplit(address)


def _read(index: Index, url: str) -> bytes:
    with index.opened(url) as answer:
        return answer.read(LARGEST_PAGE)


def _patiently(read: Any) -> Any:
    """Call a function and return its result; retry after network errors that may be temporary."""
    for attempt in range(1, ATTEMPTS):
        try:
            return read()
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise
            time.sleep(attempt)
    return read()


def _unread(url: str, error: OSError) -> UvError:
    reason = f"HTTP {error.code} {error.reason}" if isinstance(error, urllib.error.HTTPError) else str(error)
    return UvError(f"{UNREACHABLE}\n{without_userinfo(url)}: {without_userinfo(reason)}")


def fetch(index: Index, lock: Lock, destination: Path) -> None:
    """Fetch the locked wheel, and install its executable as `destination`.

    Raises:
        UvError: the wheel cannot be fetched, is not the locked one, or does not run on this host.
    """
    url = locate(index, lock)
    shown = without_userinfo(url)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".uv-", dir=destination.parent) as scratch:
        archive, program = Path(scratch, "wheel"), Path(scratch, "uv")
        try:
            digest = _patiently(lambda: _download(index, url, archive))
        except OSError as error:
            raise _unread(url, error) from error
        if digest not in lock.digests:
            raise UvError(
                f"prefect_index_url: {shown} is not the file that this collection has locked: its SHA-256 is "
                f"{digest}; name an index that serves uv {lock.version} unchanged, {ELSEWHERE}"
            )
        with (
            zipfile.ZipFile(archive) as unpacked,
            unpacked.open(f"uv-{lock.version}.data/scripts/uv") as source,
            program.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
        program.chmod(0o755)
        try:
            _version(str(program))
        except (OSError, subprocess.SubprocessError) as error:
            raise UvError(f"prefect_uv: {shown} does not run on this host ({error}); {ELSEWHERE[3:]}") from error
        program.replace(destination)


def _download(index: Index, url: str, path: Path) -> str:
    """Download a URL to a file, and return its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with index.opened(url) as answer, path.open("wb") as file:
        while size <= LARGEST_WHEEL and (part := answer.read(2**20)):
            digest.update(part)
            size += file.write(part)
    return digest.hexdigest()
