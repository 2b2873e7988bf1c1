"""Listing datasets and the segments that they lie in."""

from __future__ import annotations

from datetime import datetime

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataSelection, Segment, SegmentState
from tallygate_server.lifecycle.records.views import DatasetView
from tallygate_server.storage import data_records as rows
from tallygate_server.storage.data_segments import read_segments
from tallygate_server.storage.datasets import page_of_datasets
from tallygate_server.storage.engine import Database
from tallygate_server.tenants import TenantDirectory


class RecordListing:
    """Lists what there is."""

    def __init__(self, database: Database, *, tenants: TenantDirectory) -> None:
        """Read from the database."""
        self._database = database
        self._tenants = tenants

    async def datasets(
        self,
        tenant_id: TenantId,
        *,
        account_id: AccountId | None = None,
        data_type: str = "",
        after: tuple[str, str] | None = None,
        limit: int,
    ) -> list[DatasetView]:
        """Return datasets by account and sort of data, those after one. Raises TenantNotFound."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_snapshot(tenant_id) as connection:
            found = await page_of_datasets(
                connection, tenant_id, account_id=account_id, data_type=data_type, after=after, limit=limit
            )
            usage = await rows.usage_of(connection, tenant_id, found)
        return [DatasetView.of(dataset, usage[dataset.dataset_id]) for dataset in found]

    async def segments(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        *,
        state: SegmentState | None = None,
        after: tuple[datetime, str] | None = None,
        limit: int,
    ) -> list[Segment]:
        """Return segments by begin and id, those after one; without a state all that are there.

        Raises TenantNotFound.
        """
        await self._tenants.get(tenant_id)
        async with self._database.tenant_snapshot(tenant_id) as connection:
            return await read_segments(connection, tenant_id, selection, state=state, after=after, limit=limit)
