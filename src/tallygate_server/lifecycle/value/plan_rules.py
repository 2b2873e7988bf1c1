"""What may become of a segment, what that would save and lose, and why: pure rules of plans for smaller storage."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from tallygate_server.domain.lifecycle import (
    CompressionForm,
    CompressionSettings,
    DataImportance,
    DataSelection,
    Segment,
    StorageOptimization,
)
from tallygate_server.domain.retention_rules import Protections
from tallygate_server.lifecycle.value.planning import Option, Step
from tallygate_server.lifecycle.value.scoring import Scored

SEALED_BYTES_MIN: Final = 256
"""What the smallest segment takes."""
ESTIMATE_MARGIN: Final = 0.05
"""By how much segments may take more than the one that was measured: a plan should not promise what it misses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What forms take of one sort of data, measured on one of its segments."""

    lossless_ratio: float
    """Of the bytes as plain rows."""
    lossy_ratio: float | None
    """None: there is no such form of this data."""
    lossy_kept: float
    """Share of the worth that the lossy form keeps."""
    lossy_form: str


class Untouchable(Exception):
    """A step must not be carried out, or need not; says why."""


def allowed_actions(protections: Protections, scored: Scored, now: datetime) -> set[StorageOptimization]:
    """Return what may become of a segment: nothing where anything protects it."""
    segment, importance = scored.segment, scored.importance
    if importance is DataImportance.CRITICAL or protections.why_held(segment, now) is not None:
        return set()
    found: set[StorageOptimization] = set()
    if segment.form is CompressionForm.NONE:
        found.add(StorageOptimization.COMPRESS)
    if segment.form.exact and _may_lose(protections, scored, now):
        found.add(StorageOptimization.SUMMARIZE)
    if protections.why_kept(segment, importance, now, by_hand=True) is None:
        found.add(StorageOptimization.DELETE)
    return found


def _may_lose(protections: Protections, scored: Scored, now: datetime) -> bool:
    """Tell whether a segment may be compressed with loss: by the policy that somebody set, or where nobody set one."""
    segment = scored.segment
    if protections.why_lossless(segment, scored.importance, now) is not None:
        return False
    if not protections.policy_for(segment.data_type).version:
        return True
    return scored.compression_eligible


def demand_allowed(protections: Protections, scored: Scored, action: StorageOptimization, now: datetime) -> None:
    """Raise Untouchable where something protects a segment from what is to become of it."""
    if action in allowed_actions(protections, scored, now):
        return
    if scored.importance is DataImportance.CRITICAL:
        raise Untouchable("it is critical")
    kept = protections.why_kept(scored.segment, scored.importance, now, by_hand=True)
    raise Untouchable(kept.explanation if kept is not None else "the policy does not allow it any more")


def options_of(
    segment: Segment, allowed: Collection[StorageOptimization], measured: Measured | None
) -> tuple[Option, ...]:
    """Return what would come of each action that is allowed, by what was measured on data of the same sort."""
    found: list[Option] = []

    def add(action: StorageOptimization, bytes_after: int, worth_kept: float) -> None:
        if action in allowed and bytes_after < segment.stored_bytes:
            found.append(Option(action=action, bytes_after=bytes_after, worth_kept=worth_kept))

    if measured is not None:
        add(StorageOptimization.COMPRESS, _bytes(segment, measured.lossless_ratio), 1.0)
        if measured.lossy_ratio is not None:
            add(StorageOptimization.SUMMARIZE, _bytes(segment, measured.lossy_ratio), measured.lossy_kept)
    add(StorageOptimization.DELETE, 0, 0.0)
    return tuple(found)


def _bytes(segment: Segment, ratio: float) -> int:
    return max(SEALED_BYTES_MIN, math.ceil(segment.original_bytes * ratio * (1.0 + ESTIMATE_MARGIN)))


def explanation_of(scored: Scored, step: Step, measured: Measured | None) -> str:
    """Say why a step is taken, for people."""
    worth = f"worth {scored.score:.2f} ({scored.importance.name.lower()})"
    if step.action is StorageOptimization.DELETE or measured is None:
        return f"{worth}: what is kept has more worth for its bytes"
    if step.action is StorageOptimization.COMPRESS:
        return (
            f"{worth}: without loss it takes {measured.lossless_ratio:.0%} of its plain bytes, as measured on such data"
        )
    return (
        f"{worth}: its {measured.lossy_form} form takes {measured.lossy_ratio or 0.0:.1%} of its plain bytes and keeps"
        f" {measured.lossy_kept:.0%} of its worth, as measured on such data"
    )


def lossy_settings_for(protections: Protections, data_type: str) -> CompressionSettings:
    """Return how the policy compresses with loss; a summary where it does not."""
    settings = protections.policy_for(data_type).compression
    return replace(settings, form=CompressionForm.SUMMARY) if settings.form.exact else settings


def wholly_within(selection: DataSelection, scored: Sequence[Scored]) -> list[Scored]:
    """Leave out segments that reach beyond the selection's range: what is not chosen must stay as it is."""
    return [
        each
        for each in scored
        if (selection.start_time is None or each.segment.start_time >= selection.start_time)
        and (selection.end_time is None or each.segment.end_time <= selection.end_time)
    ]
