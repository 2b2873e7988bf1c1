"""One transaction of reservations: lock the counters, look, decide call by call, write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tallygate_server.domain.catalog import FeatureKind, OverrunPolicy
from tallygate_server.domain.entitlement import AccountState, Reason, allowed_reason, decide
from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.reservation import (
    CommitVerdict,
    Reservation,
    ReservationState,
    Settlement,
    decide_commit,
    may_commit,
    standing,
)
from tallygate_server.domain.usage import EntryKind, threshold_percent_crossed, threshold_quantity_crossed
from tallygate_server.errors import RequestIdReused, ReservationClosed, ReservationNotFound, TallygateError
from tallygate_server.hot_accounts import HotAccount, HotFeature, to_ms
from tallygate_server.metering.announcing import step
from tallygate_server.metering.credit_book import CountedFeature, CreditBook, credits_json
from tallygate_server.reservations.calls import (
    Answer,
    Commit,
    CommitAnswer,
    Extend,
    ExtendAnswer,
    Place,
    Release,
    ReleaseAnswer,
    ReservationCall,
    Reserve,
    ReserveAnswer,
    counter_key_of,
    remaining,
)
from tallygate_server.storage import reservations as rows
from tallygate_server.storage.ledger import (
    CounterKey,
    DenialRow,
    ExactEntry,
    ExactTransaction,
    LockedCounter,
    RequestRow,
    UsageAnnouncement,
)
from tallygate_server.storage.reservations import FoundReservation, ReservationKey
from tallygate_server.tenants import TenantDirectory

_RPC = "Reserve"
"""Says in the row of a request id whose answer it is."""


class Verdict:
    """What Postgres says about each call of a batch, and what is written for it."""

    def __init__(
        self,
        calls: list[ReservationCall],
        *,
        now: datetime,
        late_window: timedelta,
        tenants: TenantDirectory,
        places: Mapping[ReservationKey, Place],
    ) -> None:
        """Decide these calls, in order, as of one instant; `places` are those that are known already."""
        self.calls = calls
        self._now = now
        self._now_ms = to_ms(now)
        self._late_window = late_window
        self._tenants = tenants
        self.places = {call.key: place for call in calls if (place := places.get(call.key)) is not None}
        """Where the reservations of this batch count, those that it makes included."""
        self.outcomes: list[tuple[ReservationCall, Answer | TallygateError]] = []
        self.counters: dict[CounterKey, LockedCounter] = {}
        self.period_ends: dict[CounterKey, datetime | None] = {}
        self._book: CreditBook
        self._known: dict[ReservationKey, FoundReservation] = {}
        """Reservations as they are, those of earlier calls of this batch included."""
        self._made: dict[ReservationKey, Reservation] = {}
        self._changed: set[ReservationKey] = set()
        self._expiry_unknown: set[CounterKey] = set()
        """Counters whose earliest reservation has gone."""
        self._requests: dict[tuple[str, str, str], Any] = {}
        """First answers to request ids, those of earlier calls of this batch included."""
        self._new_requests: list[RequestRow] = []
        self.entries: list[ExactEntry] = []
        self._denials: list[DenialRow] = []
        self._announcements: list[UsageAnnouncement] = []

    async def reach(self, transaction: ExactTransaction) -> None:
        """Lock, look, decide in order, write."""
        # Which counter a reservation belongs to never changes; all else is looked at under the lock.
        for key, found in (await rows.find(transaction, self._unplaced())).items():
            self.places[key] = Place(found.reservation.feature_key, found.reservation.period)
        for call in self.calls:
            if isinstance(call.wish, Reserve) and call.period is not None:
                self.places[call.key] = Place(call.wish.feature_key, call.period)
            if (place := self.places.get(call.key)) is not None:
                counter_key = counter_key_of(*call.key[:2], place.feature_key, place.period)
                self.period_ends[counter_key] = place.period.end
        # What has expired stands in nobody's way, whether or not anybody has written that down.
        self.counters, self._book = await CreditBook.lock(
            transaction, self.period_ends, self._counted().values(), self._now
        )
        # One that was made since the first look has an unlocked counter; nobody can know its id yet.
        await self._look(
            transaction,
            [
                call.key
                for call in self.calls
                if call.key in self.places and (call.doubtful or not isinstance(call.wish, Reserve))
            ],
        )
        for call in self.calls:
            self.outcomes.append((call, self._decide(call)))
        await rows.write(
            transaction,
            made=[self._known[key].reservation for key in self._made],
            changed=[self._known[key] for key in self._changed if key not in self._made],
        )
        await transaction.find_next_expiries(self._without_first())
        await transaction.write(
            counters=self.counters,
            entries=self.entries,
            requests=self._new_requests,
            denials=self._denials,
            announcements=self._announcements,
        )
        await self._book.write()

    def _unplaced(self) -> list[ReservationKey]:
        """Return the reservations of which it is not known where they count."""
        return [call.key for call in self.calls if not isinstance(call.wish, Reserve) and call.key not in self.places]

    def _without_first(self) -> dict[CounterKey, LockedCounter]:
        """Return the counters whose earliest reservation has gone, and which others there are."""
        without: dict[CounterKey, LockedCounter] = {}
        for key in self._expiry_unknown:
            counter = self.counters[key]
            if counter.reserved:
                without[key] = counter
            else:
                counter.reserve_expire_time = None
        return without

    def _counted(self) -> dict[CounterKey, CountedFeature]:
        """Return the counters whose limits depend on credits, or on what rolled over."""
        counted: dict[CounterKey, CountedFeature] = {}
        for call in self.calls:
            account, place = call.account, self.places.get(call.key)
            if account is None or place is None:
                continue
            feature = call.feature or self._right(account, place.feature_key)[0]
            if feature is None or not feature.exact_in(place.period):
                continue
            # What rolls over does so between periods of one kind: another plan's say nothing about this counter.
            if feature.entitlement.rollover is None or feature.entitlement.period_kind is place.period.kind:
                each = CountedFeature.of(account.sources, feature, place.period)
                counted[each.key] = each
        return counted

    async def _look(self, transaction: ExactTransaction, named: list[ReservationKey]) -> None:
        """Read reservations and request ids, as they are under the locks."""
        found = await transaction.find_requests(
            [
                (call.wish.tenant_id, call.wish.account_id, call.wish.request_id)
                for call in self.calls
                if isinstance(call.wish, Reserve) and call.wish.request_id
            ]
        )
        self._requests = {key: dict(row) for key, row in found.items()}
        replayed: list[ReservationKey] = []
        for key, row in found.items():
            reservation_id = _answer_of(row).get("reservation_id")
            if reservation_id:
                replayed.append((key[0], key[1], reservation_id))
        self._known = await rows.find(transaction, [*named, *replayed])

    def _decide(self, call: ReservationCall) -> Answer | TallygateError:
        wish = call.wish
        try:
            if isinstance(wish, Reserve):
                return self._reserve(call, wish)
            found = self._known.get(call.key)
            if found is None:
                raise ReservationNotFound(wish.reservation_id)
            if isinstance(wish, Commit):
                return self._commit(call, wish, found)
            if isinstance(wish, Release):
                return self._release(call, found.reservation)
            return self._extend(call, wish, found.reservation)
        except TallygateError as error:
            return error

    # ------------------------------------------------------------------ reserve

    def _reserve(self, call: ReservationCall, wish: Reserve) -> ReserveAnswer:
        row = self._requests.get((wish.tenant_id, wish.account_id, wish.request_id)) if wish.request_id else None
        if row is not None:
            return self._replayed_reserve(call, wish, row)
        written = self._known.get(call.key) if call.doubtful else None
        if written is not None:
            # A lost attempt of this very call was committed after all.
            return self._reserved(call, written.reservation)
        reason = call.reason if call.reason is not None else self._reason_now(call, wish)
        answer = self._take(call, wish) if reason.allows else self._denied(call, wish, reason)
        if wish.request_id:
            request = _request_row(call, wish, answer)
            self._new_requests.append(request)
            # For another call with the same id in this batch.
            self._requests[wish.tenant_id, wish.account_id, wish.request_id] = {
                name: getattr(request, name) for name in RequestRow.__slots__
            }
        return answer

    def _reason_now(self, call: ReservationCall, wish: Reserve) -> Reason:
        counter = self.counters[call.counter_key()]
        assert call.account is not None
        assert call.feature is not None
        call.feature = self._limited(call.feature, call.counter_key())
        return decide(
            feature_known=True,
            account_state=call.account.sources.state,
            entitlement=call.feature.entitlement,
            quantity=wish.quantity,
            used=counter.used,
            held=counter.reserved,
        )

    def _take(self, call: ReservationCall, wish: Reserve) -> ReserveAnswer:
        assert call.period is not None
        assert call.feature is not None
        key = call.counter_key()
        counter = self.counters[key]
        reservation = Reservation(
            tenant_id=wish.tenant_id,
            account_id=wish.account_id,
            reservation_id=call.reservation_id,
            feature_key=wish.feature_key,
            period=call.period,
            quantity=wish.quantity,
            overrun_policy=wish.overrun_policy or _policy_of(call.feature),
            dimensions=wish.dimensions,
            request_id=wish.request_id,
            event_time=wish.event_time,
            create_time=call.recorded_time,
            expire_time=self._now + wish.ttl,
        )
        counter.reserved += wish.quantity
        counter.limit = call.feature.plain.effective_limit
        counter.changed = True
        self._note_expiry(key, reservation.expire_time)
        self._known[call.key] = FoundReservation(reservation, None)
        self._made[call.key] = reservation
        return self._reserved(call, reservation)

    def _reserved(self, call: ReservationCall, reservation: Reservation) -> ReserveAnswer:
        counter = self.counters[_counter_key(reservation)]
        feature, account = call.feature, call.account
        assert feature is not None
        assert account is not None
        limit = feature.limit
        beyond = limit != LIMIT_UNLIMITED and counter.used + counter.reserved > limit
        return ReserveAnswer(
            reason=Reason.OVERAGE if beyond else allowed_reason(feature.entitlement),
            reservation=reservation,
            used_quantity=counter.used,
            held_quantity=counter.reserved,
            limit_quantity=limit,
            reset_time=reservation.period.end,
            revision=account.revision,
            plan_key=feature.entitlement.plan_key,
            grace_end_time=feature.entitlement.grace_end_time,
        )

    def _denied(self, call: ReservationCall, wish: Reserve, reason: Reason) -> ReserveAnswer:
        counter = self.counters[call.counter_key()] if call.reason is None else None
        account, feature = call.account, call.feature
        metered = feature is not None and feature.entitlement.denied is None
        used = counter.used if counter is not None else 0
        limit = feature.limit if metered and feature is not None else 0
        plan_key: str = feature.entitlement.plan_key if feature is not None else ""
        if account is not None:
            plan_key = plan_key or account.plan_key(self._now_ms)
            self._denials.append(
                DenialRow(
                    tenant_id=wish.tenant_id,
                    account_id=wish.account_id,
                    entry_id=call.entry_id,
                    recorded_time=call.recorded_time,
                    feature_key=wish.feature_key,
                    quantity=wish.quantity,
                    reason=int(reason),
                    used_quantity=used,
                    limit_quantity=limit,
                    event_time=wish.event_time,
                    request_id=wish.request_id or None,
                )
            )
        return ReserveAnswer(
            reason=reason,
            used_quantity=used,
            held_quantity=counter.reserved if counter is not None else 0,
            limit_quantity=limit,
            reset_time=call.period.end if call.period is not None else None,
            revision=account.revision if account is not None else 0,
            upgrade_url=self._upgrade_link(wish),
            plan_key=plan_key,
            grace_end_time=feature.entitlement.grace_end_time if feature is not None else None,
        )

    def _replayed_reserve(self, call: ReservationCall, wish: Reserve, row: Any) -> ReserveAnswer:
        """Give the first answer again."""
        first = _answer_of(row)
        if row["fingerprint"] != call.fingerprint or first.get("rpc") != _RPC:
            raise RequestIdReused(wish.request_id)
        reason = Reason(row["reason"])
        reservation = None
        if reason.allows:
            found = self._known.get((wish.tenant_id, wish.account_id, first["reservation_id"]))
            if found is None:
                raise ReservationNotFound(first["reservation_id"])
            reservation = replace(
                found.reservation,
                state=ReservationState.HELD,
                expire_time=datetime.fromisoformat(first["expire_time"]),
                close_time=None,
                committed_quantity=0,
                entry_id=0,
            )
        # Written by a lost attempt of this very call: then this is the first time that anybody hears it.
        own = call.doubtful and row["recorded_time"] == call.recorded_time
        if own and reason.allows:
            own = first["reservation_id"] == call.reservation_id
        return ReserveAnswer(
            reason=reason,
            reservation=reservation,
            used_quantity=row["used_quantity"],
            held_quantity=first["held_quantity"],
            limit_quantity=row["limit_quantity"],
            reset_time=row["reset_time"],
            replayed=not own,
            revision=row["revision"],
            upgrade_url="" if reason.allows else self._upgrade_link(wish),
            plan_key=row["plan_key"],
            grace_end_time=_instant(first.get("grace_end_time")),
        )

    def _upgrade_link(self, wish: Reserve) -> str:
        tenant = self._tenants.last_known(wish.tenant_id)
        return tenant.settings.upgrade_link(wish.account_id, wish.feature_key) if tenant is not None else ""

    # ------------------------------------------------------------------ commit

    def _commit(self, call: ReservationCall, wish: Commit, found: FoundReservation) -> CommitAnswer:
        reservation = found.reservation
        quantity = reservation.quantity if wish.quantity is None else wish.quantity
        if reservation.state is ReservationState.COMMITTED and reservation.committed_quantity == quantity:
            return _replayed_commit(call, found)
        if not may_commit(reservation, self._now, late_window=self._late_window):
            raise ReservationClosed(reservation.reservation_id, standing(reservation, self._now).state.value)
        account = call.account
        assert account is not None
        key = _counter_key(reservation)
        counter = self.counters[key]
        feature, denied = self._right(account, reservation.feature_key)
        if feature is not None:
            feature = self._limited(feature, key)
        own = reservation.quantity if reservation.state is ReservationState.HELD else 0
        verdict = decide_commit(
            reservation,
            quantity,
            self._now,
            used=counter.used,
            held_by_others=counter.reserved - own,
            limit=feature.effective_limit if feature is not None else 0,
            policy=wish.overrun_policy or reservation.overrun_policy,
        )
        if not verdict.counted:
            return CommitAnswer(
                reason=denied or Reason.EXHAUSTED,
                reservation=standing(reservation, self._now),
                settlement=verdict.settlement,
                used_quantity=counter.used,
                held_quantity=counter.reserved,
                limit_quantity=feature.limit if feature is not None else 0,
                late=False,
                revision=account.revision,
            )
        return self._count(call, wish, reservation, verdict, feature)

    def _count(
        self,
        call: ReservationCall,
        wish: Commit,
        reservation: Reservation,
        verdict: CommitVerdict,
        feature: HotFeature | None,
    ) -> CommitAnswer:
        account = call.account
        assert account is not None
        key = _counter_key(reservation)
        counter = self.counters[key]
        self._give_back(reservation)
        used_before = max(counter.used, counter.peak or 0)
        committed = replace(
            reservation,
            state=ReservationState.COMMITTED,
            committed_quantity=verdict.quantity,
            close_time=call.recorded_time,
            entry_id=call.entry_id if verdict.quantity else 0,
        )
        # Thresholds belong to the limit of this kind of period; another plan's say nothing about this counter.
        fitting = (
            feature if feature is not None and feature.entitlement.period_kind is reservation.period.kind else None
        )
        if verdict.quantity:
            entitlement = feature.entitlement if feature is not None else None
            book_account = self._book.account(key)
            paid_by = None
            if book_account is not None:
                payment = book_account.pay(verdict.quantity)
                book_account.burn(payment)
                paid_by = credits_json(payment)
            self._announcements += step(
                key,
                counter,
                verdict.quantity,
                kind=entitlement.kind if entitlement is not None else FeatureKind.COUNTER,
                limit=feature.plain.effective_limit if feature is not None else counter.limit,
                told_limit=feature.limit if feature is not None else 0,
                marks=fitting.marks if fitting is not None else (),
                plan_key=entitlement.plan_key if entitlement is not None else "",
                revision=account.revision,
                entry_id=call.entry_id,
                period_end=reservation.period.end,
                at=call.recorded_time,
            )
            dimensions = reservation.dimensions | wish.dimensions
            self.entries.append(
                ExactEntry(
                    key=key,
                    period_end=reservation.period.end,
                    entry_id=call.entry_id,
                    recorded_time=call.recorded_time,
                    quantity=verdict.quantity,
                    used_after=counter.used,
                    limit=feature.limit if feature is not None else 0,
                    event_time=reservation.usage_time,
                    # So that whoever looks for the line of a request finds what became of its reservation.
                    request_id=reservation.request_id or None,
                    dimensions=json.dumps(dimensions) if dimensions else None,
                    kind=EntryKind.RESERVATION,
                    plan_key=entitlement.plan_key if entitlement is not None else "",
                    reservation_id=reservation.reservation_id,
                    credits=paid_by,
                )
            )
        answer = CommitAnswer(
            reason=_counted_reason(feature, counter, verdict),
            reservation=committed,
            settlement=verdict.settlement,
            overdrawn_quantity=verdict.overdrawn,
            used_quantity=counter.used,
            held_quantity=counter.reserved,
            limit_quantity=feature.limit if feature is not None else 0,
            threshold_percent=threshold_percent_crossed(
                used_before=used_before,
                used_after=counter.used,
                limit=fitting.limit,
                thresholds=fitting.entitlement.thresholds_percent,
            )
            if fitting is not None
            else 0,
            threshold_quantity=threshold_quantity_crossed(
                used_before=used_before,
                used_after=counter.used,
                thresholds=fitting.entitlement.thresholds_absolute,
            )
            if fitting is not None
            else 0,
            late=verdict.late,
            revision=account.revision,
        )
        self._change(call.key, committed, _commit_answer_json(answer))
        return answer

    # ------------------------------------------------------------------ release, extend

    def _release(self, call: ReservationCall, reservation: Reservation) -> ReleaseAnswer:
        if reservation.state is not ReservationState.RELEASED:
            if not may_commit(reservation, self._now, late_window=self._late_window):
                raise ReservationClosed(reservation.reservation_id, standing(reservation, self._now).state.value)
            self._give_back(reservation)
            reservation = replace(reservation, state=ReservationState.RELEASED, close_time=call.recorded_time)
            self._change(call.key, reservation, None)
        account = call.account
        assert account is not None
        counter = self.counters[_counter_key(reservation)]
        feature, _ = self._right(account, reservation.feature_key)
        limit = self._limited(feature, _counter_key(reservation)).limit if feature is not None else 0
        return ReleaseAnswer(
            reservation=reservation,
            remaining_quantity=remaining(limit=limit, used=counter.used, held=counter.reserved),
        )

    def _extend(self, call: ReservationCall, wish: Extend, reservation: Reservation) -> ExtendAnswer:
        if reservation.state is not ReservationState.HELD:
            raise ReservationClosed(reservation.reservation_id, reservation.state.value)
        extended = replace(reservation, expire_time=self._now + wish.ttl)
        key = _counter_key(reservation)
        counter = self.counters[key]
        counter.changed = True
        if counter.reserve_expire_time is None or reservation.expire_time <= counter.reserve_expire_time:
            self._expiry_unknown.add(key)
        self._note_expiry(key, extended.expire_time)
        self._change(call.key, extended, None)
        return ExtendAnswer(reservation=extended)

    # ------------------------------------------------------------------ shared

    def _right(self, account: HotAccount, feature_key: FeatureKey) -> tuple[HotFeature | None, Reason | None]:
        """Return the account's right to the feature now, or why it has none."""
        feature = account.feature(feature_key, self._now_ms)
        state = account.sources.state
        if feature is not None and feature.metered and state is AccountState.ACTIVE:
            return feature, None
        reason = decide(
            feature_known=True,
            account_state=state,
            entitlement=feature.entitlement if feature is not None else None,
            quantity=1,
            used=0,
            held=0,
        )
        return None, Reason.NO_ENTITLEMENT if reason.allows else reason

    def _limited(self, feature: HotFeature, key: CounterKey) -> HotFeature:
        """Return the feature with the limit that credits, and what rolled over, make of it for this counter now."""
        account = self._book.account(key)
        return feature.plain.with_limit(account.limit_quantity) if account is not None else feature

    def _give_back(self, reservation: Reservation) -> None:
        """Take a reservation that is held, and ends, out of its counter."""
        if reservation.state is not ReservationState.HELD:
            return
        key = _counter_key(reservation)
        counter = self.counters[key]
        counter.reserved -= reservation.quantity
        counter.changed = True
        if counter.reserve_expire_time is None or reservation.expire_time <= counter.reserve_expire_time:
            self._expiry_unknown.add(key)

    def _note_expiry(self, key: CounterKey, expire_time: datetime) -> None:
        counter = self.counters[key]
        if counter.reserve_expire_time is None or expire_time < counter.reserve_expire_time:
            counter.reserve_expire_time = expire_time

    def _change(self, key: ReservationKey, reservation: Reservation, answer: dict[str, Any] | None) -> None:
        self._known[key] = FoundReservation(reservation, answer)
        self._changed.add(key)


