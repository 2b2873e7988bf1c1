"""Page tokens: opaque to callers, bound to one list call and its filters, good for a day.

A token carries where the next page begins and a digest over that, the method and the filters. It needs no
secret: it grants nothing (the filters, and the tenant above all, are always taken from the request itself),
the digest only notices tokens that were altered or brought to another call. So every server reads the
tokens of every other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, cast

from google.protobuf.message import Message

from tallygate_server.domain.limits import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX
from tallygate_server.errors import FieldViolation, PageTokenInvalid

TOKEN_AGE_MAX: Final = timedelta(days=1)

_VERSION: Final = 1
_HEADER: Final = struct.Struct(">BQ")  # version, seconds since 1970
_DIGEST_BYTES: Final = 12
_PAGING_FIELDS: Final = ("page_size", "page_token")


class PagedRequest(Protocol):
    """A list request of the contract."""

    DESCRIPTOR: Any
    page_size: int
    page_token: str


def page_size_of(request_page_size: int) -> int:
    """Return the page size to use for the one that was asked for; 0 means the default."""
    return min(request_page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def page_token(request: PagedRequest, position: str, *, now: datetime) -> str:
    """Make the token of the page that begins after the position, for further requests with these filters."""
    body = _HEADER.pack(_VERSION, int(now.timestamp())) + position.encode()
    return base64.urlsafe_b64encode(_digest(request, body) + body).decode().rstrip("=")


def page_position(request: PagedRequest, *, now: datetime) -> str:
    """Return the position in the request's token, "" without one; raises PageTokenInvalid."""
    token = request.page_token
    if not token:
        return ""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        version, issued_seconds = _HEADER.unpack_from(body)
        position = body[_HEADER.size :].decode()
    except (binascii.Error, struct.error, UnicodeDecodeError) as error:
        raise _invalid("is no page token") from error
    if version != _VERSION or digest != _digest(request, body):
        raise _invalid("was not made by this call with these filters; begin again without one")
    if now.timestamp() - issued_seconds > TOKEN_AGE_MAX.total_seconds():
        raise _invalid("is older than a day; begin again without one")
    return position


def page_of(keys: Sequence[str], request: PagedRequest, *, now: datetime) -> tuple[slice, str]:
    """Cut the wanted page out of sorted keys in memory: its slice, and the next page's token or ""."""
    size = page_size_of(request.page_size)
    position = page_position(request, now=now)
    start = 0
    if position:
        start = next((index for index, key in enumerate(keys) if key > position), len(keys))
    end = min(start + size, len(keys))
    return slice(start, end), page_token(request, keys[end - 1], now=now) if start < end < len(keys) else ""


def _digest(request: PagedRequest, body: bytes) -> bytes:
    filters = cast("Message", type(request)())
    filters.CopyFrom(cast("Message", request))
    for name in _PAGING_FIELDS:
        filters.ClearField(name)
    hashed = hashlib.sha256(f"{request.DESCRIPTOR.full_name}\0".encode())
    hashed.update(len(body).to_bytes(4))
    hashed.update(body)
    hashed.update(filters.SerializeToString(deterministic=True))
    return hashed.digest()[:_DIGEST_BYTES]


def _invalid(description: str) -> PageTokenInvalid:
    return PageTokenInvalid([FieldViolation("page_token", description)])
