"""SQL of simulations: a window of a tenant's ledger and denials in the order of accounts, and what they went by.

Everything is read in one snapshot by one cursor, a bounded number of rows at a time, on a connection of its own under
the reader's role: nothing is locked, and nobody waits for it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg

from tallygate_server.domain.catalog import Allowance
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole, connect
from tallygate_server.storage.mapping import allowance_from_json
from tallygate_server.storage.sources import read_documents

CALLS_PER_READ_MAX: Final = 5_000
REVISIONS_PER_READ_MAX: Final = 16
"""Of one account at a time."""
ACCOUNTS_PER_READ_MAX: Final = 100
COUNTED_EXACTLY_MAX: Final = 2_000_000
"""Of more lines than this it is estimated how many there are."""
STATEMENT_TIMEOUT_MS: Final = 600_000
IDLE_TIMEOUT_MS: Final = 600_000
"""Whoever listens so slowly that nothing is read for this long is given up."""

CARRIED, COUNTED, DENIED = 0, 1, 2
"""Sources of a call: the ledger before the window, the ledger, the denials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsWanted:
    """Which calls are read."""

    start: datetime
    end: datetime
    account_id: str = ""
    """Empty: all."""
    feature_key: str = ""
    """Empty: all."""
    carried_features: Sequence[str] = ()
    """Features of which earlier lines are read, too."""
    carried_from: datetime | None = None
    """Since when; None: since ever."""


class RevisionDocument(NamedTuple):
    """A row of `account_revisions`."""

    account_id: AccountId
    revision: int
    begin_time: datetime
    document: str


_ENTRIES: Final = """
SELECT account_id, entry_id, feature_key, {source}::smallint AS source, recorded_time, event_time, kind, quantity,
    used_after, limit_quantity, period_kind, period_start, plan_key
FROM usage_entries
WHERE tenant_id = $1 AND recorded_time >= {start} AND recorded_time < {end} {more}
"""
# What was exported of a counter counts as one line, of an event, of when the last of it was recorded. These come before
# all that is left, in the order of time, whatever the ids were.
_EXPORTED: Final = """
SELECT account_id, (EXTRACT(epoch FROM last_recorded_time) * 1000)::bigint - 4000000000000000000, feature_key,
    {source}::smallint, last_recorded_time, last_recorded_time, 3::smallint,
    quantity, last_used_after, -1::bigint, period_kind, period_start, NULL
FROM exported_usage_sums
WHERE tenant_id = $1 AND last_recorded_time >= {start} AND last_recorded_time < {end} {more}
"""
_DENIALS: Final = """
SELECT account_id, entry_id, feature_key, 2::smallint, recorded_time, event_time, reason, quantity,
    used_quantity, limit_quantity, NULL, NULL, NULL
FROM usage_denials
WHERE tenant_id = $1 AND recorded_time >= {start} AND recorded_time < {end} {more}
"""

# From the one that was in force when the window began.
_REVISIONS: Final = """
SELECT r.account_id, r.revision, r.begin_time, r.sources::text
FROM unnest($2::text[], $3::bigint[]) AS wanted(account_id, after_revision)
CROSS JOIN LATERAL (
    SELECT * FROM account_revisions AS a
    WHERE a.tenant_id = $1 AND a.account_id = wanted.account_id AND a.revision > wanted.after_revision
        AND a.revision >= COALESCE(
            (
                SELECT max(b.revision) FROM account_revisions AS b
                WHERE b.tenant_id = $1 AND b.account_id = wanted.account_id AND b.begin_time <= $4
            ),
            0
        )
    ORDER BY a.revision LIMIT $5
) AS r
ORDER BY r.account_id, r.revision
"""


