"""Validation of certificates that the user provides."""

from __future__ import annotations

import sys
from datetime import datetime

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
except ImportError:
    MISSING = (
        "certificates need the Python package cryptography on the controller, and Ansible's Python, "
        f"{sys.executable}, does not have it; install it there (python3-cryptography of the distribution, or with "
        f"{sys.executable} -m pip where Ansible is in a virtual environment)"
    )
    """Why this controller can neither generate nor read certificates; empty if it can."""
else:
    MISSING = ""


def names_of(certificate: x509.Certificate) -> list[str]:
    """Return the host names and IP addresses of a certificate."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*extension.get_values_for_type(x509.DNSName), *map(str, extension.get_values_for_type(x509.IPAddress))]


def covers(pattern: str, name: str) -> bool:
    """Return whether a certificate's name, which may have a wildcard as its first label, matches a host name."""
    pattern, name = pattern.lower(), name.lower()
    if pattern.startswith("*."):
        return "." in name and pattern[2:] == name.partition(".")[2]
    return pattern == name


def public_bytes(key: object) -> bytes:
    """Return a public key in DER."""
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def problems(certificate: str, key: str, name: str, *, now: datetime, variable: str) -> list[str]:
    """Return the errors in a certificate chain and its key, both PEM, for the host `name` at the time `now`.

    Each error starts with `variable`, the name of the certificate's variable; the key's variable ends in `_key`.
    """
    if MISSING:
        return [f"{variable}: {MISSING}"]
    try:
        chain = x509.load_pem_x509_certificates(certificate.encode())
    except ValueError:
        return [f"{variable}: there is no certificate in PEM in it"]
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except TypeError:
        return [f"{variable}_key: it is encrypted, and Nginx starts without anybody to ask; give it decrypted"]
    except ValueError:
        return [f"{variable}_key: there is no private key in PEM in it"]
    found, leaf, public = [], chain[0], public_bytes(private.public_key())
    if public_bytes(leaf.public_key()) != public:
        later = any(public_bytes(other.public_key()) == public for other in chain[1:])
        order = "; the certificate of the key comes later in the file and has to come first" if later else ""
        found.append(f"{variable}_key: it is not the key of the certificate{order}")
    if now > leaf.not_valid_after_utc:
        found.append(f"{variable}: it has expired, on {leaf.not_valid_after_utc:%Y-%m-%d}")
    if now < leaf.not_valid_before_utc:
        found.append(f"{variable}: it is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    names = names_of(leaf)
    if not any(covers(pattern, name) for pattern in names):
        found.append(f"{variable}: it is for {', '.join(names) or 'no name'}, and prefect_proxy_domain is {name}")
    return found


def public_key(certificate: str) -> str:
    """Return the public key of a PEM certificate as hexadecimal DER. Raises ValueError for other text."""
    return public_bytes(x509.load_pem_x509_certificate(certificate.encode()).public_key()).hex()
