"""SQL of rows that are done with: what was deleted softly, and what is kept for a time only.

Every rule names rows that nothing refers to any more and that no answer rests on; README.md of `lifecycle/own_data`
says of each sort of row why it goes, or why it stays. Under the lifecycle's role.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import text

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.connection import Connection

_INSTANT: Final = re.compile(r":(\w+_before)")
LOOK_TIMEOUT_MS: Final = 120_000
"""Rows that are due are counted once a day, on tables of any size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftoverRule:
    """Rows of one table that may go."""

    name: str
    table: str
    condition: str
    """On the row `t`; with the instants `:deleted_before`, `:history_before`, `:requests_before`, `:reads_before`."""
    values: str = ""
    """What is emptied of rows that stay; none: they go."""

    @property
    def due(self) -> str:
        """Return the condition with the types of its instants, which comparing them alone does not tell."""
        return _INSTANT.sub(r"CAST(:\1 AS timestamptz)", self.condition)


_ENDED: Final = "LEAST(t.revoke_time, t.expire_time)"

RULES: Final = (
    LeftoverRule(
        name="grants",
        table="grants",
        # Whoever asks why an account had a right in the past is told from its history, as far back as that goes.
        condition=f"""
            {_ENDED} < LEAST(:deleted_before, :history_before)
            AND (t.grace_end_time IS NULL OR t.grace_end_time < LEAST(:deleted_before, :history_before))
            AND NOT EXISTS (
                SELECT FROM grant_balances AS b
                WHERE b.tenant_id = t.tenant_id AND b.account_id = t.account_id AND b.grant_id = t.grant_id
                    AND b.used_quantity > 0
            )""",
    ),
    LeftoverRule(
        name="grant_balances",
        table="grant_balances",
        condition="""
            t.used_quantity = 0 AND t.update_time < :deleted_before AND NOT EXISTS (
                SELECT FROM grants AS g
                WHERE g.tenant_id = t.tenant_id AND g.account_id = t.account_id AND g.grant_id = t.grant_id
            )""",
    ),
    LeftoverRule(
        name="account_identities",
        table="account_identities",
        condition="""
            EXISTS (
                SELECT FROM accounts AS a
                WHERE a.tenant_id = t.tenant_id AND a.account_id = t.account_id AND a.state = 'deleted'
                    AND a.delete_time < :deleted_before
            )""",
    ),
    LeftoverRule(
        name="deleted_accounts",
        table="accounts",
        # The row stays: the account's id is never given to anybody else, and its books go on adding up.
        condition="""
            t.state = 'deleted' AND t.delete_time < :deleted_before
            AND (t.email <> '' OR t.display_name <> '' OR t.preferences <> '{}'::jsonb OR t.metadata <> '{}'::jsonb)""",
        values="email = '', display_name = '', preferences = '{}'::jsonb, metadata = '{}'::jsonb",
    ),
    LeftoverRule(
        name="customers",
        table="customers",
        condition="""
            t.deleted AND t.update_time < :deleted_before AND NOT EXISTS (
                SELECT FROM subscriptions AS s
                WHERE s.tenant_id = t.tenant_id AND s.account_id = t.account_id
                    AND s.provider_customer_id = t.provider_customer_id
                    AND s.state NOT IN ('incomplete_expired', 'canceled', 'expired')
            )""",
    ),
    LeftoverRule(
        name="checkout_sessions",
        table="checkout_sessions",
        condition="t.state IN ('complete', 'expired') AND t.update_time < :deleted_before",
    ),
    LeftoverRule(
        name="billing_operations",
        table="billing_operations",
        condition="t.state IN ('done', 'failed') AND t.update_time < :deleted_before",
    ),
    LeftoverRule(
        name="scheduled_changes",
        table="scheduled_changes",
        condition="t.state IN ('done', 'canceled', 'failed') AND t.update_time < :deleted_before",
    ),
    LeftoverRule(
        name="legal_holds",
        table="legal_holds",
        # The audit log keeps who placed and released it.
        condition="LEAST(t.release_time, t.end_time) < :deleted_before",
    ),
    LeftoverRule(
        name="account_revisions",
        table="account_revisions",
        # The one in force when the history begins stays, whenever it began.
        condition="""
            EXISTS (
                SELECT FROM account_revisions AS later
                WHERE later.tenant_id = t.tenant_id AND later.account_id = t.account_id
                    AND later.revision > t.revision AND later.begin_time <= :history_before
            )""",
    ),
    LeftoverRule(name="grant_requests", table="grant_requests", condition="t.create_time < :requests_before"),
    LeftoverRule(name="data_requests", table="data_requests", condition="t.create_time < :requests_before"),
    LeftoverRule(name="segment_reads", table="data_segment_reads", condition="t.day < (:reads_before)::date"),
)
"""In this order: what refers to others goes before them."""


async def count_due(
    connection: Connection, rule: LeftoverRule, instants: Mapping[str, datetime]
) -> dict[TenantId, int]:
    """Return how many rows of each tenant are due; in a transaction that sees all tenants."""
    await connection.execute(text(f"SET LOCAL statement_timeout = {LOOK_TIMEOUT_MS}"))
    rows = await connection.execute(
        text(f"SELECT t.tenant_id, count(*) FROM {rule.table} AS t WHERE {rule.due} GROUP BY t.tenant_id"),  # noqa: S608
        _used(rule, instants),
    )
    return {TenantId(row[0]): row[1] for row in rows}


async def purge(
    connection: Connection, rule: LeftoverRule, tenant_id: TenantId, instants: Mapping[str, datetime], *, limit: int
) -> int:
    """Delete, or empty, rows of the tenant that are due, at most so many; return how many."""
    # No change of entitlements: what goes had ended long ago.
    await connection.execute(text("SELECT set_config('tallygate.change', 'own', true)"))
    change = f"UPDATE {rule.table} SET {rule.values}" if rule.values else f"DELETE FROM {rule.table}"  # noqa: S608
    changed = await connection.execute(
        text(
            f"{change} WHERE ctid = ANY(ARRAY("  # noqa: S608 - names of our own.
            f"SELECT t.ctid FROM {rule.table} AS t WHERE t.tenant_id = :tenant_id AND {rule.due} LIMIT :limit"
            f")) AND tenant_id = :tenant_id"
        ),
        {"tenant_id": tenant_id, "limit": limit} | _used(rule, instants),
    )
    return int(changed.rowcount)


def _used(rule: LeftoverRule, instants: Mapping[str, datetime]) -> dict[str, Any]:
    return {name: instant for name, instant in instants.items() if f":{name}" in rule.condition}
