"""Policies and legal holds: what becomes of data, and what must not become of it."""

from __future__ import annotations

from tallygate_server.lifecycle.policies.holds import LegalHolds, NewLegalHold
from tallygate_server.lifecycle.policies.policies import Policies, PolicyEffect, PolicyView
from tallygate_server.lifecycle.policies.removal import Candidate, Removed, Remover

__all__ = [
    "Candidate",
    "LegalHolds",
    "NewLegalHold",
    "Policies",
    "PolicyEffect",
    "PolicyView",
    "Removed",
    "Remover",
]
