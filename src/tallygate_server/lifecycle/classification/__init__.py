"""Classification: what data is worth, how important it is, and what should become of it."""

from __future__ import annotations

from tallygate_server.lifecycle.classification.classifier import ClassificationPage, Classifier

__all__ = ["ClassificationPage", "Classifier"]
