"""Old webhooks become records of their account, and stay known by name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
import pytest
from sqlalchemy import select

from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import (
    OWN_DATA_TYPES,
    ColumnType,
    CompressionForm,
    DataColumn,
    DataSelection,
    Segment,
    StorageTier,
)
from tallygate_server.errors import InvalidRequest
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.own_data import webhook_events as archived
from tallygate_server.lifecycle.own_data.webhook_events import NAMES_KEPT, event_document
from tallygate_server.lifecycle.records import NewRecords, PlainRecords, RecordQuery
from tallygate_server.storage import webhook_archive
from tallygate_server.storage.data_segments import read_segments
from tallygate_server.storage.engine import Database, DatabaseRole
from tallygate_server.storage.tables import audit_entries
from tallygate_server.storage.webhook_events import NewEvent, store
from tallygate_server.webhooks.events import WebhookSource
from tests.support.acme import ACME, ANN, BOB, apply_catalog, services
from tests.support.clock import FrozenClock
from tests.support.lifecycle import a_dataset, lifecycles
from tests.support.tallygate_process import tallygate

NINETY_DAYS = timedelta(days=90)
NOBODY = AccountId("")
NOTHING = PlainRecords(times_us=(), values=(), record_ids=())
COLUMNS = """source, event_id, event_type, tenant_id, account_id, state, delivery_count, payload, event_time,
    receive_time, process_time"""


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def lifecycle(
    fresh_database: str, fresh_redis: str, tmp_path: Path, clock: FrozenClock
) -> AsyncIterator[Lifecycle]:
    await apply_catalog(fresh_database)
    async with (
        services(fresh_database, fresh_redis, clock=clock) as [service],
        lifecycles(fresh_database, service, tmp_path) as made,
    ):
        yield made


async def fetch(url: str, sql: str, *values: object) -> list[asyncpg.Record]:
    """Ask as the owner, who sees what lies in no tenant."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(sql, *values)
        return rows
    finally:
        await connection.close()


async def put(
    url: str,
    event_id: str,
    receive_time: datetime,
    *,
    account_id: str | None = ANN,
    tenant_id: str | None = ACME,
    state: str = "processed",
    payload: bytes = b'{"id": "evt", "note": "\xc3\xa9"}',
) -> None:
    values = (
        "stripe", event_id, "invoice.paid", tenant_id, account_id, state, 2, payload, receive_time, receive_time,
        receive_time if state == "processed" else None,
    )  # fmt: skip
    marks = ", ".join(f"${number + 1}" for number in range(len(values)))
    await fetch(url, f"INSERT INTO webhook_events ({COLUMNS}) VALUES ({marks})", *values)


async def rows_left(url: str) -> list[str]:
    return [row["event_id"] for row in await fetch(url, "SELECT event_id FROM webhook_events ORDER BY sequence")]


async def archived_of(lifecycle: Lifecycle, account_id: AccountId = ANN) -> list[Segment]:
    selection = DataSelection(account_id=account_id, data_types=("webhook_event",))
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        return await read_segments(connection, ACME, selection)


async def documents_of(lifecycle: Lifecycle, account_id: AccountId = ANN) -> list[str]:
    tables = [await lifecycle.segments.read(segment) for segment in await archived_of(lifecycle, account_id)]
    return [text for table in tables for text in table.column("document").to_pylist()]


async def test_what_is_older_than_the_retention_becomes_records_equal_to_the_rows(
    lifecycle: Lifecycle, fresh_database: str, clock: FrozenClock
) -> None:
    at_the_bound = clock.now() - NINETY_DAYS
    past = at_the_bound - timedelta(microseconds=1)
    await put(fresh_database, "old", past)
    await put(fresh_database, "no_text", past, payload=b"\xff\x00", state="ignored")
    await put(fresh_database, "of_bob", past, account_id=BOB)
    await put(fresh_database, "of_the_tenant", past, account_id=None)
    await put(fresh_database, "of_nobody", past, account_id=None, tenant_id=None, state="ignored")
    for state in ("pending", "retrying", "dead"):
        await put(fresh_database, state, past, state=state)
    await put(fresh_database, "at_the_bound", at_the_bound)
    before = {row["event_id"]: dict(row) for row in await fetch(fresh_database, "SELECT * FROM webhook_events")}

    planned = await lifecycle.own_data.run("archive_webhooks", validate_only=True)
    assert len(await rows_left(fresh_database)) == 9
    done = await lifecycle.own_data.run("archive_webhooks")

    assert done == planned == {"archived": 4, "removed": 1, "segments": 3}
    assert await rows_left(fresh_database) == ["pending", "retrying", "dead", "at_the_bound"]
    assert await documents_of(lifecycle) == [event_document(before["old"]), event_document(before["no_text"])]
    assert await documents_of(lifecycle, BOB) == [event_document(before["of_bob"])]
    assert await documents_of(lifecycle, NOBODY) == [event_document(before["of_the_tenant"])]
    document: dict[str, Any] = json.loads((await documents_of(lifecycle))[0])
    assert document["payload"].encode() == before["old"]["payload"]
    assert document.keys() == before["old"].keys()
    [segment] = await archived_of(lifecycle)
    assert (segment.tier, segment.form, segment.start_time) == (StorageTier.COLD, CompressionForm.LOSSLESS, past)
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        details = await connection.execute(
            select(audit_entries.c.detail).where(audit_entries.c.action == "data.archived")
        )
        assert sorted(detail["written_records"] for detail in details.scalars()) == [1, 1, 2]
    assert await lifecycle.own_data.run("archive_webhooks") == {}


