"""A host that already has a life: what belongs to others is refused, or adopted and given back digest by digest.

The order of the tests is that of the file; the host is as it was at the end of each.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_host import NAME, Ended, Host, Variables

SERVER = {f"prefect_{name}": [NAME] for name in ("server", "worker", "flows")}
ALL = {f"prefect_{name}": [NAME] for name in ("postgres", "redis", "server", "proxy", "worker", "flows")}

DEPLOY = """
useradd --create-home --shell /bin/bash deploy
echo foreign > /home/deploy/notes.txt && mkdir /home/deploy/project && echo foreign > /home/deploy/project/main.py
chown -R deploy: /home/deploy
mkdir -p /srv/apps/shop /etc/site /srv/data
echo foreign > /srv/apps/shop/app.py && echo foreign > /etc/site/site.conf && echo foreign > /srv/data/picture
chmod 2775 /srv/apps && chown -R www-data: /srv/data
echo '10.99.0.1 shop.example.com prefect.example.com' >> /etc/hosts
"""
"""An account with a home, directories with files, and a line of /etc/hosts with Prefect's domain as an alias."""

HANDMADE = r"""
useradd --system --home-dir /var/lib/prefect --create-home --shell /usr/sbin/nologin prefect
mkdir -p /opt/prefect/venv/bin /opt/prefect/flows
cat > /opt/prefect/venv/bin/prefect <<END
#!/usr/bin/python3
import http.server
http.server.test(http.server.SimpleHTTPRequestHandler, port=4200)
END
chmod 755 /opt/prefect/venv/bin/prefect
echo 'print("foreign")' > /opt/prefect/flows/shop.py
chown -R prefect: /opt/prefect
cat > /etc/systemd/system/prefect-server.service <<END
[Service]
User=prefect
WorkingDirectory=/opt/prefect/flows
ExecStart=/opt/prefect/venv/bin/prefect server start
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload && systemctl enable --quiet --now prefect-server
until ss -tln | grep -q :4200; do sleep 0.1; done
"""
"""A Prefect server that a person installed by hand, as Prefect's documentation describes."""

SERVICES = r"""
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends nginx postgresql redis-server > /dev/null
cat > /etc/nginx/conf.d/shop.conf <<END
server { listen 8080; server_name shop.example.com; location / { return 200 "foreign"; } }
END
systemctl reload nginx
cd /
sql() { runuser --user postgres -- psql --quiet "$@"; }
sql --command "create role shop login password 'foreign'" --command "create role prefect login password 'foreign'"
runuser --user postgres -- createdb --owner shop shop
runuser --user postgres -- createdb --owner prefect prefect
sql --dbname shop --command "create table orders as select 1 as number"
pg_createcluster $(pg_lsclusters --no-header | cut -d ' ' -f 1) second > /dev/null
redis-cli set shop kept
"""
"""Nginx with a site, PostgreSQL with databases and roles and a second cluster that does not run, Redis with data."""

SHOP = """python3 -c 'import urllib.request as r; print(r.urlopen("http://127.0.0.1:8080").read().decode())'"""
"""Request the site that existed before."""


class Life:
    """The host and what was on it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        # Prefect's CLI creates this for the person who runs it, here below.
        host.sh("mkdir --parents --mode=700 /root/.prefect")
        host.sh(f"set -e\n{DEPLOY}\n{SERVICES}\n{HANDMADE}")
        self.before = host.manifest()

    def play(
        self, variables: Variables, *arguments: str, groups: dict[str, list[str]] = SERVER, playbook: str = "site.yml"
    ) -> Ended:
        return self.host.start(playbook, variables, groups=groups, arguments=arguments).wait(timeout=900)

    def refused(self, variables: Variables, *says: str, groups: dict[str, list[str]] = SERVER) -> None:
        ended = self.play(variables, groups=groups)
        assert ended.rc == 2, ended.output
        missing = [text for text in says if text not in ended.words]
        assert not missing, f"{missing} is not in:\n{ended.output}"
        assert self.host.manifest() == self.before


@pytest.fixture(scope="module")
def life(host: Host) -> Iterator[Life]:
    yield Life(host)
    host.sh("systemctl disable --quiet --now prefect-server; rm /etc/systemd/system/prefect-server.service")


def test_a_handmade_prefect_is_refused_with_all_that_was_found(life: Life) -> None:
    life.refused(
        {},
        "prefect_user: the user prefect exists",
        "add user to prefect_adopt",
        "prefect_opt_dir: /opt/prefect is a directory of prefect",
        "add directories to prefect_adopt",
        "/etc/systemd/system/prefect-server.service is a file of root",
        "add units to prefect_adopt",
    )


def test_directories_and_accounts_of_others_are_refused(life: Life) -> None:
    life.refused(
        {
            "prefect_instance": "blue",
            "prefect_user": "deploy",
            "prefect_home": "/home/deploy",
            "prefect_opt_dir": "/srv/apps",
            "prefect_etc_dir": "/etc/site",
        },
        "prefect_user: the user deploy exists",
        "prefect_home: /home/deploy is a directory of deploy",
        "prefect_opt_dir: /srv/apps is a directory of root",
        "prefect_etc_dir: /etc/site is a directory of root",
    )


def test_a_role_and_a_database_of_others_are_refused(life: Life) -> None:
    life.refused(
        {},
        "prefect_database_user: PostgreSQL",
        "has a role prefect, and this collection did not create it",
        "prefect_database_name: PostgreSQL",
        "add database to prefect_adopt",
        groups={"prefect_postgres": [NAME]},
    )


def test_what_was_adopted_is_as_it_was_when_prefect_is_removed(life: Life) -> None:
    adopted: Variables = {
        "prefect_adopt": ["user", "directories", "units"],
        "prefect_etc_dir": "/etc/site",
        "prefect_database_name": "prefect_new",
        "prefect_database_user": "prefect_new",
        "prefect_postgres_memory_share": 5,
        "prefect_redis_port": 6380,
        "prefect_proxy_domain": "prefect.example.com",
        "prefect_proxy_hosts_entry": True,
    }
    ended = life.play(adopted, groups=ALL)
    assert ended.rc == 0, ended.output
    assert "Completed" in life.host.sh("prefect deployment run hello-flow/example --watch")
    assert life.play(adopted, groups=ALL).changed == 0
    assert life.host.sh("cat /opt/prefect/flows/shop.py") == 'print("foreign")'
    assert life.host.sh(SHOP) == "foreign"
    ended = life.play(adopted, "-e", "prefect_state=absent", "-e", "prefect_purge=true", groups=ALL)
    assert ended.rc == 0, ended.output
    assert life.host.manifest() == life.before
    assert life.host.sh("systemctl is-active prefect-server") == "active"
    assert life.host.sh("redis-cli get shop") == "kept"
