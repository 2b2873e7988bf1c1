"""Subscriptions: created, moved between plans, canceled, each by one transaction that every check sees.

Here are those that nobody or the tenant itself collects money for. Such a subscription is taken as paid
until it is canceled or its end comes, so it has no stored period end until one of the two is known; its
billing periods are computed from its anchor, `start_time`:

- the anchor is when the subscription began, or when its trial ends;
- a change of plan keeps it as long as the interval stays, and moves it to the instant of the change when
  the interval changes, which a move between a free and a priced plan always does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, NoReturn, Protocol
from zoneinfo import ZoneInfo

from tallygate_server.catalog_rules import TRIAL_DAYS_MAX
from tallygate_server.clock import Clock
from tallygate_server.domain.catalog import BillingInterval, Plan, Price
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId, is_request_id
from tallygate_server.domain.limits import SUBSCRIPTIONS_PER_ACCOUNT_MAX
from tallygate_server.domain.period import PeriodAnchor, PeriodKind, period_at
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    BillingProvider,
    Subscription,
    SubscriptionState,
    may_move,
)
from tallygate_server.entitlement_changes import EntitlementChange, EntitlementChanges
from tallygate_server.errors import (
    AccountDeleted,
    AccountNotFound,
    BillingProviderNotConfigured,
    BillingProviderRequired,
    IllegalTransition,
    InvalidRequest,
    NotBuilt,
    PlanNotFound,
    PriceNotFound,
    RequestIdReused,
    SubscriptionExists,
    SubscriptionNotFound,
)
from tallygate_server.storage import accounts as account_rows
from tallygate_server.storage import catalogs as catalog_rows
from tallygate_server.storage import subscriptions as rows
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.subscriptions import HistoryRow, SubscriptionRow
from tallygate_server.tenants import TenantDirectory
from tallygate_server.unique_ids import new_id

QUANTITY_MAX: Final = 1_000_000
METADATA_PAIRS_MAX: Final = 32
METADATA_KEY_LENGTH_MAX: Final = 40
METADATA_VALUE_LENGTH_MAX: Final = 500
STRIPE_SETTING: Final = "TALLYGATE_STRIPE_API_KEY"

_UTC = ZoneInfo("UTC")
_PERIOD_OF = {BillingInterval.MONTH: PeriodKind.MONTH, BillingInterval.YEAR: PeriodKind.YEAR}


class ChangeTiming(Enum):
    """When a change of a subscription takes effect."""

    NOW = "now"
    PERIOD_END = "period_end"
    AT_TIME = "at_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSubscription:
    """What `Subscriptions.create` is asked for; None and empty mean the default."""

    plan_key: PlanKey
    interval: BillingInterval | None = None
    """None: the month where the plan is sold by month, else its only interval."""
    provider: BillingProvider | None = None
    currency: str = ""
    quantity: int = 1
    trial_days: int | None = None
    """None: as many as the plan gives; 0: none."""
    start_time: datetime | None = None
    end_time: datetime | None = None
    """None: it runs until it is canceled."""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionView:
    """A subscription as callers see it, at the instant of the call."""

    tenant_id: TenantId
    account_id: AccountId
    subscription: Subscription
    """Its state is that of the instant: what has run out is canceled or expired, whatever its row says."""
    price: Price | None
    """None for a plan that costs nothing."""
    current_period_start: datetime
    current_period_end: datetime | None
    """None for what costs nothing and has no end."""
    end_time: datetime | None
    """When it will end, or has ended; None while it renews by itself."""
    metadata: dict[str, str]
    create_time: datetime
    update_time: datetime
    revision: int = 0
    """Of the account's entitlements after the change that was asked for; 0 where none was."""
    replayed: bool = False


class Provisioner(Protocol):
    """Creates unknown accounts where their tenant allows it."""

    async def provision(self, tenant_id: TenantId, account_id: AccountId) -> bool:
        """Return whether the account exists afterwards."""


