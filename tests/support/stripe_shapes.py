"""Small objects of Stripe's in the shape of the pinned API version, written by hand."""

from __future__ import annotations

from typing import Any, Final

from tallygate_server.billing.provider import Sale
from tallygate_server.domain.catalog import BillingInterval, Price
from tallygate_server.domain.identifier import PlanKey, TenantId

NOW: Final = 1_773_576_000
"""2026-03-15 12:00 UTC, where FrozenClock stands."""

MONTH: Final = 31 * 86_400

Json = dict[str, Any]


def sale(
    plan_key: str = "pro",
    amount_minor: int = 1_000,
    *,
    interval: BillingInterval = BillingInterval.MONTH,
    stripe_price_id: str = "",
) -> Sale:
    return Sale(
        tenant_id=TenantId("acme"),
        plan_key=PlanKey(plan_key),
        plan_version=1,
        plan_name=plan_key.title(),
        price=Price(interval=interval, amount_minor=amount_minor, currency="USD", stripe_price_id=stripe_price_id),
    )


def price(price_id: str = "price_pro", **more: Any) -> Json:
    return {
        "id": price_id,
        "object": "price",
        "active": True,
        "currency": "usd",
        "lookup_key": "acme:pro:month:USD:1000",
        "metadata": {},
        "product": "prod_pro",
        "recurring": {"interval": "month", "interval_count": 1, "usage_type": "licensed"},
        "type": "recurring",
        "unit_amount": 1_000,
        "unit_amount_decimal": "1000",
        **more,
    }


def listed(*objects: Json, has_more: bool = False) -> Json:
    return {"object": "list", "data": list(objects), "has_more": has_more, "url": "/v1/things"}


def subscription(
    subscription_id: str = "sub_1", *, price_id: str = "price_pro", quantity: int = 1, **more: Any
) -> Json:
    return {
        "id": subscription_id,
        "object": "subscription",
        "billing_cycle_anchor": NOW,
        "billing_mode": {"type": "flexible"},
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "collection_method": "charge_automatically",
        "created": NOW,
        "currency": "usd",
        "customer": "cus_1",
        "default_payment_method": None,
        "ended_at": None,
        "items": listed(
            {
                "id": "si_1",
                "object": "subscription_item",
                "current_period_start": NOW,
                "current_period_end": NOW + MONTH,
                "price": price(price_id),
                "quantity": quantity,
                "subscription": subscription_id,
            }
        ),
        "latest_invoice": "in_1",
        "metadata": {},
        "pause_collection": None,
        "pending_update": None,
        "schedule": None,
        "start_date": NOW,
        "status": "active",
        "trial_end": None,
        "trial_start": None,
        **more,
    }


def line(*, proration: bool = False, start: int = NOW, end: int = NOW + MONTH, amount: int = 1_000) -> Json:
    return {
        "id": "il_1",
        "object": "line_item",
        "amount": amount,
        "currency": "usd",
        "description": "1 x Pro",
        "parent": {
            "type": "subscription_item_details",
            "subscription_item_details": {"subscription_item": "si_1", "proration": proration},
        },
        "period": {"start": start, "end": end},
    }


def invoice(invoice_id: str = "in_1", **more: Any) -> Json:
    return {
        "id": invoice_id,
        "object": "invoice",
        "amount_due": 1_000,
        "amount_paid": 0,
        "amount_remaining": 1_000,
        "attempt_count": 1,
        "confirmation_secret": None,
        "created": NOW,
        "currency": "usd",
        "customer": "cus_1",
        "due_date": None,
        "hosted_invoice_url": "https://invoice.example.test/in_1",
        "lines": listed(line()),
        "next_payment_attempt": None,
        "number": "A-1",
        "parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_1"}},
        "status": "open",
        "status_transitions": {"paid_at": None},
        "total": 1_000,
        "total_taxes": [],
        **more,
    }


def intent(payment_id: str = "pi_1", **more: Any) -> Json:
    return {
        "id": payment_id,
        "object": "payment_intent",
        "amount": 1_000,
        "created": NOW,
        "currency": "usd",
        "customer": "cus_1",
        "description": "Subscription creation",
        "last_payment_error": None,
        "latest_charge": None,
        "status": "succeeded",
        **more,
    }


def charge(charge_id: str = "ch_1", **more: Any) -> Json:
    return {
        "id": charge_id,
        "object": "charge",
        "amount": 1_000,
        "amount_refunded": 0,
        "disputed": False,
        "paid": True,
        "payment_intent": "pi_1",
        "refunded": False,
        **more,
    }


def invoice_payment(payment_id: str = "pi_1", invoice_id: str = "in_1") -> Json:
    return {
        "id": f"inpay_{payment_id}",
        "object": "invoice_payment",
        "invoice": invoice_id,
        "payment": {"type": "payment_intent", "payment_intent": payment_id},
        "status": "open",
    }


def customer(customer_id: str = "cus_1", **more: Any) -> Json:
    return {
        "id": customer_id,
        "object": "customer",
        "address": None,
        "created": NOW,
        "currency": None,
        "email": "payer@example.test",
        "invoice_settings": {"default_payment_method": None},
        "metadata": {},
        "name": "Payer",
        "tax_ids": listed(),
        **more,
    }


def schedule(schedule_id: str = "sub_sched_1", **more: Any) -> Json:
    return {
        "id": schedule_id,
        "object": "subscription_schedule",
        "current_phase": {"start_date": NOW, "end_date": NOW + MONTH},
        "end_behavior": "release",
        "metadata": {},
        "phases": [
            {
                "default_payment_method": None,
                "discounts": [],
                "end_date": NOW + MONTH,
                "items": [{"price": "price_pro", "quantity": 1}],
                "start_date": NOW,
            }
        ],
        "released_subscription": None,
        "status": "active",
        "subscription": "sub_1",
        **more,
    }


def session(session_id: str = "cs_1", **more: Any) -> Json:
    return {
        "id": session_id,
        "object": "checkout.session",
        "customer": "cus_1",
        "expires_at": NOW + 3_600,
        "metadata": {},
        "payment_status": "unpaid",
        "status": "open",
        "subscription": None,
        "url": "https://checkout.example.test/cs_1",
        **more,
    }
