"""SQL of usage events: what was recorded, and the keys by which repetitions are known.

Events are written inside the transaction that moves the counters (`ExactTransaction`), as the role of the meter, whose
statements name the tenant in every key; forgetting old keys is the one that goes by time. They are listed as the
tenant.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import select

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.limits import EVENT_AGE_SECONDS_MAX, EVENT_AHEAD_SECONDS_MAX
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.ledger import ExactTransaction
from tallygate_server.storage.tables import usage_events

_AGE_MAX: Final = timedelta(seconds=EVENT_AGE_SECONDS_MAX)
_AHEAD_MAX: Final = timedelta(seconds=EVENT_AHEAD_SECONDS_MAX)


class EventName(NamedTuple):
    """What makes an event unique in its tenant."""

    source: str
    event_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBefore:
    """What is known of an event that was recorded."""

    fingerprint: int
    event_key: int
    recorded_time: datetime
    meter_keys: tuple[str, ...] = ()
    cost_nanos: int = 0
    cost_currency_code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """An event that is to be recorded once."""

    name: EventName
    fingerprint: int
    event_key: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event as it is written; the fields that hold JSON hold its text."""

    account_id: str
    event_key: int
    source: str
    event_id: str
    type: str
    event_time: datetime
    data: str | None
    ai: str | None
    client: str | None
    readings: str
    cost_nanos: int
    cost_currency_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEventRow:
    """An event as it was recorded."""

    account_id: str
    event_key: int
    recorded_time: datetime
    source: str
    event_id: str
    type: str
    event_time: datetime
    data: dict[str, Any] | None
    ai: dict[str, Any] | None
    client: dict[str, Any] | None
    readings: list[dict[str, Any]]
    cost_nanos: int
    cost_currency_code: str

    @property
    def meter_keys(self) -> tuple[str, ...]:
        """The meters that counted it."""
        return tuple(reading["meter"] for reading in self.readings)


_FIND_KEYS: Final = """
SELECT k.source, k.event_id, k.fingerprint, k.event_key, k.recorded_time
FROM unnest($2::text[], $3::text[]) AS wanted(source, event_id)
JOIN usage_event_keys AS k ON k.tenant_id = $1 AND k.source = wanted.source AND k.event_id = wanted.event_id
"""

# Partitions that have none of the times are not looked at.
_FIND_READINGS: Final = """
SELECT event_key, cost_nanos, cost_currency_code, jsonb_path_query_array(readings, '$[*].meter')::text AS meter_keys
FROM usage_events
WHERE tenant_id = $1 AND event_key = ANY($2::bigint[]) AND recorded_time = ANY($3::timestamptz[])
"""

# In the order of the arrays, which is that of the names: two batches with the same events wait for each other one way.
_ADD_KEYS: Final = """
INSERT INTO usage_event_keys (tenant_id, source, event_id, fingerprint, event_key, recorded_time)
SELECT $1, k.source, k.event_id, k.fingerprint, k.event_key, $2
FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[]) AS k(source, event_id, fingerprint, event_key)
ON CONFLICT (tenant_id, source, event_id) DO NOTHING
RETURNING source, event_id
"""

_ADD_EVENTS: Final = """
INSERT INTO usage_events (
    tenant_id, recorded_time, account_id, event_key, source, event_id, type, event_time, data, ai, client, readings,
    cost_nanos, cost_currency_code
)
SELECT $1, $2, e.account_id, e.event_key, e.source, e.event_id, e.type, e.event_time, e.data::jsonb, e.ai::jsonb,
    e.client::jsonb, e.readings::jsonb, e.cost_nanos, e.cost_currency_code
FROM unnest(
    $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::timestamptz[], $9::text[], $10::text[],
    $11::text[], $12::text[], $13::bigint[], $14::text[]
) AS e(
    account_id, event_key, source, event_id, type, event_time, data, ai, client, readings, cost_nanos,
    cost_currency_code
)
"""

_FORGET_KEYS: Final = """
DELETE FROM usage_event_keys
WHERE (tenant_id, source, event_id) IN (
    SELECT tenant_id, source, event_id FROM usage_event_keys WHERE recorded_time < $1 LIMIT $2
)
"""


