"""The options of `module_utils/host/postgres.py`, for the documentation of the modules that log in to PostgreSQL."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  host:
    description: Host of the database, or the directory on this host that holds its socket.
    type: str
    required: true
  port:
    description: Port of the database.
    type: int
    default: 5432
  name:
    description: Name of the database.
    type: str
    required: true
  user:
    description: User of the database.
    type: str
    required: true
  password:
    description: Password of that user.
    type: str
    default: ''
  tls:
    description: Whether to require TLS and verify the server's certificate.
    type: bool
    default: false
  ca:
    description:
      - The certificate authorities to trust, as a file on the host or as PEM text. Empty trusts the host's own.
    type: str
    default: ''
  cert:
    description: File on the host with the client certificate.
    type: str
    default: ''
  key:
    description: File on the host with the key of that certificate.
    type: str
    default: ''
  check_hostname:
    description: Whether the server's certificate must name O(host).
    type: bool
    default: true
  account:
    description:
      - Account of this host to open a socket as, if the account exists and the module runs as root. PostgreSQL may
        authenticate the user by it.
    type: str
    default: ''
"""
