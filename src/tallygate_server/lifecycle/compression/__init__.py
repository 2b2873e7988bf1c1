"""Compression: jobs that put smaller forms in the place of data, and what these forms can still give."""

from __future__ import annotations

from tallygate_server.lifecycle.compression.analysis import (
    Analyses,
    AnalysisDocument,
    AnalysisHeader,
    AnalysisKind,
    AnalysisPart,
    WantedAnalysis,
)
from tallygate_server.lifecycle.compression.fetching import Fetching
from tallygate_server.lifecycle.compression.handler import CompressionHandler, compression_request
from tallygate_server.lifecycle.compression.impact import CompressionImpacts, WantedImpact
from tallygate_server.lifecycle.compression.protection import Worth, Worths
from tallygate_server.lifecycle.compression.use_cases import Compressions

__all__ = [
    "Analyses",
    "AnalysisDocument",
    "AnalysisHeader",
    "AnalysisKind",
    "AnalysisPart",
    "CompressionHandler",
    "CompressionImpacts",
    "Compressions",
    "Fetching",
    "WantedAnalysis",
    "WantedImpact",
    "Worth",
    "Worths",
    "compression_request",
]
