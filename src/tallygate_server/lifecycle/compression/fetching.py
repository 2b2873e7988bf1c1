"""Fetches segments for a caller who waits: within a time, and telling damage from data that moved meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pyarrow as pa

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import Segment, SegmentState
from tallygate_server.errors import ArchiveCorruption, IntegrityViolation, RetrievalTimeout, Unavailable
from tallygate_server.lifecycle.lossy import Kept, LossyPayloadDamaged, decode
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.lifecycle.tiers.records import read_merged
from tallygate_server.storage.data_keys import KeyState, read_keys_of_account
from tallygate_server.storage.data_segments import read_segment

ACTOR = "analysis"


class Fetching:
    """Fetches segments."""

    def __init__(self, segments: SegmentStore, *, retrieval_timeout_ms: int) -> None:
        """Read through the segment store; one group of segments may take as long as this."""
        self.segments = segments
        self._timeout_ms = retrieval_timeout_ms

    async def records(self, group: Sequence[Segment]) -> pa.Table:
        """Return the records of segments without loss, merged by time.

        Raises IntegrityViolation or ArchiveCorruption after putting what is damaged in quarantine, RetrievalTimeout,
        Unavailable where a segment was moved meanwhile, StoreUnavailable.
        """
        async with self._guarded(group):
            table, _ = await read_merged(self.segments, group)
        return table

    async def kept(self, segment: Segment) -> Kept:
        """Return what is left of a segment with loss. Raises as `records`."""
        async with self._guarded([segment]):
            payload = await self.segments.read_payload(segment)
            try:
                return await asyncio.to_thread(decode, payload)
            except LossyPayloadDamaged as error:
                damaged = ArchiveCorruption if segment.object_path else IntegrityViolation
                raise damaged(
                    f"it cannot be decoded: {error}", dataset_id=segment.dataset_id, segment_id=segment.segment_id
                ) from error

    async def erased_keys(self, tenant_id: TenantId, account_id: AccountId) -> frozenset[str]:
        """Return the ids of keys that were destroyed: what they sealed can never be read."""
        async with self.segments.database.tenant_transaction(tenant_id) as connection:
            keys = await read_keys_of_account(connection, tenant_id, account_id)
        return frozenset(key.key_id for key in keys if key.state is KeyState.DESTROYED)

    @asynccontextmanager
    async def _guarded(self, group: Sequence[Segment]) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_ms / 1_000):
                yield
        except TimeoutError:
            raise RetrievalTimeout(dataset_id=group[0].dataset_id, timeout_ms=self._timeout_ms) from None
        except (IntegrityViolation, ArchiveCorruption) as error:
            segment = next((each for each in group if each.segment_id == error.facts["segment_id"]), group[0])
            async with self.segments.database.tenant_transaction(segment.tenant_id) as connection:
                present = await read_segment(connection, segment.tenant_id, segment.segment_id)
            if present is None or present.state in {SegmentState.REPLACED, SegmentState.DELETED}:
                raise Unavailable("a part of the data was moved while it was read; ask again") from error
            await self.segments.quarantine(segment, error.facts["why"], actor=ACTOR)
            raise
