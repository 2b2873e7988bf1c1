"""Reads what handlers need out of a webhook's body, whose shape is never taken for granted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tallygate_server.errors import InvalidRequest


def object_at(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object under the name, an empty one where it is absent or null; raise InvalidRequest."""
    value = content.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest.of(f"payload.{name}", "is no object")
    return value


def objects_at(content: Mapping[str, Any], name: str, *, count_max: int) -> list[dict[str, Any]]:
    """Return the first objects of the list under the name, none where it is absent or null; raise InvalidRequest."""
    value = content.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidRequest.of(f"payload.{name}", "is no list of objects")
    return value[:count_max]


def text_at(content: Mapping[str, Any], name: str) -> str:
    """Return the text under the name, an empty one where it is absent or null; raise InvalidRequest."""
    value = content.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest.of(f"payload.{name}", "is no text")
    return value


def whole_number_at(content: Mapping[str, Any], name: str) -> int:
    """Return the whole number under the name, 0 where it is absent or null; raise InvalidRequest."""
    value = content.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest.of(f"payload.{name}", "is no whole number")
    return value
