"""SQL of the outbox: events that happened, written in the transaction that made them happen, and told afterwards.

An event has no `sequence` until it is published. One publisher at a time gives them, and holds the row of the last one
until it commits: so whoever has seen a sequence has seen all smaller ones, however late the transaction of an event
was committed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Row, Text, cast, column, delete, func, literal_column, select, update
from sqlalchemy import values as sql_values
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.event_types import PUBLIC_EVENTS
from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import accounts, outbox_events, outbox_horizons, outbox_position

CHANNEL: Final = "tallygate_events"
"""Where is announced that events were published, or that deliveries are due."""

# Spelt out and not sent as parameters, so that every plan may use the partial indexes.
_IS_WAITING: Final = outbox_events.c.publish_time.is_(None)
_IS_SHOWN: Final = outbox_events.c.sequence.is_not(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEvent:
    """An event as tenants may see it."""

    event_id: int
    tenant_id: TenantId
    account_id: str
    event_type: str
    """As tenants know it."""
    sequence: int
    revision: int
    create_time: datetime
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingEvent:
    """An event that is not published yet."""

    event_id: int
    tenant_id: TenantId
    event_type: str
    """As it is called inside."""
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What an event is published as."""

    event: WaitingEvent
    public_type: str | None
    """None: not for tenants."""
    sequence: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events of a tenant somebody wants to see."""

    account_id: str = ""
    """Empty: of all accounts, and of none."""
    event_types: tuple[str, ...] = ()
    """Empty: all; `subscription.*` stands for all that begin so."""


async def add_event(
    connection: Connection,
    tenant_id: TenantId,
    *,
    event_type: str,
    account_id: str = "",
    revision: int | None = None,
    payload: Mapping[str, Any],
    create_time: datetime,
) -> None:
    """Write an event to be published once the transaction is committed; the type is one of `PUBLIC_EVENTS`.

    One about an account has the revision that the account has in the transaction, unless the caller knows better.
    """
    of_account = select(accounts.c.revision).where(
        accounts.c.tenant_id == tenant_id, accounts.c.account_id == account_id
    )
    known: Any = revision
    if revision is None:
        known = func.coalesce(of_account.scalar_subquery(), 0) if account_id else 0
    await connection.execute(
        outbox_events.insert().values(
            tenant_id=tenant_id,
            type=event_type,
            account_id=account_id,
            revision=known,
            payload=dict(payload),
            create_time=create_time,
        )
    )


# --- Publishing, as the outbox's own role --------------------------------------------------------------------


async def any_waiting(connection: Connection) -> bool:
    """Tell whether an event waits to be published."""
    return bool((await connection.execute(select(select(1).where(_IS_WAITING).exists()))).scalar_one())


async def take_position(connection: Connection) -> int | None:
    """Return the last sequence that was given and keep others from giving any; None where somebody else publishes."""
    statement = select(outbox_position.c.last_sequence).with_for_update(skip_locked=True)
    return (await connection.execute(statement)).scalar_one_or_none()


async def waiting_events(connection: Connection, *, limit: int) -> list[WaitingEvent]:
    """Return events that wait, in the order of their making."""
    columns = outbox_events.c
    rows = await connection.execute(
        select(columns.event_id, columns.tenant_id, columns.type, columns.create_time)
        .where(_IS_WAITING)
        .order_by(columns.event_id)
        .limit(limit)
    )
    return [
        WaitingEvent(
            event_id=row.event_id,
            tenant_id=TenantId(row.tenant_id),
            event_type=row.type,
            create_time=row.create_time,
        )
        for row in rows
    ]


async def publish(
    connection: Connection, publications: Sequence[Publication], *, last_sequence: int, publish_time: datetime
) -> None:
    """Write down what the events are published as, and announce it; the position must have been taken."""
    columns = outbox_events.c
    given = sql_values(
        column("event_id", BigInteger),
        column("tenant_id", Text),
        column("sequence", BigInteger),
        column("public_type", Text),
        name="given",
    ).data([(each.event.event_id, each.event.tenant_id, each.sequence, each.public_type) for each in publications])
    await connection.execute(
        update(outbox_events)
        .where(columns.tenant_id == given.c.tenant_id, columns.event_id == given.c.event_id)
        .values(
            # Where all are NULL, nothing else says of which type they are.
            sequence=cast(given.c.sequence, BigInteger),
            public_type=cast(given.c.public_type, Text),
            publish_time=publish_time,
        )
    )
    await connection.execute(update(outbox_position).values(last_sequence=last_sequence))
    await announce(connection)


async def announce(connection: Connection) -> None:
    """Wake those who tell tenants, in every process, once the transaction is committed."""
    await connection.execute(select(func.pg_notify(CHANNEL, "")))


async def read_published(
    connection: Connection, tenant_ids: Collection[str], *, after: int, up_to: int, limit: int
) -> list[OutboxEvent]:
    """Return published events of these tenants between two sequences, in order."""
    columns = outbox_events.c
    rows = await connection.execute(
        select(outbox_events)
        .where(
            _IS_SHOWN,
            columns.sequence > after,
            columns.sequence <= up_to,
            columns.tenant_id.in_(sorted(tenant_ids)),
        )
        .order_by(columns.sequence)
        .limit(limit)
    )
    return [_event(row) for row in rows]


async def oldest_waiting_time(connection: Connection) -> datetime | None:
    """Return when the oldest event was made that waits to be published."""
    columns = outbox_events.c
    statement = select(columns.create_time).where(_IS_WAITING).order_by(columns.event_id).limit(1)
    return (await connection.execute(statement)).scalar_one_or_none()


async def forget_published(connection: Connection, *, before: datetime, limit: int) -> int:
    """Delete the oldest events that were published before an instant; remember where each tenant's now begin."""
    columns = outbox_events.c
    old = (
        select(columns.tenant_id, columns.event_id)
        .where(columns.publish_time < before)
        .order_by(columns.publish_time)
        .limit(limit)
        .cte("old")
    )
    rows = await connection.execute(
        delete(outbox_events)
        .where(columns.tenant_id == old.c.tenant_id, columns.event_id == old.c.event_id)
        .returning(columns.tenant_id, columns.sequence)
    )
    deleted = list(rows)
    newest: dict[str, int] = {}
    for row in deleted:
        if row.sequence is not None:
            newest[row.tenant_id] = max(newest.get(row.tenant_id, 0), row.sequence)
    if newest:
        statement = insert(outbox_horizons).values(
            [{"tenant_id": tenant_id, "sequence": newest[tenant_id]} for tenant_id in sorted(newest)]
        )
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=["tenant_id"],
                set_={"sequence": func.greatest(outbox_horizons.c.sequence, statement.excluded.sequence)},
            )
        )
    return len(deleted)


