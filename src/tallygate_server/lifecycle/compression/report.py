"""What a compression job reports, in the contract's JSON; it is the job's checkpoint too."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import CompressionForm, Segment, StorageTier
from tallygate_server.lifecycle.compression.protection import Skip
from tallygate_server.lifecycle.keys import DataKey
from tallygate_server.lifecycle.lossy import ROWS, ColumnLoss, LossyForm, LossyResult, LossySettings
from tallygate_server.lifecycle.sealing import seal, unseal
from tallygate_server.lifecycle.tiers.documents import time_document

SEALED_METRICS: Final = "sealed_metrics"
"""Stands for `summary_metrics` while a report is stored."""
BRIEF_RESULTS_MAX: Final = 10
"""Results, and skipped segments, of one report in a list of jobs."""
RESULTS_TOLD_MAX: Final = 1_000
SKIPPED_TOLD_MAX: Final = 1_000
DETAILS_BYTES_MAX: Final = 524_288
"""Of columns and statistics in one report; results beyond are told without them, so that a message can hold it."""
LOSSLESS_ANALYSES: Final = (ROWS, "windows", "profile", "sessions", "patterns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """What came of compressing segments that become one."""

    sources: tuple[Segment, ...]
    segment_id: str
    """Empty: nothing was changed."""
    form: CompressionForm
    compress_time: datetime
    record_count: int
    original_bytes: int
    compressed_bytes: int
    value_retained: float
    columns: tuple[ColumnLoss, ...]
    sealed_metrics: Mapping[str, str]
    """Statistics of the records, which hold values of people: sealed with the account's key, as `seal_metrics` wrote
    them."""
    exact: bool
    available_analyses: tuple[str, ...]
    limitation: str
    retrieval_time: timedelta

    def to_document(self) -> dict[str, Any]:
        """Return it as the contract's JSON has it."""
        return {
            "original_segment_id": self.sources[0].segment_id,
            "segment_id": self.segment_id,
            "form": f"COMPRESSION_FORM_{self.form.name}",
            "compress_time": time_document(self.compress_time),
            "original_bytes": self.original_bytes,
            "compressed_bytes": self.compressed_bytes,
            "compression_ratio": self.compressed_bytes / max(self.original_bytes, 1),
            "value_retained": self.value_retained,
            "record_count": self.record_count,
            "columns": [loss_document(loss) for loss in self.columns],
            SEALED_METRICS: dict(self.sealed_metrics),
            "retrieval": retrieval_document(
                self.sources[0].tier,
                self.retrieval_time,
                exact=self.exact,
                available_analyses=self.available_analyses,
                limitation=self.limitation,
            ),
        }


def seal_metrics(key: DataKey, metrics: Mapping[str, Any], segment: Segment) -> dict[str, str]:
    """Seal statistics for a report: jobs are kept readable, and what people have measured must not be."""
    sealed = seal(key.secret, json.dumps(metrics).encode(), place=_place(segment.tenant_id, segment.segment_id))
    return {"key_id": key.key_id, "sealed": base64.b64encode(sealed).decode()}


def open_metrics(secret: bytes, sealed: Mapping[str, str], tenant_id: TenantId, segment_id: str) -> dict[str, Any]:
    """Return what `seal_metrics` has sealed of a segment. Raises SealBroken."""
    content = unseal(secret, base64.b64decode(sealed["sealed"]), place=_place(tenant_id, segment_id))
    metrics: dict[str, Any] = json.loads(content)
    return metrics


def _place(tenant_id: TenantId, segment_id: str) -> str:
    return f"{tenant_id}/compression/{segment_id}"


def loss_document(loss: ColumnLoss) -> dict[str, Any]:
    """Return what came of a column as the contract's JSON has it."""
    return {
        "column": loss.column,
        "codec": loss.codec,
        "original_bytes": loss.original_bytes,
        "compressed_bytes": loss.compressed_bytes,
        "max_error": loss.max_error,
        "root_mean_square_error": loss.root_mean_square_error,
    }


def retrieval_document(
    tier: StorageTier, retrieval_time: timedelta, *, exact: bool, available_analyses: Sequence[str], limitation: str
) -> dict[str, Any]:
    """Return how to get at a segment as the contract's JSON has it."""
    return {
        "tier": f"STORAGE_TIER_{tier.name}",
        "retrieval_time": f"{retrieval_time.total_seconds():.3f}s",
        "exact": exact,
        "available_analyses": list(available_analyses),
        "limitation": limitation,
    }


