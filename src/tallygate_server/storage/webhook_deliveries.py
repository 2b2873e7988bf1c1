"""SQL of deliveries: one event each, on its way to one endpoint.

Claims, endings and what the publisher adds run under the outbox's own role, over all tenants; lists and replays as
the application.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final

from sqlalchemy import Row, and_, delete, func, literal, literal_column, select, text, tuple_, update

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.outbox import type_condition
from tallygate_server.storage.tables import outbox_events, webhook_deliveries, webhook_endpoints

# Spelt out and not sent as a parameter, so that every plan may use the partial index.
_IS_PENDING: Final = webhook_deliveries.c.state == literal_column("'pending'")

EndpointKey = tuple[str, str]
"""Tenant and endpoint."""


class DeliveryState(Enum):
    """Where a delivery is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDelivery:
    """An event that is to be sent to an endpoint."""

    tenant_id: TenantId
    endpoint_id: str
    event_id: int
    event_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDelivery:
    """A delivery that is ours to attempt until its lease ends."""

    tenant_id: TenantId
    delivery_id: int
    endpoint_id: str
    event_id: int
    event_type: str
    attempt: int
    create_time: datetime

    @property
    def endpoint_key(self) -> EndpointKey:
        """Tenant and endpoint."""
        return self.tenant_id, self.endpoint_id


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """A delivery as its tenant sees it."""

    delivery_id: int
    endpoint_id: str
    event_id: int
    event_type: str
    state: DeliveryState
    attempt_count: int
    http_status: int
    error: str
    next_attempt_time: datetime | None
    create_time: datetime
    end_time: datetime | None


async def add_deliveries(connection: Connection, deliveries: Sequence[NewDelivery], *, now: datetime) -> None:
    """Add deliveries that are due at once."""
    if not deliveries:
        return
    await connection.execute(
        webhook_deliveries.insert(),
        [
            {
                "tenant_id": each.tenant_id,
                "endpoint_id": each.endpoint_id,
                "event_id": each.event_id,
                "event_type": each.event_type,
                "state": DeliveryState.PENDING.value,
                "next_attempt_time": now,
                "create_time": now,
            }
            for each in deliveries
        ],
    )


_DUE: Final = text(
    """
    SELECT head.tenant_id, head.delivery_id
    FROM webhook_endpoints AS endpoint
    CROSS JOIN LATERAL (
        SELECT d.tenant_id, d.delivery_id, d.next_attempt_time
        FROM webhook_deliveries AS d
        WHERE d.tenant_id = endpoint.tenant_id AND d.endpoint_id = endpoint.endpoint_id AND d.state = 'pending'
            AND d.next_attempt_time <= :now
        ORDER BY d.next_attempt_time, d.delivery_id
        LIMIT :of_each
    ) AS head
    WHERE NOT endpoint.disabled
        AND (endpoint.retry_time IS NULL OR endpoint.retry_time <= :now)
        AND (endpoint.failure_count > 0) = :failing
        AND NOT EXISTS (
            SELECT FROM unnest(CAST(:busy_tenants AS text[]), CAST(:busy_endpoints AS text[])) AS busy (t, e)
            WHERE busy.t = endpoint.tenant_id AND busy.e = endpoint.endpoint_id
        )
    ORDER BY head.next_attempt_time, head.delivery_id
    LIMIT :limit
    """
)


