"""Rollups: usage summed up ahead of time, and the queries that read it.

See README.md for the model. Guarantee: what a query answers equals a recount of the raw rows, at every moment.
"""

from __future__ import annotations

from tallygate_server.rollups.queries import QueriedRow, UsageAnswer, UsageQuery, UsageSums
from tallygate_server.rollups.roll_up import RollUp, open_roll_up

__all__ = ["QueriedRow", "RollUp", "UsageAnswer", "UsageQuery", "UsageSums", "open_roll_up"]
