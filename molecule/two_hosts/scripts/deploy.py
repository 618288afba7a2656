"""Register the flow of stock.py, with a version that says which code it is and a tag that says where this ran."""

import hashlib
import socket
from pathlib import Path

from prefect import flow

flow.from_source(source=str(Path.cwd()), entrypoint="stock.py:stock").deploy(
    "nightly",
    work_pool_name="etl",
    tags=[socket.gethostname()],
    version=hashlib.sha256(Path("stock.py").read_bytes()).hexdigest(),
    ignore_warnings=True,
    print_next_steps=False,
)
