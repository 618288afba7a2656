"""A controller that lacks secrets which hosts have: what is compared, what is said, and what is fetched."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from ansible_collections.selfhosted.prefect.plugins.filter.secrets import fingerprints as remembered_by
from ansible_collections.selfhosted.prefect.plugins.filter.secrets import lacking
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import certificate_for, load, write_pair
from ansible_collections.selfhosted.prefect.plugins.lookup.secret import secret
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import fingerprints
from ansible_collections.selfhosted.prefect.plugins.modules import host_secrets as secrets
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_secrets import explained, refusals, replace, store
from fake_api import outcome

ROOT = Path(__file__).resolve().parents[2]


def remember(path: Path, texts: dict[str, str]) -> None:
    """Write what a host remembers, as the template does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {fingerprint}" for name, fingerprint in remembered_by(texts, {}).items()]
    path.write_text("\n".join(["#", "# Ansible managed", "#", *lines]) + "\n")


def test_a_fingerprint_recognizes_its_secret_and_no_other() -> None:
    known = fingerprints.fingerprint("api", "x" * 40)
    assert fingerprints.matches(known, "api", "x" * 40)
    assert not fingerprints.matches(known, "api", "y" * 40)
    assert not fingerprints.matches(known, "redis", "x" * 40)
    assert "x" * 8 not in known and known != fingerprints.fingerprint("api", "x" * 40)


def test_what_is_written_is_read_and_written_again_alike(tmp_path: Path) -> None:
    path = tmp_path / "fingerprints"
    assert fingerprints.read(path) == {}
    remember(path, {"api": "a", "redis": "r"})
    known = fingerprints.read(path)
    assert known.keys() == {"api", "redis"}
    assert remembered_by({"api": "a", "redis": "r"}, known) == known
    changed = remembered_by({"api": "b", "redis": "r"}, known)
    assert changed["redis"] == known["redis"] and fingerprints.matches(changed["api"], "api", "b")


def test_a_renewed_ca_is_the_same_and_another_one_is_not(tmp_path: Path) -> None:
    first = certificate_for(tmp_path / "one" / "ca", [])["ca"]
    known = remembered_by({"ca": first}, {})
    certificate, key = load(tmp_path / "one" / "ca", dry=False)
    write_pair(tmp_path / "one" / "ca", (certificate, key))
    assert remembered_by({"ca": certificate_for(tmp_path / "one" / "ca", [])["ca"]}, known) == known
    assert remembered_by({"ca": certificate_for(tmp_path / "two" / "ca", [])["ca"]}, known) != known


def compared(directory: Path, texts: dict[str, str], *, names: list[str] | None = None, replaced: str = "") -> str:
    """Return what is said of a host that remembers `texts` and uses `names`, all of them by default."""
    known = {"/etc/prefect/fingerprints": remembered_by(texts, {})}
    return "\n".join(refusals("db1", directory, names or list(texts), known, replaced=[replaced]))


def test_a_secret_that_the_controller_lost(tmp_path: Path) -> None:
    said = compared(tmp_path, {"api": "a", "ca": certificate_for(tmp_path / "elsewhere" / "ca", [])["ca"]})
    assert f"db1 remembers the secret 'api', the CA, generated at an earlier run, and {tmp_path} on this" in said
    assert "fetch the secret 'api' from the hosts with the playbook secrets (make secrets)" in said
    assert """the playbook rotate: -e '{"prefect_rotate": ["api", "ca"]}'""" in said
    assert "The key of a CA is on no host" in said


def test_a_secret_that_another_controller_replaced(tmp_path: Path) -> None:
    (tmp_path / "api").write_text("old\n")
    said = compared(tmp_path, {"api": "new"})
    assert "holds another one" in said and f"Move {tmp_path}/api away first" in said
    assert "old" not in said.replace("holds", "")


@pytest.mark.parametrize("known", [{}, {"api": "a"}, {"redis": "of an earlier inventory"}])
def test_nothing_is_said_where_nothing_is_lost(tmp_path: Path, known: dict[str, str]) -> None:
    (tmp_path / "api").write_text("a\n")
    assert compared(tmp_path, known, names=["api"]) == ""