def compression_facts(result: LossyResult, settings: LossySettings) -> dict[str, Any]:
    """Return what is kept sealed beside a lossy payload, so that nobody must open it to know what it can give."""
    return {
        "compression": {
            "form": result.form.value,
            "window_seconds": settings.window.total_seconds() if result.form is LossyForm.SUMMARY else 0,
            "value_retained": result.value_retained,
            "columns": [loss_document(loss) for loss in result.columns],
            "summary_metrics": dict(result.summary_metrics),
            "exact": result.exact,
            "available_analyses": list(result.available_analyses),
            "limitation": result.limitation,
        },
        "statistics": {
            name: {key: metrics[key] for key in _STATISTICS if metrics.get(key) is not None}
            for name, metrics in result.summary_metrics.items()
            if "nan" in metrics
        },
    }


_STATISTICS: Final = ("count", "missing", "min", "max", "mean", "std")


class Report:
    """Sums that survive a crash."""

    def __init__(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; an empty one begins."""
        sums = checkpoint.get("sums", {})
        self._sums: dict[str, float] = {name: sums.get(name, 0) for name in _SUMS}
        self._results: list[dict[str, Any]] = list(checkpoint.get("results", ()))
        self._skipped: list[dict[str, Any]] = list(checkpoint.get("skipped", ()))
        self._details_bytes: int = checkpoint.get("details_bytes", 0)
        self._made = {result["segment_id"] for result in self._results}
        self._left_alone = {each["segment_id"] for each in self._skipped}
        self.skipped_count: int = checkpoint.get("skipped_count", 0)
        """All that were left alone; the first of them are told."""
        begun = checkpoint.get("begun")
        self.begun: datetime | None = datetime.fromisoformat(begun) if begun else None
        """When the first attempt began."""

    @property
    def done_count(self) -> int:
        """Segments that were looked at, as far as they are told."""
        return int(self._sums["segment_count"]) + self.skipped_count

    @property
    def read_bytes(self) -> int:
        """Bytes that compressed segments took before."""
        return int(self._sums["read_bytes"])

    @property
    def written_bytes(self) -> int:
        """Bytes that were written."""
        return int(self._sums["compressed_bytes"])

    def has_made(self, segment: Segment) -> bool:
        """Tell whether this job has written a segment, in an attempt before or just now."""
        if segment.segment_id in self._made:
            return True
        full = len(self._results) == RESULTS_TOLD_MAX
        return full and self.begun is not None and segment.create_time >= self.begun

    def with_result(self, compressed: Compressed) -> Report:
        """Return the report with one more result."""
        report = Report(self.checkpoint())
        weight = compressed.record_count
        added = {
            "segment_count": len(compressed.sources),
            "record_count": weight,
            "original_bytes": compressed.original_bytes,
            "compressed_bytes": compressed.compressed_bytes,
            "read_bytes": sum(segment.stored_bytes for segment in compressed.sources),
            "value": compressed.value_retained * weight,
        }
        report._sums = {name: self._sums[name] + added[name] for name in _SUMS}
        if len(report._results) < RESULTS_TOLD_MAX:
            document = compressed.to_document()
            details = {name: document.pop(name) for name in ("columns", SEALED_METRICS)}
            size = len(json.dumps(details))
            if self._details_bytes + size <= DETAILS_BYTES_MAX:
                report._details_bytes += size
                document |= details
            report._results.append(document)
            report._made.add(compressed.segment_id)
        return report

    def skip(self, segment: Segment, skip: Skip) -> None:
        """Note a segment that was left alone; once, however many attempts there are."""
        if segment.segment_id in self._left_alone:
            return
        self.skipped_count += 1
        if len(self._skipped) < SKIPPED_TOLD_MAX:
            self._left_alone.add(segment.segment_id)
            self._skipped.append(skip.to_document(segment))

    def checkpoint(self) -> dict[str, Any]:
        """Return what an attempt after a crash goes on with."""
        return {
            "begun": self.begun.isoformat() if self.begun else None,
            "sums": dict(self._sums),
            "results": list(self._results),
            "skipped": list(self._skipped),
            "details_bytes": self._details_bytes,
            "skipped_count": self.skipped_count,
        }

    def to_document(self) -> dict[str, Any]:
        """Return the contract's `CompressionReport` as JSON."""
        records = self._sums["record_count"]
        return {
            **{name: int(self._sums[name]) for name in _TOLD_SUMS},
            "value_retained": self._sums["value"] / records if records else 1.0,
            "results": self._results,
            "skipped": self._skipped,
        }


_TOLD_SUMS: Final = ("segment_count", "record_count", "original_bytes", "compressed_bytes")
_SUMS: Final = (*_TOLD_SUMS, "read_bytes", "value")