def _counter_key(reservation: Reservation) -> CounterKey:
    return counter_key_of(reservation.tenant_id, reservation.account_id, reservation.feature_key, reservation.period)


def _policy_of(feature: HotFeature) -> OverrunPolicy:
    """Return what the limit says about overruns."""
    return feature.entitlement.overrun_policy


def _counted_reason(feature: HotFeature | None, counter: LockedCounter, verdict: CommitVerdict) -> Reason:
    """Return why a commit was allowed: a limit that is passed is named, soft or overdrawn."""
    if feature is None:
        return Reason.OVERAGE if verdict.overdrawn else Reason.OK
    beyond_soft = not feature.hard and feature.limit != LIMIT_UNLIMITED and counter.used > feature.limit
    if verdict.overdrawn or (beyond_soft and verdict.quantity):
        return Reason.OVERAGE
    return allowed_reason(feature.entitlement)


def _request_row(call: ReservationCall, wish: Reserve, answer: ReserveAnswer) -> RequestRow:
    reservation = answer.reservation
    rest = {
        "rpc": _RPC,
        "held_quantity": answer.held_quantity,
        "grace_end_time": answer.grace_end_time.isoformat() if answer.grace_end_time is not None else None,
    }
    if reservation is not None:
        rest |= {"reservation_id": reservation.reservation_id, "expire_time": reservation.expire_time.isoformat()}
    return RequestRow(
        tenant_id=wish.tenant_id,
        account_id=wish.account_id,
        request_id=wish.request_id,
        fingerprint=call.fingerprint,
        reason=int(answer.reason),
        entry_id=None,
        quantity=wish.quantity,
        used_quantity=answer.used_quantity,
        limit_quantity=answer.limit_quantity,
        thresholds="",
        reset_time=answer.reset_time,
        plan_key=answer.plan_key,
        revision=answer.revision,
        recorded_time=call.recorded_time,
        answer=json.dumps(rest),
    )


