"""What every unit test may rely on, beside tests/conftest.py."""

from __future__ import annotations

import os

# No test meets a server whose certificate the machine trusts, and reading a hundred authorities takes 50 ms for each
# connection.
os.environ |= {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
