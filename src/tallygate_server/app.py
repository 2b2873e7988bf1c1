"""Composition root: stores, service, listeners and jobs, from settings to drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog
from grpc import aio

from tallygate_server.billing.assembly import StripeOptions
from tallygate_server.catalog import CatalogSource
from tallygate_server.catalog_files import parse_catalog
from tallygate_server.clock import Clock, SystemClock
from tallygate_server.config import Settings, several_secrets
from tallygate_server.development_clock import followed_clock
from tallygate_server.domain.lifecycle import StorageTier
from tallygate_server.domain.storage_cost import TierFacts
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import TenantNotFound
from tallygate_server.events.addresses import AddressRules
from tallygate_server.events.assembly import EventOptions
from tallygate_server.lifecycle.assembly import (
    Lifecycle,
    LifecycleOptions,
    open_lifecycle,
    own_master_keys,
    parse_master_keys,
)
from tallygate_server.lifecycle.jobs import LifecycleJobRunner
from tallygate_server.lifecycle.own_data.upkeep import OwnDataOptions
from tallygate_server.ops_http import Component, OpsServer
from tallygate_server.ports import check_port_free
from tallygate_server.release import release_version
from tallygate_server.service import HotPathLimits, Service, open_service
from tallygate_server.storage import migrations
from tallygate_server.telemetry import metrics
from tallygate_server.transport.account_servicer import AccountServicer
from tallygate_server.transport.admin_servicer import AdminServicer
from tallygate_server.transport.catalog_servicer import CatalogServicer
from tallygate_server.transport.data_lifecycle_servicer import DataLifecycleServicer
from tallygate_server.transport.entitlement_servicer import EntitlementServicer
from tallygate_server.transport.event_servicer import EventServicer
from tallygate_server.transport.server import GrpcServer, ServerLimits, Servicer, Tls, build_server
from tallygate_server.transport.subscription_servicer import SubscriptionServicer
from tallygate_server.transport.usage_servicer import UsageServicer
from tallygate_server.webhooks.assembly import WebhookOptions
from tallygate_server.webhooks.events import WebhookSource
from tallygate_server.webhooks.http import webhook_routes
from tallygate_server.webhooks.processor import Attempts
from tallygate_server.workers.jobs import Job, JobRunner
from tallygate_server.workers.ledger_upkeep import forget_event_keys, forget_requests, make_partitions

log = structlog.get_logger(__name__)

PARTITION_INTERVAL_SECONDS: Final = 6 * 3600.0
FORGET_INTERVAL_SECONDS: Final = 3600.0
MOVE_TIERS_INTERVAL_SECONDS: Final = 600.0
UPKEEP_DELAY_SECONDS: Final = 30.0
"""Before what looks after stored data runs for the first time: a start has other work."""
RETAIN_DATA_INTERVAL_SECONDS: Final = 600.0
EXPIRE_RESERVATIONS_INTERVAL_SECONDS: Final = 1.0
FORGET_LIFECYCLE_JOBS_INTERVAL_SECONDS: Final = 3600.0
MEASURE_STORAGE_INTERVAL_SECONDS: Final = 1800.0
FORGET_EVENTS_INTERVAL_SECONDS: Final = 3600.0
DUE_SUBSCRIPTIONS_INTERVAL_SECONDS: Final = 1.0
SUBSCRIPTION_NOTICES_INTERVAL_SECONDS: Final = 15.0
GRANT_NOTICES_INTERVAL_SECONDS: Final = 15.0
OWN_DATA_INTERVAL_SECONDS: Final = 6 * 3600.0
CLEANING_INTERVAL_SECONDS: Final = 24 * 3600.0
_HEALTH_INTERVAL_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Stores:
    """Where Postgres and Redis are, and whether they are ours."""

    database_url: str
    redis_url: str
    embedded: EmbeddedServers | None


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Use the given Postgres and Redis, and start private ones in place of those that are not given.

    Raises EmbeddedError.
    """
    database_url = settings.database_url.get_secret_value() if settings.database_url else ""
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else ""
    async with AsyncExitStack() as stack:
        servers = None
        if not (database_url and redis_url):
            servers = await stack.enter_async_context(
                EmbeddedServers.start(
                    data_dir=settings.data_dir, with_postgres=not database_url, with_redis=not redis_url
                )
            )
            database_url = database_url or servers.database_url
            redis_url = redis_url or servers.redis_url
        yield Stores(database_url, redis_url, servers)


