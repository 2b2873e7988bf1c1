"""What jobs report of classifications and of what was left alone, in the JSON form of the contract's messages."""

from __future__ import annotations

from typing import Any

from tallygate_server.domain.classification import Classification
from tallygate_server.domain.lifecycle import Segment
from tallygate_server.domain.retention_rules import Kept
from tallygate_server.lifecycle.tiers.documents import time_document


def skipped_document(segment: Segment, kept: Kept) -> dict[str, Any]:
    """Return why a segment was left alone."""
    document: dict[str, Any] = {
        "segment_id": segment.segment_id,
        "kind": kept.kind.value,
        "explanation": kept.explanation,
    }
    if kept.possible_time is not None:
        document["possible_time"] = time_document(kept.possible_time)
    return document


def classification_document(classification: Classification) -> dict[str, Any]:
    """Return what a segment is worth."""
    segment = classification.segment
    document: dict[str, Any] = {
        "segment_id": segment.segment_id,
        "dataset_id": segment.dataset_id,
        "data_type": segment.data_type,
        "span": {"start_time": time_document(segment.start_time), "end_time": time_document(segment.end_time)},
        "importance": f"DATA_IMPORTANCE_{classification.importance.name}",
        "retention_days": classification.retention_days,
        "compression_eligible": classification.compression_eligible,
        "training_value": classification.training_value,
        "storage_optimization": f"STORAGE_OPTIMIZATION_{classification.storage_optimization.name}",
        "access_count": classification.access_count,
        "quality_score": segment.quality_score,
        "terms": [
            {"name": term.name, "value": term.value, "weight": term.weight, "explanation": term.explanation}
            for term in classification.terms
        ],
        "explanation": classification.explanation,
    }
    if classification.access_time is not None:
        document["access_time"] = time_document(classification.access_time)
    return document
