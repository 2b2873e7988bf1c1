"""Streams whose clients read slowly, or nothing at all, on every transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from grpc import aio

from tallygate.v1 import event_service_pb2 as pb
from tallygate.v1.event_service_pb2_grpc import EventServiceStub
from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import TallygateError, WatcherTooSlow
from tallygate_server.storage.outbox import EventFilter, OutboxEvent
from tallygate_server.streams import BoundedStream
from tallygate_server.transport.event_servicer import EventServicer
from tallygate_server.transport.server import GrpcServer, TransportKind, build_server
from tests.support.eventually import eventually
from tests.support.transport_servers import refusal_of

KINDS: tuple[TransportKind, ...] = ("native", "grpcio")
HELD_MAX = 100
STALLED = 40
"""More than the loop has threads."""
NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
SMALL_WINDOW = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.lookahead_bytes", 65_535),
    ("grpc.http2.bdp_probe", 0),
]


@dataclass(slots=True)
class Watches:
    """Tells what the test puts in, and lists nothing."""

    heartbeat_seconds: float = 60.0
    streams: list[BoundedStream[OutboxEvent]] = field(default_factory=list)

    async def watch(
        self,
        tenant_id: TenantId,  # noqa: ARG002
        wanted: EventFilter,  # noqa: ARG002
        *,
        after_sequence: int | None,  # noqa: ARG002
    ) -> AsyncGenerator[OutboxEvent | None]:
        """Yield what is put into a stream of its own."""
        stream: BoundedStream[OutboxEvent] = BoundedStream(
            items_max=HELD_MAX, too_slow=lambda: WatcherTooSlow(sequence=5)
        )
        self.streams.append(stream)
        async for item in stream.items(heartbeat_seconds=self.heartbeat_seconds):
            yield item

    async def list(self, *_wanted: object, **_more: object) -> list[OutboxEvent]:
        """Return nothing."""
        return []

    def end(self, error: TallygateError) -> None:
        """End every stream."""
        for stream in self.streams:
            stream.end(error)


@dataclass(slots=True, kw_only=True)
class Served:
    """A server, what it tells, and a client."""

    server: GrpcServer
    port: int
    watches: Watches
    stub: Any


@pytest.fixture(params=KINDS)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    watches: Any = Watches()
    server = build_server(
        request.param, [EventServicer(watches, watches, watches, lambda: NOW)], observe=lambda *_call: None
    )
    server.at_drain(watches.end)
    port = await server.start("127.0.0.1", 0)
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=SMALL_WINDOW) as channel:
        yield Served(server=server, port=port, watches=watches, stub=EventServiceStub(channel))
    await server.drain(drain_delay_ms=0, grace_ms=0)


def an_event(sequence: int, length: int = 0) -> OutboxEvent:
    return OutboxEvent(
        event_id=sequence,
        tenant_id=TenantId("acme"),
        account_id="ann",
        event_type="usage.exhausted",
        sequence=sequence,
        revision=0,
        create_time=NOW,
        payload={"text": "x" * length},
    )


def watch(served: Served) -> Any:
    return served.stub.WatchEvents(pb.WatchEventsRequest(tenant_id="acme"))


async def read_on(call: Any, read: list[int]) -> None:
    """Read to the end, noting sequences."""
    while (response := await call.read()) is not aio.EOF:
        read.append(response.event.sequence)


async def overflow(stream: BoundedStream[OutboxEvent]) -> None:
    """Put events in until one too many is held."""
    sequence = 0
    while stream.put(an_event(sequence := sequence + 1, length=10_000)):
        if len(stream) > HELD_MAX // 2:
            # Room for those that still can be sent.
            await asyncio.sleep(0.001)


async def test_clients_that_read_nothing_hold_up_nobody_and_take_no_memory(served: Served) -> None:
    calls = [watch(served) for _ in range(STALLED)]
    await eventually(lambda: len(served.watches.streams) == STALLED)
    for stream in served.watches.streams:
        await overflow(stream)

    assert [len(stream) for stream in served.watches.streams] == [0] * STALLED
    # The threads of the loop are free, and other calls are answered.
    loop = asyncio.get_running_loop()
    assert await asyncio.wait_for(loop.getaddrinfo("localhost", 80), 60)
    async with aio.insecure_channel(f"127.0.0.1:{served.port}", options=SMALL_WINDOW) as channel:
        await EventServiceStub(channel).ListEvents(pb.ListEventsRequest(tenant_id="acme"), timeout=60)
    for call in calls:
        call.cancel()
    await asyncio.gather(*(call.wait_for_connection() for call in calls), return_exceptions=True)


async def test_one_who_reads_too_slowly_gets_what_was_on_its_way_and_is_told(served: Served) -> None:
    call = watch(served)
    await eventually(lambda: served.watches.streams)
    await overflow(served.watches.streams[0])
    read: list[int] = []

    with pytest.raises(aio.AioRpcError) as ended:
        await read_on(call, read)

    assert read == list(range(1, len(read) + 1))
    refusal = refusal_of(ended.value)
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (refusal.reason, refusal.metadata) == ("WATCHER_TOO_SLOW", {"sequence": "5"})


async def test_one_who_pauses_and_reads_on_misses_nothing(served: Served) -> None:
    call = watch(served)
    await eventually(lambda: served.watches.streams)
    stream = served.watches.streams[0]
    # More than is on its way at a time, but no more than is held.
    for sequence in range(1, HELD_MAX + 1):
        assert stream.put(an_event(sequence, length=10_000))
    stream.end()

    assert [response.event.sequence async for response in call] == list(range(1, HELD_MAX + 1))


async def test_a_drain_ends_watches_with_unavailable(served: Served) -> None:
    waiting = watch(served)
    await eventually(lambda: len(served.watches.streams) == 1)
    stalled = watch(served)
    await eventually(lambda: len(served.watches.streams) == 2)
    await overflow(served.watches.streams[1])
    await served.server.drain(drain_delay_ms=0, grace_ms=2_000)

    with pytest.raises(aio.AioRpcError) as ended:
        await waiting.read()
    refusal = refusal_of(ended.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    with pytest.raises(aio.AioRpcError):
        await read_on(stalled, [])


async def test_silence_is_broken_by_heartbeats_with_the_time(served: Served) -> None:
    served.watches.heartbeat_seconds = 0.01
    call = watch(served)

    response = await call.read()

    assert response.WhichOneof("update") == "heartbeat"
    assert response.heartbeat.server_time.ToDatetime(UTC) == NOW
    call.cancel()