def test_what_is_replaced_on_purpose_may_differ_until_every_host_has_it(tmp_path: Path) -> None:
    (tmp_path / "api").write_text("old\n")
    assert replace(tmp_path, ["api", "database"]) == ["api"]
    # A run that is cut off here: the next one of site.yml goes on.
    assert compared(tmp_path, {"api": "old"}) == ""
    (tmp_path / "api").write_text("new\n")
    assert compared(tmp_path, {"api": "old"}) == compared(tmp_path, {"api": "new"}) == ""
    assert "holds another one" in compared(tmp_path, {"api": "third"})
    assert compared(tmp_path, {"api": "third"}, replaced="api") == ""


def test_a_ca_is_replaced_with_its_key(tmp_path: Path) -> None:
    first = certificate_for(tmp_path / "proxy", ["a"])
    assert replace(tmp_path, ["ca"]) == ["ca"]
    second = certificate_for(tmp_path / "proxy", ["a"])
    assert first["ca"] != second["ca"] and first["certificate"] != second["certificate"]
    assert compared(tmp_path, {"ca": first["ca"]}) == compared(tmp_path, {"ca": second["ca"]}) == ""


def test_fetched_secrets_are_for_their_user_alone_and_overwrite_none(tmp_path: Path) -> None:
    root = tmp_path / ".secrets"
    assert store(root, "prefect", {"api": "a"}, dry=True) == [str(root / "prefect/api")] and not root.exists()
    assert store(root, "prefect", {"api": "a"}, dry=False) == [str(root / "prefect/api")]
    assert stat.S_IMODE((root / "prefect/api").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "prefect").stat().st_mode) == 0o700
    assert (root / ".gitignore").read_text() == "*\n"
    assert secret(root, "prefect/api") == "a"
    assert store(root, "prefect", {"api": "a"}, dry=False) == []
    with pytest.raises(ValueError, match="holds another secret than this host; it is not overwritten") as said:
        store(root, "prefect", {"api": "another"}, dry=False)
    assert "another'" not in str(said.value) and secret(root, "prefect/api") == "a"


def test_secrets_are_found_in_the_settings_of_a_host(tmp_path: Path) -> None:
    api, database, redis = ("ABcd1" * 8, "efGH2" * 8, "ijKL3" * 8)
    (tmp_path / "client.env").write_text(f'#\nPREFECT_API_AUTH_STRING="admin:{api}"\nPREFECT_API_URL="http://x"\n')
    (tmp_path / "server.env").write_text(
        f'PREFECT_SERVER_DATABASE_PASSWORD="{database}"\n'
        f'PREFECT_SERVER_DOCKET_URL="redis://:{redis}@127.0.0.1:6379/1"\nPREFECT_X="{"z" * 40}"\n'
    )
    host = {"name": "prefect-test", "etc_dir": str(tmp_path), "scope": "user"}
    wanted = {"api": api, "database": database, "redis": redis}
    # A host of an earlier version remembers none.
    assert outcome(secrets.main, **host)["secrets"] == wanted
    remember(tmp_path / "fingerprints", {"api": api, "redis": redis})
    # What its user set is not generated, whatever it looks like.
    assert outcome(secrets.main, **host)["secrets"] == {"api": api, "redis": redis}


def test_a_password_of_the_user_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "client.env").write_text('PREFECT_API_AUTH_STRING="ada:my own"\n')
    host = {"name": "prefect-test", "etc_dir": str(tmp_path), "scope": "user"}
    assert outcome(secrets.main, **host)["secrets"] == {}


def test_what_the_controller_lacks(tmp_path: Path) -> None:
    assert lacking(["api", "ca"], str(tmp_path), "prefect") == ["api", "ca"]
    certificate_for(tmp_path / "prefect" / "ca", [])
    assert lacking(["api", "ca"], str(tmp_path), "prefect") == ["api"]


@pytest.mark.parametrize("where", ["msg", "module_stdout", "module_stderr"])
def test_a_sudo_that_asks_for_a_terminal_is_explained(where: str) -> None:
    said = explained({"failed": True, where: "sudo: sorry, you must have a tty to run sudo\n"})["msg"]
    assert said.startswith("ansible_pipelining: sudo on this host asks for a terminal (requiretty in its sudoers)")
    assert "set ansible_pipelining to false for this host" in said
    other = {"failed": True, "msg": "no space left"}
    assert explained(other) == other
