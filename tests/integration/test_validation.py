"""What a validation sees of books that were tampered with, place by place, and of books that are merely busy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, FeatureKey
from tallygate_server.errors import AccountNotFound, Overloaded, TenantNotFound
from tallygate_server.grants import NewGrant
from tallygate_server.grants.rules import AskedKind
from tallygate_server.reservations import Commit, Reserve
from tallygate_server.service import Service
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.validation import (
    ACCOUNTS_PER_PAGE_MAX,
    Difference,
    DifferencePlace,
    ValidationProgress,
    ValidationTotals,
    ValidationUpdate,
    validator,
)
from tests.support.acme import (
    ACME,
    ANN,
    BOB,
    GLOBEX,
    an_increment,
    apply_catalog,
    change_plan,
    fetch,
    outcome_of,
    redis_counters,
    services,
)


@pytest.fixture
async def service(acme_database: str, fresh_redis: str) -> AsyncIterator[Service]:
    async with services(acme_database, fresh_redis) as [running]:
        await outcome_of(running, an_increment("words", 7))
        await outcome_of(running, an_increment("ten", 3, account_id=BOB))
        yield running


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing that will not come."""
    monkeypatch.setattr(validator, "CATCH_UP_SECONDS_MAX", 0.2)


async def validated(service: Service, **wanted: Any) -> list[ValidationUpdate]:
    async with aclosing(service.validations.validate(**wanted)) as updates:
        return [update async for update in updates]


def differences(updates: Sequence[ValidationUpdate]) -> list[Difference]:
    return [update for update in updates if isinstance(update, Difference)]


def totals(updates: Sequence[ValidationUpdate]) -> ValidationTotals:
    last = updates[-1]
    assert isinstance(last, ValidationTotals)
    return last


async def tamper(database_url: str, sql: str, *values: object) -> None:
    """Change rows behind everybody's back."""
    connection = await connect(database_url, DatabaseRole.METER)
    try:
        await connection.execute(sql, *values)
    finally:
        await connection.close()


async def tamper_as_application(database_url: str, sql: str, *values: object) -> None:
    """Change rows of the tenant that the meter does not reach; no trigger takes note."""
    connection: asyncpg.Connection = await connect(database_url, DatabaseRole.APP)
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('tallygate.tenant_id', $1, true)", ACME)
            await connection.execute("SELECT set_config('tallygate.change', 'own', true)")
            await connection.execute(sql, *values)
    finally:
        await connection.close()


async def counter_key(service: Service, feature_key: str, account_id: str = ANN) -> str:
    """Return the only counter of the feature that Redis has."""
    [found] = [key for key in await redis_counters(service) if f"/{account_id}}}:{feature_key}:" in key]
    return found


async def repaired(service: Service, actor: str = "tester") -> list[Difference]:
    """Repair; what was found must be repaired, and a second look find nothing."""
    updates = await validated(service, repair=True, actor=actor)
    found = differences(updates)
    assert all(difference.repaired for difference in found)
    assert totals(updates).repaired_count == totals(updates).difference_count == len(found)
    assert differences(await validated(service)) == []
    return found


async def audited(database_url: str) -> list[dict[str, Any]]:
    connection = await connect(database_url, DatabaseRole.READER)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", ACME)
        rows = await connection.fetch(
            "SELECT actor, subject, detail FROM audit_entries WHERE action = 'entitlements.repair' ORDER BY audit_id"
        )
        return [{**dict(row), "detail": json.loads(row["detail"])} for row in rows]
    finally:
        await connection.close()


async def test_books_that_nobody_tampered_with_show_no_difference(service: Service) -> None:
    updates = await validated(service)

    assert differences(updates) == []
    assert totals(updates) == ValidationTotals(account_count=2, counter_count=2, entry_count=2)
    assert updates[0] == ValidationProgress(account_count=0, account_count_total=2)
    assert updates[-2] == ValidationProgress(account_count=2, account_count_total=2)


