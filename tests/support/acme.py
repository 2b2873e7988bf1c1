"""A tenant with a feature of every sort, services over it, and the audit of its books."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import asyncpg

from tallygate_server.catalog import Catalogs, CatalogSource
from tallygate_server.clock import Clock, SystemClock
from tallygate_server.domain.call import Check, Increment, IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, PlanKey, TenantId
from tallygate_server.domain.usage import EntryKind
from tallygate_server.errors import TallygateError
from tallygate_server.service import HotPathLimits, Service, open_service
from tallygate_server.storage.engine import CONNECTION_ERRORS, Database, DatabaseRole, connect
from tallygate_server.subscriptions import ChangeTiming
from tallygate_server.tenants import TenantDirectory
from tallygate_server.workers.hold_sweeper import ledger_key
from tests.support.eventually import eventually

ACME: Final = TenantId("acme")
GLOBEX: Final = TenantId("globex")
ANN: Final = AccountId("ann")
BOB: Final = AccountId("bob")

PATIENT: Final = HotPathLimits(commit_timeout_ms=60_000, redis_timeout_ms=10_000)
"""Stores are slow on a busy machine, and are waited for."""

_CATALOG: Final = """
tenant: {tenant}
default_plan: free
auto_provision: true
upgrade_url: https://{tenant}.example/upgrade?account={{account_id}}&feature={{feature_key}}
features:
  words: {{kind: counter}}
  ten: {{kind: counter}}
  none: {{kind: counter}}
  much: {{kind: counter}}
  endless: {{kind: counter}}
  soft: {{kind: counter}}
  hourly: {{kind: counter}}
  billed: {{kind: counter}}
  local: {{kind: counter}}
  open: {{kind: counter, failure_mode: open}}
  devices: {{kind: gauge}}
  export: {{kind: boolean}}
  history: {{kind: config}}
plans:
  free:
    rank: 0
    allowances:
      words: {{limit: 1000, period: day, thresholds: [50%, 80%, 100%]}}
      ten: {{limit: 10, period: day, thresholds: [80%, 100%, 7]}}
      none: {{limit: 0, period: day}}
      much: {{limit: 1000000000000000, period: lifetime}}
      endless: {{limit: unlimited, period: month}}
      soft: {{limit: 10, period: day, mode: soft, thresholds: [100%, 200%]}}
      hourly: {{limit: 100, period: hour}}
      billed: {{limit: 100, period: month, anchor: billing}}
      local: {{limit: 100, period: day, anchor: account_timezone}}
      open: {{limit: 10, period: day}}
      devices: 5
      export: on
      history: 30
  pro:
    rank: 1
    allowances:
      words: {{limit: 100000, period: day, thresholds: [50%, 80%, 100%]}}
      ten: {{limit: 20, period: day, thresholds: [80%, 100%]}}
      none: {{limit: 5, period: day}}
      devices: 50
      export: on
      history: 180
  bare:
    rank: 2
    allowances:
      words: {{limit: 5, period: day}}
      ten: {{limit: 1, period: day}}
      devices: 1
      export: off
      history: 1
"""


async def apply_catalog(database_url: str, tenant_id: TenantId = ACME) -> None:
    """Make the tenant known."""
    database = Database(database_url, pool_size=1)
    try:
        catalogs = Catalogs(database, TenantDirectory(database, SystemClock()), clock=SystemClock())
        await catalogs.apply(CatalogSource(_CATALOG.format(tenant=tenant_id)))
    finally:
        await database.close()


@asynccontextmanager
async def services(
    database_url: str,
    redis_url: str,
    count: int = 1,
    *,
    clock: Clock | None = None,
    **limits: Any,
) -> AsyncIterator[list[Service]]:
    """Open several servers' worth of use cases over the same stores, which are waited for unless told otherwise."""
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                open_service(
                    database_url=database_url, redis_url=redis_url, clock=clock, limits=replace(PATIENT, **limits)
                )
            )
            for _ in range(count)
        ]


