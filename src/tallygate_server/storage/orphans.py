"""SQL of what nothing leads to any more: objects, keys and rows that a crash or a mishap left behind.

Under the lifecycle's role. Foreign keys keep rows of accounts from outliving their account; what is looked for here are
the places that no foreign key guards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select, text

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_keys import KeyState
from tallygate_server.storage.data_segments import OBJECT_LEAVING, OBJECT_LIVE
from tallygate_server.storage.tables import data_keys, data_segments, stored_objects, tenants


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanRule:
    """Rows of a table that belong to a row of another which is gone."""

    name: str
    table: str
    belongs_to: str
    by: str


RULES: Final = (
    OrphanRule(name="payloads", table="data_payloads", belongs_to="data_segments", by="segment_id"),
    OrphanRule(name="segment_reads", table="data_segment_reads", belongs_to="data_segments", by="segment_id"),
    OrphanRule(name="record_ids", table="data_record_ids", belongs_to="datasets", by="dataset_id"),
    OrphanRule(name="replaced_records", table="data_replaced_records", belongs_to="datasets", by="dataset_id"),
)


async def all_tenants(connection: Connection) -> list[TenantId]:
    """Return every tenant; in a transaction that sees all of them."""
    return [TenantId(row[0]) for row in await connection.execute(select(tenants.c.tenant_id).order_by("tenant_id"))]


async def gone_owners(connection: Connection, rule: OrphanRule, tenant_id: TenantId) -> list[str]:
    """Return the ids to which rows of the tenant belong, and which are gone.

    Goes from one id to the next by the index: there may be many million rows of few datasets.
    """
    found = await connection.execute(
        text(
            f"""
WITH RECURSIVE owner AS (
    (SELECT t.{rule.by} AS id FROM {rule.table} AS t WHERE t.tenant_id = :tenant_id ORDER BY t.{rule.by} LIMIT 1)
    UNION ALL
    SELECT (
        SELECT t.{rule.by} FROM {rule.table} AS t WHERE t.tenant_id = :tenant_id AND t.{rule.by} > owner.id
        ORDER BY t.{rule.by} LIMIT 1
    )
    FROM owner WHERE owner.id IS NOT NULL
)
SELECT id FROM owner WHERE id IS NOT NULL AND NOT EXISTS (
    SELECT FROM {rule.belongs_to} AS o WHERE o.tenant_id = :tenant_id AND o.{rule.by} = owner.id
)
"""  # noqa: S608 - names of our own.
        ),
        {"tenant_id": tenant_id},
    )
    return list(found.scalars())


async def count_orphans(connection: Connection, rule: OrphanRule, tenant_id: TenantId, gone: Sequence[str]) -> int:
    """Return how many rows of the tenant belong to what is gone."""
    found = await connection.execute(
        text(f"SELECT count(*) FROM {rule.table} WHERE tenant_id = :tenant_id AND {rule.by} = ANY(:gone)"),  # noqa: S608
        {"tenant_id": tenant_id, "gone": list(gone)},
    )
    return int(found.scalar_one())


async def delete_orphans(
    connection: Connection, rule: OrphanRule, tenant_id: TenantId, gone: Sequence[str], *, limit: int
) -> int:
    """Delete rows of the tenant that belong to what is gone, at most so many; return how many."""
    deleted = await connection.execute(
        text(
            f"DELETE FROM {rule.table} WHERE ctid = ANY(ARRAY("  # noqa: S608 - names of our own.
            f"SELECT ctid FROM {rule.table} WHERE tenant_id = :tenant_id AND {rule.by} = ANY(:gone) LIMIT :limit"
            ")) AND tenant_id = :tenant_id"
        ),
        {"tenant_id": tenant_id, "gone": list(gone), "limit": limit},
    )
    return int(deleted.rowcount)


async def segments_without_dataset(connection: Connection, tenant_id: TenantId) -> int:
    """Return how many segments of the tenant have no dataset: they are data, and for somebody to look at."""
    found = await connection.execute(
        text(
            "SELECT count(*) FROM data_segments AS t WHERE t.tenant_id = :tenant_id AND NOT EXISTS ("
            "SELECT FROM datasets AS d WHERE d.tenant_id = t.tenant_id AND d.dataset_id = t.dataset_id)"
        ),
        {"tenant_id": tenant_id},
    )
    return int(found.scalar_one())


async def release_segment_objects(
    connection: Connection, tenant_id: TenantId, *, now: datetime, validate_only: bool
) -> int:
    """Mark objects of segments as leaving whose segment is gone; return how many there are."""
    alone = (
        "FROM stored_objects AS o WHERE o.tenant_id = :tenant_id AND o.kind = 'segment' AND o.state = :live"
        " AND NOT EXISTS (SELECT FROM data_segments AS s"
        " WHERE s.tenant_id = o.tenant_id AND s.object_path = o.object_path)"
    )
    named = {"tenant_id": tenant_id, "live": OBJECT_LIVE}
    if validate_only:
        return int((await connection.execute(text(f"SELECT count(*) {alone}"), named)).scalar_one())
    changed = await connection.execute(
        text(
            "UPDATE stored_objects SET state = :leaving, leave_time = :now"  # noqa: S608 - as above.
            f" WHERE tenant_id = :tenant_id AND state = :live AND object_path IN (SELECT o.object_path {alone})"
        ),
        named | {"leaving": OBJECT_LEAVING, "now": now},
    )
    return int(changed.rowcount)


async def known_objects(connection: Connection, tenant_id: TenantId, paths: Sequence[str]) -> set[str]:
    """Return those of the objects that a row of the tenant names."""
    noted = select(stored_objects.c.object_path).where(
        stored_objects.c.tenant_id == tenant_id, stored_objects.c.object_path.in_(paths)
    )
    known = set((await connection.execute(noted)).scalars())
    # Every object is noted before it is written. Whatever is not is looked for where it would be missed.
    if rest := sorted(set(paths) - known):
        live = select(data_segments.c.object_path).where(
            data_segments.c.tenant_id == tenant_id, data_segments.c.object_path.in_(rest)
        )
        known |= set((await connection.execute(live)).scalars())
    return known


async def known_keys(connection: Connection, tenant_id: TenantId, key_ids: Sequence[str]) -> set[str]:
    """Return those of the keys that the tenant has, and has not destroyed."""
    columns = data_keys.c
    rows = await connection.execute(
        select(columns.key_id).where(
            columns.tenant_id == tenant_id, columns.key_id.in_(key_ids), columns.state != int(KeyState.DESTROYED)
        )
    )
    return set(rows.scalars())
