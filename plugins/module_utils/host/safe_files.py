"""Files and directories of this host, opened so that no other account can redirect root.

The rule: below a directory that another account can write, root follows no link, opens only regular files and
directories, and changes the owner only of what it holds open. Every path is walked from `/`, one descriptor per
component. While only root can write the directories on the way, links are followed as usual; from the first directory
that another account can write, no link is followed. Work that needs a path below such a directory (SQLite) is done by
`as_account`, in a child process that has dropped its privileges. docs/security.md says what this protects.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import select
import signal
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

LARGEST = 64 * 2**20
"""Size in bytes of the largest file that is read as a whole. Another account may offer an endless one."""

MOST_CODE = 512 * 2**20
"""Bytes of all code below a directory."""

MOST_ENTRIES = 1_000_000
"""Files and directories that are looked at below a directory with code, which may also have data."""

DEEPEST = 64
"""Nested directories that are searched."""

MOST_LINKS = 40
"""Links that are followed for one path, the same as the kernel's limit."""

STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafePathError(OSError):
    """Root neither follows nor opens this path; the message says where it is, what it is, and what to do."""


class AccountError(Exception):
    """An error in a child process that ran as another account; `kind` is the name of the exception's class."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def kind_of(mode: int) -> str:
    """Return the file type of a mode, in words."""
    names = {
        stat.S_IFLNK: "symbolic link",
        stat.S_IFDIR: "directory",
        stat.S_IFREG: "file",
        stat.S_IFIFO: "named pipe",
        stat.S_IFSOCK: "socket",
    }
    return names.get(stat.S_IFMT(mode), "device")


def account_name(uid: int) -> str:
    """Return the name of an account, or its id if it has no name."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"uid {uid}"


