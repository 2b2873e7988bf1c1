"""Puts, queries and lists records."""

from __future__ import annotations

from tallygate_server.transport.lifecycle_rpcs.base import LifecycleRpcs


class RecordRpcs(LifecycleRpcs):
    """Puts, queries and lists records."""
