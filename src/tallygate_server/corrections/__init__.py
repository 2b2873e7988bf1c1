"""Corrections: usage that was counted wrongly is taken back, or put right, with new lines in the ledger."""

from __future__ import annotations

from tallygate_server.corrections.calls import Correction, CorrectionAnswer, Reversal, ReversalAnswer
from tallygate_server.corrections.use_cases import Corrections

__all__ = ["Correction", "CorrectionAnswer", "Corrections", "Reversal", "ReversalAnswer"]