def hurry(service: Service, commit_timeout_ms: int) -> None:
    """Let a server's commits wait no longer than this from now on."""
    timeout_s = commit_timeout_ms / 1_000
    service.ledger._commit_timeout_seconds = timeout_s
    service.meter._group._timeout_seconds = service.meter._exact._timeout_seconds = timeout_s


def an_increment(
    feature_key: str = "words", quantity: int = 1, *, account_id: str = ANN, tenant_id: str = ACME, **more: Any
) -> Increment:
    """Build an increment."""
    return Increment(TenantId(tenant_id), AccountId(account_id), FeatureKey(feature_key), quantity, **more)


def a_check(
    feature_key: str = "words", quantity: int = 1, *, account_id: str = ANN, tenant_id: str = ACME, **more: Any
) -> Check:
    """Build a check."""
    return Check(TenantId(tenant_id), AccountId(account_id), FeatureKey(feature_key), quantity, **more)


async def outcome_of(service: Service, increment: Increment) -> IncrementAnswer | TallygateError:
    """Count, and return the answer or the error."""
    return (await service.meter.increment_many([increment], atomic=False))[0]


async def change_plan(service: Service, plan: str, *, account_id: AccountId = ANN, tenant_id: TenantId = ACME) -> int:
    """Move the account to the plan, whatever the ranks; return the account's new revision."""
    view = await service.subscriptions.change_plan(
        tenant_id, account_id, plan_key=PlanKey(plan), timing=ChangeTiming.NOW
    )
    return view.revision


def allowed(outcomes: Sequence[IncrementAnswer | TallygateError]) -> list[IncrementAnswer]:
    """Return the answers that allow."""
    return [each for each in outcomes if isinstance(each, IncrementAnswer) and each.reason.allows]


def denied(outcomes: Sequence[IncrementAnswer | TallygateError]) -> list[IncrementAnswer]:
    """Return the answers that deny."""
    return [each for each in outcomes if isinstance(each, IncrementAnswer) and not each.reason.allows]


def failed(outcomes: Sequence[IncrementAnswer | TallygateError]) -> list[TallygateError]:
    """Return the errors."""
    return [each for each in outcomes if isinstance(each, TallygateError)]


# --- The audit ------------------------------------------------------------------------------------------


async def fetch(database_url: str, sql: str, *values: object) -> list[asyncpg.Record]:
    """Look into the usage tables of all tenants, as soon as Postgres answers: a test may have killed it."""
    connection = await eventually(lambda: connect(database_url, DatabaseRole.METER), ignore=CONNECTION_ERRORS)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(sql, *values)
        return rows
    finally:
        await connection.close()


async def used(database_url: str, feature_key: str, *, account_id: str = ANN, tenant_id: str = ACME) -> int:
    """Return what the ledger says of all periods of a feature."""
    rows = await fetch(
        database_url,
        "SELECT COALESCE(sum(quantity), 0)::bigint FROM usage_entries"
        " WHERE (tenant_id, account_id, feature_key) = ($1, $2, $3)",
        tenant_id,
        account_id,
        feature_key,
    )
    total: int = rows[0][0]
    return total


