"""The billing provider Stripe, through its own library.

What it promises beyond `PaymentProvider`:

- Whatever is asked twice under one operation id is done once, across crashes, timeouts and failures that Stripe has
  stored. Idempotency keys are `{operation_id}:{step}`; whatever is made carries the operation id in its metadata, so
  that it is found when the keys are forgotten.
- What is returned after a change is read anew: an answer that Stripe has stored may be a day old.
- A refusal leaves nothing behind that could take money later.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import stripe
from stripe import params as wire
from stripe.params import checkout as checkout_wire

from tallygate_server.billing.observed import (
    ObservedCheckoutSession,
    ObservedCustomer,
    ObservedInvoice,
    ObservedPayment,
    ObservedPrice,
    ObservedProration,
    ObservedSchedule,
    ObservedSubscription,
    PostalAddress,
)
from tallygate_server.billing.provider import (
    ACCOUNT_ATTRIBUTE,
    OPERATION_ATTRIBUTE,
    PLAN_ATTRIBUTE,
    PLAN_VERSION_ATTRIBUTE,
    SUBSCRIPTION_ATTRIBUTE,
    TENANT_ATTRIBUTE,
    CustomerDetails,
    Sale,
)
from tallygate_server.billing.stripe_calls import StripeCalls, Written, guarded
from tallygate_server.billing.stripe_errors import is_absence, problem_of, refusal
from tallygate_server.billing.stripe_objects import (
    Fields,
    JsonObject,
    checkout_session_of,
    customer_of,
    failure_code_of,
    invoice_of,
    payment_of,
    price_of,
    proration_of,
    schedule_of,
    subscription_id_of_event,
    subscription_of,
)
from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import PaymentRefused

EVENT_DAYS: Final = 29
"""Stripe keeps events for 30 days; what is asked for about an older time is answered by listing everything."""

PRICES_CACHED_MAX: Final = 10_000

CUSTOMER_SCAN_PAGES_MAX: Final = 20
"""Pages of customers that are looked through for one that may have been made by a failed request."""

OPERATION_HOURS: Final = 25
"""How old a thing can be that a request with a stored answer has made: Stripe keeps answers for a day."""

REASON_LENGTH_MAX: Final = 500

_FINAL: Final = frozenset({"canceled", "incomplete_expired"})
_OVERDUE: Final = frozenset({"past_due", "unpaid"})
_STEERING: Final = frozenset({"not_started", "active"})
_DISPUTE_OVER: Final = frozenset({"won", "warning_closed", "prevented"})

_SUBSCRIPTION_EXPANDED: Final = ["latest_invoice.confirmation_secret", "schedule"]

_EVENT_TYPES: Final = [
    *(
        f"customer.subscription.{what}"
        for what in (
            "created", "updated", "deleted", "paused", "resumed", "pending_update_applied", "pending_update_expired",
        )
    ),
    *(
        f"invoice.{what}"
        for what in (
            "finalized", "updated", "paid", "payment_failed", "payment_action_required", "voided",
            "marked_uncollectible",
        )
    ),
    *(
        f"subscription_schedule.{what}"
        for what in ("created", "updated", "released", "completed", "canceled", "aborted")
    ),
]  # fmt: skip
"""Twenty types, as many as one list call takes: each after which a subscription may be another one."""


PAGE_SIZE_MAX: Final = 100
"""Objects in one answer of Stripe's lists."""


