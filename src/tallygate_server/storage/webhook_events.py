"""SQL of webhooks as they came in. Every function runs in the caller's transaction, under the role of the intake."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, and_, case, func, literal, literal_column, null, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import account_identities, archived_webhook_events, webhook_events
from tallygate_server.webhooks.events import WebhookEventState, WebhookSource

CHANNEL: Final = "tallygate_webhooks"
"""Where is announced that an event was stored, and that an attempt to process one ended."""
STORED: Final = "stored"

# Spelt out and not sent as parameters, so that every plan may use the partial indexes of these states.
_IS_OPEN: Final = webhook_events.c.state.in_([literal_column("'pending'"), literal_column("'retrying'")])
_IS_DEAD: Final = webhook_events.c.state == literal_column("'dead'")

EventKey = tuple[WebhookSource, str]
"""Source, and id there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """A genuine webhook."""

    source: WebhookSource
    event_id: str
    event_type: str
    tenant_id: str
    payload: bytes
    event_time: datetime | None
    receive_time: datetime
    api_version: str
    api_version_mismatch: bool
    ignored: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What became of a webhook that was to be stored."""

    duplicate: bool
    payload_before: bytes | None
    """Of a duplicate: the body that came first; None where it was archived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedEvent:
    """An event that is ours to process until its lease ends."""

    source: WebhookSource
    event_id: str
    event_type: str
    tenant_id: str
    payload: bytes
    event_time: datetime | None
    receive_time: datetime
    attempt: int
    processed_before: bool

    @property
    def key(self) -> EventKey:
        """Source and id."""
        return self.source, self.event_id


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEventRow:
    """An event as an administrator sees it."""

    source: WebhookSource
    event_id: str
    sequence: int
    event_type: str
    tenant_id: str
    account_id: str
    state: WebhookEventState
    attempt_count: int
    delivery_count: int
    error: str
    next_attempt_time: datetime | None
    api_version: str
    api_version_mismatch: bool
    event_time: datetime | None
    receive_time: datetime
    process_time: datetime | None
    payload: bytes = b""
    """Left out of lists."""


def ended_announcement(key: EventKey) -> str:
    """Return what is announced when an attempt to process the event has ended."""
    return f"{key[0].value}/{key[1]}"


def ended_event(announcement: str) -> EventKey | None:
    """Return the event whose attempt ended; None for any other announcement."""
    source, slash, event_id = announcement.partition("/")
    if not slash or source not in {member.value for member in WebhookSource}:
        return None
    return WebhookSource(source), event_id


async def store(connection: Connection, event: NewEvent) -> Stored:
    """Store the event once; one that is there already is only counted, one that was archived is known by its name.

    Announces a new one that waits for its turn.
    """
    columns = webhook_events.c
    state = WebhookEventState.IGNORED if event.ignored else WebhookEventState.PENDING
    first = columns.delivery_count == 1
    statement = (
        insert(webhook_events)
        .values(
            source=event.source.value,
            event_id=event.event_id,
            event_type=event.event_type,
            tenant_id=event.tenant_id or None,
            state=state.value,
            next_attempt_time=None if event.ignored else event.receive_time,
            api_version=event.api_version,
            api_version_mismatch=event.api_version_mismatch,
            payload=event.payload,
            event_time=event.event_time,
            receive_time=event.receive_time,
        )
        .on_conflict_do_update(
            index_elements=["source", "event_id"], set_={"delivery_count": columns.delivery_count + 1}
        )
        .returning(
            columns.delivery_count,
            case((first, null()), else_=columns.payload).label("payload_before"),
            case((and_(first, literal(not event.ignored)), func.pg_notify(CHANNEL, STORED))),
        )
    )
    archived = archived_webhook_events.c
    was_archived = select(literal(1)).where(archived.source == event.source.value, archived.event_id == event.event_id)
    async with connection.begin_nested() as attempt:
        row = (await connection.execute(statement)).one()
        # Asked after the row is there, for whoever archives the event meanwhile is waited for above.
        if row.delivery_count == 1 and (await connection.execute(was_archived)).first() is not None:
            await attempt.rollback()
            return Stored(duplicate=True, payload_before=None)
    return Stored(duplicate=row.delivery_count > 1, payload_before=row.payload_before)