class Subscriptions:
    """Changes and shows subscriptions."""

    def __init__(
        self,
        database: Database,
        changes: EntitlementChanges,
        *,
        tenants: TenantDirectory,
        accounts: Provisioner,
        clock: Clock,
    ) -> None:
        """Work on the database; every change of an account goes through `changes`."""
        self._database = database
        self._changes = changes
        self._tenants = tenants
        self._accounts = accounts
        self._clock = clock

    async def create(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        wanted: NewSubscription,
        *,
        request_id: str = "",
        actor: str = "",
        reason: str = "",
    ) -> SubscriptionView:
        """Subscribe the account to the newest version of a plan.

        The same request id with the same content returns the first answer again. Raises PlanNotFound,
        PriceNotFound, BillingProviderRequired, BillingProviderNotConfigured, SubscriptionExists,
        AccountNotFound, AccountDeleted, RequestIdReused, InvalidRequest.
        """
        _check(wanted, request_id)
        await self._tenants.get(tenant_id)
        fingerprint = _fingerprint("create", wanted)
        now = self._clock.now()
        # First without a change: what is refused, or answered already, disturbs nobody who reads the account.
        async with self._database.tenant_transaction(tenant_id) as connection:
            replay = await _replay(connection, tenant_id, account_id, request_id, fingerprint)
            if replay is not None:
                return replay
            _decide_new(await _on_sale(connection, tenant_id, wanted.plan_key), wanted, now)
            known = await account_rows.account_exists(connection, tenant_id, account_id)
        if not known and not await self._accounts.provision(tenant_id, account_id):
            raise AccountNotFound(account_id)
        async with self._begin(tenant_id, account_id, actor, "subscription.created") as change:
            connection = change.connection
            replay = await _replay(connection, tenant_id, account_id, request_id, fingerprint)
            if replay is None:
                await _check_account(connection, tenant_id, account_id)
                plan = await _on_sale(connection, tenant_id, wanted.plan_key)
                subscription = _decide_new(plan, wanted, now)
                live = await _close_what_ran_out(change, account_id, now)
                _check_room(live, subscription)
                row = SubscriptionRow(
                    account_id=account_id,
                    subscription=subscription,
                    create_time=now,
                    update_time=now,
                    metadata=dict(wanted.metadata),
                    create_request_id=request_id,
                    create_fingerprint=fingerprint if request_id else "",
                )
                await _add(change, row, reason=reason, at=now, request=_request(request_id, fingerprint))
                replay = _view(tenant_id, row, plan, now)
        return replace(replay, revision=change.revisions.get(account_id, 0))

    async def change_plan(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        plan_key: PlanKey,
        subscription_id: str = "",
        interval: BillingInterval | None = None,
        quantity: int | None = None,
        provider: BillingProvider | None = None,
        timing: ChangeTiming | None = None,
        request_id: str = "",
        actor: str = "",
        reason: str = "",
    ) -> SubscriptionView:
        """Move a subscription to the newest version of a plan, to another interval or number of seats, now.

        Without a timing an upgrade (by rank) is made now; a downgrade waits for the period's end, which this
        release cannot do: NotBuilt. Without a subscription id it is the account's only live one. Asking for
        what it already is changes nothing. Raises IllegalTransition for one that has ended, and as `create`.
        """
        if quantity is not None:
            _check_quantity(quantity)
        _check_request_id(request_id)
        if timing in (ChangeTiming.PERIOD_END, ChangeTiming.AT_TIME):
            _refuse_scheduling("ChangePlan")
        await self._tenants.get(tenant_id)
        content = (subscription_id, plan_key, interval, quantity, provider, timing)
        fingerprint = _fingerprint("change_plan", content)
        now = self._clock.now()

        async def decide(connection: Connection) -> tuple[SubscriptionRow, Subscription, Plan]:
            row = await _find(connection, tenant_id, account_id, subscription_id, now)
            state = state_at(row.subscription, now)
            if state not in LIVE_STATES:
                raise IllegalTransition(state.value, SubscriptionState.ACTIVE.value)
            plan = await _on_sale(connection, tenant_id, plan_key)
            before = await catalog_rows.read_plan(
                connection, tenant_id, row.subscription.plan_key, version=row.subscription.plan_version
            )
            assert before is not None  # a foreign key holds it
            if timing is None and plan.rank < before.plan.rank:
                _refuse_scheduling("ChangePlan to a plan of lower rank")
            after = _decide_move(
                row.subscription, plan, interval=interval, quantity=quantity, provider=provider, now=now
            )
            return row, after, plan

        async with self._database.tenant_transaction(tenant_id) as connection:
            replay = await _replay(connection, tenant_id, account_id, request_id, fingerprint)
            if replay is not None:
                return replay
            await _check_account(connection, tenant_id, account_id)
            row, after, plan = await decide(connection)
            if after == row.subscription:
                account = await account_rows.read_account(connection, tenant_id, account_id)
                assert account is not None
                return replace(_view(tenant_id, row, plan, now), revision=account.revision)
        async with self._begin(tenant_id, account_id, actor, "subscription.changed") as change:
            connection = change.connection
            replay = await _replay(connection, tenant_id, account_id, request_id, fingerprint)
            if replay is None:
                await _check_account(connection, tenant_id, account_id)
                live = await _close_what_ran_out(change, account_id, now)
                row, after, plan = await decide(connection)
                others = [each for each in live if each.subscription.subscription_id != after.subscription_id]
                _check_room(others, after)
                request = _request(request_id, fingerprint)
                await _store(change, row, after, action="change_plan", reason=reason, at=now, request=request)
                replay = _view(tenant_id, replace(row, subscription=after, update_time=now), plan, now)
        return replace(replay, revision=change.revisions.get(account_id, 0))

    async def cancel(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str = "",
        timing: ChangeTiming | None = None,
        request_id: str = "",
        actor: str = "",
        reason: str = "",
    ) -> SubscriptionView:
        """Cancel a subscription, by default at the end of the period that is paid for.

        What costs nothing, or is not paid for now, has no such period and ends at once. Canceling again at
        the period's end changes nothing; canceling what has ended raises IllegalTransition.
        """
        _check_request_id(request_id)
        if timing is ChangeTiming.AT_TIME:
            _refuse_scheduling("CancelSubscription at a given time")
        await self._tenants.get(tenant_id)
        fingerprint = _fingerprint("cancel", (subscription_id, timing))
        now = self._clock.now()

        async def decide(connection: Connection) -> tuple[SubscriptionRow, Subscription]:
            row = await _find(connection, tenant_id, account_id, subscription_id, now)
            return row, _decide_cancel(row.subscription, timing, now)

        async with self._database.tenant_transaction(tenant_id) as connection:
            replay = await _replay(connection, tenant_id, account_id, request_id, fingerprint)
            if replay is not None:
                return replay
            await _check_account(connection, tenant_id, account_id)
            row, after = await decide(connection)
            if after == row.subscription:
                account = await account_rows.read_account(connection, tenant_id, account_id)
                assert account is not None
                plan = await _pinned(connection, tenant_id, after)
                return replace(_view(tenant_id, row, plan, now), revision=account.revision)
        cause = "subscription.canceled" if after.state is SubscriptionState.CANCELED else "subscription.changed"
        async with self._begin(tenant_id, account_id, actor, cause) as change:
            connection = change.connection
            replay = await _replay(connection, tenant_id, account_id, request_id, fingerprint)
            if replay is None:
                row, after = await decide(connection)
                request = _request(request_id, fingerprint)
                await _store(change, row, after, action="cancel", reason=reason, at=now, request=request)
                plan = await _pinned(connection, tenant_id, after)
                replay = _view(tenant_id, replace(row, subscription=after, update_time=now), plan, now)
        return replace(replay, revision=change.revisions.get(account_id, 0))

    async def get(self, tenant_id: TenantId, subscription_id: str) -> SubscriptionView:
        """Return one subscription; raise TenantNotFound or SubscriptionNotFound."""
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            row = await rows.read_subscription(connection, tenant_id, subscription_id)
            if row is None:
                raise SubscriptionNotFound(subscription_id)
            return _view(tenant_id, row, await _pinned(connection, tenant_id, row.subscription), now)

    async def list(
        self,
        tenant_id: TenantId,
        *,
        account_id: str = "",
        plan_key: str = "",
        states: Sequence[SubscriptionState] = (),
        before_subscription_id: str = "",
        limit: int,
    ) -> Sequence[SubscriptionView]:
        """Return subscriptions, newest first; the page goes on before the last id of the page before."""
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            found = await rows.page_of_subscriptions(
                connection,
                tenant_id,
                at=now,
                account_id=account_id,
                plan_key=plan_key,
                states=states,
                before_subscription_id=before_subscription_id,
                limit=limit,
            )
            plans: dict[tuple[str, int], Plan] = {}
            for row in found:
                pin = (row.subscription.plan_key, row.subscription.plan_version)
                if pin not in plans:
                    plans[pin] = await _pinned(connection, tenant_id, row.subscription)
        return [
            _view(tenant_id, row, plans[row.subscription.plan_key, row.subscription.plan_version], now) for row in found
        ]

    async def history(
        self, tenant_id: TenantId, account_id: AccountId, *, subscription_id: str = ""
    ) -> Sequence[HistoryRow]:
        """Return who changed what, when and why, oldest first."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await rows.read_history(connection, tenant_id, account_id, subscription_id=subscription_id)

    def _begin(
        self, tenant_id: TenantId, account_id: AccountId, actor: str, cause: str
    ) -> AbstractAsyncContextManager[EntitlementChange]:
        return self._changes.begin(tenant_id, [account_id], actor=actor, cause=cause)


async def start_default_subscription(
    change: EntitlementChange, account_id: AccountId, default_plan_key: PlanKey | None, *, at: datetime
) -> None:
    """Put a new account on its tenant's default plan, if there is one and it costs nothing."""
    if default_plan_key is None:
        return
    row = await catalog_rows.read_plan(change.connection, change.tenant_id, default_plan_key)
    if row is None or row.retired or row.plan.priced:
        return
    subscription = _decide_new(row.plan, NewSubscription(plan_key=default_plan_key), at)
    new = SubscriptionRow(account_id=account_id, subscription=subscription, create_time=at, update_time=at)
    await _add(change, new, reason="default plan of the tenant", at=at, request=None)