class StripeGateway:
    """Satisfies `billing.provider.PaymentProvider`."""

    def __init__(
        self,
        *,
        api_key: str,
        api_base: str = "https://api.stripe.com",
        clock: Clock,
        timeout_ms: int = 8_000,
        call_timeout_ms: int = 25_000,
        retries_max: int = 2,
        breaker_failures_max: int = 5,
        breaker_open_ms: int = 10_000,
    ) -> None:
        """Set up; nothing is sent before the first call.

        `timeout_ms` bounds one HTTP request, `call_timeout_ms` one method with all its requests and tries.
        """
        self._clock = clock
        self._calls = StripeCalls(
            api_key=api_key,
            api_base=api_base,
            clock=clock,
            timeout_ms=timeout_ms,
            call_timeout_ms=call_timeout_ms,
            retries_max=retries_max,
            breaker_failures_max=breaker_failures_max,
            breaker_open_ms=breaker_open_ms,
        )
        self._v1 = self._calls.v1
        self._prices: OrderedDict[tuple[str, str], ObservedPrice] = OrderedDict()

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()

    # -------------------------------------------------------------- asking

    @guarded
    async def subscription(self, provider_subscription_id: str) -> ObservedSubscription | None:
        """Return the subscription with its schedule, latest invoice and the time since which it is overdue."""
        if not provider_subscription_id:
            return None
        answer = self._v1.subscriptions.retrieve_async(provider_subscription_id, {"expand": _SUBSCRIPTION_EXPANDED})
        data = await self._calls.read_or_none(answer)
        return None if data is None else await self._observed(data)

    async def changed_subscription_ids(self, *, since: datetime | None, customer_id: str = "") -> AsyncIterator[str]:
        """Yield ids of subscriptions that something happened to since then (None: all that there are), each once.

        Events tell what happened, the latest first; Stripe keeps them for 30 days. For an earlier time, and for one
        customer, whom events cannot be asked about, all subscriptions are listed.
        """
        seen: set[str] = set()
        earliest = self._clock.now() - timedelta(days=EVENT_DAYS)
        by_events = since is not None and since > earliest and not customer_id
        ids = self._ids_by_events(since) if by_events and since is not None else self._ids_by_listing(customer_id)
        async for found in ids:
            if found and found not in seen:
                seen.add(found)
                yield found

    @guarded
    async def customer(self, customer_id: str) -> ObservedCustomer | None:
        """Return the customer; one that was deleted says so."""
        if not customer_id:
            return None
        answer = self._v1.customers.retrieve_async(customer_id, {"expand": ["tax_ids"]})
        data = await self._calls.read_or_none(answer)
        return None if data is None else customer_of(data)

    @guarded
    async def invoice(self, invoice_id: str) -> ObservedInvoice | None:
        """Return the invoice."""
        if not invoice_id:
            return None
        answer = self._v1.invoices.retrieve_async(invoice_id, {"expand": ["confirmation_secret"]})
        data = await self._calls.read_or_none(answer)
        return None if data is None else invoice_of(data)

    @guarded
    async def invoices_of_subscription(self, provider_subscription_id: str) -> Sequence[ObservedInvoice]:
        """Return the newest invoices of the subscription, a hundred at most."""
        if not provider_subscription_id:
            return ()
        wanted: wire.InvoiceListParams = {"subscription": provider_subscription_id, "limit": PAGE_SIZE_MAX}
        page = await self._calls.read(self._v1.invoices.list_async(wanted))
        return tuple(invoice_of(each.data) for each in Fields(page, kind="list", object_id="invoices").each("data"))

    @guarded
    async def payment(self, payment_id: str) -> ObservedPayment | None:
        """Return the payment intent, with refunds, disputes and fraud warnings of its charge."""
        return await self._payment(payment_id) if payment_id else None

    @guarded
    async def payment_of_charge(self, charge_id: str) -> ObservedPayment | None:
        """Return the payment that the charge belongs to; None also where it belongs to none."""
        if not charge_id:
            return None
        charge = await self._calls.read_or_none(self._v1.charges.retrieve_async(charge_id))
        if charge is None:
            return None
        payment_id = Fields(charge, kind="charge").reference_or_empty("payment_intent")
        return await self._payment(payment_id) if payment_id else None

    @guarded
    async def payments_of_invoice(self, invoice_id: str) -> Sequence[ObservedPayment]:
        """Return every payment that was tried for the invoice."""
        if not invoice_id:
            return ()
        found = [await self._payment(payment_id, invoice_id) for payment_id in await self._payment_ids(invoice_id)]
        return tuple(payment for payment in found if payment is not None)

    @guarded
    async def schedule(self, schedule_id: str) -> ObservedSchedule | None:
        """Return the schedule."""
        if not schedule_id:
            return None
        data = await self._calls.read_or_none(self._v1.subscription_schedules.retrieve_async(schedule_id))
        return None if data is None else schedule_of(data)

    @guarded
    async def checkout_session(self, session_id: str) -> ObservedCheckoutSession | None:
        """Return the page."""
        if not session_id:
            return None
        data = await self._calls.read_or_none(self._v1.checkout.sessions.retrieve_async(session_id))
        return None if data is None else checkout_session_of(data)

    @guarded
    async def price(self, price_id: str) -> ObservedPrice | None:
        """Return the price: phases of a schedule name theirs only."""
        if not price_id:
            return None
        data = await self._calls.read_or_none(self._v1.prices.retrieve_async(price_id))
        return None if data is None else price_of(data)

    @guarded
    async def find_customer(
        self, tenant_id: TenantId, account_id: AccountId, *, created_since: datetime
    ) -> ObservedCustomer | None:
        """Return the account's customer by its attributes, of those created since then; None where there is none."""
        wanted: wire.CustomerListParams = {"created": {"gte": _seconds(created_since)}}
        async for data in self._calls.pages(self._v1.customers.list_async, wanted, pages_max=CUSTOMER_SCAN_PAGES_MAX):
            metadata = Fields(data, kind="customer").texts("metadata")
            if (metadata.get(TENANT_ATTRIBUTE), metadata.get(ACCOUNT_ATTRIBUTE)) == (tenant_id, account_id):
                return customer_of(await self._customer(Fields(data, kind="customer").text("id")))
        return None

    @guarded
    async def open_checkout_sessions(self, customer_id: str) -> Sequence[ObservedCheckoutSession]:
        """Return the pages that are open for the customer."""
        wanted: checkout_wire.SessionListParams = {"customer": customer_id, "status": "open"}
        return [
            checkout_session_of(data) async for data in self._calls.pages(self._v1.checkout.sessions.list_async, wanted)
        ]

    # -------------------------------------------------------------- prices and customers

    @guarded
    async def ensure_price(self, sale: Sale) -> ObservedPrice:
        """Return the provider's price: the one that the catalog names, else the one with its lookup key, else made."""
        return await self._price(sale)

    @guarded
    async def create_customer(
        self, tenant_id: TenantId, account_id: AccountId, details: CustomerDetails, *, operation_id: str
    ) -> ObservedCustomer:
        """Create the customer that pays for the account."""
        creation: wire.CustomerCreateParams = {
            "metadata": {
                **{key: value for key, value in details.metadata.items() if value},
                TENANT_ATTRIBUTE: tenant_id,
                ACCOUNT_ATTRIBUTE: account_id,
                OPERATION_ATTRIBUTE: operation_id,
            }
        }
        if details.email:
            creation["email"] = details.email
        if details.name:
            creation["name"] = details.name
        if details.address is not None:
            creation["address"] = _address_wire(details.address)
        if details.default_payment_method_id:
            creation["payment_method"] = details.default_payment_method_id
            creation["invoice_settings"] = {"default_payment_method": details.default_payment_method_id}
        if details.tax_ids:
            creation["tax_id_data"] = [{"type": kind, "value": value} for kind, value in details.tax_ids]
        written = await self._calls.write(
            f"{operation_id}:customer",
            lambda options: self._v1.customers.create_async(creation, options),
            find=lambda: self._customer_of_operation(operation_id, details.email or ""),
        )
        return customer_of(await self._customer(_id_of(written)))

    @guarded
    async def update_customer(
        self, customer_id: str, details: CustomerDetails, *, operation_id: str
    ) -> ObservedCustomer:
        """Change the customer; tax ids are replaced as a whole: what is new is added before what is gone is removed.

        A new default payment method pays all renewals from now on, also of subscriptions that have one of their own.
        """
        update: wire.CustomerUpdateParams = {}
        if details.email is not None:
            update["email"] = details.email
        if details.name is not None:
            update["name"] = details.name
        if details.address is not None:
            update["address"] = _address_wire(details.address)
        if details.metadata:
            update["metadata"] = dict(details.metadata)
        if details.default_payment_method_id is not None:
            method_id = details.default_payment_method_id
            if method_id:
                method_id = await self._attached(method_id, customer_id, operation_id)
            update["invoice_settings"] = {"default_payment_method": method_id}
        if update:
            await self._calls.write(
                f"{operation_id}:customer",
                lambda options: self._v1.customers.update_async(customer_id, update, options),
                find=_nothing,
            )
        if details.default_payment_method_id:
            method_id = update["invoice_settings"]["default_payment_method"]
            await self._pay_renewals_with(method_id, customer_id, operation_id)
        if details.tax_ids is not None:
            await self._replace_tax_ids(customer_id, details.tax_ids, operation_id)
        return customer_of(await self._customer(customer_id))

    # -------------------------------------------------------------- subscriptions

    @guarded
    async def create_subscription(
        self,
        sale: Sale,
        *,
        customer_id: str,
        account_id: AccountId,
        subscription_id: str,
        quantity: int,
        trial_days: int,
        payment_method_id: str,
        promotion_code: str,
        metadata: Mapping[str, str],
        operation_id: str,
    ) -> ObservedSubscription:
        """Subscribe the customer; the first payment is tried at once, and the state is INCOMPLETE if it needs more.

        With a payment method (given, or the customer's default) it is charged at once (`allow_incomplete`). If the bank
        wants the payer to confirm, the subscription is INCOMPLETE, and its latest invoice has what a browser needs.
        `error_if_incomplete` would be refused in that case. Without any method the subscription is made INCOMPLETE, and
        the method that pays the first invoice becomes its default. A given method becomes its default too; else it
        follows the customer's.

        A given method that is declined refuses the whole: the subscription is canceled again, which voids its invoice.
        If the customer's default method is declined, nobody has chosen it here, and the subscription stays INCOMPLETE.

        A trial that ends without a payment method cancels the subscription: a paused one would be live, and would
        stand in the way of the free plan that the account falls back to, and of subscribing anew.
        """
        made = await self._subscription_of_operation(customer_id, subscription_id, operation_id)
        if made is None:
            price = await self._price(sale)
            method_id = payment_method_id
            if method_id:
                method_id = await self._attached(method_id, customer_id, operation_id)
            has_method = bool(method_id) or await self._has_default_method(customer_id)
            creation: wire.SubscriptionCreateParams = {
                "customer": customer_id,
                "items": [{"price": price.price_id, "quantity": quantity}],
                "billing_mode": {"type": "flexible"},
                "collection_method": "charge_automatically",
                "payment_behavior": "allow_incomplete" if has_method else "default_incomplete",
                "metadata": {**metadata, **_attributes(sale, account_id, subscription_id, operation_id)},
            }
            if method_id:
                creation["default_payment_method"] = method_id
            elif not has_method:
                creation["payment_settings"] = {"save_default_payment_method": "on_subscription"}
            if trial_days > 0:
                creation["trial_period_days"] = trial_days
                creation["trial_settings"] = {"end_behavior": {"missing_payment_method": "cancel"}}
            if promotion_code:
                creation["discounts"] = [await self._discount(promotion_code)]
            try:
                written = await self._calls.write(
                    f"{operation_id}:subscription",
                    lambda options: self._v1.subscriptions.create_async(creation, options),
                    find=lambda: self._subscription_of_operation(customer_id, subscription_id, operation_id),
                )
            except stripe.InvalidRequestError:
                # It may have been archived since it was found.
                self._forget_price(sale)
                raise
            made = written.data
        data = await self._subscription(Fields(made, kind="subscription").text("id"))
        if payment_method_id:
            data = await self._without_declined(data, operation_id)
        return await self._observed(data)

    @guarded
    async def change_subscription(
        self,
        present: ObservedSubscription,
        sale: Sale,
        *,
        quantity: int,
        payment_method_id: str,
        proration_time: datetime | None,
        operation_id: str,
    ) -> ObservedSubscription:
        """Change price or quantity now; the difference is billed at once, and it stays as it is if that fails.

        `pending_if_incomplete` keeps the present price until the difference is paid. When the bank wants the payer to
        confirm, the latest invoice has what a browser needs, and the change is made once that is done. When the method
        is declined, the invoice is voided, which drops the change, and the caller hears PaymentRefused.
        Pending updates know nothing but items and prorations, so a new payment method is set before; and no bank
        debits, for which Stripe is asked to refuse what is not paid.

        A planned change is released before: Stripe lets nobody else change what a schedule steers.
        """
        subscription_id = present.provider_subscription_id
        await self._release_steering(await self._subscription(subscription_id), operation_id)
        if payment_method_id:
            method_id = await self._attached(payment_method_id, present.customer_id, operation_id)
            await self._update(subscription_id, {"default_payment_method": method_id}, f"{operation_id}:method")
        try:
            data = await self._changed(present, sale, quantity, proration_time, operation_id)
        except (PaymentRefused, stripe.CardError, stripe.InvalidRequestError):
            if payment_method_id:
                await self._restore_method(present, operation_id)
            raise
        return await self._observed(data)

    async def _changed(
        self,
        present: ObservedSubscription,
        sale: Sale,
        quantity: int,
        proration_time: datetime | None,
        operation_id: str,
    ) -> JsonObject:
        subscription_id = present.provider_subscription_id
        price_id = (await self._price(sale)).price_id
        data = await self._subscription(subscription_id)
        if _sells(data, price_id, quantity) and data.get("pending_update") is None:
            return data
        update: wire.SubscriptionUpdateParams = {
            "items": [{"id": present.item_id, "price": price_id, "quantity": quantity}],
            "proration_behavior": "always_invoice",
            "payment_behavior": "pending_if_incomplete",
        }
        if proration_time is not None:
            update["proration_date"] = _seconds(proration_time)

        async def found() -> JsonObject | None:
            now = await self._subscription(subscription_id)
            return now if _sells(now, price_id, quantity) or _waits_to_sell(now, price_id, quantity) else None

        try:
            written = await self._update(subscription_id, update, f"{operation_id}:change", find=found)
        except stripe.InvalidRequestError as error:
            if problem_of(error).parameter != "payment_behavior":
                self._forget_price(sale)
                raise
            update["payment_behavior"] = "error_if_incomplete"
            written = await self._update(subscription_id, update, f"{operation_id}:change_paid", find=found)
        invoice_id = Fields(written.data, kind="subscription").reference_or_empty("latest_invoice")
        data = await self._subscription(subscription_id)
        if _sells(data, price_id, quantity):
            return data
        code = await self._decline_code(invoice_id)
        if data.get("pending_update") is None:
            # It was voided, or has expired, since an earlier try.
            raise refusal(code or "payment_failed", parameter="payment_method")
        if code:
            await self._void(invoice_id, f"{operation_id}:void")
            raise refusal(code, parameter="payment_method")
        return data

    @guarded
    async def schedule_change(
        self,
        present: ObservedSubscription,
        sale: Sale,
        *,
        quantity: int,
        effective_time: datetime,
        operation_id: str,
    ) -> ObservedSchedule:
        """Plan a change of price or quantity, without proration, for the period's end or a time before or after it.

        The schedule has two phases: what is, until the time, and one interval of what will be; then the subscription
        goes on by itself. A schedule that steers the subscription already is given these phases instead of its own.
        """
        subscription_id = present.provider_subscription_id
        price = await self._price(sale)
        data = await self._subscription(subscription_id)
        schedule_id = _steering_schedule_id(data)
        if not schedule_id:
            written = await self._calls.write(
                f"{operation_id}:schedule",
                lambda options: self._v1.subscription_schedules.create_async(
                    {"from_subscription": subscription_id}, options
                ),
                find=lambda: self._steering_schedule(subscription_id),
            )
            schedule_id = _id_of(written)
        schedule = await self._calls.read(self._v1.subscription_schedules.retrieve_async(schedule_id))
        update: wire.SubscriptionScheduleUpdateParams = {
            "end_behavior": "release",
            "proration_behavior": "none",
            "phases": _two_phases(
                present,
                schedule,
                sale,
                price_id=price.price_id,
                quantity=quantity,
                effective_time=effective_time,
            ),
            "metadata": {
                **{key: value for key, value in present.metadata.items() if key.startswith("tallygate_")},
                TENANT_ATTRIBUTE: sale.tenant_id,
                PLAN_ATTRIBUTE: sale.plan_key,
                PLAN_VERSION_ATTRIBUTE: str(sale.plan_version),
                OPERATION_ATTRIBUTE: operation_id,
            },
        }
        await self._calls.write(
            f"{operation_id}:phases",
            lambda options: self._v1.subscription_schedules.update_async(schedule_id, update, options),
            find=_nothing,
        )
        return schedule_of(await self._calls.read(self._v1.subscription_schedules.retrieve_async(schedule_id)))

    @guarded
    async def release_schedule(self, schedule_id: str, *, operation_id: str) -> None:
        """Take a planned change back; the subscription goes on as it is. One that is released already is left alone."""
        await self._release(schedule_id, operation_id)

    @guarded
    async def cancel_now(
        self, provider_subscription_id: str, *, reason: str, operation_id: str
    ) -> ObservedSubscription:
        """End the subscription at once, without a refund."""
        data = await self._subscription(provider_subscription_id)
        if data.get("status") not in _FINAL:
            await self._release_steering(data, operation_id)
            await self._end(provider_subscription_id, reason)
            data = await self._subscription(provider_subscription_id)
        return await self._observed(data)

    @guarded
    async def cancel_at(
        self, provider_subscription_id: str, *, at: datetime | None, operation_id: str
    ) -> ObservedSubscription:
        """End the subscription at the given time (None: at its period's end), without proration."""
        await self._release_steering(await self._subscription(provider_subscription_id), operation_id)
        update: wire.SubscriptionUpdateParams = {"proration_behavior": "none"}
        if at is None:
            update["cancel_at_period_end"] = True
        else:
            update["cancel_at"] = _seconds(at)
        await self._update(provider_subscription_id, update, f"{operation_id}:cancel_at")
        return await self._observed(await self._subscription(provider_subscription_id))

    @guarded
    async def keep(self, provider_subscription_id: str, *, operation_id: str) -> ObservedSubscription:
        """Take a cancellation back that has not taken effect.

        A schedule that ends the subscription is released, which takes its cancellation back too.
        """
        data = await self._subscription(provider_subscription_id)
        fields = Fields(data, kind="subscription")
        if fields.flag("cancel_at_period_end") or fields.instant_or_none("cancel_at") is not None:
            if await self._release_steering(data, operation_id):
                fields = Fields(await self._subscription(provider_subscription_id), kind="subscription")
            # Each only where it is set: Stripe takes one of them at a time.
            if fields.flag("cancel_at_period_end"):
                await self._update(
                    provider_subscription_id, {"cancel_at_period_end": False}, f"{operation_id}:keep_period"
                )
            elif fields.instant_or_none("cancel_at") is not None:
                await self._update(provider_subscription_id, {"cancel_at": ""}, f"{operation_id}:keep_time")
            data = await self._subscription(provider_subscription_id)
        return await self._observed(data)

    @guarded
    async def pause(self, provider_subscription_id: str, *, operation_id: str) -> ObservedSubscription:
        """Pause the subscription now: nothing is billed until it is resumed.

        This is Stripe's own pause of the subscription, whose status becomes `paused`. The older `pause_collection`
        would leave it `active`, with periods that go on and invoices that pile up. The unused rest of the period
        becomes a credit, which waits for the invoice of the resumption. Stripe pauses nothing that a schedule steers,
        so a planned change is released.
        """
        data = await self._subscription(provider_subscription_id)
        if data.get("status") != "paused":
            await self._release_steering(data, operation_id)
            await self._calls.write(
                f"{operation_id}:pause",
                lambda options: self._v1.subscriptions.pause_async(
                    provider_subscription_id,
                    {
                        "type": "subscription",
                        "bill_for": {
                            "unused_time_from": {"type": "now"},
                            "outstanding_usage_through": {"type": "now"},
                        },
                        "invoicing_behavior": "pending_invoice_item",
                    },
                    options,
                ),
                find=lambda: self._in_status(provider_subscription_id, frozenset({"paused"})),
            )
            data = await self._subscription(provider_subscription_id)
        return await self._observed(data)

    @guarded
    async def resume(self, provider_subscription_id: str, *, operation_id: str) -> ObservedSubscription:
        """Resume a paused subscription; a new billing period begins and is billed.

        It stays paused until that is paid (`resume_on_payment_success`): if the bank wants the payer to confirm, the
        latest invoice has what a browser needs; if the method is declined, the invoice is voided and the caller hears
        PaymentRefused. A mere pause of collection is lifted.
        """
        data = await self._subscription(provider_subscription_id)
        if data.get("status") == "paused":
            written = await self._calls.write(
                f"{operation_id}:resume",
                lambda options: self._v1.subscriptions.resume_async(
                    provider_subscription_id,
                    {"billing_cycle_anchor": {"type": "now"}, "payment_behavior": "resume_on_payment_success"},
                    options,
                ),
                find=lambda: self._in_status(provider_subscription_id, frozenset({"active", "past_due"})),
            )
            data = await self._subscription(provider_subscription_id)
            if data.get("status") == "paused":
                invoice_id = Fields(written.data, kind="subscription").reference_or_empty("latest_invoice")
                code = await self._decline_code(invoice_id)
                if code:
                    await self._void(invoice_id, f"{operation_id}:void")
                    raise refusal(code)
        elif data.get("pause_collection") is not None:
            await self._update(provider_subscription_id, {"pause_collection": ""}, f"{operation_id}:collect")
            data = await self._subscription(provider_subscription_id)
        return await self._observed(data)

    @guarded
    async def preview_change(
        self, present: ObservedSubscription, sale: Sale, *, quantity: int, proration_time: datetime
    ) -> ObservedProration:
        """Return what `change_subscription` with this proration time would bill; changes nothing."""
        price = await self._price(sale)
        item: wire.InvoiceCreatePreviewParamsSubscriptionDetailsItem = {
            "id": present.item_id,
            "price": price.price_id,
            "quantity": quantity,
        }
        change: wire.InvoiceCreatePreviewParams = {
            "subscription": present.provider_subscription_id,
            "subscription_details": {
                "items": [item],
                "proration_behavior": "always_invoice",
                "proration_date": _seconds(proration_time),
            },
        }
        recurring: wire.InvoiceCreatePreviewParams = {
            "subscription": present.provider_subscription_id,
            "preview_mode": "recurring",
            "subscription_details": {"items": [item], "proration_behavior": "none"},
        }
        return proration_of(
            await self._calls.read(self._v1.invoices.create_preview_async(change)),
            await self._calls.read(self._v1.invoices.create_preview_async(recurring)),
            proration_time=proration_time,
        )

    # -------------------------------------------------------------- pages

    @guarded
    async def create_checkout_session(
        self,
        sale: Sale,
        *,
        customer_id: str,
        account_id: AccountId,
        subscription_id: str,
        quantity: int,
        trial_days: int,
        success_url: str,
        cancel_url: str,
        promotion_code: str,
        expire_time: datetime,
        operation_id: str,
    ) -> ObservedCheckoutSession:
        """Open a page where the plan is paid for."""
        price = await self._price(sale)
        attributes = _attributes(sale, account_id, subscription_id, operation_id)
        subscription: checkout_wire.SessionCreateParamsSubscriptionData = {
            "metadata": attributes,
            "billing_mode": {"type": "flexible"},
        }
        if trial_days > 0:
            subscription["trial_period_days"] = trial_days
            subscription["trial_settings"] = {"end_behavior": {"missing_payment_method": "cancel"}}
        creation: checkout_wire.SessionCreateParams = {
            "mode": "subscription",
            "customer": customer_id,
            "client_reference_id": account_id,
            "line_items": [{"price": price.price_id, "quantity": quantity}],
            "success_url": success_url,
            "cancel_url": cancel_url,
            "expires_at": _seconds(expire_time),
            "metadata": attributes,
            "subscription_data": subscription,
        }
        # Stripe takes one of them only: a code that is set, or a field to type one in.
        if promotion_code:
            discount = await self._discount(promotion_code)
            creation["discounts"] = [
                {"promotion_code": discount["promotion_code"]}
                if "promotion_code" in discount
                else {"coupon": discount["coupon"]}
            ]
        else:
            creation["allow_promotion_codes"] = True
        try:
            written = await self._calls.write(
                f"{operation_id}:checkout",
                lambda options: self._v1.checkout.sessions.create_async(creation, options),
                find=lambda: self._session_of_operation(customer_id, operation_id),
            )
        except stripe.InvalidRequestError:
            self._forget_price(sale)
            raise
        if written.fresh:
            return checkout_session_of(written.data)
        return checkout_session_of(await self._calls.read(self._v1.checkout.sessions.retrieve_async(_id_of(written))))

    @guarded
    async def expire_checkout_session(self, session_id: str, *, operation_id: str) -> None:
        """Close a page; one that is complete or expired already is left alone."""

        async def closed() -> JsonObject | None:
            found = await self._calls.read(self._v1.checkout.sessions.retrieve_async(session_id))
            return found if found.get("status") != "open" else None

        if await closed() is not None:
            return
        try:
            await self._calls.write(
                f"{operation_id}:expire",
                lambda options: self._v1.checkout.sessions.expire_async(session_id, {}, options),
                find=closed,
            )
        except stripe.InvalidRequestError:
            # Somebody may have completed it in between.
            if await closed() is None:
                raise

    @guarded
    async def create_portal_session(self, customer_id: str, *, return_url: str) -> str:
        """Open a page where the customer manages billing; return its address."""
        session = await self._calls.read(
            self._v1.billing_portal.sessions.create_async({"customer": customer_id, "return_url": return_url})
        )
        return Fields(session, kind="billing_portal.session").text("url")

    # -------------------------------------------------------------- reading, inside a call

    async def _subscription(self, subscription_id: str) -> JsonObject:
        if not subscription_id:
            # An empty id would name the list.
            raise refusal("resource_missing")
        return await self._calls.read(
            self._v1.subscriptions.retrieve_async(subscription_id, {"expand": _SUBSCRIPTION_EXPANDED})
        )

    async def _in_status(self, subscription_id: str, wanted: frozenset[str]) -> JsonObject | None:
        data = await self._subscription(subscription_id)
        return data if data.get("status") in wanted else None

    async def _observed(self, data: JsonObject) -> ObservedSubscription:
        overdue_since_time = None
        if data.get("status") in _OVERDUE:
            overdue_since_time = await self._overdue_since(Fields(data, kind="subscription").text("id"))
        return subscription_of(data, overdue_since_time=overdue_since_time)

    async def _overdue_since(self, subscription_id: str) -> datetime | None:
        """Return when the oldest bill was made whose collection has failed.

        A bill that is sent, not charged, is never tried; in an overdue subscription it counts once it is due.
        """
        oldest: datetime | None = None
        for status in ("open", "uncollectible"):
            wanted: wire.InvoiceListParams = {"subscription": subscription_id, "status": status}
            async for data in self._calls.pages(self._v1.invoices.list_async, wanted):
                invoice = Fields(data, kind="invoice")
                due_time = invoice.instant_or_none("due_date")
                tried = invoice.number_or("attempt_count", 0) >= 1
                if not tried and (due_time is None or due_time > self._clock.now()):
                    continue
                made = invoice.instant("created")
                oldest = made if oldest is None else min(oldest, made)
        return oldest

    async def _customer(self, customer_id: str) -> JsonObject:
        return await self._calls.read(self._v1.customers.retrieve_async(customer_id, {"expand": ["tax_ids"]}))

    async def _has_default_method(self, customer_id: str) -> bool:
        customer = await self._customer(customer_id)
        return bool(customer_of(customer).default_payment_method_id or customer.get("default_source"))

    async def _payment(self, payment_id: str, invoice_id: str = "") -> ObservedPayment | None:
        answer = self._v1.payment_intents.retrieve_async(payment_id, {"expand": ["latest_charge"]})
        intent = await self._calls.read_or_none(answer)
        if intent is None:
            return None
        fields = Fields(intent, kind="payment_intent")
        disputed = fraud_warning = False
        if fields.has_object("latest_charge"):
            charge = fields.inside("latest_charge")
            charge_id = charge.text("id")
            # Only money that was taken can be disputed or stolen.
            if charge.flag("paid"):
                disputed = charge.flag("disputed") and await self._disputed(charge_id)
                fraud_warning = await self._has_fraud_warning(charge_id)
        return payment_of(
            intent,
            invoice_id=invoice_id or await self._invoice_of_payment(payment_id),
            disputed=disputed,
            fraud_warning=fraud_warning,
        )

    async def _invoice_of_payment(self, payment_id: str) -> str:
        page = await self._calls.read(
            self._v1.invoice_payments.list_async(
                {"payment": {"type": "payment_intent", "payment_intent": payment_id}, "limit": 1}
            )
        )
        for found in Fields(page, kind="list", object_id="invoice_payments").each("data"):
            return found.reference_or_empty("invoice")
        return ""

    async def _payment_ids(self, invoice_id: str) -> list[str]:
        found: list[str] = []
        wanted: wire.InvoicePaymentListParams = {"invoice": invoice_id}
        async for data in self._calls.pages(self._v1.invoice_payments.list_async, wanted):
            payment = Fields(data, kind="invoice_payment").inside("payment")
            payment_id = payment.reference_or_empty("payment_intent")
            if payment_id and payment_id not in found:
                found.append(payment_id)
        return found

    async def _disputed(self, charge_id: str) -> bool:
        """Tell whether a dispute of the charge goes on or was lost; one that was won leaves the money here."""
        page = await self._calls.read(self._v1.disputes.list_async({"charge": charge_id, "limit": 100}))
        disputes = Fields(page, kind="list", object_id="disputes").each("data")
        return not disputes or any(dispute.text("status") not in _DISPUTE_OVER for dispute in disputes)

    async def _has_fraud_warning(self, charge_id: str) -> bool:
        page = await self._calls.read(self._v1.radar.early_fraud_warnings.list_async({"charge": charge_id, "limit": 1}))
        return bool(Fields(page, kind="list", object_id="early_fraud_warnings").each("data"))

    async def _decline_code(self, invoice_id: str) -> str:
        """Return why the payment of an invoice was declined for good; empty where it was not, or needs the payer."""
        if not invoice_id:
            return ""
        for payment_id in await self._payment_ids(invoice_id):
            intent = await self._calls.read(self._v1.payment_intents.retrieve_async(payment_id))
            if intent.get("status") in {"requires_payment_method", "canceled"}:
                code = failure_code_of(intent)
                if code:
                    return code
        return ""

    async def _ids_by_events(self, since: datetime) -> AsyncIterator[str]:
        wanted: wire.EventListParams = {"types": _EVENT_TYPES, "created": {"gte": _seconds(since)}}
        async for event in self._calls.pages(self._events_page, wanted):
            yield subscription_id_of_event(event)

    async def _ids_by_listing(self, customer_id: str) -> AsyncIterator[str]:
        wanted: wire.SubscriptionListParams = {"status": "all"}
        if customer_id:
            wanted["customer"] = customer_id
        async for data in self._calls.pages(self._subscriptions_page, wanted):
            yield Fields(data, kind="subscription").text("id")

    # Each page is a call of its own, with its own bounds: the caller works between them.

    async def _events_page(self, wanted: wire.EventListParams) -> stripe.ListObject[stripe.Event]:
        return await self._calls.guard("changed_subscription_ids", lambda: self._v1.events.list_async(wanted))

    async def _subscriptions_page(self, wanted: wire.SubscriptionListParams) -> stripe.ListObject[stripe.Subscription]:
        return await self._calls.guard("changed_subscription_ids", lambda: self._v1.subscriptions.list_async(wanted))

    # -------------------------------------------------------------- what an operation has made

    async def _subscription_of_operation(
        self, customer_id: str, subscription_id: str, operation_id: str
    ) -> JsonObject | None:
        """Return the subscription that the operation has made: lists are exact at once, searches are not."""
        wanted: wire.SubscriptionListParams = {"customer": customer_id, "status": "all"}
        async for data in self._calls.pages(self._v1.subscriptions.list_async, wanted):
            metadata = Fields(data, kind="subscription").texts("metadata")
            same_operation = metadata.get(OPERATION_ATTRIBUTE) == operation_id
            if same_operation or metadata.get(SUBSCRIPTION_ATTRIBUTE) == subscription_id:
                return data
        return None

    async def _customer_of_operation(self, operation_id: str, email: str) -> JsonObject | None:
        earliest = self._clock.now() - timedelta(hours=OPERATION_HOURS)
        wanted: wire.CustomerListParams = {"created": {"gte": _seconds(earliest)}}
        if email:
            wanted["email"] = email
        pages = self._calls.pages(self._v1.customers.list_async, wanted, pages_max=CUSTOMER_SCAN_PAGES_MAX)
        async for data in pages:
            if Fields(data, kind="customer").texts("metadata").get(OPERATION_ATTRIBUTE) == operation_id:
                return data
        return None

    async def _session_of_operation(self, customer_id: str, operation_id: str) -> JsonObject | None:
        wanted: checkout_wire.SessionListParams = {"customer": customer_id}
        async for data in self._calls.pages(self._v1.checkout.sessions.list_async, wanted):
            if Fields(data, kind="checkout.session").texts("metadata").get(OPERATION_ATTRIBUTE) == operation_id:
                return data
        return None

    async def _steering_schedule(self, subscription_id: str) -> JsonObject | None:
        data = await self._subscription(subscription_id)
        return Fields(data, kind="subscription").inside("schedule").data if _steering_schedule_id(data) else None

    # -------------------------------------------------------------- steps

    async def _update(
        self,
        subscription_id: str,
        update: wire.SubscriptionUpdateParams,
        key: str,
        *,
        find: Any = None,
    ) -> Written:
        """Change a subscription; what is set again to the same value is no change, so it may be set under a new key."""
        return await self._calls.write(
            key,
            lambda options: self._v1.subscriptions.update_async(subscription_id, update, options),
            find=find or _nothing,
        )

    async def _end(self, subscription_id: str, reason: str) -> None:
        ending: wire.SubscriptionCancelParams = {"invoice_now": False, "prorate": False}
        if reason:
            ending["cancellation_details"] = {"comment": reason[:REASON_LENGTH_MAX]}
        try:
            await self._v1.subscriptions.cancel_async(subscription_id, ending)
        except stripe.InvalidRequestError:
            # A try that was not answered, or somebody else, may have ended it before.
            if await self._in_status(subscription_id, _FINAL) is None:
                raise

    async def _without_declined(self, data: JsonObject, operation_id: str) -> JsonObject:
        """Refuse a new subscription whose first payment was declined, and leave nothing behind."""
        status = data.get("status")
        if status != "incomplete" and status not in _FINAL:
            return data
        fields = Fields(data, kind="subscription")
        invoice_id = fields.reference_or_empty("latest_invoice")
        code = await self._decline_code(invoice_id)
        if not code:
            return data
        if status == "incomplete":
            await self._end(fields.text("id"), "")
        # What ends a subscription does not void its bill, which could still be paid, for nothing.
        await self._void(invoice_id, f"{operation_id}:void")
        raise refusal(code, parameter="payment_method")

    async def _void(self, invoice_id: str, key: str) -> None:
        async def voided() -> JsonObject | None:
            found = await self._calls.read(self._v1.invoices.retrieve_async(invoice_id))
            return found if found.get("status") == "void" else None

        if await voided() is not None:
            return
        try:
            await self._calls.write(
                key, lambda options: self._v1.invoices.void_invoice_async(invoice_id, {}, options), find=voided
            )
        except stripe.InvalidRequestError:
            if await voided() is None:
                raise

    async def _attached(self, payment_method_id: str, customer_id: str, operation_id: str) -> str:
        """Attach a payment method; return its id, which for Stripe's test methods is a new one."""

        async def attached() -> JsonObject | None:
            method = await self._calls.read_or_none(self._v1.payment_methods.retrieve_async(payment_method_id))
            if method is None:
                return None
            owner = Fields(method, kind="payment_method").reference_or_empty("customer")
            return method if owner == customer_id else None

        try:
            written = await self._calls.write(
                f"{operation_id}:attach",
                lambda options: self._v1.payment_methods.attach_async(
                    payment_method_id, {"customer": customer_id}, options
                ),
                find=attached,
            )
        except stripe.InvalidRequestError as error:
            # Some methods refuse to be attached a second time.
            present = await attached()
            if present is None:
                raise refusal(problem_of(error).code, parameter="payment_method") from None
            return Fields(present, kind="payment_method").text("id")
        return _id_of(written)

    async def _pay_renewals_with(self, method_id: str, customer_id: str, operation_id: str) -> None:
        """Give the method to the customer's subscriptions that would go on with one of their own.

        They cannot be made to follow the customer again: Stripe documents no way to take a method away.
        """
        wanted: wire.SubscriptionListParams = {"customer": customer_id}
        async for data in self._calls.pages(self._v1.subscriptions.list_async, wanted):
            fields = Fields(data, kind="subscription")
            own = fields.reference_or_empty("default_payment_method")
            if own and own != method_id and data.get("status") not in _FINAL:
                subscription_id = fields.text("id")
                await self._update(
                    subscription_id,
                    {"default_payment_method": method_id},
                    f"{operation_id}:method:{subscription_id}",
                )

    async def _restore_method(self, before: ObservedSubscription, operation_id: str) -> None:
        """Make a declined method no subscription's default: the next renewal would meet it again.

        A subscription without a method of its own is given the customer's: Stripe does not take one away.
        """
        method_id = before.default_payment_method_id
        if not method_id:
            method_id = customer_of(await self._customer(before.customer_id)).default_payment_method_id
        if method_id:
            await self._update(
                before.provider_subscription_id,
                {"default_payment_method": method_id},
                f"{operation_id}:method_back",
            )

    async def _replace_tax_ids(self, customer_id: str, wanted: Sequence[tuple[str, str]], operation_id: str) -> None:
        async def present() -> dict[tuple[str, str], str]:
            found: dict[tuple[str, str], str] = {}
            async for data in self._calls.pages(
                lambda wanted: self._v1.customers.tax_ids.list_async(customer_id, wanted), {}
            ):
                tax_id = Fields(data, kind="tax_id")
                found[tax_id.text("type"), tax_id.text("value")] = tax_id.text("id")
            return found

        before = await present()
        for pair in dict.fromkeys(wanted):
            if pair in before:
                continue
            digest = hashlib.blake2b("\x1f".join(pair).encode(), digest_size=8).hexdigest()
            creation: wire.CustomerTaxIdCreateParams = {"type": pair[0], "value": pair[1]}

            async def made(pair: tuple[str, str] = pair) -> JsonObject | None:
                found = (await present()).get(pair)
                return {"id": found} if found else None

            await self._calls.write(
                f"{operation_id}:tax_id:{digest}",
                lambda options, creation=creation: self._v1.customers.tax_ids.create_async(  # type: ignore[misc]
                    customer_id, creation, options
                ),
                find=made,
            )
        for pair, tax_id in before.items():
            if pair not in wanted:
                await self._calls.read_or_none(self._v1.customers.tax_ids.delete_async(customer_id, tax_id))

    async def _release(self, schedule_id: str, operation_id: str) -> None:
        async def released() -> JsonObject | None:
            found = await self._calls.read(self._v1.subscription_schedules.retrieve_async(schedule_id))
            return found if found.get("status") not in _STEERING else None

        try:
            if await released() is not None:
                return
            await self._calls.write(
                f"{operation_id}:release",
                lambda options: self._v1.subscription_schedules.release_async(schedule_id, {}, options),
                find=released,
            )
        except stripe.InvalidRequestError as error:
            if not is_absence(error) and await released() is None:
                raise

    async def _release_steering(self, data: JsonObject, operation_id: str) -> bool:
        """Release the schedule that steers the subscription; tell whether there was one."""
        schedule_id = _steering_schedule_id(data)
        if schedule_id:
            await self._release(schedule_id, operation_id)
        return bool(schedule_id)

    async def _discount(self, code: str) -> wire.SubscriptionCreateParamsDiscount:
        """Return what a code stands for: a promotion code's name or id, else a coupon."""
        if code.startswith("promo_"):
            return {"promotion_code": code}
        page = await self._calls.read(self._v1.promotion_codes.list_async({"code": code, "active": True, "limit": 1}))
        for found in Fields(page, kind="list", object_id="promotion_codes").each("data"):
            return {"promotion_code": found.text("id")}
        try:
            coupon = Fields(await self._calls.read(self._v1.coupons.retrieve_async(code)), kind="coupon")
        except stripe.InvalidRequestError:
            coupon = None
        if coupon is None or not coupon.flag("valid"):
            raise refusal("promotion_code_unknown", parameter="promotion_code")
        return {"coupon": coupon.text("id")}

    # -------------------------------------------------------------- prices

    async def _price(self, sale: Sale) -> ObservedPrice:
        key = (sale.price.stripe_price_id, sale.lookup_key)
        cached = self._prices.get(key)
        if cached is not None:
            self._prices.move_to_end(key)
            return cached
        if sale.price.stripe_price_id:
            price = await self._price_of_catalog(sale)
        else:
            price = await self._price_of_lookup_key(sale) or await self._new_price(sale)
        self._prices[key] = price
        if len(self._prices) > PRICES_CACHED_MAX:
            self._prices.popitem(last=False)
        return price

    def _forget_price(self, sale: Sale) -> None:
        self._prices.pop((sale.price.stripe_price_id, sale.lookup_key), None)

    async def _price_of_catalog(self, sale: Sale) -> ObservedPrice:
        """Return the price that the catalog names; one that takes other money than the catalog says is refused."""
        data = await self._calls.read(self._v1.prices.retrieve_async(sale.price.stripe_price_id))
        price = price_of(data)
        wanted = sale.price
        # A tiered price has no amount of its own; whoever names one in the catalog means it.
        same_amount = data.get("unit_amount") is None or price.unit_amount_minor == wanted.amount_minor
        same_interval = (price.interval, price.interval_count) == (wanted.interval.value, 1)
        if not (same_amount and same_interval and price.currency == wanted.currency):
            raise refusal("price_mismatch")
        return price

    async def _price_of_lookup_key(self, sale: Sale) -> ObservedPrice | None:
        page = await self._calls.read(
            self._v1.prices.list_async({"lookup_keys": [sale.lookup_key], "active": True, "limit": 1})
        )
        for found in Fields(page, kind="list", object_id="prices").each("data"):
            return price_of(found.data)
        return None

    async def _new_price(self, sale: Sale) -> ObservedPrice:
        attributes = {TENANT_ATTRIBUTE: sale.tenant_id, PLAN_ATTRIBUTE: sale.plan_key}
        product_id = await self._product(sale, attributes)
        creation: wire.PriceCreateParams = {
            "product": product_id,
            "currency": sale.price.currency.lower(),
            "unit_amount": sale.price.amount_minor,
            "recurring": {"interval": sale.price.interval.value},
            "lookup_key": sale.lookup_key,
            # One that was archived may still hold the key.
            "transfer_lookup_key": True,
            "metadata": attributes,
        }

        async def made() -> JsonObject | None:
            page = await self._calls.read(
                self._v1.prices.list_async({"lookup_keys": [sale.lookup_key], "active": True, "limit": 1})
            )
            return next((found.data for found in Fields(page, kind="list", object_id="prices").each("data")), None)

        written = await self._calls.write(
            # The lookup key holds the amount.
            f"price:{sale.lookup_key}",
            lambda options: self._v1.prices.create_async(creation, options),
            find=made,
        )
        return price_of(written.data)

    async def _product(self, sale: Sale, attributes: Mapping[str, str]) -> str:
        """Return the id of the plan's product, which is made where there is none; its id alone makes it one."""
        digest = hashlib.blake2b(f"{sale.tenant_id}\x1f{sale.plan_key}".encode(), digest_size=12).hexdigest()
        product_id = f"tallygate_{digest}"
        creation: wire.ProductCreateParams = {
            "id": product_id,
            "name": sale.plan_name or sale.plan_key,
            "metadata": dict(attributes),
        }
        name = hashlib.blake2b(creation["name"].encode(), digest_size=8).hexdigest()

        async def made() -> JsonObject | None:
            return await self._calls.read_or_none(self._v1.products.retrieve_async(product_id))

        try:
            await self._calls.write(
                f"product:{product_id}:{name}",
                lambda options: self._v1.products.create_async(creation, options),
                find=made,
            )
        except stripe.InvalidRequestError as error:
            if problem_of(error).code != "resource_already_exists":
                raise
        return product_id


