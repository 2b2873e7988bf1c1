"""Exports, erases, and keeps keys."""

from __future__ import annotations

from tallygate_server.transport.lifecycle_rpcs.base import LifecycleRpcs


class PrivacyRpcs(LifecycleRpcs):
    """Exports, erases, and keeps keys."""