@pytest.mark.usefixtures("_impatient")
async def test_a_counter_that_is_not_the_sum_of_its_ledger_is_set_to_it(service: Service, acme_database: str) -> None:
    key = await counter_key(service, "words")
    await tamper(
        acme_database,
        "UPDATE usage_counters SET used_quantity = 900, version = version + 1 WHERE feature_key = 'words'",
    )

    found = differences(await validated(service, tenant_id=ACME, account_id=ANN))
    [first, *_] = found
    done = await repaired(service)

    assert (first.place, first.feature_key, first.repaired) == (DifferencePlace.COUNTER, "words", False)
    assert (first.expected["used"], first.actual["used"]) == (7, 900)
    assert done[0].place is DifferencePlace.COUNTER
    # Redis had another total, too: it has the right one now, or none.
    assert (await redis_counters(service)).get(key, {"c": "7"})["c"] == "7"
    [entry, *_] = await audited(acme_database)
    assert (entry["actor"], entry["subject"]) == ("tester", "account:ann")
    assert entry["detail"]["actual"]["used"] == 900
    answer = await outcome_of(service, an_increment("words", 1))
    assert getattr(answer, "used_quantity", None) == 8


@pytest.mark.usefixtures("_impatient")
async def test_a_counter_without_a_row_is_made_again(service: Service, acme_database: str) -> None:
    [row] = await fetch(acme_database, "SELECT * FROM usage_counters WHERE feature_key = 'words'")
    connection = await connect(acme_database)
    try:
        # Only the owner may delete counters, and only where its own rules let it.
        await connection.execute("ALTER TABLE usage_counters NO FORCE ROW LEVEL SECURITY")
        await connection.execute("DELETE FROM usage_counters WHERE feature_key = 'words'")
        await connection.execute("ALTER TABLE usage_counters FORCE ROW LEVEL SECURITY")
    finally:
        await connection.close()

    done = await repaired(service)

    assert DifferencePlace.COUNTER in {difference.place for difference in done}
    [again] = await fetch(acme_database, "SELECT * FROM usage_counters WHERE feature_key = 'words'")
    assert (again["used_quantity"], again["period_end"]) == (7, row["period_end"])


@pytest.mark.usefixtures("_impatient")
async def test_a_counter_that_claims_reservations_that_nobody_has_is_corrected(
    service: Service, acme_database: str
) -> None:
    await tamper(
        acme_database,
        "UPDATE usage_counters SET reserved_quantity = 5, version = version + 1 WHERE feature_key = 'words'",
    )

    [first, *_] = differences(await validated(service))
    await repaired(service)

    assert (first.place, first.expected["reserved"], first.actual["reserved"]) == (DifferencePlace.HOLDS, 0, 5)
    [row] = await fetch(acme_database, "SELECT * FROM usage_counters WHERE feature_key = 'words'")
    assert row["reserved_quantity"] == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"c": "2"}, {"used": 7}),
        ({"v": "99"}, {"version": 1}),
        ({"c": "500", "v": "99"}, {"used": 7, "version": 1}),
    ],
    ids=["another total", "a later version", "both"],
)
async def test_a_counter_in_redis_that_postgres_never_told_is_forgotten(
    service: Service, fields: dict[str, str], expected: dict[str, int]
) -> None:
    key = await counter_key(service, "words")
    await service.redis.execute("HSET", key, *(part for pair in fields.items() for part in pair))

    [found] = differences(await validated(service))
    [done] = await repaired(service)

    assert found.place is done.place is DifferencePlace.CACHED_COUNTER
    assert {name: found.expected[name] for name in expected} == expected
    answer = await outcome_of(service, an_increment("words", 1))
    assert getattr(answer, "used_quantity", None) == 8


@pytest.mark.usefixtures("_impatient")
async def test_a_counter_in_redis_that_stays_behind_is_forgotten(service: Service) -> None:
    key = await counter_key(service, "words")
    before = (await redis_counters(service))[key]
    await outcome_of(service, an_increment("words", 1))
    await service.redis.execute("HSET", key, "c", before["c"], "v", before["v"])

    [found] = differences(await validated(service))
    await repaired(service)

    assert (found.place, found.expected["used"], found.actual["used"]) == (DifferencePlace.CACHED_COUNTER, 8, 7)


