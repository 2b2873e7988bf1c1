"""SQL of records with ids: which record has an id now, and whose place it took."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import data_replaced_records

_c = data_replaced_records.c


async def replaced_sequences(
    connection: Connection, tenant_id: TenantId, dataset_id: str, *, first: int, last: int
) -> list[int]:
    """Return which records between two sequences, both included, another has taken the place of."""
    rows = await connection.execute(
        select(_c.sequence).where(
            _c.tenant_id == tenant_id, _c.dataset_id == dataset_id, _c.sequence.between(first, last)
        )
    )
    return list(rows.scalars())


async def forget_replaced(
    connection: Connection, tenant_id: TenantId, dataset_id: str, sequences: Sequence[int]
) -> int:
    """Delete marks of records that are gone now; return how many there were."""
    if not sequences:
        return 0
    gone = await connection.execute(
        delete(data_replaced_records)
        .where(_c.tenant_id == tenant_id, _c.dataset_id == dataset_id, _c.sequence.in_(list(sequences)))
        .returning(_c.sequence)
    )
    return len(gone.all())
