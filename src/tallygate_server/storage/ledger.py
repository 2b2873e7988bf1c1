"""The usage ledger: every statement that counts, straight on asyncpg.

Works as `tallygate_meter`, a role that reaches the usage tables of all tenants and nothing else, so one
transaction can carry a group of many tenants. Ledger rows and counters change in the same transaction,
always: a counter equals the sum of its entries.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeAlias

import asyncpg
import structlog

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.usage import EntryKind, UsageMark
from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole, connect, connection_settings

log = structlog.get_logger(__name__)

LedgerConnection: TypeAlias = asyncpg.Connection
"""A connection of the meter role, in a transaction of `Ledger.exact` or `Ledger.reading`."""

RECONNECT_DELAY_SECONDS_MIN: Final = 0.05
RECONNECT_DELAY_SECONDS_MAX: Final = 0.5
_POOL_SIZE: Final = 4


class CounterKey(NamedTuple):
    """Primary key of a counter, in lock order."""

    tenant_id: TenantId
    account_id: AccountId
    feature_key: str
    period_kind: str
    period_start: datetime


class CounterState(NamedTuple):
    """A counter's total and its version; version 0 is a counter without a row."""

    used: int
    version: int
    reserved: int = 0
    """What reservations hold, those included whose time is over and which nobody has ended yet."""
    reserve_expire_time: datetime | None = None
    """No reservation expires earlier; None without any."""
    overdue: int = 0
    """The part of `reserved` whose time was over at the instant asked for."""

    @property
    def held(self) -> int:
        """What reservations hold at the instant asked for."""
        return self.reserved - self.overdue


NO_COUNTER: Final = CounterState(0, 0)


@dataclass(slots=True)
class LockedCounter:
    """A counter under lock: what is changed here is what `ExactTransaction.write` makes of the row."""

    used: int
    version: int
    """Before the change; one higher after it."""
    limit: int
    reserved: int
    reserve_expire_time: datetime | None
    peak: int | None
    """The period's highest total, where a correction has taken the present one below it."""
    credited: int
    rolled_in: int | None
    rolled_out: int
    changed: bool = False

    def state(self) -> CounterState:
        """Return the counter as it is once the transaction is committed."""
        return CounterState(self.used, self.version + self.changed, self.reserved, self.reserve_expire_time)


@dataclass(slots=True)
class CounterChange:
    """What one group adds to one counter: positive quantities only, all or nothing."""

    key: CounterKey
    period_end: datetime | None
    limit: int
    plan_key: str = ""
    revision: int = 0
    marks: Sequence[UsageMark] = ()
    """Totals that are announced when the group reaches them."""
    told_limit: int = -1
    """The limit that the announcements name, a soft one too."""
    total: int = 0


@dataclass(slots=True)
class EntryRow:
    """One ledger entry, before its counter's total is known."""

    counter: int
    """Index into the group's counters."""
    entry_id: int
    quantity: int
    prefix: int
    """Sum of the group's quantities of this counter up to and including this entry."""
    limit: int
    """What the caller is told: a soft limit too, and one's own where calls of a group saw different ones."""
    details: EntryDetails | None
    """None for the plain entry that most are."""


@dataclass(slots=True)
class EntryDetails:
    """What only some entries have; the fields from `fingerprint` on belong to the request id."""

    event_time: datetime | None = None
    dimensions: str | None = None
    """JSON text."""
    request_id: str | None = None
    fingerprint: int = 0
    reason: int = 0
    thresholds: str = ""
    plan_key: str = ""
    revision: int = 0


_NO_DETAILS: Final = EntryDetails()


@dataclass(slots=True)
class RequestRow:
    """The first answer to a request id."""

    tenant_id: TenantId
    account_id: AccountId
    request_id: str
    fingerprint: int
    reason: int
    entry_id: int | None
    quantity: int
    used_quantity: int
    limit_quantity: int
    thresholds: str
    reset_time: datetime | None
    plan_key: str
    revision: int
    recorded_time: datetime
    answer: str | None = None
    """JSON text: what the other columns do not say of the first answer."""


@dataclass(slots=True)
class DenialRow:
    """A denied increment."""

    tenant_id: TenantId
    account_id: AccountId
    entry_id: int
    recorded_time: datetime
    feature_key: str
    quantity: int
    reason: int
    used_quantity: int
    limit_quantity: int
    event_time: datetime | None
    request_id: str | None