def state_at(subscription: Subscription, at: datetime) -> SubscriptionState:
    """Return the state at the instant: what was to end by then has ended, whatever the row still says."""
    end = subscription.period_end_time
    over = subscription.cancel_at_period_end and end is not None and end <= at
    if not over or subscription.state not in LIVE_STATES:
        return subscription.state
    return SubscriptionState.EXPIRED if subscription.canceled_time is None else SubscriptionState.CANCELED


def billing_period(subscription: Subscription, at: datetime) -> tuple[datetime, datetime | None]:
    """Return start and end of the period that the subscription is in; the end is None for what has none."""
    if subscription.state is SubscriptionState.TRIALING:
        return subscription.period_start_time, subscription.trial_end_time
    if subscription.interval is None:
        return subscription.period_start_time, subscription.period_end_time
    if subscription.provider is BillingProvider.STRIPE:
        return subscription.period_start_time, subscription.period_end_time
    # What has ended stays in the period in which it ended.
    end = subscription.period_end_time
    if end is not None and end <= at:
        at = end - timedelta(microseconds=1)
    period = period_at(
        _PERIOD_OF[subscription.interval],
        PeriodAnchor.BILLING,
        max(at, subscription.period_start_time),
        billing_anchor=subscription.start_time,
        time_zone=_UTC,
    )
    if end is not None and (period.end is None or end < period.end):
        return period.start, end
    return period.start, period.end


