"""SQL of what limits depend on beside a counter's own row: balances of credits, and the counters before it.

Straight on asyncpg, as the meter role, inside the transaction that counts. Rows are locked after the counters and in
the order of their keys, as everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg

from tallygate_server.domain.credits import CreditBalance, PeriodBefore, StoredBalance, Totals
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.period import EPOCH
from tallygate_server.storage.ledger import CounterKey

_CHAIN_LOCK_SPACE: Final = "tallygate-rollover:"


class CreditKey(NamedTuple):
    """A credit and the window that it is asked about, in lock order."""

    tenant_id: TenantId
    account_id: AccountId
    grant_id: str
    window_start: datetime


class FoundBalance(NamedTuple):
    """The newest stored balance up to a window, and whether there is one of a later window."""

    balance: StoredBalance | None
    later: bool


class CounterChain(NamedTuple):
    """A counter among those of the same feature and kind of period."""

    totals: Totals | None
    """Its own row; None for none."""
    before: PeriodBefore | None
    """The newest one before it."""
    before_end: datetime | None
    later: bool
    """Whether a later one has been given what rolled over."""


_CHAIN: Final = """
SELECT k.ordinal, c.used_quantity, c.reserved_quantity, c.credited_quantity, c.rolled_in_quantity,
    c.rolled_out_quantity, b.period_start, b.period_end, b.used_quantity, b.reserved_quantity, b.credited_quantity,
    b.limit_quantity, b.rolled_in_quantity, b.rolled_out_quantity,
    EXISTS (
        SELECT FROM usage_counters AS l
        WHERE (l.tenant_id, l.account_id, l.feature_key, l.period_kind)
            = (k.tenant_id, k.account_id, k.feature_key, k.period_kind)
          AND l.period_start > k.period_start AND l.rolled_in_quantity IS NOT NULL
    )
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
    WITH ORDINALITY AS k(tenant_id, account_id, feature_key, period_kind, period_start, ordinal)
LEFT JOIN usage_counters AS c USING (tenant_id, account_id, feature_key, period_kind, period_start)
LEFT JOIN LATERAL (
    SELECT * FROM usage_counters AS e
    WHERE (e.tenant_id, e.account_id, e.feature_key, e.period_kind)
        = (k.tenant_id, k.account_id, k.feature_key, k.period_kind)
      AND e.period_start < k.period_start
    ORDER BY e.period_start DESC
    LIMIT 1
) AS b ON true
"""

_BALANCES: Final = """
SELECT k.ordinal, b.window_start, b.given_quantity, b.used_quantity,
    EXISTS (
        SELECT FROM grant_balances AS l
        WHERE (l.tenant_id, l.account_id, l.grant_id) = (k.tenant_id, k.account_id, k.grant_id)
          AND l.window_start > k.window_start
    )
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[])
    WITH ORDINALITY AS k(tenant_id, account_id, grant_id, window_start, ordinal)
LEFT JOIN LATERAL (
    SELECT * FROM grant_balances AS e
    WHERE (e.tenant_id, e.account_id, e.grant_id) = (k.tenant_id, k.account_id, k.grant_id)
      AND e.window_start <= k.window_start
    ORDER BY e.window_start DESC
    LIMIT 1 {locking}
) AS b ON true
"""
_READ_BALANCES: Final = _BALANCES.format(locking="")
_LOCK_BALANCES: Final = _BALANCES.format(locking="FOR UPDATE")

_ADD_BALANCES: Final = """
INSERT INTO grant_balances (
    tenant_id, account_id, grant_id, window_start, window_end, feature_key, given_quantity, used_quantity, update_time
)
SELECT *, $9 FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::bigint[], $8::bigint[]
)
"""

_SET_BALANCES: Final = """
UPDATE grant_balances AS b
SET used_quantity = k.used_quantity, update_time = $6
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[])
    AS k(tenant_id, account_id, grant_id, window_start, used_quantity)
