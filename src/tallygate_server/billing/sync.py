"""Makes our subscriptions what the billing provider says they are.

What is stored was always fetched under the subscription's lock (`storage/provider_locks.py`), hence after everything
that was stored before it. So webhooks may come in any order, twice or not at all: the rows follow the provider.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import structlog

from tallygate_server.billing import observation
from tallygate_server.billing.observation import Difference, Planned, Sold
from tallygate_server.billing.observed import ObservedPrice, ObservedSubscription
from tallygate_server.billing.ports import Applied, Cause
from tallygate_server.billing.provider import (
    ACCOUNT_ATTRIBUTE,
    PLAN_ATTRIBUTE,
    SUBSCRIPTION_ATTRIBUTE,
    TENANT_ATTRIBUTE,
    PaymentProvider,
)
from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId, is_account_id, is_tenant_id
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    SCHEDULED_CHANGE_PREFIX,
    BillingProvider,
    ScheduledChange,
    ScheduledChangeKind,
)
from tallygate_server.entitlement_changes import EntitlementChange, EntitlementChanges
from tallygate_server.errors import TenantNotFound
from tallygate_server.storage import accounts as account_rows
from tallygate_server.storage import billing as billing_rows
from tallygate_server.storage import catalogs as catalog_rows
from tallygate_server.storage import scheduled_changes as change_rows
from tallygate_server.storage import subscriptions as subscription_rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.billing import Owner
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.outbox import add_event
from tallygate_server.storage.provider_locks import HeldLock, ProviderLocks
from tallygate_server.storage.scheduled_changes import ChangeOutcome
from tallygate_server.storage.subscriptions import SubscriptionRow
from tallygate_server.telemetry import metrics
from tallygate_server.unique_ids import id_of, new_id

log = structlog.get_logger(__name__)

PROVIDER_ACTOR: Final = "stripe"
ID_PREFIX: Final = "sub"

_SUBSCRIPTION_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Provisioner(Protocol):
    """Creates unknown accounts where their tenant allows it."""

    async def provision(self, tenant_id: TenantId, account_id: AccountId) -> bool:
        """Return whether the account exists afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How a subscription here stands against the provider."""

    tenant_id: str
    """Empty where it is nobody's of ours."""
    account_id: str
    subscription_id: str
    """Empty where it is unknown here."""
    provider_subscription_id: str
    differences: tuple[Difference, ...]
    repaired: bool
    """Whether what could be repaired was."""
    unrepairable: tuple[Difference, ...] = ()
    """Those of the differences that cannot be."""
    known_there: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decision:
    """What an observation makes of our rows, decided on one connection."""

    present: SubscriptionRow | None
    wanted: SubscriptionRow | None
    """None: its price is no plan of ours, and there is no row whose plan could stay."""
    pending: ScheduledChange | None
    planned: Planned | None
    price_known: bool
    duplicate_of: str = ""
    """Another live subscription of the account to the same price."""
    final_here_only: bool = False
    """Whether it has ended here and lives there, which no order of observations explains."""

    @property
    def row_differs(self) -> bool:
        """Whether the subscription's row is to be written."""
        return self.wanted is not None and bool(observation.differences(self.present, self.wanted))

    @property
    def plan_differs(self) -> bool:
        """Whether what is planned is to be written."""
        if self.wanted is None:
            return False
        ours = self.pending is not None and not self.pending.provider_schedule_id
        if self.pending is not None and ours:
            before = None if self.present is None else self.present.subscription
            if observation.ends_what_we_planned(self.pending, before, self.wanted.subscription):
                return True
        if self.planned is None:
            # What we planned ourselves is ours to carry out.
            return self.pending is not None and not ours
        if self.pending is not None and ours:
            follows = self.planned.kind is ScheduledChangeKind.CANCELLATION
            if follows or self.pending.kind is not ScheduledChangeKind.PLAN:
                # The provider ends it, so that what we planned can follow; or it is paused, and we resume it.
                return False
        return self.pending is None or not self.planned.says(self.pending)

    def differences(self) -> list[Difference]:
        """Return every field that differs and that can be repaired."""
        found = [] if self.wanted is None else observation.differences(self.present, self.wanted)
        if self.plan_differs:
            here = observation.change_as_json(self.pending)
            there = None if self.planned is None else self.planned.as_json()
            found.append(Difference(field="scheduled_change", here=here, there=there))
        return found


