"""What Tallygate asks of a billing provider.

`stripe_gateway` answers it with Stripe. Every method raises BillingProviderUnavailable (nothing is known to have been
done; the same operation id may be tried again) or PaymentRefused (the provider said no, and why).

`operation_id` is the durable id of what is being done here: keys that make the provider do it once are derived from it,
so a crash and a retry create nothing twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

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
from tallygate_server.domain.catalog import Price
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId

# Attributes of the provider's objects, so that each tells whose it is.
TENANT_ATTRIBUTE: Final = "tallygate_tenant_id"
ACCOUNT_ATTRIBUTE: Final = "tallygate_account_id"
PLAN_ATTRIBUTE: Final = "tallygate_plan_key"
PLAN_VERSION_ATTRIBUTE: Final = "tallygate_plan_version"
SUBSCRIPTION_ATTRIBUTE: Final = "tallygate_subscription_id"
OPERATION_ATTRIBUTE: Final = "tallygate_operation_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """What is sold: one plan version at one price; the provider's price is found or made from it."""

    tenant_id: TenantId
    plan_key: PlanKey
    plan_version: int
    plan_name: str
    price: Price

    @property
    def lookup_key(self) -> str:
        """Name of the price at the provider: equal prices of a plan are one, whatever the version."""
        price = self.price
        return f"{self.tenant_id}:{self.plan_key}:{price.interval.value}:{price.currency}:{price.amount_minor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerDetails:
    """Who pays. None: as it is."""

    email: str | None = None
    name: str | None = None
    default_payment_method_id: str | None = None
    tax_ids: tuple[tuple[str, str], ...] | None = None
    """Pairs of type and value, in place of the present ones."""
    address: PostalAddress | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Merged; an empty value removes its key."""


class PaymentProvider(Protocol):
    """A billing provider."""

    # ---- asking: always fresh

    async def subscription(self, provider_subscription_id: str) -> ObservedSubscription | None:
        """Return the subscription with its schedule, latest invoice and the time since which it is overdue."""

    def changed_subscription_ids(self, *, since: datetime | None, customer_id: str = "") -> AsyncIterator[str]:
        """Yield ids of subscriptions that something happened to since then (None: all that there are), each once."""

    async def customer(self, customer_id: str) -> ObservedCustomer | None:
        """Return the customer; one that was deleted says so."""

    async def find_customer(
        self, tenant_id: TenantId, account_id: AccountId, *, created_since: datetime
    ) -> ObservedCustomer | None:
        """Return the account's customer by its attributes, of those created since then; None where there is none."""

    async def invoice(self, invoice_id: str) -> ObservedInvoice | None:
        """Return the invoice."""

    async def invoices_of_subscription(self, provider_subscription_id: str) -> Sequence[ObservedInvoice]:
        """Return the newest invoices of the subscription, a hundred at most."""

    async def payment(self, payment_id: str) -> ObservedPayment | None:
        """Return the payment intent, with refunds, disputes and fraud warnings of its charge."""

    async def payment_of_charge(self, charge_id: str) -> ObservedPayment | None:
        """Return the payment that the charge belongs to; None also where it belongs to none."""

    async def payments_of_invoice(self, invoice_id: str) -> Sequence[ObservedPayment]:
        """Return every payment that was tried for the invoice."""

    async def schedule(self, schedule_id: str) -> ObservedSchedule | None:
        """Return the schedule."""

    async def price(self, price_id: str) -> ObservedPrice | None:
        """Return the price: phases of a schedule name theirs only."""

    async def checkout_session(self, session_id: str) -> ObservedCheckoutSession | None:
        """Return the page."""

    async def open_checkout_sessions(self, customer_id: str) -> Sequence[ObservedCheckoutSession]:
        """Return the pages that are open for the customer."""

    # ---- doing

    async def ensure_price(self, sale: Sale) -> ObservedPrice:
        """Return the provider's price: the one that the catalog names, else the one with its lookup key, else made."""

    async def create_customer(
        self, tenant_id: TenantId, account_id: AccountId, details: CustomerDetails, *, operation_id: str
    ) -> ObservedCustomer:
        """Create the customer that pays for the account."""

    async def update_customer(
        self, customer_id: str, details: CustomerDetails, *, operation_id: str
    ) -> ObservedCustomer:
        """Change the customer; tax ids are replaced as a whole."""

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
        """Subscribe the customer; the first payment is tried at once, and the state is INCOMPLETE if it needs more."""

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
        """Change price or quantity now; the difference is billed at once, and it stays as it is if that fails."""

    async def schedule_change(
        self,
        present: ObservedSubscription,
        sale: Sale,
        *,
        quantity: int,
        effective_time: datetime,
        operation_id: str,
    ) -> ObservedSchedule:
        """Plan a change of price or quantity, without proration, for the period's end or a time before or after it."""

    async def release_schedule(self, schedule_id: str, *, operation_id: str) -> None:
        """Take a planned change back; the subscription goes on as it is. One that is released already is left alone."""

    async def cancel_now(
        self, provider_subscription_id: str, *, reason: str, operation_id: str
    ) -> ObservedSubscription:
        """End the subscription at once, without a refund."""

    async def cancel_at(
        self, provider_subscription_id: str, *, at: datetime | None, operation_id: str
    ) -> ObservedSubscription:
        """End the subscription at the given time (None: at its period's end)."""

    async def keep(self, provider_subscription_id: str, *, operation_id: str) -> ObservedSubscription:
        """Take a cancellation back that has not taken effect."""

    async def pause(self, provider_subscription_id: str, *, operation_id: str) -> ObservedSubscription:
        """Pause the subscription now: nothing is billed until it is resumed."""

    async def resume(self, provider_subscription_id: str, *, operation_id: str) -> ObservedSubscription:
        """Resume a paused subscription; a new billing period begins and is billed."""

    async def preview_change(
        self, present: ObservedSubscription, sale: Sale, *, quantity: int, proration_time: datetime
    ) -> ObservedProration:
        """Return what `change_subscription` with this proration time would bill; changes nothing."""

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

    async def expire_checkout_session(self, session_id: str, *, operation_id: str) -> None:
        """Close a page; one that is complete or expired already is left alone."""

    async def create_portal_session(self, customer_id: str, *, return_url: str) -> str:
        """Open a page where the customer manages billing; return its address."""
