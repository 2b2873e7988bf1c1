"""Receipts of erasures: what they say, how they are signed, and how they are verified.

The signature covers the receipt's canonical form: its document without the signature as JSON, keys sorted, no spaces,
UTF-8 (README.md shows it). Whoever has the public key can verify a receipt without us.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import StorageTier
from tallygate_server.errors import NotFound
from tallygate_server.lifecycle.keys import KeyDestroyed, KeyStore, KeyUnreadable
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.erasure_receipts import (
    SigningKeyRow,
    add_receipt,
    add_signing_key,
    newest_signing_key,
    read_receipt,
    read_signing_key,
)

SALT_BYTES: Final = 16
SIGNING_TENANT: Final = TenantId("_signing")
"""Where private halves lie in the key store; no tenant can have this id."""


class ErasureMethod(IntEnum):
    """How something was erased; numbers are those of the contract."""

    DELETED = 1
    KEY_DESTROYED = 2
    ANONYMIZED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedItem:
    """Something that was removed."""

    kind: str
    tier: StorageTier | None = None
    record_count: int = 0
    segment_count: int = 0
    bytes: int = 0
    method: ErasureMethod = ErasureMethod.DELETED

    def to_document(self) -> dict[str, Any]:
        """Return it as the contract's JSON."""
        return {
            "kind": self.kind,
            "tier": f"STORAGE_TIER_{self.tier.name if self.tier else 'UNSPECIFIED'}",
            "record_count": self.record_count,
            "segment_count": self.segment_count,
            "bytes": self.bytes,
            "method": f"ERASURE_METHOD_{self.method.name}",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptItem:
    """Something that was kept, or refused for now."""

    kind: str
    record_count: int = 0
    reason_text: str
    end_time: datetime | None = None
    anonymized: bool = False

    def to_document(self) -> dict[str, Any]:
        """Return it as the contract's JSON."""
        document: dict[str, Any] = {
            "kind": self.kind,
            "record_count": self.record_count,
            "reason_text": self.reason_text,
            "anonymized": self.anonymized,
        }
        return document | ({"end_time": time_text(self.end_time)} if self.end_time else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureReceipt:
    """Proof of what was erased, kept and refused."""

    receipt_id: str
    tenant_id: TenantId
    account_digest: str
    digest_salt: str
    removed: tuple[ErasedItem, ...] = ()
    kept: tuple[KeptItem, ...] = ()
    refused: tuple[KeptItem, ...] = ()
    destroyed_key_ids: tuple[str, ...] = ()
    erase_time: datetime
    actor: str
    signing_key_id: str = ""
    signature: bytes = b""

    def to_document(self) -> dict[str, Any]:
        """Return it as the contract's JSON, with the contract's names."""
        return {
            "receipt_id": self.receipt_id,
            "tenant_id": self.tenant_id,
            "account_digest": self.account_digest,
            "digest_salt": self.digest_salt,
            "removed": [item.to_document() for item in self.removed],
            "kept": [item.to_document() for item in self.kept],
            "refused": [item.to_document() for item in self.refused],
            "destroyed_key_ids": list(self.destroyed_key_ids),
            "erase_time": time_text(self.erase_time),
            "actor": self.actor,
            "signing_key_id": self.signing_key_id,
            "signature": base64.b64encode(self.signature).decode(),
        }

    @property
    def canonical(self) -> bytes:
        """Return what is signed."""
        document = self.to_document()
        del document["signature"]
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def is_about(self, account_id: AccountId) -> bool:
        """Tell whether it is about this account."""
        return secrets.compare_digest(self.account_digest, digest_of(self.tenant_id, account_id, salt=self.digest_salt))


def time_text(instant: datetime) -> str:
    """Return an instant as RFC 3339 in UTC, always with microseconds."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def digest_of(tenant_id: TenantId, account_id: AccountId, *, salt: str) -> str:
    """Return the salted SHA-256 of an account's id, in hexadecimal."""
    return hashlib.sha256(f"{salt}/{tenant_id}/{account_id}".encode()).hexdigest()


def new_salt() -> str:
    """Return a new salt, in hexadecimal."""
    return secrets.token_hex(SALT_BYTES)


class Receipts:
    """Signs, keeps and verifies receipts."""

    def __init__(self, database: Database, keys: KeyStore, clock: Clock) -> None:
        """Keep receipts in the database, and private keys in the key store."""
        self._database = database
        self._keys = keys
        self._clock = clock

    async def sign(self, receipt: ErasureReceipt) -> ErasureReceipt:
        """Return the receipt with its signature. Raises StoreUnavailable."""
        signing_key_id, secret = await self._signing_key(receipt.tenant_id)
        signed = replace(receipt, signing_key_id=signing_key_id)
        return replace(signed, signature=Ed25519PrivateKey.from_private_bytes(secret).sign(signed.canonical))

    async def write(self, connection: Connection, receipt: ErasureReceipt) -> None:
        """Keep a signed receipt, within the caller's transaction."""
        await add_receipt(
            connection,
            receipt.tenant_id,
            receipt.receipt_id,
            receipt.to_document(),
            signature=receipt.signature,
            signing_key_id=receipt.signing_key_id,
            now=self._clock.now(),
        )

    async def find(self, tenant_id: TenantId, receipt_id: str) -> dict[str, Any] | None:
        """Return a receipt's document; None where there is none."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await read_receipt(connection, tenant_id, receipt_id)

    async def get(self, tenant_id: TenantId, receipt_id: str) -> Mapping[str, Any]:
        """Return a receipt's document, as the contract's JSON. Raises NotFound."""
        document = await self.find(tenant_id, receipt_id)
        if document is None:
            raise NotFound("erasure receipt", receipt_id, field="receipt_id")
        return document

    async def signature_valid(self, receipt: ErasureReceipt) -> bool:
        """Tell whether the signature is ours and nothing was changed since."""
        async with self._database.tenant_transaction(receipt.tenant_id) as connection:
            key = await read_signing_key(connection, receipt.signing_key_id)
        if key is None:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(receipt.signature, receipt.canonical)
        except InvalidSignature:
            return False
        return True

    async def _signing_key(self, tenant_id: TenantId) -> tuple[str, bytes]:
        """Return the newest key whose private half can be read, or a new one."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            key = await newest_signing_key(connection)
        if key is not None:
            try:
                return key.signing_key_id, await self._keys.read(SIGNING_TENANT, key.signing_key_id)
            except (KeyDestroyed, KeyUnreadable):
                # Old receipts are verified with its public half; new ones need another key.
                pass
        private = Ed25519PrivateKey.generate()
        signing_key_id, secret = f"sign_{secrets.token_hex(8)}", private.private_bytes_raw()
        await self._keys.write(SIGNING_TENANT, signing_key_id, secret)
        row = SigningKeyRow(
            signing_key_id=signing_key_id,
            public_key=private.public_key().public_bytes_raw(),
            create_time=self._clock.now(),
        )
        async with self._database.tenant_transaction(tenant_id) as connection:
            await add_signing_key(connection, row)
        return signing_key_id, secret
