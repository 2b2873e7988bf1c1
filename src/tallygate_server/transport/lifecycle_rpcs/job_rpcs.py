"""Jobs and storage metrics."""

from __future__ import annotations

from tallygate_server.transport.lifecycle_rpcs.base import LifecycleRpcs


class JobRpcs(LifecycleRpcs):
    """Jobs and storage metrics."""
