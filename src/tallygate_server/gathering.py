"""Waiting for many callbacks at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from tallygate_server.errors import TallygateError

Answer = TypeVar("Answer")


class Gathering(Generic[Answer]):
    """Collects the outcomes of calls that answer through callbacks, in the order of the calls.

    Await it once every place was handed out.
    """

    def __init__(self, count: int) -> None:
        """Expect so many outcomes."""
        self._outcomes: list[Answer | TallygateError | None] = [None] * count
        self._missing = count
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if count == 0:
            self._finished.set_result(None)

    def place(self, index: int) -> Callable[[Answer | TallygateError], None]:
        """Return the callback for the call at the index."""

        def done(outcome: Answer | TallygateError) -> None:
            self._outcomes[index] = outcome
            self._missing -= 1
            # Nobody waits any more when the caller was cancelled.
            if self._missing == 0 and not self._finished.done():
                self._finished.set_result(None)

        return done

    def __await__(self) -> Generator[None, None, list[Answer | TallygateError]]:
        """Wait for all outcomes."""
        yield from self._finished.__await__()
        return [outcome for outcome in self._outcomes if outcome is not None]
