"""What a module returns, before its action has removed the secrets from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ansible.plugins.action import ActionBase


@contextmanager
def hidden(action: ActionBase) -> Iterator[None]:
    """Keep the output of a module out of `-vvv`, where the ssh connection shows it as the host sent it.

    The result of the task is shown as usual, unlike with `no_log` on the task, which hides its errors as well.
    """
    context = action._connection._play_context
    before, context.no_log = context.no_log, True
    try:
        yield
    finally:
        context.no_log = before
