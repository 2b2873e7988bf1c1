"""What can be bought: a plan that is on sale, at one of its prices, by an account that does not have it yet."""

from __future__ import annotations

from datetime import datetime

from tallygate_server.billing.provider import Sale
from tallygate_server.domain.catalog import BillingInterval, Plan, Price
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import LIVE_STATES, BillingProvider
from tallygate_server.domain.timeline import standing
from tallygate_server.errors import InvalidRequest, PlanNotFound, PriceNotFound, SubscriptionExists
from tallygate_server.storage import catalogs as catalog_rows
from tallygate_server.storage import scheduled_changes as change_rows
from tallygate_server.storage import subscriptions as subscription_rows
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.mapping import Json, price_from_json, price_to_json


async def plan_on_sale(connection: Connection, tenant_id: TenantId, plan_key: PlanKey) -> Plan:
    """Return the newest version of the plan; raise PlanNotFound where it is not sold (any more)."""
    row = await catalog_rows.read_plan(connection, tenant_id, plan_key)
    if row is None or row.retired:
        raise PlanNotFound(plan_key)
    return row.plan


def price_to_pay(plan: Plan, interval: BillingInterval | None, currency: str) -> Price:
    """Return the price at the interval (None: the month, or the only one).

    Raises InvalidRequest for what costs nothing, PriceNotFound where it is not sold like this.
    """
    if not plan.priced:
        raise InvalidRequest.of("plan_key", f"plan {plan.key!r} costs nothing; CreateSubscription gives it")
    price = plan.price_for(interval or BillingInterval.MONTH)
    if interval is None and price is None:
        price = plan.prices[0]
    if price is None or (currency and currency != price.currency):
        sold = ", ".join(f"{each.interval.value} in {each.currency}" for each in plan.prices)
        wanted = " in ".join(part for part in (interval.value if interval else "", currency) if part)
        raise PriceNotFound(
            f"interval: plan {plan.key!r} is not sold by {wanted}, but by {sold}",
            plan_key=plan.key,
            interval=interval.value if interval else "",
            field="currency_code" if price is not None else "interval",
        )
    if price.amount_minor == 0:
        raise InvalidRequest.of("interval", f"plan {plan.key!r} costs nothing by {price.interval.value}")
    return price


def trial_to_give(plan: Plan, wanted: int | None) -> int:
    """Return the days of trial (None: as many as the plan gives); raise InvalidRequest for more than it allows."""
    if wanted is None:
        return plan.trial_days
    if wanted > plan.trial_days:
        allowed = f"at most {plan.trial_days} days" if plan.trial_days else "no trial"
        raise InvalidRequest.of("trial_days", f"plan {plan.key!r} allows {allowed}")
    return wanted


async def check_not_bought(
    connection: Connection,
    tenant_id: TenantId,
    account_id: AccountId,
    *,
    plan_key: PlanKey,
    interval: BillingInterval | None,
    at: datetime,
    but: str = "",
) -> None:
    """Raise SubscriptionExists where the account has a live subscription to the price, other than `but`."""
    live = await subscription_rows.live_subscriptions(connection, tenant_id, account_id)
    same = [
        row
        for row in live
        if (row.subscription.plan_key, row.subscription.interval) == (plan_key, interval)
        and row.subscription.provider is not BillingProvider.NONE
        and row.subscription.subscription_id != but
    ]
    pending = await change_rows.read_pending_of(
        connection, tenant_id, [row.subscription.subscription_id for row in same]
    )
    for row in same:
        subscription_id = row.subscription.subscription_id
        now = standing(row.subscription, pending.get(subscription_id), at).subscription
        if now.state in LIVE_STATES and (now.plan_key, now.interval) == (plan_key, interval):
            raise SubscriptionExists(
                f"the account has a live subscription to this price of plan {plan_key!r} already: {subscription_id}",
                account_id=account_id,
                plan_key=plan_key,
                subscription_id=subscription_id,
            )


def sale_of(tenant_id: TenantId, plan: Plan, price: Price) -> Sale:
    """Return the plan version at the price as something to sell."""
    return Sale(
        tenant_id=tenant_id, plan_key=plan.key, plan_version=plan.version, plan_name=plan.name or plan.key, price=price
    )


def sale_to_json(sale: Sale) -> Json:
    """Return the sale as JSON, as operations keep it."""
    return {
        "plan_key": sale.plan_key,
        "plan_version": sale.plan_version,
        "plan_name": sale.plan_name,
        "price": price_to_json(sale.price),
    }


def sale_from_json(tenant_id: TenantId, json: Json) -> Sale:
    """Return the sale that `sale_to_json` wrote."""
    return Sale(
        tenant_id=tenant_id,
        plan_key=PlanKey(json["plan_key"]),
        plan_version=json["plan_version"],
        plan_name=json["plan_name"],
        price=price_from_json(json["price"]),
    )
