"""Tells others of grants that are about to expire, once each, some days ahead."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.credits import window_at
from tallygate_server.grants.use_cases import facts_of
from tallygate_server.grants.views import GrantState, seen_at, view_of
from tallygate_server.storage import accounts as account_rows
from tallygate_server.storage import grants as rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.engine import Database
from tallygate_server.storage.grants import ExpiringGrant
from tallygate_server.storage.outbox import add_event

log = structlog.get_logger(__name__)

BATCH_SIZE: Final = 200
BATCHES_PER_RUN_MAX: Final = 50
CLOCK_ACTOR: Final = "clock"


class ExpiringGrants:
    """Announces what expires, of every tenant, in bounded batches."""

    def __init__(self, database: Database, lookups: Database, *, clock: Clock, notice_days: int) -> None:
        """Work on the database; `lookups` has the intake role. Announce so many days ahead."""
        self._database = database
        self._lookups = lookups
        self._clock = clock
        self._notice = timedelta(days=notice_days)

    async def tell(self) -> dict[str, int]:
        """Announce each grant that expires within the notice; return how many."""
        now = self._clock.now()
        told = 0
        after: ExpiringGrant | None = None
        for _ in range(BATCHES_PER_RUN_MAX):
            async with self._lookups.plain_transaction() as connection:
                batch = await rows.expiring_grants(connection, now, now + self._notice, after=after, limit=BATCH_SIZE)
            for found in batch:
                told += await self._tell_once(found, now)
            if len(batch) < BATCH_SIZE:
                break
            after = batch[-1]
        return {"told": told} if told else {}

    async def _tell_once(self, found: ExpiringGrant, now: datetime) -> bool:
        tenant_id, account_id = found.tenant_id, found.account_id
        async with self._database.tenant_transaction(tenant_id) as connection:
            row = await rows.read_grant(connection, tenant_id, account_id, found.grant_id)
            account = await account_rows.read_account(connection, tenant_id, account_id)
            if row is None or account is None:
                return False
            # The row's lock makes it once: whoever comes second finds it marked.
            if not await rows.mark_announced(connection, tenant_id, account_id, found.grant_id, at=now):
                return False
            stored = None
            if row.grant.kind.credit and row.grant.feature_kind is FeatureKind.COUNTER:
                key = (account_id, found.grant_id)
                start = window_at(row.grant, seen_at(row, now)).start
                stored = (await rows.read_balances(connection, tenant_id, {key: start})).get(key)
            view = view_of(tenant_id, row, stored, now)
            if view.state is GrantState.USED_UP:
                # Nothing is lost with it.
                return False
            facts = {**facts_of(row), "used_quantity": view.used_quantity}
            facts["remaining_quantity"] = view.remaining_quantity
            await add_event(
                connection,
                tenant_id,
                event_type="grant.expiring",
                account_id=account_id,
                revision=account.revision,
                payload={**facts, "metadata": row.metadata},
                create_time=now,
            )
            await add_audit_entry(
                connection,
                tenant_id,
                actor=CLOCK_ACTOR,
                action="grant.announce_expiry",
                subject=f"grant:{found.grant_id}",
                detail={**facts, "account_id": account_id},
            )
        return True
