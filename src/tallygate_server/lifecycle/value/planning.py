"""What to compress, summarise or delete so that data fits a limit and keeps the most worth.

A segment goes from form to form: as it is, without loss, a summary, nothing. Each move saves bytes and loses worth; the
moves with the most bytes for the least worth come first, until the bytes fit. A move that would save more bytes for its
worth than the one before it takes that one's place, so that the order is never wrong in between (the upper hull).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tallygate_server.domain.lifecycle import StorageOptimization

WORTHLESS: Final = 1e-12
"""Worth below which a loss counts as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Something that can become of a segment."""

    action: StorageOptimization
    bytes_after: int
    worth_kept: float
    """Share of the segment's worth that is left, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A segment that may be made smaller, and how."""

    segment_id: str
    stored_bytes: int
    worth: float
    """In records: its score times its records."""
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What becomes of a segment."""

    segment_id: str
    action: StorageOptimization
    saved_bytes: int
    value_lost: float
    """Share of the segment's worth."""
    worth_lost: float
    """In records."""


def plan_steps(candidates: Sequence[Candidate], *, excess_bytes: int, worth_losable: float | None = None) -> list[Step]:
    """Return steps that save at least `excess_bytes`, or all there are; most bytes for the least worth first.

    `worth_losable` bounds the worth that may be lost in all; moves that would pass it are left out, later ones may fit.
    """
    by_id = {candidate.segment_id: candidate for candidate in candidates}
    ladders = {candidate.segment_id: _ladder(candidate) for candidate in candidates}
    waiting = [(_price(ladder[0]), segment_id, 0) for segment_id, ladder in ladders.items() if ladder]
    heapq.heapify(waiting)
    reached: dict[str, int] = {}
    saved, lost = 0, 0.0
    while waiting and saved < excess_bytes:
        _, segment_id, rung = heapq.heappop(waiting)
        move = ladders[segment_id][rung]
        if worth_losable is not None and lost + move.worth > worth_losable + WORTHLESS:
            # The rungs above lose more still.
            continue
        reached[segment_id] = rung
        saved, lost = saved + move.saved, lost + move.worth
        if rung + 1 < len(ladders[segment_id]):
            heapq.heappush(waiting, (_price(ladders[segment_id][rung + 1]), segment_id, rung + 1))
    # The last moves may have made earlier, dearer ones needless.
    for segment_id, rung in sorted(reached.items(), key=lambda each: -_price(ladders[each[0]][each[1]])):
        lowest = rung
        while lowest >= 0 and saved - ladders[segment_id][lowest].saved >= excess_bytes:
            saved -= ladders[segment_id][lowest].saved
            lowest -= 1
        if lowest < 0:
            del reached[segment_id]
        else:
            reached[segment_id] = lowest
    steps = [_step(by_id[segment_id], ladders[segment_id][rung].option) for segment_id, rung in reached.items()]
    return sorted(steps, key=_order)


@dataclass(frozen=True, slots=True)
class _Move:
    """A rung of a ladder: what it saves and loses beyond the rung before it."""

    saved: int
    worth: float
    option: Option


def _ladder(candidate: Candidate) -> list[_Move]:
    """Return the moves of a segment, each dearer than the one before it."""
    moves: list[_Move] = []
    for option in sorted(candidate.options, key=lambda each: (-each.bytes_after, -each.worth_kept)):
        worth_after = candidate.worth * option.worth_kept
        while True:
            bytes_before = moves[-1].option.bytes_after if moves else candidate.stored_bytes
            worth_before = candidate.worth * moves[-1].option.worth_kept if moves else candidate.worth
            move = _Move(bytes_before - option.bytes_after, max(worth_before - worth_after, 0.0), option)
            if moves and move.saved > 0 and _price(move) <= _price(moves[-1]):
                moves.pop()
                continue
            break
        if move.saved > 0:
            moves.append(move)
    return moves


def _price(move: _Move) -> float:
    return move.worth / move.saved if move.worth > WORTHLESS else 0.0


def _step(candidate: Candidate, option: Option) -> Step:
    return Step(
        segment_id=candidate.segment_id,
        action=option.action,
        saved_bytes=candidate.stored_bytes - option.bytes_after,
        value_lost=1.0 - option.worth_kept,
        worth_lost=candidate.worth * (1.0 - option.worth_kept),
    )


def _order(step: Step) -> tuple[float, int, str]:
    price = step.worth_lost / step.saved_bytes if step.worth_lost > WORTHLESS else 0.0
    return price, -step.saved_bytes, step.segment_id
