"""What an event looks like outside: its id, and data that every reader of JSON understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

EVENT_PREFIX: Final = "evt_"
DELIVERY_PREFIX: Final = "del_"
SAFE_INTEGER_MAX: Final = 2**53
"""Readers who keep numbers as doubles, and google.protobuf.Struct, are exact up to here."""
_ID_MAX: Final = 2**63 - 1


def event_id_text(event_id: int) -> str:
    """Write the id of an event as callers know it."""
    return f"{EVENT_PREFIX}{event_id}"


def event_id_number(text: str) -> int | None:
    """Read the id of an event; None for what cannot be one."""
    return _number(text, EVENT_PREFIX)


def delivery_id_text(delivery_id: int) -> str:
    """Write the id of a delivery as callers know it."""
    return f"{DELIVERY_PREFIX}{delivery_id}"


def safe_json(value: Any) -> Any:
    """Return the value with integers beyond 2^53, either way, as text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -SAFE_INTEGER_MAX <= value <= SAFE_INTEGER_MAX else str(value)
    if isinstance(value, Mapping):
        return {key: safe_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [safe_json(item) for item in value]
    return value


def _number(text: str, prefix: str) -> int | None:
    digits = text.removeprefix(prefix)
    if digits == text or not digits.isascii() or not digits.isdecimal() or (digits[0] == "0" and len(digits) > 1):
        return None
    number = int(digits) if len(digits) < 20 else _ID_MAX + 1  # noqa: PLR2004 - digits of the largest id, and one
    return number if number <= _ID_MAX else None
