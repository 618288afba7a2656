"""Certificates of the private CA: made once, renewed when they have to be, and good enough for OpenSSL."""

from __future__ import annotations

import datetime
import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup import certificate
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import certificate_for
from cryptography import x509


def test_it_is_made_once(tmp_path: Path) -> None:
    first = certificate_for(tmp_path / "db1", ["db1", "10.0.0.5", "::1"])
    assert certificate_for(tmp_path / "db1", ["::1", "db1", "10.0.0.5"]) == first
    assert certificate_for(tmp_path / "anything", [])["ca"] == first["ca"]
    assert {path.name for path in tmp_path.iterdir()} == {"ca.crt", "ca.key", "db1.crt", "db1.key"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.key")} == {0o600}


def test_openssl_takes_it(tmp_path: Path) -> None:
    pair = certificate_for(tmp_path / "db1", ["db1"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "db1.crt", tmp_path / "db1.key")
    client = ssl.create_default_context(cadata=pair["ca"])
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(back, there, server_hostname="db1")
    server_side = server.wrap_bio(there, back, server_side=True)
    for side in (client_side, server_side, client_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client_side.version() == "TLSv1.3"


def test_other_names_ask_for_another(tmp_path: Path) -> None:
    first = certificate_for(tmp_path / "db1", ["db1"])
    second = certificate_for(tmp_path / "db1", ["db1", "db1.example.org"])
    assert second["certificate"] != first["certificate"]
    assert second["ca"] == first["ca"]


def test_it_is_renewed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = certificate_for(tmp_path / "db1", ["db1"])
    later = certificate.now() + datetime.timedelta(days=certificate.DAYS - certificate.RENEW_DAYS + 1)
    monkeypatch.setattr(certificate, "now", lambda: later)
    assert certificate_for(tmp_path / "db1", ["db1"])["certificate"] != first["certificate"]


def test_the_authority_is_renewed_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, key = certificate_for(tmp_path / "db1", ["db1"]), (tmp_path / "ca.key").read_bytes()
    late = certificate.now() + datetime.timedelta(days=certificate.CA_DAYS - certificate.CA_RENEW_DAYS + 1)
    monkeypatch.setattr(certificate, "now", lambda: late)
    second = certificate_for(tmp_path / "db1", ["db1"])
    assert second["ca"] != first["ca"]
    assert (tmp_path / "ca.key").read_bytes() == key
    for issued in (first, second):
        signed = x509.load_pem_x509_certificate(issued["certificate"].encode())
        signed.verify_directly_issued_by(x509.load_pem_x509_certificate(second["ca"].encode()))


def test_another_authority_issues_a_new_certificate(tmp_path: Path) -> None:
    first = certificate_for(tmp_path / "db1", ["db1"])
    for path in tmp_path.glob("ca.*"):
        path.unlink()
    assert certificate_for(tmp_path / "db1", ["db1"])["certificate"] != first["certificate"]


def test_a_key_of_another_is_refused(tmp_path: Path) -> None:
    certificate_for(tmp_path / "one", ["one"])
    certificate_for(tmp_path / "other", ["other"])
    (tmp_path / "other.key").replace(tmp_path / "one.key")
    with pytest.raises(ValueError, match="is not the key of"):
        certificate_for(tmp_path / "one", ["one"])


class Killed(BaseException):
    """What stands for SIGKILL: no code catches it."""


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("what", ["first", "names", "authority"])
def test_a_run_that_was_killed_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, step: int
) -> None:
    """Killed before the step-th file of a pair is in its place."""
    if what != "first":
        certificate_for(tmp_path / "db1", ["db1"])
    if what == "authority":
        late = certificate.now() + datetime.timedelta(days=certificate.CA_DAYS - certificate.CA_RENEW_DAYS + 1)
        monkeypatch.setattr(certificate, "now", lambda: late)
    replace, left = Path.replace, step

    def until_killed(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", until_killed)
        with pytest.raises(Killed):
            certificate_for(tmp_path / "db1", ["db1", "other"])
    pair = certificate_for(tmp_path / "db1", ["db1", "other"])
    assert certificate_for(tmp_path / "db1", ["db1", "other"]) == pair
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "db1.crt", tmp_path / "db1.key")
    assert (tmp_path / "db1.key").read_text() == pair["key"]


def test_an_authority_without_its_key_is_not_replaced(tmp_path: Path) -> None:
    certificate_for(tmp_path / "db1", ["db1"])
    (tmp_path / "ca.key").unlink()
    with pytest.raises(ValueError, match=r"ca\.crt has lost its key"):
        certificate_for(tmp_path / "db1", ["db1"])


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    fresh = certificate_for(tmp_path / "new/db1", ["db1"], dry=True)
    assert fresh["certificate"] and fresh["key"] and fresh["ca"]
    assert list(tmp_path.iterdir()) == []
    held = certificate_for(tmp_path / "db1", ["db1"])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert certificate_for(tmp_path / "db1", ["db1"], dry=True) == held
    assert certificate_for(tmp_path / "db1", ["db2"], dry=True)["ca"] == held["ca"]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


WITHOUT_CRYPTOGRAPHY = """
import datetime, importlib, pathlib, sys

sys.modules["cryptography"] = None
plugins = "ansible_collections.selfhosted.prefect.plugins"
for kind in ("action", "filter", "lookup", "plugin_utils"):
    for path in sorted(pathlib.Path(sys.argv[1], kind).glob("[!_]*.py")):
        importlib.import_module(f"{plugins}.{kind}.{path.stem}")

certificates = sys.modules[f"{plugins}.plugin_utils.certificates"]
print(certificates.problems("", "", "a.example", now=datetime.datetime.now(), variable="prefect_proxy_certificate")[0])
host = object.__new__(sys.modules[f"{plugins}.action.host_preflight"].ActionModule)
host._task = type("Task", (), {"args": {"secrets": {"names": ["api", "ca"]}}, "async_val": 0})()
sys.modules["ansible.plugins.action"].ActionBase.run = lambda *_: {}
print(host.run()["msg"])
lookup = object.__new__(sys.modules[f"{plugins}.lookup.certificate"].LookupModule)
lookup.set_options, lookup.get_option = lambda **_: None, lambda name: "."
try:
    lookup.run([])
except Exception as error:
    print(error)
"""


def test_a_controller_without_cryptography() -> None:
    """Everything that makes no certificate works there, and the rest says what to install before a host is read."""
    plugins = Path(certificate.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CRYPTOGRAPHY, str(plugins)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    given, preflight, lookup = done.stdout.splitlines()
    says = (
        f"certificates need the Python package cryptography on the controller, and Ansible's Python, {sys.executable}"
    )
    assert given.startswith(f"prefect_proxy_certificate: {says}")
    assert preflight.startswith(f"prefect_secrets_dir: {says}")
    assert lookup.startswith(f"prefect_secrets_dir: {says}")
