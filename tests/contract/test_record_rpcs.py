"""Records over the real service, on both transports: put, queried and listed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any

import grpc
import pyarrow as pa
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from tallygate.v1 import data_lifecycle_pb2 as messages
from tallygate.v1 import data_lifecycle_service_pb2 as pb
from tallygate.v1.data_lifecycle_service_pb2_grpc import DataLifecycleServiceStub
from tallygate_server.app import servicers
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.transport.server import TransportKind, build_server
from tests.conftest import copied_database
from tests.support.acme import ACME, apply_catalog, services
from tests.support.lifecycle import NOON, lifecycles
from tests.support.records import forget_records
from tests.support.transport_servers import Refusal, refusal_of

KINDS: tuple[TransportKind, ...] = ("native", "grpcio")
BOTH = pytest.mark.parametrize("world", KINDS, indirect=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What all tests of this module share: one lifecycle behind both transports."""

    database_url: str
    lifecycle: Lifecycle
    stubs: dict[TransportKind, Any]


@pytest.fixture(scope="module")
async def served(
    database_url: str, template_database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack:
        copied = await stack.enter_async_context(copied_database(database_url, template_database))
        await apply_catalog(copied)
        [service] = await stack.enter_async_context(services(copied, redis_url))
        directory = tmp_path_factory.mktemp("records")
        lifecycle = await stack.enter_async_context(lifecycles(copied, service, directory))
        stubs: dict[TransportKind, Any] = {}
        for kind in KINDS:
            server = build_server(kind, servicers(service, lifecycle), observe=lambda *_call: None)
            port = await server.start("127.0.0.1", 0)
            stack.push_async_callback(server.drain, drain_delay_ms=0, grace_ms=1_000)
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = await stack.enter_async_context(aio.insecure_channel(f"127.0.0.1:{port}", options=options))
            stubs[kind] = DataLifecycleServiceStub(channel)
        yield Served(database_url=copied, lifecycle=lifecycle, stubs=stubs)


@pytest.fixture
async def world(request: pytest.FixtureRequest, served: Served) -> World:
    await forget_records(served.database_url)
    return World(lifecycle=served.lifecycle, data=served.stubs[getattr(request, "param", "native")])


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
    record.values.SetInParent()
    return record


def batch(*records: messages.Record) -> messages.RecordBatch:
    return messages.RecordBatch(records=records)


@BOTH
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


def a_column_batch(count: int, start: int = 0, **columns: Any) -> messages.ColumnBatch:
    """One record a second; columns by the name of their message's field."""
    begin = int(NOON.timestamp()) * 1_000_000
    return messages.ColumnBatch(
        time_micros=[begin + (start + second) * 1_000_000 for second in range(count)],
        columns=[messages.ColumnValues(name=name, **values) for name, values in columns.items()],
    )


def doubles(*values: float) -> dict[str, Any]:
    return {"double_values": messages.DoubleValues(values=values)}


def whole(*values: int) -> dict[str, Any]:
    return {"int64_values": messages.Int64Values(values=values)}


@BOTH
async def test_columns_of_every_type_come_back_in_every_format(world: World) -> None:
    columns = a_column_batch(
        3,
        power=doubles(1.5, math.nan, 0.0),
        steps=whole(2**62, 5, 6),
        gear={"string_values": messages.StringValues(values=["", "big", "klein"])},
        moving={"bool_values": messages.BoolValues(values=[True, False, True]), "null_positions": [1]},
        lap=whole(0, 10, 20),
    )
    columns.columns[2].null_positions.append(0)
    put = await world.put(
        columns=columns,
        column_definitions=[
            messages.DataColumn(name="lap", type=messages.COLUMN_TYPE_TIMESTAMP),
            messages.DataColumn(name="power", unit="W", max_valid=2000),
        ],
    )

    _, by_columns, _ = await world.queried(format=pb.RECORD_FORMAT_COLUMNS)
    records = await world.records()
    arrow = await world.queried(format=pb.RECORD_FORMAT_ARROW, columns=["power", "lap"])

    assert [(column.name, column.type, column.unit) for column in put.dataset.columns] == [
        ("lap", messages.COLUMN_TYPE_TIMESTAMP, ""),
        ("power", messages.COLUMN_TYPE_DOUBLE, "W"),
        ("steps", messages.COLUMN_TYPE_INT64, ""),
        ("gear", messages.COLUMN_TYPE_STRING, ""),
        ("moving", messages.COLUMN_TYPE_BOOL, ""),
    ]
    back = {column.name: column for column in by_columns.columns.columns}
    assert list(by_columns.columns.time_micros) == list(columns.time_micros)
    assert {name: column.SerializeToString() for name, column in back.items()} == {
        column.name: column.SerializeToString() for column in columns.columns
    }
    first, second, _third = (dict(record.values) for record in records)
    assert first == {"power": 1.5, "steps": float(2**62), "gear": None, "moving": True, "lap": "1970-01-01T00:00:00Z"}
    assert str(second["power"]) == "nan"
    assert second["moving"] is None
    nothing = await world.queried(format=pb.RECORD_FORMAT_ARROW, start_time=at(60))
    empty = pa.ipc.open_stream(b"".join(part.arrow_stream for part in nothing)).read_all()
    assert (empty.num_rows, empty.column_names) == (0, ["time", "lap", "power", "steps", "gear", "moving"])
    stream = b"".join(part.arrow_stream for part in arrow)
    table = pa.ipc.open_stream(stream).read_all()
    assert table.column_names == ["time", "lap", "power"]
    assert table.column("lap").cast(pa.int64()).to_pylist() == [0, 10, 20]
    assert [column.name for column in arrow[0].header.columns] == ["lap", "power"]
    assert put.quality.terms[1].value == 1 - 1 / 3


async def test_documents_go_in_and_come_out(world: World) -> None:
    shape = messages.DATASET_SHAPE_DOCUMENTS
    before = world.lifecycle.clock.now()
    put = await world.put(
        records=batch(a_record(5, "b", text="héllo", tags=["a", {"n": 1}], deep={"n": 0.5}), a_record(None, "a")),
        shape=shape,
    )

    header, answer, _ = await world.queried()

    assert (header.header.dataset.shape, list(header.header.columns)) == (shape, [])
    found = {record.record_id: record for record in answer.records.records}
    assert found["b"].values == a_record(5, "b", text="héllo", tags=["a", {"n": 1}], deep={"n": 0.5}).values
    assert found["a"].HasField("values")
    assert found["a"].time.ToDatetime(UTC) >= before.replace(microsecond=0)
    assert put.dataset.record_count == 2
    assert (await refused(world.queried(columns=["text"]))).fields == ["columns"]


async def test_a_record_takes_the_place_of_the_one_with_its_id(world: World) -> None:
    first = await world.put(records=batch(a_record(0, "x", n=1), a_record(1, "y", n=2), a_record(2, "x", n=3)))
    second = await world.put(records=batch(a_record(9, "y", n=4), a_record(8, n=5)))

    found = [(record.record_id, dict(record.values)["n"]) for record in await world.records()]

    assert (first.record_count, first.replaced_count) == (3, 1)
    assert (second.record_count, second.replaced_count) == (2, 1)
    assert found == [("x", 3), ("", 5), ("y", 4)]
    assert second.dataset.record_count == 3


async def test_a_request_id_puts_once(world: World) -> None:
    wanted: dict[str, Any] = {"records": batch(a_record(0, n=1)), "request_id": "r-1"}
    first = await world.put(**wanted)
    await world.put(records=batch(a_record(1, n=2)))

    again = await world.put(**wanted)
    other = await refused(world.put(records=batch(a_record(0, n=2)), request_id="r-1"))

    assert again.replayed
    again.replayed = False
    assert again == first
    assert (other.code, other.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert len(await world.records()) == 2


@BOTH
async def test_what_does_not_fit_is_refused_whole_and_says_what_to_do(world: World) -> None:
    put = await world.put(records=batch(a_record(0, n=1)))

    drift = await refused(world.put(records=batch(a_record(1, n=2), a_record(2, n="three"))))
    added = await refused(world.put(records=batch(a_record(1, n=2, m=1))))
    shape = await refused(world.put(records=batch(a_record(1, n=[1]))))
    arrow = await refused(world.put(arrow_stream=b"no stream at all"))
    lengths = await refused(world.put(columns=a_column_batch(2, n=doubles(1.0))))
    position = await refused(world.put(columns=a_column_batch(1, n={**doubles(1.0), "null_positions": [1]})))
    twice = await refused(world.put(columns=a_column_batch(1, time=doubles(1.0))))
    nothing = await refused(world.put(columns=messages.ColumnBatch()))

    assert (drift.code, drift.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SCHEMA_DRIFT")
    assert drift.metadata == {
        "dataset_id": put.dataset.dataset_id,
        "column": "n",
        "expected_type": "double",
        "actual_type": "string",
    }
    assert added.metadata["column"] == "m"
    assert "column_definitions" in added.message
    assert shape.metadata["actual_type"] == "list"
    assert (arrow.code, arrow.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["arrow_stream"])
    assert lengths.fields == ["columns.columns[0].double_values.values"]
    assert position.fields == ["columns.columns[0].null_positions"]
    assert twice.fields == ["columns.columns[0].name"]
    assert nothing.fields == ["columns.time_micros"]
    assert len(await world.records()) == 1


@BOTH
async def test_batches_are_bounded(world: World) -> None:
    records = [messages.Record(time=at(0), values={}) for _ in range(10_001)]
    times = [0] * 100_001

    most_records = await world.put(records=batch(*records[:-1]), data_type="many")
    too_many_records = await refused(world.put(records=batch(*records)))
    most_times = await world.put(columns=messages.ColumnBatch(time_micros=times[:-1]), data_type="more")
    too_many_times = await refused(world.put(columns=messages.ColumnBatch(time_micros=times)))
    sent = await world.queried(data_type="many", record_count_max=1_001)

    assert (most_records.record_count, most_times.record_count) == (10_000, 100_000)
    assert too_many_records.fields == ["records.records"]
    assert too_many_times.fields == ["columns.time_micros"]
    assert [len(part.records.records) for part in sent] == [0, 1_000, 1, 0]
    assert sent[-1].totals.record_count == 1_001


async def test_large_records_come_in_messages_that_clients_take(world: World) -> None:
    large = [a_record(second, text="x" * 900_000) for second in range(4)]
    for each in large:
        await world.put(records=batch(each), shape=messages.DATASET_SHAPE_DOCUMENTS)

    sent = await world.queried()

    assert [len(part.records.records) for part in sent] == [0, 1, 1, 1, 1, 0]


async def test_unknown_names_are_told_apart(world: World) -> None:
    await world.put(records=batch(a_record(0, n=1)))

    tenant = await refused(world.put(tenant_id="nobody", records=batch(a_record(0, n=1))))
    dataset = await refused(world.queried(data_type="run"))
    column = await refused(world.queried(columns=["n", "m"]))
    backwards = await refused(world.queried(start_time=at(1), end_time=at(1)))
    nobody = await refused(world.data.ListDatasets(pb.ListDatasetsRequest(tenant_id="nobody")))

    assert tenant.reason == nobody.reason == "TENANT_NOT_FOUND"
    assert (dataset.code, dataset.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert column.fields == ["columns[1]"]
    assert backwards.code is grpc.StatusCode.INVALID_ARGUMENT


@BOTH
async def test_datasets_and_segments_are_listed_page_by_page(world: World) -> None:
    for account_id, data_type in [("bob", "run"), ("ann", "swim"), ("ann", "ride")]:
        await world.put(records=batch(a_record(0, n=1)), account_id=account_id, data_type=data_type)
    await world.put(records=batch(a_record(60, n=2)))

    async def datasets(**wanted: Any) -> pb.ListDatasetsResponse:
        response: pb.ListDatasetsResponse = await world.data.ListDatasets(
            pb.ListDatasetsRequest(tenant_id=ACME, **wanted)
        )
        return response

    async def segments(**wanted: Any) -> pb.ListDataSegmentsResponse:
        response: pb.ListDataSegmentsResponse = await world.data.ListDataSegments(
            pb.ListDataSegmentsRequest(tenant_id=ACME, **wanted)
        )
        return response

    first = await datasets(page_size=2)
    second = await datasets(page_size=2, page_token=first.next_page_token)
    other = await refused(datasets(page_size=2, page_token=first.next_page_token, data_type="run"))
    rides = messages.DataSelection(account_id="ann", data_types=["ride"])
    one = await segments(selection=rides, page_size=1)
    two = await segments(selection=rides, page_size=1, page_token=one.next_page_token)

    named = [(each.account_id, each.data_type) for page in (first, second) for each in page.datasets]
    assert named == [("ann", "ride"), ("ann", "swim"), ("bob", "run")]
    assert not second.next_page_token
    assert other.reason == "PAGE_TOKEN_INVALID"
    ride = first.datasets[0]
    assert (ride.record_count, ride.span.start_time) == (2, at(0))
    assert ride.span.end_time == Timestamp(seconds=at(60).seconds, nanos=1_000)
    (tier,) = ride.tiers
    assert (tier.tier, tier.record_count, tier.segment_count) == (messages.STORAGE_TIER_HOT, 2, 2)
    assert tier.stored_bytes == one.segments[0].stored_bytes + two.segments[0].stored_bytes
    assert [each.span.start_time for each in (*one.segments, *two.segments)] == [at(0), at(60)]
    assert not two.next_page_token
    assert one.segments[0].encrypted
    assert len(one.segments[0].checksum_sha256) == 64
    assert not (await segments(state=messages.SEGMENT_STATE_QUARANTINED)).segments
    assert len((await segments(selection=messages.DataSelection(tiers=[messages.STORAGE_TIER_HOT]))).segments) == 4
    assert not (await segments(selection=messages.DataSelection(tiers=[messages.STORAGE_TIER_COLD]))).segments
