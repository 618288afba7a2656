"""Deployments of `prefect.yaml` files: what is read from them and from the source of flows, and what is refused."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup.project import placed
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.reading import read
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.wishes import Wish
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.project import ProjectError, deployments

FLOWS = '''
    from prefect import flow, task
    import prefect

    DAYS = 3

    @task
    def helper(): ...

    @flow(name="Stock of the shop", log_prints=True)
    def stock(shop: str, days: int = 5, ratio: float = 0.5, items: list[str] | None = None, *, dry: bool = False,
              tags: list[str] = ["a"], other=DAYS):
        """Count the stock."""

    @prefect.flow
    async def clean_up(): ...
'''

PROJECT = """
    name: shop
    prefect-version: 3.8.8
    build: null
    push: null
    pull:
    - prefect.deployments.steps.git_clone:
        repository: https://example.com/shop.git
        branch: "{{ $BRANCH }}"
        access_token: "{{ prefect.blocks.secret.token }}"
    definitions:
      pool: &pool
        name: "{{ $POOL }}"
        work_queue_name: urgent
        job_variables: {env: {REGION: "{{ prefect.variables.region }}", USER: "{{ $UNSET }}"}}
    deployments:
    - name: daily
      version: "1"
      tags: [a, b]
      description: null
      entrypoint: flows.py:stock
      parameters: {shop: north}
      concurrency_limit: {limit: 2, collision_strategy: CANCEL_NEW}
      work_pool: *pool
      schedules:
      - {cron: 0 6 * * *, timezone: Europe/Berlin, slug: early, active: true}
      - {interval: 3600, anchor_date: 2026-01-01 00:00:00+00:00}
    - name: hourly
      entrypoint: flows.clean_up
      description: Clean
      schedule: {interval: 60}
      concurrency_limit: 1
      paused: true
      pull: null
      enforce_parameter_schema: false
      work_pool: {<<: *pool, name: other, job_variables: {}}
    - name: elsewhere
      flow_name: far
      entrypoint: image/far.py:far
      schedules: []
      pull: []
      work_pool: {name: other}
