"""Reads what decides an account's entitlements, as one JSON document per account.

The document is kept in Redis as it comes from Postgres, so both are read by the one function below.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import asyncpg

from tallygate_server.domain.catalog import BillingInterval, FeatureKind
from tallygate_server.domain.entitlement import (
    AccountSources,
    AccountState,
    Grant,
    GrantKind,
    PlanTerms,
    SubscriptionSource,
)
from tallygate_server.domain.identifier import AccountId, FeatureKey, PlanKey, TenantId
from tallygate_server.domain.period import PeriodKind
from tallygate_server.domain.subscription import (
    BillingProvider,
    ScheduledChange,
    ScheduledChangeKind,
    Subscription,
    SubscriptionState,
)
from tallygate_server.storage.mapping import allowance_from_json, limit_override_from_json, rollover_from_json

PAST_SUBSCRIPTIONS_MAX: Final = 20
"""How many ended subscriptions are carried along, to tell a lapsed account from one that never had any."""

PAST_GRANTS_MAX: Final = 200
"""How many grants that are over are carried along: they tell of used credits, and some servers' clocks are behind."""


def documents_statement(tenant_id: str, account_ids: str, at: str) -> str:
    """Return the SELECT of (account_id, revision, document as JSON), for these placeholders.

    `at` is the instant from which on the documents are looked at: of what has ended before it only some is told.
    """
    return _DOCUMENTS.replace("@tenant_id", tenant_id).replace("@account_ids", account_ids).replace("@at", at)


# The only values that are formatted in are constants of this module.
_DOCUMENTS: Final = f"""
SELECT a.account_id, a.revision, json_build_object(
    'revision', a.revision,
    'state', a.state,
    'time_zone', a.time_zone,
    'created', a.create_time,
    'subscriptions', COALESCE((
        SELECT json_agg(json_build_object(
            'id', s.subscription_id, 'plan', s.plan_key, 'version', s.plan_version, 'state', s.state,
            'provider', s.provider, 'interval', s.interval, 'quantity', s.quantity, 'start', s.start_time,
            'period_start', s.period_start_time, 'period_end', s.period_end_time, 'trial_end', s.trial_end_time,
            'cancel_at_period_end', s.cancel_at_period_end, 'canceled', s.canceled_time,
            'grace_end', s.grace_end_time, 'pause_start', s.pause_start_time, 'resume', s.resume_time,
            'rank', p.rank, 'grace_days', p.grace_days, 'allowances', p.allowances,
            'change', CASE WHEN c.scheduled_change_id IS NOT NULL THEN json_build_object(
                'id', c.scheduled_change_id, 'kind', c.kind, 'effective', c.effective_time, 'plan', c.plan_key,
                'version', c.plan_version, 'interval', c.interval, 'quantity', c.quantity, 'provider', c.provider,
                'resume', c.resume_time, 'created', c.create_time, 'rank', q.rank, 'grace_days', q.grace_days,
                'allowances', q.allowances
            ) END
        ))
        FROM (
            SELECT * FROM (
                SELECT *, row_number() OVER (
                    PARTITION BY state IN ('incomplete_expired', 'canceled', 'expired') ORDER BY create_time DESC
                ) AS newest
                FROM subscriptions
                WHERE tenant_id = a.tenant_id AND account_id = a.account_id
            ) AS ranked
            WHERE newest <= {PAST_SUBSCRIPTIONS_MAX} OR state NOT IN ('incomplete_expired', 'canceled', 'expired')
        ) AS s
        JOIN plans AS p ON p.tenant_id = s.tenant_id AND p.plan_key = s.plan_key AND p.version = s.plan_version
        -- What a provider carries out is not ours to foresee.
        LEFT JOIN scheduled_changes AS c ON c.tenant_id = s.tenant_id AND c.subscription_id = s.subscription_id
            AND c.state = 'pending' AND s.provider <> 'stripe'
        LEFT JOIN plans AS q ON q.tenant_id = c.tenant_id AND q.plan_key = c.plan_key AND q.version = c.plan_version
    ), '[]'::json),
    'grants', COALESCE((
        SELECT json_agg(json_build_object(
            'id', g.grant_id, 'feature', g.feature_key, 'feature_kind', f.kind, 'kind', g.kind,
            'quantity', g.quantity, 'value', g.value, 'priority', g.priority, 'start', g.start_time,
            'expire', g.expire_time, 'created', g.create_time, 'grace_end', g.grace_end_time,
            'limit', g."limit", 'recurrence', g.recurrence, 'rollover', g.rollover, 'revoked', g.revoke_time
        ))
        FROM (
            SELECT * FROM (
                SELECT *, row_number() OVER (
                    -- Only to keep documents short: what is over by the caller's clock counts for nothing anyway.
                    PARTITION BY revoke_time IS NOT NULL OR expire_time <= @at
                    ORDER BY COALESCE(revoke_time, expire_time) DESC, grant_id
                ) AS newest
                FROM grants
                -- Credits that are over still tell who paid for what was used.
                WHERE tenant_id = a.tenant_id AND account_id = a.account_id
                  AND (revoke_time IS NULL OR kind IN ('bonus', 'purchase'))
            ) AS ranked
            WHERE newest <= {PAST_GRANTS_MAX}
                OR revoke_time IS NULL AND (expire_time > @at OR expire_time IS NULL)
        ) AS g
        JOIN features AS f ON f.tenant_id = g.tenant_id AND f.feature_key = g.feature_key
    ), '[]'::json)
) AS document
FROM accounts AS a
WHERE a.tenant_id = @tenant_id AND a.account_id = ANY(@account_ids)
"""  # noqa: S608

