"""Ids that the server makes: unique, unguessable, and in the order of their making."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Final

_RANDOM_BITS: Final = 74


def new_id(prefix: str, at: datetime) -> str:
    """Return `prefix_` and a UUID of version 7 (RFC 9562) for the instant, as 32 hexadecimal digits."""
    random = secrets.randbits(_RANDOM_BITS)
    high, low = random >> 62, random & ((1 << 62) - 1)
    value = int(at.timestamp() * 1_000) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    return f"{prefix}_{value:032x}"