async def _nothing() -> JsonObject | None:
    """Find nothing: what sets a value may be sent again under another key."""
    return None


def _id_of(written: Written) -> str:
    return Fields(written.data, kind="answer").text("id")


def _seconds(instant: datetime) -> int:
    return int(instant.astimezone(UTC).timestamp())


def _sells(data: JsonObject, price_id: str, quantity: int) -> bool:
    """Tell whether the subscription is at the price and quantity."""
    item = Fields(data, kind="subscription").listed("items")[:1]
    return bool(item) and (item[0].reference("price"), item[0].number_or("quantity", 1)) == (price_id, quantity)


def _waits_to_sell(data: JsonObject, price_id: str, quantity: int) -> bool:
    """Tell whether a change to the price and quantity waits for its payment."""
    pending = Fields(data, kind="subscription").inside_or_none("pending_update")
    item = pending.each("subscription_items")[:1] if pending is not None else []
    return bool(item) and (item[0].reference("price"), item[0].number_or("quantity", 1)) == (price_id, quantity)


def _steering_schedule_id(data: JsonObject) -> str:
    """Return the id of the schedule that steers the subscription; empty where none does."""
    fields = Fields(data, kind="subscription")
    if not fields.has_object("schedule"):
        return fields.text_or_empty("schedule")
    schedule = fields.inside("schedule")
    return schedule.text("id") if schedule.text("status") in _STEERING else ""