def is_lost(uid: int) -> bool:
    """Return whether no account has this id any more."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return True
    return False


def belongs_to_us(state: os.stat_result) -> bool:
    """Return whether root owns a file. Without root every file counts as safe, so this is always true."""
    return os.geteuid() != 0 or state.st_uid == 0


def is_open_to_others(state: os.stat_result) -> bool:
    """Return whether an account other than the owner can write a directory."""
    return bool(os.geteuid() == 0 and (state.st_mode & 0o002 or (state.st_mode & 0o020 and state.st_gid != 0)))


@dataclass(frozen=True)
class Directory:
    """An open directory. None of its methods follows a link."""

    descriptor: int
    path: Path
    is_safe: bool
    """Whether only root can create entries here, or replace a directory above."""
    is_shared: bool = False
    """Whether every account can create files here but remove only its own, as in /tmp."""

    def holds_safely(self, state: os.stat_result) -> bool:
        """Return whether no other account can have created an entry or can replace it."""
        return self.is_safe or (self.is_shared and belongs_to_us(state))

    def state(self, name: str) -> os.stat_result | None:
        """Return the state of an entry (of a link itself), or None if it does not exist."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def refused(self, name: str, state: os.stat_result, *, wanted: str) -> UnsafePathError:
        """Return the error for an entry that is not of the wanted type."""
        path, found = self.path / name, kind_of(state.st_mode)
        if stat.S_ISLNK(state.st_mode):
            with contextlib.suppress(OSError):
                found += f" to {os.readlink(name, dir_fd=self.descriptor)}"
        if wanted == found:
            found += f" with {state.st_nlink} names"
        return UnsafePathError(
            f"{path} is a {found} of {account_name(state.st_uid)} and has to be a {wanted}. Another account can write "
            f"{self.path}, so root does not use it; remove it or put a {wanted} there"
            if not self.holds_safely(state)
            else f"{path} is a {found} and has to be a {wanted}; remove it or put a {wanted} there"
        )

    @contextlib.contextmanager
    def enter(self, name: str) -> Iterator[Directory]:
        """Open a subdirectory. Raises UnsafePathError if the name is something else."""
        child = self._child(name)
        try:
            yield child
        finally:
            os.close(child.descriptor)

    def _child(self, name: str) -> Directory:
        try:
            descriptor = os.open(name, STEP, dir_fd=self.descriptor)
        except OSError as error:
            state = self.state(name)
            if error.errno not in (errno.ENOTDIR, errno.ELOOP) or state is None or stat.S_ISDIR(state.st_mode):
                raise
            raise self.refused(name, state, wanted="directory") from error
        return self._opened(name, descriptor)

    def _opened(self, name: str, descriptor: int) -> Directory:
        state = os.fstat(descriptor)
        trusted = self.holds_safely(state) and belongs_to_us(state)
        return Directory(
            descriptor,
            self.path / name,
            is_safe=trusted and not is_open_to_others(state),
            is_shared=trusted and bool(state.st_mode & stat.S_ISVTX),
        )

    @contextlib.contextmanager
    def within(self, path: str) -> Iterator[tuple[Directory, str]]:
        """Open the directory that contains a relative path below this one; yield it and the last component.

        Raises FileNotFoundError, and UnsafePathError if a component is not a directory.
        """
        *above, name = Path(path).parts
        with contextlib.ExitStack() as opened:
            here = self
            for step in above:
                here = opened.enter_context(here.enter(step))
            yield here, name

    @contextlib.contextmanager
    def _readable(self) -> Iterator[int]:
        """Yield a descriptor of this directory that can be read, unlike one opened with O_PATH."""
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def own_state(self) -> os.stat_result:
        """Return the state of the directory itself."""
        return os.fstat(self.descriptor)

    def names(self) -> list[str]:
        """Return the names of the entries, sorted."""
        with self._readable() as descriptor:
            return listed(descriptor)

    def sync(self) -> None:
        """Flush the names of the entries to disk."""
        # Some network file systems do not support this.
        with self._readable() as descriptor, contextlib.suppress(OSError):
            os.fsync(descriptor)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[int]:
        """Yield a descriptor for reading a regular file.

        Raises UnsafePathError if it is not a regular file or, where another account can write, has several hard links.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        found = self.state(name)
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise self.refused(name, found, wanted="file")
        descriptor = os.open(name, flags, dir_fd=self.descriptor)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or (state.st_nlink > 1 and not self.holds_safely(state)):
                raise self.refused(name, state, wanted="file")
            yield descriptor
        finally:
            os.close(descriptor)

    def read(self, name: str, *, limit: int = LARGEST) -> bytes:
        """Return the content of a regular file. Raises as `open`, and UnsafePathError for more than `limit` bytes."""
        with self.open(name) as descriptor, os.fdopen(os.dup(descriptor), "rb") as handle:
            content = handle.read(limit + 1)
        if len(content) > limit:
            raise UnsafePathError(f"{self.path / name} is larger than {limit >> 20} MiB; make it smaller or remove it")
        return content

    def oddity(self, name: str) -> str | None:
        """Return a sentence about an entry that is not a safe regular file; None for such a file or none at all.

        Raises UnsafePathError for a directory, which no file replaces.
        """
        state = self.state(name)
        if state is None or (stat.S_ISREG(state.st_mode) and (state.st_nlink == 1 or self.holds_safely(state))):
            return None
        said = self.refused(name, state, wanted="file")
        if stat.S_ISDIR(state.st_mode):
            raise said
        return f"{str(said).partition('. ')[0].partition(';')[0]}. It is replaced, and what it led to is unchanged"

    @contextlib.contextmanager
    def create(self, name: str, *, owner: int, group: int, mode: int, sync: bool = True) -> Iterator[int]:
        """Yield a descriptor for writing a file, which replaces an existing entry once it is complete.

        No one sees a partial file or other permissions; with `sync`, a power failure leaves either the old file or the
        new.
        """
        fresh = f"{temporary_prefix(name)}{secrets.token_hex(8)}.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(fresh, flags, 0o600, dir_fd=self.descriptor)
        try:
            yield descriptor
            os.fchown(descriptor, owner, group)
            os.fchmod(descriptor, mode)
            if sync:
                os.fsync(descriptor)
            os.replace(fresh, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(fresh, dir_fd=self.descriptor)
            raise
        finally:
            os.close(descriptor)
        if sync:
            self.sync()

    def write(self, name: str, content: bytes, *, owner: int, group: int, mode: int, sync: bool = True) -> None:
        """Replace a file as a whole, see `create`. Raises UnsafePathError if the name is a directory."""
        state = self.state(name)
        if state is not None and stat.S_ISDIR(state.st_mode):
            raise self.refused(name, state, wanted="file")
        with (
            self.create(name, owner=owner, group=group, mode=mode, sync=sync) as descriptor,
            os.fdopen(os.dup(descriptor), "wb") as handle,
        ):
            handle.write(content)

    def sweep(self, name: str) -> None:
        """Remove the temporary files that killed runs left for a file. The caller holds the lock of this directory."""
        # Earlier versions used the second suffix.
        left = re.compile(re.escape(temporary_prefix(name)) + r"([0-9a-f]{16}\.new|ansible-new)")
        for found in filter(left.fullmatch, self.names()):
            # Another account may have put a directory there.
            with contextlib.suppress(OSError):
                os.unlink(found, dir_fd=self.descriptor)

    def make(self, name: str, *, owner: int = -1, group: int = -1, mode: int | None = None, dry: bool = False) -> bool:
        """Create a directory if it is missing, and set its owner and mode; return whether that changes anything.

        Without `mode`, an existing directory keeps its mode, and a new one is readable by everyone.

        Raises UnsafePathError if the name is not a directory. In a directory that another account can write, a
        directory of another owner may have been moved into this place: it is rejected too, unless it is empty.
        """
        if self.state(name) is None:
            if dry:
                return True
            mode = 0o755 if mode is None else mode
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self.descriptor)
            self.sync()
        with self.enter(name) as child, child._readable() as descriptor:
            state = os.fstat(descriptor)
            harmless = self.holds_safely(state) or is_lost(state.st_uid) or not listed(descriptor)
            if owner not in (-1, state.st_uid) and not harmless:
                raise UnsafePathError(
                    f"{child.path} belongs to {account_name(state.st_uid)} and has to belong to {account_name(owner)}. "
                    f"Another account can write {self.path}, so root does not give away what is in it; move it "
                    "elsewhere, or change its owner yourself"
                )
            gives = (state.st_uid, state.st_gid) != (
                state.st_uid if owner == -1 else owner,
                state.st_gid if group == -1 else group,
            )
            mode = stat.S_IMODE(state.st_mode) if mode is None else mode
            changes = gives or stat.S_IMODE(state.st_mode) != mode
            if changes and not dry:
                os.fchown(descriptor, owner, group)
                os.fchmod(descriptor, mode)
        return changes

    def below(self, *, skip: Collection[str] = (), depth: int = 0) -> Iterator[tuple[str, Directory, os.stat_result]]:
        """Yield everything below: relative path, parent directory (open until the next one), and state.

        Directories come before their entries; those named in `skip` are left out. Raises UnsafePathError if directories
        are nested too deeply.
        """
        for name in self.names():
            state = self.state(name)
            if state is None or name in skip:
                continue
            yield name, self, state
            if stat.S_ISDIR(state.st_mode):
                if depth >= DEEPEST:
                    raise UnsafePathError(f"{self.path / name} is more than {DEEPEST} directories deep; remove it")
                try:
                    child = self._child(name)
                except (FileNotFoundError, UnsafePathError):
                    # It was replaced or removed a moment ago.
                    continue
                try:
                    for path, directory, found in child.below(skip=skip, depth=depth + 1):
                        yield f"{name}/{path}", directory, found
                finally:
                    os.close(child.descriptor)

    def bottom_up(self) -> Iterator[tuple[str, Directory, str | None, os.stat_result]]:
        """Yield everything below, the content of a directory before itself: name, parent, relative path, state.

        It takes one descriptor, however deep directories are nested; below `DEEPEST` of them, the path is None. What is
        mounted below is left out. Raises UnsafePathError if a directory is moved meanwhile.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        here = os.open(".", flags, dir_fd=self.descriptor)
        try:
            top = os.fstat(here)
            trail = [("", top, listed(here)[::-1])]
            while True:
                last, state, names = trail[-1]
                if names:
                    name = names.pop()
                    # Another account may have replaced it a moment ago.
                    with contextlib.suppress(OSError):
                        state = os.stat(name, dir_fd=here, follow_symlinks=False)
                        if not stat.S_ISDIR(state.st_mode):
                            yield name, self._at(here), _joined(trail, name), state
                            continue
                        child = os.open(name, flags, dir_fd=here)
                        state = os.fstat(child)
                        if state.st_dev != top.st_dev:
                            os.close(child)
                            continue
                        inside = listed(child)[::-1]
                        os.close(here)
                        here = child
                        trail.append((name, state, inside))
                    continue
                trail.pop()
                if not trail:
                    return
                above = os.open("..", flags, dir_fd=here)
                os.close(here)
                here = above
                if not os.path.samestat(os.fstat(here), trail[-1][1]):
                    raise UnsafePathError(f"{self.path}: a directory below was moved while it was searched; try again")
                yield last, self._at(here), _joined(trail, last), state
        finally:
            os.close(here)

    def _at(self, descriptor: int) -> Directory:
        return Directory(descriptor, self.path, is_safe=False)

    def give(self, name: str, state: os.stat_result, *, owner: int, group: int) -> None:
        """Change the owner of an entry, unless it is no longer the one with this state."""
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            now = os.fstat(descriptor)
            if (now.st_dev, now.st_ino, now.st_uid) == (state.st_dev, state.st_ino, state.st_uid):
                # By descriptor, because the name may refer to another file by now.
                os.chown(f"/proc/self/fd/{descriptor}", owner, group)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> bool:
        """Remove an entry, a directory with its content; return whether it existed.

        Raises UnsafePathError if something is mounted in the directory.
        """
        state = self.state(name)
        if state is None:
            return False
        if not stat.S_ISDIR(state.st_mode):
            os.unlink(name, dir_fd=self.descriptor)
            return True
        with self.enter(name) as doomed:
            if doomed.own_state().st_dev != self.own_state().st_dev:
                raise UnsafePathError(f"{self.path / name} has something mounted; unmount it first")
            # Directories nested too deeply are moved up, and removed in the next round.
            for _ in range(1000):
                if not doomed.names():
                    break
                doomed._clear(doomed, device=doomed.own_state().st_dev, depth=0)
        os.rmdir(name, dir_fd=self.descriptor)
        return True

    def _clear(self, top: Directory, *, device: int, depth: int) -> None:
        for name in self.names():
            state = self.state(name)
            if state is None:
                continue
            if not stat.S_ISDIR(state.st_mode):
                os.unlink(name, dir_fd=self.descriptor)
            elif state.st_dev != device:
                raise UnsafePathError(f"{self.path / name} has something mounted; unmount it first")
            elif depth >= DEEPEST:
                os.rename(name, secrets.token_hex(8), src_dir_fd=self.descriptor, dst_dir_fd=top.descriptor)
            else:
                with self.enter(name) as child:
                    child._clear(top, device=device, depth=depth + 1)
                os.rmdir(name, dir_fd=self.descriptor)


