"""What an observation of the provider makes of our rows: pure, so the same at every time, in any order, on any server.

The provider is the truth about what it collects money for. A webhook may be lost and a state be skipped with it, so a
move need not be in the transition table; only what is final stays final.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from tallygate_server.billing.customers import free_metadata
from tallygate_server.billing.observed import ObservedPrice, ObservedSchedulePhase, ObservedSubscription
from tallygate_server.billing.provider import PLAN_ATTRIBUTE, TENANT_ATTRIBUTE
from tallygate_server.domain.catalog import BillingInterval, Plan
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    BillingProvider,
    ScheduledChange,
    ScheduledChangeKind,
    Subscription,
    SubscriptionState,
)
from tallygate_server.storage.subscriptions import SubscriptionRow

_S = SubscriptionState

_LOOKUP_KEY_PARTS: Final = 5
END_TOLERANCE: Final = timedelta(minutes=1)
"""How much before its time an end still counts as the one that was planned."""
_PERIOD_MIN: Final = timedelta(seconds=1)
"""A period that the provider reports as empty is stored as this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sold:
    """What a price of the provider sells: a pinned plan version, by an interval."""

    plan: Plan
    interval: BillingInterval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A field in which a row and the provider differ, with both values as JSON can carry them."""

    field: str
    here: Any
    there: Any


# --- Plans ----------------------------------------------------------------------------------------------


def plan_key_of(price: ObservedPrice, tenant_id: TenantId) -> str:
    """Return the plan that the price names itself, by attributes or by lookup key; empty where it names none."""
    if price.metadata.get(TENANT_ATTRIBUTE) == tenant_id and price.metadata.get(PLAN_ATTRIBUTE):
        return price.metadata[PLAN_ATTRIBUTE]
    parts = price.lookup_key.split(":")
    return parts[1] if len(parts) == _LOOKUP_KEY_PARTS and parts[0] == tenant_id else ""


def sold_by(
    price: ObservedPrice, tenant_id: TenantId, versions: Sequence[Plan], present: Subscription | None
) -> Sold | None:
    """Return what the price sells, among plan versions of the tenant (newest first); None: it is no plan of ours.

    The pinned version stays while the plan stays; else it is the newest version that is sold at this price.
    """
    key = plan_key_of(price, tenant_id)
    if key:
        named = [plan for plan in versions if plan.key == key]
    else:
        named = [plan for plan in versions if any(each.stripe_price_id == price.price_id for each in plan.prices)]
        # Two plans may name one price in error; the one that is held wins.
        held = [plan for plan in named if present is not None and plan.key == present.plan_key]
        named = held or [plan for plan in named if plan.key == named[0].key]
    if not named:
        return None
    plan = next((plan for plan in named if _sells(plan, price)), named[0])
    if present is not None and present.plan_key == plan.key:
        plan = next((each for each in versions if _is_pinned(each, present)), plan)
    return Sold(plan=plan, interval=_interval(price, plan, present))


def _sells(plan: Plan, price: ObservedPrice) -> bool:
    return any(
        each.stripe_price_id == price.price_id
        or (each.interval.value, each.currency, each.amount_minor)
        == (price.interval, price.currency, price.unit_amount_minor)
        for each in plan.prices
    )


def _is_pinned(plan: Plan, present: Subscription) -> bool:
    return (plan.key, plan.version) == (present.plan_key, present.plan_version)


def _interval(price: ObservedPrice, plan: Plan, present: Subscription | None) -> BillingInterval | None:
    if price.interval_count == 1 and price.interval in {each.value for each in BillingInterval}:
        return BillingInterval(price.interval)
    for each in plan.prices:
        if each.stripe_price_id == price.price_id:
            return each.interval
    # Sold by weeks or quarters: no interval of ours says so, the stored period does.
    if present is not None:
        return present.interval
    return plan.prices[0].interval if plan.prices else None


# --- The subscription -----------------------------------------------------------------------------------


def row_as_observed(
    present: SubscriptionRow | None,
    observed: ObservedSubscription,
    sold: Sold,
    *,
    subscription_id: str,
    account_id: AccountId,
    at: datetime,
) -> SubscriptionRow:
    """Return the row that the observation makes of the present one; the same one where it is final already."""
    if present is not None and present.subscription.state not in LIVE_STATES:
        return present
    before = present.subscription if present is not None else None
    start = observed.period_start_time
    end = max(observed.period_end_time, start + _PERIOD_MIN)
    cancel = observed.cancel_time
    ends = observed.cancel_at_period_end or (cancel is not None and cancel <= end)
    if cancel is not None and cancel <= end:
        end = max(cancel, start + _PERIOD_MIN)
    canceled_time = (observed.cancel_request_time or observed.create_time) if ends else None
    if observed.state not in LIVE_STATES:
        ended = observed.end_time or end
        ends = ends and ended >= end
        canceled_time = canceled_time if ends else ended
    trialing = observed.state is _S.TRIALING
    paused = observed.state is _S.PAUSED
    subscription = Subscription(
        subscription_id=subscription_id,
        plan_key=sold.plan.key,
        plan_version=sold.plan.version,
        state=observed.state,
        provider=BillingProvider.STRIPE,
        interval=sold.interval,
        quantity=max(observed.quantity, 1),
        # Billing begins when the trial ends, and so do the periods anchored to it.
        start_time=observed.trial_end_time if trialing and observed.trial_end_time else observed.start_time,
        period_start_time=start,
        period_end_time=end,
        trial_end_time=observed.trial_end_time,
        cancel_at_period_end=ends,
        canceled_time=canceled_time,
        grace_end_time=_grace_end(observed, sold.plan),
        pause_start_time=_pause_start(before, at) if paused else None,
        resume_time=_resume_time(before, observed) if paused else None,
    )
    metadata = free_metadata(observed.metadata)
    if present is None:
        return SubscriptionRow(
            account_id=account_id,
            subscription=subscription,
            create_time=observed.create_time,
            update_time=at,
            metadata=metadata,
            provider_subscription_id=observed.provider_subscription_id,
            provider_customer_id=observed.customer_id,
            provider_price_id=observed.price.price_id,
        )
    return replace(
        present,
        subscription=subscription,
        metadata=metadata,
        provider_subscription_id=observed.provider_subscription_id,
        provider_customer_id=observed.customer_id,
        provider_price_id=observed.price.price_id,
    )


def _grace_end(observed: ObservedSubscription, plan: Plan) -> datetime | None:
    if observed.state is not _S.PAST_DUE:
        return None
    since = observed.overdue_since_time or observed.period_start_time
    return since + timedelta(days=plan.grace_days)


def _resume_time(before: Subscription | None, observed: ObservedSubscription) -> datetime | None:
    """Return when the pause ends: as the provider says, else as was asked for here, which only we know."""
    if observed.resume_time is not None or before is None or before.state is not _S.PAUSED:
        return observed.resume_time
    return before.resume_time


def _pause_start(before: Subscription | None, at: datetime) -> datetime:
    if before is not None and before.state is _S.PAUSED and before.pause_start_time is not None:
        return before.pause_start_time
    return at


# --- What is planned ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What is planned at the provider for a subscription: a change of plan or seats, or its end."""

    kind: ScheduledChangeKind
    effective_time: datetime
    provider_schedule_id: str
    """For an end that no schedule brings: the subscription itself, so that everybody sees who carries it out."""
    sold: Sold | None = None
    quantity: int | None = None

    def says(self, change: ScheduledChange) -> bool:
        """Tell whether the change is what is planned."""
        return (change.effective_time, change.provider_schedule_id) == (
            self.effective_time,
            self.provider_schedule_id,
        ) and change_as_json(change) == self.as_json()

    def as_json(self) -> dict[str, Any]:
        """Return it in few words, as `change_as_json` does."""
        interval = None if self.sold is None else self.sold.interval
        return {
            "kind": self.kind.value,
            "effective_time": _json(self.effective_time),
            "plan_key": None if self.sold is None else self.sold.plan.key,
            "interval": None if interval is None else interval.value,
            "quantity": self.quantity,
        }


