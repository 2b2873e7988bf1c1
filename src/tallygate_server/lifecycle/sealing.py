"""Seals payloads with an account's key: nobody reads or changes them without it."""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
_MAGIC: Final = b"TGS1"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
SEAL_BYTES: Final = len(_MAGIC) + _NONCE_BYTES + _TAG_BYTES
"""By which a sealed payload is longer."""


class SealBroken(Exception):
    """The bytes were not sealed with this key for this place, or were changed since."""


def seal(key: bytes, payload: bytes, *, place: str) -> bytes:
    """Return the payload sealed with AES-256-GCM, bound to its place so that it opens nowhere else."""
    nonce = os.urandom(_NONCE_BYTES)
    return b"".join((_MAGIC, nonce, AESGCM(key).encrypt(nonce, payload, place.encode())))


def unseal(key: bytes, sealed: bytes, *, place: str) -> bytes:
    """Return what was sealed; raises SealBroken."""
    if len(sealed) < SEAL_BYTES or sealed[: len(_MAGIC)] != _MAGIC:
        raise SealBroken("it is not sealed")
    start = len(_MAGIC) + _NONCE_BYTES
    try:
        return AESGCM(key).decrypt(sealed[len(_MAGIC) : start], memoryview(sealed)[start:], place.encode())
    except InvalidTag:
        raise SealBroken("it was changed, or sealed with another key") from None