async def test_a_hold_that_nobody_will_end_is_ended(service: Service) -> None:
    key = await counter_key(service, "words")
    await service.redis.execute("HSET", key, "h", "4", "h:nobody:1", "4")

    [found] = differences(await validated(service))
    await repaired(service)

    assert (found.place, found.actual["by_nobody"]) == (DifferencePlace.HOLDS, 4)


async def test_a_sum_of_holds_that_is_none_is_corrected(service: Service) -> None:
    await service.redis.execute("HSET", await counter_key(service, "words"), "h", "4")

    [found] = differences(await validated(service))
    await repaired(service)

    assert (found.place, found.expected["held"], found.actual["held"]) == (DifferencePlace.HOLDS, 0, 4)


async def test_sources_in_redis_that_are_not_those_of_postgres_are_forgotten(
    service: Service, acme_database: str
) -> None:
    key = service.counters.account_key(ACME, ANN)
    await service.hot_accounts.load(ACME, ANN, ask_redis=True)
    told = json.loads((await service.counters.look(key))["src"])
    told["state"] = "suspended"
    await service.redis.execute("HSET", key, "src", json.dumps(told))

    [found] = differences(await validated(service))
    await repaired(service)

    assert (found.place, found.feature_key) == (DifferencePlace.SNAPSHOT, "")
    assert (found.expected["where"], found.expected["state"], found.actual["state"]) == ("redis", "active", "suspended")
    assert await service.counters.look(key) == {}


async def test_a_revision_in_redis_that_is_not_reached_yet_is_forgotten(service: Service) -> None:
    key = service.counters.account_key(ACME, ANN)
    await service.redis.execute("HSET", key, "rev", "77")

    [found] = differences(await validated(service))
    await repaired(service)

    assert (found.place, found.actual["revision"]) == (DifferencePlace.SNAPSHOT, 77)


@pytest.mark.usefixtures("_impatient")
async def test_a_revision_in_redis_that_stays_behind_is_forgotten(service: Service) -> None:
    key = service.counters.account_key(ACME, ANN)
    await change_plan(service, "pro")
    await service.redis.execute("HSET", key, "rev", "1")

    [found] = differences(await validated(service))
    await repaired(service)

    assert (found.place, found.actual["revision"]) == (DifferencePlace.SNAPSHOT, 1)


async def test_an_account_that_the_process_has_in_another_form_is_dropped(service: Service) -> None:
    cached = service.hot_accounts.cached(ACME, ANN)
    assert cached is not None
    object.__setattr__(cached.sources, "state", AccountState.SUSPENDED)

    [found] = differences(await validated(service))
    await repaired(service)

    assert (found.place, found.actual["where"]) == (DifferencePlace.SNAPSHOT, "process")
    assert service.hot_accounts.cached(ACME, ANN) is None


async def test_what_cannot_be_repaired_is_said_to_remain_and_is_not_audited(
    service: Service, acme_database: str
) -> None:
    # Of an entry that names a credit nobody knows there is no balance to repair.
    await tamper(
        acme_database,
        "INSERT INTO usage_entries (tenant_id, account_id, entry_id, recorded_time, feature_key, period_kind,"
        " period_start, quantity, used_after, limit_quantity, event_time, credits)"
        " SELECT tenant_id, account_id, 1, recorded_time, feature_key, period_kind, period_start, 0, 7, 10, event_time,"
        " '[[\"nobody\", \"2026-01-01T00:00:00+00:00\", 3]]' FROM usage_entries WHERE feature_key = 'words'",
    )

    updates = await validated(service, repair=True)

    remaining = [each for each in differences(updates) if not each.repaired]
    assert [each.expected.get("grant_id") for each in remaining] == ["nobody"]
    assert totals(updates).difference_count == totals(updates).repaired_count + 1
    assert all(entry["detail"]["expected"].get("grant_id") is None for entry in await audited(acme_database))
    await tamper(acme_database, "UPDATE usage_counters SET credited_quantity = 0")
    connection = await connect(acme_database)
    try:
        await connection.execute("ALTER TABLE usage_entries NO FORCE ROW LEVEL SECURITY")
        await connection.execute("DELETE FROM usage_entries WHERE credits IS NOT NULL")
        await connection.execute("ALTER TABLE usage_entries FORCE ROW LEVEL SECURITY")
    finally:
        await connection.close()


