"""SQL of webhooks that are old: found, taken out, and their names kept. Under the lifecycle's role."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import archived_webhook_events, webhook_events
from tallygate_server.webhooks.events import WebhookEventState

_c = webhook_events.c
_HAS_ENDED: Final = _c.state.in_([WebhookEventState.PROCESSED.value, WebhookEventState.IGNORED.value])

EventName = tuple[str, str]
"""Source, and id there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedEvent:
    """An event that nothing will be done with any more."""

    source: str
    event_id: str
    sequence: int
    tenant_id: TenantId | None
    account_id: AccountId
    """Empty where none is known."""
    receive_time: datetime
    payload_bytes: int

    @property
    def name(self) -> EventName:
        """Source and id."""
        return self.source, self.event_id


async def ended_events(connection: Connection, *, after_sequence: int, limit: int) -> list[EndedEvent]:
    """Return events that have ended, in the order of their arrival; in a transaction that sees all tenants.

    The oldest come first, so that whoever wants old ones stops at the first that is not, and reads nothing in vain.
    """
    statement = (
        select(
            _c.source,
            _c.event_id,
            _c.sequence,
            _c.tenant_id,
            func.coalesce(_c.account_id, "").label("account_id"),
            _c.receive_time,
            func.length(_c.payload).label("payload_bytes"),
        )
        .where(_HAS_ENDED, _c.sequence > after_sequence)
        .order_by(_c.sequence)
        .limit(limit)
    )
    return [EndedEvent(**row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001 - public in spite of its name


async def read_events(connection: Connection, names: Collection[EventName]) -> list[dict[str, Any]]:
    """Return all columns of those of the events that have ended, locked, in the order of their arrival."""
    statement = select(webhook_events).where(_HAS_ENDED, _named(names)).order_by(_c.sequence).with_for_update()
    return [dict(row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001 - as above.


async def take_out(connection: Connection, names: Collection[EventName], *, now: datetime) -> list[dict[str, Any]]:
    """Delete those of the events that have ended and keep their names; return them as they were."""
    deleted = await connection.execute(delete(webhook_events).where(_HAS_ENDED, _named(names)).returning(*_c))
    rows = [dict(row._mapping) for row in deleted]  # noqa: SLF001 - as above.
    if rows:
        await connection.execute(
            insert(archived_webhook_events).on_conflict_do_nothing(),
            [{"source": row["source"], "event_id": row["event_id"], "archive_time": now} for row in rows],
        )
    return sorted(rows, key=lambda row: row["sequence"])


async def forget_names(connection: Connection, *, before: datetime, limit: int) -> int:
    """Delete names of events that were archived before the instant, at most so many; return how many."""
    names = archived_webhook_events.c
    oldest = select(names.source, names.event_id).where(names.archive_time < before).limit(limit)
    deleted = await connection.execute(
        delete(archived_webhook_events)
        .where(tuple_(names.source, names.event_id).in_(oldest))
        .returning(names.event_id)
    )
    return len(deleted.all())


async def count_names(connection: Connection, *, before: datetime) -> int:
    """Return how many names `forget_names` would delete."""
    names = archived_webhook_events.c
    statement = select(func.count()).select_from(archived_webhook_events).where(names.archive_time < before)
    return int((await connection.execute(statement)).scalar_one())


def _named(names: Collection[EventName]) -> Any:
    return tuple_(_c.source, _c.event_id).in_(sorted(names))
