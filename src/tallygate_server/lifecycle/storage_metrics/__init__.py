"""How much is stored, what was saved, what it costs, how it grows, and what could be saved."""

from __future__ import annotations

from tallygate_server.lifecycle.storage_metrics.measuring import StorageMeasuring
from tallygate_server.lifecycle.storage_metrics.opportunities import StorageOpportunity
from tallygate_server.lifecycle.storage_metrics.use_cases import StorageMetrics, StorageSums, WantedMetrics

__all__ = ["StorageMeasuring", "StorageMetrics", "StorageOpportunity", "StorageSums", "WantedMetrics"]
