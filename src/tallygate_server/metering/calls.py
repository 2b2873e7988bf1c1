"""Increments on their way through the meter."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from tallygate_server.domain.call import Increment, IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.period import Period
from tallygate_server.errors import TallygateError
from tallygate_server.hot_accounts import HotAccount, HotFeature
from tallygate_server.storage.ledger import CounterKey

RequestKey = tuple[TenantId, AccountId, str]
OnAnswer = Callable[[IncrementAnswer | TallygateError], None]


class HoldBatch:
    """The holds of one tick, until all of them are settled."""

    __slots__ = ("groups", "id")

    def __init__(self, batch_id: str) -> None:
        self.id = batch_id
        self.groups = 0


class HoldGroup:
    """One batch's hold on one counter; ends when the last of its calls is settled."""

    __slots__ = ("batch", "calls")

    def __init__(self, batch: HoldBatch) -> None:
        self.batch = batch
        self.calls = 0


class IncrementCall:
    """One increment on its way."""

    __slots__ = (
        "accepted_answer",
        "account",
        "answered",
        "atomic_set",
        "contended_since",
        "counter_key",
        "done",
        "doubtful",
        "entry_id",
        "exact",
        "feature",
        "fingerprint",
        "finished",
        "followers",
        "fresh",
        "hold",
        "increment",
        "period",
        "queued_as_accepted",
        "reason",
        "recorded_time",
    )

    def __init__(self, increment: Increment, done: OnAnswer) -> None:
        self.increment = increment
        self.done = done
        self.account: HotAccount | None = None
        self.feature: HotFeature | None = None
        self.period: Period | None = None
        self.counter_key = ""
        self.fresh = False
        self.exact = False
        self.hold: HoldGroup | None = None
        self.reason: Reason | None = None
        self.answered = False
        """The caller has heard; an accepted call is then still on its way to Postgres."""
        self.accepted_answer: IncrementAnswer | None = None
        self.finished = False
        self.entry_id = 0
        self.recorded_time: datetime | None = None
        """Fixed at the first attempt, like the entry's id: both make it impossible to write an entry twice."""
        self.doubtful = False
        """An attempt was lost in the middle: the call may be in the ledger already."""
        self.fingerprint = 0
        self.followers: list[tuple[Increment, OnAnswer]] | None = None
        self.queued_as_accepted = False
        self.atomic_set: AtomicSet | None = None
        self.contended_since: float | None = None
        """When only the holds of others first stood in the way, on the loop's clock."""

    @property
    def request_key(self) -> RequestKey:
        """What makes the request unique."""
        increment = self.increment
        return (increment.tenant_id, increment.account_id, increment.request_id)

    def ledger_key(self) -> CounterKey:
        """Return the key of the counter that the call counts in; it must have been placed."""
        increment, period = self.increment, self.period
        assert period is not None
        return CounterKey(
            increment.tenant_id, increment.account_id, increment.feature_key, period.kind.value, period.start
        )


class AtomicSet:
    """Calls that are counted all or not at all."""

    __slots__ = ("calls", "waiting")

    def __init__(self, calls: list[IncrementCall]) -> None:
        self.calls = calls
        self.waiting = len(calls)
        """Calls whose account is not validated yet."""


class CallEnd(Protocol):
    """Where calls leave the meter."""

    def keep_waiting(self, call: IncrementCall) -> None:
        """Leave an accepted call waiting for Postgres, but not those that joined it."""

    def finish(self, call: IncrementCall, outcome: IncrementAnswer | TallygateError) -> None:
        """Answer the call and those that joined it; a second time does nothing."""

    def give_up(self, call: IncrementCall) -> None:
        """Answer that Postgres is away, or, where an attempt was lost in the middle, that the outcome is not known."""


def calls_of(items: Sequence[IncrementCall | AtomicSet]) -> list[IncrementCall]:
    """Return the calls, those of sets included, in order."""
    calls: list[IncrementCall] = []
    for item in items:
        if isinstance(item, AtomicSet):
            calls += item.calls
        else:
            calls.append(item)
    return calls


def fingerprint(increment: Increment) -> int:
    """Return a 64-bit hash of what a request id stands for: feature, quantity, event time and dimensions."""
    event_time = increment.event_time.isoformat() if increment.event_time is not None else ""
    content = json.dumps(
        [increment.feature_key, increment.quantity, event_time, sorted(increment.dimensions.items())],
        separators=(",", ":"),
    )
    digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
    value: int = struct.unpack(">q", digest)[0]
    return value


def dimensions_json(increment: Increment) -> str | None:
    """Return the increment's dimensions as JSON text; None for none."""
    return json.dumps(increment.dimensions) if increment.dimensions else None


def thresholds_text(call: IncrementCall, peak: int = 0) -> str:
    """Return the thresholds in force for the call as text: `80%,100%,500`.

    Those that usage had reached before, at the period's highest total, are left out.
    """
    if call.feature is None:
        return ""
    entitlement, limit = call.feature.entitlement, call.feature.limit
    percents = (f"{percent}%" for percent in entitlement.thresholds_percent if percent * limit > peak * 100)
    absolutes = (str(quantity) for quantity in entitlement.thresholds_absolute if quantity > peak)
    return ",".join((*percents, *absolutes))


def thresholds_from_text(text: str) -> tuple[list[int], list[int]]:
    """Return the percent and the absolute thresholds of such a text."""
    parts = text.split(",")
    percents = [int(part[:-1]) for part in parts if part.endswith("%")]
    return percents, [int(part) for part in parts if not part.endswith("%")]