class StripeSubscriptions:
    """Satisfies `ports.SubscriptionSync` for Stripe."""

    def __init__(
        self,
        database: Database,
        *,
        lookups: Database,
        changes: EntitlementChanges,
        provider: PaymentProvider,
        accounts: Provisioner,
        locks: ProviderLocks,
        clock: Clock,
    ) -> None:
        """Write through `changes`; `lookups` (role INTAKE) tells whose an object of the provider is."""
        self._database = database
        self._lookups = lookups
        self._changes = changes
        self._provider = provider
        self._accounts = accounts
        self._locks = locks
        self._clock = clock

    async def apply(self, observed: ObservedSubscription, cause: Cause) -> Applied | None:
        """Store the subscription as observed, in one change of its account; None when it is none of ours.

        The caller has fetched it before the lock was taken here, so somebody may have stored a newer state since: an
        observation that would change a row is fetched again. Raises BillingProviderUnavailable, StoreUnavailable.
        """
        async with self._locks.hold(_lock_name(observed.provider_subscription_id)) as lock:
            owner = await self._owner(observed)
            if owner is None:
                return None
            prices = await self._prices(observed)
            async with self._database.tenant_transaction(owner.tenant_id) as connection:
                decision = await self._decide(connection, owner, observed, prices)
            if decision.present is not None and (decision.row_differs or decision.plan_differs):
                newest = await self._provider.subscription(observed.provider_subscription_id)
                if newest is not None:
                    observed, prices = newest, await self._prices(newest)
            applied, _ = await self._store(owner, observed, prices, cause, lock)
            return applied

    async def refresh(self, provider_subscription_id: str, cause: Cause) -> Applied | None:
        """Fetch the subscription under a lock of its own and apply it; None when it is none of ours.

        Raises BillingProviderUnavailable, StoreUnavailable.
        """
        async with self._locks.hold(_lock_name(provider_subscription_id)) as lock:
            observed = await self._provider.subscription(provider_subscription_id)
            if observed is None:
                metrics.subscription_syncs.add("unknown_there")
                return None
            owner = await self._owner(observed)
            if owner is None:
                return None
            applied, _ = await self._store(owner, observed, await self._prices(observed), cause, lock)
            return applied

    async def compare(
        self,
        provider_subscription_id: str,
        cause: Cause,
        *,
        repair: bool,
        tenant_id: str = "",
        account_id: str = "",
    ) -> Compared | None:
        """Fetch the subscription and say in what its row differs; with `repair`, apply it too.

        None: it is none of ours, or not of the tenant or account that is looked at.
        """
        async with self._lookups.plain_transaction() as connection:
            known = await billing_rows.owner_of_subscription(connection, provider_subscription_id)
        if known is not None and not _is_of(known, tenant_id, account_id):
            return None
        async with self._locks.hold(_lock_name(provider_subscription_id)) as lock:
            observed = await self._provider.subscription(provider_subscription_id)
            if observed is None:
                return await self._unknown_there(provider_subscription_id, tenant_id, account_id)
            owner = await self._owner(observed, provision=repair, only_tenant_id=tenant_id, only_account_id=account_id)
            if owner is None:
                return None
            prices = await self._prices(observed)
            async with self._database.tenant_transaction(owner.tenant_id) as connection:
                decision = await self._decide(connection, owner, observed, prices)
            applied = None
            if repair and (decision.row_differs or decision.plan_differs):
                applied, decision = await self._store(owner, observed, prices, cause, lock)
        found = decision.differences()
        unrepairable = _unrepairable(decision, observed)
        subscription_id = ""
        if decision.present is not None:
            subscription_id = decision.present.subscription.subscription_id
        elif applied is not None:
            subscription_id = applied.subscription_id
        return Compared(
            tenant_id=owner.tenant_id,
            account_id=owner.account_id,
            subscription_id=subscription_id,
            provider_subscription_id=provider_subscription_id,
            differences=(*found, *unrepairable),
            repaired=applied is not None and applied.changed,
            unrepairable=unrepairable,
        )

    async def announce_trial_end(self, applied: Applied, cause: Cause) -> None:
        """Write the event that the subscription's trial ends soon, once for each trial."""
        tenant_id, account_id = applied.tenant_id, applied.account_id
        async with self._database.tenant_transaction(tenant_id) as connection:
            # Locked, so that two of the same announcement do not both find none.
            await account_rows.read_account(connection, tenant_id, account_id, lock=True)
            row = await subscription_rows.read_subscription(connection, tenant_id, applied.subscription_id)
            if row is None or row.subscription.trial_end_time is None:
                return
            trial_end_time = row.subscription.trial_end_time
            if await billing_rows.has_trial_notice(connection, tenant_id, applied.subscription_id, trial_end_time):
                return
            await self._note(connection, tenant_id, row, replace(cause, action="trial_will_end"))
            await add_event(
                connection,
                tenant_id,
                event_type="subscription.trial_will_end",
                account_id=account_id,
                payload=_payload(row, row.subscription.state.value) | {"trial_end_time": trial_end_time.isoformat()},
                create_time=self._clock.now(),
            )

    # --- Whose it is ------------------------------------------------------------------------------------

    async def _owner(
        self,
        observed: ObservedSubscription,
        *,
        provision: bool = True,
        only_tenant_id: str = "",
        only_account_id: str = "",
    ) -> Owner | None:
        """Return whose the subscription is: as its row says, as it says itself, or by its customer; None: nobody's.

        A row is believed before attributes: a subscription does not move between accounts.
        """
        async with self._lookups.plain_transaction() as connection:
            owner = await billing_rows.owner_of_subscription(connection, observed.provider_subscription_id)
            named = _named_owner(observed.metadata)
            if owner is None and named is None:
                named = await billing_rows.owner_of_customer(connection, observed.customer_id)
        found = owner or named
        if found is None:
            metrics.subscription_syncs.add("not_ours")
            return None
        if not _is_of(found, only_tenant_id, only_account_id):
            return None
        if owner is not None:
            return owner
        if not await self._exists(found, provision=provision):
            metrics.subscription_syncs.add("account_unknown")
            log.warning("subscription_of_nobody", tenant_id=found.tenant_id, account_id=found.account_id)
            return None
        return found

    async def _exists(self, owner: Owner, *, provision: bool) -> bool:
        """Tell whether there is such an account, made where its tenant allows it, or (else) such a tenant."""
        try:
            if provision:
                return await self._accounts.provision(owner.tenant_id, owner.account_id)
        except TenantNotFound:
            return False
        async with self._database.tenant_transaction(owner.tenant_id) as connection:
            return await catalog_rows.read_tenant(connection, owner.tenant_id) is not None

    # --- What becomes of it -----------------------------------------------------------------------------

    async def _prices(self, observed: ObservedSubscription) -> dict[str, ObservedPrice]:
        """Fetch the prices of planned phases, which name them only."""
        found = {observed.price.price_id: observed.price}
        for price_id in sorted(observation.prices_to_know(observed)):
            price = await self._provider.price(price_id)
            if price is not None:
                found[price_id] = price
        return found

    async def _decide(
        self,
        connection: Connection,
        owner: Owner,
        observed: ObservedSubscription,
        prices: Mapping[str, ObservedPrice],
    ) -> _Decision:
        """Decide what the observation makes of our rows; writes nothing."""
        tenant_id = owner.tenant_id
        present = await billing_rows.read_by_provider_id(connection, tenant_id, observed.provider_subscription_id)
        subscription_id = present.subscription.subscription_id if present is not None else ""
        if present is None:
            subscription_id, present = await self._new_id(connection, owner, observed)
        held = present.subscription if present is not None else None
        by_price: dict[str, Sold | None] = {}
        for price in prices.values():
            # Without a key of its own a price is looked for in every plan.
            key = observation.plan_key_of(price, tenant_id) or None
            versions = await catalog_rows.read_plans(connection, tenant_id, plan_key=key, all_versions=True)
            by_price[price.price_id] = observation.sold_by(price, tenant_id, [row.plan for row in versions], held)
        sold = by_price[observed.price.price_id]
        known = sold is not None
        if sold is None:
            sold = await self._fallback(connection, tenant_id, observed, present)
        if sold is None:
            return _Decision(present=None, wanted=None, pending=None, planned=None, price_known=False)
        by_price[observed.price.price_id] = sold
        now = self._clock.now()
        wanted = observation.row_as_observed(
            present, observed, sold, subscription_id=subscription_id, account_id=owner.account_id, at=now
        )
        pending = None
        if present is not None:
            pending = await change_rows.read_pending(connection, tenant_id, subscription_id)
        return _Decision(
            present=present,
            wanted=wanted,
            pending=pending,
            planned=observation.planned_at_provider(observed, by_price.get, now),
            price_known=known,
            duplicate_of="" if present is not None else await self._duplicate(connection, tenant_id, wanted),
            final_here_only=(held is not None and held.state not in LIVE_STATES and observed.state in LIVE_STATES),
        )

    async def _new_id(
        self, connection: Connection, owner: Owner, observed: ObservedSubscription
    ) -> tuple[str, SubscriptionRow | None]:
        """Return the id of a subscription without a row, and the row that waits for it, if one does."""
        named = observed.metadata.get(SUBSCRIPTION_ATTRIBUTE, "")
        if _SUBSCRIPTION_ID.fullmatch(named):
            row = await subscription_rows.read_subscription(connection, owner.tenant_id, named)
            if row is None:
                return named, None
            waits = row.subscription.provider is BillingProvider.STRIPE and not row.provider_subscription_id
            if waits and row.account_id == owner.account_id:
                return named, row
            # A second one with the same attributes, such as a page that was paid twice, is one of its own.
        return id_of(ID_PREFIX, observed.create_time, observed.provider_subscription_id), None

    async def _fallback(
        self,
        connection: Connection,
        tenant_id: TenantId,
        observed: ObservedSubscription,
        present: SubscriptionRow | None,
    ) -> Sold | None:
        """Return what a subscription keeps whose price is no plan of ours: its plan, or the one it was made for."""
        metrics.subscription_syncs.add("price_unknown")
        log.warning("price_is_no_plan", tenant_id=tenant_id, kind=observed.price.interval)
        if present is not None:
            pin = present.subscription
            row = await catalog_rows.read_plan(connection, tenant_id, pin.plan_key, version=pin.plan_version)
            return None if row is None else Sold(plan=row.plan, interval=pin.interval)
        key = observed.metadata.get(PLAN_ATTRIBUTE, "")
        row = await catalog_rows.read_plan(connection, tenant_id, key) if key else None
        if row is None:
            return None
        interval = next(
            (each.interval for each in row.plan.prices if each.interval.value == observed.price.interval), None
        )
        return Sold(plan=row.plan, interval=interval)

    async def _duplicate(self, connection: Connection, tenant_id: TenantId, wanted: SubscriptionRow) -> str:
        mine = wanted.subscription
        if mine.state not in LIVE_STATES:
            return ""
        for other in await subscription_rows.live_subscriptions(connection, tenant_id, wanted.account_id):
            theirs = other.subscription
            same = (theirs.plan_key, theirs.interval) == (mine.plan_key, mine.interval)
            if same and theirs.provider is mine.provider and theirs.subscription_id != mine.subscription_id:
                return theirs.subscription_id
        return ""

    # --- Writing ----------------------------------------------------------------------------------------

    async def _store(
        self,
        owner: Owner,
        observed: ObservedSubscription,
        prices: Mapping[str, ObservedPrice],
        cause: Cause,
        lock: HeldLock,
    ) -> tuple[Applied | None, _Decision]:
        """Write what differs, and nothing where nothing does; return also what was decided before."""
        tenant_id, account_id = owner.tenant_id, owner.account_id
        async with self._database.tenant_transaction(tenant_id) as connection:
            decision = await self._decide(connection, owner, observed, prices)
            if decision.wanted is None:
                return None, decision
            if decision.final_here_only:
                metrics.subscription_syncs.add("final_here_only")
                log.warning("subscription_ended_here_only", tenant_id=tenant_id, account_id=account_id)
            if not decision.row_differs and not decision.plan_differs:
                metrics.subscription_syncs.add("unchanged")
                row = decision.wanted
                await self._note_request(connection, tenant_id, row, cause)
                revision = await billing_rows.revision_of(connection, tenant_id, account_id)
                return _applied(owner, row, revision, changed=False), decision
        first = _events(decision)[0]
        async with self._changes.begin(tenant_id, [account_id], actor=cause.actor, cause=first) as change:
            await lock.confirm()
            # Decided again: what is ours may have changed since.
            decision = await self._decide(change.connection, owner, observed, prices)
            assert decision.wanted is not None  # plans are never deleted
            after = decision.pending
            if decision.row_differs:
                await self._write_row(change, decision, cause)
            if decision.plan_differs:
                after = await self._write_planned(change, decision, cause)
            if decision.row_differs or decision.plan_differs:
                await self._record(change, decision, after, cause)
            if decision.pending is not None and observation.is_followed(decision.pending, decision.wanted.subscription):
                await self._follow(change, decision.pending, decision.wanted, cause)
        self._count(decision, owner)
        return _applied(owner, decision.wanted, change.revisions[account_id], changed=True), decision

    async def _write_row(self, change: EntitlementChange, decision: _Decision, cause: Cause) -> None:
        present, wanted = decision.present, decision.wanted
        assert wanted is not None
        if present is not None:
            now = self._clock.now()
            await subscription_rows.write_subscription(change.connection, change.tenant_id, wanted.subscription, at=now)
            await billing_rows.write_provider_columns(change.connection, change.tenant_id, wanted)
            return
        request = cause.request or {}
        row = replace(
            wanted,
            create_request_id=request.get("id", ""),
            create_fingerprint=request.get("fingerprint", "") if request.get("id") else "",
        )
        await subscription_rows.add_subscription(change.connection, change.tenant_id, row)

    async def _write_planned(
        self, change: EntitlementChange, decision: _Decision, cause: Cause
    ) -> ScheduledChange | None:
        """Write what is planned now, and what became of what was planned before."""
        tenant_id, connection, now = change.tenant_id, change.connection, self._clock.now()
        pending, planned, row = decision.pending, decision.planned, decision.wanted
        assert row is not None
        same = (
            pending is not None
            and planned is not None
            and pending.provider_schedule_id in ("", planned.provider_schedule_id)
            and pending.kind is planned.kind
        )
        if pending is not None and not same:
            done = observation.took_effect(pending, row.subscription)
            outcome = ChangeOutcome.DONE if done else ChangeOutcome.CANCELED
            await change_rows.end_pending(connection, tenant_id, pending.subscription_id, outcome, at=now)
        if planned is None:
            return None
        after = observation.change_of(
            planned,
            pending if same else None,
            scheduled_change_id=new_id(SCHEDULED_CHANGE_PREFIX, now),
            subscription_id=row.subscription.subscription_id,
            actor=cause.actor,
            reason=cause.reason,
            at=now,
        )
        await billing_rows.write_pending_change(connection, tenant_id, row.account_id, after, at=now)
        return after

    async def _record(
        self, change: EntitlementChange, decision: _Decision, planned: ScheduledChange | None, cause: Cause
    ) -> None:
        """Write history, audit and events of one step."""
        present, wanted = decision.present, decision.wanted
        assert wanted is not None
        before = None if present is None else present.subscription
        action = cause.action
        if not action and decision.row_differs:
            action = observation.action_of(before, wanted.subscription)
        elif not action:
            action = "schedule_change" if planned is not None else "cancel_scheduled_change"
        await subscription_rows.add_history(
            change.connection,
            change.tenant_id,
            account_id=wanted.account_id,
            action=action,
            before=before,
            after=wanted.subscription,
            actor=cause.actor,
            reason=cause.reason,
            at=self._clock.now(),
            request=cause.request,
            webhook_event_id=cause.webhook_event_id,
            pending_before=decision.pending,
            pending_after=planned,
        )
        await change.audit(
            f"subscription.{action}",
            f"subscription:{wanted.subscription.subscription_id}",
            {
                "account_id": wanted.account_id,
                "reason": cause.reason,
                "webhook_event_id": cause.webhook_event_id,
                "provider_subscription_id": wanted.provider_subscription_id,
                "changed": {each.field: [each.here, each.there] for each in decision.differences()},
            },
        )
        for event in _events(decision):
            state_before = None if before is None else before.state.value
            await change.emit(event, wanted.account_id, _payload(wanted, state_before))

    async def _follow(
        self, change: EntitlementChange, planned: ScheduledChange, ended: SubscriptionRow, cause: Cause
    ) -> None:
        """Begin the free subscription that was to follow a paid one, unless the account has it beside it already."""
        tenant_id, connection, account_id = change.tenant_id, change.connection, ended.account_id
        for other in await subscription_rows.live_subscriptions(connection, tenant_id, account_id):
            if other.subscription.plan_key == planned.plan_key:
                return
        now = self._clock.now()
        free = observation.free_one_after(planned, ended.subscription, new_id(ID_PREFIX, now))
        row = SubscriptionRow(account_id=account_id, subscription=free, create_time=now, update_time=now)
        await subscription_rows.add_subscription(connection, tenant_id, row)
        await subscription_rows.add_history(
            connection,
            tenant_id,
            account_id=account_id,
            action="create",
            before=None,
            after=free,
            actor=planned.actor or cause.actor,
            reason=planned.reason or f"follows {ended.subscription.subscription_id}",
            at=now,
            webhook_event_id=cause.webhook_event_id,
        )
        await change.audit(
            "subscription.create",
            f"subscription:{free.subscription_id}",
            {"account_id": account_id, "follows": ended.subscription.subscription_id},
        )
        await change.emit("subscription.created", account_id, _payload(row, None))

    async def _note_request(
        self, connection: Connection, tenant_id: TenantId, row: SubscriptionRow, cause: Cause
    ) -> None:
        """Let a request be recognised whose effect a webhook has written already, and say who asked."""
        if cause.request is None or not cause.request.get("id"):
            return
        await account_rows.read_account(connection, tenant_id, row.account_id, lock=True)
        if not await billing_rows.has_step_of_request(connection, tenant_id, row.account_id, cause.request["id"]):
            await self._note(connection, tenant_id, row, cause)

    async def _note(self, connection: Connection, tenant_id: TenantId, row: SubscriptionRow, cause: Cause) -> None:
        """Write a step that changes no entitlement."""
        pending = await change_rows.read_pending(connection, tenant_id, row.subscription.subscription_id)
        await subscription_rows.add_history(
            connection,
            tenant_id,
            account_id=row.account_id,
            action=cause.action,
            before=row.subscription,
            after=row.subscription,
            actor=cause.actor,
            reason=cause.reason,
            at=self._clock.now(),
            request=cause.request,
            webhook_event_id=cause.webhook_event_id,
            pending_before=pending,
            pending_after=pending,
            raises_revision=False,
        )
        await add_audit_entry(
            connection,
            tenant_id,
            actor=cause.actor,
            action=f"subscription.{cause.action}",
            subject=f"subscription:{row.subscription.subscription_id}",
            detail={"account_id": row.account_id, "reason": cause.reason, "changed": {}},
        )

    async def _unknown_there(self, provider_subscription_id: str, tenant_id: str, account_id: str) -> Compared | None:
        """Say that the provider does not know a subscription of ours; it is reported, and stays."""
        async with self._lookups.plain_transaction() as connection:
            owner = await billing_rows.owner_of_subscription(connection, provider_subscription_id)
        if owner is None or not _is_of(owner, tenant_id, account_id):
            return None
        unknown = Difference(field="subscription", here=owner.subscription_id, there=None)
        return Compared(
            tenant_id=owner.tenant_id,
            account_id=owner.account_id,
            subscription_id=owner.subscription_id,
            provider_subscription_id=provider_subscription_id,
            differences=(unknown,),
            repaired=False,
            unrepairable=(unknown,),
            known_there=False,
        )

    def _count(self, decision: _Decision, owner: Owner) -> None:
        metrics.subscription_syncs.add("created" if decision.present is None else "changed")
        if decision.present is None and decision.duplicate_of:
            # Both are paid for, so both are kept; somebody should look.
            metrics.subscription_syncs.add("duplicate")
            log.warning("subscription_paid_twice", tenant_id=owner.tenant_id, account_id=owner.account_id)


