"""The connection that SQL modules work on, named here so that use cases can pass it along."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

Connection = AsyncConnection
"""Within a transaction of one tenant; only `storage` executes anything on it, and nobody commits it."""
