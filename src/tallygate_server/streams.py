"""What stands between those who tell news and a caller who reads them as a stream, at whatever pace.

Whoever tells never waits, and never holds more for a reader than a bound: a reader who falls further behind loses
what is held for it and is told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Final, Generic, TypeVar

from tallygate_server.errors import Overloaded, TallygateError

Item = TypeVar("Item")

HEARTBEAT_SECONDS: Final = 30.0
"""Silence after which a watcher is sent a sign of life."""


class BoundedStream(Generic[Item]):
    """Items on their way to one reader. Everything happens on one event loop."""

    __slots__ = ("_ended", "_error", "_items", "_items_max", "_too_slow", "_woken")

    def __init__(self, *, items_max: int, too_slow: Callable[[], TallygateError]) -> None:
        """Hold at most so many items; `too_slow` builds the error of a reader who lets more come together."""
        self._items: deque[Item] = deque()
        self._items_max = items_max
        self._too_slow = too_slow
        self._ended = False
        self._error: Callable[[], TallygateError] | None = None
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        """Return the number of items that wait."""
        return len(self._items)

    @property
    def ended(self) -> bool:
        """Whether nothing more is taken."""
        return self._ended

    def put(self, item: Item) -> bool:
        """Take an item for the reader; False once the stream has ended, which one item too many does.

        What was held is dropped then: the reader has a gap, so it has to begin anew anyway.
        """
        if self._ended:
            return False
        if len(self._items) >= self._items_max:
            self._items.clear()
            self._finish(self._too_slow)
            return False
        self._items.append(item)
        self._woken.set()
        return True

    def end(self, error: TallygateError | None = None) -> None:
        """Take no more; the reader gets what is held, then the error, or the end where there is none."""
        if not self._ended:
            self._finish(None if error is None else lambda: error)

    async def items(self, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> AsyncGenerator[Item | None]:
        """Yield each item in order, and None whenever there was none for so long; raises what the stream ended with."""
        while True:
            # One at a time, so that what the reader has not asked for yet still counts as held.
            while self._items:
                yield self._items.popleft()
            if self._ended:
                if self._error is not None:
                    raise self._error()
                return
            self._woken.clear()
            try:
                async with asyncio.timeout(heartbeat_seconds):
                    await self._woken.wait()
            except TimeoutError:
                yield None

    def _finish(self, error: Callable[[], TallygateError] | None) -> None:
        self._ended = True
        self._error = error
        self._woken.set()


class OpenStreams(Generic[Item]):
    """The streams that are open in this process, up to a bound, and the end of them all."""

    def __init__(self, *, streams_max: int) -> None:
        """Have at most so many open."""
        self._streams_max = streams_max
        self._streams: set[BoundedStream[Item]] = set()
        self._end_error: TallygateError | None = None

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._streams)

    def add(self, stream: BoundedStream[Item]) -> None:
        """Count a stream; raises Overloaded beyond the bound, and after the end what all were ended with."""
        if self._end_error is not None:
            raise self._end_error
        if len(self._streams) >= self._streams_max:
            raise Overloaded(f"more than {self._streams_max} watches are open", **{"class": "watch"})
        self._streams.add(stream)

    def discard(self, stream: BoundedStream[Item]) -> None:
        """Forget a stream; it may be gone already."""
        self._streams.discard(stream)

    def end(self, error: TallygateError) -> None:
        """End every stream with the error, and refuse new ones with it: the server drains."""
        self._end_error = error
        for stream in list(self._streams):
            stream.end(error)