def planned_at_provider(
    observed: ObservedSubscription, sold_in: Callable[[str], Sold | None], at: datetime
) -> Planned | None:
    """Return the next change that is planned at the provider; None where nothing is, or nobody knows its price.

    An end within the running period is no planned change: the period ends early.
    """
    if observed.state not in LIVE_STATES:
        return None
    phase = _next_phase(observed, at)
    if phase is not None:
        sold = sold_in(phase.price_id)
        if sold is not None and observed.schedule is not None:
            return Planned(
                kind=ScheduledChangeKind.PLAN,
                effective_time=phase.start_time,
                provider_schedule_id=observed.schedule.schedule_id,
                sold=sold,
                quantity=max(phase.quantity, 1),
            )
    cancel = observed.cancel_time
    if cancel is not None and cancel > observed.period_end_time and not observed.cancel_at_period_end:
        return Planned(
            kind=ScheduledChangeKind.CANCELLATION,
            effective_time=cancel,
            provider_schedule_id=observed.provider_subscription_id,
        )
    return None


def prices_to_know(observed: ObservedSubscription) -> frozenset[str]:
    """Return the prices of planned phases, beside that of the subscription itself."""
    if observed.schedule is None or observed.schedule.state not in ("not_started", "active"):
        return frozenset()
    return frozenset(phase.price_id for phase in observed.schedule.phases) - {observed.price.price_id}


