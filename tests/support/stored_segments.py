"""Segments that are made of nothing but their row in the manifest: enough for sums."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import CompressionForm, Segment, StorageTier
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.storage.data_segments import add_segments
from tests.support.acme import ACME, ANN
from tests.support.lifecycle import NOON


def a_segment(
    number: int,
    *,
    account_id: AccountId = ANN,
    data_type: str = "ride",
    tier: StorageTier = StorageTier.HOT,
    lossless: bool = False,
    stored_bytes: int = 1_000,
    original_bytes: int = 1_100,
    age_days: float = 1,
    **more: Any,
) -> Segment:
    """Make a row of the manifest, of ten times its number of records, whose last record was so old at noon."""
    end_time: datetime = NOON - timedelta(days=age_days)
    return Segment(
        **{
            "tenant_id": ACME,
            "segment_id": f"seg_{number}",
            "dataset_id": f"ds_{account_id}_{data_type}",
            "account_id": account_id,
            "data_type": data_type,
            "tier": tier,
            "form": CompressionForm.LOSSLESS if lossless else CompressionForm.NONE,
            "start_time": end_time - timedelta(hours=1),
            "end_time": end_time,
            "record_count": 10 * number,
            "stored_bytes": stored_bytes,
            "original_bytes": original_bytes,
            "checksum": b"",
            "values_digest": b"",
            "key_id": "key",
            "create_time": end_time,
            **more,
        }
    )


async def add_rows(lifecycle: Lifecycle, segments: Sequence[Segment]) -> None:
    """Write rows of the manifest."""
    for tenant_id in sorted({segment.tenant_id for segment in segments}):
        async with lifecycle.database.tenant_transaction(tenant_id) as connection:
            await add_segments(connection, [each for each in segments if each.tenant_id == tenant_id])