@asynccontextmanager
async def open_clock(settings: Settings) -> AsyncIterator[Clock]:
    """Give the machine's clock, or the one that the settings say is to be followed."""
    if settings.development_clock_url is None:
        yield SystemClock()
        return
    async with followed_clock(settings.development_clock_url) as clock:
        yield clock


@asynccontextmanager
async def open_migrated_service(settings: Settings, stores: Stores, clock: Clock) -> AsyncIterator[Service]:
    """Open the service, on a schema that is brought up to date first where the settings say so."""
    if settings.migrates_at_start:
        await migrations.upgrade(stores.database_url)
    limits = HotPathLimits(
        hold_ttl_ms=settings.hold_ttl_ms,
        commit_batch_max=settings.commit_batch_max,
        commit_queue_max=settings.commit_queue_max,
        commit_timeout_ms=settings.commit_timeout_ms,
        accepted_queue_max=settings.accepted_queue_max,
        late_commit_window_seconds=settings.late_commit_window_seconds,
        redis_timeout_ms=settings.redis_timeout_ms,
        snapshot_cache_max=settings.snapshot_cache_max,
    )
    async with open_service(
        database_url=stores.database_url,
        redis_url=stores.redis_url,
        clock=clock,
        limits=limits,
        webhook_options=webhook_options(settings),
        stripe=stripe_options(settings),
        grant_notice_days=settings.grant_notice_days,
        event_options=event_options(settings),
    ) as service:
        yield service


def stripe_options(settings: Settings) -> StripeOptions | None:
    """Return what the settings say about Stripe; None where it is not connected."""
    if settings.stripe_api_key is None:
        return None
    return StripeOptions(
        api_key=settings.stripe_api_key.get_secret_value(),
        api_base=settings.stripe_api_base,
        timeout_ms=settings.stripe_timeout_ms,
        call_timeout_ms=settings.stripe_call_timeout_ms,
        retries_max=settings.stripe_retries_max,
        breaker_failures_max=settings.stripe_breaker_failures_max,
        breaker_open_ms=settings.stripe_breaker_open_ms,
    )


def event_options(settings: Settings) -> EventOptions:
    """Return what the settings say about telling tenants of events."""
    return EventOptions(
        addresses=AddressRules(
            private_networks=settings.delivery_private_networks, plain_http=settings.delivery_plain_http
        ),
        concurrency=settings.delivery_concurrency,
    )


def lifecycle_options(settings: Settings) -> LifecycleOptions:
    """Return what the settings say about stored data; makes a master key of our own where none is given.

    Raises ValueError for master keys that are none.
    """
    directory = settings.data_dir.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return LifecycleOptions(
        object_store_url=settings.object_store_url or (directory / "objects").as_uri(),
        key_store_url=settings.key_store_url or (directory / "keys").as_uri(),
        master_keys=(
            parse_master_keys(settings.master_keys.get_secret_value())
            if settings.master_keys is not None
            else own_master_keys(directory / "master.key")
        ),
        retrieval_timeout_ms=settings.retrieval_timeout_ms,
        own_data=OwnDataOptions(
            webhook_retention_days=settings.webhook_retention_days,
            soft_delete_retention_days=settings.soft_delete_retention_days,
            history_retention_days=settings.history_retention_days,
        ),
        tier_facts=tier_facts(settings),
        export_retention=timedelta(days=settings.export_retention_days),
    )


def tier_facts(settings: Settings) -> TierFacts:
    """Return what the settings say about the tiers of stored data."""
    return TierFacts(
        currency=settings.storage_currency,
        prices_per_gb={
            StorageTier.HOT: settings.hot_price_per_gb,
            StorageTier.WARM: settings.warm_price_per_gb,
            StorageTier.COLD: settings.cold_price_per_gb,
        },
        retrieval={
            StorageTier.HOT: timedelta(milliseconds=settings.hot_retrieval_ms),
            StorageTier.WARM: timedelta(milliseconds=settings.warm_retrieval_ms),
            StorageTier.COLD: timedelta(milliseconds=settings.cold_retrieval_ms),
        },
    )


def webhook_options(settings: Settings) -> WebhookOptions:
    """Return what the settings say about webhooks."""
    return WebhookOptions(
        secrets={
            WebhookSource.STRIPE: several_secrets(settings.stripe_webhook_secret),
            WebhookSource.CLERK: several_secrets(settings.clerk_webhook_secret),
            WebhookSource.AYRSHARE: several_secrets(settings.ayrshare_webhook_secret),
        },
        clerk_tenant_id=settings.clerk_tenant_id or "",
        tolerance_seconds=settings.webhook_tolerance_seconds,
        answer_wait_ms=settings.webhook_answer_wait_ms,
        attempts=Attempts(count_max=settings.webhook_attempts_max),
        concurrency=settings.webhook_concurrency,
    )


