"""Tells readers of changes: through Redis, and where that fails, by ending the epoch of what Redis knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tallygate_server.counters.counters import Counters
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.storage.cache_epochs import CacheEpochs


class FencedMarks:
    """Satisfies `entitlement_changes.RevisionMarks`."""

    def __init__(self, counters: Counters, epochs: CacheEpochs) -> None:
        """Tell Redis through the counters."""
        self._counters = counters
        self._epochs = epochs

    async def mark_changing(self, tenant_id: TenantId, account_ids: Sequence[AccountId]) -> None:
        """Make every reader ask Postgres about these accounts, if Redis can be told."""
        await self._counters.mark_changing(tenant_id, account_ids)

    async def publish(
        self, tenant_id: TenantId, revisions: Mapping[AccountId, int], *, may_be_cached: bool = True
    ) -> None:
        """End the change, and return when no server believes an older revision any more.

        Without Redis that takes a second. Raises StoreUnavailable when neither store could be told.
        """
        published = await self._counters.publish(tenant_id, revisions)
        if not may_be_cached:
            return
        if not published:
            await self._epochs.begin()
        await self._epochs.settled()
