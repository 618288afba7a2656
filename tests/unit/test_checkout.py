"""A git repository with a credential in its URL: git gets it, and no one else sees it."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.action.checkout import split

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "ghp%2F0canary0canary"
PLAIN = "ghp/0canary0canary"

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - selfhosted.prefect.checkout: {repo: "{{ source }}", version: main, dest: "{{ dest }}"}
      delegate_to: localhost
"""

# In the place of git: notes the arguments and the environment of every one that is started.
WATCH = """#!/bin/sh
{ tr '\\0' '\\n' < /proc/$$/cmdline; env; } >> "$WATCHED"
exec "$REAL_GIT" "$@"
"""


@pytest.mark.parametrize(
    ("repo", "url", "credential"),
    [
        ("https://ada:t@git.example.com/x.git", "https://git.example.com/x.git", "https://ada:t@git.example.com\n"),
        ("https://t@git.example.com:8443/x", "https://git.example.com:8443/x", "https://t:@git.example.com:8443\n"),
        ("https://git.example.com/a@b.git", "https://git.example.com/a@b.git", ""),
        ("ssh://git@git.example.com/x.git", "ssh://git@git.example.com/x.git", ""),
        ("git@git.example.com:x.git", "git@git.example.com:x.git", ""),
        ("/srv/x.git", "/srv/x.git", ""),
    ],
)
def test_what_is_secret_in_a_url(repo: str, url: str, credential: str) -> None:
    assert split(repo) == (url, credential)


class Served(http.server.SimpleHTTPRequestHandler):
    """A repository over HTTP, for the user who knows the token."""

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(f"ada:{PLAIN}".encode()).decode()
        if self.headers.get("Authorization") == wanted:
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where a repository with one file is served."""
    work, bare = tmp_path / "work", tmp_path / "served" / "x.git"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main", str(work)], check=True)
    (work / "flow.py").write_text("print(1)\n")
    subprocess.run([*git, "-C", str(work), "add", "."], check=True)
    subprocess.run([*git, "-C", str(work), "commit", "--quiet", "--message=one"], check=True)
    subprocess.run([*git, "clone", "--quiet", "--bare", str(work), str(bare)], check=True)
    subprocess.run([*git, "-C", str(bare), "update-server-info"], check=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Served, directory=bare.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_credential_is_git_s_alone(tmp_path: Path, address: str) -> None:
    (tmp_path / "play.yml").write_text(PLAY)
    watched, temporary = tmp_path / "watched", tmp_path / "tmp"
    temporary.mkdir()
    real = subprocess.check_output(["sh", "-c", "command -v git"], text=True).strip()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(WATCH)
    (tmp_path / "bin" / "git").chmod(0o755)
    variables = {
        "source": f"http://ada:{TOKEN}@{address}/x.git",
        "dest": str(tmp_path / "checkout"),
        "ansible_python_interpreter": sys.executable,
    }
    # Twice: the second run fetches.
    for _ in range(2):
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", "one,", "--connection=local", "-vvv", "-e", json.dumps(variables), str(tmp_path / "play.yml")),
            ],
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "TMPDIR": str(temporary),
                "WATCHED": str(watched),
                "REAL_GIT": real,
            },
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "canary" not in done.stdout + done.stderr
    assert (tmp_path / "checkout" / "flow.py").read_text() == "print(1)\n"
    assert "clone" in watched.read_text() and "canary" not in watched.read_text()
    kept = [*(tmp_path / "checkout").rglob("*"), *temporary.rglob("*")]
    assert not [path for path in kept if path.is_file() and b"canary" in path.read_bytes()]