"""

ENVIRONMENT = {"POOL": "main", "BRANCH": "release"}


def project(root: Path, text: str, flows: str = FLOWS) -> Path:
    (root / "flows.py").write_text(textwrap.dedent(flows))
    (root / "prefect.yaml").write_text(textwrap.dedent(text))
    return root


def entries(root: Path, **environment: str) -> list[dict[str, Any]]:
    return deployments(root, directory="/srv/flows", environment={**ENVIRONMENT, **environment})


def problems(root: Path, text: str) -> list[str]:
    with pytest.raises(ProjectError) as caught:
        entries(project(root, text))
    return [line.removeprefix(f"{root}/prefect.yaml: ") for line in str(caught.value).splitlines()]


def test_a_project(tmp_path: Path) -> None:
    daily, hourly, elsewhere = entries(project(tmp_path, PROJECT))
    schema = daily.pop("parameter_openapi_schema")
    assert daily == {
        "flow": "Stock of the shop",
        "name": "daily",
        "version": "1",
        "description": "Count the stock.",
        "tags": ["a", "b"],
        "entrypoint": "flows.py:stock",
        "parameters": {"shop": "north"},
        "work_pool": "main",
        "work_queue": "urgent",
        "job_variables": {"env": {"REGION": "{{ prefect.variables.region }}", "USER": "{{ $UNSET }}"}},
        "schedules": [
            {"cron": "0 6 * * *", "timezone": "Europe/Berlin", "slug": "early", "active": True},
            {"interval": 3600, "anchor_date": "2026-01-01T00:00:00+00:00"},
        ],
        "concurrency_limit": 2,
        "concurrency_options": {"collision_strategy": "CANCEL_NEW"},
        "pull_steps": [
            {
                "prefect.deployments.steps.git_clone": {
                    "repository": "https://example.com/shop.git",
                    "branch": "release",
                    "access_token": "{{ prefect.blocks.secret.token }}",
                }
            }
        ],
    }
    assert schema == {
        "title": "Parameters",
        "type": "object",
        "properties": {
            "shop": {"title": "shop", "position": 0, "type": "string"},
            "days": {"title": "days", "position": 1, "type": "integer", "default": 5},
            "ratio": {"title": "ratio", "position": 2, "type": "number", "default": 0.5},
            "items": {"title": "items", "position": 3},
            "dry": {"title": "dry", "position": 4, "type": "boolean", "default": False},
            "tags": {"title": "tags", "position": 5, "type": "array", "default": ["a"]},
            "other": {"title": "other", "position": 6},
        },
        "required": ["shop"],
    }
    assert hourly == {
        "flow": "clean-up",
        "name": "hourly",
        "description": "Clean",
        "entrypoint": "flows.clean_up",
        "enforce_parameter_schema": False,
        "paused": True,
        "parameter_openapi_schema": {"title": "Parameters", "type": "object", "properties": {}},
        "work_pool": "other",
        "work_queue": "urgent",
        "schedules": [{"interval": 60}],
        "concurrency_limit": 1,
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": "/srv/flows"}}],
    }
    assert elsewhere == {
        "flow": "far",
        "name": "elsewhere",
        "entrypoint": "image/far.py:far",
        "work_pool": "other",
        "schedules": [],
        "pull_steps": [],
    }


def test_the_module_takes_the_entries(tmp_path: Path) -> None:
    _, read_ones = read({"prefect_deployments": entries(project(tmp_path, PROJECT))}, Wish())
    assert [entry.key for entry in read_ones] == ["Stock of the shop/daily", "clean-up/hourly", "far/elsewhere"]


def test_the_file_itself_may_be_named(tmp_path: Path) -> None:
    root = project(tmp_path, PROJECT)
    (root / "prefect.yaml").rename(root / "prefect-prod.yaml")
    assert len(deployments(root / "prefect-prod.yaml", directory="/", environment=ENVIRONMENT)) == 3
    with pytest.raises(FileNotFoundError):
        entries(root)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = """
        build:
        - prefect_docker.deployments.steps.build_docker_image: {image_name: x}
        deployments:
        - name: a
          entrypoint: flows.py:stok
          work_pool: {name: "{{ $NOT_THERE }}"}
          triggers: [{}]
        - entrypoint: flows.py:stock
          version: "{{ build-image.tag }}"
          build: null
          push: [{prefect.deployments.steps.run_shell_script: {script: x}}]
          parameters: {key: "{{ prefect.blocks.secret.token }}"}
        - name: c
          build: []
          entrypont: flows.py:stock
          work_pool: {name: p}
          sla: [{}]
        - junk
        - name: d
          build: {}
          entrypoint: gone.py:flow
          work_pool: main
    """
    found = problems(tmp_path, text)
    for expected in (
        "deployments[0] (a): build has steps, which only `prefect deploy` runs",
        "deployments[0] (a): triggers are automations",
        "deployments[0] (a): entrypoint flows.py:stok: flows.py has no function stok; stock?",
        "deployments[0] (a): work_pool.name: {{ $NOT_THERE }}: the environment of ansible-playbook has no NOT_THERE",
        "deployments[1]: push has steps",
        "deployments[1]: version: {{ build-image.tag }}: the output of a step",
        "deployments[1]: parameters.key: {{ prefect.blocks.secret.token }}: here only `prefect deploy` fills it in",
        "deployments[1]: name is missing",
        "deployments[1]: work_pool.name is missing",
        "deployments[2] (c): entrypont is unknown; entrypoint?",
        "deployments[2] (c): entrypoint is missing",
        "deployments[2] (c): sla exists only in Prefect Cloud",
        "deployments[3] is not a mapping",
        "deployments[4] (d): flow_name is missing: there is no source of gone.py:flow",
        "deployments[4] (d): work_pool is not a mapping",
    ):
        assert any(line.startswith(expected) for line in found), (expected, found)
    assert len(found) == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deployments: [", "while parsing"),
        ("- a", "it has no list of deployments"),
        ("name: x", "it has no list of deployments"),
        ("deployments: {a: b}", "it has no list of deployments"),
    ],
)
def test_junk(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problems(tmp_path, text)[0]


def test_a_flow_that_is_no_python_is_told(tmp_path: Path) -> None:
    text = "deployments: [{name: a, entrypoint: 'flows.py:stock', work_pool: {name: p}}]"
    with pytest.raises(ProjectError, match=r"flows\.py is no Python"):
        entries(project(tmp_path, text, "def stock(:"))


def test_a_project_in_the_flow_code_exists_on_the_hosts(tmp_path: Path) -> None:
    (tmp_path / "flows/shop").mkdir(parents=True)
    assert placed(tmp_path / "flows/shop", str(tmp_path / "flows")) == "shop"
    assert placed(tmp_path / "flows", str(tmp_path / "flows")) == "."
    assert placed(tmp_path, str(tmp_path / "flows")) == "."
    assert placed(tmp_path, "") == "."