async def test_a_busy_system_shows_no_difference(service: Service, acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis) as [other]:
        stop = asyncio.Event()
        for number in range(3):
            account_id = AccountId(f"busy{number}")
            await service.accounts.identify(ACME, [], account_id=account_id)
            credit = NewGrant(
                feature_key=FeatureKey("ten"), kind=AskedKind.PURCHASE, credit_quantity=40, reason="for a test"
            )
            await service.grants.create(ACME, account_id, credit)

        async def reserve(busy: Service, account_id: AccountId, *, ends: bool) -> None:
            held = await busy.reservations.reserve(
                Reserve(
                    tenant_id=ACME,
                    account_id=account_id,
                    feature_key=FeatureKey("ten"),
                    quantity=2,
                    ttl=timedelta(hours=1),
                )
            )
            if held.reservation is not None and ends:
                await busy.reservations.commit(
                    Commit(
                        tenant_id=ACME,
                        account_id=account_id,
                        reservation_id=held.reservation.reservation_id,
                        quantity=1,
                    )
                )

        async def write(number: int) -> None:
            busy = (service, other)[number % 2]
            account_id = AccountId(f"busy{number % 3}")
            count = 0
            while not stop.is_set():
                count += 1
                await busy.meter.increment_many(
                    [an_increment(key, 1, account_id=account_id) for key in ("words", "devices", "endless", "ten")],
                    atomic=False,
                )
                await busy.meter.increment_many([an_increment("devices", -1, account_id=account_id)], atomic=False)
                await reserve(busy, account_id, ends=count % 3 > 0)
                if count % 5 == 0:
                    await change_plan(busy, ("free", "pro")[count // 5 % 2], account_id=account_id)

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(write(number))
            try:
                updates = await validated(service, repair=True)
                found: list[Difference] = differences(updates)
                for _ in range(7):
                    updates = await validated(service, repair=True)
                    found += differences(updates)
            finally:
                stop.set()

        assert found == []
        assert totals(updates).account_count == 5


async def test_all_tenants_or_one_or_one_account_are_examined_in_pages(
    service: Service, acme_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validator, "ACCOUNTS_PER_PAGE_MAX", 2)
    await apply_catalog(acme_database, GLOBEX)
    await service.meter.increment_many(
        [an_increment("words", account_id=f"g{n}", tenant_id=GLOBEX) for n in range(5)], atomic=False
    )

    everything = await validated(service)
    globex = await validated(service, tenant_id=GLOBEX)
    one = await validated(service, tenant_id=GLOBEX, account_id="g3")

    assert [totals(updates).account_count for updates in (everything, globex, one)] == [7, 5, 1]
    progress = [update.account_count for update in globex if isinstance(update, ValidationProgress)]
    assert progress == [0, 2, 4, 5]
    assert ACCOUNTS_PER_PAGE_MAX == 100


async def test_one_validation_runs_at_a_time_and_ends_when_nobody_listens(service: Service) -> None:
    first = service.validations.validate()
    await anext(first)

    with pytest.raises(Overloaded):
        await validated(service)
    await first.aclose()

    assert differences(await validated(service)) == []


async def test_unknown_tenants_and_accounts_are_said_to_be_unknown(service: Service) -> None:
    with pytest.raises(TenantNotFound):
        await validated(service, tenant_id="nobody")
    with pytest.raises(AccountNotFound):
        await validated(service, tenant_id=ACME, account_id="nobody")
