from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tallygate_server.lifecycle.columnar import (
    LEVEL_MAX,
    LEVEL_MIN,
    SEGMENT_COLUMNS_MAX,
    SEGMENT_ROWS_MAX,
    TIME,
    TIME_TYPE,
    SegmentDamaged,
    SegmentRefused,
    decode,
    describe,
    encode,
    from_ipc,
    plain_bytes,
    segment,
    texts,
    to_ipc,
    values_digest,
)
from tallygate_server.lifecycle.columnar.wire import UINT64_MAX, Reader, write_signed, write_unsigned

SECOND_US = 1_000_000


def records(rows: int, **columns: Any) -> pa.Table:
    """Return a row a second, with these columns."""
    arrays = {TIME: pa.array(np.arange(rows) * SECOND_US, pa.int64()).cast(TIME_TYPE)}
    arrays |= {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
    fields = [pa.field(name, values.type, nullable=name != TIME) for name, values in arrays.items()]
    return pa.table(list(arrays.values()), schema=pa.schema(fields))


def ride(rows: int) -> pa.Table:
    random = np.random.default_rng(1)
    speed = np.round(8 + np.sin(np.arange(rows) / 60) + random.normal(0, 0.1, rows), 3)
    heart = (140 + np.cumsum(random.integers(-1, 2, rows)) % 30).astype(np.int64)
    return records(
        rows,
        distance_m=np.round(np.cumsum(speed), 2),
        speed_mps=speed,
        altitude_m=np.round(5 * np.sin(np.arange(rows) / 300) * 20) / 5 - 500,
        heart_rate_bpm=pa.array(heart, mask=np.arange(rows) % 50 == 49),
        moving=random.random(rows) < 0.98,
        state=pa.array(random.choice(["riding", "resting"], rows).tolist(), pa.string()),
    )


Random = np.random.Generator
CODECS: dict[str, Callable[[Random, int], Any]] = {
    "constant": lambda _, rows: np.full(rows, 7),
    "steps": lambda _, rows: np.arange(rows) * -3,
    "runs": lambda random, rows: np.repeat(random.integers(0, 9, rows // 100), 100),
    "pco-d1": lambda random, rows: np.cumsum(random.integers(0, 40, rows)),
    "zstd-split": lambda random, rows: np.tile(random.integers(0, 2**40, rows // 4), 4),
    "zstd": lambda random, rows: np.tile(random.integers(0, 200, rows // 4), 4),
    "decimal2+pco-d0": lambda random, rows: np.round(random.normal(10, 3, rows), 2),
    "coarse1+pco-d1": lambda random, rows: (2_900 + np.cumsum(random.integers(-2, 3, rows)) % 500) / 5 - 500,
    "distinct+pco-d1": lambda random, rows: np.sort(random.normal(size=999))[
        np.cumsum(random.integers(0, 2, rows)) % 999
    ],
    "pco-classic-d0": lambda random, rows: random.normal(size=rows),
    "nothing": lambda _, rows: pa.nulls(rows, pa.float64()),
    "bits": lambda random, rows: random.random(rows) < 0.5,
    "distinct+pco-d0": lambda random, rows: random.choice(["a", "b", "c"], rows).tolist(),
    "hex": lambda random, rows: [f"id-{random.bytes(8).hex()}" for _ in range(rows)],
    "digits+steps": lambda _, rows: [f"event-{row:07d}" for row in range(rows)],
    "columns-zstd": lambda _, rows: [f"{row:x}".rjust(6, "z") for row in range(rows)],
    "plain-zstd": lambda _, rows: [f'{{"row":{row},"of":"{rows}"}}' for row in range(rows)],
}


@pytest.mark.parametrize("codec", CODECS)
def test_each_kind_of_column_finds_its_codec_and_comes_back(codec: str) -> None:
    table = records(10_000, value=CODECS[codec](np.random.default_rng(3), 10_000))

    encoded = encode(table)

    assert encoded.codecs == {TIME: "steps", "value": codec}
    assert decode(encoded.payload).equals(table)
    assert values_digest(decode(encoded.payload)) == values_digest(table)


@pytest.mark.parametrize("level", range(LEVEL_MIN, LEVEL_MAX + 1))
def test_every_level_gives_everything_back(level: int) -> None:
    table = ride(2_000)

    assert decode(encode(table, level=level).payload).equals(table)


@pytest.mark.parametrize("level", [LEVEL_MIN - 1, LEVEL_MAX + 1])
def test_another_level_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match="a level is a number from 1 to 9"):
        encode(ride(10), level=level)


def test_a_ride_takes_less_than_half_of_what_parquet_needs() -> None:
    table = ride(5_000)
    parquet = io.BytesIO()
    pq.write_table(table, parquet, compression="zstd", compression_level=3)

    assert len(encode(table).payload) < len(parquet.getvalue()) / 2


@pytest.mark.parametrize("rows", [0, 1, SEGMENT_ROWS_MAX])
def test_a_segment_holds_up_to_its_bound(rows: int) -> None:
    table = records(rows, value=np.arange(rows, dtype=np.float64) % 1_000 / 8, word=pa.array(["x"] * rows, pa.string()))

    assert decode(encode(table).payload).equals(table)
    assert from_ipc(to_ipc(table)).equals(table)


@pytest.mark.parametrize("form", [encode, to_ipc])
def test_a_table_that_no_segment_holds_is_refused(form: Callable[[pa.Table], object]) -> None:
    good = ride(3)
    for bad, words in (
        (records(SEGMENT_ROWS_MAX + 1), "holds 131072 rows"),
        (pa.table({"value": [1]}), "no column 'time'"),
        (pa.table({TIME: [1]}), "no column 'time'"),
        (good.set_column(0, TIME, pa.nulls(3, TIME_TYPE)), "a record has no time"),
        (good.append_column("time", good.column(TIME)), "the same name"),
        (good.append_column("n", pa.array([1, 2, 3], pa.int32())), "type int32"),
        (good.append_column("n" * 1_025, good.column(TIME)), "more than 1024 bytes"),
        (good.append_column("é" * 513, good.column(TIME)), "more than 1024 bytes"),
    ):
        with pytest.raises(SegmentRefused, match=words):
            form(bad)
    assert encode(good.append_column("n" * 1_024, good.column(TIME))).payload


def test_a_segment_holds_so_many_columns_and_no_more() -> None:
    table = records(1, **{f"c{number}": [number] for number in range(SEGMENT_COLUMNS_MAX - 1)})

    assert decode(encode(table).payload).equals(table)
    with pytest.raises(SegmentRefused, match="holds 1024 columns"):
        encode(table.append_column("more", table.column(TIME)))


@pytest.mark.parametrize("words", [["a" * 25] * 4, ["a" * 24, "b" * 25, "c" * 25, "d" * 26]])
def test_a_column_holds_so_many_bytes_of_text_and_no_more(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    table = records(5, word=[*words, None])
    monkeypatch.setattr(texts, "TEXT_BYTES_MAX", 100)
    payload = encode(table).payload

    assert decode(payload).equals(table)
    monkeypatch.setattr(texts, "TEXT_BYTES_MAX", 99)
    with pytest.raises(SegmentRefused, match="holds 99 bytes of text, not 100"):
        encode(table)
    with pytest.raises(SegmentDamaged, match="too many bytes"):
        decode(payload)


def test_wanted_columns_come_with_time_in_the_order_of_the_table() -> None:
    table = ride(100)

    part = decode(encode(table).payload, columns=["state", "speed_mps", "unheard of"])

    assert part.equals(table.select([TIME, "speed_mps", "state"]))
    assert decode(encode(table).payload, columns=[]).equals(table.select([TIME]))


def test_damage_in_a_column_leaves_the_others_readable() -> None:
    table = ride(100)
    encoded = encode(table)
    damaged = bytearray(encoded.payload)
    damaged[-1] ^= 1

    assert decode(bytes(damaged), columns=["speed_mps"]).equals(table.select([TIME, "speed_mps"]))
    with pytest.raises(SegmentDamaged, match="column 'state' is damaged"):
        decode(bytes(damaged))


def test_a_description_needs_the_header_only() -> None:
    table = ride(100)
    encoded = encode(table)

    described = describe(encoded.payload)

    assert describe(encoded.payload[: described.header_bytes]) == described
    assert described.rows == 100
    assert (described.first_time_us, described.last_time_us) == (0, 99 * SECOND_US)
    assert [(column.name, column.type, column.nullable) for column in described.columns] == [
        (field.name, field.type, field.nullable) for field in table.schema
    ]
    assert [column.name for column in described.columns if column.has_nulls] == ["heart_rate_bpm"]
    assert (described.codecs, described.column_bytes) == (encoded.codecs, encoded.column_bytes)
    assert described.header_bytes + sum(described.column_bytes.values()) == len(encoded.payload)


def test_an_empty_table_has_neither_a_first_nor_a_last_time() -> None:
    described = describe(encode(ride(0)).payload)

    assert (described.rows, described.first_time_us, described.last_time_us) == (0, None, None)


@pytest.mark.parametrize("read", [decode, describe, from_ipc])
@pytest.mark.parametrize(
    "content", [b"", b"TGC", b"TGC\x01", b"TGC\x02" + b"\0" * 99, b"TGI\x01" + b"\0" * 99, b"PAR1"]
)
def test_other_bytes_are_refused(read: Callable[[bytes], object], content: bytes) -> None:
    with pytest.raises(SegmentDamaged):
        read(content)


def test_a_claim_of_too_many_rows_is_refused_before_anything_is_allocated() -> None:
    for rows in (SEGMENT_ROWS_MAX + 1, 2**62):
        header = bytearray()
        write_unsigned(header, rows)
        front = bytearray(segment.MAGIC)
        write_unsigned(front, len(header))
        front += segment.checksum_of(header).to_bytes(4, "little")
        with pytest.raises(SegmentDamaged, match="above its bound"):
            decode(bytes(front + header))


def test_numbers_survive_where_the_library_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As Rust's arrives."""

    def fail(*_: object) -> bytes:
        raise PanicException

    monkeypatch.setattr("pcodec.standalone.simple_compress", fail)
    table = ride(1_000)

    encoded = encode(table)

    assert decode(encoded.payload).equals(table)
    assert not any("pco" in codec for codec in encoded.codecs.values())


def test_an_interruption_is_not_taken_for_a_failure_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("pcodec.standalone.simple_compress", interrupt)

    with pytest.raises(KeyboardInterrupt):
        encode(ride(1_000))


def test_the_digest_sees_content_and_nothing_else() -> None:
    table = ride(300)
    digest = values_digest(table)

    assert len(digest) == 32
    assert values_digest(pa.concat_tables([table.slice(0, 7), table.slice(7, 100), table.slice(107)])) == digest
    assert values_digest(pa.concat_tables([ride(5), table]).slice(5)) == digest
    assert values_digest(table.select(table.column_names[::-1])) == digest
    assert values_digest(table.slice(0, 299)) != digest
    assert values_digest(table.rename_columns([*table.column_names[:-1], "other"])) != digest
    assert values_digest(table.drop_columns(["moving"])) != digest
    assert values_digest(table.take(pa.array([1, 0, *range(2, 300)]))) != digest


def test_the_digest_of_another_type_is_refused() -> None:
    with pytest.raises(SegmentRefused, match="type int32"):
        values_digest(records(1, n=pa.array([1], pa.int32())))


def test_the_digest_tells_values_that_compare_alike_apart() -> None:
    rows = [
        records(2, value=pa.array(values, kind))
        for values, kind in (
            *(([0.0, 1.0], pa.float64()), ([-0.0, 1.0], pa.float64()), ([None, 1.0], pa.float64())),
            *(([0, 1], pa.int64()), ([None, 1], pa.int64()), ([False, True], pa.bool_())),
            *((["", "ab"], pa.string()), ([None, "ab"], pa.string()), (["a", "b"], pa.string())),
            (["ab", ""], pa.string()),
        )
    ]

    assert len({values_digest(table) for table in rows}) == len(rows)


def test_what_stands_in_a_null_slot_does_not_count() -> None:
    validity = pa.py_buffer(b"\x02")
    one, other = (
        pa.Array.from_buffers(pa.int64(), 2, [validity, pa.py_buffer(np.array([hidden, 5]))]) for hidden in (1, 99)
    )

    assert values_digest(records(2, value=one)) == values_digest(records(2, value=other))
    assert encode(records(2, value=one)).payload == encode(records(2, value=other)).payload


def test_plain_bytes_are_those_of_rows() -> None:
    # A row's header and pointer, its time, and its values; nulls cost a byte of bitmap for up to eight columns.
    assert plain_bytes(records(2)) == 2 * (28 + 8)
    assert plain_bytes(records(2, n=[1, 2], f=[True, False], w=["a", "bcd"])) == 2 * (28 + 8 + 8 + 1) + 2 * 4 + 4
    assert plain_bytes(records(2, n=[1, None])) == 2 * (28 + 8 + 1) + 8
    assert plain_bytes(records(9, w=["ab"] * 9).slice(4, 2)) == 2 * (28 + 8 + 4 + 2)


def test_threads_do_not_disturb_each_other() -> None:
    tables = [ride(rows) for rows in (500, 1_500, 4_000)]
    expected = [encode(table).payload for table in tables]

    def right(place: int) -> bool:
        return encode(tables[place]).payload == expected[place] and decode(expected[place]).equals(tables[place])

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(right, [0, 1, 2] * 6))


def test_numbers_of_headers_come_back_and_end_where_they_must() -> None:
    for value in (0, 1, 127, 128, 2**32, UINT64_MAX):
        out = bytearray()
        write_unsigned(out, value)
        assert Reader(bytes(out)).unsigned() == value
    for value in (0, -1, 1, -(2**63), 2**63 - 1):
        out = bytearray()
        write_signed(out, value)
        assert Reader(bytes(out)).signed() == value
    for content in (b"", b"\x80", b"\xff" * 10, b"\xff" * 9 + b"\x02"):
        with pytest.raises(SegmentDamaged):
            Reader(content).unsigned()
