"""Several API processes with background services of their own, PostgreSQL, Redis, a proxy: one host, from bare to bare.

The order of the tests is that of the file: each leaves a host that is well, but for the last two.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from canaries import FIND, Canaries, Watch, with_canaries
from real_host import IMAGE, NAME, ROOT, Ended, Host, Variables

GROUPS = {f"prefect_{name}": [NAME] for name in ("postgres", "redis", "server", "proxy", "worker", "flows")}
UNITS = ("prefect-server", "prefect-services", "prefect-worker@default")
SERVER_ALONE = ("--tags", "server")
BACKENDS_AND_SERVER = ("--tags", "postgres,redis,server")
NASTY = "p@:/%s #'\"${HOME} %h"
OTHER = "other13"
STOCKS = ROOT / "docs" / "examples" / "stocks"
STOCK_FLOW = "stock_data_pipeline/stock_data_pipeline_daily"

ASK = """
import json, sys, urllib.error, urllib.request
method, path, body, headers = json.load(sys.stdin)
data = None if body is None else json.dumps(body).encode()
request = urllib.request.Request(
    f"http://127.0.0.1:4200/api{path}", data, {"Content-Type": "application/json"} | headers, method=method
)
try:
    print(urllib.request.urlopen(request, timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


class Several:
    """The host, with a directory of secrets beside it, and who it listens to."""

    def __init__(self, host: Host, secrets: Path) -> None:
        self.host, self.secrets, self.groups = host, secrets, GROUPS
        self.variables: Variables = {
            "prefect_secrets_dir": str(secrets),
            "prefect_server_host": "0.0.0.0",
            "prefect_server_processes": 2,
            "prefect_api_csrf": True,
        }
        # Ansible's output, which may contain no secret.
        self.said = self.play(arguments=("-vvv", "--diff")).output

    def play(self, playbook: str = "site.yml", *, arguments: tuple[str, ...] = (), **more: object) -> Ended:
        run = self.host.start(playbook, self.variables | more, groups=self.groups, arguments=arguments)
        ended = run.wait()
        assert ended.rc == 0, ended.output
        return ended

    def secret(self, name: str) -> str:
        return (self.secrets / "prefect" / name).read_text().strip()

    def ask(self, method: str, path: str, body: object = None, *, auth: str = "") -> int:
        """Give the status that the API answers with."""
        headers = {"Authorization": "Basic " + b64encode(f"admin:{auth}".encode()).decode()} if auth else {}
        return int(self.host.sh(f"python3 -c {shlex.quote(ASK)}", stdin=json.dumps([method, path, body, headers])))

    def running(self) -> list[str]:
        listed = self.host.sh("systemctl list-units --plain --no-legend --state=running 'prefect*'")
        return [line.split()[0].removesuffix(".service") for line in listed.splitlines()]

    def run_a_flow(self) -> None:
        self.host.sh("prefect deployment run hello-flow/example --watch --watch-timeout 180")


@pytest.fixture(scope="module")
def bare(host: Host) -> Iterator[set[str]]:
    """What is on the host before."""
    # Prefect's CLI creates this directory for the user who calls it, and it stays.
    host.sh("mkdir --parents --mode=700 /root/.prefect")
    yield host.manifest()


@pytest.fixture(scope="module")
def several(host: Host, bare: set[str], tmp_path_factory: pytest.TempPathFactory) -> Several:
    """The host with all of it."""
    return Several(host, tmp_path_factory.mktemp("inventory") / ".secrets")


def test_it_runs(several: Several) -> None:
    assert {*UNITS, "prefect-redis"} <= set(several.running())
    assert "--no-services --workers 2" in several.host.sh("systemctl cat prefect-server")


def test_what_a_unit_could_still_do(several: Several) -> None:
    for unit in UNITS:
        several.host.sh(f"systemd-analyze security --no-pager --threshold=25 {unit}.service")


def test_who_does_not_know_the_password_or_has_no_token_is_refused(several: Several) -> None:
    secret = several.secret("api")
    assert several.ask("GET", "/ready") == 200
    assert several.ask("GET", "/admin/version") == 401
    assert several.ask("GET", "/admin/version", auth=secret) == 200
    assert several.ask("POST", "/variables/", {"name": "a", "value": 1}, auth=secret) == 403
    several.host.sh("prefect variable set a 1")
    assert several.ask("GET", "/variables/name/a", auth=secret) == 200


def test_secrets_are_in_settings_and_nowhere_else(several: Several) -> None:
    for name in ("api", "database", "redis"):
        # A pattern that does not match itself, for what we run is in the journal, too.
        pattern = re.sub(r"^(.)", r"[\1]", several.secret(name))
        where = several.host.sh(
            f"grep --recursive --files-with-matches '{pattern}' /etc /opt /var/lib /var/log /run /tmp", check=False
        )
        assert where, name
        for path in where.splitlines():
            mode = several.host.sh(f"stat --format '%a' {path}")
            assert int(mode, 8) & 0o137 == 0, f"{path} has mode {mode}"
            assert path.startswith("/etc/prefect"), path
        assert not several.host.sh(f"journalctl --quiet --grep '{pattern}'", check=False)
        assert not several.host.sh(f"pgrep --full '{pattern}'", check=False)
        assert several.secret(name) not in several.said
        # Flows know the password of the API, and so may ask it.
        assert several.secret(name) not in json.dumps(several.host.api("/admin/settings"))


@pytest.fixture
def other(several: Several) -> Iterator[str]:
    """Another host, which is no client of this platform."""
    tool = ROOT / "tests/hosts/host"
    subprocess.run([tool, "up", OTHER, IMAGE], check=True)
    yield OTHER
    subprocess.run([tool, "down", OTHER], check=True)


def reaches(host: str, port: int) -> bool:
    """Say whether a connection from another host comes about; one that is dropped takes its time."""
    code = f"import socket; socket.create_connection(('{NAME}', {port}), 3)"
    command = [ROOT / "tests/hosts/host", "exec", host, "python3", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "TimeoutError" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_firewall_of_our_own_beside_others(several: Several, other: str) -> None:
    host = several.host
    assert reaches(other, 4200)
    several.play(prefect_firewall="nftables", arguments=SERVER_ALONE)
    assert not reaches(other, 4200)
    assert reaches(other, 22)
    assert several.ask("GET", "/ready") == 200
    # Rules of another owner are in a table of their own.
    host.sh("nft add table inet shop; systemctl restart prefect-server-firewall")
    assert not reaches(other, 4200)
    several.play(prefect_firewall="nftables", prefect_firewall_clients=[other], arguments=SERVER_ALONE)
    assert reaches(other, 4200)
    assert "table inet shop" in host.sh("nft list tables; nft delete table inet shop")
    several.play(prefect_firewall="absent", arguments=SERVER_ALONE)
    assert reaches(other, 4200)
    assert "prefect" not in host.sh("nft list tables 2>/dev/null; ls /etc/nftables.d 2>/dev/null", check=False)


def test_rotation(several: Several) -> None:
    names = ("api", "database", "redis")
    old = {name: several.secret(name) for name in names}
    several.play("playbooks/rotate.yml", prefect_rotate=[*names])
    new = {name: several.secret(name) for name in names}
    assert not {*old.values()} & {*new.values()}
    assert several.ask("GET", "/admin/version", auth=old["api"]) == 401
    assert several.ask("GET", "/admin/version", auth=new["api"]) == 200
    login = "psql --host 127.0.0.1 --username prefect --dbname prefect --command 'select 1' 2>&1"
    assert "authentication failed" in several.host.sh(f"PGPASSWORD={old['database']} {login}", check=False)
    several.host.sh(f"PGPASSWORD={new['database']} {login}")
    ping = "redis-cli --no-auth-warning ping"
    assert "PONG" not in several.host.sh(f"REDISCLI_AUTH={old['redis']} {ping}", check=False)
    assert several.host.sh(f"REDISCLI_AUTH={new['redis']} {ping}") == "PONG"
    for value in old.values():
        assert not several.host.sh(f"grep --recursive --files-with-matches {value} /etc /opt", check=False)
    several.run_a_flow()
    several.play("playbooks/status.yml")


def as_text(variables: Variables) -> Variables:
    """Give what is true, false or a number as `-e name=value` and inventories in INI give it."""
    return {name: str(value).lower() for name, value in variables.items() if isinstance(value, (bool, int))}


def test_nothing_changes_again_with_every_default_said_and_as_text(several: Several) -> None:
    defaults: Variables = {}
    for path in ROOT.glob("roles/*/defaults/main.yml"):
        defaults |= yaml.safe_load(path.read_text()) or {}
    said = defaults | several.host.common | several.variables
    assert several.play(**as_text(said)).changed == 0


def test_a_secret_of_the_user_is_not_generated(several: Several) -> None:
    (several.secrets / "prefect" / "redis").rename(several.secrets / "kept")
    run = several.host.start(
        "playbooks/rotate.yml",
        several.variables | {"prefect_rotate": ["redis"], "prefect_redis_password": several.secret("../kept")},
        groups=GROUPS,
    )
    ended = run.wait()
    (several.secrets / "kept").rename(several.secrets / "prefect" / "redis")
    assert ended.rc != 0
    assert "prefect_rotate: redis cannot be replaced, because this inventory does not generate it" in ended.words


def test_a_controller_without_its_secrets_changes_nothing(several: Several) -> None:
    """A fresh checkout of the inventory: its owner copies the CA, and fetches the rest."""
    kept = several.secrets.rename(several.secrets.with_name("kept"))
    running = "systemctl show --property=MainPID --value prefect-server prefect-redis postgresql@*"
    pids = several.host.sh(running)
    names = "/etc/prefect /etc/prefect-postgres /etc/prefect-redis /etc/nginx/prefect -name '*fingerprints'"
    assert several.host.sh(f"find {names} -printf '%u %m\n' | sort --unique") == "root 600"
    try:
        for limit in ((), ("--limit", NAME)):
            run = several.host.start("site.yml", several.variables, groups=GROUPS, arguments=limit)
            ended = run.wait()
            assert (ended.rc, ended.changed) == (2, 0), ended.output
            assert (
                f"{NAME} remembers the secret 'api', the secret 'database', the secret 'redis', the CA" in ended.words
            )
            assert not several.secrets.exists()
        assert several.host.sh(running) == pids

        several.play("playbooks/secrets.yml")
        found = {path.name: path.read_text() for path in (several.secrets / "prefect").iterdir()}
        assert found == {name: (kept / "prefect" / name).read_text() for name in ("api", "database", "redis")}
        for file in ("ca.crt", "ca.key"):
            (several.secrets / "prefect" / file).write_text((kept / "prefect" / file).read_text())
        assert several.play(arguments=SERVER_ALONE).changed == 0
    finally:
        shutil.rmtree(several.secrets, ignore_errors=True)
        kept.rename(several.secrets)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"prefect_redis_url": "redis://:wrong@127.0.0.1"}, "prefect_redis_url: 127.0.0.1:6379 refuses the password"),
        ({"prefect_redis_url": "rediss://127.0.0.1"}, "prefect_redis_url: 127.0.0.1:6379 does not speak TLS"),
        ({"prefect_redis_port": 9}, "prefect_redis_host: nothing listens at 127.0.0.1:9"),
        ({"prefect_redis_database": 15}, "prefect_redis_host: 127.0.0.1:6379 has not the databases 15 and 16"),
    ],
)
def test_a_bad_redis_is_refused_before_anything_changes(several: Several, variables: Variables, says: str) -> None:
    pid = several.host.server_pid()
    run = several.host.start("site.yml", several.variables | variables, groups=GROUPS, arguments=SERVER_ALONE)
    ended = run.wait()
    assert ended.rc == 2
    assert says in ended.words
    assert ended.changed == 0
    assert several.host.server_pid() == pid


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Canaries:
    """A secret of its own in every variable that holds one, and special characters in passwords."""
    password = f"{quote(NASTY, safe='')}CANARY"
    database = f"postgresql://prefect:{password}@{NAME}:5432/prefect"
    broker = f"redis://flows:CANARY@{NAME}:6379/7"
    return with_canaries(
        tmp_path_factory.mktemp("pair"),
        domain=NAME,
        values={
            "prefect_celery_broker_url": broker,
            "prefect_celery_result_backend": broker,
            "prefect_database_password": f"{NASTY}CANARY",
            # As it is, for Prefect's URL needs no encoding.
            "prefect_database_url": f"postgresql://prefect:{NASTY}CANARY@{NAME}:5432/prefect?sslmode=require",
            "prefect_definitions_load_into": database,
            "prefect_definitions_source": database,
            "prefect_index_url": "https://canary:CANARY@pypi.org/simple",
            "prefect_redis_password": f"{NASTY}CANARY",
            "prefect_redis_url": f"redis://:{password}@{NAME}:6379",
        },
        same={
            "prefect_database_url": "prefect_database_password",
            "prefect_definitions_load_into": "prefect_database_password",
            "prefect_definitions_source": "prefect_database_password",
            "prefect_redis_url": "prefect_redis_password",
            "prefect_celery_result_backend": "prefect_celery_broker_url",
        },
    )


