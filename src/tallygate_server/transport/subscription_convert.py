"""Between the wire messages of subscriptions and those of the use case."""

from __future__ import annotations

from typing import Final

from tallygate.v1 import catalog_pb2, period_pb2, subscription_pb2, subscription_service_pb2
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import PlanKey
from tallygate_server.domain.subscription import BillingProvider, SubscriptionState
from tallygate_server.errors import InvalidRequest
from tallygate_server.subscriptions import ChangeTiming, NewSubscription, SubscriptionView
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
    """Convert what is to be created; raise InvalidRequest for what only Stripe can use."""
    if request.billing_provider != subscription_pb2.BILLING_PROVIDER_STRIPE:
        for field in ("payment_method_id", "promotion_code"):
            if getattr(request, field):
                raise InvalidRequest.of(field, "is used with BILLING_PROVIDER_STRIPE only")
    return NewSubscription(
        plan_key=PlanKey(request.plan_key),
        interval=from_api_interval(request.interval),
        provider=from_api_provider(request.billing_provider),
        currency=request.currency_code,
        quantity=request.quantity or 1,
        trial_days=optional(request, "trial_days"),
        start_time=from_api_optional_time(request, "start_time"),
        end_time=from_api_optional_time(request, "end_time"),
        metadata=dict(request.metadata),
    )


def to_api_subscription(view: SubscriptionView) -> subscription_pb2.Subscription:
    """Convert a subscription as it is now."""
    held = view.subscription
    trial = held.trial_end_time
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
        start_time=to_api_instant(view.create_time if trial is None else held.period_start_time),
        billing_anchor_time=to_api_instant(held.start_time),
        current_period=period_pb2.Period(
            start_time=to_api_instant(view.current_period_start),
            end_time=to_api_optional_instant(view.current_period_end),
        ),
        trial_period=(
            None
            if trial is None
            else period_pb2.Period(
                start_time=to_api_instant(min(held.period_start_time, trial)), end_time=to_api_instant(trial)
            )
        ),
        cancel_at_period_end=held.cancel_at_period_end,
        cancel_request_time=to_api_optional_instant(held.canceled_time),
        end_time=to_api_optional_instant(view.end_time),
        grace_end_time=to_api_optional_instant(held.grace_end_time),
        metadata=view.metadata,
        create_time=to_api_instant(view.create_time),
        update_time=to_api_instant(view.update_time),
    )
