"""What is hidden from the person who runs a play, in one place for plans, diffs, results, exports and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import (
    HIDDEN,
    Mask,
    is_secret_name,
    is_secret_text,
    marked,
    secrets_in,
)
from ansible_collections.selfhosted.prefect.plugins.modules import deployment, variable
from fake_api import FakeApi, outcome
from test_resources import ALL, act

CREDENTIALS = """
password DB_PASSWORD dbPassword pgpassword passwd token apiToken API_KEY apikey x-api-key aws_access_key_id
secretKey client_secret private_key SSH_PRIVATE_KEY connection_string AccountKey credentials auth
PREFECT_API_AUTH_STRING Authorization webhook_url SLACK_WEBHOOK dsn SENTRY_DSN passphrase accessToken
sas_token session_id cookie MAILGUN_KEY FERNET_KEY consumer_key tls.key signing_keys OPENAI_KEY_2 hmacKey
"""
OTHERS = """
key primary_key keys author authors path name image command namespace work_pool monkey keyboard tag passenger
tokenizer_path secret_fields description entrypoint host user compass bypass_cache partition_key
cache_key idempotency_key concurrency_key task_key task_keys sortKey PRIMARY_KEY_1 foreign_keys ssh_public_key key_1
cache_key_fn keyed turnkey topologyKey
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "name",
    CREDENTIALS.split(),
)
def test_a_key_that_looks_like_a_credential(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    OTHERS.split(),
)
def test_a_key_that_does_not(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+asyncpg://prefect:x@db/prefect",
        "redis://:pa/ss#word@host:6379/0",
        "https://token@github.com/acme/flows.git",
        "https://hooks.slack.com/services/T/B/x",
        "https://discord.com/api/webhooks/1/x",
        "https://acme.webhook.office.com/webhookb2/x",
        "https://chat.example.com/hooks/abc",
        "https://example.com/x?api_key=1",
        "https://account.blob.core.windows.net/c?sv=1&sig=abc",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nx",
        "Bearer abcdefgh1234",
        "ghp_0123456789abcdef",
        "DB_PASSWORD=x",
        "export TOKEN='x'; run",
        'curl -d \'{"password": "x"}\' https://example.com',
        "mysql --password x",
        "curl -u user:hunter2 https://example.com",
        "curl -fsSu 'user:hunter2' https://example.com",
        "curl --proxy-user=user:hunter2 https://example.com",
        "mysqldump -uroot -phunter2 shop",
        "sshpass -p hunter2 ssh host",
        "redis-cli -h db -a hunter2 ping",
        "Zm9vYmFyQmF6MTIzNDU2Nzg5",
    ],
)
def test_a_text_that_carries_a_credential(text: str) -> None:
    assert is_secret_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/a?b=c",
        "https://example.com:8080/x@v1",
        "git@github.com:acme/flows.git",
        "ssh://git@github.com/acme/flows.git",
        "auth.py:flow",
        "flows/token/refresh.py:token_flow",
        "0 6 * * *",
        "password: {{ prefect.blocks.secret.x }}",
        "The token is read from a block.",
        "sha256:0123456789abcdef0123456789abcdef",
        "TOKEN=$TOKEN run",
        "curl -u user:$PASSWORD https://example.com",
        "curl -fsS https://example.com:8080/x",
        "docker run -u 1000:1000 image",
        "mysql -P 3306 -p shop",
        "mkdir -p data/hunter2",
        "Partition key: day",
    ],
)
def test_a_text_that_does_not(text: str) -> None:
    assert not is_secret_text(text)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("PREFECT_API_AUTH_STRING", "admin:hushhush", {"admin:hushhush", "hushhush"}),
        ("PREFECT_CLIENT_CUSTOM_HEADERS", '{"X-Any": "hushhush"}', {"hushhush"}),
        ("SECRETS", '["hushhush", {"any": "quietly"}]', {"hushhush", "quietly"}),
        ("PREFECT_SERVER_DATABASE_PASSWORD", "hush hush", {"hush hush"}),
        (
            "BROKER",
            "redis://:p%40ssword@h/0",
            {"redis://:p%40ssword@h/0", "redis://:p@ssword@h/0", "p%40ssword", "p@ssword"},
        ),
        ("API_TOKEN", "12345", set()),
        ("PREFECT_API_URL", "http://127.0.0.1:4200/api", set()),
        ("PREFECT_LOGGING_LEVEL", "WARNING", set()),
    ],
)
def test_secrets_in_settings(name: str, value: str, wanted: set[str]) -> None:
    found = secrets_in({name: value})
    assert wanted <= found
    assert wanted or not found


