"""The service without its listeners: every use case, wired to one Postgres and one Redis.

`app.py` puts transports, embedded servers and background jobs around it; tests use it as it is.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from tallygate_server.access import AccessChecker
from tallygate_server.accounts import Accounts
from tallygate_server.billing.assembly import Billing, StripeOptions, open_billing
from tallygate_server.catalog import Catalogs
from tallygate_server.clock import Clock
from tallygate_server.corrections import Corrections
from tallygate_server.counters.connection import RedisConnection
from tallygate_server.counters.counters import Counters
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.errors import StoreUnavailable
from tallygate_server.events.assembly import EventOptions, Events, open_events
from tallygate_server.explain import Explainer
from tallygate_server.grants import Grants
from tallygate_server.grants.expiring import ExpiringGrants
from tallygate_server.hot_accounts import HotAccounts
from tallygate_server.metering.meter import Meter
from tallygate_server.privacy.consents import Consents
from tallygate_server.recording import UsageEvents, UsageRecorder
from tallygate_server.reservations import ReservationExpiry, Reservations
from tallygate_server.revision_marks import FencedMarks
from tallygate_server.rollups import RollUp, UsageSums, open_roll_up
from tallygate_server.simulation import LimitSimulations
from tallygate_server.storage.cache_epochs import CacheEpochs
from tallygate_server.storage.changes_by_hand import ChangesByHand
from tallygate_server.storage.engine import (
    APP_POOL_SIZE,
    CONNECTION_ERRORS,
    Database,
    DatabaseRole,
    connection_settings,
)
from tallygate_server.storage.ledger import Ledger, LedgerDown
from tallygate_server.subscriptions import Subscriptions
from tallygate_server.subscriptions.due_work import DueSubscriptions
from tallygate_server.subscriptions.preview import PlanChangePreviews
from tallygate_server.tenants import TenantDirectory
from tallygate_server.usage_queries import UsageQueries
from tallygate_server.validation import Validations
from tallygate_server.watching.assembly import open_watches
from tallygate_server.watching.watches import EntitlementWatches
from tallygate_server.webhooks.assembly import WebhookOptions, Webhooks, open_webhooks
from tallygate_server.webhooks.ayrshare import AyrshareEvents
from tallygate_server.webhooks.clerk import ClerkEvents
from tallygate_server.webhooks.events import EventHandler, WebhookSource
from tallygate_server.workers.hold_sweeper import HoldSweeper

log = structlog.get_logger(__name__)

LOAD_POOL_SIZE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class HotPathLimits:
    """Bounds of the hot path; the settings of the same names explain them."""

    hold_ttl_ms: int = 10_000
    commit_batch_max: int = 512
    commit_queue_max: int = 10_000
    commit_timeout_ms: int = 2_000
    accepted_queue_max: int = 10_000
    late_commit_window_seconds: int = 3_600
    redis_timeout_ms: int = 500
    snapshot_cache_max: int = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Every use case."""

    server_id: str
    clock: Clock
    database: Database
    redis: RedisConnection
    counters: Counters
    ledger: Ledger
    changes: EntitlementChanges
    tenants: TenantDirectory
    catalogs: Catalogs
    accounts: Accounts
    consents: Consents
    subscriptions: Subscriptions
    previews: PlanChangePreviews
    due_subscriptions: DueSubscriptions
    hot_accounts: HotAccounts
    checker: AccessChecker
    explainer: Explainer
    watches: EntitlementWatches
    grants: Grants
    expiring_grants: ExpiringGrants
    meter: Meter
    usage: UsageQueries
    usage_sums: UsageSums
    roll_up: RollUp
    recorder: UsageRecorder
    corrections: Corrections
    usage_events: UsageEvents
    reservations: Reservations
    reservation_expiry: ReservationExpiry
    sweeper: HoldSweeper
    webhooks: Webhooks
    billing: Billing
    simulations: LimitSimulations
    validations: Validations
    events: Events


