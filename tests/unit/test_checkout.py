"""What is secret in the address of a git repository."""

from __future__ import annotations

import pytest
from ansible_collections.selfhosted.prefect.plugins.action.host_checkout import split


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
