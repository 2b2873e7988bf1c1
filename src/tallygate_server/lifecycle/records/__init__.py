"""Records: put in batches, queried from every tier, listed. README.md says what is promised."""

from __future__ import annotations

from tallygate_server.lifecycle.records.batches import Batch, ColumnRecords, PlainRecords
from tallygate_server.lifecycle.records.listing import RecordListing
from tallygate_server.lifecycle.records.quality import DataQuality, QualityFinding, ScoreTerm
from tallygate_server.lifecycle.records.reading import (
    History,
    RecordQuery,
    RecordReading,
    RecordsGap,
    RecordsHeader,
    RecordsTotals,
)
from tallygate_server.lifecycle.records.schema import ColumnDefinition, canonical_json
from tallygate_server.lifecycle.records.views import DatasetView
from tallygate_server.lifecycle.records.writing import NewRecords, RecordsPut, RecordWriting, record_id_digest

__all__ = [
    "Batch",
    "ColumnDefinition",
    "ColumnRecords",
    "DataQuality",
    "DatasetView",
    "History",
    "NewRecords",
    "PlainRecords",
    "QualityFinding",
    "RecordListing",
    "RecordQuery",
    "RecordReading",
    "RecordWriting",
    "RecordsGap",
    "RecordsHeader",
    "RecordsPut",
    "RecordsTotals",
    "ScoreTerm",
    "canonical_json",
    "record_id_digest",
]
