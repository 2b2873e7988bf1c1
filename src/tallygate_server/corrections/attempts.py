"""What one transaction does for one correction: lock the counter, look, decide, write.

An attempt whose commit was lost in the middle is made again. Its line has the id and the time of the first try, so it
is written once; that it is there already is seen under the counter's lock.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tallygate_server.corrections.calls import Correction, Reversal
from tallygate_server.corrections.standing import bare_standing, standing
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.corrections import reversible
from tallygate_server.domain.credits import give_back
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.period import Period
from tallygate_server.domain.usage import EntryKind
from tallygate_server.errors import EntryAlreadyReversed, EntryNotFound, InvalidRequest, PeriodClosed, RequestIdReused
from tallygate_server.hot_accounts import HotAccount, HotFeature, to_ms
from tallygate_server.metering.announcing import step
from tallygate_server.metering.credit_book import (
    CountedFeature,
    CreditBook,
    burns_from_json,
    credits_json,
    read_accounts,
)
from tallygate_server.storage.corrections import LedgerLine, add_audit_entry, find_line, find_taken_back
from tallygate_server.storage.credit_rows import CreditKey, return_credits
from tallygate_server.storage.ledger import (
    CounterKey,
    CounterState,
    ExactEntry,
    ExactTransaction,
    LockedCounter,
    RequestRow,
    UsageAnnouncement,
)

COUNTER_MAX: Final = 2**63 - 1


class Attempt(ABC):
    """One correction on its way into the ledger; what is chosen for it is chosen before the first try."""

    def __init__(
        self,
        wish: Reversal | Correction,
        account: HotAccount,
        *,
        entry_id: int,
        now: datetime,
        closed_allowed: bool,
    ) -> None:
        """Write a line with this id at this time; `closed_allowed` is what the tenant says of ended periods."""
        self._wish = wish
        self._account = account
        self._entry_id = entry_id
        self._now = now
        self._closed_allowed = closed_allowed
        self.doubtful = False
        """A try was lost in the middle: the line may be there already."""
        self.line: LedgerLine
        """The line that was written, now or when the request id was first used."""
        self.answer: dict[str, Any] = {}
        """What else is told, as it is kept for those who ask again."""
        self.revision = account.revision
        self.replayed = False
        self._counted = 0
        """Units of the line."""
        self.state: CounterState
        """The counter afterwards."""

    @property
    @abstractmethod
    def key(self) -> CounterKey:
        """The counter that is corrected."""

    @property
    @abstractmethod
    def period(self) -> Period:
        """Its period."""

    async def reach(self, transaction: ExactTransaction) -> None:
        """Do it, or find that it was done; raise the error that keeps it from being done."""
        wish = self._wish
        locked = await self._lock(transaction)
        counter = locked[self.key]
        if await self._find_own(transaction, counter) or await self._find_first(transaction):
            # What has expired meanwhile is written down all the same.
            await transaction.write(counters=locked)
        else:
            await self._correct(transaction, locked)
            if wish.request_id:
                await transaction.write(counters={}, requests=[self._request_row(counter)])
        found = await find_line(transaction.connection, wish.tenant_id, wish.account_id, self._entry_id)
        assert found is not None  # written by this transaction, or found by it
        self.line = found
        self.state = counter.state()

    @abstractmethod
    async def _lock(self, transaction: ExactTransaction) -> dict[CounterKey, LockedCounter]:
        """Lock the counter and end its reservations whose time is over."""

    @abstractmethod
    async def _correct(self, transaction: ExactTransaction, locked: dict[CounterKey, LockedCounter]) -> None:
        """Decide under lock, and write everything but the request id."""

    async def _find_own(self, transaction: ExactTransaction, counter: LockedCounter) -> bool:
        """Tell whether a try of this very call was committed after all."""
        if not self.doubtful:
            return False
        wish = self._wish
        written = await transaction.find_entries([(wish.tenant_id, wish.account_id, self._entry_id, self._now)])
        if not written:
            return False
        self.answer = await self._tell(transaction, counter)
        return True

    @abstractmethod
    async def _tell(self, transaction: ExactTransaction, counter: LockedCounter, /) -> dict[str, Any]:
        """Return what is told beside the line, as JSON, once it is written."""

    async def _find_first(self, transaction: ExactTransaction) -> bool:
        """Tell whether the request id was used before; raise RequestIdReused when it was for something else."""
        wish = self._wish
        if not wish.request_id:
            return False
        name = (wish.tenant_id, wish.account_id, wish.request_id)
        row = (await transaction.find_requests([name])).get(name)
        if row is None:
            return False
        if row["fingerprint"] != wish.fingerprint() or row["answer"] is None:
            raise RequestIdReused(wish.request_id)
        self._entry_id = row["entry_id"]
        self.answer = json.loads(row["answer"])
        self.revision = row["revision"]
        self.replayed = True
        return True

    def _demand_open(self, *, entry_id: str, field: str) -> None:
        """Raise PeriodClosed where the period has ended and the tenant allows nothing afterwards."""
        end = self.period.end
        if end is not None and end <= self._now and not self._closed_allowed:
            raise PeriodClosed(end.isoformat(), entry_id=entry_id, field=field)

    def _request_row(self, counter: LockedCounter) -> RequestRow:
        wish = self._wish
        return RequestRow(
            tenant_id=wish.tenant_id,
            account_id=wish.account_id,
            request_id=wish.request_id,
            fingerprint=wish.fingerprint(),
            reason=int(Reason.OK),
            entry_id=self._entry_id,
            quantity=self._counted,
            used_quantity=counter.used,
            limit_quantity=counter.limit,
            thresholds="",
            reset_time=self.period.end,
            plan_key=self.answer["standing"]["plan_key"],
            revision=self.revision,
            recorded_time=self._now,
            answer=json.dumps(self.answer),
        )

    async def _audit(self, transaction: ExactTransaction, action: str, detail: Mapping[str, Any]) -> None:
        wish = self._wish
        await add_audit_entry(
            transaction.connection,
            wish.tenant_id,
            actor=wish.actor,
            action=action,
            subject=f"account:{wish.account_id}",
            detail={"entry_id": str(self._entry_id), **detail, "reason_text": wish.reason_text},
            at=self._now,
        )


class ReversalAttempt(Attempt):
    """Takes back what a line counted."""

    def __init__(
        self, reversal: Reversal, reversed_line: LedgerLine, kind: FeatureKind, account: HotAccount, **more: Any
    ) -> None:
        """Reverse the line of a feature of this kind."""
        super().__init__(reversal, account, **more)
        self._reversal = reversal
        self._reversed = reversed_line
        self._kind = kind

    @property
    def key(self) -> CounterKey:
        """The counter that is corrected."""
        return self._reversed.key

    @property
    def period(self) -> Period:
        """Its period."""
        return self._reversed.period

    async def _lock(self, transaction: ExactTransaction) -> dict[CounterKey, LockedCounter]:
        locked = await transaction.lock_counters([(self.key, self.period.end)])
        await transaction.expire_reservations(locked, self._now)
        return locked

    async def _correct(self, transaction: ExactTransaction, locked: dict[CounterKey, LockedCounter]) -> None:
        line, reversal, counter = self._reversed, self._reversal, locked[self.key]
        self._demand_open(entry_id=reversal.entry_id, field="entry_id")
        taken_back = await find_taken_back(transaction.connection, line)
        # Asked afterwards: a line is exported before, or with, what was taken back of it.
        if await find_line(transaction.connection, line.key.tenant_id, line.key.account_id, line.entry_id) is None:
            raise EntryNotFound(reversal.entry_id, exported=True)
        left = reversible(quantity=line.quantity, taken_back=taken_back, used=counter.used)
        quantity = left if reversal.quantity is None else reversal.quantity
        if not 0 < quantity <= left:
            raise EntryAlreadyReversed(reversal.entry_id, left, self._why(left))
        burns = give_back(
            burns_from_json(line.credits), quantity, reversed_before=sum(each.quantity for each in taken_back)
        )
        wish = self._reversal
        await return_credits(
            transaction.connection,
            [
                (CreditKey(wish.tenant_id, wish.account_id, burn.grant_id, burn.window_start), burn.quantity)
                for burn in burns
            ],
            self._now,
        )
        counter.credited -= sum(burn.quantity for burn in burns)
        # Going down crosses nothing; the limit that was decided by last stays as it is.
        step(
            self.key,
            counter,
            -quantity,
            kind=self._kind,
            limit=counter.limit,
            told_limit=counter.limit,
            marks=(),
            plan_key=line.plan_key,
            revision=self.revision,
            entry_id=self._entry_id,
            period_end=self.period.end,
            at=self._now,
        )
        self._counted = -quantity
        entry = ExactEntry(
            key=self.key,
            period_end=self.period.end,
            entry_id=self._entry_id,
            recorded_time=self._now,
            quantity=-quantity,
            used_after=counter.used,
            limit=line.limit,
            # As the line that it takes back, so that sums over time and by group come out right.
            event_time=line.event_time,
            request_id=reversal.request_id or None,
            dimensions=json.dumps(line.dimensions) if line.dimensions else None,
            kind=EntryKind.REVERSAL,
            plan_key=line.plan_key,
            reversed_entry_id=line.entry_id,
            reason_text=reversal.reason_text,
            actor=reversal.actor,
            # Negative: the sum over a credit's lines is what is used of it.
            credits=(
                json.dumps([[burn.grant_id, burn.window_start.isoformat(), -burn.quantity] for burn in burns])
                if burns
                else None
            ),
        )
        await transaction.write(counters=locked, entries=[entry])
        await self._audit(
            transaction,
            "usage.reverse",
            {"reversed_entry_id": reversal.entry_id, "feature_key": line.key.feature_key, "quantity": quantity},
        )
        self.answer = await self._tell(transaction, counter)

    def _why(self, left: int) -> str:
        line = self._reversed
        if line.quantity <= 0:
            return "the entry takes usage back itself: only one with a positive quantity can be reversed"
        return f"of the entry's {line.quantity} units {left} are left to reverse"

    async def _tell(self, transaction: ExactTransaction, counter: LockedCounter, /) -> dict[str, Any]:
        taken_back = await find_taken_back(transaction.connection, self._reversed)
        return {
            "reversible": reversible(quantity=self._reversed.quantity, taken_back=taken_back, used=counter.used),
            "standing": await self._standing(transaction, counter),
        }

    async def _standing(self, transaction: ExactTransaction, counter: LockedCounter) -> dict[str, Any]:
        """Describe the counter once everything is written."""
        account, line = self._account, self._reversed
        feature = account.feature(line.key.feature_key, to_ms(self._now))
        if feature is None or not feature.metered or account.period_at(feature, line.event_time) != self.period:
            return bare_standing(line, self._kind, counter)
        if feature.exact_in(self.period):
            counted = CountedFeature.of(account.sources, feature, self.period)
            states = {self.key: counter.state()}
            book = await read_accounts(transaction.connection, [counted], states, self._now)
            feature = feature.with_limit(book[self.key].limit_quantity)
        return standing(account, feature, self.period, counter, now=self._now)


class CorrectionAttempt(Attempt):
    """Adds to a counter or takes away from it."""

    def __init__(
        self, correction: Correction, feature: HotFeature, period: Period, account: HotAccount, **more: Any
    ) -> None:
        """Correct the feature's counter of the period."""
        super().__init__(correction, account, **more)
        self._correction = correction
        self._feature = feature
        self._period = period
        self._book: CreditBook

    @property
    def key(self) -> CounterKey:
        """The counter that is corrected."""
        correction, period = self._correction, self._period
        return CounterKey(
            correction.tenant_id, correction.account_id, correction.feature_key, period.kind.value, period.start
        )

    @property
    def period(self) -> Period:
        """Its period."""
        return self._period

    async def _lock(self, transaction: ExactTransaction) -> dict[CounterKey, LockedCounter]:
        counted: Sequence[CountedFeature] = ()
        if self._feature.exact_in(self._period):
            counted = [CountedFeature.of(self._account.sources, self._feature, self._period)]
        locked, self._book = await CreditBook.lock(transaction, {self.key: self._period.end}, counted, self._now)
        return locked

    async def _correct(self, transaction: ExactTransaction, locked: dict[CounterKey, LockedCounter]) -> None:
        correction, counter, feature = self._correction, locked[self.key], self._feature
        quantity = correction.quantity
        self._demand_open(entry_id="", field="event_time")
        if counter.used + quantity < 0:
            raise InvalidRequest.of("quantity", f"takes more away than the {counter.used} units that are used")
        if counter.used + quantity > COUNTER_MAX:
            raise InvalidRequest.of("quantity", "does not fit the counter any more")
        self._counted = quantity
        paid_by = None
        book = self._book.account(self.key)
        if book is not None and quantity > 0:
            # Credits pay as far as they go; the rest counts all the same, beyond the limit.
            payment = book.pay(quantity)
            book.burn(payment)
            paid_by = credits_json(payment)
        announcements = self._step(counter, self._told())
        entry = ExactEntry(
            key=self.key,
            period_end=self._period.end,
            entry_id=self._entry_id,
            recorded_time=self._now,
            quantity=quantity,
            used_after=counter.used,
            limit=feature.limit,
            event_time=correction.event_time,
            request_id=correction.request_id or None,
            dimensions=None,
            kind=EntryKind.CORRECTION,
            plan_key=feature.entitlement.plan_key,
            reason_text=correction.reason_text,
            actor=correction.actor,
            credits=paid_by,
        )
        await transaction.write(counters=locked, entries=[entry], announcements=announcements)
        await self._book.write()
        await self._audit(transaction, "usage.correct", {"feature_key": correction.feature_key, "quantity": quantity})
        self.answer = await self._tell(transaction, counter)

    def _told(self) -> HotFeature:
        """Return the feature with the limit that callers hear of."""
        book = self._book.account(self.key)
        return self._feature if book is None else self._feature.with_limit(book.limit_quantity)

    def _step(self, counter: LockedCounter, feature: HotFeature) -> list[UsageAnnouncement]:
        closed = self._now not in self._period and counter.version > 0
        return step(
            self.key,
            counter,
            self._correction.quantity,
            kind=feature.entitlement.kind,
            # What an ended period was decided by stays as it is.
            limit=counter.limit if closed else feature.plain.effective_limit,
            told_limit=feature.limit,
            marks=feature.marks,
            plan_key=feature.entitlement.plan_key,
            revision=self.revision,
            entry_id=self._entry_id,
            period_end=self._period.end,
            at=self._now,
        )

    async def _tell(self, _transaction: ExactTransaction, counter: LockedCounter, /) -> dict[str, Any]:
        return {"standing": standing(self._account, self._told(), self._period, counter, now=self._now)}
