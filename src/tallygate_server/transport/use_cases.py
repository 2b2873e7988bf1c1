"""What the servicers need from the rest of the server, as protocols: any class of this shape will do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from tallygate_server.accounts import Account, AccountUpdate, Identity
from tallygate_server.billing.checkout import CheckoutPage, WantedPage
from tallygate_server.billing.provider import CustomerDetails
from tallygate_server.billing.reconcile import Reconciliation
from tallygate_server.catalog import CatalogApplied, CatalogSource
from tallygate_server.catalog_rules import CatalogSet
from tallygate_server.corrections import Correction, CorrectionAnswer, Reversal, ReversalAnswer
from tallygate_server.domain.call import Check, CheckAnswer, Increment, IncrementAnswer
from tallygate_server.domain.catalog import BillingInterval, Catalog
from tallygate_server.domain.entitlement import AccountState, GrantKind
from tallygate_server.domain.identifier import AccountId, FeatureKey, PlanKey, TenantId
from tallygate_server.domain.reservation import Reservation, ReservationState
from tallygate_server.domain.subscription import BillingProvider, SubscriptionState
from tallygate_server.domain.usage_event import UsageEvent
from tallygate_server.errors import TallygateError
from tallygate_server.events.endpoints import CreatedEndpoint, EndpointChange, RotatedSecret
from tallygate_server.explain import Explanation
from tallygate_server.grants import FeatureOverride, GrantPage, GrantState, GrantView, NewGrant, OverrideView
from tallygate_server.privacy.consents import Consent, NewConsent
from tallygate_server.recording import RecordResult
from tallygate_server.reservations import (
    Commit,
    CommitAnswer,
    Extend,
    ExtendAnswer,
    Release,
    ReleaseAnswer,
    Reserve,
    ReserveAnswer,
)
from tallygate_server.rollups import UsageAnswer, UsageQuery
from tallygate_server.simulation import SimulationUpdate, WantedSimulation
from tallygate_server.storage.billing import CustomerRow, InvoiceRow, PaymentRow
from tallygate_server.storage.catalogs import FeatureRow, MeterRow, PlanRow
from tallygate_server.storage.outbox import EventFilter, OutboxEvent
from tallygate_server.storage.usage_events import UsageEventRow
from tallygate_server.storage.webhook_deliveries import DeliveryRow, DeliveryState
from tallygate_server.storage.webhook_endpoints import EndpointRow
from tallygate_server.storage.webhook_events import WebhookEventRow
from tallygate_server.subscriptions import (
    ChangeTiming,
    NewSubscription,
    SubscriptionChangeView,
    SubscriptionView,
)
from tallygate_server.subscriptions.preview import PlanChangePreview
from tallygate_server.tenants import Tenant
from tallygate_server.usage_queries import AccountQuota, FeatureUsage, UsageEntry
from tallygate_server.validation import ValidationUpdate
from tallygate_server.watching.watches import WatchUpdate
from tallygate_server.webhooks.events import WebhookEventState, WebhookSource
from tallygate_server.webhooks.intake import Taken

Now = Callable[[], datetime]
"""Tells the time, aware, in UTC."""


class AccessChecks(Protocol):
    """Answers checks."""

    def check_soon(self, check: Check, done: Callable[[CheckAnswer | TallygateError], None]) -> None:
        """Answer through `done`, on the loop, at once or later; never raises."""

    async def check(self, check: Check) -> CheckAnswer:
        """Answer one check."""

    async def check_many(self, checks: Sequence[Check]) -> list[CheckAnswer | TallygateError]:
        """Answer many, in order."""

    async def list_entitlements(self, tenant_id: TenantId, account_id: AccountId) -> list[tuple[str, CheckAnswer]]:
        """Return the answer of every feature of the account, sorted by feature key."""


class LimitSimulationUse(Protocol):
    """Replays usage under drafts."""

    def simulate(self, wanted: WantedSimulation) -> AsyncGenerator[SimulationUpdate]:
        """Yield who would have been blocked and how far it is, and the totals last."""


class ValidationUse(Protocol):
    """Compares what is derived with the rows of record."""

    def validate(
        self, *, tenant_id: str, account_id: str, repair: bool, actor: str
    ) -> AsyncGenerator[ValidationUpdate]:
        """Yield what differs and how far it is, and the totals last."""


class AccessExplanations(Protocol):
    """Explains answers of checks."""

    async def explain(self, check: Check, at: datetime | None = None) -> Explanation:
        """Explain the answer now, or at an instant in the past."""


class EntitlementWatchUse(Protocol):
    """Watches what accounts are entitled to."""

    def watch(
        self, tenant_id: TenantId, account_id: AccountId, *, feature_keys: Iterable[str], resume_revision: int
    ) -> AsyncGenerator[WatchUpdate]:
        """Yield a snapshot, then every change, and signs of life; ends with an error only."""


class Metering(Protocol):
    """Counts."""

    def increment_soon(self, increment: Increment, done: Callable[[IncrementAnswer | TallygateError], None]) -> None:
        """Count and answer through `done`, on the loop, at once or later; never raises."""

    async def increment(self, increment: Increment) -> IncrementAnswer:
        """Count one increment."""

    async def increment_many(
        self, increments: Sequence[Increment], *, atomic: bool
    ) -> list[IncrementAnswer | TallygateError]:
        """Count many, in order."""


class UsageQueries(Protocol):
    """Reads usage."""

    async def usage(
        self, tenant_id: TenantId, account_id: AccountId, feature_key: FeatureKey, at: datetime | None
    ) -> FeatureUsage:
        """Return one counter."""

    async def quota(self, tenant_id: TenantId, account_id: AccountId) -> AccountQuota:
        """Return all counters and gauges of an account."""

    async def entries(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        feature_key: str,
        start: datetime | None,
        end: datetime | None,
        kind: int,
        request_id: str,
        before_entry_id: int | None,
        limit: int,
    ) -> Sequence[UsageEntry]:
        """Return lines of the ledger, newest first, those before an entry."""


class UsageSumsUse(Protocol):
    """Sums up usage."""

    async def query(self, wanted: UsageQuery) -> UsageAnswer:
        """Return a page of usage by window and group."""


class UsageRecording(Protocol):
    """Records what happened."""

    async def record(
        self, tenant_id: TenantId, events: Sequence[UsageEvent | TallygateError]
    ) -> Sequence[RecordResult]:
        """Record each event alone, in order; an error stands for an event that breaks a rule."""


class UsageEventQueries(Protocol):
    """Reads what was recorded."""

    async def page(
        self,
        tenant_id: TenantId,
        *,
        account_id: str,
        event_type: str,
        source: str,
        event_id: str,
        start: datetime | None,
        end: datetime | None,
        before_event_key: int | None,
        limit: int,
    ) -> Sequence[UsageEventRow]:
        """Return events, newest first, those before a key."""


class ReservationUse(Protocol):
    """Takes quantity from limits for a while."""

    async def reserve(self, wish: Reserve) -> ReserveAnswer:
        """Take quantity."""

    async def commit(self, wish: Commit) -> CommitAnswer:
        """Count the actual quantity."""

    async def release(self, wish: Release) -> ReleaseAnswer:
        """Give a reservation back."""

    async def extend(self, wish: Extend) -> ExtendAnswer:
        """Set a new time to live."""

    async def list(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        feature_key: str,
        state: ReservationState | None,
        before_reservation_id: str,
        limit: int,
    ) -> Sequence[Reservation]:
        """Return reservations, newest first, those before one."""


class UsageCorrections(Protocol):
    """Takes usage back and puts it right."""

    async def reverse(self, reversal: Reversal) -> ReversalAnswer:
        """Take back what a line of the ledger counted."""

    async def correct(self, correction: Correction) -> CorrectionAnswer:
        """Add to a counter or a gauge, or take away from it."""


class ConsentUse(Protocol):
    """Records consents."""

    async def record(
        self, tenant_id: TenantId, account_id: AccountId, wanted: NewConsent, *, request_id: str, actor: str
    ) -> Consent:
        """Record a statement."""

    async def list(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        purpose: str,
        current_only: bool,
        before: tuple[datetime, int] | None,
        limit: int,
    ) -> Sequence[Consent]:
        """Return statements, newest first."""


class TenantUse(Protocol):
    """Knows tenants."""

    async def get(self, tenant_id: TenantId) -> Tenant:
        """Return a tenant."""


class CatalogUse(Protocol):
    """Applies and shows catalogs."""

    async def apply(
        self,
        source: CatalogSource | Catalog | CatalogSet,
        *,
        validate_only: bool,
        actor: str,
        tenant_id: str,
        expected_revision: int | None,
    ) -> CatalogApplied:
        """Make catalogs what the source says."""

    async def get(self, tenant_id: TenantId) -> tuple[Catalog, int]:
        """Return a catalog and its revision."""

    async def plan_rows(
        self, tenant_id: TenantId, *, plan_key: str, all_versions: bool = ..., include_retired: bool
    ) -> list[PlanRow]:
        """Return plans."""

    async def feature_rows(self, tenant_id: TenantId, *, include_retired: bool) -> list[FeatureRow]:
        """Return features."""

    async def meter_rows(self, tenant_id: TenantId, *, include_retired: bool) -> list[MeterRow]:
        """Return meters."""


class AccountUse(Protocol):
    """Finds, creates and changes accounts."""

    async def identify(
        self,
        tenant_id: TenantId,
        identities: Sequence[Identity],
        *,
        account_id: str,
        email: str,
        display_name: str,
        time_zone: str,
        preferences: Mapping[str, Any] | None,
        metadata: Mapping[str, str] | None,
        actor: str,
    ) -> tuple[Account, bool]:
        """Find or create an account; tell whether it is new."""

    async def get(self, tenant_id: TenantId, account_id: AccountId) -> Account:
        """Return an account by id."""

    async def find(self, tenant_id: TenantId, identity: Identity) -> Account:
        """Return an account by identity."""

    async def list(
        self,
        tenant_id: TenantId,
        *,
        state: AccountState | None,
        plan_key: str,
        account_id_prefix: str,
        after_account_id: str,
        limit: int,
    ) -> Sequence[Account]:
        """Return accounts by id."""

    async def update(self, tenant_id: TenantId, account_id: AccountId, update: AccountUpdate, *, actor: str) -> Account:
        """Change an account."""

    async def suspend(
        self, tenant_id: TenantId, account_id: AccountId, *, suspend: bool, reason: str, actor: str
    ) -> Account:
        """Suspend an account, or lift its suspension."""


class SubscriptionUse(Protocol):
    """Changes and shows subscriptions."""

    async def create(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        wanted: NewSubscription,
        *,
        request_id: str,
        actor: str,
    ) -> SubscriptionView:
        """Create a subscription."""

    async def change_plan(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        plan_key: PlanKey,
        subscription_id: str,
        interval: BillingInterval | None,
        quantity: int | None,
        provider: BillingProvider | None,
        timing: ChangeTiming | None,
        effective_time: datetime | None,
        payment_method_id: str,
        preview_time: datetime | None,
        request_id: str,
        actor: str,
        reason: str,
    ) -> SubscriptionView:
        """Move a subscription."""

    async def cancel(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str,
        timing: ChangeTiming | None,
        effective_time: datetime | None,
        request_id: str,
        actor: str,
        reason: str,
    ) -> SubscriptionView:
        """Cancel a subscription."""

    async def pause(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str,
        timing: ChangeTiming | None,
        effective_time: datetime | None,
        resume_time: datetime | None,
        request_id: str,
        actor: str,
        reason: str,
    ) -> SubscriptionView:
        """Pause a subscription."""

    async def resume(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str,
        request_id: str,
        actor: str,
        reason: str,
    ) -> SubscriptionView:
        """Resume a subscription."""

    async def cancel_scheduled_change(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str,
        scheduled_change_id: str,
        actor: str,
        reason: str,
    ) -> SubscriptionView:
        """Take back what is planned."""

    async def get(self, tenant_id: TenantId, subscription_id: str) -> SubscriptionView:
        """Return one subscription."""

    async def list(
        self,
        tenant_id: TenantId,
        *,
        account_id: str,
        plan_key: str = ...,
        states: Sequence[SubscriptionState],
        before_subscription_id: str = ...,
        limit: int,
    ) -> Sequence[SubscriptionView]:
        """Return subscriptions, newest first."""

    async def list_changes(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str,
        before_change_id: int | None,
        limit: int,
    ) -> Sequence[SubscriptionChangeView]:
        """Return steps of history, newest first."""


class PlanChangePreviewUse(Protocol):
    """Previews changes of plans."""

    async def preview(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        plan_key: PlanKey,
        subscription_id: str,
        interval: BillingInterval | None,
        quantity: int | None,
        timing: ChangeTiming | None,
        effective_time: datetime | None,
    ) -> PlanChangePreview:
        """Return what a change would mean."""


class WebhookIntakeUse(Protocol):
    """Takes webhooks in."""

    async def take(self, source: WebhookSource, payload: bytes, headers: Mapping[str, str], tenant_id: str) -> Taken:
        """Check and store a webhook."""


class WebhookAdministrationUse(Protocol):
    """Shows and replays webhooks."""

    async def list(
        self,
        *,
        tenant_id: str,
        source: WebhookSource | None,
        state: WebhookEventState | None,
        event_type_prefix: str,
        account_id: str,
        start_time: datetime | None,
        end_time: datetime | None,
        before_sequence: int | None,
        limit: int,
    ) -> Sequence[WebhookEventRow]:
        """Return webhooks, newest first."""

    async def get(self, source: WebhookSource, event_id: str) -> WebhookEventRow:
        """Return one webhook with its body."""

    async def replay(
        self,
        *,
        source: WebhookSource | None,
        event_ids: Sequence[str],
        start_time: datetime | None,
        end_time: datetime | None,
        actor: str,
    ) -> int:
        """Process webhooks again; return how many."""


class CheckoutUse(Protocol):
    """Opens pages at the billing provider."""

    async def open_page(
        self, tenant_id: TenantId, account_id: AccountId, wanted: WantedPage, *, request_id: str, actor: str
    ) -> CheckoutPage:
        """Return a page where a plan is paid for."""

    async def open_portal(self, tenant_id: TenantId, account_id: AccountId, *, return_url: str) -> str:
        """Return the address of a page where billing is managed."""


class CustomerUse(Protocol):
    """Changes customers at the billing provider."""

    async def update(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        details: CustomerDetails,
        *,
        billing_provider: BillingProvider | None,
        request_id: str,
        actor: str,
    ) -> CustomerRow:
        """Create or change the account's customer."""


