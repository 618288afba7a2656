#!/usr/bin/python
"""Set the defaults that a Prefect server keeps for all clients."""

from __future__ import annotations

DOCUMENTATION = r"""
module: server_settings
short_description: Manage the defaults that a Prefect server keeps for all clients
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Sets the default storage of flow results over Prefect's API.
  - Settings of the server itself are environment variables; see the variable C(prefect_settings).
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Reports what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the defaults that change.
    support: full
options:
  result_storage:
    description:
      - The storage block for results, as C(type/name), such as V(s3-bucket/results). An empty text removes the default.
      - Older versions of Prefect, such as 3.5, do not support this default.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Store results in a bucket
  selfhosted.prefect.server_settings:
    api_url: http://127.0.0.1:4200/api
    result_storage: s3-bucket/results
"""

RETURN = r"""
object:
  description: The defaults as they are now, or as they would be in check mode.
  returned: success
  type: dict
  sample:
    result_storage: s3-bucket/results
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from collections.abc import Mapping
from typing import Any

from ..module_utils.api.module import Api, ApiError, Failure, run_module
from ..module_utils.objects.engine import Server
from ..module_utils.objects.table import KINDS

PATH = "/admin/storage"
FIELD = "default_result_storage_block_id"


def work(api: Api, params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Return the module's result. Raises Failure."""
    wanted = params["result_storage"] or None
    if wanted and wanted.count("/") != 1:
        raise Failure(f"result_storage is {wanted!r}: it should be like type/name")
    try:
        present = api.get(PATH)[FIELD]
    except ApiError as error:
        if error.status != 404:
            raise
        raise Failure(f"{api.url} is of a version of Prefect that keeps no default for results") from error
    server = Server(api, KINDS)
    row = server.find("block", wanted) if wanted else None
    if wanted and row is None:
        raise Failure(f"there is no block {wanted} at {api.url}")
    before = None if present is None else server.name_of("block", present)
    changed = (row["id"] if row else None) != present
    if changed and not check_mode:
        if row:
            api.call("PUT", PATH, {FIELD: row["id"]})
        else:
            api.call("DELETE", PATH)
    return {
        "changed": changed,
        "object": {"result_storage": wanted},
        "diff": {"before": {"result_storage": before}, "after": {"result_storage": wanted}},
    }


def main() -> None:
    run_module(work, {"result_storage": {"type": "str", "required": True}})


if __name__ == "__main__":
    main()
