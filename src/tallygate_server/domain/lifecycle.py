"""Words of the data lifecycle: tiers, forms, segments, selections, jobs. Numbers are those of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any, Final

from tallygate_server.domain.identifier import AccountId, TenantId

SEGMENT_ROWS_MAX: Final = 131_072
"""Records in one segment: what is encoded, sealed, verified and read as one."""
OWN_DATA_TYPES: Final = frozenset({"webhook_event", "usage_entry", "usage_event", "usage_denial"})
"""Data types of records that we archive ourselves; nobody else puts records under these names."""
ONE_MICROSECOND: Final = timedelta(microseconds=1)


class DatasetShape(IntEnum):
    """What records are."""

    TIME_SERIES = 1
    DOCUMENTS = 2


class ColumnType(IntEnum):
    """Type of a column's values."""

    INT64 = 1
    DOUBLE = 2
    STRING = 3
    BOOL = 4
    TIMESTAMP = 5


class StorageTier(IntEnum):
    """Where data lies."""

    HOT = 1
    WARM = 2
    COLD = 3


class CompressionForm(IntEnum):
    """How a segment is stored."""

    NONE = 1
    LOSSLESS = 2
    SUMMARY = 3
    BEHAVIORAL = 4
    STATISTICAL = 5

    @property
    def exact(self) -> bool:
        """Tell whether the very records can be given back."""
        return self in {CompressionForm.NONE, CompressionForm.LOSSLESS}