def _next_phase(observed: ObservedSubscription, at: datetime) -> ObservedSchedulePhase | None:
    schedule = observed.schedule
    if schedule is None or schedule.state not in ("not_started", "active"):
        return None
    phases = sorted(schedule.phases, key=lambda phase: phase.start_time)
    begun = [phase for phase in phases if phase.start_time <= at]
    # The provider may be late: a phase that has begun, but is not carried out yet, is still to come.
    late = begun[-1:] if len(begun) > 1 else []
    following = [phase for phase in phases if phase.start_time > at]
    present = (observed.price.price_id, observed.quantity)
    return next((phase for phase in [*late, *following] if (phase.price_id, phase.quantity) != present), None)


def change_of(
    planned: Planned,
    before: ScheduledChange | None,
    *,
    scheduled_change_id: str,
    subscription_id: str,
    actor: str,
    reason: str,
    at: datetime,
) -> ScheduledChange:
    """Return the scheduled change that says what is planned, in place of the pending one where there is one."""
    sold = planned.sold
    return ScheduledChange(
        scheduled_change_id=before.scheduled_change_id if before is not None else scheduled_change_id,
        subscription_id=subscription_id,
        kind=planned.kind,
        effective_time=planned.effective_time,
        plan_key=sold.plan.key if sold is not None else None,
        plan_version=sold.plan.version if sold is not None else None,
        interval=sold.interval if sold is not None else None,
        quantity=planned.quantity,
        provider=BillingProvider.STRIPE if sold is not None else None,
        provider_schedule_id=planned.provider_schedule_id,
        actor=before.actor if before is not None else actor,
        reason=before.reason if before is not None else reason,
        create_time=before.create_time if before is not None else at,
    )


def ends_what_we_planned(change: ScheduledChange, before: Subscription | None, after: Subscription) -> bool:
    """Tell whether the observation ends what we planned ourselves: a free plan after it, the end of a pause."""
    if before is None or before.state is after.state:
        return False
    if change.kind is ScheduledChangeKind.RESUMPTION:
        return before.state is _S.PAUSED
    return after.state not in LIVE_STATES


def is_followed(change: ScheduledChange, after: Subscription) -> bool:
    """Tell whether the subscription has ended for the free plan that was to follow it, and not before its time."""
    ended = after.period_end_time if after.cancel_at_period_end else after.canceled_time
    return (
        change.kind is ScheduledChangeKind.PLAN
        and change.provider is BillingProvider.NONE
        and after.state not in LIVE_STATES
        and ended is not None
        and ended >= change.effective_time - END_TOLERANCE
    )


def free_one_after(change: ScheduledChange, after: Subscription, subscription_id: str) -> Subscription:
    """Return the free subscription that follows one that has ended."""
    assert change.plan_key is not None
    assert change.plan_version is not None
    begins = (after.period_end_time if after.cancel_at_period_end else after.canceled_time) or change.effective_time
    return Subscription(
        subscription_id=subscription_id,
        plan_key=change.plan_key,
        plan_version=change.plan_version,
        state=_S.ACTIVE,
        provider=BillingProvider.NONE,
        interval=None,
        quantity=1,
        start_time=begins,
        period_start_time=begins,
        period_end_time=None,
    )


def took_effect(change: ScheduledChange, after: Subscription) -> bool:
    """Tell whether a change that is no longer planned has been carried out, rather than taken back."""
    if change.kind is ScheduledChangeKind.RESUMPTION:
        return after.state in LIVE_STATES
    if change.provider is BillingProvider.NONE:
        return is_followed(change, after)
    if change.kind is ScheduledChangeKind.CANCELLATION:
        return after.state not in LIVE_STATES or after.cancel_at_period_end
    if change.kind is not ScheduledChangeKind.PLAN:
        return False
    return (after.plan_key, after.interval) == (change.plan_key, change.interval) and change.quantity in (
        None,
        after.quantity,
    )


# --- What happened --------------------------------------------------------------------------------------


