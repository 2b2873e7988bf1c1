"""Reservations: statements on their rows, and on the counters that carry their sum.

A reservation changes only under the lock of its counter, in a transaction of the meter role (`Ledger.exact`), together
with the counter's `reserved_quantity`: that is the sum of those that are held, always. Which counter it belongs to
never changes, so it may be looked up before the lock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, or_, select

from tallygate_server.domain.catalog import OverrunPolicy
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.period import Period, PeriodKind
from tallygate_server.domain.reservation import Reservation, ReservationState
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.ledger import CounterKey, ExactTransaction
from tallygate_server.storage.tables import reservations

ReservationKey = tuple[TenantId, AccountId, str]


class FoundReservation(NamedTuple):
    """A row, and the first answer to its commit as JSON (None before)."""

    reservation: Reservation
    answer: dict[str, Any] | None


_FIND: Final = """
SELECT r.*
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(tenant_id, account_id, reservation_id)
JOIN reservations AS r USING (tenant_id, account_id, reservation_id)
"""

_INSERT: Final = """
INSERT INTO reservations (
    tenant_id, account_id, reservation_id, feature_key, period_kind, period_start, period_end, state, quantity,
    overrun_policy, dimensions, request_id, event_time, create_time, expire_time
)
SELECT k.tenant_id, k.account_id, k.reservation_id, k.feature_key, k.period_kind, k.period_start, k.period_end, 'held',
    k.quantity, k.overrun_policy, k.dimensions::jsonb, k.request_id, k.event_time, k.create_time, k.expire_time
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::bigint[],
    $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[]
) AS k(
    tenant_id, account_id, reservation_id, feature_key, period_kind, period_start, period_end, quantity,
    overrun_policy, dimensions, request_id, event_time, create_time, expire_time
)
"""

_CHANGE: Final = """
UPDATE reservations AS r
SET state = k.state, expire_time = k.expire_time, close_time = k.close_time,
    committed_quantity = k.committed_quantity, entry_id = k.entry_id, answer = COALESCE(k.answer::jsonb, r.answer)
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::bigint[], $8::bigint[],
    $9::text[]
) AS k(
    tenant_id, account_id, reservation_id, state, expire_time, close_time, committed_quantity, entry_id, answer
)
WHERE (r.tenant_id, r.account_id, r.reservation_id) = (k.tenant_id, k.account_id, k.reservation_id)
"""

_KEY: Final = "tenant_id, account_id, feature_key, period_kind, period_start"

_DUE_COUNTERS: Final = f"""
SELECT DISTINCT {_KEY}, period_end
FROM (SELECT * FROM reservations WHERE state = 'held' AND expire_time <= $1 ORDER BY expire_time LIMIT $2) AS due
"""  # noqa: S608 - of constants.

_FORGET: Final = """
DELETE FROM reservations
WHERE (tenant_id, account_id, reservation_id) IN (
    SELECT tenant_id, account_id, reservation_id FROM reservations WHERE close_time < $1 LIMIT $2
)
"""


async def find(transaction: ExactTransaction, keys: Sequence[ReservationKey]) -> dict[ReservationKey, FoundReservation]:
    """Return those of the reservations that there are."""
    if not keys:
        return {}
    rows = await transaction.connection.fetch(_FIND, *zip(*keys, strict=True))
    return {(row["tenant_id"], row["account_id"], row["reservation_id"]): _found(row) for row in rows}


async def due_counters(
    transaction: ExactTransaction, at: datetime, reservations_max: int
) -> dict[CounterKey, datetime | None]:
    """Return the counters, with the ends of their periods, of reservations that have expired by the instant.

    Looks at so many reservations at most, those first that expired first.
    """
    rows = await transaction.connection.fetch(_DUE_COUNTERS, at, reservations_max)
    return {CounterKey(*row[:5]): row["period_end"] for row in rows}


async def write(
    transaction: ExactTransaction,
    *,
    made: Sequence[Reservation],
    changed: Sequence[FoundReservation],
) -> None:
    """Write new reservations, and others as they are now (with the first answer to their commit).

    Their counters must be locked; what becomes of these is written by `ExactTransaction.write`.
    """
    connection = transaction.connection
    if made:
        await connection.execute(
            _INSERT,
            [each.tenant_id for each in made],
            [each.account_id for each in made],
            [each.reservation_id for each in made],
            [each.feature_key for each in made],
            [each.period.kind.value for each in made],
            [each.period.start for each in made],
            [each.period.end for each in made],
            [each.quantity for each in made],
            [each.overrun_policy.value for each in made],
            [json.dumps(each.dimensions) if each.dimensions else None for each in made],
            [each.request_id or None for each in made],
            [each.event_time for each in made],
            [each.create_time for each in made],
            [each.expire_time for each in made],
        )
    if changed:
        await connection.execute(
            _CHANGE,
            [each.tenant_id for each, _ in changed],
            [each.account_id for each, _ in changed],
            [each.reservation_id for each, _ in changed],
            [each.state.value for each, _ in changed],
            [each.expire_time for each, _ in changed],
            [each.close_time for each, _ in changed],
            [each.committed_quantity for each, _ in changed],
            [each.entry_id or None for each, _ in changed],
            [json.dumps(answer) if answer is not None else None for _, answer in changed],
        )


async def forget_closed(transaction: ExactTransaction, before: datetime, rows_max: int) -> int:
    """Delete reservations that were closed before the instant, at most so many; return how many."""
    tag: str = await transaction.connection.execute(_FORGET, before, rows_max)
    return int(tag.rsplit(" ", 1)[-1])


async def exists(connection: Connection, tenant_id: TenantId, account_id: AccountId, reservation_id: str) -> bool:
    """Tell whether the account has the reservation, in a transaction of its tenant."""
    t = reservations.c
    query = select(t.reservation_id).where(
        t.tenant_id == tenant_id, t.account_id == account_id, t.reservation_id == reservation_id
    )
    return (await connection.execute(query)).first() is not None


async def read_page(
    connection: Connection,
    tenant_id: TenantId,
    account_id: AccountId,
    *,
    feature_key: str,
    state: ReservationState | None,
    now: datetime,
    before_reservation_id: str,
    limit: int,
) -> list[Reservation]:
    """Return reservations of the account, newest first, those before one (empty: from the newest), at most so many.

    `state` is the one in which they stand at `now`: one that is held and whose time is over has expired.
    """
    t = reservations.c
    query = (
        select(reservations)
        .where(t.tenant_id == tenant_id, t.account_id == account_id)
        # Ids are in the order of their making.
        .order_by(t.reservation_id.desc())
        .limit(limit)
    )
    if feature_key:
        query = query.where(t.feature_key == feature_key)
    if before_reservation_id:
        query = query.where(t.reservation_id < before_reservation_id)
    held = t.state == ReservationState.HELD.value
    if state is ReservationState.HELD:
        query = query.where(and_(held, t.expire_time > now))
    elif state is ReservationState.EXPIRED:
        query = query.where(or_(t.state == state.value, and_(held, t.expire_time <= now)))
    elif state is not None:
        query = query.where(t.state == state.value)
    return [_reservation(row) for row in (await connection.execute(query)).mappings()]


def _found(row: Any) -> FoundReservation:
    answer = row["answer"]
    return FoundReservation(_reservation(row), json.loads(answer) if isinstance(answer, str) else answer)


def _reservation(row: Any) -> Reservation:
    dimensions = row["dimensions"]
    return Reservation(
        tenant_id=TenantId(row["tenant_id"]),
        account_id=AccountId(row["account_id"]),
        reservation_id=row["reservation_id"],
        feature_key=FeatureKey(row["feature_key"]),
        period=Period(PeriodKind(row["period_kind"]), row["period_start"], row["period_end"]),
        state=ReservationState(row["state"]),
        quantity=row["quantity"],
        overrun_policy=OverrunPolicy(row["overrun_policy"]),
        # One driver gives JSON as text, the other as values.
        dimensions=(json.loads(dimensions) if isinstance(dimensions, str) else dimensions) or {},
        request_id=row["request_id"] or "",
        event_time=row["event_time"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        close_time=row["close_time"],
        committed_quantity=row["committed_quantity"],
        entry_id=row["entry_id"] or 0,
    )
