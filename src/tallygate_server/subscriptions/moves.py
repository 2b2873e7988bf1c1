"""What a wanted move to another plan comes to: which subscription, which price, who collects, when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tallygate_server.domain.catalog import Plan, Price
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.subscription import BillingProvider, SubscriptionState
from tallygate_server.errors import InvalidRequest
from tallygate_server.storage.connection import Connection
from tallygate_server.subscriptions.decisions import (
    PlanChangeDirection,
    demand_live,
    direction_of,
    effective_time_of,
    price_after,
    provider_of,
)
from tallygate_server.subscriptions.steps import HeldRow, on_sale, pinned
from tallygate_server.subscriptions.wishes import ChangeTiming, PlanMove


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A wanted move, as it would be made."""

    held: HeldRow
    others: tuple[HeldRow, ...]
    """The account's other live subscriptions."""
    plan_before: Plan
    plan: Plan
    price: Price | None
    """None for a plan that costs nothing."""
    quantity: int
    provider: BillingProvider
    """Who collects the money afterwards."""
    direction: PlanChangeDirection
    at: datetime | None
    """When it takes effect; None: now."""

    @property
    def stands_already(self) -> bool:
        """Whether the account has a live subscription to the free plan that is moved to: that one then goes on."""
        return self.price is None and any(
            other.subscription.plan_key == self.plan.key and other.subscription.interval is None
            for other in self.others
        )

    @property
    def begins_beside(self) -> bool:
        """Whether the move is a new subscription by Stripe, beside the free one that goes on."""
        return self.provider is BillingProvider.STRIPE and self.held.subscription.provider is not BillingProvider.STRIPE

    @property
    def changes_nothing(self) -> bool:
        """Whether the subscription is all that already, and nothing else is planned for it."""
        held = self.held.subscription
        return (
            self.at is None
            and self.held.held.pending is None
            and held.plan_key == self.plan.key
            and held.plan_version == self.plan.version
            and held.interval is (self.price.interval if self.price is not None else None)
            and held.quantity == self.quantity
            and held.provider is self.provider
        )


async def read_move(
    connection: Connection,
    tenant_id: TenantId,
    held: HeldRow,
    live: Sequence[HeldRow],
    wanted: PlanMove,
    *,
    stripe: bool,
    now: datetime,
) -> Move:
    """Work out the move of the subscription to the newest version of the plan; `stripe`: whether it is connected.

    Raises IllegalTransition for one that has ended, PlanNotFound, PriceNotFound, BillingProviderRequired,
    BillingProviderNotConfigured, and InvalidRequest for a time that cannot be or another collector.
    """
    before = held.subscription
    demand_live(before, SubscriptionState.ACTIVE)
    plan = await on_sale(connection, tenant_id, wanted.plan_key)
    plan_before = await pinned(connection, tenant_id, before)
    provider = provider_of(plan, wanted.provider, before.provider, stripe=stripe)
    priced = {BillingProvider.STRIPE, BillingProvider.MANUAL}
    if before.provider in priced and provider in priced and before.provider is not provider:
        raise InvalidRequest.of(
            "billing_provider", "does not change while a subscription runs: cancel it, and create another one"
        )
    direction = direction_of(plan_before.rank, plan.rank)
    later = direction is PlanChangeDirection.DOWNGRADE
    timing = wanted.timing or (ChangeTiming.PERIOD_END if later else ChangeTiming.NOW)
    at = effective_time_of(before, timing, wanted.effective_time, now)
    move = Move(
        held=held,
        others=tuple(
            each for each in live if each.subscription.subscription_id != before.subscription_id
        ),
        plan_before=plan_before,
        plan=plan,
        price=price_after(before, plan, wanted.interval),
        quantity=before.quantity if wanted.quantity is None else wanted.quantity,
        provider=provider,
        direction=direction,
        at=at,
    )  # fmt: skip
    if move.begins_beside and at is not None:
        raise InvalidRequest.of("timing", "a subscription by Stripe begins at once")
    return move
