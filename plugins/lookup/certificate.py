"""A certificate from a private CA, generated once and kept on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: certificate
author: The selfhosted.prefect maintainers (@selfhosted)
short_description: A certificate from a private CA that is kept on the controller
version_added: 1.0.0
description:
  - Returns a certificate and its key. Generates them if they do not exist, if the names have changed, and a month
    before they expire. The first certificate of a directory also generates the CA that signs all of them, valid for ten
    years.
  - In check mode nothing is written; missing files are generated only for the prediction.
  - Requires the Python package C(cryptography) beside Ansible.
options:
  _terms:
    description: Names of certificates, relative to the directory. Certificates in the same directory share one CA.
    type: list
    elements: str
    required: true
  directory:
    description: Directory on the controller. Only its user can read the keys in it.
    type: path
    required: true
  names:
    description: Host names and IP addresses of the certificate. If empty, only the CA is returned.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ tls.ca }}"
  vars:
    tls: >-
      {{ lookup('selfhosted.prefect.certificate', 'prefect/db1', directory=prefect_secrets_dir, names=['db1']) }}
"""

RETURN = r"""
_raw:
  description: C(certificate) and C(key), if there are names, and C(ca), the CA's certificate, in PEM.
  type: list
  elements: dict
"""

import contextlib
import datetime
import fcntl
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.selfhosted.prefect.plugins.lookup.secret import hide_from_git, is_dry
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.certificates import MISSING
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_files import sync, write

if not MISSING:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
DAYS = 397
"""The longest validity that browsers accept from a public CA."""

RENEW_DAYS = 30
CA_RENEW_DAYS = 2 * DAYS
"""Longer than the validity of the certificates that the CA signs."""


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def is_address(name: str) -> bool:
    """Return whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


if TYPE_CHECKING:
    Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def pem_of(pair: Pair) -> tuple[bytes, bytes]:
    """Return a certificate and its key in PEM."""
    pem = serialization.Encoding.PEM
    key = pair[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pair[0].public_bytes(pem), key


def write_pair(base: Path, pair: Pair) -> None:
    """Write `<base>.key` and `<base>.crt` so that a run killed in between leaves a matching pair.

    The new key is kept beside the old one until the certificate is written: `load` takes the matching key.
    """
    certificate, key = pem_of(pair)
    waiting = waiting_key(base)
    write(waiting, key, mode=0o600)
    write(base.with_name(f"{base.name}.crt"), certificate, mode=0o644)
    waiting.replace(base.with_name(f"{base.name}.key"))
    sync(base.parent)


def waiting_key(base: Path) -> Path:
    return base.with_name(f"{base.name}.key.next")


def sign(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    days: int,
    extensions: list[tuple[x509.ExtensionType, bool]],
    ca: x509.Certificate | None = None,
    ca_key: ec.EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:
    """Return a certificate for a key, signed by the CA or self-signed; `extensions` have their critical flag."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])])
    signer = (ca_key or key).public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(ca.subject if ca else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # The clocks of hosts differ.
        .not_valid_before(now() - datetime.timedelta(hours=1))
        .not_valid_after(now() + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(ca_key or key, hashes.SHA256())


def usage(*, ca: bool) -> x509.KeyUsage:
    """Return the key usage: signing certificates for a CA, authentication otherwise."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def load(base: Path, *, dry: bool) -> Pair:
    """Return the certificate and key of a base name, and complete the renewal of a killed run unless `dry`.

    Raises OSError if they do not exist, ValueError if they are damaged.
    """
    certificate = x509.load_pem_x509_certificate(base.with_name(f"{base.name}.crt").read_bytes())
    current, waiting = base.with_name(f"{base.name}.key"), waiting_key(base)
    for path in (current, waiting):
        if path is waiting and not path.exists():
            break
        if path is current and not path.exists() and waiting.exists():
            continue
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key():
            if path is waiting and not dry:
                waiting.replace(current)
                sync(base.parent)
            return certificate, key
    raise ValueError(f"{base}.key is not the key of {base}.crt")


def authority(directory: Path, *, dry: bool) -> Pair:
    """Return the CA of a directory; generate it if it does not exist, and write it unless `dry`.

    A CA that expires soon gets a new certificate for the same key, so that a client that trusts either certificate
    trusts everything signed with the key.
    """
    base = directory / "ca"
    try:
        certificate, key = load(base, dry=dry)
        if certificate.not_valid_after_utc - now() > datetime.timedelta(days=CA_RENEW_DAYS):
            return certificate, key
    except FileNotFoundError as error:
        if base.with_name("ca.crt").exists():
            raise ValueError(
                f"{base}.crt has lost its key {base}.key; put it back, or remove the certificate too, which gives "
                "every host a new CA"
            ) from error
        key = ec.generate_private_key(ec.SECP256R1())
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage(ca=True), True),
    ]
    certificate = sign(f"Prefect CA ({directory.name})", key, days=CA_DAYS, extensions=extensions)
    if not dry:
        write_pair(base, (certificate, key))
    return certificate, key


def names_of(certificate: x509.Certificate) -> set[str]:
    """Return the host names and IP addresses of a certificate."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def holds(certificate: x509.Certificate, *, names: set[str], ca: x509.Certificate) -> bool:
    """Return whether a certificate is signed by the CA, has exactly these names and does not expire soon."""
    ends = certificate.not_valid_after_utc - now()
    if names_of(certificate) != names or ends < datetime.timedelta(days=RENEW_DAYS):
        return False
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:
        return False
    return True


def certificate_for(base: Path, names: list[str], *, dry: bool = False) -> dict[str, str]:
    """Return certificate, key and CA in PEM, generated or renewed if needed; a `dry` run writes nothing.

    If several processes run at once, one of them generates the files. Raises OSError if the directory is not writable,
    ValueError for files that are not a certificate or key.
    """
    if not dry:
        base.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(base.parent):
        ca, ca_key = authority(base.parent, dry=dry)
        text = ca.public_bytes(serialization.Encoding.PEM).decode()
        if not names:
            return {"ca": text}
        try:
            certificate, key = load(base, dry=dry)
            good = holds(certificate, names=set(names), ca=ca)
        except FileNotFoundError:
            good = False
        if not good:
            key = ec.generate_private_key(ec.SECP256R1())
            alternatives: list[x509.GeneralName] = [
                x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)
                for name in dict.fromkeys(names)
            ]
            extensions: list[tuple[x509.ExtensionType, bool]] = [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (usage(ca=False), True),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
                (x509.SubjectAlternativeName(alternatives), False),
            ]
            certificate = sign(names[0], key, days=DAYS, extensions=extensions, ca=ca, ca_key=ca_key)
            if not dry:
                write_pair(base, (certificate, key))
        pem, secret = pem_of((certificate, key))
    return {"certificate": pem.decode(), "key": secret.decode(), "ca": text}


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, if it exists."""
    if not directory.is_dir():
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, str]]:
        self.set_options(var_options=variables, direct=kwargs)
        directory, names = Path(self.get_option("directory")), [str(name) for name in self.get_option("names")]
        if MISSING:
            raise AnsibleLookupError(f"prefect_secrets_dir: {MISSING}")
        try:
            dry = is_dry(variables)
            if not dry:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                hide_from_git(directory)
            return [certificate_for(directory / term, names, dry=dry) for term in terms]
        except (OSError, ValueError) as error:
            raise AnsibleLookupError(
                f"prefect_secrets_dir: {error}; remove the damaged files to have new ones generated"
            ) from error