def _is_of(owner: Owner, tenant_id: str, account_id: str) -> bool:
    """Tell whether it is the given tenant's and account's; empty: anybody's."""
    return tenant_id in ("", owner.tenant_id) and account_id in ("", owner.account_id)


def _lock_name(provider_subscription_id: str) -> str:
    return f"subscription:{provider_subscription_id}"


def _named_owner(metadata: Mapping[str, str]) -> Owner | None:
    tenant_id, account_id = metadata.get(TENANT_ATTRIBUTE, ""), metadata.get(ACCOUNT_ATTRIBUTE, "")
    if not is_tenant_id(tenant_id) or not is_account_id(account_id):
        return None
    return Owner(tenant_id=TenantId(tenant_id), account_id=AccountId(account_id))


def _unrepairable(decision: _Decision, observed: ObservedSubscription) -> tuple[Difference, ...]:
    found = []
    if not decision.price_known:
        held = None if decision.present is None else decision.present.subscription.plan_key
        found.append(Difference(field="price", here=held, there=observed.price.price_id))
    if decision.final_here_only and decision.present is not None:
        here = decision.present.subscription.state.value
        found.append(Difference(field="state", here=here, there=observed.state.value))
    return tuple(found)


def _events(decision: _Decision) -> list[str]:
    """Return the types of the outbox events of a decision, the most telling first."""
    assert decision.wanted is not None
    found = []
    if decision.row_differs:
        before = None if decision.present is None else decision.present.subscription
        found += observation.happenings(before, decision.wanted.subscription)
    if decision.plan_differs:
        if decision.planned is not None:
            found.append("scheduled")
        elif decision.pending is not None and not observation.took_effect(
            decision.pending, decision.wanted.subscription
        ):
            found.append("schedule_canceled")
    return [f"subscription.{each}" for each in found] or ["subscription.changed"]


def _applied(owner: Owner, row: SubscriptionRow, revision: int, *, changed: bool) -> Applied:
    return Applied(
        tenant_id=owner.tenant_id,
        account_id=owner.account_id,
        subscription_id=row.subscription.subscription_id,
        revision=revision,
        changed=changed,
    )


def _payload(row: SubscriptionRow, state_before: str | None) -> dict[str, Any]:
    return {
        "subscription_id": row.subscription.subscription_id,
        "provider_subscription_id": row.provider_subscription_id,
        "plan_key": row.subscription.plan_key,
        "state_before": state_before,
        "state_after": row.subscription.state.value,
    }