@dataclass(slots=True)
class ExactEntry:
    """One ledger entry whose place is known, as the exact commit writes it."""

    key: CounterKey
    period_end: datetime | None
    entry_id: int
    recorded_time: datetime
    quantity: int
    used_after: int
    limit: int
    event_time: datetime | None
    request_id: str | None
    dimensions: str | None
    kind: EntryKind = EntryKind.INCREMENT
    plan_key: str = ""
    reservation_id: str | None = None
    reversed_entry_id: int | None = None
    reason_text: str | None = None
    actor: str | None = None
    credits: str | None = None
    """JSON text: credits that paid."""


@dataclass(slots=True)
class UsageAnnouncement:
    """An event of usage for the outbox."""

    tenant_id: TenantId
    account_id: AccountId
    type: str
    revision: int
    payload: str
    """JSON text."""
    create_time: datetime


class DuplicateRow(Exception):
    """An entry or a request id of the group is in the ledger already: nothing of the group was written."""


class GroupRefused(Exception):
    """Postgres refused the group for what is in it, or for a deadlock: nothing of it was written."""


class LedgerLost(Exception):
    """The connection broke; whether the transaction was committed is not known."""


class LedgerDown(Exception):
    """Postgres could not be asked; nothing was written."""


_COUNTERS: Final = """
counter AS MATERIALIZED (
    SELECT * FROM unnest(
        $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::bigint[],
        $9::bigint[], $10::text[]
    ) WITH ORDINALITY AS t(
        tenant_id, account_id, feature_key, period_kind, period_start, period_end, limit_quantity, total, plan_key,
        ordinal
    )
),
changed AS (
    INSERT INTO usage_counters AS c (
        tenant_id, account_id, feature_key, period_kind, period_start, period_end, used_quantity, version,
        limit_quantity
    )
    SELECT tenant_id, account_id, feature_key, period_kind, period_start, period_end, total, 1, limit_quantity
    FROM counter
    WHERE limit_quantity < 0 OR total <= limit_quantity
    ON CONFLICT (tenant_id, account_id, feature_key, period_kind, period_start) DO UPDATE
    SET used_quantity = c.used_quantity + EXCLUDED.used_quantity,
        version = c.version + 1,
        limit_quantity = EXCLUDED.limit_quantity,
        update_time = now()
    -- What reservations hold is as good as used. A total below its peak is for the exact commit, so that no mark is
    -- passed twice.
    WHERE c.peak_quantity IS NULL AND (
        EXCLUDED.limit_quantity < 0
        OR c.used_quantity + c.reserved_quantity + EXCLUDED.used_quantity <= EXCLUDED.limit_quantity
    )
    RETURNING tenant_id, account_id, feature_key, period_kind, period_start, used_quantity, version,
        reserved_quantity, reserve_expire_time
),
counted AS MATERIALIZED (
    SELECT counter.*, changed.used_quantity, changed.version, changed.reserved_quantity, changed.reserve_expire_time
    FROM counter
    JOIN changed USING (tenant_id, account_id, feature_key, period_kind, period_start)
)"""

# An increment counts in the period of the moment when it was placed; recorded a little later, perhaps beyond the
# period's end (or, where the clock stepped back, before its start), it still happened within.
_EVENT_TIME: Final = (
    "GREATEST(LEAST($1::timestamptz, counted.period_end - interval '1 microsecond'), counted.period_start)"
)

# Most increments say no more than how much: a third of the arrays, and of the work of encoding them.
_PLAIN_ENTRIES: Final = f"""
entry AS MATERIALIZED (
    SELECT * FROM unnest($11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[])
        AS t(ordinal, entry_id, quantity, prefix, limit_quantity)
),
written AS (
    INSERT INTO usage_entries (
        tenant_id, account_id, entry_id, recorded_time, feature_key, period_kind, period_start, quantity,
        used_after, limit_quantity, plan_key, event_time
    )
    SELECT counted.tenant_id, counted.account_id, entry.entry_id, $1::timestamptz, counted.feature_key,
        counted.period_kind, counted.period_start, entry.quantity,
        counted.used_quantity - counted.total + entry.prefix, entry.limit_quantity, counted.plan_key, {_EVENT_TIME}
    FROM entry
    JOIN counted USING (ordinal)
)"""  # noqa: S608

_ENTRIES: Final = f"""
entry AS MATERIALIZED (
    SELECT * FROM unnest(
        $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::timestamptz[], $17::text[],
        $18::text[]
    ) AS t(ordinal, entry_id, quantity, prefix, limit_quantity, event_time, dimensions, request_id)
),
written AS (
    INSERT INTO usage_entries (
        tenant_id, account_id, entry_id, recorded_time, feature_key, period_kind, period_start, quantity,
        used_after, limit_quantity, plan_key, event_time, request_id, dimensions
    )
    SELECT counted.tenant_id, counted.account_id, entry.entry_id, $1::timestamptz, counted.feature_key,
        counted.period_kind, counted.period_start, entry.quantity,
        counted.used_quantity - counted.total + entry.prefix, entry.limit_quantity, counted.plan_key,
        COALESCE(entry.event_time, {_EVENT_TIME}), entry.request_id, entry.dimensions::jsonb
    FROM entry
    JOIN counted USING (ordinal)
)"""  # noqa: S608

