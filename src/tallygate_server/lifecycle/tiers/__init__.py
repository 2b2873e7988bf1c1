"""Tiers: hot rows become warm chunks, warm chunks become cold objects, and cold ones come back when asked for."""

from __future__ import annotations

from tallygate_server.lifecycle.tiers.archiving import ArchiveHandler, RestoreHandler
from tallygate_server.lifecycle.tiers.integrity import IntegrityDepth, IntegrityHandler
from tallygate_server.lifecycle.tiers.moving import Mover
from tallygate_server.lifecycle.tiers.use_cases import STAY_DEFAULT, Tiers

__all__ = [
    "STAY_DEFAULT",
    "ArchiveHandler",
    "IntegrityDepth",
    "IntegrityHandler",
    "Mover",
    "RestoreHandler",
    "Tiers",
]
