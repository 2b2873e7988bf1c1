"""Wait for a fact of the outside world, with a deadline instead of a guess."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

Value = TypeVar("Value")

FIRST_PAUSE_S = 0.001
PAUSE_MAX_S = 0.05
TIMEOUT_S = 60.0
"""Far beyond what the slowest machine needs: who waits so long waits for what never comes."""


@overload
async def eventually(
    predicate: Callable[[], Awaitable[Value]],
    timeout_s: float = TIMEOUT_S,
    *,
    ignore: type[Exception] | tuple[type[Exception], ...] = (),
) -> Value: ...
@overload
async def eventually(
    predicate: Callable[[], Value],
    timeout_s: float = TIMEOUT_S,
    *,
    ignore: type[Exception] | tuple[type[Exception], ...] = (),
) -> Value: ...
async def eventually(
    predicate: Callable[[], Any],
    timeout_s: float = TIMEOUT_S,
    *,
    ignore: type[Exception] | tuple[type[Exception], ...] = (),
) -> Any:
    """Return the predicate's first truthy value; fail with its last value or error when the deadline passes.

    An AssertionError of the predicate counts as "not yet", as do the exceptions named in `ignore`.
    """
    deadline_s = time.monotonic() + timeout_s
    not_yet: tuple[type[Exception], ...] = (AssertionError, *(ignore if isinstance(ignore, tuple) else (ignore,)))
    pause_s = FIRST_PAUSE_S
    while True:
        error: Exception | None = None
        value = None
        try:
            value = predicate()
            if inspect.isawaitable(value):
                value = await value
        except not_yet as caught:
            error = caught
        if error is None and value:
            return value
        if time.monotonic() >= deadline_s:
            message = f"not within {timeout_s} s; last value {value!r}"
            raise AssertionError(message) from error
        await asyncio.sleep(pause_s)
        pause_s = min(PAUSE_MAX_S, pause_s * 2)