_SELECT: Final = (
    "SELECT account_id, revision, document::text FROM ("  # noqa: S608
    + documents_statement("$1", "$2::text[]", "$3::timestamptz")
    + ") AS documents"
)


async def read_documents(
    connection: asyncpg.Connection, tenant_id: TenantId, account_ids: Iterable[AccountId], at: datetime
) -> dict[AccountId, tuple[int, str]]:
    """Return (revision, document) of each account that exists, to be looked at from the instant on.

    Runs its own transaction as the tenant.
    """
    async with connection.transaction(readonly=True):
        await connection.execute("SELECT set_config('tallygate.tenant_id', $1, true)", tenant_id)
        rows = await connection.fetch(_SELECT, tenant_id, list(account_ids), at)
    return {AccountId(row["account_id"]): (row["revision"], row["document"]) for row in rows}


def sources_from_document(tenant_id: TenantId, account_id: AccountId, document: str | bytes) -> AccountSources:
    """Return the sources that a document describes."""
    data: dict[str, Any] = json.loads(document)
    return AccountSources(
        tenant_id=tenant_id,
        account_id=account_id,
        revision=data["revision"],
        state=AccountState(data["state"]),
        time_zone=data["time_zone"],
        create_time=datetime.fromisoformat(data["created"]),
        subscriptions=tuple(_subscription_source(item) for item in data["subscriptions"]),
        grants=tuple(_grant(item) for item in data["grants"]),
    )


def _subscription_source(item: dict[str, Any]) -> SubscriptionSource:
    # A document that another release has stored knows of no pauses and no changes.
    change = item.get("change")
    return SubscriptionSource(
        subscription=Subscription(
            subscription_id=item["id"],
            plan_key=PlanKey(item["plan"]),
            plan_version=item["version"],
            state=SubscriptionState(item["state"]),
            provider=BillingProvider(item["provider"]),
            interval=BillingInterval(item["interval"]) if item["interval"] else None,
            quantity=item["quantity"],
            start_time=datetime.fromisoformat(item["start"]),
            period_start_time=datetime.fromisoformat(item["period_start"]),
            period_end_time=_time(item["period_end"]),
            trial_end_time=_time(item["trial_end"]),
            cancel_at_period_end=item["cancel_at_period_end"],
            canceled_time=_time(item["canceled"]),
            grace_end_time=_time(item["grace_end"]),
            pause_start_time=_time(item.get("pause_start")),
            resume_time=_time(item.get("resume")),
        ),
        plan_rank=item["rank"],
        grace_days=item["grace_days"],
        allowances=tuple(allowance_from_json(allowance) for allowance in item["allowances"]),
        change=_change(item["id"], change) if change is not None else None,
        terms_after=_terms(change) if change is not None and change["allowances"] is not None else None,
    )


def _change(subscription_id: str, item: dict[str, Any]) -> ScheduledChange:
    return ScheduledChange(
        scheduled_change_id=item["id"],
        subscription_id=subscription_id,
        kind=ScheduledChangeKind(item["kind"]),
        effective_time=datetime.fromisoformat(item["effective"]),
        plan_key=PlanKey(item["plan"]) if item["plan"] is not None else None,
        plan_version=item["version"],
        interval=BillingInterval(item["interval"]) if item["interval"] else None,
        quantity=item["quantity"],
        provider=BillingProvider(item["provider"]) if item["provider"] is not None else None,
        resume_time=_time(item["resume"]),
        create_time=datetime.fromisoformat(item["created"]),
    )


def _terms(item: dict[str, Any]) -> PlanTerms:
    return PlanTerms(
        plan_rank=item["rank"],
        grace_days=item["grace_days"],
        allowances=tuple(allowance_from_json(allowance) for allowance in item["allowances"]),
    )


def _grant(item: dict[str, Any]) -> Grant:
    return Grant(
        grant_id=item["id"],
        feature_key=FeatureKey(item["feature"]),
        feature_kind=FeatureKind(item["feature_kind"]),
        kind=GrantKind(item["kind"]),
        quantity=item["quantity"],
        value=item["value"],
        # A document that another release has stored knows of none of these.
        limit=limit_override_from_json(item["limit"]) if item.get("limit") is not None else None,
        recurrence=PeriodKind(item["recurrence"]) if item.get("recurrence") is not None else None,
        rollover=rollover_from_json(item["rollover"]) if item.get("rollover") is not None else None,
        priority=item["priority"],
        start_time=datetime.fromisoformat(item["start"]),
        expire_time=_time(item["expire"]),
        create_time=datetime.fromisoformat(item["created"]),
        grace_end_time=_time(item["grace_end"]),
        revoke_time=_time(item.get("revoked")),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text is not None else None
