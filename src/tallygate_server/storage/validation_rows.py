"""SQL of validations: what the rows of record say of a page of accounts, all of it in one snapshot.

Counters change in the transactions that write their ledger entries, so in one snapshot they agree however many write
meanwhile: what differs in it differs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole, connect
from tallygate_server.storage.ledger import CounterKey
from tallygate_server.storage.sources import read_documents

STATEMENT_TIMEOUT_MS: Final = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedCounter:
    """A counter, and what the ledger and the reservations say of it."""

    key: CounterKey
    period_end: datetime | None
    version: int | None
    """None: there are entries or reservations, and no row."""
    used: int
    reserved: int
    credited: int
    ledger_quantity: int
    entry_count: int
    last_total_known: bool
    """Whether an entry says that the counter stood where it stands after it."""
    held_quantity: int
    paid_quantity: int
    """What credits paid, by the entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedBalance:
    """A balance of a credit, and what the ledger says was burned of it."""

    account_id: AccountId
    feature_key: str
    grant_id: str
    window_start: datetime
    used: int | None
    """None: entries name the credit, and there is no row."""
    paid_quantity: int


class RevisionRow(NamedTuple):
    """The newest row of an account's history."""

    revision: int
    document: str


@dataclass(slots=True, kw_only=True)
class ExaminedAccounts:
    """What Postgres says of a page of accounts."""

    counters: list[ExaminedCounter] = field(default_factory=list)
    balances: list[ExaminedBalance] = field(default_factory=list)
    documents: dict[AccountId, tuple[int, str]] = field(default_factory=dict)
    """By account its revision and its sources as they are."""
    newest: dict[AccountId, RevisionRow] = field(default_factory=dict)
    """By account the newest row of its history."""


_COUNTERS: Final = """
WITH counter AS (
    SELECT account_id, feature_key, period_kind, period_start, period_end, version, used_quantity, reserved_quantity,
        credited_quantity
    FROM usage_counters
    WHERE tenant_id = $1 AND account_id = ANY($2::text[])
),
ledger AS (
    SELECT account_id, feature_key, period_kind, period_start, sum(quantity)::bigint AS quantity,
        count(*) AS entries, bool_or(used_after = counter.used_quantity) AS last_total_known,
        COALESCE(sum((
            SELECT sum((credit ->> 2)::bigint) FROM jsonb_array_elements(credits) AS credit
        )), 0)::bigint AS paid
    FROM usage_entries
    LEFT JOIN counter USING (account_id, feature_key, period_kind, period_start)
    WHERE tenant_id = $1 AND account_id = ANY($2::text[])
    GROUP BY account_id, feature_key, period_kind, period_start
),
exported AS (
    SELECT account_id, feature_key, period_kind, period_start, quantity, credited_quantity, entry_count, last_used_after
    FROM exported_usage_sums
    WHERE tenant_id = $1 AND account_id = ANY($2::text[])
),
held AS (
    SELECT account_id, feature_key, period_kind, period_start, sum(quantity)::bigint AS quantity
    FROM reservations
    WHERE tenant_id = $1 AND account_id = ANY($2::text[]) AND state = 'held'
    GROUP BY account_id, feature_key, period_kind, period_start
)
SELECT account_id, feature_key, period_kind, period_start, counter.period_end, counter.version,
    COALESCE(counter.used_quantity, 0) AS used, COALESCE(counter.reserved_quantity, 0) AS reserved,
    COALESCE(counter.credited_quantity, 0) AS credited,
    COALESCE(ledger.quantity, 0) + COALESCE(exported.quantity, 0) AS ledger_quantity,
    COALESCE(ledger.entries, 0) + COALESCE(exported.entry_count, 0) AS entry_count,
    COALESCE(
        GREATEST(ledger.last_total_known, exported.last_used_after = counter.used_quantity), true
    ) AS last_total_known,
    COALESCE(held.quantity, 0) AS held_quantity,
    COALESCE(ledger.paid, 0) + COALESCE(exported.credited_quantity, 0) AS paid_quantity
FROM counter
FULL JOIN ledger USING (account_id, feature_key, period_kind, period_start)
FULL JOIN exported USING (account_id, feature_key, period_kind, period_start)
FULL JOIN held USING (account_id, feature_key, period_kind, period_start)
ORDER BY account_id, feature_key, period_kind, period_start
"""

