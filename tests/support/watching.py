"""Somebody who watches what an account is entitled to, and remembers what is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.watching.changes import AccountChange, AccountSnapshot
from tallygate_server.watching.watches import EntitlementWatches, WatchUpdate
from tests.support.eventually import eventually


@dataclass(slots=True)
class Following:
    """What one watcher was told."""

    updates: list[WatchUpdate] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def snapshot(self) -> AccountSnapshot:
        """The first message."""
        first = self.updates[0]
        assert isinstance(first, AccountSnapshot)
        return first

    @property
    def changes(self) -> list[AccountChange]:
        """Every change, in order."""
        return [update for update in self.updates if isinstance(update, AccountChange)]

    async def began(self) -> AccountSnapshot:
        """Wait for the snapshot."""
        await eventually(lambda: self.updates or self._raise())
        return self.snapshot

    async def reached(self, revision: int) -> list[AccountChange]:
        """Wait for a change of the revision, or a later one."""
        await eventually(
            lambda: self._raise() or (self.changes and max(change.revision for change in self.changes) >= revision)
        )
        return self.changes

    async def caused(self, cause: str) -> AccountChange:
        """Wait for a change with the cause; return the last one."""
        await eventually(lambda: self._raise() or any(change.cause == cause for change in self.changes))
        return [change for change in self.changes if change.cause == cause][-1]

    async def failed(self) -> BaseException:
        """Wait for the error with which it ends."""
        await eventually(lambda: self.error is not None)
        assert self.error is not None
        return self.error

    def _raise(self) -> bool:
        if self.error is not None:
            raise self.error
        return False


@asynccontextmanager
async def following(
    watches: EntitlementWatches,
    tenant_id: TenantId,
    account_id: AccountId,
    *,
    feature_keys: Sequence[str] = (),
    resume_revision: int = 0,
) -> AsyncIterator[Following]:
    """Watch until the block is left."""
    followed = Following()

    async def follow() -> None:
        updates: Any = watches.watch(tenant_id, account_id, feature_keys=feature_keys, resume_revision=resume_revision)
        try:
            async with aclosing(updates):
                async for update in updates:
                    followed.updates.append(update)
        except Exception as error:  # noqa: BLE001 - what it ends with is what some tests are about.
            followed.error = error

    task = asyncio.create_task(follow())
    try:
        yield followed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
