"""What jobs report, in the JSON form of the contract's messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tallygate_server.domain.lifecycle import Segment


def time_document(instant: datetime) -> str:
    """Return an instant as the contract's JSON has it."""
    return instant.isoformat().replace("+00:00", "Z")


def segment_document(segment: Segment) -> dict[str, Any]:
    """Return a segment as the contract's JSON has it."""
    document: dict[str, Any] = {
        "segment_id": segment.segment_id,
        "dataset_id": segment.dataset_id,
        "account_id": segment.account_id,
        "data_type": segment.data_type,
        "tier": f"STORAGE_TIER_{segment.tier.name}",
        "form": f"COMPRESSION_FORM_{segment.form.name}",
        "span": {"start_time": time_document(segment.start_time), "end_time": time_document(segment.end_time)},
        "record_count": segment.record_count,
        "stored_bytes": segment.stored_bytes,
        "original_bytes": segment.original_bytes,
        "checksum_sha256": segment.checksum.hex(),
        "state": f"SEGMENT_STATE_{segment.state.name}",
        "encrypted": True,
        "codecs": dict(segment.codecs),
        "create_time": time_document(segment.create_time),
    }
    if segment.retention_end_time is not None:
        document["retention_end_time"] = time_document(segment.retention_end_time)
    return document