# --- Decisions: pure ------------------------------------------------------------------------------------


def _decide_new(plan: Plan, wanted: NewSubscription, now: datetime) -> Subscription:
    provider = _provider(plan, wanted.provider, None)
    price = _price(plan, wanted.interval, wanted.currency)
    trial_days = plan.trial_days if wanted.trial_days is None else wanted.trial_days
    if trial_days > plan.trial_days:
        allowed = f"at most {plan.trial_days} days" if plan.trial_days else "no trial"
        raise InvalidRequest.of("trial_days", f"plan {plan.key!r} allows {allowed}")
    start = wanted.start_time or now
    if start > now:
        raise NotBuilt("CreateSubscription with a start in the future")
    end = wanted.end_time
    if end is not None and end <= now:
        raise InvalidRequest.of("end_time", "must be in the future")
    trial_end = start + timedelta(days=trial_days) if trial_days else None
    # A trial that a start in the past has used up is none.
    trialing = trial_end is not None and trial_end > now
    return Subscription(
        subscription_id=new_id("sub", now),
        plan_key=plan.key,
        plan_version=plan.version,
        state=SubscriptionState.TRIALING if trialing else SubscriptionState.ACTIVE,
        provider=provider,
        interval=price.interval if price is not None else None,
        quantity=wanted.quantity,
        # Billing begins when the trial ends, and so do the periods anchored to it.
        start_time=trial_end if trial_end is not None else start,
        period_start_time=start,
        period_end_time=end,
        trial_end_time=trial_end,
        cancel_at_period_end=end is not None,
    )