class BillingRecordsUse(Protocol):
    """Shows what is on record of customers, invoices and payments."""

    async def customers(
        self, tenant_id: TenantId, *, account_id: str, before_customer_id: str, limit: int
    ) -> Sequence[CustomerRow]:
        """Return customers, newest first."""

    async def invoices(
        self,
        tenant_id: TenantId,
        *,
        account_id: str,
        subscription_id: str,
        state: str,
        start_time: datetime | None,
        end_time: datetime | None,
        before_invoice_id: str,
        limit: int,
    ) -> Sequence[InvoiceRow]:
        """Return invoices, newest first."""

    async def payments(
        self,
        tenant_id: TenantId,
        *,
        account_id: str,
        subscription_id: str,
        state: str,
        start_time: datetime | None,
        end_time: datetime | None,
        before_payment_id: str,
        limit: int,
    ) -> Sequence[PaymentRow]:
        """Return payments, newest first."""


class ReconcilerUse(Protocol):
    """Compares subscriptions with the billing provider."""

    async def run(
        self,
        tenant_id: str,
        *,
        account_id: str,
        changed_after: datetime | None,
        validate_only: bool,
        actor: str,
    ) -> Reconciliation:
        """Compare, and repair unless only told to look."""


class GrantsUse(Protocol):
    """Gives accounts extras, and takes them back."""

    async def create(
        self, tenant_id: TenantId, account_id: AccountId, wanted: NewGrant, *, request_id: str = "", actor: str = ""
    ) -> GrantView:
        """Give the account an extra."""

    async def revoke(
        self, tenant_id: TenantId, account_id: AccountId, grant_id: str, *, reason: str, actor: str = ""
    ) -> GrantView:
        """Take a grant back."""

    async def page(
        self,
        tenant_id: TenantId,
        *,
        account_id: str = "",
        feature_key: str = "",
        kinds: Sequence[GrantKind] = (),
        state: GrantState | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int,
    ) -> GrantPage:
        """Return grants, newest first."""

    async def override(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        feature_key: FeatureKey,
        override: FeatureOverride,
        *,
        grace_days: int = 0,
        expire_time: datetime | None = None,
        reason: str = "",
        request_id: str = "",
        actor: str = "",
    ) -> OverrideView:
        """Switch a feature on or off, or take such a switch back."""