def _attributes(sale: Sale, account_id: AccountId, subscription_id: str, operation_id: str) -> dict[str, str]:
    return {
        TENANT_ATTRIBUTE: sale.tenant_id,
        ACCOUNT_ATTRIBUTE: account_id,
        SUBSCRIPTION_ATTRIBUTE: subscription_id,
        PLAN_ATTRIBUTE: sale.plan_key,
        PLAN_VERSION_ATTRIBUTE: str(sale.plan_version),
        OPERATION_ATTRIBUTE: operation_id,
    }


def _address_wire(address: PostalAddress) -> wire.CustomerCreateParamsAddress:
    return {
        "line1": address.line1,
        "line2": address.line2,
        "city": address.city,
        "state": address.state,
        "postal_code": address.postal_code,
        "country": address.country_code,
    }


def _two_phases(
    present: ObservedSubscription,
    schedule: JsonObject,
    sale: Sale,
    *,
    price_id: str,
    quantity: int,
    effective_time: datetime,
) -> list[wire.SubscriptionScheduleUpdateParamsPhase]:
    """Return what is, until the time, and what will be.

    Stripe forgets what a phase does not say, so discounts, payment method and trial are said again.
    """
    fields = Fields(schedule, kind="subscription_schedule")
    phases = fields.each("phases")
    current = fields.inside_or_none("current_phase") or (phases[0] if phases else None)
    if current is None:
        raise fields.invalid("phases[0]", "is missing")
    start_time = current.instant("start_date")
    end = _seconds(effective_time)
    now: wire.SubscriptionScheduleUpdateParamsPhase = {
        "items": [{"price": present.price.price_id, "quantity": present.quantity}],
        "start_date": _seconds(start_time),
        "end_date": end,
        "proration_behavior": "none",
    }
    then: wire.SubscriptionScheduleUpdateParamsPhase = {
        "items": [{"price": price_id, "quantity": quantity}],
        "duration": {"interval": sale.price.interval.value, "interval_count": 1},
        "proration_behavior": "none",
        "metadata": {PLAN_ATTRIBUTE: sale.plan_key, PLAN_VERSION_ATTRIBUTE: str(sale.plan_version)},
    }
    if present.trial_end_time is not None and present.trial_end_time > start_time:
        now["trial_end"] = min(_seconds(present.trial_end_time), end)
    details = next((phase for phase in phases if phase.instant("start_date") == start_time), None)
    if details is not None:
        method_id = details.reference_or_empty("default_payment_method")
        discounts = [_discount_wire(discount) for discount in details.each("discounts")]
        for phase in (now, then):
            if method_id:
                phase["default_payment_method"] = method_id
            if discounts:
                phase["discounts"] = list(discounts)
    return [now, then]


def _discount_wire(discount: Fields) -> wire.SubscriptionScheduleUpdateParamsPhaseDiscount:
    """Return a discount as a phase takes it; the discount that exists before what it was made from."""
    for name in ("discount", "promotion_code", "coupon"):
        found = discount.reference_or_empty(name)
        if found:
            wanted: wire.SubscriptionScheduleUpdateParamsPhaseDiscount = {}
            wanted[name] = found
            return wanted
    raise discount.invalid("discount", "is missing")
