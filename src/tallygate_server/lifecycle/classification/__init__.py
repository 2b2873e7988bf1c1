"""Classification: what data is worth, how important it is, and what should become of it."""

from __future__ import annotations

from tallygate_server.lifecycle.classification.classifier import (
    SEGMENTS_PER_PAGE_MAX,
    ClassificationPage,
    Classifier,
    Comparison,
)
from tallygate_server.lifecycle.classification.cleanup import CleanupHandler, cleanup_request
from tallygate_server.lifecycle.classification.retaining import Retainer

__all__ = [
    "SEGMENTS_PER_PAGE_MAX",
    "ClassificationPage",
    "Classifier",
    "CleanupHandler",
    "Comparison",
    "Retainer",
    "cleanup_request",
]