async def assert_books_balance(database_url: str) -> None:
    """Check every counter against its ledger entries, and every entry and request against each other."""
    counters = await fetch(database_url, "SELECT * FROM usage_counters")
    entries = await fetch(database_url, "SELECT * FROM usage_entries")
    requests = await fetch(database_url, "SELECT * FROM usage_requests")
    by_counter: defaultdict[tuple[object, ...], list[asyncpg.Record]] = defaultdict(list)
    for entry in entries:
        by_counter[_counter_key(entry)].append(entry)
    known = {_counter_key(counter): counter for counter in counters}
    await _assert_reservations_add_up(database_url, known)
    assert not by_counter.keys() - known.keys(), "entries without a counter"
    for key, counter in known.items():
        _check_counter(key, counter, by_counter[key])
    entries_by_id = {(entry["tenant_id"], entry["account_id"], entry["entry_id"]): entry for entry in entries}
    assert len(entries_by_id) == len(entries), "an entry was written twice"
    by_request = {
        (entry["tenant_id"], entry["account_id"], entry["request_id"]): entry
        for entry in entries
        if entry["request_id"] is not None
    }
    assert len(by_request) == sum(entry["request_id"] is not None for entry in entries), "a request counted twice"
    for request in requests:
        request_key = (request["tenant_id"], request["account_id"], request["request_id"])
        entry = by_request.get(request_key)
        if request["answer"] is not None and json.loads(request["answer"]).get("rpc") == "Reserve":
            # What it counts in the end is another matter; the line then carries its request id.
            if entry is not None:
                assert entry["reservation_id"] == json.loads(request["answer"])["reservation_id"]
            continue
        assert (request["entry_id"] is not None) == Reason(request["reason"]).allows
        if request["entry_id"] is None:
            assert entry is None, f"denied, yet counted: {request_key}"
        else:
            assert entry is not None, f"allowed, yet not counted: {request_key}"
            assert entry["entry_id"] == request["entry_id"]
            assert entry["used_after"] == request["used_quantity"]
            assert entry["quantity"] == request["quantity"]
    recorded = {(each["tenant_id"], each["account_id"], each["request_id"]) for each in requests}
    assert by_request.keys() <= recorded, "an entry whose request is not recorded"


async def _assert_reservations_add_up(database_url: str, counters: Mapping[tuple[object, ...], asyncpg.Record]) -> None:
    """Check that each counter carries the sum of its reservations, and that each committed one has its entry."""
    held: defaultdict[tuple[object, ...], list[asyncpg.Record]] = defaultdict(list)
    reservations = await fetch(database_url, "SELECT * FROM reservations")
    for row in reservations:
        assert (row["state"] == "held") == (row["close_time"] is None), f"{row} is neither held nor closed"
        if row["state"] == "held":
            held[_counter_key(row)].append(row)
    for key, counter in counters.items():
        expected = sum(row["quantity"] for row in held[key])
        assert counter["reserved_quantity"] == expected, f"{key}: counter and reservations differ"
        first = min((row["expire_time"] for row in held[key]), default=None)
        assert counter["reserve_expire_time"] == first, f"{key}: the earliest reservation ends at another time"
    entries = await fetch(database_url, "SELECT * FROM usage_entries WHERE reservation_id IS NOT NULL")
    counted = {
        (row["tenant_id"], row["account_id"], row["reservation_id"]): (row["entry_id"], row["quantity"])
        for row in entries
    }
    overrun = {row["reservation_id"] for row in entries if 0 <= row["limit_quantity"] < row["used_after"]}
    for row in reservations:
        if row["reservation_id"] in overrun:
            answer = json.loads(row["answer"])
            assert Reason(answer["reason"]) is Reason.OVERAGE, f"{row} is above its limit"
            assert answer["overdrawn_quantity"] or row["feature_key"] == "soft", f"{row} is above its limit"
    committed = {
        (row["tenant_id"], row["account_id"], row["reservation_id"]): (row["entry_id"], row["committed_quantity"])
        for row in reservations
        if row["entry_id"] is not None
    }
    assert counted == committed, "what reservations counted is not what the ledger has of them"


def _counter_key(row: asyncpg.Record) -> tuple[object, ...]:
    return tuple(row[name] for name in ("tenant_id", "account_id", "feature_key", "period_kind", "period_start"))


