"""SQL of corrections: single lines of the ledger, what was taken back of them, and the denials of a period.

Straight on asyncpg, as the meter role. Lines and denials never change, so they may be read before anything is locked;
what was taken back of a line is read under the lock of its counter, which every reversal of it takes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from tallygate_server.domain.corrections import Denial, Position, TakenBack
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.period import Period, PeriodKind
from tallygate_server.domain.usage import EntryKind
from tallygate_server.storage.ledger import CounterKey, entry_time

DENIALS_AT_ONCE: Final = 1_000
"""Rows that are fetched in one go: a period may have more denials than anybody wants in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """One line of the ledger."""

    key: CounterKey
    period_end: datetime | None
    position: Position
    kind: EntryKind
    quantity: int
    used_after: int
    limit: int
    event_time: datetime
    request_id: str
    dimensions: dict[str, str]
    plan_key: str
    reservation_id: str
    reversed_entry_id: int | None
    reason_text: str
    actor: str
    credits: str | None
    """JSON text: credits that paid."""

    @property
    def entry_id(self) -> int:
        """The line's id."""
        return self.position.entry_id

    @property
    def period(self) -> Period:
        """The period that it counts in."""
        return Period(PeriodKind(self.key.period_kind), self.key.period_start, self.period_end)


_FIND_LINE: Final = """
SELECT e.*, c.period_end
FROM usage_entries AS e
JOIN usage_counters AS c USING (tenant_id, account_id, feature_key, period_kind, period_start)
WHERE e.tenant_id = $1 AND e.account_id = $2 AND e.entry_id = $3
"""

_LAST_EXPORTED: Final = """
SELECT last_recorded_time FROM usage_exports
WHERE tenant_id = $1 AND account_id = $2 AND data_type = 'usage_entry'
"""

_TAKEN_BACK: Final = """
SELECT recorded_time, entry_id, -quantity
FROM usage_entries
WHERE tenant_id = $1 AND account_id = $2 AND reversed_entry_id = $3
ORDER BY recorded_time, entry_id
"""

# The last condition leaves out what would not even fit if nobody else had been let in.
_DENIALS: Final = """
SELECT recorded_time, entry_id, quantity, used_quantity, limit_quantity, COALESCE(request_id, '')
FROM usage_denials
WHERE tenant_id = $1 AND account_id = $2 AND feature_key = $3 AND reason = $4
  AND recorded_time BETWEEN $5 AND $7
  AND (recorded_time, entry_id) > ($5, $6) AND (recorded_time, entry_id) < ($7, $8)
  AND event_time >= $9 AND ($10::timestamptz IS NULL OR event_time < $10)
  AND used_quantity + quantity <= limit_quantity + $11
ORDER BY recorded_time, entry_id
"""

_ADD_AUDIT_ENTRY: Final = """
INSERT INTO audit_entries (tenant_id, actor, action, subject, detail, create_time)
VALUES ($1, $2, $3, $4, $5::jsonb, $6)
"""


async def find_line(
    connection: asyncpg.Connection, tenant_id: TenantId, account_id: AccountId, entry_id: int
) -> LedgerLine | None:
    """Return the account's line, or None."""
    row = await connection.fetchrow(_FIND_LINE, tenant_id, account_id, entry_id)
    if row is None:
        return None
    return LedgerLine(
        key=CounterKey(
            TenantId(row["tenant_id"]),
            AccountId(row["account_id"]),
            row["feature_key"],
            row["period_kind"],
            row["period_start"],
        ),
        period_end=row["period_end"],
        position=Position(row["recorded_time"], row["entry_id"]),
        kind=EntryKind(row["kind"]),
        quantity=row["quantity"],
        used_after=row["used_after"],
        limit=row["limit_quantity"],
        event_time=row["event_time"],
        request_id=row["request_id"] or "",
        dimensions=json.loads(row["dimensions"]) if row["dimensions"] else {},
        plan_key=row["plan_key"] or "",
        reservation_id=row["reservation_id"] or "",
        reversed_entry_id=row["reversed_entry_id"],
        reason_text=row["reason_text"] or "",
        actor=row["actor"] or "",
        credits=row["credits"],
    )


async def was_exported(
    connection: asyncpg.Connection, tenant_id: TenantId, account_id: AccountId, entry_id: int
) -> bool:
    """Tell whether a line with this id would have been exported with others of the account."""
    last_time: datetime | None = await connection.fetchval(_LAST_EXPORTED, tenant_id, account_id)
    return last_time is not None and entry_time(entry_id) <= last_time


async def find_taken_back(connection: asyncpg.Connection, line: LedgerLine) -> list[TakenBack]:
    """Return the reversals of the line, in order of time."""
    rows = await connection.fetch(_TAKEN_BACK, line.key.tenant_id, line.key.account_id, line.entry_id)
    return [TakenBack(Position(*row[:2]), row[2]) for row in rows]


async def denials_between(
    connection: asyncpg.Connection, line: LedgerLine, before: Position, *, freed: int
) -> AsyncIterator[Denial]:
    """Yield the denials of the line's feature and period for want of quantity, after the line and before a position.

    In order of time; those that would not fit with so much freed are left out. Needs a transaction.
    """
    key, period = line.key, line.period
    cursor = connection.cursor(
        _DENIALS,
        key.tenant_id,
        key.account_id,
        key.feature_key,
        int(Reason.EXHAUSTED),
        *line.position,
        *before,
        period.start,
        period.end,
        freed,
        prefetch=DENIALS_AT_ONCE,
    )
    async for row in cursor:
        yield Denial(
            position=Position(*row[:2]),
            feature_key=key.feature_key,
            quantity=row[2],
            used_quantity=row[3],
            limit_quantity=row[4],
            request_id=row[5],
        )


async def add_audit_entry(
    connection: asyncpg.Connection,
    tenant_id: TenantId,
    *,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, Any],
    at: datetime,
) -> None:
    """Write an entry of the audit log as the meter role; it stands or falls with the transaction."""
    text = json.dumps(detail, ensure_ascii=False)
    await connection.execute(_ADD_AUDIT_ENTRY, tenant_id, actor, action, subject, text, at)