class DataImportance(IntEnum):
    """How important data is."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


class StorageOptimization(IntEnum):
    """What should become of data."""

    NONE = 1
    COMPRESS = 2
    SUMMARIZE = 3
    DELETE = 4


class SegmentState(IntEnum):
    """Where a segment is in its life."""

    LIVE = 1
    REPLACED = 2
    QUARANTINED = 3
    DELETED = 4


class JobKind(IntEnum):
    """What long work does."""

    COMPRESSION = 1
    ARCHIVE = 2
    RESTORE = 3
    CLEANUP = 4
    OPTIMIZATION = 5
    INTEGRITY = 6
    EXPORT = 7
    ERASURE = 8
    KEY_ROTATION = 9


class JobState(IntEnum):
    """Where long work is."""

    PENDING = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELED = 5

    @property
    def ended(self) -> bool:
        """Tell whether nothing will happen to the job any more."""
        return self not in {JobState.PENDING, JobState.RUNNING}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataColumn:
    """A column of a time series."""

    name: str
    type: ColumnType
    unit: str = ""
    min_valid: float | None = None
    max_valid: float | None = None
    nullable: bool = False

    def to_document(self) -> dict[str, Any]:
        """Return the column as JSON holds it."""
        return {
            "name": self.name,
            "type": int(self.type),
            "unit": self.unit,
            "min_valid": self.min_valid,
            "max_valid": self.max_valid,
            "nullable": self.nullable,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> DataColumn:
        """Return the column that `to_document` wrote."""
        return cls(**{**document, "type": ColumnType(document["type"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The records of one account and data type."""

    tenant_id: TenantId
    dataset_id: str
    account_id: AccountId
    """Empty: the tenant's own."""
    data_type: str
    shape: DatasetShape
    columns: tuple[DataColumn, ...] = ()
    """Empty for documents."""
    has_record_ids: bool = False
    next_sequence: int = 1
    quality_sum: float = 0.0
    quality_weight: float = 0.0
    create_time: datetime
    update_time: datetime
    access_time: datetime | None = None

    @property
    def quality_score(self) -> float:
        """Mean quality of its batches, 0 to 1."""
        return self.quality_sum / self.quality_weight if self.quality_weight else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of a dataset that is stored as one: a row of the manifest."""

    tenant_id: TenantId
    segment_id: str
    dataset_id: str
    account_id: AccountId
    data_type: str
    tier: StorageTier
    form: CompressionForm
    state: SegmentState = SegmentState.LIVE
    start_time: datetime
    end_time: datetime
    """The microsecond after its last record."""
    record_count: int
    stored_bytes: int
    original_bytes: int
    checksum: bytes
    """SHA-256 of the sealed payload."""
    values_digest: bytes
    """Of the records that it stands for: the same in every lossless form."""
    key_id: str
    object_path: str = ""
    """Empty: the payload is a row."""
    codecs: Mapping[str, str] = field(default_factory=dict)
    facts: bytes = b""
    """Sealed JSON: see `lifecycle.segments.SegmentFacts`."""
    quality_score: float = 1.0
    create_time: datetime
    retention_end_time: datetime | None = None
    stay_end_time: datetime | None = None
    quarantine_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSelection:
    """Chooses data of one tenant; what is empty chooses everything."""

    account_id: AccountId | None = None
    data_types: tuple[str, ...] = ()
    dataset_ids: tuple[str, ...] = ()
    start_time: datetime | None = None
    end_time: datetime | None = None
    tiers: tuple[StorageTier, ...] = ()

    def covers(self, segment: Segment) -> bool:
        """Tell whether any record of the segment is chosen."""
        return (
            (self.account_id is None or segment.account_id == self.account_id)
            and (not self.data_types or segment.data_type in self.data_types)
            and (not self.dataset_ids or segment.dataset_id in self.dataset_ids)
            and (self.start_time is None or segment.end_time > self.start_time)
            and (self.end_time is None or segment.start_time < self.end_time)
            and (not self.tiers or segment.tier in self.tiers)
        )

    def to_document(self) -> dict[str, Any]:
        """Return the selection as JSON holds it."""
        return {
            "account_id": self.account_id,
            "data_types": list(self.data_types),
            "dataset_ids": list(self.dataset_ids),
            "start_time": self.start_time.isoformat() if self.start_time else None,
            "end_time": self.end_time.isoformat() if self.end_time else None,
            "tiers": [int(tier) for tier in self.tiers],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> DataSelection:
        """Return the selection that `to_document` wrote."""
        return cls(
            account_id=document.get("account_id"),
            data_types=tuple(document.get("data_types", ())),
            dataset_ids=tuple(document.get("dataset_ids", ())),
            start_time=_instant(document.get("start_time")),
            end_time=_instant(document.get("end_time")),
            tiers=tuple(StorageTier(tier) for tier in document.get("tiers", ())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionSettings:
    """How data is compressed; the contract's `CompressionSettings` explains each."""

    form: CompressionForm = CompressionForm.LOSSLESS
    level: int = 5
    window: timedelta = timedelta(hours=1)
    zones: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    max_error_ratio: float = 0.01
    column_error_ratios: Mapping[str, float] = field(default_factory=dict)
    seasonal: bool = False
    session_gap: timedelta = timedelta(minutes=30)
    action_column: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""
        return {
            "form": int(self.form),
            "level": self.level,
            "window_seconds": self.window.total_seconds(),
            "zones": {column: list(bounds) for column, bounds in self.zones.items()},
            "max_error_ratio": self.max_error_ratio,
            "column_error_ratios": dict(self.column_error_ratios),
            "seasonal": self.seasonal,
            "session_gap_seconds": self.session_gap.total_seconds(),
            "action_column": self.action_column,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> CompressionSettings:
        """Return the settings that `to_document` wrote."""
        return cls(
            form=CompressionForm(document["form"]),
            level=document["level"],
            window=timedelta(seconds=document["window_seconds"]),
            zones={column: tuple(bounds) for column, bounds in document["zones"].items()},
            max_error_ratio=document["max_error_ratio"],
            column_error_ratios=document["column_error_ratios"],
            seasonal=document["seasonal"],
            session_gap=timedelta(seconds=document["session_gap_seconds"]),
            action_column=document["action_column"],
        )


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
