"""Time: one clock for everything, a clock of its own for every test clock, and the work that waits for a moment.

Work is a task's name with an object's id. A task looks at its object when its moment comes and does nothing if that has
changed meanwhile, so work is never taken back.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

_log = logging.getLogger("tallygate_local_stripe")

Task = Callable[[str, int], None]

# The key of the clock that holds for all objects without a test clock.
EVERYTHING: Final = ""


class Clocks:
    """Tell the time of each clock, and run what is due on it in the order of time."""

    def __init__(self, *, frozen_at: int | None = None) -> None:
        self.tasks: dict[str, Task] = {}
        self._frozen_at = frozen_at
        self._offset_seconds = 0
        self._test_clocks: dict[str, int] = {}
        self._agendas: dict[str, list[tuple[int, int, str, str]]] = {}
        self._sequence = 0
        # While a clock catches up, its time is that of the work in hand.
        self._passing: dict[str, int] = {}

    def now(self, clock: str | None) -> int:
        """Return the time of a clock in Unix seconds."""
        key = clock or EVERYTHING
        if key in self._passing:
            return self._passing[key]
        if key != EVERYTHING:
            return self._test_clocks[key]
        return self._frozen_at if self._frozen_at is not None else int(time.time()) + self._offset_seconds

    @property
    def ahead_seconds(self) -> float:
        """Return how far the clock of everything is ahead of the machine's, for those who follow it."""
        return self._frozen_at - time.time() if self._frozen_at is not None else float(self._offset_seconds)

    @property
    def is_frozen(self) -> bool:
        """Say whether the clock of everything stands still until it is moved."""
        return self._frozen_at is not None

    def add_test_clock(self, clock: str, frozen_time: int) -> None:
        """Start a test clock; it stands still until it is advanced."""
        self._test_clocks[clock] = frozen_time

    def remove_test_clock(self, clock: str) -> None:
        """Stop a test clock and forget its work."""
        self._test_clocks.pop(clock, None)
        self._agendas.pop(clock, None)

    def at(self, clock: str | None, moment: int, task: str, object_id: str) -> None:
        """Note that a task is to look at an object at a moment of its clock."""
        self._sequence += 1
        heapq.heappush(self._agendas.setdefault(clock or EVERYTHING, []), (moment, self._sequence, task, object_id))

    def advance(self, clock: str | None, until: int) -> None:
        """Move a clock forward, doing on the way all that falls due, each at its own moment."""
        key = clock or EVERYTHING
        self._run_due(key, until)
        if key != EVERYTHING:
            self._test_clocks[key] = until
        elif self._frozen_at is not None:
            self._frozen_at = until
        else:
            self._offset_seconds += until - self.now(None)

    def catch_up(self) -> None:
        """Do what has fallen due on the clock of everything."""
        self._run_due(EVERYTHING, self.now(None))

    def clear_work(self) -> None:
        """Forget test clocks and all work; the clock of everything keeps its time."""
        self._test_clocks.clear()
        self._agendas.clear()

    def freeze(self, *, frozen: bool) -> None:
        """Let the clock of everything stand still from here, or run on from here."""
        now = self.now(None)
        self._frozen_at = now if frozen else None
        self._offset_seconds = now - int(time.time())

    def _run_due(self, key: str, until: int) -> None:
        if key in self._passing:
            return
        agenda = self._agendas.setdefault(key, [])
        try:
            while agenda and agenda[0][0] <= until:
                moment, _, task, object_id = heapq.heappop(agenda)
                self._passing[key] = max(moment, self._passing.get(key, moment))
                self._do(task, object_id, moment)
        finally:
            self._passing.pop(key, None)

    def _do(self, task: str, object_id: str, moment: int) -> None:
        try:
            self.tasks[task](object_id, moment)
        except Exception:  # noqa: BLE001 - Logged, and see below.
            # Time goes on: what one object cannot do must not keep the others from what they are due.
            _log.exception("%s failed for %s", task, object_id)

    def state(self) -> dict[str, object]:
        """Return what a file must keep."""
        return {
            "frozen_at": self._frozen_at,
            "offset_seconds": self._offset_seconds,
            "test_clocks": self._test_clocks,
            "agendas": self._agendas,
        }

    def restore(
        self,
        *,
        frozen_at: int | None,
        offset_seconds: int,
        test_clocks: dict[str, int],
        agendas: dict[str, Iterable[tuple[int, int, str, str]]],
    ) -> None:
        """Take back what a file kept; time that passed meanwhile counts unless the clock was frozen."""
        self._frozen_at = frozen_at
        self._offset_seconds = offset_seconds
        self._test_clocks = dict(test_clocks)
        self._agendas = {key: [(t, n, task, oid) for t, n, task, oid in entries] for key, entries in agendas.items()}
        for agenda in self._agendas.values():
            heapq.heapify(agenda)
        self._sequence = max((entry[1] for agenda in self._agendas.values() for entry in agenda), default=0)
