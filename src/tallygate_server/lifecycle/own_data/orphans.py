"""What nothing leads to any more: looked for in the object store, the key store and the tables, and removed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import StoreUnavailable
from tallygate_server.lifecycle.objects import ObjectStoreUnavailable, StoredObject
from tallygate_server.lifecycle.own_data.archive import ACTOR
from tallygate_server.lifecycle.segments import WRITER_TIME_MAX, SegmentStore
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_segments import leaving_objects
from tallygate_server.storage.orphans import (
    RULES,
    OrphanRule,
    all_tenants,
    count_orphans,
    delete_orphans,
    gone_owners,
    known_keys,
    known_objects,
    release_segment_objects,
    segments_without_dataset,
)

log = structlog.get_logger(__name__)

UNKNOWN_KEPT: Final = timedelta(hours=24)
"""What no row names may be about to be named: nobody takes so long."""
NAMES_PER_LOOK_MAX: Final = 1_000
ROWS_PER_DELETE_MAX: Final = 2_000
_EVERY_TENANT: Final = TenantId("*")
_KEY_NAME: Final = re.compile(r"(dk_[0-9a-f]+)\.json")
"""Data keys; whatever else lies in the key store is none of ours to remove."""


class OrphanSweep:
    """Removes orphans of every tenant that there is; what lies under other names in a shared store is left alone."""

    def __init__(self, segments: SegmentStore, clock: Clock) -> None:
        """Sweep the stores that these segments are in."""
        self._segments = segments
        self._database = segments.database
        self._clock = clock

    async def run(self, *, validate_only: bool = False) -> Counter[str]:
        """Remove what is found; with `validate_only` only count. Raises StoreUnavailable."""
        done: Counter[str] = Counter()
        async with self._database.tenant_snapshot(_EVERY_TENANT) as connection:
            tenants = await all_tenants(connection)
        try:
            for tenant_id in tenants:
                for rule in RULES:
                    done[rule.name] += await self._sweep_rows(rule, tenant_id, validate_only=validate_only)
                done["objects"] += await self._sweep_noted(tenant_id, validate_only=validate_only)
                done["unknown_objects"] += await self._sweep_unknown(tenant_id, validate_only=validate_only)
                done["unknown_keys"] += await self._sweep_keys(tenant_id, validate_only=validate_only)
                async with self._database.tenant_snapshot(tenant_id) as connection:
                    alone = await segments_without_dataset(connection, tenant_id)
                if alone:
                    log.warning("segments_without_dataset", tenant_id=tenant_id, rows=alone)
                done["segments_without_dataset"] += alone
        except ObjectStoreUnavailable as error:
            raise StoreUnavailable("the object store cannot be reached just now") from error
        return done

    async def _sweep_rows(self, rule: OrphanRule, tenant_id: TenantId, *, validate_only: bool) -> int:
        async with self._database.tenant_snapshot(tenant_id) as connection:
            gone = await gone_owners(connection, rule, tenant_id)
            if validate_only or not gone:
                return await count_orphans(connection, rule, tenant_id, gone) if gone else 0
        total, deleted = 0, ROWS_PER_DELETE_MAX
        while deleted == ROWS_PER_DELETE_MAX:
            async with self._database.tenant_transaction(tenant_id) as connection:
                deleted = await delete_orphans(connection, rule, tenant_id, gone, limit=ROWS_PER_DELETE_MAX)
                if deleted:
                    await self._audit(connection, tenant_id, f"table/{rule.table}", {"rows": deleted})
            total += deleted
        return total

    async def _sweep_noted(self, tenant_id: TenantId, *, validate_only: bool) -> int:
        """Remove objects that are leaving, whose writer died, or whose segment is gone."""
        now = self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            count = await release_segment_objects(connection, tenant_id, now=now, validate_only=validate_only)
            if validate_only:
                leaving = await leaving_objects(
                    connection, tenant_id, written_before=now - WRITER_TIME_MAX, limit=NAMES_PER_LOOK_MAX
                )
                return count + len(leaving)
        total = 0
        while swept := await self._segments.sweep_objects(tenant_id):
            total += swept
        return total

    async def _sweep_unknown(self, tenant_id: TenantId, *, validate_only: bool) -> int:
        """Remove objects below the tenant's prefix that no row names."""

        async def known(paths: Sequence[str]) -> set[str]:
            async with self._database.tenant_snapshot(tenant_id) as connection:
                return await known_objects(connection, tenant_id, paths)

        async def remove(path: str) -> None:
            await self._segments.objects.delete(path)

        listed = ((found, found.path) async for found in self._segments.objects.list(f"{tenant_id}/"))
        return await self._sweep_names(tenant_id, "object", listed, known, remove=None if validate_only else remove)

    async def _sweep_keys(self, tenant_id: TenantId, *, validate_only: bool) -> int:
        """Destroy keys of the tenant that no row names: one that died before anything was sealed with it."""
        store = self._segments.keys.store

        async def known(key_ids: Sequence[str]) -> set[str]:
            async with self._database.tenant_snapshot(tenant_id) as connection:
                return await known_keys(connection, tenant_id, key_ids)

        async def remove(key_id: str) -> None:
            await store.destroy(tenant_id, key_id)

        async def listed() -> AsyncIterator[tuple[StoredObject, str]]:
            async for found in store.list(tenant_id):
                name = _KEY_NAME.fullmatch(found.path.rpartition("/")[2])
                if name is not None:
                    yield found, name[1]

        return await self._sweep_names(tenant_id, "key", listed(), known, remove=None if validate_only else remove)

    async def _sweep_names(
        self,
        tenant_id: TenantId,
        what: str,
        listed: AsyncIterator[tuple[StoredObject, str]],
        known: Callable[[Sequence[str]], Awaitable[set[str]]],
        *,
        remove: Callable[[str], Awaitable[None]] | None,
    ) -> int:
        before = self._clock.now() - UNKNOWN_KEPT
        total = 0
        page: list[str] = []

        async def look() -> int:
            # Asked after they were listed: whatever was named meanwhile is known.
            unknown = sorted(set(page) - await known(page)) if page else []
            page.clear()
            if unknown and remove is not None:
                for name in unknown:
                    await remove(name)
                log.warning("orphans_removed", kind=what, tenant_id=tenant_id, rows=len(unknown))
                async with self._database.tenant_transaction(tenant_id) as connection:
                    await self._audit(connection, tenant_id, f"{what}s", {"removed": len(unknown)})
            return len(unknown)

        async for found, name in listed:
            if found.change_time < before:
                page.append(name)
            if len(page) == NAMES_PER_LOOK_MAX:
                total += await look()
        return total + await look()

    async def _audit(self, connection: Connection, tenant_id: TenantId, subject: str, detail: dict[str, int]) -> None:
        await add_audit_entry(
            connection, tenant_id, actor=ACTOR, action="data.orphans_removed", subject=subject, detail=detail
        )