def test_passwords_of_any_kind(several: Several, canaries: Canaries) -> None:
    for name in ("prefect_database_password", "prefect_redis_password"):
        several.variables[name] = canaries.variables[name]
    several.play(arguments=BACKENDS_AND_SERVER)
    several.run_a_flow()


def test_back_to_one_process_with_the_database_as_a_url(several: Several, canaries: Canaries) -> None:
    del several.variables["prefect_server_processes"]
    several.variables["prefect_database_url"] = canaries.variables["prefect_database_url"].replace(NAME, "127.0.0.1")
    several.play(arguments=SERVER_ALONE)
    assert "prefect-services" not in several.running()
    assert not several.host.sh("systemctl list-unit-files --no-legend 'prefect-services*'", check=False)
    several.run_a_flow()


SERVERS_OWN = {
    *("prefect_database_password", "prefect_server_settings", "prefect_proxy_certificate_key", "prefect_index_url"),
    "prefect_redis_password",
}
"""What the account of flows has no way to."""


def test_no_canary_is_where_it_does_not_belong(
    several: Several, other: str, canaries: Canaries, tmp_path: Path
) -> None:
    """A look everywhere while a play with -vvv brings every secret to a host with systemd and one with supervisord."""
    for name in (NAME, other):
        several.host.sh("cat > /etc/ssl/own-ca.crt", stdin=canaries.ca, name=name)
    example = yaml.safe_load((STOCKS / "hosts.yml").read_text())["all"]["vars"]
    variables = several.variables | canaries.variables
    variables |= {name: example[name] for name in ("prefect_packages", "prefect_worker_pool", "prefect_celery_app")}
    variables["prefect_celery_environment"] |= example["prefect_celery_environment"]
    variables |= {
        "prefect_api_ca": "/etc/ssl/own-ca.crt",
        "prefect_flows_deployment_scripts": [{"name": "any", "content": "import time; time.sleep(1)"}],
        "prefect_flows_source": str(STOCKS / "flows"),
        "prefect_redis_options": {
            "user": f"flows on +@all ~* &* >{variables['prefect_celery_broker_url'].split(':')[2].split('@')[0]}"
        },
    }
    several.variables = variables
    several.groups = GROUPS | {f"prefect_{name}": [NAME] for name in ("celery", "definitions")}
    everywhere = {f"prefect_{name}": [NAME, other] for name in ("server", "worker", "flows", "celery", "definitions")}
    cache, temporary = tmp_path / "facts", tmp_path / "tmp"
    temporary.mkdir()
    environment = {
        "ANSIBLE_CACHE_PLUGIN": "jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(cache),
        "TMPDIR": str(temporary),
    }
    said = ""
    with Watch(canaries) as watch:
        for playbook, source in (
            ("playbooks/definitions_load.yml", str(STOCKS / "definitions.yml")),
            ("site.yml", canaries.variables["prefect_definitions_source"]),
        ):
            variables["prefect_definitions_source"] = source
            ended = several.host.start(
                playbook,
                # PostgreSQL lets its own host in by the loopback alone.
                json.loads(json.dumps(variables).replace(f"@{NAME}:", "@127.0.0.1:")),
                groups=GROUPS | everywhere,
                # A queue of its own: the tasks of a run share a file on the host where they run.
                others={
                    other: variables | {"prefect_service_manager": "supervisord", "prefect_celery_queues": ["other"]}
                },
                arguments=("-vvv", "--diff"),
                environment=environment,
            ).wait()
            assert ended.rc == 0, ended.output
            said += ended.output
        several.host.sh(f"prefect-info --json; prefect deployment run {STOCK_FLOW} --watch --watch-timeout 300")

    assert canaries.within(said) == set(), "in what Ansible says"
    assert canaries.files(cache, temporary, several.host.scratch / "ansible") == []

    may_have: dict[str, set[str]] = {"root": set(), "prefect": set(), "prefect-worker": set(), "daemon": set()}
    wrong = []
    for name in (NAME, other):
        readable: dict[str, set[str]] = {user: set() for user in may_have}
        for line in several.host.sh(FIND, stdin="\n".join(canaries.names), name=name).splitlines():
            kind, path, *rest = line.split(" ")
            if kind != "file" or rest[0].rpartition(":")[2] not in ("600", "640"):
                wrong.append(f"{name}: {line}")
                continue
            held = {canaries.names[text] for text in rest[2].split(",")}
            for user in rest[1].split(",")[1:]:
                readable[user] |= held
            if path == "/etc/prefect/client.env":
                # The CLI takes it into the environment of the user who calls it.
                readable["root"] |= held
        # What is tried has to be there.
        assert {"prefect_settings", "prefect_worker_settings", "prefect_celery_broker_url"} <= readable[
            "prefect-worker"
        ]
        assert {"prefect_database_password", "prefect_server_settings"} <= readable["prefect"]
        may_have = {user: names | readable[user] for user, names in may_have.items()}
    assert wrong == []
    assert may_have["daemon"] == set()
    assert may_have["prefect-worker"] & SERVERS_OWN == set()

    # Deployment scripts have it for as long as they run.
    may_have["prefect-worker"].add("prefect_flows_environment")
    # An environment is for the eyes of its account alone, so it may hold what that account can read.
    of_uv = {("prefect_index_url", "root", program) for program in ("uv", "python")}
    """It gets the index in its environment, and asks each Python that it finds about itself."""
    odd = [
        sight
        for sight in watch.seen
        if sight.where == "cmdline" or (sight.name not in may_have.get(sight.user, set()) and sight[1:] not in of_uv)
    ]
    assert odd == []
    assert {sight.user for sight in watch.seen} >= {"prefect", "prefect-worker"}


