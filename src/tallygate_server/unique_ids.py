"""Ids that the server makes: unique, unguessable, and in the order of their making."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import Final

_RANDOM_BITS: Final = 74


def new_id(prefix: str, at: datetime) -> str:
    """Return `prefix_` and a UUID of version 7 (RFC 9562) for the instant, as 32 hexadecimal digits."""
    return _id(prefix, at, secrets.randbits(_RANDOM_BITS))


def id_of(prefix: str, at: datetime, name: str) -> str:
    """Return an id of the same form for what has this name elsewhere: the same at every call, on every server."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return _id(prefix, at, int.from_bytes(digest) >> (128 - _RANDOM_BITS))


def _id(prefix: str, at: datetime, random: int) -> str:
    high, low = random >> 62, random & ((1 << 62) - 1)
    value = int(at.timestamp() * 1_000) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    return f"{prefix}_{value:032x}"
