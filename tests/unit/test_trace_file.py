from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tallygate_server.trace_file import TraceError, read_trace

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "trace.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def test_tokens_of_a_row_are_context_and_generated_together(write: Write) -> None:
    trace = read_trace(write(HEADER + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"))

    assert list(trace.quantities) == [418, 505]
    assert trace.tokens == 923
    assert trace.times_s[1] - trace.times_s[0] == pytest.approx(4.314579, abs=1e-6)


@pytest.mark.parametrize(
    "header",
    [
        "timestamp,context_tokens,generated_tokens",
        "Context Tokens,TIMESTAMP,Generated-Tokens",
        "arrival_time,input_tokens,output_tokens",
        "﻿TIMESTAMP,ContextTokens,GeneratedTokens",
        "model,TIMESTAMP,ContextTokens,region,GeneratedTokens",
    ],
)
def test_columns_are_found_by_name_whatever_case_order_and_company(write: Write, header: str) -> None:
    cells = {"context": "7", "input": "7", "generated": "5", "output": "5", "time": "12.5"}
    row = ",".join(
        next((value for name, value in cells.items() if name in column.lower()), "x") for column in header.split(",")
    )

    trace = read_trace(write(f"{header}\n{row}\n"))

    assert list(trace.quantities) == [12]
    assert list(trace.times_s) == [12.5]


def test_named_columns_win_over_usual_names(write: Write) -> None:
    text = "when,timestamp,size,contexttokens,generatedtokens\n3,1,10,20,1\n"

    trace = read_trace(write(text), time_column="When", context_column="size")

    assert (list(trace.times_s), list(trace.quantities)) == ([3.0], [11])


@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        ("2023-11-16 18:15:46,374,44\nyesterday,1,1\n", 3, "time: 'yesterday'"),
        ("2023-11-16 18:15:46,374,44\n\n2023-11-16 18:15:46,many,44\n", 4, "'many' is not a whole number"),
        ("2023-11-16 18:15:46,374\n", 2, "generated tokens: missing"),
        ("2023-11-16 18:15:46,,44\n", 2, "context tokens: missing"),
        ("2023-11-16 18:15:46,-5,44\n", 2, "'-5'"),
        ("2023-11-16 18:15:46,5.5,44\n", 2, "'5.5'"),
        ("2023-11-16 18:15:46,999999999999,2\n", 2, "more than one call may count"),
        ("2023-11-16 18:15:46,²,2\n", 2, "'²'"),
        ("nan,1,2\n", 2, "time: 'nan'"),
    ],
)
def test_a_bad_row_is_named_by_its_line(write: Write, rows: str, line: int, words: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(write(HEADER + rows))

    assert caught.value.line == line
    assert f"line {line}: " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        (HEADER, "no rows"),
        ("TIMESTAMP,ContextTokens\n1,2\n", "no column generatedtokens"),
        ("TIMESTAMP,ContextTokens,ContextTokens,GeneratedTokens\n1,2,3,4\n", "twice"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (HEADER + "1,2," + "3" * 200_000, "is not CSV"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(write: Write, content: str | bytes, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        read_trace(write(content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.csv: cannot be read: No such file"):
        read_trace(tmp_path / "nowhere.csv")


def test_rows_without_tokens_are_rows(write: Write) -> None:
    trace = read_trace(write(HEADER + "1,0,0\n2,0,3\n"))

    assert list(trace.quantities) == [0, 3]


def test_time_zones_are_honoured(write: Write) -> None:
    trace = read_trace(write(HEADER + "2023-11-16T18:00:00Z,1,1\n2023-11-16T20:00:00.0000001+02:00,1,1\n"))

    assert trace.times_s[0] == trace.times_s[1]