_BALANCES: Final = """
WITH payment AS (
    SELECT e.account_id, e.feature_key, credit ->> 0 AS grant_id, (credit ->> 1)::timestamptz AS window_start,
        (credit ->> 2)::bigint AS quantity
    FROM usage_entries AS e, jsonb_array_elements(e.credits) AS credit
    WHERE e.tenant_id = $1 AND e.account_id = ANY($2::text[]) AND e.credits IS NOT NULL
    UNION ALL
    SELECT account_id, feature_key, grant_id, window_start, quantity
    FROM exported_credit_sums
    WHERE tenant_id = $1 AND account_id = ANY($2::text[])
),
burned AS (
    SELECT account_id, feature_key, grant_id, window_start, sum(quantity)::bigint AS quantity
    FROM payment
    GROUP BY account_id, feature_key, grant_id, window_start
),
balance AS (
    SELECT account_id, feature_key, grant_id, window_start, used_quantity
    FROM grant_balances
    WHERE tenant_id = $1 AND account_id = ANY($2::text[])
)
SELECT account_id, feature_key, grant_id, window_start, balance.used_quantity AS used,
    COALESCE(burned.quantity, 0) AS paid_quantity
FROM balance
FULL JOIN burned USING (account_id, feature_key, grant_id, window_start)
ORDER BY account_id, feature_key, grant_id, window_start
"""

_NEWEST: Final = """
SELECT DISTINCT ON (account_id) account_id, revision, sources::text AS document
FROM account_revisions
WHERE tenant_id = $1 AND account_id = ANY($2::text[])
ORDER BY account_id, revision DESC
"""

# Counters that calls may still look at, in Redis too.
_COUNTER_KEYS: Final = """
SELECT account_id, feature_key, period_kind, period_start
FROM usage_counters
WHERE tenant_id = $1 AND account_id = ANY($2::text[]) AND (period_end IS NULL OR period_end > $3)
"""

_ACCOUNTS: Final = """
SELECT account_id FROM accounts
WHERE tenant_id = $1 AND account_id > $2 AND ($3 = '' OR account_id = $3)
ORDER BY account_id LIMIT $4
"""


class ValidationRows:
    """Reads pages of accounts, each in a snapshot of its own."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        """Read on a connection of the reader's; see `open_validation`."""
        self._connection = connection

    async def count_accounts(self, tenant_id: TenantId, account_id: str) -> int:
        """Return how many accounts there are to look at."""
        async with self._snapshot(tenant_id):
            counted: int = await self._connection.fetchval(
                "SELECT count(*) FROM accounts WHERE tenant_id = $1 AND ($2 = '' OR account_id = $2)",
                tenant_id,
                account_id,
            )
            return counted

    async def account_ids(self, tenant_id: TenantId, *, only: str, after: str, limit: int) -> list[AccountId]:
        """Return the next accounts, by id."""
        async with self._snapshot(tenant_id):
            rows = await self._connection.fetch(_ACCOUNTS, tenant_id, after, only, limit)
        return [AccountId(row[0]) for row in rows]

    async def documents(
        self, tenant_id: TenantId, account_ids: Sequence[AccountId], at: datetime
    ) -> dict[AccountId, tuple[int, str]]:
        """Return each account's revision and its sources, with the grants of the instant."""
        return await read_documents(self._connection, tenant_id, account_ids, at)

    async def counter_keys(
        self, tenant_id: TenantId, account_ids: Sequence[AccountId], since: datetime
    ) -> list[CounterKey]:
        """Return the counters of periods that had not ended at the instant."""
        async with self._snapshot(tenant_id):
            rows = await self._connection.fetch(_COUNTER_KEYS, tenant_id, list(account_ids), since)
        return [CounterKey(tenant_id, *row) for row in rows]

    async def examine(self, tenant_id: TenantId, account_ids: Sequence[AccountId], at: datetime) -> ExaminedAccounts:
        """Return what Postgres says of the accounts, in one snapshot; the instant is the present one."""
        connection, ids = self._connection, list(account_ids)
        async with self._snapshot(tenant_id):
            counters = await connection.fetch(_COUNTERS, tenant_id, ids)
            balances = await connection.fetch(_BALANCES, tenant_id, ids)
            documents = await read_documents(connection, tenant_id, ids, at)
            newest = await connection.fetch(_NEWEST, tenant_id, ids)
        return ExaminedAccounts(
            counters=[_counter(tenant_id, row) for row in counters],
            balances=[ExaminedBalance(**dict(row)) for row in balances],
            documents=documents,
            newest={AccountId(row[0]): RevisionRow(row[1], row[2]) for row in newest},
        )

    @asynccontextmanager
    async def _snapshot(self, tenant_id: TenantId) -> AsyncIterator[None]:
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            await self._connection.execute("SELECT set_config('tallygate.tenant_id', $1, true)", tenant_id)
            yield