def servicers(service: Service, lifecycle: Lifecycle | None = None) -> list[Servicer]:
    """Return a servicer for every service of the contract; without a lifecycle, for all but that of data."""
    now = service.clock.now
    return [
        EntitlementServicer(
            service.checker,
            now,
            explanations=service.explainer,
            watches=service.watches,
            grants=service.grants,
            simulations=service.simulations,
        ),
        UsageServicer(
            service.meter,
            service.usage,
            now,
            tenants=service.tenants,
            recording=service.recorder,
            events=service.usage_events,
            sums=service.usage_sums,
            reservations=service.reservations,
            corrections=service.corrections,
        ),
        SubscriptionServicer(
            service.subscriptions,
            now,
            previews=service.previews,
            webhooks=service.webhooks.intake,
            checkout=service.billing.checkout,
            customers=service.billing.customers,
            records=service.billing.records,
            reconciler=service.billing.reconciler,
        ),
        CatalogServicer(service.catalogs, now),
        AccountServicer(
            service.accounts,
            service.usage,
            service.tenants,
            now,
            checks=service.checker,
            subscriptions=service.subscriptions,
            consents=service.consents,
        ),
        EventServicer(service.events.log, service.events.hub, service.events.endpoints, now),
        *([] if lifecycle is None else [DataLifecycleServicer(lifecycle, now)]),
        AdminServicer(
            service.webhooks.administration,
            now,
            corrections=service.corrections,
            validations=service.validations,
        ),
    ]


def jobs(settings: Settings, stores: Stores, service: Service, lifecycle: Lifecycle) -> list[Job]:
    """Return the background jobs."""

    async def sweep() -> dict[str, int]:
        swept = await service.sweeper.sweep()
        return {"holds_swept": swept} if swept else {}

    async def expire_reservations() -> dict[str, int]:
        expired = await service.reservation_expiry.expire()
        return {"reservations_expired": expired} if expired else {}

    async def forget_reservations() -> dict[str, int]:
        forgotten = await service.reservation_expiry.forget(timedelta(days=settings.request_retention_days))
        return {"reservations_forgotten": forgotten} if forgotten else {}

    return [
        Job(
            name="expire_reservations",
            interval_seconds=EXPIRE_RESERVATIONS_INTERVAL_SECONDS,
            run=expire_reservations,
        ),
        Job(name="forget_reservations", interval_seconds=FORGET_INTERVAL_SECONDS, run=forget_reservations),
        Job(name="sweep_holds", interval_seconds=settings.sweep_interval_ms / 1000, run=sweep),
        Job(name="roll_up", interval_seconds=settings.rollup_interval_ms / 1000, run=service.roll_up.run),
        Job(
            name="make_partitions",
            interval_seconds=PARTITION_INTERVAL_SECONDS,
            run=lambda: make_partitions(stores.database_url, settings.ledger_months_ahead),
        ),
        Job(
            name="forget_requests",
            interval_seconds=FORGET_INTERVAL_SECONDS,
            run=lambda: forget_requests(service.ledger, service.clock, settings.request_retention_days),
        ),
        Job(
            name="forget_event_keys",
            interval_seconds=FORGET_INTERVAL_SECONDS,
            run=lambda: forget_event_keys(service.ledger, service.clock, settings.request_retention_days),
        ),
        Job(
            name="forget_events",
            interval_seconds=FORGET_EVENTS_INTERVAL_SECONDS,
            run=service.events.publisher.forget,
        ),
        Job(
            name="move_tiers",
            interval_seconds=MOVE_TIERS_INTERVAL_SECONDS,
            delay_seconds=UPKEEP_DELAY_SECONDS,
            run=lifecycle.mover.run,
        ),
        Job(
            name="retain_data",
            interval_seconds=RETAIN_DATA_INTERVAL_SECONDS,
            delay_seconds=UPKEEP_DELAY_SECONDS,
            run=lifecycle.retainer.run,
        ),
        Job(
            name="expire_exports",
            interval_seconds=FORGET_INTERVAL_SECONDS,
            delay_seconds=UPKEEP_DELAY_SECONDS,
            run=lifecycle.privacy.exports.expire,
        ),
        Job(
            name="forget_lifecycle_jobs",
            interval_seconds=FORGET_LIFECYCLE_JOBS_INTERVAL_SECONDS,
            delay_seconds=UPKEEP_DELAY_SECONDS,
            run=lifecycle.jobs.forget,
        ),
        Job(
            name="measure_storage",
            interval_seconds=MEASURE_STORAGE_INTERVAL_SECONDS,
            run=lifecycle.measuring.measure,
        ),
        Job(
            name="due_subscriptions",
            interval_seconds=DUE_SUBSCRIPTIONS_INTERVAL_SECONDS,
            run=service.due_subscriptions.write_down,
        ),
        Job(
            name="subscription_notices",
            interval_seconds=SUBSCRIPTION_NOTICES_INTERVAL_SECONDS,
            run=service.due_subscriptions.tell,
        ),
        Job(
            name="grant_notices",
            interval_seconds=GRANT_NOTICES_INTERVAL_SECONDS,
            run=service.expiring_grants.tell,
        ),
        Job(
            name="reconcile_subscriptions",
            interval_seconds=settings.reconcile_interval_ms / 1000,
            run=service.billing.reconciler.run_due,
        ),
        Job(
            name="archive_webhooks",
            interval_seconds=OWN_DATA_INTERVAL_SECONDS,
            delay_seconds=UPKEEP_DELAY_SECONDS,
            run=lifecycle.own_data.job("archive_webhooks"),
        ),
        Job(
            name="export_usage",
            interval_seconds=OWN_DATA_INTERVAL_SECONDS,
            delay_seconds=UPKEEP_DELAY_SECONDS,
            run=lifecycle.own_data.job("export_usage"),
        ),
        Job(
            name="sweep_orphans",
            interval_seconds=CLEANING_INTERVAL_SECONDS,
            delay_seconds=UPKEEP_DELAY_SECONDS,
            run=lifecycle.own_data.job("sweep_orphans"),
        ),
        Job(
            name="purge_leftovers",
            interval_seconds=CLEANING_INTERVAL_SECONDS,
            delay_seconds=UPKEEP_DELAY_SECONDS,
            run=lifecycle.own_data.job("purge_leftovers"),
        ),
    ]


