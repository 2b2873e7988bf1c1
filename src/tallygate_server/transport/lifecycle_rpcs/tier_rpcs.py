"""Archives, restores and checks."""

from __future__ import annotations

from tallygate_server.transport.lifecycle_rpcs.base import LifecycleRpcs


class TierRpcs(LifecycleRpcs):
    """Archives, restores and checks."""
