"""Grants: created, taken back, listed; switches of single features among them. Every check sees each change at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, Protocol

from tallygate_server.clock import Clock
from tallygate_server.domain.call import Check, CheckAnswer
from tallygate_server.domain.catalog import Feature, FeatureKind
from tallygate_server.domain.credits import StoredBalance, window_at
from tallygate_server.domain.entitlement import AccountState, GrantKind
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.limits import GRACE_DAYS_MAX, GRANTS_PER_ACCOUNT_MAX
from tallygate_server.entitlement_changes import EntitlementChange, EntitlementChanges
from tallygate_server.errors import (
    AccountDeleted,
    AccountNotFound,
    FeatureNotFound,
    InvalidRequest,
    NotFound,
    RequestIdReused,
)
from tallygate_server.grants.rules import AskedKind, NewGrant, check_grant, grant_of
from tallygate_server.grants.views import GrantPage, GrantState, GrantView, OverrideView, seen_at, view_of
from tallygate_server.storage import accounts as account_rows
from tallygate_server.storage import grants as rows
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.grants import GrantRequest, GrantRow
from tallygate_server.storage.mapping import limit_override_to_json, rollover_to_json
from tallygate_server.subscriptions.wishes import check_request_id, fingerprint_of
from tallygate_server.tenants import TenantDirectory

READ_SIZE_MIN: Final = 200
READS_PER_PAGE_MAX: Final = 50
"""Reads for one page of a list by state, which is computed: a page may end early, and the next one goes on."""


class FeatureOverride(Enum):
    """What to do with a feature of one account."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    CLEARED = "cleared"


class Provisioner(Protocol):
    """Creates unknown accounts where their tenant allows it."""

    async def provision(self, tenant_id: TenantId, account_id: AccountId) -> bool:
        """Return whether the account exists afterwards."""


class Checker(Protocol):
    """Answers checks."""

    async def check(self, check: Check) -> CheckAnswer:
        """Answer one check."""


