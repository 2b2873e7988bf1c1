"""SQL of the audit log: who did what to which subject, written in the transaction that does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import audit_entries


async def add_audit_entry(
    connection: Connection,
    tenant_id: TenantId,
    *,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, Any],
) -> None:
    """Write an entry; it stands or falls with the transaction."""
    await connection.execute(
        audit_entries.insert().values(
            tenant_id=tenant_id, actor=actor, action=action, subject=subject, detail=dict(detail)
        )
    )
