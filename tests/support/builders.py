"""Short ways to say "an account with this plan" in tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tallygate_server.domain.catalog import Allowance, BillingInterval, FeatureKind
from tallygate_server.domain.entitlement import AccountSources, AccountState, Grant, GrantKind, SubscriptionSource
from tallygate_server.domain.identifier import AccountId, FeatureKey, PlanKey, TenantId
from tallygate_server.domain.period import PeriodKind
from tallygate_server.domain.subscription import BillingProvider, Subscription, SubscriptionState

NOW = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def a_counter(
    limit: int = 10, *, feature: str = "words", period: PeriodKind = PeriodKind.DAY, **more: Any
) -> Allowance:
    """Allow so much of a counter per period."""
    return Allowance(
        feature_key=FeatureKey(feature), kind=FeatureKind.COUNTER, limit_quantity=limit, period_kind=period, **more
    )


def a_gauge(limit: int = 1, *, feature: str = "devices") -> Allowance:
    """Allow so many of a gauge."""
    return Allowance(feature_key=FeatureKey(feature), kind=FeatureKind.GAUGE, limit_quantity=limit)


def a_switch(feature: str = "export", *, on: bool = True) -> Allowance:
    """Switch a feature on or off."""
    return Allowance(feature_key=FeatureKey(feature), kind=FeatureKind.BOOLEAN, enabled=on)


def a_value(value: Any, *, feature: str = "history_days") -> Allowance:
    """Set a feature to a value."""
    return Allowance(feature_key=FeatureKey(feature), kind=FeatureKind.CONFIG, value=value)


def a_subscription(
    *allowances: Allowance,
    subscription_id: str = "s1",
    plan: str = "pro",
    state: SubscriptionState = SubscriptionState.ACTIVE,
    rank: int = 1,
    grace_days: int = 14,
    period_end: datetime | None = None,
    start: datetime = NOW - 30 * DAY,
    **more: Any,
) -> SubscriptionSource:
    """Subscribe to a plan with these allowances; without a period end it runs until it is canceled."""
    return SubscriptionSource(
        subscription=Subscription(
            subscription_id=subscription_id,
            plan_key=PlanKey(plan),
            plan_version=1,
            state=state,
            provider=BillingProvider.NONE,
            interval=BillingInterval.MONTH,
            quantity=1,
            start_time=start,
            period_start_time=start,
            period_end_time=period_end,
            **more,
        ),
        plan_rank=rank,
        grace_days=grace_days,
        allowances=allowances,
    )


def an_account(
    *subscriptions: SubscriptionSource, grants: tuple[Grant, ...] = (), state: AccountState = AccountState.ACTIVE
) -> AccountSources:
    """Make an account with these subscriptions and grants."""
    return AccountSources(
        tenant_id=TenantId("acme"),
        account_id=AccountId("ann"),
        revision=1,
        state=state,
        time_zone="UTC",
        create_time=NOW - 60 * DAY,
        subscriptions=subscriptions,
        grants=grants,
    )


def a_grant(kind: GrantKind, *, feature: str = "words", **more: Any) -> Grant:
    """Grant something from yesterday on."""
    grant = Grant(
        grant_id="g1",
        feature_key=FeatureKey(feature),
        feature_kind=FeatureKind.COUNTER,
        kind=kind,
        start_time=NOW - DAY,
        create_time=NOW - DAY,
    )
    return replace(grant, **more)
