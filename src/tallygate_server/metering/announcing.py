"""What the outbox hears of usage: thresholds and the end of a limit, each from the step that crosses it.

The group commit writes the same events in SQL (storage/ledger.py), for a test to compare.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.usage import MarkKind, UsageMark, crossed, peak_after
from tallygate_server.storage.ledger import CounterKey, LockedCounter, UsageAnnouncement


def step(
    key: CounterKey,
    counter: LockedCounter,
    quantity: int,
    *,
    kind: FeatureKind,
    limit: int,
    told_limit: int,
    marks: Sequence[UsageMark],
    plan_key: str,
    revision: int,
    entry_id: int,
    period_end: datetime | None,
    at: datetime,
) -> list[UsageAnnouncement]:
    """Take a locked counter one step further, up or down; return what is to be announced.

    `limit` is the one that was enforced (-1 for none), `told_limit` the one that callers hear of. Every way of counting
    under lock comes through here, so that a mark is crossed once in a period whoever crosses it. Gauges have no period:
    each time that they rise over a mark counts.
    """
    before, after = counter.used, counter.used + quantity
    reached = before if counter.peak is None else counter.peak
    counter.used = after
    counter.limit = limit
    counter.changed = True
    if kind is FeatureKind.GAUGE:
        reached = before
    else:
        counter.peak = peak_after(peak=counter.peak, used_before=before, used_after=after)
    return [
        UsageAnnouncement(
            tenant_id=key.tenant_id,
            account_id=key.account_id,
            type="usage.exhausted" if mark.kind is MarkKind.EXHAUSTED else "usage.threshold_crossed",
            revision=revision,
            payload=json.dumps(
                {
                    "feature_key": key.feature_key,
                    "kind": mark.kind.value,
                    "threshold": mark.threshold,
                    "used_quantity": after,
                    "limit_quantity": told_limit,
                    "plan_key": plan_key,
                    "entry_id": str(entry_id),
                    "period_start_time": key.period_start.isoformat(),
                    "period_end_time": period_end.isoformat() if period_end is not None else None,
                }
            ),
            create_time=at,
        )
        for mark in crossed(marks, used_before=reached, used_after=after)
    ]