def _answer_of(row: Any) -> dict[str, Any]:
    """Return the rest of a first answer; empty for calls that have none."""
    answer = row["answer"]
    loaded: dict[str, Any] = json.loads(answer) if answer else {}
    return loaded


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _commit_answer_json(answer: CommitAnswer) -> dict[str, Any]:
    return {
        "reason": int(answer.reason),
        "settlement": answer.settlement.value,
        "overdrawn_quantity": answer.overdrawn_quantity,
        "used_quantity": answer.used_quantity,
        "held_quantity": answer.held_quantity,
        "limit_quantity": answer.limit_quantity,
        "threshold_percent": answer.threshold_percent,
        "threshold_quantity": answer.threshold_quantity,
        "late": answer.late,
        "revision": answer.revision,
    }


def _replayed_commit(call: ReservationCall, found: FoundReservation) -> CommitAnswer:
    """Give the first answer again; to a call whose own attempt was lost it is the first one."""
    reservation, first = found.reservation, found.answer or {}
    own = call.doubtful and reservation.close_time == call.recorded_time
    if own and reservation.entry_id:
        own = reservation.entry_id == call.entry_id
    return CommitAnswer(
        reason=Reason(first["reason"]),
        reservation=reservation,
        settlement=Settlement(first["settlement"]),
        overdrawn_quantity=first["overdrawn_quantity"],
        used_quantity=first["used_quantity"],
        held_quantity=first["held_quantity"],
        limit_quantity=first["limit_quantity"],
        threshold_percent=first["threshold_percent"],
        threshold_quantity=first["threshold_quantity"],
        replayed=not own,
        late=first["late"],
        revision=first["revision"],
    )