def test_migrations_at_the_same_time_are_one(several: Several) -> None:
    script = """
        cd /
        systemctl stop prefect-server prefect-worker@default
        sql() { runuser --user postgres -- psql --quiet --tuples-only --no-align "$@"; }
        sql --command 'drop database prefect with (force)' --command 'create database prefect owner prefect'
        set -a; . /etc/prefect/server.env; set +a
        PREFECT_SERVER_DATABASE_MIGRATE_ON_START=false
        for number in 1 2 3; do runuser --user prefect -- /opt/prefect/migrate & pids="$pids $!"; done
        for pid in $pids; do wait $pid || exit 1; done
        sql prefect --command 'select count(*) from alembic_version' \\
            --command 'select count(distinct slug) = count(*) and count(*) > 1 from block_type'
        sql prefect --command "update alembic_version set version_num = 'fromafar'"
        runuser --user prefect -- /opt/prefect/migrate 2>&1 && exit 1 || true
    """
    said = several.host.sh(script)
    assert said.splitlines()[:2] == ["1", "t"]
    assert "the database has the schema fromafar of a newer Prefect" in said


def test_gone(several: Several, bare: set[str]) -> None:
    several.play("playbooks/absent.yml", prefect_purge="true")
    several.host.sh("rm --force /etc/ssl/own-ca.crt")
    assert several.host.manifest() == bare