_REQUESTS: Final = """
requested AS (
    INSERT INTO usage_requests (
        tenant_id, account_id, request_id, fingerprint, reason, entry_id, quantity, used_quantity,
        limit_quantity, thresholds, reset_time, plan_key, revision, recorded_time
    )
    SELECT counted.tenant_id, counted.account_id, entry.request_id, more.fingerprint, more.reason, entry.entry_id,
        entry.quantity, counted.used_quantity - counted.total + entry.prefix, entry.limit_quantity,
        more.thresholds, counted.period_end, more.plan_key, more.revision, $1::timestamptz
    FROM entry
    JOIN counted USING (ordinal)
    JOIN unnest($12::bigint[], $19::bigint[], $20::smallint[], $21::text[], $22::text[], $23::bigint[])
        AS more(entry_id, fingerprint, reason, thresholds, plan_key, revision) USING (entry_id)
    WHERE entry.request_id IS NOT NULL
)"""

# Marks that the group passes are few among many: found by the counters' totals first, and only then joined with the
# entries, to name the one that passes. The event stands or falls with that entry.
_ANNOUNCED: Final = """
passed AS MATERIALIZED (
    SELECT counted.*, mark.kind, mark.threshold, mark.quantity AS mark, mark.revision, mark.told_limit
    FROM unnest(
        ${0}::bigint[], ${1}::text[], ${2}::bigint[], ${3}::bigint[], ${4}::bigint[], ${5}::bigint[]
    ) AS mark(ordinal, kind, threshold, quantity, revision, told_limit)
    JOIN counted USING (ordinal)
    WHERE counted.used_quantity - counted.total < mark.quantity AND mark.quantity <= counted.used_quantity
),
announced AS (
    INSERT INTO outbox_events (tenant_id, type, account_id, revision, payload, create_time)
    SELECT passed.tenant_id,
        CASE passed.kind WHEN 'exhausted' THEN 'usage.exhausted' ELSE 'usage.threshold_crossed' END,
        passed.account_id, passed.revision,
        jsonb_build_object(
            'feature_key', passed.feature_key, 'kind', passed.kind, 'threshold', passed.threshold,
            'used_quantity', passed.used_quantity - passed.total + entry.prefix, 'limit_quantity', passed.told_limit,
            'plan_key', passed.plan_key, 'entry_id', entry.entry_id::text, 'period_start_time', passed.period_start,
            'period_end_time', passed.period_end
        ),
        $1::timestamptz
    FROM passed
    JOIN entry USING (ordinal)
    WHERE passed.used_quantity - passed.total + entry.prefix - entry.quantity < passed.mark
      AND passed.mark <= passed.used_quantity - passed.total + entry.prefix
)"""

_RESULT: Final = "SELECT ordinal, used_quantity, version, reserved_quantity, reserve_expire_time FROM counted"

# The conditional upsert has the last word on every hard limit. Counters come sorted, so that two servers lock
# them in the same order. A counter that refuses takes its entries with it; the others are counted.
_COMMIT_PLAIN: Final = f"WITH {_COUNTERS},{_PLAIN_ENTRIES},{_ANNOUNCED.format(*range(16, 22))} {_RESULT}"
_COMMIT_DETAILED: Final = f"WITH {_COUNTERS},{_ENTRIES},{_REQUESTS},{_ANNOUNCED.format(*range(24, 30))} {_RESULT}"

# A reservation ends by itself; the job that writes it down may come late.
_READ_COUNTERS: Final = """
SELECT c.tenant_id, c.account_id, c.feature_key, c.period_kind, c.period_start, c.used_quantity, c.version,
    c.reserved_quantity, c.reserve_expire_time,
    CASE WHEN c.reserve_expire_time <= $6 THEN (
        SELECT COALESCE(sum(r.quantity), 0)::bigint
        FROM reservations AS r
        WHERE (r.tenant_id, r.account_id, r.feature_key, r.period_kind, r.period_start)
            = (c.tenant_id, c.account_id, c.feature_key, c.period_kind, c.period_start)
          AND r.state = 'held' AND r.expire_time <= $6
    ) ELSE 0 END AS overdue_quantity
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
    AS k(tenant_id, account_id, feature_key, period_kind, period_start)
JOIN usage_counters AS c USING (tenant_id, account_id, feature_key, period_kind, period_start)
"""