WHERE (b.tenant_id, b.account_id, b.grant_id, b.window_start)
    = (k.tenant_id, k.account_id, k.grant_id, k.window_start)
"""

_RETURN_CREDITS: Final = """
UPDATE grant_balances AS b
SET used_quantity = b.used_quantity - k.quantity, update_time = $6
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[])
    AS k(tenant_id, account_id, grant_id, window_start, quantity)
WHERE (b.tenant_id, b.account_id, b.grant_id, b.window_start)
    = (k.tenant_id, k.account_id, k.grant_id, k.window_start)
"""


async def lock_chains(connection: asyncpg.Connection, counters: Iterable[CounterKey]) -> None:
    """Keep everybody else from beginning a period of these features until the transaction ends.

    Taken before any counter is locked, so that nobody who holds one waits here.
    """
    locks = sorted(
        int.from_bytes(
            hashlib.blake2b((_CHAIN_LOCK_SPACE + "\0".join(key[:4])).encode(), digest_size=8).digest(), signed=True
        )
        for key in {key._replace(period_start=EPOCH) for key in counters}
    )
    for lock in locks:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", lock)


async def read_chains(connection: asyncpg.Connection, counters: Sequence[CounterKey]) -> dict[CounterKey, CounterChain]:
    """Return each counter with those around it."""
    if not counters:
        return {}
    rows = await connection.fetch(_CHAIN, *(list(column) for column in zip(*counters, strict=True)))
    chains: dict[CounterKey, CounterChain] = {}
    for row in rows:
        _, used, reserved, credited, rolled_in, rolled_out, start, end, *before, later = row.values()
        chains[counters[row[0] - 1]] = CounterChain(
            totals=Totals(used, reserved, credited, rolled_in, rolled_out) if used is not None else None,
            before=PeriodBefore(start, *before) if start is not None else None,
            before_end=end,
            later=later,
        )
    return chains


async def find_balances(
    connection: asyncpg.Connection, keys: Sequence[CreditKey], *, lock: bool
) -> dict[CreditKey, FoundBalance]:
    """Return what is stored of the credits, which must be sorted by key; with `lock` nobody else changes it."""
    if not keys:
        return {}
    rows = await connection.fetch(
        _LOCK_BALANCES if lock else _READ_BALANCES, *(list(column) for column in zip(*keys, strict=True))
    )
    return {
        keys[row[0] - 1]: FoundBalance(StoredBalance(*row[1:4]) if row[1] is not None else None, row[4]) for row in rows
    }


async def write_balances(
    connection: asyncpg.Connection, balances: Mapping[CreditKey, tuple[str, CreditBalance]], at: datetime
) -> None:
    """Store the balances (feature key, balance) that have changed.

    One that somebody else has begun meanwhile raises UniqueViolationError: then everything is to be looked at again.
    """
    changed = sorted((key, *value) for key, value in balances.items() if value[1].changed)
    added = [each for each in changed if not each[2].stored and each[2].used]
    if added:
        await connection.execute(
            _ADD_BALANCES,
            *_key_columns(key for key, _, _ in added),
            [balance.window.end for _, _, balance in added],
            [feature_key for _, feature_key, _ in added],
            [balance.given for _, _, balance in added],
            [balance.used for _, _, balance in added],
            at,
        )
    stored = [each for each in changed if each[2].stored]
    if stored:
        await connection.execute(
            _SET_BALANCES,
            *_key_columns(key for key, _, _ in stored),
            [balance.used for _, _, balance in stored],
            at,
        )


async def return_credits(
    connection: asyncpg.Connection, returned: Sequence[tuple[CreditKey, int]], at: datetime
) -> None:
    """Give credits back what a reversal takes from those who used them; the counters are locked by then."""
    if returned:
        ordered = sorted(returned)
        await connection.execute(
            _RETURN_CREDITS, *_key_columns(key for key, _ in ordered), [quantity for _, quantity in ordered], at
        )


def _key_columns(keys: Iterable[CreditKey]) -> list[list[Any]]:
    return [list(column) for column in zip(*keys, strict=True)]