def _decide_move(
    before: Subscription,
    plan: Plan,
    *,
    interval: BillingInterval | None,
    quantity: int | None,
    provider: BillingProvider | None,
    now: datetime,
) -> Subscription:
    if before.provider is BillingProvider.STRIPE:
        _refuse_stripe()
    keeps = interval is None and before.interval is not None and plan.price_for(before.interval) is not None
    price = _price(plan, before.interval if keeps else interval, "")
    after = replace(
        before,
        plan_key=plan.key,
        plan_version=plan.version,
        provider=_provider(plan, provider, before.provider),
        interval=price.interval if price is not None else None,
        quantity=before.quantity if quantity is None else quantity,
    )
    in_trial = (
        before.state is SubscriptionState.TRIALING
        and before.trial_end_time is not None
        and before.trial_end_time > now
        and price is not None
    )
    if in_trial:
        return after
    if before.state is SubscriptionState.TRIALING:
        # Out of a trial: it is over and now paid for, or what is wanted costs nothing.
        after = replace(after, state=_moved(before, SubscriptionState.ACTIVE), start_time=now, period_start_time=now)
    if after.interval is not before.interval:
        after = replace(after, start_time=now, period_start_time=now)
    return after


def _decide_cancel(before: Subscription, timing: ChangeTiming | None, now: datetime) -> Subscription:
    state = state_at(before, now)
    if state not in LIVE_STATES:
        raise IllegalTransition(state.value, SubscriptionState.CANCELED.value)
    if before.provider is BillingProvider.STRIPE:
        _refuse_stripe()
    paid = state in (SubscriptionState.ACTIVE, SubscriptionState.TRIALING) and before.interval is not None
    if timing is ChangeTiming.NOW or not paid:
        moved = _moved(before, SubscriptionState.CANCELED)
        return replace(before, state=moved, canceled_time=now, cancel_at_period_end=False)
    if before.cancel_at_period_end and before.canceled_time is not None:
        return before
    _, end = billing_period(before, now)
    if end is None or end <= now:
        # A trial that is over was never paid for.
        moved = _moved(before, SubscriptionState.CANCELED)
        return replace(before, state=moved, canceled_time=now, cancel_at_period_end=False)
    return replace(before, period_end_time=end, cancel_at_period_end=True, canceled_time=now)


def _moved(subscription: Subscription, state: SubscriptionState) -> SubscriptionState:
    if not may_move(subscription.state, state):
        raise IllegalTransition(subscription.state.value, state.value)
    return state


def _provider(plan: Plan, wanted: BillingProvider | None, present: BillingProvider | None) -> BillingProvider:
    """Return who collects the money; raise where nobody does for a plan that costs something."""
    if wanted is BillingProvider.STRIPE:
        _refuse_stripe()
    if not plan.priced:
        return BillingProvider.NONE
    if BillingProvider.MANUAL in (wanted, present):
        return BillingProvider.MANUAL
    raise BillingProviderRequired(
        f"billing_provider: plan {plan.key!r} costs something, so somebody must collect the money:"
        " BILLING_PROVIDER_STRIPE, or BILLING_PROVIDER_MANUAL when it is paid outside",
        plan_key=plan.key,
        field="billing_provider",
    )


def _price(plan: Plan, interval: BillingInterval | None, currency: str) -> Price | None:
    """Return the price at the interval (None: the month, or the only one); None for a plan without prices."""
    price = plan.price_for(interval or BillingInterval.MONTH)
    if interval is None and price is None and plan.prices:
        price = plan.prices[0]
    if price is None and interval is None:
        return None
    if price is None or (currency and currency != price.currency):
        sold = ", ".join(f"{each.interval.value} in {each.currency}" for each in plan.prices)
        wanted = " in ".join(part for part in (interval.value if interval else "", currency) if part)
        raise PriceNotFound(
            f"interval: plan {plan.key!r} is not sold by {wanted}, but {f'by {sold}' if sold else 'free'}",
            plan_key=plan.key,
            interval=interval.value if interval else "",
            field="interval",
        )
    return price


def _check_room(live: Sequence[SubscriptionRow], wanted: Subscription) -> None:
    for row in live:
        other = row.subscription
        if other.plan_key == wanted.plan_key and other.interval is wanted.interval:
            raise SubscriptionExists(
                f"the account has a live subscription to this price of plan {wanted.plan_key!r} already:"
                f" {other.subscription_id}",
                account_id=row.account_id,
                plan_key=wanted.plan_key,
                subscription_id=other.subscription_id,
            )
    if len(live) >= SUBSCRIPTIONS_PER_ACCOUNT_MAX:
        raise InvalidRequest.of(
            "account_id",
            f"has {len(live)} live subscriptions, and {SUBSCRIPTIONS_PER_ACCOUNT_MAX} is the most",
        )


