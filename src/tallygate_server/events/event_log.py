"""The events of a tenant, looked back on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage import outbox
from tallygate_server.storage.engine import Database
from tallygate_server.storage.outbox import EventFilter, OutboxEvent
from tallygate_server.tenants import TenantDirectory


class EventLog:
    """Lists what was published."""

    def __init__(self, database: Database, *, tenants: TenantDirectory) -> None:
        """Read as the application."""
        self._database = database
        self._tenants = tenants

    async def list(
        self,
        tenant_id: TenantId,
        wanted: EventFilter,
        *,
        start_time: datetime | None,
        end_time: datetime | None,
        before_sequence: int | None,
        limit: int,
    ) -> Sequence[OutboxEvent]:
        """Return events, newest first; the page goes on before a sequence. Raises TenantNotFound."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await outbox.page_of_events(
                connection,
                tenant_id,
                wanted,
                start_time=start_time,
                end_time=end_time,
                before_sequence=before_sequence,
                limit=limit,
            )
