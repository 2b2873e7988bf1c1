"""Between the wire messages of subscriptions and those of the use case."""

from __future__ import annotations

import json
from typing import Final

from tallygate.v1 import catalog_pb2, money_pb2, period_pb2, subscription_pb2, subscription_service_pb2
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import PlanKey
from tallygate_server.domain.subscription import (
    BillingProvider,
    ScheduledChange,
    ScheduledChangeKind,
    SubscriptionState,
)
from tallygate_server.errors import InvalidRequest
from tallygate_server.subscriptions import (
    ChangeTiming,
    NewSubscription,
    PlanChangeDirection,
    SubscriptionChangeView,
    SubscriptionView,
)
from tallygate_server.subscriptions.preview import Amount, PlanChangePreview
from tallygate_server.transport.catalog_convert import API_INTERVAL, INTERVALS, to_api_money
from tallygate_server.transport.convert import (
    api_enum,
    domain_enum,
    from_api_optional_time,
    optional,
    to_api_instant,
    to_api_optional_instant,
)

_STATES: Final = domain_enum(SubscriptionState, subscription_pb2.SubscriptionState, "SUBSCRIPTION_STATE")
API_STATE: Final = api_enum(SubscriptionState, subscription_pb2.SubscriptionState, "SUBSCRIPTION_STATE")
_PROVIDERS: Final[dict[int, BillingProvider]] = {
    subscription_pb2.BILLING_PROVIDER_STRIPE: BillingProvider.STRIPE,
    subscription_pb2.BILLING_PROVIDER_MANUAL: BillingProvider.MANUAL,
}
_API_PROVIDER: Final = {
    BillingProvider.NONE: subscription_pb2.BILLING_PROVIDER_UNSPECIFIED,
    BillingProvider.STRIPE: subscription_pb2.BILLING_PROVIDER_STRIPE,
    BillingProvider.MANUAL: subscription_pb2.BILLING_PROVIDER_MANUAL,
}
_API_CHANGE_KIND: Final = api_enum(ScheduledChangeKind, subscription_pb2.ScheduledChangeKind, "SCHEDULED_CHANGE_KIND")
_API_DIRECTION: Final = api_enum(
    PlanChangeDirection, subscription_service_pb2.PlanChangeDirection, "PLAN_CHANGE_DIRECTION"
)
_TIMINGS: Final = domain_enum(ChangeTiming, subscription_service_pb2.ChangeTiming, "CHANGE_TIMING")


def from_api_interval(interval: int) -> BillingInterval | None:
    """Convert a billing interval, None for unset; raise InvalidRequest for one that nothing is sold by."""
    if interval == catalog_pb2.BILLING_INTERVAL_UNSPECIFIED:
        return None
    if interval not in INTERVALS:
        raise InvalidRequest.of("interval", "plans are sold by month or by year")
    return INTERVALS[interval]


def from_api_provider(provider: int) -> BillingProvider | None:
    """Convert a billing provider; None for unset."""
    return _PROVIDERS.get(provider)


def from_api_timing(timing: int) -> ChangeTiming | None:
    """Convert a timing; None for unset."""
    return _TIMINGS.get(timing)


def from_api_states(request: subscription_service_pb2.ListSubscriptionsRequest) -> list[SubscriptionState]:
    """Convert the states to list; empty for all."""
    if subscription_pb2.SUBSCRIPTION_STATE_UNSPECIFIED in request.states:
        return []
    return [_STATES[state] for state in request.states]


def from_api_new_subscription(request: subscription_service_pb2.CreateSubscriptionRequest) -> NewSubscription:
    """Convert what is to be created."""
    return NewSubscription(
        plan_key=PlanKey(request.plan_key),
        interval=from_api_interval(request.interval),
        provider=from_api_provider(request.billing_provider),
        currency=request.currency_code,
        quantity=request.quantity or 1,
        trial_days=optional(request, "trial_days"),
        start_time=from_api_optional_time(request, "start_time"),
        end_time=from_api_optional_time(request, "end_time"),
        payment_method_id=request.payment_method_id,
        promotion_code=request.promotion_code,
        metadata=dict(request.metadata),
    )