async def claim(
    connection: Connection, sources: Collection[WebhookSource], *, now: datetime, lease_end: datetime, limit: int
) -> list[ClaimedEvent]:
    """Take events that are due, the longest due first, passing over those that somebody else is taking.

    Whoever dies with an event leaves it due again when the lease ends.
    """
    columns = webhook_events.c
    due = (
        select(columns.source, columns.event_id)
        .where(
            _IS_OPEN,
            columns.next_attempt_time <= now,
            columns.source.in_([source.value for source in sources]),
        )
        .order_by(columns.next_attempt_time, columns.sequence)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    rows = await connection.execute(
        update(webhook_events)
        .where(columns.source == due.c.source, columns.event_id == due.c.event_id)
        .values(attempt_count=columns.attempt_count + 1, next_attempt_time=lease_end)
        .returning(
            columns.source,
            columns.event_id,
            columns.sequence,
            columns.event_type,
            columns.tenant_id,
            columns.payload,
            columns.event_time,
            columns.receive_time,
            columns.attempt_count,
            columns.process_time,
        )
    )
    return [
        ClaimedEvent(
            source=WebhookSource(row.source),
            event_id=row.event_id,
            event_type=row.event_type,
            tenant_id=row.tenant_id or "",
            payload=row.payload,
            event_time=row.event_time,
            receive_time=row.receive_time,
            attempt=row.attempt_count,
            processed_before=row.process_time is not None,
        )
        for row in sorted(rows, key=lambda row: row.sequence)
    ]


async def finish(
    connection: Connection,
    event: ClaimedEvent,
    *,
    state: WebhookEventState,
    error: str = "",
    next_attempt_time: datetime | None = None,
    process_time: datetime | None = None,
    tenant_id: str = "",
    account_id: str = "",
) -> bool:
    """Write down how the attempt ended, and announce it; False where the event is no longer ours."""
    columns = webhook_events.c
    values: dict[str, Any] = {
        "state": state.value,
        "error": error,
        "next_attempt_time": next_attempt_time,
    }
    if process_time is not None:
        values["process_time"] = process_time
    if tenant_id:
        values["tenant_id"] = tenant_id
    if account_id:
        values["account_id"] = account_id
    rows = await connection.execute(
        update(webhook_events)
        .where(_is_ours(event))
        .values(**values)
        .returning(columns.sequence, func.pg_notify(CHANNEL, ended_announcement(event.key)))
    )
    return rows.one_or_none() is not None


async def release(connection: Connection, event: ClaimedEvent, *, now: datetime) -> None:
    """Give the event back, to be taken by whoever is quickest."""
    await connection.execute(update(webhook_events).where(_is_ours(event)).values(next_attempt_time=now))


async def read_event(connection: Connection, key: EventKey) -> WebhookEventRow | None:
    """Return the event with its body, or None."""
    row = (await connection.execute(select(webhook_events).where(_is(key)))).one_or_none()
    return None if row is None else _row(row, row.payload)


async def page_of_events(
    connection: Connection,
    *,
    tenant_id: str,
    source: WebhookSource | None,
    state: WebhookEventState | None,
    event_type_prefix: str,
    account_id: str,
    start_time: datetime | None,
    end_time: datetime | None,
    before_sequence: int | None,
    limit: int,
) -> list[WebhookEventRow]:
    """Return events without their bodies, newest first, those before a sequence."""
    columns = webhook_events.c
    statement = select(*(column for column in columns if column.name != "payload"))
    if tenant_id:
        statement = statement.where(columns.tenant_id == tenant_id)
    if source is not None:
        statement = statement.where(columns.source == source.value)
    if state is not None:
        statement = statement.where(columns.state == state.value)
    if event_type_prefix:
        statement = statement.where(columns.event_type.startswith(event_type_prefix, autoescape=True))
    if account_id:
        statement = statement.where(columns.account_id == account_id)
    if start_time is not None:
        statement = statement.where(columns.receive_time >= start_time)
    if end_time is not None:
        statement = statement.where(columns.receive_time < end_time)
    if before_sequence is not None:
        statement = statement.where(columns.sequence < before_sequence)
    rows = await connection.execute(statement.order_by(columns.sequence.desc()).limit(limit))
    return [_row(row) for row in rows]


async def missing_event(connection: Connection, source: WebhookSource, event_ids: Sequence[str]) -> str | None:
    """Return the first of the ids of which there is no event, None where all are there."""
    columns = webhook_events.c
    rows = await connection.execute(
        select(columns.event_id).where(columns.source == source.value, columns.event_id.in_(event_ids))
    )
    found = {row.event_id for row in rows}
    return next((event_id for event_id in event_ids if event_id not in found), None)


async def replay(
    connection: Connection, source: WebhookSource, event_ids: Sequence[str], *, now: datetime
) -> list[WebhookEventRow]:
    """Make the events due, whatever became of them, and announce it; attempts of those that had ended count anew."""
    columns = webhook_events.c
    return await _make_due(connection, and_(columns.source == source.value, columns.event_id.in_(event_ids)), now=now)


async def replay_dead(
    connection: Connection,
    *,
    source: WebhookSource | None,
    start_time: datetime | None,
    end_time: datetime | None,
    after_sequence: int,
    now: datetime,
    limit: int,
) -> list[WebhookEventRow]:
    """Make dead events due, the oldest first, those after a sequence, and announce it."""
    columns = webhook_events.c
    statement = select(columns.sequence).where(_IS_DEAD, columns.sequence > after_sequence)
    if source is not None:
        statement = statement.where(columns.source == source.value)
    if start_time is not None:
        statement = statement.where(columns.receive_time >= start_time)
    if end_time is not None:
        statement = statement.where(columns.receive_time < end_time)
    dead = statement.order_by(columns.sequence).limit(limit).with_for_update(skip_locked=True).cte("dead")
    return await _make_due(connection, columns.sequence == dead.c.sequence, now=now)


async def count_open(connection: Connection) -> Mapping[WebhookEventState, int]:
    """Return how many events wait, are to be attempted again, and failed too often."""
    columns = webhook_events.c
    counted = (WebhookEventState.PENDING, WebhookEventState.RETRYING, WebhookEventState.DEAD)
    found = dict.fromkeys(counted, 0)
    # One statement for each, so that each has its partial index.
    for which in (_IS_OPEN, _IS_DEAD):
        rows = await connection.execute(select(columns.state, func.count()).where(which).group_by(columns.state))
        found |= {WebhookEventState(state): count for state, count in rows}
    return found


async def lock_object(connection: Connection, source: WebhookSource, object_id: str) -> None:
    """Wait until no other transaction holds the lock of this object of the source; it ends with this transaction."""
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"tallygate-webhook:{source.value}/{object_id}"},
    )