async def claim(
    connection: Connection,
    *,
    now: datetime,
    lease_end: datetime,
    limit: int,
    of_each: int,
    failing: bool,
    busy: Collection[EndpointKey],
) -> list[ClaimedDelivery]:
    """Take deliveries that are due, the longest due first, and only so many of each endpoint.

    They are those of endpoints whose last attempt failed, or of all others; endpoints that are busy are left alone, and
    so is what somebody else is taking. Whoever dies with a delivery leaves it due again when the lease ends.
    """
    columns = webhook_deliveries.c
    found = await connection.execute(
        _DUE,
        {
            "now": now,
            "of_each": of_each,
            "failing": failing,
            "busy_tenants": [tenant_id for tenant_id, _ in busy],
            "busy_endpoints": [endpoint_id for _, endpoint_id in busy],
            "limit": limit,
        },
    )
    due = [(row.tenant_id, row.delivery_id) for row in found]
    if not due:
        return []
    key = tuple_(columns.tenant_id, columns.delivery_id)
    # Looked at again under the lock: somebody else may have taken or ended one in between.
    free = (
        select(columns.tenant_id, columns.delivery_id)
        .where(key.in_(due), _IS_PENDING, columns.next_attempt_time <= now)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    rows = await connection.execute(
        update(webhook_deliveries)
        .where(columns.tenant_id == free.c.tenant_id, columns.delivery_id == free.c.delivery_id)
        .values(attempt_count=columns.attempt_count + 1, next_attempt_time=lease_end)
        .returning(
            columns.tenant_id,
            columns.delivery_id,
            columns.endpoint_id,
            columns.event_id,
            columns.event_type,
            columns.attempt_count,
            columns.create_time,
        )
    )
    return [
        ClaimedDelivery(
            tenant_id=TenantId(row.tenant_id),
            delivery_id=row.delivery_id,
            endpoint_id=row.endpoint_id,
            event_id=row.event_id,
            event_type=row.event_type,
            attempt=row.attempt_count,
            create_time=row.create_time,
        )
        for row in sorted(rows, key=lambda row: row.delivery_id)
    ]


async def finish(
    connection: Connection,
    delivery: ClaimedDelivery,
    *,
    state: DeliveryState,
    http_status: int,
    error: str,
    next_attempt_time: datetime | None,
    end_time: datetime | None,
) -> bool:
    """Write down how the attempt ended; False where the delivery is no longer ours, or no longer there."""
    columns = webhook_deliveries.c
    rows = await connection.execute(
        update(webhook_deliveries)
        .where(_is_ours(delivery))
        .values(
            state=state.value,
            http_status=http_status,
            error=error,
            next_attempt_time=next_attempt_time,
            end_time=end_time,
        )
        .returning(columns.delivery_id)
    )
    return rows.one_or_none() is not None


async def release(connection: Connection, delivery: ClaimedDelivery, *, now: datetime) -> None:
    """Give the delivery back as it was, to be taken by whoever is quickest."""
    columns = webhook_deliveries.c
    await connection.execute(
        update(webhook_deliveries)
        .where(_is_ours(delivery))
        .values(next_attempt_time=now, attempt_count=columns.attempt_count - 1)
    )


async def make_due(connection: Connection, tenant_id: TenantId, endpoint_id: str, *, now: datetime) -> None:
    """Let what waits for the endpoint be attempted at once."""
    columns = webhook_deliveries.c
    await connection.execute(
        update(webhook_deliveries)
        .where(columns.tenant_id == tenant_id, columns.endpoint_id == endpoint_id, _IS_PENDING)
        .values(next_attempt_time=func.least(columns.next_attempt_time, now))
    )


async def count_pending(connection: Connection) -> int:
    """Return how many deliveries wait for endpoints that are enabled."""
    columns, endpoints = webhook_deliveries.c, webhook_endpoints.c
    statement = (
        select(func.count())
        .select_from(webhook_deliveries)
        .join(
            webhook_endpoints,
            and_(columns.tenant_id == endpoints.tenant_id, columns.endpoint_id == endpoints.endpoint_id),
        )
        .where(_IS_PENDING, ~endpoints.disabled)
    )
    return int((await connection.execute(statement)).scalar_one())


async def forget_deliveries(connection: Connection, *, before: datetime, limit: int) -> int:
    """Delete the oldest deliveries that were made before an instant."""
    columns = webhook_deliveries.c
    old = (
        select(columns.tenant_id, columns.delivery_id)
        .where(columns.create_time < before)
        .order_by(columns.create_time)
        .limit(limit)
        .cte("old")
    )
    rows = await connection.execute(
        delete(webhook_deliveries)
        .where(columns.tenant_id == old.c.tenant_id, columns.delivery_id == old.c.delivery_id)
        .returning(columns.delivery_id)
    )
    return len(list(rows))


# --- As the application --------------------------------------------------------------------------------------


async def page_of_deliveries(
    connection: Connection,
    tenant_id: TenantId,
    *,
    endpoint_id: str,
    event_id: int | None,
    state: DeliveryState | None,
    before_delivery_id: int | None,
    limit: int,
) -> list[DeliveryRow]:
    """Return deliveries, newest first, those before one."""
    columns = webhook_deliveries.c
    statement = select(webhook_deliveries).where(columns.tenant_id == tenant_id)
    if endpoint_id:
        statement = statement.where(columns.endpoint_id == endpoint_id)
    if event_id is not None:
        statement = statement.where(columns.event_id == event_id)
    if state is not None:
        statement = statement.where(columns.state == state.value)
    if before_delivery_id is not None:
        statement = statement.where(columns.delivery_id < before_delivery_id)
    rows = await connection.execute(statement.order_by(columns.delivery_id.desc()).limit(limit))
    return [_row(row) for row in rows]


async def missing_event(connection: Connection, tenant_id: TenantId, event_ids: Sequence[int]) -> int | None:
    """Return the first of the ids of which there is no published event; None where all are there."""
    columns = outbox_events.c
    rows = await connection.execute(
        select(columns.event_id).where(
            columns.tenant_id == tenant_id, columns.event_id.in_(event_ids), columns.sequence.is_not(None)
        )
    )
    found = {row.event_id for row in rows}
    return next((event_id for event_id in event_ids if event_id not in found), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedEvents:
    """Which events are sent to an endpoint again."""

    endpoint_id: str
    event_ids: tuple[int, ...] = ()
    """Empty: those of the range and of the types."""
    event_types: tuple[str, ...] = ()
    start_time: datetime | None = None
    end_time: datetime | None = None
    up_to_sequence: int
    """What is published later is sent anyway."""
    failed_only: bool
    """Only what never arrived."""


async def replay(
    connection: Connection,
    tenant_id: TenantId,
    wanted: ReplayedEvents,
    *,
    after_sequence: int,
    now: datetime,
    limit: int,
) -> tuple[int, int, int | None]:
    """Send events again, the oldest first, those after a sequence, and look at no more than so many.

    What waits for the endpoint already is not added but made due. Return how many are sent, how many were looked at,
    and the sequence of the last.
    """
    events, columns = outbox_events.c, webhook_deliveries.c
    statement = select(events.event_id, events.sequence, events.public_type).where(
        events.tenant_id == tenant_id,
        events.sequence.is_not(None),
        events.sequence > after_sequence,
        events.sequence <= wanted.up_to_sequence,
    )
    if wanted.event_ids:
        statement = statement.where(events.event_id.in_(wanted.event_ids))
    else:
        if wanted.end_time is not None:
            statement = statement.where(events.create_time < wanted.end_time)
        if wanted.start_time is not None:
            statement = statement.where(events.create_time >= wanted.start_time)
        of_type = type_condition(wanted.event_types, events.public_type)
        if of_type is not None:
            statement = statement.where(of_type)
    found = list(await connection.execute(statement.order_by(events.sequence).limit(limit)))
    if not found:
        return 0, 0, None
    earlier = await connection.execute(
        select(columns.event_id, columns.state)
        .where(
            columns.tenant_id == tenant_id,
            columns.endpoint_id == wanted.endpoint_id,
            columns.event_id.in_([row.event_id for row in found]),
        )
        .distinct()
    )
    states: dict[int, set[str]] = {}
    for row in earlier:
        states.setdefault(row.event_id, set()).add(row.state)
    sent = [
        row
        for row in found
        if not (wanted.failed_only and DeliveryState.DELIVERED.value in states.get(row.event_id, ()))
    ]
    waiting = [row.event_id for row in sent if DeliveryState.PENDING.value in states.get(row.event_id, ())]
    if waiting:
        await connection.execute(
            update(webhook_deliveries)
            .where(
                columns.tenant_id == tenant_id,
                columns.endpoint_id == wanted.endpoint_id,
                columns.event_id.in_(waiting),
                _IS_PENDING,
            )
            .values(next_attempt_time=func.least(columns.next_attempt_time, literal(now)))
        )
    known = set(waiting)
    new = [
        NewDelivery(
            tenant_id=tenant_id, endpoint_id=wanted.endpoint_id, event_id=row.event_id, event_type=row.public_type
        )
        for row in sent
        if row.event_id not in known
    ]
    await add_deliveries(connection, new, now=now)
    return len(sent), len(found), found[-1].sequence


def _is_ours(delivery: ClaimedDelivery) -> Any:
    # Whoever takes a delivery raises its attempts: an attempt that outlived its lease finds another number.
    columns = webhook_deliveries.c
    return and_(
        columns.tenant_id == delivery.tenant_id,
        columns.delivery_id == delivery.delivery_id,
        columns.attempt_count == delivery.attempt,
        _IS_PENDING,
    )


def _row(row: Row[Any]) -> DeliveryRow:
    return DeliveryRow(
        delivery_id=row.delivery_id,
        endpoint_id=row.endpoint_id,
        event_id=row.event_id,
        event_type=row.event_type,
        state=DeliveryState(row.state),
        attempt_count=row.attempt_count,
        http_status=row.http_status,
        error=row.error,
        next_attempt_time=row.next_attempt_time if row.state == DeliveryState.PENDING.value else None,
        create_time=row.create_time,
        end_time=row.end_time,
    )