def _check_counter(key: tuple[object, ...], counter: asyncpg.Record, entries: list[asyncpg.Record]) -> None:
    assert counter["used_quantity"] == sum(entry["quantity"] for entry in entries), f"{key}: counter and ledger differ"
    for entry in entries:
        limit = entry["limit_quantity"]
        # What happened is counted, whatever the limit; a reservation may be overdrawn, and then says so.
        enforced = not entry["feature_key"].startswith("soft") and entry["kind"] == EntryKind.INCREMENT
        if limit >= 0 and entry["quantity"] > 0 and enforced:
            assert entry["used_after"] <= limit, f"{key}: {entry} is above its limit"
        assert entry["used_after"] >= 0, f"{key}: {entry} is below zero"
        assert entry["period_start"] <= entry["event_time"], f"{key}: {entry} happened before its period"
        end = counter["period_end"]
        assert end is None or entry["event_time"] < end, f"{key}: {entry} happened after its period"
    assert is_chain([(entry["used_after"], entry["quantity"]) for entry in entries]), f"{key}: used_after has gaps"


def is_chain(steps: list[tuple[int, int]]) -> bool:
    """Tell whether (total after, quantity) pairs are, in some order, the steps of one counter from zero on.

    With only rising steps the order is that of the totals. Gauges may revisit a total: then the steps are edges
    (before, after) of a walk from zero that uses every edge once.
    """
    if all(quantity > 0 for _, quantity in steps):
        total = 0
        for after, quantity in sorted(steps):
            if after != total + quantity:
                return False
            total = after
        return True
    # An Eulerian walk: in- and out-degrees agree but for the two ends, and all edges hang together.
    following: defaultdict[int, list[int]] = defaultdict(list)
    balance: defaultdict[int, int] = defaultdict(int)
    for after, quantity in steps:
        following[after - quantity].append(after)
        balance[after - quantity] += 1
        balance[after] -= 1
    end = sum(quantity for _, quantity in steps)
    balance[0] -= 1
    balance[end] += 1
    if any(balance.values()):
        return False
    walked, stack = 0, [0]
    while stack:
        if following[stack[-1]]:
            stack.append(following[stack[-1]].pop())
            walked += 1
        else:
            stack.pop()
    return walked == len(steps)


async def redis_counters(service: Service) -> dict[str, dict[str, str]]:
    """Return every counter hash that Redis has."""
    keys = [key.decode() for key in await service.redis.execute("KEYS", "tg:*")]
    counters = {}
    for key in keys:
        if "}:" in key:
            flat = [part.decode() for part in await service.redis.execute("HGETALL", key)]
            counters[key] = dict(zip(flat[::2], flat[1::2], strict=True))
    return counters


async def assert_redis_agrees(
    service: Service, database_url: str, *, sweeping: bool = False, in_doubt: Collection[tuple[str, str]] = ()
) -> None:
    """Wait until Redis holds nothing for anybody and every counter it knows is Postgres'.

    With `sweeping` the sweeper helps, as it must for calls whose outcome was not known. Counters `in_doubt`, by account
    and feature, may be behind: a server that died between a commit without a hold and its settlement told nobody.
    """

    async def agrees() -> bool:
        if sweeping:
            await service.sweeper.sweep()
        rows = {_counter_key(row): row for row in await fetch(database_url, "SELECT * FROM usage_counters")}
        totals = {key: row["used_quantity"] for key, row in rows.items()}
        reserved = {key: row["reserved_quantity"] for key, row in rows.items()}
        for key, state in (await redis_counters(service)).items():
            counter = ledger_key(key)
            expected = reserved.get(tuple(counter), 0)
            assert int(state.get("h", 0)) == int(state.get("r", 0)) == expected, f"{key} holds other than {expected}"
            assert not [name for name in state if name.startswith("h:")], f"{key} still holds {state}"
            if (counter[1], counter[2]) not in in_doubt:
                assert int(state["c"]) == totals.get(tuple(counter), 0), f"{key} is off: {state}"
        registries = await service.redis.execute("KEYS", "tg:holds:*")
        assert registries == [], registries
        return True

    await eventually(agrees)
