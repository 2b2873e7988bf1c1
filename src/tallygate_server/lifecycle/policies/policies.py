"""Retention policies: set, looked up, and put together with plans and holds into what protects data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataImportance, Segment
from tallygate_server.domain.retention import ALL_TYPES, FOR_EVER, RetentionPolicy
from tallygate_server.domain.retention_rules import (
    HISTORY_FEATURE,
    NO_PLAN,
    PLAN_GRACE,
    RETENTION_FEATURE,
    PlanDays,
    PolicySet,
    Protections,
    effective_retention_days,
    plan_days,
    policy_problems,
    visible_start,
    with_grace,
)
from tallygate_server.errors import FieldViolation, InvalidRequest, PolicyVersionMismatch
from tallygate_server.storage import retention_policies as rows
from tallygate_server.storage import segment_ages
from tallygate_server.storage.account_history import all_sources_at, current_sources
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.legal_holds import open_holds
from tallygate_server.tenants import TenantDirectory

FRESH_NS: Final = 5_000_000_000
"""How long policies are used unasked where nothing is removed: a changed one is seen everywhere after this."""
CACHED_TENANTS_MAX: Final = 1_000
ACCOUNTS_PER_READ_MAX: Final = 200
SEGMENTS_PER_READ_MAX: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEffect:
    """What a policy lets happen to the data that is there now, as far as its age goes."""

    compressible_records: int
    deletable_records: int
    """Beyond the retention, and beyond the deletion threshold where they are of low value."""
    plan_bound_accounts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """A policy together with what an account's plan makes of it."""

    policy: RetentionPolicy
    effective_retention_days: int = 0
    visible_days: int = 0