class EventLogUse(Protocol):
    """Looks back on events."""

    async def list(
        self,
        tenant_id: TenantId,
        wanted: EventFilter,
        *,
        start_time: datetime | None,
        end_time: datetime | None,
        before_sequence: int | None,
        limit: int,
    ) -> Sequence[OutboxEvent]:
        """Return events, newest first."""


class EventWatchUse(Protocol):
    """Tells events as they happen."""

    def watch(
        self, tenant_id: TenantId, wanted: EventFilter, *, after_sequence: int | None
    ) -> AsyncGenerator[OutboxEvent | None]:
        """Yield events in order, and None as a sign of life."""


class EndpointUse(Protocol):
    """Creates, changes and shows endpoints that events are sent to."""

    async def create(
        self,
        tenant_id: TenantId,
        *,
        url: str,
        event_types: Sequence[str],
        description: str,
        request_id: str,
        actor: str,
    ) -> CreatedEndpoint:
        """Create an endpoint."""

    async def update(self, tenant_id: TenantId, endpoint_id: str, change: EndpointChange, *, actor: str) -> EndpointRow:
        """Change what is given."""

    async def list(self, tenant_id: TenantId, *, after_endpoint_id: str, limit: int) -> Sequence[EndpointRow]:
        """Return endpoints by id."""

    async def delete(self, tenant_id: TenantId, endpoint_id: str, *, actor: str) -> None:
        """Delete an endpoint."""

    async def rotate_secret(self, tenant_id: TenantId, endpoint_id: str, *, actor: str) -> RotatedSecret:
        """Make a new secret."""

    async def deliveries(
        self,
        tenant_id: TenantId,
        *,
        endpoint_id: str,
        event_id: str,
        state: DeliveryState | None,
        before_delivery_id: int | None,
        limit: int,
    ) -> Sequence[DeliveryRow]:
        """Return deliveries, newest first."""

    async def replay(
        self,
        tenant_id: TenantId,
        endpoint_id: str,
        *,
        event_ids: Sequence[str],
        start_time: datetime | None,
        end_time: datetime | None,
        failed_only: bool,
        actor: str,
    ) -> int:
        """Send events again; return how many."""