class ReplayRows:
    """One snapshot of one tenant's rows."""

    def __init__(self, connection: asyncpg.Connection, tenant_id: TenantId) -> None:
        """Read inside an open transaction; see `open_replay`."""
        self._connection = connection
        self._tenant_id = tenant_id

    async def feature_keys(self) -> list[str]:
        """Return every feature of the tenant, those that were retired included."""
        rows = await self._connection.fetch("SELECT feature_key FROM features WHERE tenant_id = $1", self._tenant_id)
        return [row[0] for row in rows]

    async def feature_kinds(self) -> dict[str, str]:
        """Return the kind of every feature of the tenant."""
        rows = await self._connection.fetch(
            "SELECT feature_key, kind FROM features WHERE tenant_id = $1", self._tenant_id
        )
        return {row[0]: row[1] for row in rows}

    async def exported_until(self, account_id: str) -> datetime | None:
        """Return when the newest exported line of the account, or of any, was recorded; None for none."""
        latest: datetime | None = await self._connection.fetchval(
            "SELECT max(last_recorded_time) FROM usage_exports"
            " WHERE tenant_id = $1 AND data_type = 'usage_entry' AND ($2 = '' OR account_id = $2)",
            self._tenant_id,
            account_id,
        )
        return latest

    async def allowances(self) -> list[Allowance]:
        """Return what any version of any plan gives."""
        rows = await self._connection.fetch("SELECT allowances FROM plans WHERE tenant_id = $1", self._tenant_id)
        return [allowance_from_json(item) for row in rows for item in json.loads(row[0])]

    async def count(self, wanted: CallsWanted) -> int:
        """Return how many lines of the ledger will be read; an estimate where they are very many."""
        query, arguments = _calls(wanted, denials=False)
        counted: int = await self._connection.fetchval(
            f"SELECT count(*) FROM (SELECT 1 FROM ({query}) AS call LIMIT {COUNTED_EXACTLY_MAX}) AS calls",  # noqa: S608
            self._tenant_id,
            *arguments,
        )
        if counted < COUNTED_EXACTLY_MAX:
            return counted
        plan = await self._connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", self._tenant_id, *arguments)
        return max(counted, int(json.loads(plan)[0]["Plan"]["Plan Rows"]))

    async def calls(self, wanted: CallsWanted) -> AsyncIterator[list[asyncpg.Record]]:
        """Return lines of the ledger and denials by account and id, so many at a time."""
        query, arguments = _calls(wanted, denials=True)
        cursor = await self._connection.cursor(f"{query} ORDER BY account_id, entry_id", self._tenant_id, *arguments)
        while rows := await cursor.fetch(CALLS_PER_READ_MAX):
            yield rows

    async def revisions(
        self, after: Mapping[AccountId, int], start: datetime | None
    ) -> dict[AccountId, list[RevisionDocument]]:
        """Return each account's next revisions after the given ones, at most so many of each.

        The first is the one that was in force at `start`; None: the first of all.
        """
        rows = await self._connection.fetch(
            _REVISIONS,
            self._tenant_id,
            list(after),
            list(after.values()),
            start,
            REVISIONS_PER_READ_MAX,
        )
        found: dict[AccountId, list[RevisionDocument]] = {account_id: [] for account_id in after}
        for row in rows:
            found[row[0]].append(RevisionDocument(*row))
        return found

    async def current_documents(
        self, account_ids: Sequence[AccountId], at: datetime
    ) -> dict[AccountId, tuple[int, str]]:
        """Return what decides the accounts' entitlements, with the grants of the instant: for those without history."""
        return await read_documents(self._connection, self._tenant_id, account_ids, at)


@asynccontextmanager
async def open_replay(database_url: str, tenant_id: TenantId) -> AsyncIterator[ReplayRows]:
    """Open a snapshot of the tenant's rows; raises StoreUnavailable."""
    try:
        connection = await connect(
            database_url,
            DatabaseRole.READER,
            application_name="tallygate:simulation",
            statement_timeout=str(STATEMENT_TIMEOUT_MS),
            idle_in_transaction_session_timeout=str(IDLE_TIMEOUT_MS),
        )
    except CONNECTION_ERRORS as error:
        raise StoreUnavailable("the database cannot be reached just now") from error
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute("SELECT set_config('tallygate.tenant_id', $1, true)", tenant_id)
            yield ReplayRows(connection, tenant_id)
    except (*CONNECTION_ERRORS, asyncpg.QueryCanceledError) as error:
        raise StoreUnavailable("the database went away, or took too long") from error
    finally:
        connection.terminate()


def _calls(wanted: CallsWanted, *, denials: bool) -> tuple[str, list[Any]]:
    """Return the query of the calls, without its order, and its arguments after the tenant."""
    arguments: list[Any] = [wanted.start, wanted.end]
    more = ""
    if wanted.account_id:
        arguments.append(wanted.account_id)
        more += f" AND account_id = ${len(arguments) + 1}"
    if wanted.feature_key:
        arguments.append(wanted.feature_key)
        more += f" AND feature_key = ${len(arguments) + 1}"
    branches = [_ENTRIES.format(source=COUNTED, start="$2", end="$3", more=more)]
    if wanted.carried_features:
        arguments.append(list(wanted.carried_features))
        carried = f"{more} AND feature_key = ANY(${len(arguments) + 1}::text[])"
        begin = "'-infinity'"
        if wanted.carried_from is not None:
            arguments.append(wanted.carried_from)
            begin = f"${len(arguments) + 1}"
        branches += [each.format(source=CARRIED, start=begin, end="$2", more=carried) for each in (_ENTRIES, _EXPORTED)]
    if denials:
        branches.append(_DENIALS.format(start="$2", end="$3", more=more))
    return " UNION ALL ".join(branches), arguments
