"""SQL of the outbox: events that happened, written in the transaction that made them happen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import outbox_events


async def add_event(
    connection: Connection,
    tenant_id: TenantId,
    *,
    event_type: str,
    account_id: str = "",
    revision: int = 0,
    payload: Mapping[str, Any],
) -> None:
    """Write an event to be published once the transaction is committed."""
    await connection.execute(
        outbox_events.insert().values(
            tenant_id=tenant_id,
            type=event_type,
            account_id=account_id,
            revision=revision,
            payload=dict(payload),
        )
    )