def _counter(tenant_id: TenantId, row: Any) -> ExaminedCounter:
    facts = dict(row)
    key = CounterKey(
        tenant_id,
        AccountId(facts.pop("account_id")),
        facts.pop("feature_key"),
        facts.pop("period_kind"),
        facts.pop("period_start"),
    )
    return ExaminedCounter(key=key, **facts)


@asynccontextmanager
async def open_validation(database_url: str) -> AsyncIterator[ValidationRows]:
    """Open a connection of the reader's; raises StoreUnavailable."""
    try:
        connection = await connect(
            database_url,
            DatabaseRole.READER,
            application_name="tallygate:validation",
            statement_timeout=str(STATEMENT_TIMEOUT_MS),
        )
    except CONNECTION_ERRORS as error:
        raise StoreUnavailable("the database cannot be reached just now") from error
    try:
        yield ValidationRows(connection)
    except (*CONNECTION_ERRORS, asyncpg.QueryCanceledError) as error:
        raise StoreUnavailable("the database went away, or took too long") from error
    finally:
        connection.terminate()


# --- Repairs: under the locks of whoever counts -------------------------------------------------------------


class Recount(NamedTuple):
    """What a counter must say, by its entries and reservations."""

    used: int
    credited: int
    reserved: int
    reserve_expire_time: datetime | None


_RECOUNT: Final = """
SELECT COALESCE(sum(quantity), 0)::bigint, COALESCE(sum(credited), 0)::bigint
FROM (
    SELECT quantity, (SELECT sum((credit ->> 2)::bigint) FROM jsonb_array_elements(credits) AS credit) AS credited
    FROM usage_entries
    WHERE (tenant_id, account_id, feature_key, period_kind, period_start) = ($1, $2, $3, $4, $5)
    UNION ALL
    SELECT quantity, credited_quantity
    FROM exported_usage_sums
    WHERE (tenant_id, account_id, feature_key, period_kind, period_start) = ($1, $2, $3, $4, $5)
) AS counted
"""
_RECOUNT_HELD: Final = """
SELECT COALESCE(sum(quantity), 0)::bigint, min(expire_time)
FROM reservations
WHERE (tenant_id, account_id, feature_key, period_kind, period_start) = ($1, $2, $3, $4, $5) AND state = 'held'
"""
_LOCK_BALANCE: Final = """
SELECT used_quantity FROM grant_balances
WHERE (tenant_id, account_id, grant_id, window_start) = ($1, $2, $3, $4)
FOR UPDATE
"""
_REPAIR_BALANCE: Final = """
UPDATE grant_balances
SET used_quantity = burned.quantity, given_quantity = GREATEST(given_quantity, burned.quantity)
FROM (
    SELECT COALESCE(sum(payment.quantity), 0)::bigint AS quantity
    FROM (
        SELECT (credit ->> 2)::bigint AS quantity
        FROM usage_entries AS e, jsonb_array_elements(e.credits) AS credit
        WHERE e.tenant_id = $1 AND e.account_id = $2 AND e.credits IS NOT NULL
          AND credit ->> 0 = $3 AND (credit ->> 1)::timestamptz = $4
        UNION ALL
        SELECT quantity FROM exported_credit_sums
        WHERE (tenant_id, account_id, grant_id, window_start) = ($1, $2, $3, $4)
    ) AS payment
) AS burned
WHERE (tenant_id, account_id, grant_id, window_start) = ($1, $2, $3, $4)
"""


async def recount(connection: asyncpg.Connection, key: CounterKey) -> Recount:
    """Return what the counter must say; its lock must be held, so that nobody adds to it meanwhile."""
    used, credited = await connection.fetchrow(_RECOUNT, *key)
    reserved, expire_time = await connection.fetchrow(_RECOUNT_HELD, *key)
    return Recount(used, credited, reserved, expire_time)


async def repair_balance(
    connection: asyncpg.Connection, tenant_id: TenantId, account_id: AccountId, grant_id: str, window_start: datetime
) -> bool:
    """Make a balance say what the entries say was burned of it; False where there is no such balance."""
    key = (tenant_id, account_id, grant_id, window_start)
    # Who burns locks the balance before the entry is written.
    if await connection.fetchrow(_LOCK_BALANCE, *key) is None:
        return False
    await connection.execute(_REPAIR_BALANCE, *key)
    return True
