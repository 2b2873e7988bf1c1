"""What callers hear, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from tallygate_server.clock import Clock
from tallygate_server.domain.call import Increment, IncrementAnswer
from tallygate_server.domain.entitlement import Reason, allowed_reason
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.usage import threshold_percent_crossed, threshold_quantity_crossed
from tallygate_server.errors import RequestIdReused, TallygateError
from tallygate_server.metering.calls import IncrementCall, fingerprint, thresholds_from_text
from tallygate_server.storage.ledger import DenialRow
from tallygate_server.tenants import TenantDirectory


class Answers:
    """Builds answers from calls and totals."""

    def __init__(self, tenants: TenantDirectory, clock: Clock, next_entry_id: Callable[[], int]) -> None:
        """Take upgrade links from the tenants; `next_entry_id` numbers ledger entries and denials."""
        self._clock = clock
        self._tenants = tenants
        self.next_entry_id = next_entry_id

    def allowed(self, call: IncrementCall, *, used_after: int, held: int = 0, peak: int = 0) -> IncrementAnswer:
        """Return the answer of a counted call, whose counter stood at `used_after` right after it.

        `peak` is the highest total of the period before the call: what was reached then is not crossed again.
        """
        feature, account, increment = call.feature, call.account, call.increment
        assert feature is not None
        assert account is not None
        entitlement = feature.entitlement
        limit = feature.limit
        reason = allowed_reason(entitlement)
        if limit != LIMIT_UNLIMITED and used_after > limit and not feature.hard:
            reason = Reason.OVERAGE
        threshold = 0
        used_before = max(used_after - increment.quantity, peak)
        if entitlement.thresholds_percent and increment.quantity > 0:
            threshold = threshold_percent_crossed(
                used_before=used_before,
                used_after=used_after,
                limit=limit,
                thresholds=entitlement.thresholds_percent,
            )
        threshold_quantity = 0
        if entitlement.thresholds_absolute:
            threshold_quantity = threshold_quantity_crossed(
                used_before=used_before,
                used_after=used_after,
                thresholds=entitlement.thresholds_absolute,
            )
        return IncrementAnswer(
            reason=reason,
            revision=account.revision,
            feature_kind=entitlement.kind,
            limit_quantity=limit,
            used_quantity=used_after,
            held_quantity=held,
            reset_time=call.period.end if call.period is not None else None,
            threshold_percent=threshold,
            threshold_quantity=threshold_quantity,
            grace_end_time=entitlement.grace_end_time,
            plan_key=entitlement.plan_key,
            entry_id=call.entry_id,
        )

    def denial(self, call: IncrementCall, reason: Reason, *, used: int, held: int) -> IncrementAnswer:
        """Return the answer of a denied call, with what is known of its counter."""
        increment, account, feature = call.increment, call.account, call.feature
        entitlement = feature.entitlement if feature is not None else None
        metered = entitlement is not None and entitlement.denied is None
        plan_key: str = entitlement.plan_key if entitlement is not None else ""
        if not plan_key and account is not None:
            plan_key = account.plan_key(self._clock.now_ms())
        return IncrementAnswer(
            reason=reason,
            revision=account.revision if account is not None else 0,
            feature_kind=entitlement.kind if entitlement is not None else None,
            limit_quantity=feature.limit if metered and feature is not None else 0,
            used_quantity=used,
            held_quantity=held,
            reset_time=call.period.end if call.period is not None else None,
            grace_end_time=entitlement.grace_end_time if entitlement is not None else None,
            plan_key=plan_key,
            upgrade_url=self.upgrade_link(increment),
        )

    def upgrade_link(self, increment: Increment) -> str:
        """Return where the account can get more of the feature; empty when the tenant has no such place."""
        tenant = self._tenants.last_known(increment.tenant_id)
        if tenant is None:
            return ""
        return tenant.settings.upgrade_link(increment.account_id, increment.feature_key)

    def denial_row(self, call: IncrementCall, reason: Reason, used: int, recorded_time: datetime) -> DenialRow:
        """Return what is recorded of a denied call."""
        increment, feature = call.increment, call.feature
        return DenialRow(
            tenant_id=increment.tenant_id,
            account_id=increment.account_id,
            # That of a call which the exact commit has numbered, so that a second attempt changes nothing.
            entry_id=call.entry_id or self.next_entry_id(),
            recorded_time=recorded_time,
            feature_key=increment.feature_key,
            quantity=increment.quantity,
            reason=int(reason),
            used_quantity=used,
            limit_quantity=feature.limit if feature is not None and feature.entitlement.denied is None else 0,
            # As of entries: one that is recorded a little later was denied within its period all the same.
            event_time=increment.event_time or (call.period.clamp(recorded_time) if call.period is not None else None),
            request_id=increment.request_id or None,
        )

    def replay(self, call: IncrementCall, row: Any, *, replayed: bool) -> IncrementAnswer:
        """Return the first answer to the call's request id, from its row in `usage_requests`."""
        reason = Reason(row["reason"])
        percent = quantity = 0
        if reason.allows and row["thresholds"]:
            percents, absolutes = thresholds_from_text(row["thresholds"])
            used_before, used_after = row["used_quantity"] - row["quantity"], row["used_quantity"]
            percent = threshold_percent_crossed(
                used_before=used_before, used_after=used_after, limit=row["limit_quantity"], thresholds=percents
            )
            quantity = threshold_quantity_crossed(used_before=used_before, used_after=used_after, thresholds=absolutes)
        answer = IncrementAnswer(
            reason=reason,
            revision=row["revision"],
            feature_kind=call.feature.entitlement.kind if call.feature is not None else None,
            limit_quantity=row["limit_quantity"],
            used_quantity=row["used_quantity"],
            reset_time=row["reset_time"],
            threshold_percent=percent,
            threshold_quantity=quantity,
            plan_key=row["plan_key"],
            replayed=replayed,
            entry_id=row["entry_id"] or 0,
        )
        if not reason.allows:
            answer.upgrade_url = self.upgrade_link(call.increment)
        return answer


def replay_for_follower(
    increment: Increment, first: IncrementCall, outcome: IncrementAnswer | TallygateError
) -> IncrementAnswer | TallygateError:
    """Return what a call hears that came while the same request was in flight."""
    if fingerprint(increment) != first.fingerprint:
        return RequestIdReused(increment.request_id)
    if isinstance(outcome, IncrementAnswer):
        return replace(outcome, replayed=True)
    return outcome