async def identity_owners(
    connection: Connection, provider: str, external_id: str, *, tenant_id: str = ""
) -> list[tuple[str, str]]:
    """Return tenant and account of the first two who are known by this identity, of any tenant or of one."""
    columns = account_identities.c
    statement = select(columns.tenant_id, columns.account_id).where(
        columns.provider == provider, columns.external_id == external_id
    )
    if tenant_id:
        statement = statement.where(columns.tenant_id == tenant_id)
    rows = await connection.execute(statement.order_by(columns.tenant_id).limit(2))
    return [(row.tenant_id, row.account_id) for row in rows]


async def _make_due(connection: Connection, which: Any, *, now: datetime) -> list[WebhookEventRow]:
    columns = webhook_events.c
    rows = await connection.execute(
        update(webhook_events)
        .where(which)
        .values(
            state=case((_IS_OPEN, columns.state), else_=WebhookEventState.PENDING.value),
            attempt_count=case((_IS_OPEN, columns.attempt_count), else_=0),
            next_attempt_time=now,
        )
        .returning(*(column for column in columns if column.name != "payload"))
    )
    due = [_row(row) for row in rows]
    if due:
        await connection.execute(select(func.pg_notify(CHANNEL, STORED)))
    return sorted(due, key=lambda event: event.sequence)


def _is(key: EventKey) -> Any:
    columns = webhook_events.c
    return tuple_(columns.source, columns.event_id) == tuple_(literal(key[0].value), literal(key[1]))


def _is_ours(event: ClaimedEvent) -> Any:
    # Whoever takes an event raises its attempts: an attempt that outlived its lease finds another number.
    columns = webhook_events.c
    return and_(_is(event.key), columns.attempt_count == event.attempt, _IS_OPEN)


def _row(row: Row[Any], payload: bytes = b"") -> WebhookEventRow:
    return WebhookEventRow(
        source=WebhookSource(row.source),
        event_id=row.event_id,
        sequence=row.sequence,
        event_type=row.event_type,
        tenant_id=row.tenant_id or "",
        account_id=row.account_id or "",
        state=WebhookEventState(row.state),
        attempt_count=row.attempt_count,
        delivery_count=row.delivery_count,
        error=row.error,
        next_attempt_time=row.next_attempt_time,
        api_version=row.api_version,
        api_version_mismatch=row.api_version_mismatch,
        event_time=row.event_time,
        receive_time=row.receive_time,
        process_time=row.process_time,
        payload=payload,
    )
