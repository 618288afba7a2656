"""A certificate from a private CA that is made up once and kept on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: certificate
author: The selfhosted.prefect maintainers
short_description: A certificate from a private CA that is kept on the controller
description:
  - Returns a certificate with its key, and makes them where there are none, where the names have changed, and a month
    before they end. The first one brings the CA that signs them all, which lasts for ten years.
  - It needs the Python package C(cryptography) beside Ansible.
options:
  _terms:
    description: Name of the certificate, relative to the directory. Certificates beside each other have one CA.
    type: list
    elements: str
    required: true
  directory:
    description: Directory on the controller, of which only its user can read the keys.
    type: path
    required: true
  names:
    description: Host names and IP addresses that the certificate is for. Left out, only the CA is returned.
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
  description: C(certificate) and C(key), where there are names, and the C(ca)'s certificate, in PEM.
  type: list
  elements: dict
"""

import datetime
import fcntl
import ipaddress
import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    MISSING = "prefect_secrets_dir: to make certificates the controller needs cryptography; install it beside Ansible"
else:
    MISSING = ""

CA_DAYS = 3650
DAYS = 397
"""What browsers accept at most from a public CA, plus nothing."""

RENEW_DAYS = 30
CA_RENEW_DAYS = 2 * DAYS
"""More than what the CA signs is good for."""


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def is_address(name: str) -> bool:
    """Return whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def write(path: Path, content: bytes, *, mode: int) -> None:
    """Replace a file; nobody ever sees half of it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)


def write_pair(base: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Write `<base>.key` and `<base>.crt`, the certificate last: without it the key counts for nothing."""
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write(base.with_name(f"{base.name}.key"), secret, mode=0o600)
    write(base.with_name(f"{base.name}.crt"), certificate.public_bytes(pem), mode=0o644)


def sign(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    days: int,
    extensions: list[tuple[x509.ExtensionType, bool]],
    ca: x509.Certificate | None = None,
    ca_key: ec.EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:
    """Return a certificate of a key, signed by the CA or, without one, by itself; `extensions` say if critical."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])])
    signer = (ca_key or key).public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(ca.subject if ca else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ.
        .not_valid_before(now() - datetime.timedelta(hours=1))
        .not_valid_after(now() + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(ca_key or key, hashes.SHA256())


def usage(*, ca: bool) -> x509.KeyUsage:
    """Return what a key is for: signing certificates, or proving who one is."""
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


def load(base: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the certificate and the key of a base name. Raises OSError where there is none, ValueError if spoilt."""
    certificate = x509.load_pem_x509_certificate(base.with_name(f"{base.name}.crt").read_bytes())
    key = serialization.load_pem_private_key(base.with_name(f"{base.name}.key").read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError(f"{base}.key is not the key of {base}.crt")
    return certificate, key


def authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the CA of a directory, made if there is none.

    One that ends soon gets a new certificate for its old key, so whoever trusts either trusts what is signed by both.
    """
    base = directory / "ca"
    try:
        certificate, key = load(base)
        if certificate.not_valid_after_utc - now() > datetime.timedelta(days=CA_RENEW_DAYS):
            return certificate, key
    except FileNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage(ca=True), True),
    ]
    certificate = sign(f"Prefect CA ({directory.name})", key, days=CA_DAYS, extensions=extensions)
    write_pair(base, certificate, key)
    return certificate, key


def names_of(certificate: x509.Certificate) -> set[str]:
    """Return the host names and IP addresses that a certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def holds(certificate: x509.Certificate, *, names: set[str], ca: x509.Certificate) -> bool:
    """Return whether a certificate of ours can go on."""
    ends = certificate.not_valid_after_utc - now()
    if names_of(certificate) != names or ends < datetime.timedelta(days=RENEW_DAYS):
        return False
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:
        return False
    return True


def certificate_for(base: Path, names: list[str]) -> dict[str, str]:
    """Return certificate, key and CA in PEM, made or renewed where needed. Of several processes at once, one does it.

    Raises OSError where the directory cannot be written, ValueError for files that are no certificate or key.
    """
    base.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(base.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        ca, ca_key = authority(base.parent)
        text = ca.public_bytes(serialization.Encoding.PEM).decode()
        if not names:
            return {"ca": text}
        try:
            certificate, _ = load(base)
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
            write_pair(base, certificate, key)
    finally:
        os.close(descriptor)
    return {
        "certificate": base.with_name(f"{base.name}.crt").read_text(),
        "key": base.with_name(f"{base.name}.key").read_text(),
        "ca": text,
    }


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, str]]:
        self.set_options(var_options=variables, direct=kwargs)
        directory, names = Path(self.get_option("directory")), [str(name) for name in self.get_option("names")]
        if MISSING:
            raise AnsibleLookupError(MISSING)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            (directory / ".gitignore").write_text("*\n", encoding="utf-8")
            return [certificate_for(directory / term, names) for term in terms]
        except (OSError, ValueError) as error:
            raise AnsibleLookupError(f"prefect_secrets_dir: {error}; remove what is spoilt, it is made anew") from error
