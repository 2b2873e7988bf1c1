"""Webhooks that are done with and old: moved out of Postgres into records of the account that they are about."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any, Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.lifecycle.own_data.archive import (
    DatasetTaken,
    RecordArchive,
    RowsChanged,
    canonical_json,
    documents,
    instant_text,
)
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.webhook_archive import (
    EndedEvent,
    count_names,
    ended_events,
    forget_names,
    read_events,
    take_out,
)

log = structlog.get_logger(__name__)

WEBHOOK_EVENT: Final = "webhook_event"
"""Data type of archived webhooks."""
EVENTS_PER_LOOK_MAX: Final = 2_000
BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bodies that are held in memory at a time; a single one may be larger."""
NAMES_KEPT: Final = timedelta(days=400)
"""Providers repeat an event for days, and by hand for a month: long after this nobody does."""
NAMES_PER_DELETE_MAX: Final = 5_000
_TIMES: Final = ("next_attempt_time", "event_time", "receive_time", "process_time")
_EVERY_TENANT: Final = TenantId("*")


@dataclass(slots=True, kw_only=True)
class ArchivedEvents:
    """What was done, or would be."""

    archived: int = 0
    removed: int = 0
    """Of nobody we know: they are in no tenant, so there is neither a key for them nor anybody who could read them."""
    segments: int = 0
    names_forgotten: int = 0
    refused: int = 0
    """Left where they are: the account keeps other records under the name."""


class WebhookArchive:
    """Archives events that are processed or ignored; those that still wait, or failed for good, stay."""

    def __init__(self, archive: RecordArchive, clock: Clock, *, retention_days: int) -> None:
        """Archive what came in longer ago than so many days."""
        self._archive = archive
        self._database = archive.segments.database
        self._clock = clock
        self._retention = timedelta(days=retention_days)

    async def run(self, *, validate_only: bool = False) -> ArchivedEvents:
        """Archive all that is old enough, in batches; with `validate_only` only count. Raises StoreUnavailable."""
        done = ArchivedEvents()
        before = self._clock.now() - self._retention
        after_sequence, more = 0, True
        while more:
            async with self._database.tenant_snapshot(_EVERY_TENANT) as connection:
                found = await ended_events(connection, after_sequence=after_sequence, limit=EVENTS_PER_LOOK_MAX)
            old = [event for event in found if event.receive_time < before]
            more = len(old) == EVENTS_PER_LOOK_MAX
            for batch in _batches(old):
                await self._move(batch, done, validate_only=validate_only)
            after_sequence = found[-1].sequence if found else after_sequence
        await self._forget_names(done, validate_only=validate_only)
        return done

    async def _move(self, batch: Sequence[EndedEvent], done: ArchivedEvents, *, validate_only: bool) -> None:
        tenant_id = batch[0].tenant_id
        if validate_only:
            done.segments += tenant_id is not None
            done.archived += len(batch) if tenant_id is not None else 0
            done.removed += len(batch) if tenant_id is None else 0
        elif tenant_id is None:
            async with self._database.plain_transaction() as connection:
                taken = await take_out(connection, [event.name for event in batch], now=self._clock.now())
            done.removed += len(taken)
        else:
            try:
                archived = await self._archive_batch(tenant_id, batch[0].account_id, batch)
            except DatasetTaken:
                log.warning("webhooks_not_archived", tenant_id=tenant_id, why="another dataset has the name")
                done.refused += len(batch)
            except RowsChanged:
                # One of them was replayed meanwhile: all of them wait for the next run.
                pass
            else:
                done.archived += archived
                done.segments += archived > 0

    async def _archive_batch(self, tenant_id: TenantId, account_id: AccountId, batch: Sequence[EndedEvent]) -> int:
        names = [event.name for event in batch]
        async with self._database.tenant_transaction(tenant_id) as connection:
            rows = await read_events(connection, names)
        if not rows:
            return 0
        texts = await asyncio.to_thread(_documents, rows)

        async def take(connection: Connection) -> None:
            taken = await take_out(
                connection, [(row["source"], row["event_id"]) for row in rows], now=self._clock.now()
            )
            if await asyncio.to_thread(_documents, taken) != texts:
                raise RowsChanged(WEBHOOK_EVENT)

        dataset = await self._archive.dataset(tenant_id, account_id, WEBHOOK_EVENT)
        table = documents([row["receive_time"] for row in rows], texts)
        await self._archive.move(dataset, table, action="data.archived", take_out=take)
        return len(rows)

    async def _forget_names(self, done: ArchivedEvents, *, validate_only: bool) -> None:
        before = self._clock.now() - NAMES_KEPT
        deleted = NAMES_PER_DELETE_MAX
        while deleted == NAMES_PER_DELETE_MAX:
            async with self._database.plain_transaction() as connection:
                if validate_only:
                    done.names_forgotten = await count_names(connection, before=before)
                    return
                deleted = await forget_names(connection, before=before, limit=NAMES_PER_DELETE_MAX)
            done.names_forgotten += deleted


def event_document(row: Mapping[str, Any]) -> str:
    """Return a row of `webhook_events` as one JSON text: every column, a body that is no text in base64."""
    document: dict[str, Any] = {name: value for name, value in row.items() if name not in {*_TIMES, "payload"}}
    document |= {name: instant_text(row[name]) for name in _TIMES}
    payload = bytes(row["payload"])
    try:
        document["payload"] = payload.decode()
    except UnicodeDecodeError:
        document["payload_base64"] = base64.b64encode(payload).decode()
    return canonical_json(document)


def _documents(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [event_document(row) for row in rows]


def _batches(events: Sequence[EndedEvent]) -> Iterator[list[EndedEvent]]:
    """Yield the events of one account each, in pieces of bounded size."""

    def owner(event: EndedEvent) -> tuple[str, str]:
        return event.tenant_id or "", event.account_id

    for _, of_owner in groupby(sorted(events, key=owner), owner):
        batch: list[EndedEvent] = []
        size = 0
        for event in of_owner:
            if batch and size + event.payload_bytes > BATCH_BYTES_MAX:
                yield batch
                batch, size = [], 0
            batch.append(event)
            size += event.payload_bytes
        yield batch
