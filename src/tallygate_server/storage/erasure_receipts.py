"""SQL of receipts of erasures, and of the public keys that verify them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import erasure_receipts, signing_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyRow:
    """A key that signs receipts: its public half."""

    signing_key_id: str
    public_key: bytes
    create_time: datetime


async def add_receipt(
    connection: Connection,
    tenant_id: TenantId,
    receipt_id: str,
    document: dict[str, Any],
    *,
    signature: bytes,
    signing_key_id: str,
    now: datetime,
) -> None:
    """Write a receipt; one that is there already stays as it is."""
    await connection.execute(
        insert(erasure_receipts)
        .values(
            tenant_id=tenant_id,
            receipt_id=receipt_id,
            receipt=document,
            signature=signature,
            signing_key_id=signing_key_id,
            create_time=now,
        )
        .on_conflict_do_nothing()
    )


async def read_receipt(connection: Connection, tenant_id: TenantId, receipt_id: str) -> dict[str, Any] | None:
    """Return a receipt's document; None where there is none."""
    columns = erasure_receipts.c
    statement = select(columns.receipt).where(columns.tenant_id == tenant_id, columns.receipt_id == receipt_id)
    document: dict[str, Any] | None = (await connection.execute(statement)).scalar_one_or_none()
    return document


async def add_signing_key(connection: Connection, key: SigningKeyRow) -> None:
    """Write a key's public half."""
    await connection.execute(
        insert(signing_keys).values(
            signing_key_id=key.signing_key_id, public_key=key.public_key, create_time=key.create_time
        )
    )


async def newest_signing_key(connection: Connection) -> SigningKeyRow | None:
    """Return the key that signs."""
    columns = signing_keys.c
    statement = select(signing_keys).order_by(columns.create_time.desc(), columns.signing_key_id.desc()).limit(1)
    row = (await connection.execute(statement)).mappings().one_or_none()
    return None if row is None else SigningKeyRow(**row)


async def read_signing_key(connection: Connection, signing_key_id: str) -> SigningKeyRow | None:
    """Return a key by its id."""
    statement = select(signing_keys).where(signing_keys.c.signing_key_id == signing_key_id)
    row = (await connection.execute(statement)).mappings().one_or_none()
    return None if row is None else SigningKeyRow(**row)
