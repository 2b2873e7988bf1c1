"""Tells what data is worth, and plans by it."""

from __future__ import annotations

from tallygate_server.transport.lifecycle_rpcs.base import LifecycleRpcs


class ValueRpcs(LifecycleRpcs):
    """Tells what data is worth, and plans by it."""
