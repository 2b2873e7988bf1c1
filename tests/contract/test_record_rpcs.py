"""Records over the real service, on both transports: put, queried and listed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from tallygate.v1 import data_lifecycle_pb2 as messages
from tallygate.v1 import data_lifecycle_service_pb2 as pb
from tallygate.v1.data_lifecycle_service_pb2_grpc import DataLifecycleServiceStub
from tallygate_server.app import servicers
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.transport.server import TransportKind, build_server
from tests.support.acme import ACME, apply_catalog, services
from tests.support.lifecycle import NOON, lifecycles
from tests.support.transport_servers import Refusal, refusal_of

KINDS: tuple[TransportKind, ...] = ("native", "grpcio")
NAMED: dict[str, Any] = {"tenant_id": ACME, "account_id": "ann", "data_type": "ride"}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A served lifecycle, and a stub of it."""

    lifecycle: Lifecycle
    data: Any

    async def put(self, **wanted: Any) -> pb.PutRecordsResponse:
        """Put records of Ann's rides."""
        response: pb.PutRecordsResponse = await self.data.PutRecords(pb.PutRecordsRequest(**{**NAMED, **wanted}))
        return response

    async def queried(self, **wanted: Any) -> list[pb.QueryRecordsResponse]:
        """Return every message of an answer."""
        return [part async for part in self.data.QueryRecords(pb.QueryRecordsRequest(**{**NAMED, **wanted}))]

    async def records(self, **wanted: Any) -> list[messages.Record]:
        """Return the records of an answer."""
        return [record for part in await self.queried(**wanted) for record in part.records.records]


@pytest.fixture(params=KINDS)
async def world(
    request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str, tmp_path: Path
) -> AsyncIterator[World]:
    await apply_catalog(fresh_database)
    async with (
        services(fresh_database, fresh_redis) as [service],
        lifecycles(fresh_database, service, tmp_path) as lifecycle,
    ):
        server = build_server(request.param, servicers(service, lifecycle), observe=lambda *_call: None)
        port = await server.start("127.0.0.1", 0)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield World(lifecycle=lifecycle, data=DataLifecycleServiceStub(channel))
        await server.drain(drain_delay_ms=0, grace_ms=1_000)


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as error:
        await call
    return refusal_of(error.value)


def at(seconds: float) -> Timestamp:
    moment = NOON + timedelta(seconds=seconds)
    return Timestamp(seconds=int(moment.timestamp()), nanos=moment.microsecond * 1_000)


def a_record(seconds: float | None, record_id: str = "", **values: Any) -> messages.Record:
    record = messages.Record(time=None if seconds is None else at(seconds), record_id=record_id)
    record.values.update(values)
    return record


def batch(*records: messages.Record) -> messages.RecordBatch:
    return messages.RecordBatch(records=records)


async def test_records_come_back_by_time_with_what_they_are_made_of(world: World) -> None:
    put = await world.put(
        records=batch(a_record(1, power=150.0, gear="big"), a_record(0, power=100.5, gear=None)), source="bike"
    )
    header, found, totals = await world.queried()

    assert put.record_count == 2
    assert not put.replayed
    assert [(column.name, column.type, column.nullable) for column in put.dataset.columns] == [
        ("gear", messages.COLUMN_TYPE_STRING, True),
        ("power", messages.COLUMN_TYPE_DOUBLE, False),
    ]
    assert put.dataset.record_count == 2
    assert header.header.dataset.dataset_id == put.dataset.dataset_id
    assert [record.time for record in found.records.records] == [at(0), at(1)]
    assert [dict(record.values) for record in found.records.records] == [
        {"power": 100.5, "gear": None},
        {"power": 150.0, "gear": "big"},
    ]
    assert (totals.totals.record_count, totals.totals.segment_count) == (2, 1)
    assert totals.totals.read_bytes > 0
