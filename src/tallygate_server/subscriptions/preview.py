"""What a change of plan would mean: price, proration, and what the account would lose, win and exceed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from tallygate_server.billing.observed import ObservedProrationLine
from tallygate_server.billing.provider import PaymentProvider, Sale
from tallygate_server.clock import Clock
from tallygate_server.domain.catalog import BillingInterval, Plan, Price
from tallygate_server.domain.entitlement import AccountSources, Entitlement, SubscriptionSource, resolve
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.subscription import BillingProvider, Subscription, SubscriptionState
from tallygate_server.domain.timeline import with_plan
from tallygate_server.storage.engine import Database
from tallygate_server.subscriptions import steps
from tallygate_server.subscriptions.decisions import PlanChangeDirection, price_of
from tallygate_server.subscriptions.moves import Move, read_move
from tallygate_server.subscriptions.wishes import ChangeTiming, PlanMove, check_quantity, check_timing
from tallygate_server.tenants import TenantDirectory
from tallygate_server.usage_queries import AccountStanding

_NEW: Final = "sub_preview"
"""Id of a subscription that is only imagined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Money, in the currency's minor unit; negative for a credit."""

    minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExceededLimit:
    """A limit that present usage would exceed."""

    feature_key: str
    used_quantity: int
    limit_quantity: int

    @property
    def excess_quantity(self) -> int:
        """Units beyond the limit."""
        return self.used_quantity - self.limit_quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessDifference:
    """How what an account may do would change."""

    lost_feature_keys: tuple[str, ...]
    gained_feature_keys: tuple[str, ...]
    exceeded_limits: tuple[ExceededLimit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChangePreview:
    """What a change of plan would mean."""

    direction: PlanChangeDirection
    effective_time: datetime
    present_price: Amount | None
    """Of all seats for an interval; None for what costs nothing."""
    new_price: Amount | None
    due_now: Amount | None
    """None where nobody is asked who would bill it."""
    next_invoice: Amount | None
    currency: str
    """Of the lines."""
    lines: tuple[ObservedProrationLine, ...]
    access: AccessDifference
    preview_time: datetime
    """In whole seconds, as providers count; hand it to the change itself to pay exactly this."""


class PresentStandings(Protocol):
    """Knows where accounts stand."""

    async def standing(self, tenant_id: TenantId, account_id: AccountId) -> AccountStanding:
        """Return the account's sources and what it uses; raises AccountNotFound."""


class PlanChangePreviews:
    """Previews changes of plans; changes nothing."""

    def __init__(
        self,
        database: Database,
        *,
        tenants: TenantDirectory,
        standings: PresentStandings,
        clock: Clock,
        provider: PaymentProvider | None = None,
    ) -> None:
        """Work on the database; `provider` is None where no billing provider is configured."""
        self._database = database
        self._tenants = tenants
        self._standings = standings
        self._clock = clock
        self._provider = provider

    async def preview(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        plan_key: PlanKey,
        subscription_id: str = "",
        interval: BillingInterval | None = None,
        quantity: int | None = None,
        timing: ChangeTiming | None = None,
        effective_time: datetime | None = None,
    ) -> PlanChangePreview:
        """Return what `Subscriptions.change_plan` with the same content would mean.

        An account without a live subscription is shown the plan as a new one. Raises as the change itself, and
        BillingProviderUnavailable where the provider does not say what it would bill.
        """
        if quantity is not None:
            check_quantity(quantity)
        wanted = PlanMove(
            plan_key=plan_key, interval=interval, quantity=quantity, timing=timing, effective_time=effective_time
        )
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        check_timing(timing, effective_time, now)
        move: Move | None = None
        async with self._database.tenant_transaction(tenant_id) as connection:
            await steps.check_account(connection, tenant_id, account_id)
            live = await steps.live_rows(connection, tenant_id, account_id, now)
            if live or subscription_id:
                held = await steps.find(connection, tenant_id, account_id, subscription_id, now)
                if self._provider is None and held.subscription.provider is BillingProvider.NONE:
                    # Who would collect the money makes no difference to what is shown.
                    wanted = replace(wanted, provider=BillingProvider.MANUAL)
                move = await read_move(
                    connection, tenant_id, held, live, wanted, stripe=self._provider is not None, now=now
                )
                plan, price, seats = move.plan, move.price, move.quantity
            else:
                plan = await steps.on_sale(connection, tenant_id, plan_key)
                price, seats = price_of(plan, interval), quantity or 1
        standing = await self._standings.standing(tenant_id, account_id)
        after = sources_after(standing.sources, move, plan, price, quantity=seats, now=now)
        present = _price_before(move)
        preview = PlanChangePreview(
            direction=move.direction if move is not None else PlanChangeDirection.UPGRADE,
            effective_time=now if move is None or move.at is None else move.at,
            present_price=present,
            new_price=_total(price, seats),
            due_now=None,
            next_invoice=None,
            currency="",
            lines=(),
            access=access_difference(standing.sources, after, standing.used_quantities, now),
            preview_time=now.replace(microsecond=0),
        )
        if move is None or move.held.subscription.provider is not BillingProvider.STRIPE or self._provider is None:
            return preview
        return await self._with_proration(preview, tenant_id, move)

    async def _with_proration(self, preview: PlanChangePreview, tenant_id: TenantId, move: Move) -> PlanChangePreview:
        """Add what the provider would bill."""
        assert self._provider is not None
        currency = (preview.new_price or preview.present_price or Amount(minor=0, currency="")).currency
        if move.price is None or move.at is not None:
            # What waits for the end of a paid period costs nothing before.
            nothing = Amount(minor=0, currency=currency)
            return replace(preview, due_now=nothing, next_invoice=preview.new_price or nothing, currency=currency)
        observed = await self._provider.subscription(move.held.row.provider_subscription_id)
        if observed is None:
            return preview
        sale = Sale(
            tenant_id=tenant_id,
            plan_key=move.plan.key,
            plan_version=move.plan.version,
            plan_name=move.plan.name,
            price=move.price,
        )
        proration = await self._provider.preview_change(
            observed, sale, quantity=move.quantity, proration_time=preview.preview_time
        )
        return replace(
            preview,
            due_now=Amount(minor=proration.due_now_minor, currency=proration.currency),
            next_invoice=Amount(minor=proration.next_invoice_minor, currency=proration.currency),
            currency=proration.currency,
            lines=tuple(proration.lines),
            preview_time=proration.proration_time,
        )


def sources_after(
    sources: AccountSources, move: Move | None, plan: Plan, price: Price | None, *, quantity: int, now: datetime
) -> AccountSources:
    """Return the account's sources as they would be; `move` is None for a new subscription."""
    kept = list(sources.subscriptions)
    if move is None:
        return replace(sources, subscriptions=(*kept, _source(_imagined(plan, price, quantity, now), plan)))
    before = move.held.subscription
    if not move.begins_beside:
        kept = [each for each in kept if each.subscription.subscription_id != before.subscription_id]
    if move.stands_already:
        return replace(sources, subscriptions=tuple(kept))
    subscription = _imagined(plan, price, quantity, now)
    if not move.begins_beside:
        subscription = with_plan(
            before,
            plan_key=plan.key,
            plan_version=plan.version,
            provider=move.provider,
            interval=price.interval if price is not None else None,
            quantity=quantity,
            at=now,
        )
        if price is None and before.provider is BillingProvider.STRIPE:
            subscription = _imagined(plan, None, quantity, now)
    return replace(sources, subscriptions=(*kept, _source(subscription, plan)))


def access_difference(
    before: AccountSources, after: AccountSources, used_quantities: Mapping[str, int], at: datetime
) -> AccessDifference:
    """Compare what the account may do with either sources, all of them merged, and find what it uses too much.

    A limit is compared with what is used in the present period, whatever the period of the new limit: that is how much
    the account is used to. A counted feature that is lost counts as a limit of zero.
    """
    had, has = _given(before, at), _given(after, at)
    exceeded = []
    for feature_key, used in sorted(used_quantities.items()):
        entitlement = has.get(feature_key)
        lost = 0 if feature_key in had else LIMIT_UNLIMITED
        limit = lost if entitlement is None else entitlement.limit_quantity
        if limit != LIMIT_UNLIMITED and used > limit:
            exceeded.append(ExceededLimit(feature_key=feature_key, used_quantity=used, limit_quantity=limit))
    return AccessDifference(
        lost_feature_keys=tuple(sorted(had.keys() - has.keys())),
        gained_feature_keys=tuple(sorted(has.keys() - had.keys())),
        exceeded_limits=tuple(exceeded),
    )


def _given(sources: AccountSources, at: datetime) -> dict[str, Entitlement]:
    return {
        key: entitlement for key, entitlement in resolve(sources, at).entitlements.items() if entitlement.denied is None
    }


def _source(subscription: Subscription, plan: Plan) -> SubscriptionSource:
    return SubscriptionSource(
        subscription=subscription, plan_rank=plan.rank, grace_days=plan.grace_days, allowances=plan.allowances
    )


def _imagined(plan: Plan, price: Price | None, quantity: int, now: datetime) -> Subscription:
    return Subscription(
        subscription_id=_NEW,
        plan_key=plan.key,
        plan_version=plan.version,
        state=SubscriptionState.ACTIVE,
        provider=BillingProvider.NONE if price is None else BillingProvider.MANUAL,
        interval=price.interval if price is not None else None,
        quantity=quantity,
        start_time=now,
        period_start_time=now,
        period_end_time=None,
    )


def _price_before(move: Move | None) -> Amount | None:
    if move is None or move.held.subscription.interval is None:
        return None
    before = move.held.subscription
    assert before.interval is not None
    return _total(move.plan_before.price_for(before.interval), before.quantity)


def _total(price: Price | None, quantity: int) -> Amount | None:
    return None if price is None else Amount(minor=price.amount_minor * quantity, currency=price.currency)
