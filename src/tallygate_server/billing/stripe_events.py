"""What follows from each webhook of Stripe.

An event is a hint that something happened to an object, no more: of its body only ids are read. The object is fetched
again and stored as it is now, so events may come in any order, twice, late or never, and a forged detail in one that
passed every check would still say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from tallygate_server.billing.ports import Applied, Cause
from tallygate_server.billing.provider import TENANT_ATTRIBUTE, PaymentProvider
from tallygate_server.billing.recorder import Recorder
from tallygate_server.billing.sync import PROVIDER_ACTOR, StripeSubscriptions
from tallygate_server.domain.identifier import TenantId, is_tenant_id
from tallygate_server.errors import InvalidRequest
from tallygate_server.storage import billing as rows
from tallygate_server.storage.billing import Owner
from tallygate_server.storage.checkout_sessions import COMPLETE, EXPIRED, close_checkout_session
from tallygate_server.storage.engine import Database
from tallygate_server.webhooks.events import Handled, StoredEvent

log = structlog.get_logger(__name__)

SUBSCRIPTIONS_OF_CUSTOMER_MAX: Final = 100
"""Subscriptions that are looked at when their customer is deleted; the reconciliation sees the rest."""

CHECKOUT_TYPES: Final = frozenset(
    f"checkout.session.{what}" for what in ("completed", "expired", "async_payment_succeeded", "async_payment_failed")
)
CUSTOMER_TYPES: Final = frozenset(f"customer.{what}" for what in ("created", "updated", "deleted"))
SUBSCRIPTION_TYPES: Final = frozenset(
    f"customer.subscription.{what}"
    for what in (
        "created", "updated", "deleted", "paused", "resumed", "trial_will_end", "pending_update_applied",
        "pending_update_expired",
    )
)  # fmt: skip
SCHEDULE_TYPES: Final = frozenset(
    f"subscription_schedule.{what}"
    for what in ("created", "updated", "released", "completed", "canceled", "aborted", "expiring")
)
INVOICE_TYPES: Final = frozenset(
    f"invoice.{what}"
    for what in (
        "created", "updated", "finalized", "finalization_failed", "paid", "payment_succeeded", "payment_failed",
        "payment_action_required", "payment_attempt_required", "overdue", "overpaid", "upcoming", "voided",
        "marked_uncollectible",
    )
)  # fmt: skip
CHARGE_TYPES: Final = frozenset({"charge.succeeded", "charge.failed", "charge.refunded"})
OF_CHARGE_TYPES: Final = frozenset(
    {
        "charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed", "charge.dispute.funds_reinstated",
        "charge.dispute.funds_withdrawn", "charge.refund.updated", "radar.early_fraud_warning.created",
        "radar.early_fraud_warning.updated", "refund.created", "refund.updated", "refund.failed",
    }
)  # fmt: skip
"""Their object names the charge that it is about."""
PAYMENT_TYPES: Final = frozenset(
    f"payment_intent.{what}"
    for what in ("created", "succeeded", "payment_failed", "processing", "requires_action", "canceled")
)

_ID: Final = re.compile(r"[A-Za-z0-9_]{1,255}")


class StripeEvents:
    """Satisfies `webhooks.events.EventHandler` for Stripe."""

    def __init__(
        self,
        database: Database,
        *,
        lookups: Database,
        provider: PaymentProvider,
        sync: StripeSubscriptions,
        recorder: Recorder,
    ) -> None:
        """Look again at what an event is about, through `sync` and `recorder`."""
        self._database = database
        self._lookups = lookups
        self._provider = provider
        self._sync = sync
        self._recorder = recorder
        self._handlers: dict[str, Callable[[Mapping[str, Any], Cause], Awaitable[Owner | None]]] = {
            **dict.fromkeys(CHECKOUT_TYPES, self._checkout),
            **dict.fromkeys(CUSTOMER_TYPES, self._customer),
            **dict.fromkeys(SUBSCRIPTION_TYPES, self._subscription),
            **dict.fromkeys(SCHEDULE_TYPES, self._schedule),
            **dict.fromkeys(INVOICE_TYPES, self._invoice),
            **dict.fromkeys(CHARGE_TYPES, self._charge),
            **dict.fromkeys(OF_CHARGE_TYPES, self._of_charge),
            **dict.fromkeys(PAYMENT_TYPES, self._payment),
        }
        self._handlers["customer.subscription.trial_will_end"] = self._trial_will_end
        self._handlers["customer.subscription.deleted"] = self._subscription_deleted
        self._handlers["customer.deleted"] = self._customer_deleted

    @property
    def known_types(self) -> frozenset[str]:
        """Types that are handled."""
        return frozenset(self._handlers)

    async def handle(self, event: StoredEvent) -> Handled:
        """Look again at what the event is about, and tell whose it is.

        Raises InvalidRequest for a body that names nothing, BillingProviderUnavailable, StoreUnavailable.
        """
        handler = self._handlers.get(event.event_type)
        if handler is None:
            return Handled()
        subject = _subject(event)
        cause = Cause(action="", actor=PROVIDER_ACTOR, webhook_event_id=event.event_id)
        owner = await handler(subject, cause)
        if owner is None:
            return Handled()
        await self._know_customer(owner, _reference(subject, "customer"))
        return Handled(tenant_id=owner.tenant_id, account_id=owner.account_id)

    # --- Each kind of object ------------------------------------------------------------------------------

    async def _subscription(self, subject: Mapping[str, Any], cause: Cause) -> Owner | None:
        return await self._refresh(_demand(subject, "id"), _reference(subject, "customer"), cause)

    async def _subscription_deleted(self, subject: Mapping[str, Any], cause: Cause) -> Owner | None:
        provider_subscription_id = _demand(subject, "id")
        owner = await self._refresh(provider_subscription_id, _reference(subject, "customer"), cause)
        if owner is None:
            return None
        # What it still owes is collected no more, and no event of the bill itself says so.
        for invoice in await self._provider.invoices_of_subscription(provider_subscription_id):
            if invoice.state == "open":
                await self._recorder.invoice(invoice.invoice_id, cause)
        return owner

    async def _trial_will_end(self, subject: Mapping[str, Any], cause: Cause) -> Owner | None:
        applied = await self._sync.refresh(_demand(subject, "id"), cause)
        if applied is not None:
            await self._sync.announce_trial_end(applied, cause)
        return _owner(applied)

    async def _schedule(self, subject: Mapping[str, Any], cause: Cause) -> Owner | None:
        schedule_id = _demand(subject, "id")
        steered = _reference(subject, "subscription") or _reference(subject, "released_subscription")
        if not steered:
            schedule = await self._provider.schedule(schedule_id)
            steered = "" if schedule is None else schedule.provider_subscription_id
        if not steered:
            async with self._lookups.plain_transaction() as connection:
                steered = await rows.subscription_of_schedule(connection, schedule_id)
        # One that has not begun steers none yet.
        return await self._refresh(steered, _reference(subject, "customer"), cause) if steered else None

    async def _checkout(self, subject: Mapping[str, Any], cause: Cause) -> Owner | None:
        session_id = _demand(subject, "id")
        customer_id = _reference(subject, "customer")
        bought = _reference(subject, "subscription")
        # What was bought comes first: somebody waits for it.
        owner = await self._refresh(bought, customer_id, cause) if bought else None
        session = await self._provider.checkout_session(session_id)
        if session is None:
            return owner
        if not bought and session.provider_subscription_id:
            owner = await self._refresh(session.provider_subscription_id, session.customer_id, cause)
        tenant_id = session.metadata.get(TENANT_ATTRIBUTE, "") if owner is None else owner.tenant_id
        if session.state in (COMPLETE, EXPIRED) and is_tenant_id(tenant_id):
            async with self._database.tenant_transaction(TenantId(tenant_id)) as connection:
                await close_checkout_session(connection, TenantId(tenant_id), session_id, session.state)
        if owner is None and session.customer_id:
            owner = await self._recorder.customer(session.customer_id)
        return owner

    async def _customer(self, subject: Mapping[str, Any], _cause: Cause) -> Owner | None:
        return await self._recorder.customer(_demand(subject, "id"))

    async def _customer_deleted(self, subject: Mapping[str, Any], cause: Cause) -> Owner | None:
        customer_id = _demand(subject, "id")
        async with self._lookups.plain_transaction() as connection:
            held = await rows.live_subscriptions_of_customer(
                connection, customer_id, limit=SUBSCRIPTIONS_OF_CUSTOMER_MAX
            )
        # The provider ends them with the customer.
        for provider_subscription_id in held:
            await self._sync.refresh(provider_subscription_id, cause)
        return await self._recorder.customer(customer_id)

    async def _invoice(self, subject: Mapping[str, Any], cause: Cause) -> Owner | None:
        billed = _subscription_of_invoice(subject)
        owner = await self._refresh(billed, _reference(subject, "customer"), cause) if billed else None
        # The one that is only to come has no id yet.
        invoice_id = _reference(subject, "id")
        if not invoice_id:
            if not billed:
                raise InvalidRequest.of("payload.data.object", "names neither an invoice nor a subscription")
            return owner
        recorded = await self._recorder.invoice(invoice_id, cause)
        if recorded is not None:
            await self._recorder.payments_of_invoice(invoice_id, cause)
        return owner or recorded

    async def _charge(self, subject: Mapping[str, Any], cause: Cause) -> Owner | None:
        payment_id = _reference(subject, "payment_intent")
        if payment_id:
            return await self._recorder.payment(payment_id, cause)
        return await self._recorder.payment_of_charge(_demand(subject, "id"), cause)

    async def _of_charge(self, subject: Mapping[str, Any], cause: Cause) -> Owner | None:
        payment_id = _reference(subject, "payment_intent")
        if payment_id:
            return await self._recorder.payment(payment_id, cause)
        return await self._recorder.payment_of_charge(_demand(subject, "charge"), cause)

    async def _payment(self, subject: Mapping[str, Any], cause: Cause) -> Owner | None:
        return await self._recorder.payment(_demand(subject, "id"), cause)

    # --- Steps --------------------------------------------------------------------------------------------

    async def _refresh(self, provider_subscription_id: str, customer_id: str, cause: Cause) -> Owner | None:
        applied = await self._sync.refresh(provider_subscription_id, cause)
        if applied is None and customer_id and await self._recorder.customer(customer_id) is not None:
            # It does not say whose it is itself, but its customer does.
            applied = await self._sync.refresh(provider_subscription_id, cause)
        return _owner(applied)

    async def _know_customer(self, owner: Owner, customer_id: str) -> None:
        """Record the customer where it is unknown: its own event may have come before its account was there."""
        if not customer_id:
            return
        async with self._database.tenant_transaction(owner.tenant_id) as connection:
            known = await rows.read_customer(connection, owner.tenant_id, customer_id)
        if known is None:
            await self._recorder.customer(customer_id)


def _owner(applied: Applied | None) -> Owner | None:
    if applied is None:
        return None
    return Owner(tenant_id=applied.tenant_id, account_id=applied.account_id, subscription_id=applied.subscription_id)


# --- Reading a body whose shape is not taken for granted ----------------------------------------------------


def _subject(event: StoredEvent) -> Mapping[str, Any]:
    """Return the object that the event is about."""
    try:
        content: Any = event.content()
    except ValueError as error:
        raise InvalidRequest.of("payload", "is no JSON") from error
    data = content.get("data") if isinstance(content, dict) else None
    subject = data.get("object") if isinstance(data, dict) else None
    if not isinstance(subject, dict):
        raise InvalidRequest.of("payload.data.object", "is no object")
    return subject


def _reference(subject: Mapping[str, Any], name: str) -> str:
    """Return the id under the name, also where the whole object stands there; empty where there is none."""
    value = subject.get(name)
    if isinstance(value, dict):
        value = value.get("id")
    if value is None:
        return ""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidRequest.of(f"payload.data.object.{name}", "is no id")
    return value


def _demand(subject: Mapping[str, Any], name: str) -> str:
    found = _reference(subject, name)
    if not found:
        raise InvalidRequest.of(f"payload.data.object.{name}", "is missing")
    return found


def _subscription_of_invoice(subject: Mapping[str, Any]) -> str:
    parent = subject.get("parent")
    details = parent.get("subscription_details") if isinstance(parent, dict) else None
    found = _reference(details, "subscription") if isinstance(details, dict) else ""
    # Endpoints with an API version of before 2025-03-31 send it at the top.
    return found or _reference(subject, "subscription")
