"""Classification: what data is worth, how important it is, and what should become of it."""

from __future__ import annotations

from tallygate_server.lifecycle.classification.classifier import ClassificationPage, Classifier
from tallygate_server.lifecycle.classification.cleanup import CleanupHandler, cleanup_request
from tallygate_server.lifecycle.classification.retaining import Retainer

__all__ = ["ClassificationPage", "Classifier", "CleanupHandler", "Retainer", "cleanup_request"]