def happenings(before: Subscription | None, after: Subscription) -> list[str]:
    """Return what happened between two observations, the most telling first, as types of events without prefix."""
    if before is None:
        return ["created"]
    found = []
    if before.state is not after.state:
        found += _moves(before.state, after.state)
    goes_on = before.state not in _BEFORE_BILLING and after.state in LIVE_STATES and after.state is not _S.PAUSED
    if goes_on and after.period_start_time > before.period_start_time:
        found.append("renewed")
    return found or ["changed"]


def _moves(before: SubscriptionState, after: SubscriptionState) -> list[str]:
    if after in (_S.EXPIRED, _S.INCOMPLETE_EXPIRED):
        return ["expired"]
    if after not in LIVE_STATES:
        return ["canceled"]
    if after is _S.PAUSED:
        return ["paused"]
    if after in (_S.PAST_DUE, _S.UNPAID):
        return ["past_due"] if before not in (_S.PAST_DUE, _S.UNPAID) else []
    if before is _S.PAUSED:
        return ["resumed"]
    if before in (_S.PAST_DUE, _S.UNPAID):
        return ["recovered"]
    return []


# A new period after one of these is the first that is billed, not a renewal.
_BEFORE_BILLING: Final = frozenset({_S.TRIALING, _S.INCOMPLETE, _S.PAUSED})

_ACTIONS: Final = {
    "created": "create",
    "canceled": "cancel",
    "expired": "expiry",
    "past_due": "payment_failed",
    "recovered": "payment_recovered",
    "paused": "pause",
    "resumed": "resume",
    "renewed": "renewal",
}


def action_of(before: Subscription | None, after: Subscription) -> str:
    """Name the step for the history."""
    first = happenings(before, after)[0]
    if before is None or first != "changed":
        if first == "canceled" and after.cancel_at_period_end:
            # Asked for before; now its time has come.
            return "expiry"
        return _ACTIONS[first]
    if (before.plan_key, before.interval) != (after.plan_key, after.interval):
        return "change_plan"
    if before.quantity != after.quantity:
        return "change_quantity"
    if before.cancel_at_period_end != after.cancel_at_period_end:
        return "cancel" if after.cancel_at_period_end else "resume"
    if before.state is _S.TRIALING and after.state is not _S.TRIALING:
        return "trial_end"
    if before.state is _S.INCOMPLETE and after.state is not _S.INCOMPLETE:
        return "payment_succeeded"
    return "update"


# --- What differs ---------------------------------------------------------------------------------------

_FIELDS: Final[Mapping[str, Callable[[SubscriptionRow], Any]]] = {
    "state": lambda row: row.subscription.state.value,
    "plan_key": lambda row: row.subscription.plan_key,
    "plan_version": lambda row: row.subscription.plan_version,
    "interval": lambda row: None if row.subscription.interval is None else row.subscription.interval.value,
    "quantity": lambda row: row.subscription.quantity,
    "billing_provider": lambda row: row.subscription.provider.value,
    "billing_anchor_time": lambda row: _json(row.subscription.start_time),
    "current_period": lambda row: [
        _json(row.subscription.period_start_time),
        _json(row.subscription.period_end_time),
    ],
    "trial_end_time": lambda row: _json(row.subscription.trial_end_time),
    "cancel_at_period_end": lambda row: row.subscription.cancel_at_period_end,
    "cancel_request_time": lambda row: _json(row.subscription.canceled_time),
    "grace_end_time": lambda row: _json(row.subscription.grace_end_time),
    "pause_start_time": lambda row: _json(row.subscription.pause_start_time),
    "resume_time": lambda row: _json(row.subscription.resume_time),
    "provider_subscription_id": lambda row: row.provider_subscription_id,
    "provider_customer_id": lambda row: row.provider_customer_id,
    "provider_price_id": lambda row: row.provider_price_id,
    "metadata": lambda row: dict(row.metadata),
}


def differences(present: SubscriptionRow | None, wanted: SubscriptionRow) -> list[Difference]:
    """Return every field in which the row is not what it should be; one of the whole where there is no row."""
    if present is None:
        return [Difference(field="subscription", here=None, there=wanted.subscription.state.value)]
    return [
        Difference(field=name, here=read(present), there=read(wanted))
        for name, read in _FIELDS.items()
        if read(present) != read(wanted)
    ]


def change_as_json(change: ScheduledChange | None) -> dict[str, Any] | None:
    """Return what is planned, in few words."""
    if change is None:
        return None
    return {
        "kind": change.kind.value,
        "effective_time": _json(change.effective_time),
        "plan_key": change.plan_key,
        "interval": None if change.interval is None else change.interval.value,
        "quantity": change.quantity,
    }


def _json(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
