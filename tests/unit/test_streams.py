"""What is told to a slow reader is bounded, and a reader always learns why a stream ended."""

from __future__ import annotations

import asyncio

import pytest

from tallygate_server.errors import Overloaded, StoreUnavailable, WatcherTooSlow
from tallygate_server.streams import BoundedStream, OpenStreams


def _stream(items_max: int = 3) -> BoundedStream[int]:
    return BoundedStream(items_max=items_max, too_slow=lambda: WatcherTooSlow(sequence=7))


async def test_items_come_in_order() -> None:
    stream = _stream()
    assert stream.put(1)
    assert stream.put(2)
    stream.end()

    assert [item async for item in stream.items()] == [1, 2]


async def test_a_reader_who_waits_is_woken() -> None:
    stream = _stream()
    items = stream.items()
    reading = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0)
    stream.put(5)

    assert await reading == 5
    await items.aclose()


async def test_as_many_as_the_bound_are_held() -> None:
    stream = _stream(3)

    assert [stream.put(number) for number in range(3)] == [True, True, True]
    assert len(stream) == 3


async def test_one_more_than_the_bound_ends_the_stream_and_holds_nothing_any_more() -> None:
    stream = _stream(3)
    for number in range(3):
        stream.put(number)

    assert not stream.put(3)
    assert len(stream) == 0
    assert stream.ended
    with pytest.raises(WatcherTooSlow) as slow:
        await anext(stream.items())
    assert slow.value.facts == {"sequence": "7"}
    assert not stream.put(4)


async def test_what_is_held_is_read_before_the_error_of_the_end() -> None:
    stream = _stream()
    stream.put(1)
    stream.end(StoreUnavailable("away"))
    items = stream.items()

    assert await anext(items) == 1
    with pytest.raises(StoreUnavailable):
        await anext(items)


async def test_the_first_end_counts() -> None:
    stream = _stream()
    stream.end()
    stream.end(StoreUnavailable("away"))

    assert [item async for item in stream.items()] == []


async def test_silence_is_told_as_none() -> None:
    stream = _stream()
    items = stream.items(heartbeat_seconds=0.001)

    assert await anext(items) is None
    assert await anext(items) is None
    stream.put(1)
    assert await anext(items) == 1
    await items.aclose()


async def test_open_streams_are_as_many_as_the_bound() -> None:
    streams: OpenStreams[int] = OpenStreams(streams_max=2)
    first = _stream()
    streams.add(first)
    streams.add(_stream())

    with pytest.raises(Overloaded):
        streams.add(_stream())
    streams.discard(first)
    streams.add(_stream())
    assert len(streams) == 2


async def test_the_end_of_all_ends_each_and_refuses_new_ones() -> None:
    streams: OpenStreams[int] = OpenStreams(streams_max=2)
    stream = _stream()
    streams.add(stream)
    streams.end(StoreUnavailable("draining"))

    with pytest.raises(StoreUnavailable):
        await anext(stream.items())
    with pytest.raises(StoreUnavailable):
        streams.add(_stream())