class Policies:
    """Knows what is to become of data."""

    def __init__(self, database: Database, tenants: TenantDirectory, clock: Clock) -> None:
        """Use a database with the lifecycle's role."""
        self._database = database
        self._tenants = tenants
        self._clock = clock
        self._cache: dict[TenantId, tuple[int, PolicySet]] = {}

    # --- Looking up -------------------------------------------------------------------------------------------------

    async def policy_set(self, tenant_id: TenantId) -> PolicySet:
        """Return the tenant's policies, as they were at most five seconds ago. Raises StoreUnavailable."""
        now_ns = self._clock.monotonic_ns()
        cached = self._cache.get(tenant_id)
        if cached is not None and now_ns - cached[0] < FRESH_NS:
            return cached[1]
        async with self._database.tenant_transaction(tenant_id) as connection:
            policy_set = PolicySet.of(tenant_id, await rows.read_policies(connection, tenant_id))
        self._cache.pop(tenant_id, None)
        self._cache[tenant_id] = (now_ns, policy_set)
        while len(self._cache) > CACHED_TENANTS_MAX:
            del self._cache[next(iter(self._cache))]
        return policy_set

    async def policy_for(self, tenant_id: TenantId, data_type: str) -> RetentionPolicy:
        """Return the policy that counts for a data type: its own, that for all, or the defaults."""
        return (await self.policy_set(tenant_id)).policy_for(data_type)

    async def plan_days(
        self, tenant_id: TenantId, account_ids: Iterable[AccountId], now: datetime
    ) -> dict[AccountId, PlanDays]:
        """Return what the plans of accounts say about their data; those whose plan says nothing are left out.

        A plan that keeps data for less than the one before does so after a grace.
        """
        if not await self._has_feature(tenant_id, RETENTION_FEATURE, HISTORY_FEATURE):
            return {}
        wanted = sorted({account_id for account_id in account_ids if account_id})
        found: dict[AccountId, PlanDays] = {}
        for start in range(0, len(wanted), ACCOUNTS_PER_READ_MAX):
            async with self._database.tenant_transaction(tenant_id) as connection:
                chosen = wanted[start : start + ACCOUNTS_PER_READ_MAX]
                sources = await current_sources(connection, tenant_id, chosen, now)
                earlier = await all_sources_at(connection, tenant_id, chosen, now - PLAN_GRACE)
            days = {account_id: plan_days(each, now) for account_id, each in sources.items()}
            before = {account_id: plan_days(each, now - PLAN_GRACE) for account_id, each in earlier.items()}
            found |= {
                account_id: with_grace(each, before.get(account_id, NO_PLAN)) for account_id, each in days.items()
            }
        return {account_id: days for account_id, days in found.items() if days != NO_PLAN}

    async def visible_start(self, tenant_id: TenantId, account_id: AccountId, now: datetime) -> datetime | None:
        """Return the first instant that the account's plan lets it see; None: everything."""
        plans = await self.plan_days(tenant_id, [account_id], now)
        return visible_start(plans.get(account_id, NO_PLAN), now)

    async def effective_retention_days(
        self, tenant_id: TenantId, account_id: AccountId, data_type: str, now: datetime
    ) -> int:
        """Return days that an account's data of no special sort is kept: plan and policy together; -1 for ever."""
        plans = await self.plan_days(tenant_id, [account_id], now)
        return effective_retention_days(await self.policy_for(tenant_id, data_type), plans.get(account_id, NO_PLAN))

    async def protections(self, tenant_id: TenantId, account_ids: Iterable[AccountId] = ()) -> Protections:
        """Return what protects a tenant's data now, with the plans of some accounts.

        It tells what will not be removed. Who removes asks again with `protections_in`.
        """
        plans = await self.plan_days(tenant_id, account_ids, self._clock.now())
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await _protections(connection, tenant_id, plans)

    async def protections_in(
        self, connection: Connection, tenant_id: TenantId, *, plans: Mapping[AccountId, PlanDays] | None = None
    ) -> Protections:
        """Return what protects a tenant's data, and let nothing new protect any until the transaction ends.

        For the transaction that removes: whoever sets a hold or a policy meanwhile waits for its end, and is answered
        when it is known what is left.
        """
        await rows.share_protections(connection, tenant_id)
        return await _protections(connection, tenant_id, plans or {})

    async def oldest_kept(self, tenant_id: TenantId, now: datetime) -> datetime | None:
        """Return the instant behind which nothing is due yet, whoever it is about; None: nothing ever is.

        What a hand has chosen is another matter.
        """
        if await self._has_feature(tenant_id, RETENTION_FEATURE):
            # Plans may say anything, account by account.
            return now
        days = (await self.policy_set(tenant_id)).youngest_days
        return None if days == FOR_EVER else now - timedelta(days=days)

    async def _has_feature(self, tenant_id: TenantId, *feature_keys: str) -> bool:
        """Tell whether any plan of the tenant may say something."""
        tenant = await self._tenants.get(tenant_id)
        return any(key in tenant.features or key in tenant.retired_features for key in feature_keys)

    # --- The use cases ----------------------------------------------------------------------------------------------

    async def get(self, tenant_id: TenantId, data_type: str, account_id: AccountId | None = None) -> PolicyView:
        """Return what becomes of a sort of data, and of an account's where one is named. Raises TenantNotFound."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            policy = PolicySet.of(tenant_id, await rows.read_policies(connection, tenant_id)).policy_for(data_type)
        if account_id is None:
            return PolicyView(policy=policy)
        plan = (await self.plan_days(tenant_id, [account_id], self._clock.now())).get(account_id, NO_PLAN)
        return PolicyView(
            policy=policy,
            effective_retention_days=effective_retention_days(policy, plan),
            visible_days=FOR_EVER if plan.history_days is None else plan.history_days,
        )

    async def page(self, tenant_id: TenantId, *, after: str = "", limit: int) -> list[RetentionPolicy]:
        """Return policies that somebody has set, by data type, those after one. Raises TenantNotFound."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await rows.page_of_policies(connection, tenant_id, after=after, limit=limit)

    async def set(
        self,
        policy: RetentionPolicy,
        *,
        expected_version: int | None = None,
        validate_only: bool = False,
        actor: str,
    ) -> tuple[RetentionPolicy, PolicyEffect]:
        """Put a policy in the place of the present one of its data type; return it, and what it lets happen.

        Raises TenantNotFound, InvalidRequest naming the fields, PolicyVersionMismatch.
        """
        tenant_id = policy.tenant_id
        await self._tenants.get(tenant_id)
        problems = policy_problems(policy)
        if problems:
            raise InvalidRequest([FieldViolation(f"policy.{field}", text) for field, text in problems])
        now = self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            # Removals that began under the present policy end first: once this is answered, the new one counts.
            await rows.lock_protections(connection, tenant_id)
            present = await rows.read_policy(connection, tenant_id, policy.data_type)
            version = present.version if present is not None else 0
            if expected_version is not None and expected_version != version:
                raise PolicyVersionMismatch(policy.data_type, expected=expected_version, current=version)
            policy = replace(policy, version=version + 1, update_time=now, actor=actor)
            if not validate_only:
                await rows.add_policy(connection, policy)
                await add_audit_entry(
                    connection,
                    tenant_id,
                    actor=actor,
                    action="data.policy_set",
                    subject=f"data_type/{policy.data_type}",
                    detail={"version": policy.version, "policy": policy.to_document()},
                )
        if not validate_only:
            self._cache.pop(tenant_id, None)
        return policy, await self._effect(policy, now)

    async def _effect(self, policy: RetentionPolicy, now: datetime) -> PolicyEffect:
        """Count what a policy lets happen, as if it were in force."""
        tenant_id = policy.tenant_id
        async with self._database.tenant_snapshot(tenant_id) as connection:
            present = await rows.read_policies(connection, tenant_id)
            holds = tuple(await open_holds(connection, tenant_id))
            policy_set = PolicySet.of(tenant_id, [*present, policy])
            governs = _Governed.by(policy, policy_set)
            account_ids = await segment_ages.accounts_with_data(
                connection, tenant_id, only=governs.only, but=governs.but
            )
        plans = await self.plan_days(tenant_id, account_ids, now)
        bound = [days for days in plans.values() if days.retention_days not in (None, policy.standard_retention_days)]
        protections = Protections(policy_set=policy_set, holds=holds, plans=plans)
        smaller = gone = 0
        after_id = ""
        while True:
            async with self._database.tenant_snapshot(tenant_id) as connection:
                segments = await segment_ages.bare_segments(
                    connection,
                    tenant_id,
                    only=governs.only,
                    but=governs.but,
                    after_id=after_id,
                    limit=SEGMENTS_PER_READ_MAX,
                )
            for segment in segments:
                smaller += segment.record_count if compressible(protections, segment, now) else 0
                # Of low value or not is told by the records themselves; as far as age goes, all may be.
                kept = protections.why_kept(segment, DataImportance.LOW, now)
                gone += segment.record_count if kept is None else 0
            if len(segments) < SEGMENTS_PER_READ_MAX:
                return PolicyEffect(
                    compressible_records=smaller, deletable_records=gone, plan_bound_accounts=len(bound)
                )
            after_id = segments[-1].segment_id


@dataclass(frozen=True, slots=True, kw_only=True)
class _Governed:
    """Data types that a policy counts for: its own, or all but those with a policy of their own."""

    only: str | None
    but: Sequence[str]

    @classmethod
    def by(cls, policy: RetentionPolicy, policy_set: PolicySet) -> _Governed:
        if policy.data_type != ALL_TYPES:
            return cls(only=policy.data_type, but=())
        return cls(only=None, but=sorted(policy_set.policies.keys() - {ALL_TYPES}))


async def _protections(connection: Connection, tenant_id: TenantId, plans: Mapping[AccountId, PlanDays]) -> Protections:
    policy_set = PolicySet.of(tenant_id, await rows.read_policies(connection, tenant_id))
    return Protections(policy_set=policy_set, holds=tuple(await open_holds(connection, tenant_id)), plans=plans)


def compressible(protections: Protections, segment: Segment, now: datetime) -> bool:
    """Tell whether a segment may be compressed with loss, as far as its age and what protects it go."""
    threshold = protections.policy_for(segment.data_type).compression_threshold_days
    if threshold == FOR_EVER or not segment.form.exact or now < segment.end_time + timedelta(days=threshold):
        return False
    return protections.why_lossless(segment, DataImportance.LOW, now) is None
