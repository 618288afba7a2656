"""The options of `module_utils/postgres.py`, for the documentation of the modules that log in to a PostgreSQL."""

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
    description: Whether the server has to speak TLS and prove who it is.
    type: bool
    default: false
  ca:
    description:
      - File on the host with the certificate authorities to trust, or themselves in PEM. Empty trusts the host's own.
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
    description: Whether the server's certificate has to name O(host).
    type: bool
    default: true
  account:
    description:
      - Account of this host to open a socket as, if it exists and root may. PostgreSQL may take it for the user.
    type: str
    default: ''
"""
