"""Modules reach files by `safe_files`, or say here why nothing that flows can write is on the way."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MECHANISM = "plugins/module_utils/host/safe_files.py"
MODULES = sorted(path for name in ("modules", "module_utils") for path in (ROOT / "plugins" / name).rglob("*.py"))

BY_PATH = {
    *("chmod", "chown", "lchown", "copyfile", "copy2", "copytree", "glob", "hardlink_to", "iterdir", "link", "listdir"),
    *("makedirs", "mkdir", "read_bytes", "read_text", "removedirs", "rename", "rglob", "rmdir", "rmtree", "scandir"),
    *("symlink", "symlink_to", "touch", "truncate", "unlink", "walk", "write_bytes", "write_text"),
}
"""What reads, writes or walks by a path; through a descriptor it has `dir_fd`."""

OPENERS = {"io", "os", "sqlite3", "tarfile", "zipfile", "gzip", "bz2", "lzma", "shelve", "dbm"}

PROC = "the kernel's files below /proc, which no account can replace"
ETC = "/etc/nginx, which only root can write"
OPT = "prefect_opt_dir, which only root can write"
SCRATCH = "a directory of its own, which only this process can enter"
KEPT = "a directory of backups, of which `check` has seen that only root can write it"

ALLOWED = {
    ("host_backend.py", "memory_mb"): PROC,
    ("databases.py", "Postgresql.dump"): KEPT,
    ("databases.py", "Postgresql._entries"): KEPT,
    ("databases.py", "Postgresql._reader"): KEPT,
    ("databases.py", "Postgresql._script"): KEPT,
    ("distributions.py", "read"): "/etc/os-release, which only root can write",
    ("databases.py", "clients"): "/usr/lib/postgresql and the like, which only root can write",
    ("backups.py", "digest"): KEPT,
    ("backups.py", "held"): KEPT,
    ("backups.py", "next_number"): KEPT,
    ("backups.py", "mark"): KEPT,
    ("backups.py", "note_down"): KEPT,
    ("backups.py", "own"): KEPT,
    ("backups.py", "read"): KEPT,
    ("backups.py", "remove"): KEPT,
    ("backups.py", "sync"): KEPT,
    ("backups.py", "write"): KEPT,
    ("host_database_move.py", "open_source"): "runs in `as_account`",
    ("host_nginx.py", "Kept.of"): ETC,
    ("host_nginx.py", "Kept.put_back"): ETC,
    ("host_nginx.py", "sites"): ETC,
    ("nginx_trial.py", "sweep"): "copies of Nginx's configuration in /run, which only root can write",
    ("nginx_trial.py", "trial"): SCRATCH,
    ("nginx_trial.py", "mirror"): "/etc/nginx, which only root can write, and a directory of its own",
    ("host_nginx.py", "certificate"): "the certificate that Nginx is given, below /etc",
    ("host_nginx.py", "Nginx.main_process"): "/run/nginx.pid, which root writes",
    ("host_nginx.py", "processes"): PROC,
    ("launch.py", "adjustment"): PROC,
    ("launch.py", "raise_adjustment"): PROC,
    ("migrate.py", "migrate"): "runs as the server's account",
    ("migrate.py", "revisions"): "a release, which only root can write",
    ("warm.py", "appear"): PROC,
    ("warm.py", "close_inherited"): PROC,
    ("zygotes.py", "children"): PROC,
    ("ledger.py", "locked"): "the directory of the ledgers, which only root can write",
    ("ledger.py", "installed_before"): OPT,
    ("ledger.py", "Ledger.load"): "the directory of the ledgers",
    ("ledger.py", "Ledger.others_entries"): "the directory of the ledgers",
    ("ledger.py", "opened"): "the directory of the ledgers",
    ("dpkg.py", "purge"): "/etc/default",
    ("package_manager.py", "recorded"): "the directory of the ledgers, which only root can write",
    ("host_selinux.py", "write"): "/var/lib/selfhosted-prefect, which only root can write",
    ("host_packages.py", "held"): "/var/lib/selfhosted-prefect, which only root can write",
    ("host_postgres_cluster.py", "dump"): "a directory below /var/backups",
    ("host_packages.py", "install"): "/etc/systemd/system",
    ("host_packages.py", "purge"): "/etc/systemd/system",
    ("ports.py", "listeners"): PROC,
    ("host_preflight.py", "installation"): "names of units and programs, whose directories are of root or of the user",
    ("host_preflight.py", "problems_of"): "a command in /usr/local/bin, or in the user's own home",
    ("proofs.py", "_served"): "a directory in one that only root can write, itself writable by root only",
    ("proofs.py", "processes"): PROC,
    ("host_release.py", "build"): OPT,
    ("host_release.py", "prune"): OPT,
    ("host_release.py", "main"): OPT,
    ("host_release.py", "running"): PROC,
    ("host_release.py", "withdraw"): OPT,
    ("rescue.py", "memory_kills"): "/proc and /sys",
    ("rescue.py", "running"): PROC,
    ("host_services.py", "Systemd.start"): OPT,
    ("upgrades.py", "undo"): OPT,
    ("host_services.py", "Systemd.known"): "/etc/systemd/system, or the user's own units",
    ("host_services.py", "Systemd.shutdown"): OPT,
    ("host_services.py", "Supervisord.reload"): OPT,
    ("host_services.py", "Supervisord.known"): OPT,
    ("host_services.py", "ended"): PROC,
    ("host_services.py", "remove"): "units in /etc/systemd/system and programs below prefect_opt_dir",
    ("status.py", "environments"): OPT,
    ("status.py", "backup_checks"): "a file below /opt, which only root can write",
    ("sqlite_files.py", "copy"): "a new file of root's, and the database in `as_account`",
    ("sqlite_files.py", "ask"): "a file of root's; what it holds is read in `as_account`",
    ("sqlite_files.py", "settle"): "runs in `as_account`",
    ("status.py", "settings"): "/etc/prefect, which only root can write",
    ("host_tree.py", "unpack"): "the archive in Ansible's temporary directory",
    ("trusted.py", "entries"): "directories that it has just found to be writable by root only",
    ("uv.py", "_download"): OPT,
    ("uv.py", "fetch"): OPT,
    ("uv.py", "is_musl"): "/lib, which only root can write",
}
"""Functions that reach files by path, and what makes that safe."""


def is_by_path(call: ast.Call) -> bool:
    """Return whether a call reaches a file by its path, every part of which another account may have replaced."""
    if any(keyword.arg in ("dir_fd", "src_dir_fd") for keyword in call.keywords):
        return False
    # Root would enter it before it drops its privileges.
    entered = [keyword.value for keyword in call.keywords if keyword.arg == "cwd"]
    if entered and not (isinstance(entered[0], ast.Constant) and entered[0].value == "/"):
        return True
    if isinstance(call.func, ast.Name):
        return call.func.id == "open"
    if not isinstance(call.func, ast.Attribute):
        return False
    name, owner = call.func.attr, call.func.value
    of = owner.id if isinstance(owner, ast.Name) else ""
    if name in ("open", "connect", "remove"):
        is_mode = not call.args or (isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str))
        return of in OPENERS or (name == "open" and is_mode)
    # A text has two arguments to replace.
    return name in BY_PATH or (name == "replace" and len(call.args) == 1 and not call.keywords)


def places(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, int]]:
    """Yield the outermost function, with its class, and the line of each call by path."""
    for node in ast.iter_child_nodes(tree):
        name = inside
        if isinstance(node, ast.ClassDef) and not inside:
            name = f"{node.name}."
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (not inside or inside.endswith(".")):
            name = f"{inside}{node.name}"
        if isinstance(node, ast.Call) and is_by_path(node):
            yield name, node.lineno
        yield from places(node, name)


@functools.cache
def found() -> dict[tuple[str, str], list[int]]:
    """Return the lines with calls by path, by file and function."""
    lines: dict[tuple[str, str], list[int]] = {}
    for path in MODULES:
        if path != ROOT / MECHANISM:
            for function, line in places(ast.parse(path.read_text())):
                lines.setdefault((path.name, function), []).append(line)
    return lines


def test_what_reaches_files_by_path_says_why_that_is_safe() -> None:
    new = {place: lines for place, lines in found().items() if place not in ALLOWED}
    assert not new, f"use safe_files, or name in ALLOWED who alone can write there: {new}"


def test_no_reason_outlives_what_it_was_for() -> None:
    assert not ALLOWED.keys() - found().keys()


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('x')",
        "Path(path).rglob('*')",
        "open(path)",
        "path.open('wb')",
        "path.open()",
        "os.open(path, os.O_RDONLY)",
        "os.chown(path, 1, 1)",
        "os.chown(path, 1, 1, follow_symlinks=False)",
        "fresh.replace(path)",
        "shutil.rmtree(path)",
        "sqlite3.connect(path)",
        "tarfile.open(path)",
        "subprocess.run(command, cwd=path)",
    ],
)
def test_an_unsafe_call_is_seen(line: str) -> None:
    assert list(places(ast.parse(f"class C:\n    def f(self):\n        with {line}:\n            pass"))) == [
        ("C.f", 3)
    ]


@pytest.mark.parametrize(
    "line",
    [
        "os.open(name, os.O_RDONLY, dir_fd=directory)",
        "os.replace(a, b, src_dir_fd=d, dst_dir_fd=d)",
        "text.replace('a', 'b')",
        "directory.open(name)",
        "opener.open(url, timeout=5)",
        "socket.connect(address)",
        "subprocess.run(command, cwd='/')",
    ],
)
def test_a_safe_call_is_not(line: str) -> None:
    assert not list(places(ast.parse(line)))


def unlimited(tree: ast.AST) -> list[int]:
    """Return the lines of calls that run code of another account for as long as it likes."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [(call, {keyword.arg for keyword in call.keywords}) for call in calls]
    others = [(call, given) for call, given in names if given & {"user", "extra_groups"} and "subprocess" in dump(call)]
    hidden = [call for call, given in names if None in given and "subprocess" in dump(call)]
    return [call.lineno for call, given in others if "timeout" not in given] + [call.lineno for call in hidden]


def dump(call: ast.Call) -> str:
    """Return the called function."""
    return ast.unparse(call.func)


def test_no_other_account_keeps_root_waiting() -> None:
    """`run_as` ends a command after its time; the mapping of a call could hold the account."""
    exempt = {
        "processes.py": "`run_as` itself",
        "databases.py": "streams, and root's own pg_dump and psql",
        "proofs.py": "a scratch server that it kills, and root's own systemctl",
    }
    late = {path.name: found for path in MODULES if (found := unlimited(ast.parse(path.read_text())))}
    assert not late.keys() - exempt.keys(), late


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("subprocess.run(command, user=uid)", True),
        ("subprocess.Popen(command, **become)", True),
        ("subprocess.run(command, user=uid, timeout=5)", False),
        ("subprocess.run(command)", False),
        ("run_as(account, command, timeout=5)", False),
    ],
)
def test_a_call_without_a_limit_is_seen(line: str, seen: bool) -> None:
    assert bool(unlimited(ast.parse(line))) is seen