# Locks in the order of the arrays, which is that of the group commit; whoever first locks what is there and then
# makes what is missing, or sorts by the database's collation, waits in a circle with it sooner or later.
_LOCK_COUNTERS: Final = """
INSERT INTO usage_counters AS c (
    tenant_id, account_id, feature_key, period_kind, period_start, period_end, used_quantity, version,
    limit_quantity
)
SELECT *, 0, 0, -1
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])
ON CONFLICT (tenant_id, account_id, feature_key, period_kind, period_start) DO UPDATE SET version = c.version
RETURNING tenant_id, account_id, feature_key, period_kind, period_start, used_quantity, version, limit_quantity,
    reserved_quantity, reserve_expire_time, peak_quantity, credited_quantity, rolled_in_quantity, rolled_out_quantity
"""

_SET_COUNTERS: Final = """
UPDATE usage_counters AS c
SET used_quantity = k.used_quantity, version = c.version + 1, limit_quantity = k.limit_quantity,
    reserved_quantity = k.reserved_quantity, reserve_expire_time = k.reserve_expire_time,
    peak_quantity = k.peak_quantity, credited_quantity = k.credited_quantity,
    rolled_in_quantity = k.rolled_in_quantity, rolled_out_quantity = k.rolled_out_quantity, update_time = now()
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::timestamptz[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[]
) AS k(
    tenant_id, account_id, feature_key, period_kind, period_start, used_quantity, limit_quantity, reserved_quantity,
    reserve_expire_time, peak_quantity, credited_quantity, rolled_in_quantity, rolled_out_quantity
)
WHERE (c.tenant_id, c.account_id, c.feature_key, c.period_kind, c.period_start)
    = (k.tenant_id, k.account_id, k.feature_key, k.period_kind, k.period_start)
"""

_FIND_REQUESTS: Final = """
SELECT r.*
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(tenant_id, account_id, request_id)
JOIN usage_requests AS r USING (tenant_id, account_id, request_id)
"""

_FIND_ENTRIES: Final = """
SELECT e.entry_id, e.used_after
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[])
    AS k(tenant_id, account_id, entry_id, recorded_time)
JOIN usage_entries AS e USING (tenant_id, account_id, entry_id, recorded_time)
"""

_INSERT_ENTRIES: Final = """
INSERT INTO usage_entries (
    tenant_id, account_id, feature_key, period_kind, period_start, entry_id, quantity, used_after,
    limit_quantity, event_time, request_id, dimensions, recorded_time, kind, plan_key, reservation_id,
    reversed_entry_id, reason_text, actor, credits
)
SELECT k.tenant_id, k.account_id, k.feature_key, k.period_kind, k.period_start, k.entry_id, k.quantity,
    k.used_after, k.limit_quantity,
    COALESCE(
        k.event_time, GREATEST(LEAST(k.recorded_time, k.period_end - interval '1 microsecond'), k.period_start)
    ),
    k.request_id, k.dimensions::jsonb, k.recorded_time, k.kind, k.plan_key, k.reservation_id, k.reversed_entry_id,
    k.reason_text, k.actor, k.credits::jsonb
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::timestamptz[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[],
    $15::smallint[], $16::text[], $17::text[], $18::bigint[], $19::text[], $20::text[], $21::text[]
) AS k(
    tenant_id, account_id, feature_key, period_kind, period_start, entry_id, quantity, used_after,
    limit_quantity, event_time, request_id, dimensions, recorded_time, period_end, kind, plan_key, reservation_id,
    reversed_entry_id, reason_text, actor, credits
)
"""

_INSERT_REQUESTS: Final = """
INSERT INTO usage_requests (
    tenant_id, account_id, request_id, fingerprint, reason, entry_id, quantity, used_quantity, limit_quantity,
    thresholds, reset_time, plan_key, revision, recorded_time, answer
)
SELECT k.tenant_id, k.account_id, k.request_id, k.fingerprint, k.reason, k.entry_id, k.quantity, k.used_quantity,
    k.limit_quantity, k.thresholds, k.reset_time, k.plan_key, k.revision, k.recorded_time, k.answer::jsonb
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::bigint[], $5::smallint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::text[], $11::timestamptz[], $12::text[], $13::bigint[], $14::timestamptz[], $15::text[]
) AS k(
    tenant_id, account_id, request_id, fingerprint, reason, entry_id, quantity, used_quantity, limit_quantity,
    thresholds, reset_time, plan_key, revision, recorded_time, answer
)
"""