def _joined(trail: list[tuple[str, os.stat_result, list[str]]], name: str) -> str | None:
    # The path of a deep directory is as long as it is deep.
    return None if len(trail) > DEEPEST else "/".join([*(step for step, *_ in trail[1:]), name])


def listed(descriptor: int) -> list[str]:
    """Return the names in an open directory, sorted."""
    with os.scandir(descriptor) as entries:
        return sorted(entry.name for entry in entries)


def temporary_prefix(name: str) -> str:
    """Return the prefix of a file's temporary names, short enough for the limit of 255 bytes."""
    return f".{name.encode()[:120].decode(errors='ignore')}."


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path."""
    return Path(path) if Path(path).is_absolute() else Path.cwd() / path


@contextlib.contextmanager
def reach(path: str | os.PathLike[str], *, make: bool = False) -> Iterator[Directory]:
    """Open a directory, following links only while no other account can have created them.

    `make` creates missing directories, readable by everyone. Raises FileNotFoundError, and UnsafePathError for anything
    that is not a directory, including a link that another account may have created.
    """
    todo = list(absolute(path).parts[1:])
    stack = [Directory(os.open("/", STEP), Path("/"), is_safe=True)]
    links = 0
    try:
        while todo:
            name, here = todo.pop(0), stack[-1]
            if name == "..":
                if len(stack) > 1:
                    os.close(stack.pop().descriptor)
                continue
            state = here.state(name)
            if state is None and make:
                here.make(name)
            if state is not None and stat.S_ISLNK(state.st_mode) and here.holds_safely(state) and links < MOST_LINKS:
                links += 1
                target = Path(os.readlink(name, dir_fd=here.descriptor))
                todo[:0] = target.parts[1:] if target.is_absolute() else target.parts
                while target.is_absolute() and len(stack) > 1:
                    os.close(stack.pop().descriptor)
                continue
            try:
                stack.append(here._child(name))
            except FileNotFoundError as error:
                raise FileNotFoundError(errno.ENOENT, "there is no such directory", str(here.path / name)) from error
        yield stack[-1]
    finally:
        for directory in stack:
            os.close(directory.descriptor)


@contextlib.contextmanager
def beside(path: str | os.PathLike[str], *, make: bool = False) -> Iterator[tuple[Directory, str]]:
    """Open the directory that contains a path, see `reach`; yield it and the last component."""
    whole = absolute(path)
    with reach(whole.parent, make=make) as directory:
        yield directory, whole.name


def exposed(path: str | os.PathLike[str]) -> str | None:
    """Return the nearest existing directory of a path if another account can write it or one above it; else None."""
    for step in (absolute(path), *absolute(path).parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), reach(followed(step)) as found:
            return None if found.is_safe else str(found.path)
    return None


def state(path: str | os.PathLike[str]) -> os.stat_result | None:
    """Return the state of a path (of a link itself), or None if it does not exist. Raises UnsafePathError."""
    try:
        with beside(path) as (directory, name):
            return directory.state(name)
    except FileNotFoundError:
        return None


def followed(path: str | os.PathLike[str]) -> Path:
    """Resolve a path while it is a link that only root can have created. Raises OSError."""
    for _ in range(MOST_LINKS):
        try:
            with beside(path) as (directory, name):
                found = directory.state(name)
                if found is None or not stat.S_ISLNK(found.st_mode) or not directory.holds_safely(found):
                    return directory.path / name
                path = directory.path / os.readlink(name, dir_fd=directory.descriptor)
        except FileNotFoundError:
            return absolute(path)
    raise OSError(errno.ELOOP, "too many links", str(path))


def read(path: str | os.PathLike[str], *, limit: int = LARGEST) -> bytes:
    """Return the content of a file; for links see `followed`. Raises OSError."""
    with beside(followed(path)) as (directory, name):
        return directory.read(name, limit=limit)


def write(path: str | os.PathLike[str], content: bytes, *, owner: int, group: int, mode: int) -> None:
    """Replace a file as a whole, and create missing directories above it; see `Directory.create`."""
    with beside(path, make=True) as (directory, name), locked(f"directory {directory.path}"):
        directory.sweep(name)
        directory.write(name, content, owner=owner, group=group, mode=mode)


def remove(path: str | os.PathLike[str]) -> bool:
    """Remove the entry at a path, see `Directory.remove`; return whether it existed."""
    try:
        with beside(path) as (directory, name):
            return directory.remove(name)
    except FileNotFoundError:
        return False


class Hash(Protocol):
    """A hash that is being computed, as of hashlib."""

    def update(self, data: bytes, /) -> None: ...


def hash_code(
    total: Hash,
    path: str | os.PathLike[str],
    *,
    suffixes: Collection[str],
    skip: Collection[str] = (),
    above: str | os.PathLike[str] = "",
) -> None:
    """Add the code files below a directory to a hash, by relative path below `above`; of a link, its target.

    What is not a file counts by its name alone, and a file that is too large by its size. Raises OSError, and
    UnsafePathError for more entries or bytes than code has: another account can create as many as it likes.
    """
    with reach(followed(path)) as top:
        names, size = [], 0
        for number, (name, _, state) in enumerate(top.below(skip=skip), 1):
            if number > MOST_ENTRIES:
                raise UnsafePathError(
                    f"{top.path} has more than {MOST_ENTRIES} files and directories, such as {name}; move data "
                    "elsewhere"
                )
            if Path(name).suffix in suffixes:
                names.append(name)
                size += state.st_size if stat.S_ISREG(state.st_mode) and state.st_size <= LARGEST else 0
                _limit(top, name, size)
        size = 0
        for name in sorted(names, key=Path):
            size += _hash(total, top, name, os.fspath(Path(above, name)))
            _limit(top, name, size)


def _limit(top: Directory, name: str, size: int) -> None:
    if size > MOST_CODE:
        raise UnsafePathError(
            f"{top.path} has more than {MOST_CODE >> 20} MiB of code, such as {name}; move data elsewhere"
        )


def _hash(total: Hash, top: Directory, name: str, called: str) -> int:
    """Add a file to a hash piece by piece; return how many bytes were read."""
    content = b""
    with contextlib.suppress(OSError), top.within(name) as (directory, last):
        state = directory.state(last)
        if state is not None and stat.S_ISREG(state.st_mode) and state.st_size <= LARGEST:
            with directory.open(last) as descriptor:
                left = size = min(os.fstat(descriptor).st_size, LARGEST)
                total.update(f"{called}\0{size}\0".encode())
                while left and (part := os.read(descriptor, min(left, 2**20))):
                    total.update(part)
                    left -= len(part)
                return size
        content = b"" if state is None else held(directory, last, state)
    total.update(f"{called}\0{len(content)}\0".encode() + content)
    return len(content)


def held(directory: Directory, name: str, state: os.stat_result) -> bytes:
    """Return the content of a file or the target of a link; empty for anything else."""
    with contextlib.suppress(OSError):
        if stat.S_ISLNK(state.st_mode):
            return os.readlink(name, dir_fd=directory.descriptor).encode()
        if state.st_size > LARGEST:
            return f"{state.st_size} {state.st_mtime_ns}".encode()
        if stat.S_ISREG(state.st_mode):
            return directory.read(name)
    return b""


@contextlib.contextmanager
def locked(what: str) -> Iterator[None]:
    """Keep other runs on this host from doing the same at the same time.

    Only root can open the lock: a lock that another account can take can block root forever.
    """
    runtime = Path("/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}"))
    if not runtime.is_dir():
        yield
        return
    with reach(runtime) as above:
        above.make("selfhosted-prefect", owner=os.geteuid(), group=os.getegid(), mode=0o700)
        with above.enter("selfhosted-prefect") as directory:
            name = hashlib.sha256(what.encode()).hexdigest()[:32]
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=directory.descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def as_account(
    uid: int, gid: int, work: Callable[[Any], Any], *, first: Callable[[], Any] = lambda: None, timeout: float = 3600
) -> Any:
    """Run `work` in a child process with the privileges of one account; return its result, in JSON's types.

    `first` runs in the child before it drops its privileges; `work` gets its result: an open file or connection. If the
    account is the one that runs this, both run in this process. Raises AccountError for errors of either, and after
    `timeout` seconds.
    """
    if os.geteuid() != 0 or uid == 0:
        try:
            return work(first())
        except Exception as error:
            raise AccountError(str(error), type(error).__name__) from error
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _act(uid, gid, work, first, writer)
    os.close(writer)
    try:
        answer = _answer(reader, deadline=time.monotonic() + timeout)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if answer is None:
        raise AccountError(f"no answer after {timeout:g} s as {account_name(uid)}", "TimeoutError")
    told: dict[str, Any] = {"error": f"the process that ran as {account_name(uid)} was killed", "kind": "Killed"}
    # A truncated answer is not JSON.
    with contextlib.suppress(ValueError):
        told = json.loads(answer)
    if "error" in told:
        raise AccountError(str(told["error"]), str(told["kind"]))
    return told["result"]


def _act(uid: int, gid: int, work: Callable[[Any], Any], first: Callable[[], Any], writer: int) -> None:
    """Run as the child of `as_account`; never returns."""
    try:
        opened = first()
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        os.chdir("/")
        os.environ.clear()
        told = json.dumps({"result": work(opened)})
    except BaseException as error:
        told = json.dumps({"error": str(error), "kind": type(error).__name__})
    try:
        with os.fdopen(writer, "w") as pipe:
            pipe.write(told)
    finally:
        os._exit(0)


def _answer(reader: int, *, deadline: float) -> str | None:
    """Return everything read from a pipe, or None after the deadline."""
    told = b""
    while select.select([reader], [], [], max(deadline - time.monotonic(), 0))[0]:
        part = os.read(reader, 65536)
        if not part:
            return told.decode()
        told += part
    return None
