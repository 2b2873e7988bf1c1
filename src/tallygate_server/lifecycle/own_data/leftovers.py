"""Soft deletes and answers that nobody will ask for again: purged when they have been kept for long enough."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Final

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.lifecycle.own_data.archive import ACTOR
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.engine import Database
from tallygate_server.storage.leftovers import RULES, LeftoverRule, count_due, purge

ROWS_PER_PURGE_MAX: Final = 2_000
REQUESTS_KEPT: Final = timedelta(days=35)
"""As long as an id of a request is promised to be known."""
READS_KEPT: Final = timedelta(days=400)
"""How often data was read longer ago says nothing about its worth."""
_EVERY_TENANT: Final = TenantId("*")


class LeftoverPurge:
    """Purges every sort of row by its rule, tenant by tenant in batches."""

    def __init__(self, database: Database, clock: Clock, *, deleted_days: int, history_days: int) -> None:
        """Keep what was deleted for so many days, and what explains the past for so many."""
        self._database = database
        self._clock = clock
        self._deleted = timedelta(days=deleted_days)
        self._history = timedelta(days=history_days)

    async def run(self, *, validate_only: bool = False) -> Counter[str]:
        """Purge all that is due; with `validate_only` only count. Raises StoreUnavailable."""
        now = self._clock.now()
        instants = {
            "deleted_before": now - self._deleted,
            "history_before": now - self._history,
            "requests_before": now - REQUESTS_KEPT,
            "reads_before": now - READS_KEPT,
        }
        done: Counter[str] = Counter()
        for rule in RULES:
            async with self._database.tenant_snapshot(_EVERY_TENANT) as connection:
                due = await count_due(connection, rule, instants)
            for tenant_id, count in due.items():
                done[rule.name] += count if validate_only else await self._purge(rule, tenant_id, instants)
        return done

    async def _purge(self, rule: LeftoverRule, tenant_id: TenantId, instants: dict[str, datetime]) -> int:
        total, purged = 0, ROWS_PER_PURGE_MAX
        while purged == ROWS_PER_PURGE_MAX:
            async with self._database.tenant_transaction(tenant_id) as connection:
                purged = await purge(connection, rule, tenant_id, instants, limit=ROWS_PER_PURGE_MAX)
                if purged:
                    await add_audit_entry(
                        connection,
                        tenant_id,
                        actor=ACTOR,
                        action="data.purged",
                        subject=f"table/{rule.table}",
                        detail={"rule": rule.name, "rows": purged},
                    )
            total += purged
        return total
