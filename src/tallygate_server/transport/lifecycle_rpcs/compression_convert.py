"""Between compressed data and its wire messages: analyses in every format, and what a compression would lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from google.protobuf import json_format

from tallygate.v1 import data_lifecycle_pb2 as messages
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import TenantId
from tallygate_server.lifecycle.compression import (
    AnalysisDocument,
    AnalysisHeader,
    AnalysisKind,
    WantedAnalysis,
    WantedImpact,
)
from tallygate_server.transport.lifecycle_rpcs import record_convert
from tallygate_server.transport.lifecycle_rpcs.selection_convert import (
    from_api_duration,
    from_api_selection,
    from_api_settings,
)


def from_api_analysis(request: wire.DecompressForAnalysisRequest) -> WantedAnalysis:
    """Convert what is wanted of compressed data."""
    return WantedAnalysis(
        tenant_id=TenantId(request.tenant_id),
        selection=from_api_selection(request.selection),
        kind=AnalysisKind(request.analysis),
        columns=tuple(request.columns),
        resolution=from_api_duration(request.resolution) if request.HasField("resolution") else None,
    )


def from_api_impact(request: wire.EvaluateCompressionImpactRequest) -> WantedImpact:
    """Convert what shall be measured."""
    return WantedImpact(
        tenant_id=TenantId(request.tenant_id),
        selection=from_api_selection(request.selection),
        settings=from_api_settings(request.settings),
        target_column=request.target_column,
        seed=request.seed,
    )


def to_api_analysis_header(header: AnalysisHeader) -> wire.DecompressForAnalysisResponse:
    """Convert what the stored forms can and cannot give."""
    return wire.DecompressForAnalysisResponse(
        header=wire.AnalysisHeader(
            segments={
                segment_id: json_format.ParseDict(document, messages.RetrievalInstructions())
                for segment_id, document in header.segments.items()
            },
            gaps=[record_convert.to_api_gap(gap) for gap in header.gaps],
            columns=[record_convert.to_api_column(column) for column in header.columns],
        )
    )


def to_api_document(document: AnalysisDocument) -> wire.DecompressForAnalysisResponse:
    """Convert what one segment tells."""
    api = wire.AnalysisDocument(
        segment_id=document.segment_id, span=record_convert.to_api_span(document.start_time, document.end_time)
    )
    json_format.ParseDict(dict(document.content), api.content)
    return wire.DecompressForAnalysisResponse(document=api)


class AnalysisAnswers:
    """Makes messages of tables, in the format that was asked for."""

    def __init__(self, record_format: int, header: AnalysisHeader) -> None:
        """Begin an answer."""
        self._answers = record_convert.RecordAnswers(record_format, documents=header.documents)

    def messages(self, table: pa.Table) -> list[wire.DecompressForAnalysisResponse]:
        """Return a table as messages."""
        return list(_as_analysis(self._answers.messages(table)))

    def rest(self) -> list[wire.DecompressForAnalysisResponse]:
        """Return what ends the records."""
        return list(_as_analysis(self._answers.rest()))


def _as_analysis(parts: list[wire.QueryRecordsResponse]) -> Iterator[wire.DecompressForAnalysisResponse]:
    for part in parts:
        name = part.WhichOneof("part")
        assert name is not None, "tables become records, columns or pieces of a stream"
        yield wire.DecompressForAnalysisResponse(**{name: getattr(part, name)})


def to_api_impact(found: Mapping[str, Any]) -> wire.EvaluateCompressionImpactResponse:
    """Convert what was measured."""
    document = {name: value for name, value in found.items() if value is not None}
    return json_format.ParseDict(document, wire.EvaluateCompressionImpactResponse())
