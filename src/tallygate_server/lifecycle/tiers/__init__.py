"""Tiers: hot rows become warm chunks, warm chunks become cold objects, and cold ones come back when asked for."""

from __future__ import annotations

from tallygate_server.lifecycle.tiers.moving import Mover

__all__ = ["Mover"]
