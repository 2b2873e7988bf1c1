"""Policies, legal holds, classification and clean-up."""

from __future__ import annotations

from tallygate_server.transport.lifecycle_rpcs.base import LifecycleRpcs


class PolicyRpcs(LifecycleRpcs):
    """Policies, legal holds, classification and clean-up."""