async def find_recorded(
    transaction: ExactTransaction, tenant_id: TenantId, names: Sequence[EventName]
) -> dict[EventName, RecordedBefore]:
    """Return those of the events that were recorded, with what came of them."""
    if not names:
        return {}
    connection = transaction.connection
    keys = await connection.fetch(
        _FIND_KEYS, tenant_id, [each.source for each in names], [each.event_id for each in names]
    )
    if not keys:
        return {}
    readings = await connection.fetch(
        _FIND_READINGS, tenant_id, [key["event_key"] for key in keys], list({key["recorded_time"] for key in keys})
    )
    by_key = {row["event_key"]: row for row in readings}
    found = {}
    for key in keys:
        # The event may be gone before its key, where raw usage is kept for a short time only.
        row = by_key.get(key["event_key"])
        found[EventName(key["source"], key["event_id"])] = RecordedBefore(
            fingerprint=key["fingerprint"],
            event_key=key["event_key"],
            recorded_time=key["recorded_time"],
            meter_keys=tuple(json.loads(row["meter_keys"])) if row is not None else (),
            cost_nanos=row["cost_nanos"] if row is not None else 0,
            cost_currency_code=row["cost_currency_code"] if row is not None else "",
        )
    return found


async def add_keys(
    transaction: ExactTransaction, tenant_id: TenantId, recorded_time: datetime, keys: Sequence[NewKey]
) -> set[EventName]:
    """Claim the events; return those that nobody had. Waits for others who are claiming one of them."""
    ordered = sorted(keys, key=lambda key: key.name)
    rows = await transaction.connection.fetch(
        _ADD_KEYS,
        tenant_id,
        recorded_time,
        [key.name.source for key in ordered],
        [key.name.event_id for key in ordered],
        [key.fingerprint for key in ordered],
        [key.event_key for key in ordered],
    )
    return {EventName(row["source"], row["event_id"]) for row in rows}


async def add_events(
    transaction: ExactTransaction, tenant_id: TenantId, recorded_time: datetime, events: Sequence[NewEvent]
) -> None:
    """Write the events."""
    await transaction.connection.execute(
        _ADD_EVENTS,
        tenant_id,
        recorded_time,
        [each.account_id for each in events],
        [each.event_key for each in events],
        [each.source for each in events],
        [each.event_id for each in events],
        [each.type for each in events],
        [each.event_time for each in events],
        [each.data for each in events],
        [each.ai for each in events],
        [each.client for each in events],
        [each.readings for each in events],
        [each.cost_nanos for each in events],
        [each.cost_currency_code for each in events],
    )


async def forget_keys(transaction: ExactTransaction, before: datetime, rows_max: int) -> int:
    """Delete keys older than the window, at most so many; return how many."""
    tag: str = await transaction.connection.execute(_FORGET_KEYS, before, rows_max)
    return int(tag.rsplit(" ", 1)[-1])


async def page_of_events(
    connection: Connection,
    tenant_id: TenantId,
    *,
    account_id: str,
    event_type: str,
    source: str,
    event_id: str,
    start: datetime | None,
    end: datetime | None,
    before_event_key: int | None,
    limit: int,
) -> list[UsageEventRow]:
    """Return events that happened in `[start, end)`, newest record first: those older than a key, at most so many."""
    columns = usage_events.c
    query = select(usage_events).where(columns.tenant_id == tenant_id).order_by(columns.event_key.desc()).limit(limit)
    for column, wanted in (
        (columns.account_id, account_id),
        (columns.type, event_type),
        (columns.source, source),
        (columns.event_id, event_id),
    ):
        if wanted:
            query = query.where(column == wanted)
    # No event is recorded long after it happened, nor much before: whole months need not be looked at.
    if start is not None:
        query = query.where(columns.event_time >= start, columns.recorded_time >= start - _AHEAD_MAX)
    if end is not None:
        query = query.where(columns.event_time < end, columns.recorded_time < end + _AGE_MAX)
    if before_event_key is not None:
        query = query.where(columns.event_key < before_event_key)
    rows = (await connection.execute(query)).all()
    return [
        UsageEventRow(
            account_id=row.account_id,
            event_key=row.event_key,
            recorded_time=row.recorded_time,
            source=row.source,
            event_id=row.event_id,
            type=row.type,
            event_time=row.event_time,
            data=row.data,
            ai=row.ai,
            client=row.client,
            readings=row.readings,
            cost_nanos=row.cost_nanos,
            cost_currency_code=row.cost_currency_code,
        )
        for row in rows
    ]