def to_api_subscription(view: SubscriptionView) -> subscription_pb2.Subscription:
    """Convert a subscription as it is now."""
    held = view.subscription
    trial = held.trial_end_time
    began = min(view.create_time, held.period_start_time)
    return subscription_pb2.Subscription(
        subscription_id=held.subscription_id,
        tenant_id=view.tenant_id,
        account_id=view.account_id,
        plan_key=held.plan_key,
        plan_version=held.plan_version,
        state=API_STATE[held.state],
        interval=(catalog_pb2.BILLING_INTERVAL_UNSPECIFIED if held.interval is None else API_INTERVAL[held.interval]),
        interval_count=0 if held.interval is None else 1,
        price=None if view.price is None else to_api_money(view.price),
        quantity=held.quantity,
        billing_provider=_API_PROVIDER[held.provider],
        provider_subscription_id=view.provider_subscription_id,
        provider_customer_id=view.provider_customer_id,
        provider_price_id=view.provider_price_id,
        start_time=to_api_instant(began),
        billing_anchor_time=to_api_instant(held.start_time),
        current_period=period_pb2.Period(
            start_time=to_api_instant(view.current_period_start),
            end_time=to_api_optional_instant(view.current_period_end),
        ),
        trial_period=(
            None
            if trial is None or trial <= began
            else period_pb2.Period(start_time=to_api_instant(began), end_time=to_api_instant(trial))
        ),
        cancel_at_period_end=view.ends_with_period,
        cancel_request_time=to_api_optional_instant(held.canceled_time),
        end_time=to_api_optional_instant(view.end_time),
        grace_end_time=to_api_optional_instant(view.grace_end_time),
        pause_period=_pause_of(view),
        scheduled_change=None if view.scheduled_change is None else _to_api_scheduled(view.scheduled_change),
        metadata=view.metadata,
        create_time=to_api_instant(view.create_time),
        update_time=to_api_instant(view.update_time),
    )


def _pause_of(view: SubscriptionView) -> period_pb2.Period | None:
    """Convert the pause that it is in, or that is planned."""
    held, planned = view.subscription, view.scheduled_change
    if held.state is SubscriptionState.PAUSED:
        start, end = held.pause_start_time, held.resume_time
    elif planned is not None and planned.kind is ScheduledChangeKind.PAUSE:
        start, end = planned.effective_time, planned.resume_time
    else:
        return None
    return period_pb2.Period(start_time=to_api_optional_instant(start), end_time=to_api_optional_instant(end))


def _to_api_scheduled(change: ScheduledChange) -> subscription_pb2.ScheduledChange:
    # An end after which a free plan goes on is a move to that plan, to whoever asked for it.
    moves = change.plan_key is not None
    return subscription_pb2.ScheduledChange(
        scheduled_change_id=change.scheduled_change_id,
        kind=subscription_pb2.SCHEDULED_CHANGE_KIND_PLAN if moves else _API_CHANGE_KIND[change.kind],
        plan_key=change.plan_key or "",
        interval=(
            catalog_pb2.BILLING_INTERVAL_UNSPECIFIED if change.interval is None else API_INTERVAL[change.interval]
        ),
        quantity=change.quantity or 0,
        effective_time=to_api_instant(change.effective_time),
        provider_schedule_id=change.provider_schedule_id,
        create_time=to_api_instant(change.create_time),
        actor=change.actor,
    )


def to_api_change(change: SubscriptionChangeView) -> subscription_pb2.SubscriptionChange:
    """Convert one step of history."""
    before = change.state_before
    return subscription_pb2.SubscriptionChange(
        change_id=str(change.change_id),
        subscription_id=change.subscription_id,
        cause=change.cause,
        state_before=subscription_pb2.SUBSCRIPTION_STATE_UNSPECIFIED if before is None else API_STATE[before],
        state_after=API_STATE[change.state_after],
        plan_key_before=change.plan_key_before,
        plan_key_after=change.plan_key_after,
        difference_json=json.dumps(change.difference, sort_keys=True),
        reason_text=change.reason,
        actor=change.actor,
        webhook_event_id=change.webhook_event_id,
        change_time=to_api_instant(change.change_time),
        revision=change.revision,
    )


def to_api_preview(preview: PlanChangePreview) -> subscription_service_pb2.PreviewPlanChangeResponse:
    """Convert what a change of plan would mean."""
    access = preview.access
    return subscription_service_pb2.PreviewPlanChangeResponse(
        direction=_API_DIRECTION[preview.direction],
        effective_time=to_api_instant(preview.effective_time),
        present_price=_to_api_amount(preview.present_price),
        new_price=_to_api_amount(preview.new_price),
        due_now=_to_api_amount(preview.due_now),
        next_invoice=_to_api_amount(preview.next_invoice),
        proration_lines=[
            subscription_service_pb2.ProrationLine(
                description=line.description,
                amount=money_pb2.Money(minor_units=line.amount_minor, currency_code=preview.currency),
                period=period_pb2.Period(
                    start_time=to_api_instant(line.period_start_time), end_time=to_api_instant(line.period_end_time)
                ),
            )
            for line in preview.lines
        ],
        exceeded_limits=[
            subscription_service_pb2.ExceededLimit(
                feature_key=limit.feature_key,
                used_quantity=limit.used_quantity,
                limit_quantity=limit.limit_quantity,
                excess_quantity=limit.excess_quantity,
            )
            for limit in access.exceeded_limits
        ],
        lost_feature_keys=access.lost_feature_keys,
        gained_feature_keys=access.gained_feature_keys,
        preview_time=to_api_instant(preview.preview_time),
    )


def _to_api_amount(amount: Amount | None) -> money_pb2.Money | None:
    if amount is None:
        return None
    return money_pb2.Money(minor_units=amount.minor, currency_code=amount.currency)
