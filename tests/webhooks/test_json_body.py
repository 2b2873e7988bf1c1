"""A body is JSON that can be stored and read again by everybody, or it is refused without a word of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tallygate_server.errors import InvalidRequest
from tallygate_server.webhooks.json_body import BODY_BYTES_MAX, DEPTH_MAX, NUMBER_LENGTH_MAX, parse_body


def nested(depth: int) -> bytes:
    """Write an object whose innermost value is so deep."""
    return b'{"a":' + b"[" * (depth - 2) + b"1" + b"]" * (depth - 2) + b"}"


def padded(size: int) -> bytes:
    return b'{"a":"' + b"x" * (size - 8) + b'"}'


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b' {"a": null, "b": [true, -1.5e3, "\\u00e9 \\\\u0000"]} \n',
        '{"Grüße": "\U0001f600"}'.encode(),
        b'{"a": "\\ud83d\\ude00"}',
        b'{"a":{"x":1},"b":{"x":1}}',
        nested(DEPTH_MAX),
        b'{"a":' + b"9" * NUMBER_LENGTH_MAX + b"}",
        padded(BODY_BYTES_MAX),
    ],
    ids=["empty", "mixed", "text", "pair", "same key elsewhere", "deep", "long number", "large"],
)
def test_json_within_the_bounds_is_read(body: bytes) -> None:
    expected: Any = json.loads(body)

    assert parse_body(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"{}{}",
        b'{"secret": 1,}',
        b"{'secret': 1}",
        b"\xef\xbb\xbf{}",
        b'{"secret": "\xff"}',
        b'{"secret": "\xed\xa0\x80"}',
        '{"secret": 1}'.encode("utf-16"),
        b'{"secret": NaN}',
        b'{"secret": -Infinity}',
        b'{"secret": 1e999}',
        b'{"secret": ' + b"9" * (NUMBER_LENGTH_MAX + 1) + b"}",
        b'{"secret": ' + b"9" * 10_000 + b"}",
        b'{"secret": 0.' + b"9" * 10_000 + b"}",
        b'{"secret": 1, "secret": 2}',
        b'{"a": [{"secret": 1, "secret": 1}]}',
        b'{"secret": "\\u0000"}',
        b'{"secret\\u0000": 1}',
        b'{"secret": "\\ud800"}',
        b'{"a": [["\\udfff"]]}',
        b'{"secret": "\n"}',
        nested(DEPTH_MAX + 1),
        nested(100_000),
        b'{"a":' * 50_000,
        padded(BODY_BYTES_MAX + 1),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_anything_else_is_refused_and_not_repeated(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_body(body)

    assert [violation.field for violation in refused.value.violations] == ["payload"]
    assert "secret" not in str(refused.value)