class Grants:
    """Gives accounts extras, and takes them back."""

    def __init__(
        self,
        database: Database,
        changes: EntitlementChanges,
        *,
        tenants: TenantDirectory,
        accounts: Provisioner,
        checker: Checker,
        clock: Clock,
    ) -> None:
        """Work on the database; every change of an account goes through `changes`."""
        self._database = database
        self._changes = changes
        self._tenants = tenants
        self._accounts = accounts
        self._checker = checker
        self._clock = clock

    # --- Creating -----------------------------------------------------------------------------------------------

    async def create(
        self, tenant_id: TenantId, account_id: AccountId, wanted: NewGrant, *, request_id: str = "", actor: str = ""
    ) -> GrantView:
        """Give the account an extra.

        The same request id with the same content returns the first answer again. Raises FeatureNotFound,
        AccountNotFound, AccountDeleted, RequestIdReused, and InvalidRequest naming what does not fit.
        """
        check_request_id(request_id)
        fingerprint = fingerprint_of("create_grant", wanted)
        now = self._clock.now()
        feature = await self._feature(tenant_id, wanted.feature_key)
        # First without a change: what is refused, or answered already, disturbs nobody who reads the account.
        async with self._database.tenant_transaction(tenant_id) as connection:
            first = await self._first(connection, tenant_id, account_id, request_id, fingerprint)
            if first is not None and first.grant_id is not None:
                return await self._replayed(connection, tenant_id, account_id, first, now)
            known = await account_rows.account_exists(connection, tenant_id, account_id)
        check_grant(wanted, feature, now)
        if not known and not await self._accounts.provision(tenant_id, account_id):
            raise AccountNotFound(account_id)
        try:
            async with self._changes.begin(tenant_id, [account_id], actor=actor, cause="grant.created") as change:
                connection = change.connection
                await self._demand_new(connection, tenant_id, account_id, request_id, fingerprint)
                revision = await _check_account(connection, tenant_id, account_id)
                await _check_room(connection, tenant_id, account_id, now)
                row = await _add(change, account_id, wanted, feature, now)
                await _remember(
                    change, account_id, request_id, GrantRequest(
                        fingerprint=fingerprint, grant_id=row.grant.grant_id, revision=revision + 1
                    ), now,
                )  # fmt: skip
        except _Answered as answered:
            async with self._database.tenant_transaction(tenant_id) as connection:
                return await self._replayed(connection, tenant_id, account_id, answered.first, now)
        return replace(view_of(tenant_id, row, None, now), revision=change.revisions[account_id])

    # --- Revoking -----------------------------------------------------------------------------------------------

    async def revoke(
        self, tenant_id: TenantId, account_id: AccountId, grant_id: str, *, reason: str, actor: str = ""
    ) -> GrantView:
        """Take a grant back from now on; one that was taken back before stays as it is. Raises NotFound."""
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            row = await self._find(connection, tenant_id, account_id, grant_id)
            if row.grant.revoke_time is not None:
                return await self._view(connection, tenant_id, row, now)
        try:
            async with self._changes.begin(tenant_id, [account_id], actor=actor, cause="grant.revoked") as change:
                row = await self._find_open(change.connection, tenant_id, account_id, grant_id)
                row = await _revoke(change, row, reason, now)
                stored = await _balance(change.connection, tenant_id, row, now)
        except _AlreadyRevoked as other:
            async with self._database.tenant_transaction(tenant_id) as connection:
                return await self._view(connection, tenant_id, other.row, now)
        return replace(view_of(tenant_id, row, stored, now), revision=change.revisions[account_id])

    # --- Listing ------------------------------------------------------------------------------------------------

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
        """Return grants, newest first, from after the position on."""
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        found: list[GrantView] = []
        size = max(limit + 1, READ_SIZE_MIN) if state is not None else limit + 1
        async with self._database.tenant_transaction(tenant_id) as connection:
            for _ in range(READS_PER_PAGE_MAX):
                batch = await rows.page_of_grants(
                    connection,
                    tenant_id,
                    account_id=account_id,
                    feature_key=feature_key,
                    kinds=kinds,
                    before=before,
                    limit=size,
                )
                for view in await _views(connection, tenant_id, batch, now):
                    if state is None or view.state is state:
                        if len(found) == limit:
                            return GrantPage(grants=tuple(found), position=_position(found[-1]))
                        found.append(view)
                if len(batch) < size:
                    return GrantPage(grants=tuple(found), position=None)
                before = (batch[-1].grant.create_time, batch[-1].grant.grant_id)
        return GrantPage(grants=tuple(found), position=before)

    # --- Switching ----------------------------------------------------------------------------------------------

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
        """Switch a feature on or off for the account, or take such a switch back; a new one replaces the old one.

        Raises as `create`.
        """
        check_request_id(request_id)
        now = self._clock.now()
        _check_override(override, grace_days, expire_time, now)
        feature = await self._feature(tenant_id, feature_key)
        fingerprint = fingerprint_of("set_feature_override", feature_key, override, grace_days, expire_time, reason)
        async with self._database.tenant_transaction(tenant_id) as connection:
            first = await self._first(connection, tenant_id, account_id, request_id, fingerprint)
            known = await account_rows.account_exists(connection, tenant_id, account_id)
        if first is None and not known and not await self._accounts.provision(tenant_id, account_id):
            raise AccountNotFound(account_id)
        view: GrantView | None = None
        replayed = first is not None
        if first is None:
            try:
                first, row = await self._switch(
                    tenant_id, account_id, feature, override,
                    NewGrant(
                        feature_key=feature_key,
                        kind=AskedKind.SWITCH,
                        enabled=override is FeatureOverride.ENABLED,
                        expire_time=expire_time,
                        grace_end_time=now + timedelta(days=grace_days) if grace_days else None,
                        reason=reason,
                    ),
                    fingerprint=fingerprint, request_id=request_id, actor=actor, now=now,
                )  # fmt: skip
            except _Answered as answered:
                first, replayed = answered.first, True
            else:
                view = view_of(tenant_id, row, None, now) if row is not None else None
        if replayed and first.grant_id is not None:
            async with self._database.tenant_transaction(tenant_id) as connection:
                view = await self._replayed(connection, tenant_id, account_id, first, now)
        answer = await self._checker.check(Check(tenant_id, account_id, feature_key))
        return OverrideView(grant=view, answer=answer, revision=first.revision, replayed=replayed)

    async def _switch(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        feature: Feature,
        override: FeatureOverride,
        wanted: NewGrant,
        *,
        fingerprint: str,
        request_id: str,
        actor: str,
        now: datetime,
    ) -> tuple[GrantRequest, GrantRow | None]:
        cleared = override is FeatureOverride.CLEARED
        cause = "grant.revoked" if cleared else "grant.created"
        if cleared:
            # Where there is nothing to take back nothing changes.
            async with self._database.tenant_transaction(tenant_id) as connection:
                revision = await _check_account(connection, tenant_id, account_id)
                if not await rows.open_switches(connection, tenant_id, account_id, feature.key, now):
                    done = GrantRequest(fingerprint=fingerprint, grant_id=None, revision=revision)
                    if request_id and await rows.read_request(connection, tenant_id, account_id, request_id) is None:
                        await rows.add_request(connection, tenant_id, account_id, request_id, done, at=now)
                    return done, None
        async with self._changes.begin(tenant_id, [account_id], actor=actor, cause=cause) as change:
            connection = change.connection
            await self._demand_new(connection, tenant_id, account_id, request_id, fingerprint)
            revision = await _check_account(connection, tenant_id, account_id)
            for before in await rows.open_switches(connection, tenant_id, account_id, feature.key, now):
                await _revoke(change, before, wanted.reason, now)
            row = None
            if not cleared:
                await _check_room(connection, tenant_id, account_id, now)
                row = await _add(change, account_id, wanted, feature, now)
            done = GrantRequest(
                fingerprint=fingerprint,
                grant_id=row.grant.grant_id if row is not None else None,
                revision=revision + 1,
            )
            await _remember(change, account_id, request_id, done, now)
        return done, row

    # --- Looking ------------------------------------------------------------------------------------------------

    async def _feature(self, tenant_id: TenantId, feature_key: FeatureKey) -> Feature:
        """Return the feature, also one that only old plan versions give; raise FeatureNotFound."""
        tenant = await self._tenants.get(tenant_id)
        for _ in range(2):
            feature = tenant.features.get(feature_key) or tenant.retired_features.get(feature_key)
            if feature is not None:
                return feature
            # It may be new.
            tenant = await self._tenants.refresh(tenant_id)
        raise FeatureNotFound(feature_key)

    async def _first(
        self, connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str, fingerprint: str
    ) -> GrantRequest | None:
        if not request_id:
            return None
        first = await rows.read_request(connection, tenant_id, account_id, request_id)
        if first is not None and first.fingerprint != fingerprint:
            raise RequestIdReused(request_id)
        return first

    async def _demand_new(
        self, connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str, fingerprint: str
    ) -> None:
        first = await self._first(connection, tenant_id, account_id, request_id, fingerprint)
        if first is not None:
            raise _Answered(first)

    async def _find_open(
        self, connection: Connection, tenant_id: TenantId, account_id: AccountId, grant_id: str
    ) -> GrantRow:
        row = await self._find(connection, tenant_id, account_id, grant_id)
        if row.grant.revoke_time is not None:
            raise _AlreadyRevoked(row)
        return row

    async def _find(
        self, connection: Connection, tenant_id: TenantId, account_id: AccountId, grant_id: str
    ) -> GrantRow:
        row = await rows.read_grant(connection, tenant_id, account_id, grant_id)
        if row is None:
            raise NotFound("grant", grant_id, field="grant_id")
        return row

    async def _replayed(
        self, connection: Connection, tenant_id: TenantId, account_id: AccountId, first: GrantRequest, now: datetime
    ) -> GrantView:
        assert first.grant_id is not None
        row = await self._find(connection, tenant_id, account_id, first.grant_id)
        view = view_of(tenant_id, row, await _balance(connection, tenant_id, row, now), now)
        return replace(view, revision=first.revision, replayed=True)

    async def _view(self, connection: Connection, tenant_id: TenantId, row: GrantRow, now: datetime) -> GrantView:
        account = await account_rows.read_account(connection, tenant_id, row.account_id)
        view = view_of(tenant_id, row, await _balance(connection, tenant_id, row, now), now)
        return replace(view, revision=account.revision if account is not None else 0)


