"""Reading what was recorded: the ListUsageEvents use case."""

from __future__ import annotations

from datetime import datetime

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.engine import Database
from tallygate_server.storage.usage_events import UsageEventRow, page_of_events
from tallygate_server.tenants import TenantDirectory


class UsageEvents:
    """Lists events; never records."""

    def __init__(self, database: Database, tenants: TenantDirectory) -> None:
        """Read as each event's tenant."""
        self._database = database
        self._tenants = tenants

    async def page(
        self,
        tenant_id: TenantId,
        *,
        account_id: str = "",
        event_type: str = "",
        source: str = "",
        event_id: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        before_event_key: int | None = None,
        limit: int,
    ) -> list[UsageEventRow]:
        """Return events that happened in `[start, end)`, in the order in which they came in, the newest first.

        Keyset-paged: those older than a key, at most so many. Raises TenantNotFound, StoreUnavailable.
        """
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await page_of_events(
                connection,
                tenant_id,
                account_id=account_id,
                event_type=event_type,
                source=source,
                event_id=event_id,
                start=start,
                end=end,
                before_event_key=before_event_key,
                limit=limit,
            )