_INSERT_ANNOUNCEMENTS: Final = """
INSERT INTO outbox_events (tenant_id, type, account_id, revision, payload, create_time)
SELECT k.tenant_id, k.type, k.account_id, k.revision, k.payload::jsonb, k.create_time
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::timestamptz[])
    AS k(tenant_id, type, account_id, revision, payload, create_time)
"""

_EXPIRE_RESERVATIONS: Final = """
UPDATE reservations AS r
SET state = 'expired', close_time = r.expire_time
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
    AS k(tenant_id, account_id, feature_key, period_kind, period_start)
WHERE (r.tenant_id, r.account_id, r.feature_key, r.period_kind, r.period_start)
    = (k.tenant_id, k.account_id, k.feature_key, k.period_kind, k.period_start)
  AND r.state = 'held' AND r.expire_time <= $6
RETURNING r.tenant_id, r.account_id, r.feature_key, r.period_kind, r.period_start, r.quantity
"""

# The first entry of the index over reservations that are held: one row is looked at, however many there are.
_NEXT_EXPIRIES: Final = """
SELECT k.*, next.expire_time
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
    AS k(tenant_id, account_id, feature_key, period_kind, period_start)
CROSS JOIN LATERAL (
    SELECT r.expire_time
    FROM reservations AS r
    WHERE (r.tenant_id, r.account_id, r.feature_key, r.period_kind, r.period_start)
        = (k.tenant_id, k.account_id, k.feature_key, k.period_kind, k.period_start)
      AND r.state = 'held'
    ORDER BY r.expire_time LIMIT 1
) AS next
"""

_INSERT_DENIALS: Final = """
INSERT INTO usage_denials (
    tenant_id, account_id, entry_id, recorded_time, feature_key, quantity, reason, used_quantity, limit_quantity,
    event_time, request_id
)
SELECT k.tenant_id, k.account_id, k.entry_id, k.recorded_time, k.feature_key, k.quantity, k.reason,
    k.used_quantity, k.limit_quantity, COALESCE(k.event_time, k.recorded_time), k.request_id
FROM unnest(
    $1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::bigint[], $7::smallint[],
    $8::bigint[], $9::bigint[], $10::timestamptz[], $11::text[]
) AS k(
    tenant_id, account_id, entry_id, recorded_time, feature_key, quantity, reason, used_quantity,
    limit_quantity, event_time, request_id
)
ON CONFLICT DO NOTHING
"""

_FORGET_REQUESTS: Final = """
DELETE FROM usage_requests
WHERE (tenant_id, account_id, request_id) IN (
    SELECT tenant_id, account_id, request_id FROM usage_requests WHERE recorded_time < $1 LIMIT $2
)
"""


