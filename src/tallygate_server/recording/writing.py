"""One attempt to write events: lock the counters, claim the events, count, write. All or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tallygate_server.domain.ai_cost import AiCost
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.meters import READING_MAX
from tallygate_server.domain.usage import EntryKind
from tallygate_server.errors import EventIdReused
from tallygate_server.hot_accounts import HotFeature
from tallygate_server.metering.announcing import step
from tallygate_server.metering.credit_book import CountedFeature, CreditBook, credits_json
from tallygate_server.recording.judging import Count, Recordable, json_text, overflows
from tallygate_server.recording.results import RecordOutcome, RecordResult, refused
from tallygate_server.storage.ledger import (
    CounterKey,
    CounterState,
    ExactEntry,
    ExactTransaction,
    LockedCounter,
    UsageAnnouncement,
)
from tallygate_server.storage.usage_events import (
    EventName,
    NewKey,
    RecordedBefore,
    add_events,
    add_keys,
    find_recorded,
)

COUNTER_MAX: Final = READING_MAX
EVENTS_AT_A_STRETCH: Final = 50
"""How many events are worked on before other calls of this server have a turn: a few milliseconds' worth."""


class Writing:
    """What one attempt finds and writes; read it once the transaction is committed."""

    def __init__(self, tenant_id: TenantId, recorded_time: datetime, batch: Sequence[Recordable]) -> None:
        """Write this batch, whose events are all of other names; the time is the same at every attempt."""
        self._tenant_id = tenant_id
        self._recorded_time = recorded_time
        self._batch = batch
        self.results: list[RecordResult] = []
        """In the order of the batch."""
        self.states: dict[CounterKey, CounterState] = {}

    async def reach(self, transaction: ExactTransaction) -> None:
        """Lock, claim, count, write."""
        ends: dict[CounterKey, datetime | None] = {}
        counted: dict[CounterKey, CountedFeature] = {}
        for each in self._batch:
            for count in each.counts:
                ends[count.key] = count.period.end
                if count.feature.exact_in(count.period):
                    counted[count.key] = CountedFeature.of(each.account.sources, count.feature, count.period)
        locked, book = await CreditBook.lock(transaction, ends, counted.values(), self._recorded_time)
        results = self._refuse_overflows(locked)
        asked = [each for each in self._batch if each.name not in results]
        new = await add_keys(
            transaction,
            self._tenant_id,
            self._recorded_time,
            [NewKey(name=each.name, fingerprint=each.fingerprint, event_key=each.event_key) for each in asked],
        )
        known = await find_recorded(transaction, self._tenant_id, [each.name for each in asked if each.name not in new])
        entries: list[ExactEntry] = []
        announcements: list[UsageAnnouncement] = []
        for index, each in enumerate(asked):
            if index % EVENTS_AT_A_STRETCH == 0:
                await asyncio.sleep(0)
            if each.name in new:
                for count in each.counts:
                    feature, paid_by = count.feature, None
                    if (account := book.account(count.key)) is not None:
                        # Credits pay as far as they go; the rest counts all the same.
                        feature = feature.with_limit(account.limit_quantity)
                        payment = account.pay(count.quantity)
                        account.burn(payment)
                        paid_by = credits_json(payment)
                    announcements += self._step(each, count, feature, locked[count.key])
                    entries.append(self._entry(each, count, feature, locked[count.key].used, paid_by))
                results[each.name] = each.recorded()
            else:
                results[each.name] = _known(each, known[each.name])
        await transaction.write(counters=locked, entries=entries, announcements=announcements)
        await book.write()
        written = [each.row for each in asked if each.name in new]
        if written:
            await add_events(transaction, self._tenant_id, self._recorded_time, written)
        self.results = [results[each.name] for each in self._batch]
        self.states = {key: counter.state() for key, counter in locked.items()}

    def _refuse_overflows(self, locked: dict[CounterKey, LockedCounter]) -> dict[EventName, RecordResult]:
        """Refuse what the counters could not hold, as if all others were new."""
        totals = {key: counter.used for key, counter in locked.items()}
        results: dict[EventName, RecordResult] = {}
        for each in self._batch:
            over = next((count for count in each.counts if totals[count.key] + count.quantity > COUNTER_MAX), None)
            if over is not None:
                results[each.name] = refused(overflows(each, over))
                continue
            for count in each.counts:
                totals[count.key] += count.quantity
        return results

    def _step(
        self, each: Recordable, count: Count, feature: HotFeature, counter: LockedCounter
    ) -> list[UsageAnnouncement]:
        # What happened is never denied: it may take the counter beyond a hard limit.
        return step(
            count.key,
            counter,
            count.quantity,
            kind=feature.entitlement.kind,
            limit=feature.plain.effective_limit,
            told_limit=feature.limit,
            marks=feature.marks,
            plan_key=feature.entitlement.plan_key,
            revision=each.account.revision,
            entry_id=count.entry_id,
            period_end=count.period.end,
            at=self._recorded_time,
        )

    def _entry(
        self, each: Recordable, count: Count, feature: HotFeature, used_after: int, paid_by: str | None
    ) -> ExactEntry:
        return ExactEntry(
            key=count.key,
            period_end=count.period.end,
            entry_id=count.entry_id,
            recorded_time=self._recorded_time,
            quantity=count.quantity,
            used_after=used_after,
            limit=feature.limit,
            event_time=each.happened,
            request_id=None,
            dimensions=json_text(count.dimensions) if count.dimensions else None,
            kind=EntryKind.EVENT,
            plan_key=feature.entitlement.plan_key,
            credits=paid_by,
        )


def recorded_before(fingerprint: int, name: EventName, known: RecordedBefore, *, field: str) -> RecordResult:
    """Return the result of an event whose name was used before."""
    if known.fingerprint != fingerprint:
        return refused(EventIdReused(name.source, name.event_id, field=field))
    return RecordResult(
        outcome=RecordOutcome.DUPLICATE,
        meter_keys=known.meter_keys,
        cost=AiCost(known.cost_nanos, known.cost_currency_code),
    )


def _known(each: Recordable, known: RecordedBefore) -> RecordResult:
    # An attempt of ours that was lost in the middle was committed after all.
    if known.event_key == each.event_key:
        return each.recorded()
    each.known = known
    return recorded_before(each.fingerprint, each.name, known, field=f"{each.path}.id")