class App:
    """A running server process."""

    def __init__(self, settings: Settings, stores: Stores, service: Service, lifecycle: Lifecycle) -> None:
        """Use `App.open`."""
        self.settings = settings
        self.stores = stores
        self.service = service
        self.lifecycle = lifecycle
        self.grpc_port = 0
        self.ops_port = 0
        served = servicers(service, lifecycle)
        metrics.declare_streaming(
            f"/{method.containing_service.full_name}/{method.name}"
            for servicer in served
            for method in servicer.SERVICE.methods
            if method.server_streaming
        )
        self.grpc: GrpcServer = build_server(
            settings.transport,
            served,
            limits=ServerLimits(
                in_flight_max=settings.calls_in_flight_max,
                timeout_ms=settings.request_timeout_ms,
                billing_timeout_ms=settings.billing_request_timeout_ms,
            ),
            observe=metrics.call,
            reflection=settings.reflection,
            reuse_port=settings.reuse_port,
            tls=_tls(settings),
        )
        self.grpc.at_drain(service.events.hub.end)
        self.grpc.at_drain(service.watches.end)
        self.grpc.at_drain(lifecycle.jobs.end_watches)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings,
        *,
        catalogs_dir: Path | None = None,
        register_plain: Callable[[aio.Server], None] | None = None,
    ) -> AsyncIterator[App]:
        """Start everything and serve; leaving drains and stops it all again.

        Catalog files in `catalogs_dir` are applied for tenants that are not there yet. Raises EmbeddedError,
        StoreUnavailable, AddressTaken, AddressRefused.
        """
        # Looked at before anything is started or written.
        if not settings.reuse_port:
            check_port_free(settings.grpc_host, settings.grpc_port, setting="TALLYGATE_GRPC_PORT")
        check_port_free(settings.ops_host, settings.ops_port, setting="TALLYGATE_OPS_PORT")
        async with (
            open_stores(settings) as stores,
            open_clock(settings) as clock,
            open_migrated_service(settings, stores, clock) as service,
            open_lifecycle(stores.database_url, service, lifecycle_options(settings), clock=clock) as lifecycle,
            AsyncExitStack() as stack,
        ):
            if catalogs_dir is not None:
                await _load_catalogs(service, catalogs_dir)
            app = cls(settings, stores, service, lifecycle)
            if register_plain is not None:
                app.grpc.register_plain(register_plain)
            if settings.run_workers:
                runner = JobRunner(stores.database_url, jobs(settings, stores, service, lifecycle))
                await runner.start()
                stack.push_async_callback(runner.close)
                lifecycle_runner = LifecycleJobRunner(lifecycle.jobs, at_once=settings.lifecycle_jobs_at_once)
                await lifecycle_runner.start()
                stack.push_async_callback(lifecycle_runner.close)
                await service.webhooks.processor.start()
                stack.push_async_callback(service.webhooks.processor.close)
                await service.events.start()
                stack.push_async_callback(service.events.stop)
            ops = await stack.enter_async_context(
                OpsServer.start(
                    host=settings.ops_host,
                    port=settings.ops_port,
                    read_components=app.components,
                    routes=webhook_routes(service.webhooks.intake),
                )
            )
            app.ops_port = ops.port
            app._publish_levels()
            app.grpc_port = await app.grpc.start(settings.grpc_host, settings.grpc_port)
            stack.push_async_callback(app._drain)
            watch = asyncio.create_task(app._watch_health(), name="watch-health")
            stack.callback(watch.cancel)
            stored = asyncio.create_task(lifecycle.measuring.keep_published(), name="publish-storage")
            stack.push_async_callback(_end, stored)
            app.grpc.health.set_serving(True)
            log.info("serving", address=f"{settings.grpc_host}:{app.grpc_port}", transport=settings.transport)
            yield app

    def components(self) -> list[Component]:
        """Return which stores answer.

        Neither is required: without Redis the service is slower, without Postgres it still checks.
        """
        return [
            Component(name="postgres", up=self.service.ledger.up, required=False, detail="the ledger"),
            Component(name="redis", up=self.service.counters.ready, required=False, detail="the counters"),
        ]

    async def _drain(self) -> None:
        log.info("draining")
        await self.grpc.drain(drain_delay_ms=self.settings.drain_delay_ms, grace_ms=self.settings.drain_grace_ms)

    async def _watch_health(self) -> None:
        """Report each change of a store's state once; the server stays SERVING, as it still answers."""
        before = {component.name: component.up for component in self.components()}
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL_SECONDS)
            for component in self.components():
                if component.up != before[component.name]:
                    before[component.name] = component.up
                    state = "up" if component.up else "down"
                    log.warning("component_changed", component=component.name, state=state)

    def _publish_levels(self) -> None:
        metrics.commit_queue_depth.read_with(lambda: self.service.meter.waiting)
        metrics.calls_in_flight.read_with(lambda: self.service.meter.in_flight)
        metrics.snapshot_cache_size.read_with(lambda: len(self.service.hot_accounts))
        metrics.component_up.read_with(
            lambda: {(component.name,): int(component.up) for component in self.components()}
        )
        metrics.webhook_backlog.read_with(self.service.webhooks.processor.backlog)
        metrics.event_lag_seconds.read_with(lambda: self.service.events.publisher.lag_seconds)
        metrics.entitlement_watchers.read_with(lambda: self.service.watches.watcher_count)
        metrics.event_watchers.read_with(lambda: self.service.events.hub.watcher_count)
        metrics.deliveries_pending.read_with(lambda: self.service.events.publisher.deliveries_pending)
        metrics.deliveries_under_way.read_with(lambda: self.service.events.deliverer.under_way)
        metrics.retrieval_seconds.read_with(
            lambda: {
                (tier.name.lower(),): time.total_seconds()
                for tier, time in self.lifecycle.options.tier_facts.retrieval.items()
            }
        )
        metrics.build_info.read_with(lambda: {(release_version(), self.settings.transport): 1})


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until it has let go of what it uses."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _load_catalogs(service: Service, directory: Path) -> None:
    for file in sorted(directory.glob("*.yaml")):
        text = await asyncio.to_thread(file.read_text, "utf-8")
        tenant_id = parse_catalog(text).root.settings.tenant_id
        try:
            await service.tenants.get(tenant_id)
        except TenantNotFound:
            applied = await service.catalogs.apply(CatalogSource(text), actor="start")
            log.info("catalog_applied", tenant_id=applied.tenant_id, revision=applied.revision)


def _tls(settings: Settings) -> Tls | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Tls(
        certificate_chain=settings.tls_cert_file.read_bytes(),
        private_key=settings.tls_key_file.read_bytes(),
        client_ca=settings.tls_client_ca_file.read_bytes() if settings.tls_client_ca_file else None,
    )
