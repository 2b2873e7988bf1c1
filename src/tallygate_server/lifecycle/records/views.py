"""Datasets as callers see them: with what each tier holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataColumn, Dataset, DatasetShape, StorageTier
from tallygate_server.storage.data_records import DatasetUsage, TierUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetView:
    """A dataset, and how much of it there is."""

    tenant_id: TenantId
    dataset_id: str
    account_id: AccountId
    data_type: str
    shape: DatasetShape
    columns: tuple[DataColumn, ...]
    record_count: int
    start_time: datetime | None
    end_time: datetime | None
    """The microsecond after the last record."""
    tiers: tuple[TierUsage, ...]
    quality_score: float
    create_time: datetime
    update_time: datetime
    access_time: datetime | None

    @classmethod
    def of(cls, dataset: Dataset, usage: DatasetUsage) -> DatasetView:
        """Put a dataset and its sums together."""
        return cls(
            tenant_id=dataset.tenant_id,
            dataset_id=dataset.dataset_id,
            account_id=dataset.account_id,
            data_type=dataset.data_type,
            shape=dataset.shape,
            columns=dataset.columns,
            record_count=usage.record_count,
            start_time=usage.start_time,
            end_time=usage.end_time,
            tiers=usage.tiers,
            quality_score=dataset.quality_score,
            create_time=dataset.create_time,
            update_time=dataset.update_time,
            access_time=dataset.access_time,
        )

    def to_document(self) -> dict[str, Any]:
        """Return the view as JSON holds it."""
        document = {name: getattr(self, name) for name in self.__slots__}
        document["shape"] = int(self.shape)
        document["columns"] = [column.to_document() for column in self.columns]
        document["tiers"] = [{**asdict(tier), "tier": int(tier.tier)} for tier in self.tiers]
        for name in _TIMES:
            document[name] = document[name].isoformat() if document[name] is not None else None
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> DatasetView:
        """Return the view that `to_document` wrote."""
        values = dict(document)
        values["shape"] = DatasetShape(values["shape"])
        values["columns"] = tuple(DataColumn.from_document(column) for column in values["columns"])
        values["tiers"] = tuple(TierUsage(**{**tier, "tier": StorageTier(tier["tier"])}) for tier in values["tiers"])
        for name in _TIMES:
            values[name] = datetime.fromisoformat(values[name]) if values[name] is not None else None
        return cls(**values)


_TIMES = ("start_time", "end_time", "create_time", "update_time", "access_time")