class _Answered(Exception):
    """The request was answered by another call meanwhile: the change is undone."""

    def __init__(self, first: GrantRequest) -> None:
        super().__init__()
        self.first = first


class _AlreadyRevoked(Exception):
    """Another call was faster: the change is undone."""

    def __init__(self, row: GrantRow) -> None:
        super().__init__()
        self.row = row


def _check_override(override: FeatureOverride, grace_days: int, expire_time: datetime | None, now: datetime) -> None:
    if not 0 <= grace_days <= GRACE_DAYS_MAX:
        raise InvalidRequest.of("grace_days", f"must be between 0 and {GRACE_DAYS_MAX}")
    if grace_days and override is not FeatureOverride.DISABLED:
        raise InvalidRequest.of("grace_days", "is used with FEATURE_OVERRIDE_DISABLED only")
    if expire_time is not None:
        if override is FeatureOverride.CLEARED:
            raise InvalidRequest.of("expire_time", "a switch that is taken back has no end")
        if expire_time <= now:
            raise InvalidRequest.of("expire_time", "must be in the future")


async def _check_account(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> int:
    account = await account_rows.read_account(connection, tenant_id, account_id)
    if account is None:
        raise AccountNotFound(account_id)
    if account.state is AccountState.DELETED:
        raise AccountDeleted(account_id)
    return account.revision


async def _check_room(connection: Connection, tenant_id: TenantId, account_id: AccountId, now: datetime) -> None:
    count = await rows.count_open_grants(connection, tenant_id, account_id, now)
    if count >= GRANTS_PER_ACCOUNT_MAX:
        raise InvalidRequest.of(
            "account_id", f"has {count} grants that are not over, and {GRANTS_PER_ACCOUNT_MAX} is the most"
        )


async def _add(
    change: EntitlementChange, account_id: AccountId, wanted: NewGrant, feature: Feature, now: datetime
) -> GrantRow:
    row = GrantRow(
        account_id=account_id,
        grant=grant_of(wanted, feature, now),
        reason=wanted.reason,
        actor=change.actor,
        metadata=dict(wanted.metadata),
    )
    await rows.add_grant(change.connection, change.tenant_id, row)
    facts = facts_of(row)
    await change.audit(
        "grant.create", f"grant:{row.grant.grant_id}", {**facts, "account_id": account_id, "reason": wanted.reason}
    )
    await change.emit("grant.created", account_id, {**facts, "metadata": row.metadata})
    return row


async def _revoke(change: EntitlementChange, row: GrantRow, reason: str, now: datetime) -> GrantRow:
    row = await rows.revoke_grant(change.connection, change.tenant_id, row, at=now, reason=reason)
    facts = facts_of(row)
    await change.audit(
        "grant.revoke", f"grant:{row.grant.grant_id}", {**facts, "account_id": row.account_id, "reason": reason}
    )
    await change.emit("grant.revoked", row.account_id, {**facts, "reason_text": reason})
    return row


async def _remember(
    change: EntitlementChange, account_id: AccountId, request_id: str, request: GrantRequest, now: datetime
) -> None:
    if request_id:
        await rows.add_request(change.connection, change.tenant_id, account_id, request_id, request, at=now)


def facts_of(row: GrantRow) -> dict[str, Any]:
    """Return what events and the audit log say of a grant."""
    grant = row.grant
    facts: dict[str, Any] = {
        "grant_id": grant.grant_id,
        "feature_key": grant.feature_key,
        "kind": "switch" if grant.kind.switch else grant.kind.value,
        "priority": grant.priority,
        "start_time": grant.start_time.isoformat(),
        "expire_time": _text(grant.expire_time),
    }
    if grant.kind.credit:
        facts["credit_quantity"] = grant.quantity
    elif grant.kind.switch:
        facts["enabled"] = grant.kind is GrantKind.ENABLE
    elif grant.feature_kind is FeatureKind.CONFIG:
        facts["config_value"] = grant.value
    elif grant.limit is not None:
        facts["limit"] = limit_override_to_json(grant.limit)
    if grant.recurrence is not None:
        facts["recurrence"] = grant.recurrence.name.lower()
    if grant.rollover is not None:
        facts["rollover"] = rollover_to_json(grant.rollover)
    if grant.grace_end_time is not None:
        facts["grace_end_time"] = grant.grace_end_time.isoformat()
    return facts


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant is not None else None


def _position(view: GrantView) -> tuple[datetime, str]:
    return (view.grant.create_time, view.grant.grant_id)


async def _views(
    connection: Connection, tenant_id: TenantId, found: Sequence[GrantRow], now: datetime
) -> list[GrantView]:
    balances = await rows.read_balances(
        connection,
        tenant_id,
        {
            (row.account_id, row.grant.grant_id): window_at(row.grant, seen_at(row, now)).start
            for row in found
            if row.grant.kind.credit and row.grant.feature_kind is FeatureKind.COUNTER
        },
    )
    return [view_of(tenant_id, row, balances.get((row.account_id, row.grant.grant_id)), now) for row in found]


async def _balance(connection: Connection, tenant_id: TenantId, row: GrantRow, now: datetime) -> StoredBalance | None:
    if not row.grant.kind.credit or row.grant.feature_kind is not FeatureKind.COUNTER:
        return None
    wanted = {(row.account_id, row.grant.grant_id): window_at(row.grant, seen_at(row, now)).start}
    return (await rows.read_balances(connection, tenant_id, wanted)).get((row.account_id, row.grant.grant_id))