@asynccontextmanager
async def open_service(
    *,
    database_url: str,
    redis_url: str,
    clock: Clock,
    limits: HotPathLimits | None = None,
    webhook_options: WebhookOptions | None = None,
    stripe: StripeOptions | None = None,
    grant_notice_days: int = 7,
    event_options: EventOptions | None = None,
) -> AsyncIterator[Service]:
    """Open the service on a migrated database; closing it finishes what is in flight.

    Redis may be away; Postgres must be there. Raises StoreUnavailable.
    """
    limits = limits or HotPathLimits()
    server_id = secrets.token_hex(6)
    async with AsyncExitStack() as stack:
        ledger = Ledger(database_url, commit_timeout_ms=limits.commit_timeout_ms)
        stack.push_async_callback(ledger.close)
        try:
            await ledger.start()
            pool = await asyncpg.create_pool(
                database_url,
                # Without a floor asyncpg does not reconnect by itself, with a traceback for each failed try.
                min_size=0,
                max_size=LOAD_POOL_SIZE,
                timeout=5,
                command_timeout=10,
                server_settings=connection_settings(DatabaseRole.APP),
            )
        except (LedgerDown, *CONNECTION_ERRORS) as error:
            raise StoreUnavailable(f"Postgres cannot be reached: {error}") from error
        stack.callback(pool.terminate)
        counters = Counters(redis_url, timeout_ms=limits.redis_timeout_ms, server_id=server_id)
        epochs = CacheEpochs(database_url, on_begun=counters.begin_epoch, on_silence=ledger.doubt)
        stack.push_async_callback(epochs.close)
        try:
            await epochs.start()
        except CONNECTION_ERRORS as error:
            raise StoreUnavailable(f"Postgres cannot be reached: {error}") from error
        await counters.connection.start()
        stack.push_async_callback(counters.connection.close)
        database = Database(database_url)
        stack.push_async_callback(database.close)
        tenants = TenantDirectory(database, clock)
        stack.push_async_callback(tenants.close)
        changes = EntitlementChanges(database, FencedMarks(counters, epochs), clock=clock)
        accounts = Accounts(database, changes, tenants=tenants, clock=clock)
        webhook_options = webhook_options or WebhookOptions()
        # One connection for each event that is worked on, and some for those that come in.
        pool_size = APP_POOL_SIZE + webhook_options.concurrency
        intake_database = Database(database_url, role=DatabaseRole.INTAKE, pool_size=pool_size)
        stack.push_async_callback(intake_database.close)
        billing = await stack.enter_async_context(
            open_billing(
                database_url,
                database=database,
                lookups=intake_database,
                changes=changes,
                tenants=tenants,
                accounts=accounts,
                clock=clock,
                stripe=stripe,
            )
        )
        subscriptions = Subscriptions(
            database, changes, tenants=tenants, accounts=accounts, clock=clock, paid=billing.paid
        )
        by_hand = await stack.enter_async_context(ChangesByHand.listening(database_url, counters.forget_soon))
        hot_accounts = HotAccounts(
            pool=pool,
            counters=counters,
            tenants=tenants,
            clock=clock,
            provision=accounts.provision,
            postgres_up=lambda: ledger.up,
            cache_max=limits.snapshot_cache_max,
        )
        stack.push_async_callback(hot_accounts.close)
        # One that is gone would stay in memory until others push it out.
        by_hand.also_tell(hot_accounts.forget_if_gone)
        checker = AccessChecker(
            accounts=hot_accounts, counters=counters, ledger=ledger, epochs=epochs, tenants=tenants, clock=clock
        )
        stack.push_async_callback(checker.close)
        meter = Meter(
            accounts=hot_accounts,
            counters=counters,
            ledger=ledger,
            tenants=tenants,
            clock=clock,
            server_id=server_id,
            hold_ttl_ms=limits.hold_ttl_ms,
            commit_batch_max=limits.commit_batch_max,
            commit_queue_max=limits.commit_queue_max,
            commit_timeout_ms=limits.commit_timeout_ms,
            accepted_queue_max=limits.accepted_queue_max,
        )
        await meter.start()
        stack.push_async_callback(meter.close)
        recorder = await stack.enter_async_context(
            UsageRecorder(
                accounts=hot_accounts,
                counters=counters,
                ledger=ledger,
                tenants=tenants,
                clock=clock,
                next_entry_id=meter.next_entry_id,
                timeout_ms=limits.commit_timeout_ms,
            ).closing()
        )
        usage = UsageQueries(
            checker=checker,
            accounts=hot_accounts,
            ledger=ledger,
            database=database,
            tenants=tenants,
            clock=clock,
        )
        reservations = await stack.enter_async_context(
            Reservations(
                accounts=hot_accounts,
                counters=counters,
                ledger=ledger,
                database=database,
                tenants=tenants,
                clock=clock,
                next_entry_id=meter.next_entry_id,
                late_window=timedelta(seconds=limits.late_commit_window_seconds),
                waiting_max=limits.commit_queue_max,
                timeout_ms=limits.commit_timeout_ms,
            )
        )
        webhooks = await stack.enter_async_context(
            open_webhooks(
                database_url,
                intake_database=intake_database,
                database=database,
                handlers=_handlers(billing, accounts, database, intake_database, webhook_options, clock=clock),
                tenants=tenants,
                clock=clock,
                options=webhook_options,
            )
        )
        events = await stack.enter_async_context(
            open_events(
                database_url,
                database=database,
                tenants=tenants,
                clock=clock,
                options=event_options or EventOptions(),
            )
        )
        watches = await stack.enter_async_context(
            open_watches(
                database_url,
                checker=checker,
                accounts=hot_accounts,
                ledger=ledger,
                database=database,
                tenants=tenants,
                news=events.hub,
                by_hand=by_hand,
                clock=clock,
            )
        )
        yield Service(
            server_id=server_id,
            clock=clock,
            database=database,
            redis=counters.connection,
            counters=counters,
            ledger=ledger,
            changes=changes,
            tenants=tenants,
            catalogs=Catalogs(database, tenants, clock=clock),
            accounts=accounts,
            consents=Consents(database, tenants=tenants, accounts=accounts, clock=clock),
            subscriptions=subscriptions,
            previews=PlanChangePreviews(
                database, tenants=tenants, standings=usage, clock=clock, provider=billing.provider
            ),
            due_subscriptions=DueSubscriptions(database, intake_database, changes, clock=clock, paid=billing.paid),
            hot_accounts=hot_accounts,
            checker=checker,
            explainer=Explainer(
                checker=checker,
                accounts=hot_accounts,
                ledger=ledger,
                database=database,
                tenants=tenants,
                clock=clock,
            ),
            watches=watches,
            grants=Grants(database, changes, tenants=tenants, accounts=accounts, checker=checker, clock=clock),
            expiring_grants=ExpiringGrants(database, intake_database, clock=clock, notice_days=grant_notice_days),
            meter=meter,
            usage=usage,
            usage_sums=UsageSums(database, tenants=tenants, clock=clock),
            roll_up=await stack.enter_async_context(open_roll_up(database_url)),
            recorder=recorder,
            corrections=await stack.enter_async_context(
                Corrections(
                    accounts=hot_accounts,
                    counters=counters,
                    ledger=ledger,
                    tenants=tenants,
                    clock=clock,
                    next_entry_id=meter.next_entry_id,
                    record_denials=meter.record_denials,
                    timeout_ms=limits.commit_timeout_ms,
                ).closing()
            ),
            usage_events=UsageEvents(database, tenants),
            reservations=reservations,
            reservation_expiry=ReservationExpiry(ledger=ledger, counters=counters, clock=clock),
            sweeper=HoldSweeper(counters=counters, ledger=ledger, clock=clock),
            webhooks=webhooks,
            billing=billing,
            simulations=LimitSimulations(database_url, tenants=tenants, clock=clock),
            validations=Validations(
                database_url,
                database=database,
                lookups=intake_database,
                changes=changes,
                counters=counters,
                ledger=ledger,
                hot_accounts=hot_accounts,
                tenants=tenants,
                clock=clock,
            ),
            events=events,
        )


def _handlers(
    billing: Billing,
    accounts: Accounts,
    database: Database,
    intake_database: Database,
    options: WebhookOptions,
    *,
    clock: Clock,
) -> dict[WebhookSource, EventHandler]:
    """Return who understands the events of each source; those of Stripe wait where Stripe is not connected."""
    handlers: dict[WebhookSource, EventHandler] = {
        WebhookSource.CLERK: ClerkEvents(accounts, intake_database, default_tenant_id=options.clerk_tenant_id),
        WebhookSource.AYRSHARE: AyrshareEvents(database, intake_database, clock=clock),
    }
    if billing.events is not None:
        handlers[WebhookSource.STRIPE] = billing.events
    return handlers
