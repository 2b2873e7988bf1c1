"""Compresses, measures what that loses, and gives back what a form can give."""

from __future__ import annotations

from tallygate_server.transport.lifecycle_rpcs.base import LifecycleRpcs


class CompressionRpcs(LifecycleRpcs):
    """Compresses, measures what that loses, and gives back what a form can give."""
