"""Names of groups that are nearly those of Prefect."""

from __future__ import annotations

import pytest
from ansible_collections.selfhosted.prefect.plugins.filter.groups import misnamed


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ({"prefect_server": ["a"]}, []),
        ({"prefect_wokrer": ["a"]}, ["prefect_wokrer (prefect_worker?)"]),
        ({"prefect_workers": ["a", "b"], "prefect_worker": ["a"]}, ["prefect_workers (prefect_worker?)"]),
        ({"prefect_workers": ["a"], "prefect_worker": ["a", "b"]}, []),
        ({"prefect_wokrer": []}, []),
        ({"prefect_worker_gpu": ["a"], "web": ["b"], "prefect": ["c"], "workers": ["d"]}, []),
    ],
)
def test_a_mistyped_group(groups: dict[str, list[str]], found: list[str]) -> None:
    assert misnamed(groups, ["prefect_server", "prefect_worker"]) == found