async def test_archived_events_are_queried_as_records_and_nobody_else_puts_any(
    lifecycle: Lifecycle, fresh_database: str, clock: FrozenClock
) -> None:
    await put(fresh_database, "old", clock.now() - NINETY_DAYS * 2)
    await lifecycle.own_data.run("archive_webhooks")

    found = lifecycle.record_queries.query(RecordQuery(tenant_id=ACME, account_id=ANN, data_type="webhook_event"))
    tables = [part async for part in found if isinstance(part, pa.Table)]

    assert [json.loads(text)["event_id"] for text in tables[0].column("document").to_pylist()] == ["old"]
    for data_type in OWN_DATA_TYPES:
        records = NewRecords(tenant_id=ACME, account_id=ANN, data_type=data_type, batch=NOTHING)
        with pytest.raises(InvalidRequest, match="we archive ourselves"):
            await lifecycle.records.put(records)


async def test_a_dry_run_from_the_command_line_tells_and_does_nothing(
    lifecycle: Lifecycle, fresh_database: str, fresh_redis: str, tmp_path: Path
) -> None:
    await put(fresh_database, "old", datetime.now(UTC) - NINETY_DAYS * 2)
    settings = {
        "TALLYGATE_DATABASE_URL": fresh_database,
        "TALLYGATE_REDIS_URL": fresh_redis,
        "TALLYGATE_DATA_DIR": str(tmp_path / "data"),
    }

    planned = await tallygate("data", "upkeep", "--dry-run", "--json", settings=settings)
    assert json.loads(planned.output)["steps"] == {
        **{step: {} for step in lifecycle.own_data.steps},
        "archive_webhooks": {"archived": 1, "segments": 1},
    }
    assert await rows_left(fresh_database) == ["old"]


async def test_an_event_that_comes_again_after_it_was_archived_is_a_duplicate(
    lifecycle: Lifecycle, fresh_database: str, clock: FrozenClock
) -> None:
    await put(fresh_database, "old", clock.now() - NINETY_DAYS * 2)
    await lifecycle.own_data.run("archive_webhooks")
    again = NewEvent(
        source=WebhookSource.STRIPE, event_id="old", event_type="invoice.paid", tenant_id="", payload=b"{}",
        event_time=None, receive_time=clock.now(), api_version="", api_version_mismatch=False, ignored=False,
    )  # fmt: skip
    intake = Database(fresh_database, role=DatabaseRole.INTAKE, pool_size=1)
    try:
        async with intake.plain_transaction() as connection:
            stored = await store(connection, again)
        assert stored.duplicate
        assert await rows_left(fresh_database) == []

        clock.advance(NAMES_KEPT)
        assert await lifecycle.own_data.run("archive_webhooks") == {}
        clock.advance(timedelta(microseconds=1))
        assert await lifecycle.own_data.run("archive_webhooks") == {"names_forgotten": 1}
    finally:
        await intake.close()


async def test_whoever_dies_between_writing_and_deleting_loses_nothing_and_doubles_nothing(
    lifecycle: Lifecycle, fresh_database: str, clock: FrozenClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(fresh_database, "old", clock.now() - NINETY_DAYS * 2)

    async def die(*args: Any, **named: Any) -> list[dict[str, Any]]:
        await webhook_archive.take_out(*args, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(archived, "take_out", die)
    with pytest.raises(KeyboardInterrupt):
        await lifecycle.own_data.run("archive_webhooks")
    monkeypatch.undo()

    assert await rows_left(fresh_database) == ["old"]
    assert await archived_of(lifecycle) == []
    assert len(list((tmp_path / "objects").rglob("seg_*"))) == 1
    assert await lifecycle.own_data.run("archive_webhooks") == {"archived": 1, "segments": 1}
    assert len(await documents_of(lifecycle)) == 1
    clock.advance(timedelta(hours=2))
    assert await lifecycle.segments.sweep_objects(ACME) == 1
    assert len(await documents_of(lifecycle)) == 1


async def test_what_was_replayed_meanwhile_stays(
    lifecycle: Lifecycle, fresh_database: str, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(fresh_database, "old", clock.now() - NINETY_DAYS * 2)

    async def replayed(*args: Any, **named: Any) -> list[dict[str, Any]]:
        await fetch(fresh_database, "UPDATE webhook_events SET state = 'pending'")
        return await webhook_archive.take_out(*args, **named)

    monkeypatch.setattr(archived, "take_out", replayed)

    assert await lifecycle.own_data.run("archive_webhooks") == {}
    assert await rows_left(fresh_database) == ["old"]
    assert await archived_of(lifecycle) == []


async def test_records_of_others_under_the_name_are_left_alone(
    lifecycle: Lifecycle, fresh_database: str, clock: FrozenClock
) -> None:
    await a_dataset(
        lifecycle, data_type="webhook_event", columns=(DataColumn(name="heart_rate", type=ColumnType.INT64),)
    )
    await put(fresh_database, "old", clock.now() - NINETY_DAYS * 2)

    assert await lifecycle.own_data.run("archive_webhooks") == {"refused": 1}
    assert await rows_left(fresh_database) == ["old"]