class Ledger:
    """Connections of the meter role: one for group commits, a pool for the rest."""

    def __init__(self, database_url: str, *, commit_timeout_ms: int) -> None:
        """Prepare; `start` opens the connections. A group commit that takes longer than the timeout is given up."""
        self._url = database_url
        self._commit_timeout_seconds = commit_timeout_ms / 1000
        self._committer: asyncpg.Connection | None = None
        self._pool: asyncpg.Pool | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._up = asyncio.Event()
        self.node = 0
        """Number of this server process, unique among those alive: part of entry ids."""

    @property
    def up(self) -> bool:
        """Whether Postgres answered last, as far as is known right now."""
        return self._up.is_set()

    async def start(self) -> None:
        """Open the connections; raises LedgerDown when Postgres is away."""
        try:
            await self._connect()
            self._pool = await asyncpg.create_pool(
                self._url,
                # Without a floor asyncpg does not reconnect by itself, with a traceback for each failed try.
                min_size=0,
                max_size=_POOL_SIZE,
                timeout=5,
                command_timeout=10,
                server_settings=connection_settings(DatabaseRole.METER),
                # Nothing sets session state here, so a connection needs no cleaning between uses.
                reset=_no_reset,
            )
        except CONNECTION_ERRORS as error:
            raise LedgerDown(str(error)) from error
        assert self._committer is not None
        self.node = (await self._committer.fetchval("SELECT nextval('server_nodes')")) % 1024
        self._keeper = asyncio.create_task(self._keep(), name="ledger-connection")

    async def close(self) -> None:
        """Close every connection."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._up.clear()
        if self._pool is not None:
            self._pool.terminate()
        if self._committer is not None and not self._committer.is_closed():
            await self._committer.close(timeout=1)

    def doubt(self) -> None:
        """Take note that Postgres did not answer elsewhere: it counts as away until a new connection is there."""
        self._note_lost()

    async def wait_up(self, timeout_seconds: float) -> bool:
        """Wait until Postgres answers again; False when it did not within the time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._up.wait()
        except TimeoutError:
            return False
        return True

    async def commit(
        self, recorded_time: datetime, counters: Sequence[CounterChange], entries: Sequence[EntryRow]
    ) -> list[CounterState | None]:
        """Count a group in one statement; return the new state of each counter, None where the limit refused.

        Counters must be sorted by key. Entries of a refused counter are not written.

        Raises DuplicateRow, GroupRefused, LedgerDown (nothing written) or LedgerLost (not known).
        """
        connection = self._committer
        if connection is None or not self._up.is_set():
            raise LedgerDown
        detailed = any(entry.details is not None for entry in entries)
        arguments: list[Any] = [
            recorded_time,
            *_columns(change.key for change in counters),
            [change.period_end for change in counters],
            [change.limit for change in counters],
            [change.total for change in counters],
            [change.plan_key for change in counters],
            [entry.counter + 1 for entry in entries],
            [entry.entry_id for entry in entries],
            [entry.quantity for entry in entries],
            [entry.prefix for entry in entries],
            [entry.limit for entry in entries],
        ]
        if detailed:
            arguments += _attributes(
                [entry.details or _NO_DETAILS for entry in entries],
                "event_time",
                "dimensions",
                "request_id",
                "fingerprint",
                "reason",
                "thresholds",
                "plan_key",
                "revision",
            )
        arguments += _mark_columns(counters)
        try:
            rows = await connection.fetch(
                _COMMIT_DETAILED if detailed else _COMMIT_PLAIN, *arguments, timeout=self._commit_timeout_seconds
            )
        except asyncpg.UniqueViolationError as error:
            raise DuplicateRow(error.constraint_name) from error
        except CONNECTION_ERRORS as error:
            self._note_lost()
            raise LedgerLost(str(error)) from error
        except asyncpg.PostgresError as error:
            raise GroupRefused(type(error).__name__) from error
        states: list[CounterState | None] = [None] * len(counters)
        for ordinal, *state in rows:
            states[ordinal - 1] = CounterState(*state)
        return states

    @asynccontextmanager
    async def exact(self) -> AsyncIterator[ExactTransaction]:
        """Open a transaction that locks counters, looks, and then writes.

        Raises DuplicateRow, GroupRefused, LedgerDown (nothing written) or LedgerLost (not known).
        """
        entered = False
        try:
            async with self._acquire() as connection, connection.transaction():
                entered = True
                yield ExactTransaction(connection)
        except asyncpg.UniqueViolationError as error:
            raise DuplicateRow(error.constraint_name) from error
        except CONNECTION_ERRORS as error:
            self._note_broken(error)
            raise (LedgerLost if entered else LedgerDown)(str(error)) from error
        except asyncpg.PostgresError as error:
            raise GroupRefused(type(error).__name__) from error

    async def read_counters(self, keys: Sequence[CounterKey], at: datetime) -> dict[CounterKey, CounterState]:
        """Return the counters that have a row, and what is held of them at the instant; raises LedgerDown."""
        return _states(await self._fetch(_READ_COUNTERS, *_columns(keys), at))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[LedgerConnection]:
        """Open a transaction that sees one state of all tables and changes nothing; raises LedgerDown."""
        try:
            async with (
                self._acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                yield connection
        except CONNECTION_ERRORS as error:
            self._note_broken(error)
            raise LedgerDown(str(error)) from error

    async def write_denials(self, denials: Sequence[DenialRow]) -> None:
        """Record denied increments, those that are recorded already excepted; raises LedgerDown."""
        await self._fetch(_INSERT_DENIALS, *_denial_columns(denials))

    async def forget_requests(self, before: datetime, rows_max: int) -> int:
        """Delete request ids older than the window, at most so many; return how many. Raises LedgerDown."""
        try:
            async with self._acquire() as connection:
                tag: str = await connection.execute(_FORGET_REQUESTS, before, rows_max)
        except CONNECTION_ERRORS as error:
            raise LedgerDown(str(error)) from error
        return int(tag.rsplit(" ", 1)[-1])

    async def _fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            async with self._acquire() as connection:
                rows: list[asyncpg.Record] = await connection.fetch(sql, *arguments)
                return rows
        except CONNECTION_ERRORS as error:
            self._note_broken(error)
            raise LedgerDown(str(error)) from error

    @asynccontextmanager
    async def _acquire(self) -> AsyncIterator[asyncpg.Connection]:
        if self._pool is None or not self._up.is_set():
            raise ConnectionError("Postgres is away")
        async with self._pool.acquire(timeout=5) as connection:
            yield connection

    async def _connect(self) -> None:
        # The group statement joins only its own arrays: hash joins, planned once.
        connection = await connect(
            self._url, DatabaseRole.METER, plan_cache_mode="force_generic_plan", enable_nestloop="off"
        )
        connection.add_termination_listener(self._terminated)
        self._committer = connection
        self._lost.clear()
        self._up.set()

    def _terminated(self, connection: asyncpg.Connection) -> None:
        if connection is self._committer:
            self._note_lost()

    def _note_broken(self, error: BaseException) -> None:
        # A pool that is merely busy times out as well; only the group commit's own time-out tells of Postgres.
        if not isinstance(error, TimeoutError):
            self._note_lost()

    def _note_lost(self) -> None:
        # Whichever connection broke: the keeper finds out at once whether Postgres is there.
        if self._up.is_set():
            log.warning("postgres_lost")
        self._up.clear()
        self._lost.set()

    async def _keep(self) -> None:
        delay = RECONNECT_DELAY_SECONDS_MIN
        while True:
            await self._lost.wait()
            if self._committer is not None:
                self._committer.terminate()
            try:
                await self._connect()
                if self._pool is not None:
                    await self._pool.expire_connections()
            except CONNECTION_ERRORS as error:
                log.debug("postgres_connect_failed", error=type(error).__name__)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RECONNECT_DELAY_SECONDS_MAX)
            else:
                log.info("postgres_connected")
                delay = RECONNECT_DELAY_SECONDS_MIN