# --- Reading, as the application -----------------------------------------------------------------------------


async def last_sequence(connection: Connection) -> int:
    """Return the last sequence that was given, of any tenant: whatever is published later has a bigger one."""
    return int((await connection.execute(select(outbox_position.c.last_sequence))).scalar_one())


async def horizon(connection: Connection, tenant_id: TenantId) -> tuple[int, int]:
    """Return the sequence of the tenant's newest event that is no longer kept and of the oldest that is; 0 for none."""
    statement = select(outbox_horizons.c.sequence).where(outbox_horizons.c.tenant_id == tenant_id)
    gone = (await connection.execute(statement)).scalar_one_or_none() or 0
    columns = outbox_events.c
    oldest = (
        select(columns.sequence).where(columns.tenant_id == tenant_id, _IS_SHOWN).order_by(columns.sequence).limit(1)
    )
    return gone, (await connection.execute(oldest)).scalar_one_or_none() or 0


async def events_after(
    connection: Connection, tenant_id: TenantId, wanted: EventFilter, *, after: int, up_to: int | None, limit: int
) -> list[OutboxEvent]:
    """Return published events after a sequence, oldest first."""
    columns = outbox_events.c
    statement = _wanted(tenant_id, wanted).where(columns.sequence > after)
    if up_to is not None:
        statement = statement.where(columns.sequence <= up_to)
    rows = await connection.execute(statement.order_by(columns.sequence).limit(limit))
    return [_event(row) for row in rows]


async def page_of_events(
    connection: Connection,
    tenant_id: TenantId,
    wanted: EventFilter,
    *,
    start_time: datetime | None,
    end_time: datetime | None,
    before_sequence: int | None,
    limit: int,
) -> list[OutboxEvent]:
    """Return published events, newest first, those before a sequence."""
    columns = outbox_events.c
    statement = _wanted(tenant_id, wanted)
    if start_time is not None:
        statement = statement.where(columns.create_time >= start_time)
    if end_time is not None:
        statement = statement.where(columns.create_time < end_time)
    if before_sequence is not None:
        statement = statement.where(columns.sequence < before_sequence)
    rows = await connection.execute(statement.order_by(columns.sequence.desc()).limit(limit))
    return [_event(row) for row in rows]


async def read_event(connection: Connection, tenant_id: TenantId, event_id: int) -> OutboxEvent | None:
    """Return a published event, or None where there is none, or none any more."""
    columns = outbox_events.c
    row = (
        await connection.execute(
            select(outbox_events).where(columns.tenant_id == tenant_id, columns.event_id == event_id, _IS_SHOWN)
        )
    ).one_or_none()
    return None if row is None else _event(row)


def type_condition(event_types: Collection[str], type_column: Any) -> Any:
    """Return the condition that an event's type is one of these; None where they stand for all."""
    if not event_types:
        return None
    groups = [name.removesuffix(".*") for name in event_types if name.endswith(".*")]
    names = [name for name in event_types if not name.endswith(".*")]
    return type_column.in_(names) | func.split_part(type_column, literal_column("'.'"), 1).in_(groups)


def _wanted(tenant_id: TenantId, wanted: EventFilter) -> Any:
    columns = outbox_events.c
    statement = select(outbox_events).where(columns.tenant_id == tenant_id, _IS_SHOWN)
    if wanted.account_id:
        statement = statement.where(columns.account_id == wanted.account_id)
    of_type = type_condition(wanted.event_types, columns.public_type)
    return statement if of_type is None else statement.where(of_type)


def _event(row: Row[Any]) -> OutboxEvent:
    public = PUBLIC_EVENTS.get(row.type)
    change = {"change": public.change} if public is not None and public.change else {}
    return OutboxEvent(
        event_id=row.event_id,
        tenant_id=TenantId(row.tenant_id),
        account_id=row.account_id,
        event_type=row.public_type,
        sequence=row.sequence,
        revision=row.revision,
        create_time=row.create_time,
        payload={**row.payload, **change},
    )