def test_fields_of_an_object() -> None:
    values = {
        "job_variables": {
            "env": {"API_KEY": "x", "LEVEL": "INFO", "PIN": 1234, "TOKEN": "{{ prefect.blocks.secret.x }}"},
            "list": [{"name": "DB_PASSWORD", "value": "x"}, {"name": "LEVEL", "value": "INFO"}],
            "credentials": {"$ref": "secret/x"},
            "auth": {"a": ["x", {"b": "y"}], "enabled": True, "nothing": None},
        },
        "base_job_template": {
            "variables": {"properties": {"token": {"title": "Token", "type": "string", "default": "x"}}},
            "job_configuration": {"token": "{{ token }}"},
        },
    }
    assert Mask().fields(values) == {
        "job_variables": {
            "env": {"API_KEY": HIDDEN, "LEVEL": "INFO", "PIN": HIDDEN, "TOKEN": "{{ prefect.blocks.secret.x }}"},
            "list": [{"name": "DB_PASSWORD", "value": HIDDEN}, {"name": "LEVEL", "value": "INFO"}],
            "credentials": {"$ref": "secret/x"},
            "auth": {"a": [HIDDEN, {"b": HIDDEN}], "enabled": True, "nothing": None},
        },
        "base_job_template": {
            "variables": {"properties": {"token": {"title": "Token", "type": "string", "default": HIDDEN}}},
            "job_configuration": {"token": "{{ token }}"},
        },
    }
    assert Mask(show=True).fields(values) == values


def test_what_is_known_is_hidden_anywhere() -> None:
    mask = Mask(known=("hush-hush", "abc"))
    values = {"a": "say hush-hush", "b": ["abc", "abcd"], "c": "{{ hush-hush }}"}
    assert mask.fields(values) == {"a": HIDDEN, "b": [HIDDEN, "abcd"], "c": HIDDEN}


def test_of_a_block_only_what_is_harmless_is_shown() -> None:
    data = {
        "host": "db",
        "port": 5432,
        "verify": False,
        "url": "https://example.com",
        "whatever": {"host": "x", "deep": [1, "y"], "ref": {"$ref": "a/b"}, "token": {"host": "z"}},
        "region": "redis://:x@y",
        "database": "marked",
    }
    assert Mask().block(data, {("database",)}) == {
        "host": "db",
        "port": 5432,
        "verify": False,
        "url": HIDDEN,
        "whatever": {"host": "x", "deep": [HIDDEN, HIDDEN], "ref": {"$ref": "a/b"}, "token": {"host": HIDDEN}},
        "region": HIDDEN,
        "database": HIDDEN,
    }


def test_a_change_of_what_is_hidden_shows() -> None:
    before, after = {"a": [{"token": "x"}, {"token": "z"}]}, {"a": [{"token": "y"}, {"token": "z"}]}
    old, new = Mask().fields(before), Mask().fields(after)
    assert marked(old, new, before, after) == {"a": [{"token": f"{HIDDEN} (new)"}, {"token": HIDDEN}]}


CANARIES = {
    "prefect_blocks": [
        *ALL["prefect_blocks"],
        {"block_type": "account", "name": "chat", "data": {"user": "https://hooks.slack.com/services/hush-1"}},
    ],
    "prefect_variables": [{"name": "shop", "value": {"password": "hush-2"}}, {"name": "api_key", "value": "hush-3"}],
    "prefect_deployments": [
        {
            **ALL["prefect_deployments"][0],
            "job_variables": {"env": {"API_TOKEN": "hush-4", "URL": "https://u:hush-5@example.com"}},
            "pull_steps": [{"git_clone": {"repository": "https://hush-6@example.com/x.git"}}],
            "parameters": {"client_secret": "hush-7"},
        },
        ALL["prefect_deployments"][1],
    ],
}


def test_a_secret_is_in_no_result(fake: FakeApi) -> None:
    wanted = {**ALL, **CANARIES}
    shown = [act(fake, wanted, check_mode=True), act(fake, wanted), act(fake, wanted)]
    assert [each["changed"] for each in shown] == [True, True, False]
    changed = json.loads(json.dumps(wanted).replace("hush-", "hush-new-"))
    shown += [act(fake, changed, check_mode=True), act(fake, changed)]
    assert all(any(name in text for text in shown[-1]["plan"]) for name in ("account/chat", "api_key", "stock/daily"))
    assert "(new)" in json.dumps(shown[-1]["plan"])
    for fields in ({"job_variables": {"env": {"API_TOKEN": "hush-8"}}}, {"parameters": {"client_secret": "hush-9"}}):
        shown.append(outcome(deployment.main, api_url=fake.url, flow="stock", name="daily", **fields))
    shown.append(outcome(variable.main, api_url=fake.url, name="api_key", value="hush-10"))
    assert all(each["changed"] for each in shown[-3:])
    wrong = act(fake, {"prefect_deployments": [{**CANARIES["prefect_deployments"][0], "schedules": [{"cron": 5}]}]})
    assert wrong["failed"]
    assert "hush" not in json.dumps([*shown, wrong])
    clear = act(fake, wanted, check_mode=True, show_secrets=True)
    assert all(f"hush-{number}" in json.dumps(clear["changes"]) for number in (1, 2, 3, 4, 5, 6, 7))
    assert "hush" not in json.dumps(clear["invocation"])