async def read_counters(
    connection: asyncpg.Connection, keys: Sequence[CounterKey], at: datetime
) -> dict[CounterKey, CounterState]:
    """Return what `Ledger.read_counters` does, on a connection of `Ledger.reading`."""
    return _states(await connection.fetch(_READ_COUNTERS, *_columns(keys), at))


def _states(rows: Sequence[asyncpg.Record]) -> dict[CounterKey, CounterState]:
    return {CounterKey(*row[:5]): CounterState(*row[5:]) for row in rows}


class ExactTransaction:
    """Statements of one exact commit, in the order in which they must come: lock, look, write."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        """Work inside an open transaction."""
        self._connection = connection

    @property
    def connection(self) -> LedgerConnection:
        """The connection, for statements of other modules that belong to the same decision."""
        return self._connection

    async def lock_counters(
        self, counters: Sequence[tuple[CounterKey, datetime | None]]
    ) -> dict[CounterKey, LockedCounter]:
        """Lock the counters (key, period end) in key order, making those that are missing."""
        columns = _columns(key for key, _ in counters)
        rows = await self._connection.fetch(_LOCK_COUNTERS, *columns, [end for _, end in counters])
        return {CounterKey(*row[:5]): LockedCounter(*row[5:]) for row in rows}

    async def expire_reservations(self, counters: Mapping[CounterKey, LockedCounter], at: datetime) -> int:
        """End the reservations of these locked counters whose time is over at the instant; return how many."""
        due = [
            key
            for key, counter in counters.items()
            if counter.reserve_expire_time is not None and counter.reserve_expire_time <= at
        ]
        if not due:
            return 0
        expired = await self._connection.fetch(_EXPIRE_RESERVATIONS, *_columns(due), at)
        for row in expired:
            counters[CounterKey(*row[:5])].reserved -= row[5]
        for key in due:
            counters[key].changed = True
        await self.find_next_expiries({key: counters[key] for key in due})
        return len(expired)

    async def find_next_expiries(self, counters: Mapping[CounterKey, LockedCounter]) -> None:
        """Set when the first reservation of each of these locked counters expires, as the rows are now."""
        if not counters:
            return
        for counter in counters.values():
            counter.reserve_expire_time = None
        for row in await self._connection.fetch(_NEXT_EXPIRIES, *_columns(counters)):
            counters[CounterKey(*row[:5])].reserve_expire_time = row[5]

    async def find_entries(self, entries: Sequence[tuple[TenantId, AccountId, int, datetime | None]]) -> dict[int, int]:
        """Return used_after by entry id, for those of the entries (with their recorded time) that are written."""
        rows = await self._connection.fetch(_FIND_ENTRIES, *zip(*entries, strict=True))
        return {row[0]: row[1] for row in rows}

    async def find_requests(
        self, requests: Sequence[tuple[TenantId, AccountId, str]]
    ) -> dict[tuple[TenantId, AccountId, str], asyncpg.Record]:
        """Return the first answers to request ids that were used before."""
        if not requests:
            return {}
        tenant_ids, account_ids, request_ids = zip(*requests, strict=True)
        rows = await self._connection.fetch(_FIND_REQUESTS, tenant_ids, account_ids, request_ids)
        return {(row["tenant_id"], row["account_id"], row["request_id"]): row for row in rows}

    async def write(
        self,
        *,
        counters: Mapping[CounterKey, LockedCounter],
        entries: Sequence[ExactEntry] = (),
        requests: Sequence[RequestRow] = (),
        denials: Sequence[DenialRow] = (),
        announcements: Sequence[UsageAnnouncement] = (),
    ) -> None:
        """Write what was decided: of the counters those that are marked as changed."""
        connection = self._connection
        changed = {key: counter for key, counter in counters.items() if counter.changed}
        if changed:
            await connection.execute(
                _SET_COUNTERS,
                *_columns(changed),
                *_attributes(
                    list(changed.values()),
                    "used",
                    "limit",
                    "reserved",
                    "reserve_expire_time",
                    "peak",
                    "credited",
                    "rolled_in",
                    "rolled_out",
                ),
            )
        if entries:
            await connection.execute(
                _INSERT_ENTRIES,
                *_columns(entry.key for entry in entries),
                *_attributes(
                    entries,
                    "entry_id",
                    "quantity",
                    "used_after",
                    "limit",
                    "event_time",
                    "request_id",
                    "dimensions",
                    "recorded_time",
                    "period_end",
                    "kind",
                    "plan_key",
                    "reservation_id",
                    "reversed_entry_id",
                    "reason_text",
                    "actor",
                    "credits",
                ),
            )
        if requests:
            await connection.execute(
                _INSERT_REQUESTS,
                *_attributes(
                    requests,
                    "tenant_id",
                    "account_id",
                    "request_id",
                    "fingerprint",
                    "reason",
                    "entry_id",
                    "quantity",
                    "used_quantity",
                    "limit_quantity",
                    "thresholds",
                    "reset_time",
                    "plan_key",
                    "revision",
                    "recorded_time",
                    "answer",
                ),
            )
        if denials:
            await connection.execute(_INSERT_DENIALS, *_denial_columns(denials))
        if announcements:
            await connection.execute(
                _INSERT_ANNOUNCEMENTS,
                *_attributes(announcements, "tenant_id", "type", "account_id", "revision", "payload", "create_time"),
            )


def _columns(keys: Iterable[CounterKey]) -> list[list[Any]]:
    columns = [list(column) for column in zip(*keys, strict=True)]
    return columns or [[], [], [], [], []]


def _attributes(rows: Sequence[object], *names: str) -> list[list[Any]]:
    return [[getattr(row, name) for row in rows] for name in names]


def _mark_columns(counters: Sequence[CounterChange]) -> list[list[Any]]:
    columns: list[list[Any]] = [[], [], [], [], [], []]
    ordinals, kinds, thresholds, quantities, revisions, limits = columns
    for ordinal, change in enumerate(counters, 1):
        for mark in change.marks:
            ordinals.append(ordinal)
            kinds.append(mark.kind.value)
            thresholds.append(mark.threshold)
            quantities.append(mark.quantity)
            revisions.append(change.revision)
            limits.append(change.told_limit)
    return columns


def _denial_columns(denials: Sequence[DenialRow]) -> list[list[Any]]:
    return _attributes(
        denials,
        "tenant_id",
        "account_id",
        "entry_id",
        "recorded_time",
        "feature_key",
        "quantity",
        "reason",
        "used_quantity",
        "limit_quantity",
        "event_time",
        "request_id",
    )


async def _no_reset(connection: asyncpg.Connection) -> None:
    """Leave the connection as it is."""


EntryIds = Callable[[], int]
_TIME_SHIFT: Final = 22
_ENTRY_EPOCH_MS: Final = 1_735_689_600_000
_SEQUENCE_MAX: Final = 0xFFF


def entry_ids(node: int, now_ms: Callable[[], int]) -> EntryIds:
    """Return a maker of ledger entry ids: 41 bits of milliseconds since 2025, 10 of the node, 12 of a sequence.

    Rising within a process even when its clock steps back.
    """
    last_ms, sequence = 0, 0

    def make() -> int:
        nonlocal last_ms, sequence
        ms = now_ms() - _ENTRY_EPOCH_MS
        if ms > last_ms:
            last_ms, sequence = ms, 0
        else:
            sequence += 1
            if sequence > _SEQUENCE_MAX:
                last_ms, sequence = last_ms + 1, 0
        return (last_ms << _TIME_SHIFT) | (node << 12) | sequence

    return make


def entry_time(entry_id: int) -> datetime:
    """Return when an id was made, to the millisecond."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=(entry_id >> _TIME_SHIFT) + _ENTRY_EPOCH_MS)