def _check(wanted: NewSubscription, request_id: str) -> None:
    _check_request_id(request_id)
    _check_quantity(wanted.quantity)
    if wanted.trial_days is not None and not 0 <= wanted.trial_days <= TRIAL_DAYS_MAX:
        raise InvalidRequest.of("trial_days", f"must be between 0 and {TRIAL_DAYS_MAX}")
    if len(wanted.metadata) > METADATA_PAIRS_MAX:
        raise InvalidRequest.of("metadata", f"at most {METADATA_PAIRS_MAX} pairs")
    for key, value in wanted.metadata.items():
        if not key or len(key) > METADATA_KEY_LENGTH_MAX or len(value) > METADATA_VALUE_LENGTH_MAX or "\0" in value:
            raise InvalidRequest.of(
                f"metadata[{key[:METADATA_KEY_LENGTH_MAX]}]",
                f"at most {METADATA_KEY_LENGTH_MAX} in a key, {METADATA_VALUE_LENGTH_MAX} in a value",
            )


def _check_quantity(quantity: int) -> None:
    if not 1 <= quantity <= QUANTITY_MAX:
        raise InvalidRequest.of("quantity", f"must be between 1 and {QUANTITY_MAX}")


def _check_request_id(request_id: str) -> None:
    if request_id and not is_request_id(request_id):
        raise InvalidRequest.of("request_id", "must be up to 128 printable ASCII characters without spaces")


def _refuse_stripe() -> NoReturn:
    raise BillingProviderNotConfigured(
        f"billing_provider: this server has no connection to Stripe; set {STRIPE_SETTING}",
        billing_provider="BILLING_PROVIDER_STRIPE",
        setting=STRIPE_SETTING,
        field="billing_provider",
    )


def _refuse_scheduling(what: str) -> NoReturn:
    raise NotBuilt(f"{what} at a later time (CHANGE_TIMING_NOW is built)")


def _fingerprint(method: str, content: object) -> str:
    return hashlib.sha256(f"{method} {json.dumps(_plain(content), sort_keys=True)}".encode()).hexdigest()


def _plain(content: object) -> object:
    if isinstance(content, NewSubscription):
        return [_plain(getattr(content, name)) for name in NewSubscription.__dataclass_fields__]
    if isinstance(content, tuple):
        return [_plain(each) for each in content]
    if isinstance(content, Mapping):
        return dict(content)
    if isinstance(content, Enum):
        return content.value
    if isinstance(content, datetime):
        return content.timestamp()
    return content


def _request(request_id: str, fingerprint: str) -> dict[str, str] | None:
    return {"id": request_id, "fingerprint": fingerprint} if request_id else None


def _view(tenant_id: TenantId, row: SubscriptionRow, plan: Plan, now: datetime) -> SubscriptionView:
    subscription = row.subscription
    start, end = billing_period(subscription, now)
    state = state_at(subscription, now)
    ended: datetime | None = None
    if subscription.cancel_at_period_end:
        ended = subscription.period_end_time
    elif state not in LIVE_STATES:
        ended = subscription.canceled_time
    return SubscriptionView(
        tenant_id=tenant_id,
        account_id=row.account_id,
        subscription=replace(subscription, state=state),
        price=plan.price_for(subscription.interval) if subscription.interval is not None else None,
        current_period_start=start,
        current_period_end=end,
        end_time=ended,
        metadata=row.metadata,
        create_time=row.create_time,
        update_time=row.update_time,
    )


# --- Steps of a transaction -----------------------------------------------------------------------------


async def _on_sale(connection: Connection, tenant_id: TenantId, plan_key: PlanKey) -> Plan:
    row = await catalog_rows.read_plan(connection, tenant_id, plan_key)
    if row is None or row.retired:
        raise PlanNotFound(plan_key)
    return row.plan


async def _pinned(connection: Connection, tenant_id: TenantId, subscription: Subscription) -> Plan:
    row = await catalog_rows.read_plan(connection, tenant_id, subscription.plan_key, version=subscription.plan_version)
    assert row is not None  # a foreign key holds it
    return row.plan


