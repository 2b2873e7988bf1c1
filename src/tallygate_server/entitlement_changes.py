"""The one way to change what accounts may do.

Redis is told *before* the commit that the accounts are changing, and their new revision *after* it; in
between, and for a while after a crash in between, every reader asks Postgres. So a change that was
answered is seen by every later check on every server, and a server that dies half-way leaves nothing stale.
Where Redis cannot be told, everything it knows is declared void instead: see `storage/cache_epochs.py`.

In the transaction of the change stands, too, what decided the accounts' entitlements from then on
(`storage/account_history.py`), so that every question about the past has an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.account_history import store_revisions
from tallygate_server.storage.engine import Database
from tallygate_server.storage.tables import accounts, audit_entries, outbox_events

CHANGE_SECONDS_MAX: Final = 20.0
"""No change takes longer, so none outlives its mark in Redis (counters.CHANGE_MARK_TTL_MS)."""


class RevisionMarks(Protocol):
    """What Redis knows about the revisions of accounts."""

    async def mark_changing(self, tenant_id: TenantId, account_ids: Sequence[AccountId]) -> None:
        """Make every reader ask Postgres about these accounts until a revision is published or time is up."""

    async def publish(
        self, tenant_id: TenantId, revisions: Mapping[AccountId, int], *, may_be_cached: bool = True
    ) -> None:
        """End the change of these accounts and tell readers their new revisions (0: rolled back).

        Returns when no reader believes an older revision any more, unless the change is none that anybody can have
        cached: one that was rolled back, or made its accounts.
        """


@dataclass(slots=True, kw_only=True)
class EntitlementChange:
    """A transaction that changes entitlements of one tenant's accounts."""

    tenant_id: TenantId
    connection: AsyncConnection
    actor: str
    revisions: dict[AccountId, int] = field(default_factory=dict)
    """Revisions of the changed accounts; filled in when the transaction commits."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """What is written into the outbox at its end."""

    async def audit(self, action: str, subject: str, detail: Mapping[str, Any]) -> None:
        """Write an audit entry in the change's own transaction."""
        await self.connection.execute(
            audit_entries.insert().values(
                tenant_id=self.tenant_id, actor=self.actor, action=action, subject=subject, detail=dict(detail)
            )
        )

    async def emit(self, event_type: str, account_id: AccountId, payload: Mapping[str, Any]) -> None:
        """Write an outbox event in the change's own transaction, at its end: with the instant of the change."""
        self.events.append({"type": event_type, "account_id": account_id, "payload": dict(payload)})


class EntitlementChanges:
    """Opens changes."""

    def __init__(self, database: Database, marks: RevisionMarks, *, clock: Clock) -> None:
        """Work on the database, telling the marks; history and events have their times from the clock."""
        self._database = database
        self._marks = marks
        self._clock = clock

    @asynccontextmanager
    async def begin(
        self, tenant_id: TenantId, account_ids: Sequence[AccountId], *, actor: str, cause: str
    ) -> AsyncIterator[EntitlementChange]:
        """Open a change of these accounts; on leaving, revisions rise, events are written, all is committed.

        The accounts' rows are locked in id order (an account made inside the change need not exist yet).
        An error that leaves the block rolls everything back and is raised on.
        """
        ordered = sorted(set(account_ids))
        await self._marks.mark_changing(tenant_id, ordered)
        # A failed commit may have happened all the same: only its mark running out ends the doubt.
        committing = False
        try:
            async with asyncio.timeout(CHANGE_SECONDS_MAX), self._database.tenant_transaction(tenant_id) as connection:
                change = EntitlementChange(tenant_id=tenant_id, connection=connection, actor=actor)
                may_be_cached = await _lock(change, ordered)
                yield change
                await self._finish(change, ordered, cause)
                committing = True
        except BaseException as error:
            if not committing:
                await self._marks.publish(tenant_id, dict.fromkeys(ordered, 0), may_be_cached=False)
            if isinstance(error, TimeoutError):
                raise StoreUnavailable("the change took too long and was given up") from error
            raise
        await self._marks.publish(tenant_id, dict.fromkeys(ordered, 0) | change.revisions, may_be_cached=may_be_cached)

    async def _finish(self, change: EntitlementChange, ordered: Sequence[AccountId], cause: str) -> None:
        """Raise the revisions; write history and events, with one instant for all."""
        await _raise_revisions(change, ordered)
        # As late as can be: until the commit the accounts are answered by what held before.
        now = self._clock.now()
        await _write_events(change, now)
        await store_revisions(change.connection, change.tenant_id, list(change.revisions), begin_time=now, cause=cause)


async def _lock(change: EntitlementChange, ordered: Sequence[AccountId]) -> bool:
    """Lock the accounts in id order; return whether any of them exists."""
    # What follows raises revisions itself; the database need not do it.
    await change.connection.execute(text("SELECT set_config('tallygate.change', 'own', true)"))
    locked = await change.connection.execute(
        select(accounts.c.account_id)
        .where(accounts.c.tenant_id == change.tenant_id, accounts.c.account_id.in_(ordered))
        .order_by(accounts.c.account_id)
        .with_for_update()
    )
    return locked.first() is not None


async def _raise_revisions(change: EntitlementChange, ordered: Sequence[AccountId]) -> None:
    rows = await change.connection.execute(
        update(accounts)
        .where(accounts.c.tenant_id == change.tenant_id, accounts.c.account_id.in_(ordered))
        .values(revision=accounts.c.revision + 1)
        .returning(accounts.c.account_id, accounts.c.revision)
    )
    change.revisions.update({AccountId(row.account_id): row.revision for row in rows})


async def _write_events(change: EntitlementChange, at: datetime) -> None:
    if change.events:
        await change.connection.execute(
            outbox_events.insert(),
            [
                {
                    "tenant_id": change.tenant_id,
                    "create_time": at,
                    "revision": change.revisions.get(event["account_id"], 0),
                    **event,
                }
                for event in change.events
            ],
        )