async def _check_account(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> None:
    account = await account_rows.read_account(connection, tenant_id, account_id)
    if account is None:
        raise AccountNotFound(account_id)
    if account.state is AccountState.DELETED:
        raise AccountDeleted(account_id)


async def _find(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, subscription_id: str, now: datetime
) -> SubscriptionRow:
    """Return the account's subscription, or its only live one where no id is given."""
    if subscription_id:
        row = await rows.read_subscription(connection, tenant_id, subscription_id)
        if row is None or row.account_id != account_id:
            raise SubscriptionNotFound(subscription_id)
        return row
    live = [
        row
        for row in await rows.live_subscriptions(connection, tenant_id, account_id)
        if state_at(row.subscription, now) in LIVE_STATES
    ]
    if not live:
        raise SubscriptionNotFound("")
    if len(live) > 1:
        ids = ", ".join(f"{row.subscription.subscription_id} ({row.subscription.plan_key})" for row in live[:10])
        raise InvalidRequest.of("subscription_id", f"the account has several live subscriptions, name one: {ids}")
    return live[0]


async def _replay(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str, fingerprint: str
) -> SubscriptionView | None:
    """Return the answer that the request id got before; raise where it was about something else."""
    if not request_id:
        return None
    step = await rows.read_step_of_request(connection, tenant_id, account_id, request_id)
    if step is None:
        return None
    if step.after["request"]["fingerprint"] != fingerprint:
        raise RequestIdReused(request_id)
    row = await rows.read_subscription(connection, tenant_id, step.subscription_id)
    account = await account_rows.read_account(connection, tenant_id, account_id)
    assert row is not None
    assert account is not None
    first = rows.subscription_from_json(step.after)
    plan = await _pinned(connection, tenant_id, first)
    view = _view(tenant_id, replace(row, subscription=first, update_time=step.create_time), plan, step.create_time)
    return replace(view, revision=account.revision, replayed=True)


async def _close_what_ran_out(change: EntitlementChange, account_id: AccountId, now: datetime) -> list[SubscriptionRow]:
    """Write down the end of subscriptions that have run out; return those that live on."""
    live = []
    for row in await rows.live_subscriptions(change.connection, change.tenant_id, account_id):
        state = state_at(row.subscription, now)
        if state in LIVE_STATES:
            live.append(row)
        else:
            ended = replace(row.subscription, state=_moved(row.subscription, state))
            await _store(change, row, ended, action="expiry", reason="its end has passed", at=now, request=None)
    return live


async def _add(
    change: EntitlementChange,
    row: SubscriptionRow,
    *,
    reason: str,
    at: datetime,
    request: Mapping[str, str] | None,
) -> None:
    await rows.add_subscription(change.connection, change.tenant_id, row)
    await _record(
        change,
        row.account_id,
        before=None,
        after=row.subscription,
        action="create",
        reason=reason,
        at=at,
        request=request,
    )


async def _store(
    change: EntitlementChange,
    row: SubscriptionRow,
    after: Subscription,
    *,
    action: str,
    reason: str,
    at: datetime,
    request: Mapping[str, str] | None,
) -> None:
    await rows.write_subscription(change.connection, change.tenant_id, after, at=at)
    await _record(
        change,
        row.account_id,
        before=row.subscription,
        after=after,
        action=action,
        reason=reason,
        at=at,
        request=request,
    )


async def _record(
    change: EntitlementChange,
    account_id: AccountId,
    *,
    before: Subscription | None,
    after: Subscription,
    action: str,
    reason: str,
    at: datetime,
    request: Mapping[str, str] | None,
) -> None:
    """Write history, audit and event of one step."""
    await rows.add_history(
        change.connection,
        change.tenant_id,
        account_id=account_id,
        action=action,
        before=before,
        after=after,
        actor=change.actor,
        reason=reason,
        at=at,
        request=request,
    )
    event = "created" if before is None else "changed" if after.state in LIVE_STATES else "canceled"
    json_after = rows.subscription_to_json(after)
    json_before = rows.subscription_to_json(before) if before is not None else None
    await change.audit(
        f"subscription.{action}",
        f"subscription:{after.subscription_id}",
        {"account_id": account_id, "reason": reason, "before": json_before, "after": json_after},
    )
    await change.emit(f"subscription.{event}", account_id, {"subscription": json_after, "reason": reason})
