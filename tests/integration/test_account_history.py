"""What decided an account's entitlements is known for every instant, and it is known where it is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from tallygate_server.accounts import AccountUpdate
from tallygate_server.domain.entitlement import AccountSources, AccountState
from tallygate_server.domain.identifier import AccountId
from tallygate_server.storage import account_history
from tallygate_server.storage.account_history import AccountHistory
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.storage.sources import read_documents, sources_from_document
from tests.support.use_cases import LEKHAK, UseCases, example, use_cases

ANNA, NOBODY = AccountId("anna"), AccountId("nobody")
HOUR = timedelta(hours=1)


@pytest.fixture
async def world(database_without_tenants: str) -> AsyncIterator[UseCases]:
    async with use_cases(database_without_tenants) as running:
        await running.catalogs.apply(example("lekhak"))
        yield running


async def create(world: UseCases, account_id: AccountId = ANNA) -> None:
    await world.accounts.identify(LEKHAK, [], account_id=account_id)


async def now(world: UseCases, account_id: AccountId = ANNA) -> AccountSources:
    """Read what decides now."""
    connection = await connect(world.url, DatabaseRole.APP)
    try:
        documents = await read_documents(connection, LEKHAK, [account_id], world.clock.now())
    finally:
        await connection.close()
    return sources_from_document(LEKHAK, account_id, documents[account_id][1])


async def at(world: UseCases, instant: datetime, account_id: AccountId = ANNA) -> tuple[AccountSources | None, bool]:
    async with world.database.tenant_transaction(LEKHAK) as connection:
        return await account_history.sources_at(connection, LEKHAK, account_id, instant)


async def between(world: UseCases, start: datetime, end: datetime, account_id: AccountId = ANNA) -> AccountHistory:
    async with world.database.tenant_transaction(LEKHAK) as connection:
        history = await account_history.revisions_between(connection, LEKHAK, account_id, start, end)
    assert history is not None
    return history


async def by_hand(world: UseCases, sql: str, *values: object) -> None:
    """Change rows as somebody at a console would."""
    connection = await connect(world.url, DatabaseRole.APP)
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('tallygate.tenant_id', $1, true)", LEKHAK)
            await connection.execute(sql, *values)
    finally:
        await connection.close()


async def forget(world: UseCases, account_id: AccountId = ANNA) -> None:
    """Let an account be older than its history."""
    connection = await connect(world.url)
    try:
        async with connection.transaction():
            # Row-level security keeps even the owner from a tenant's rows.
            await connection.execute("ALTER TABLE account_revisions NO FORCE ROW LEVEL SECURITY")
            await connection.execute("DELETE FROM account_revisions WHERE account_id = $1", account_id)
            await connection.execute("ALTER TABLE account_revisions FORCE ROW LEVEL SECURITY")
    finally:
        await connection.close()


async def lived(world: UseCases) -> dict[datetime, AccountSources]:
    """Let an account change in every way, and note what decided right after each change and an hour after it."""
    seen = {}

    async def note() -> None:
        seen[world.clock.now()] = await now(world)
        world.clock.advance(HOUR)
        seen[world.clock.now()] = await now(world)
        world.clock.advance(HOUR)

    await create(world)
    await note()
    await world.accounts.suspend(LEKHAK, ANNA)
    await note()
    await world.accounts.suspend(LEKHAK, ANNA, suspend=False)
    await note()
    await world.accounts.update(LEKHAK, ANNA, AccountUpdate(time_zone="Asia/Tokyo"))
    await note()
    return seen


async def test_what_decided_at_every_instant_is_known_afterwards(world: UseCases) -> None:
    seen = await lived(world)

    for instant, sources in seen.items():
        assert await at(world, instant) == (sources, True)
    states = [sources.state for sources in seen.values()]
    assert AccountState.SUSPENDED in states
    assert len({sources.revision for sources in seen.values()}) == 4


async def test_a_new_account_begins_with_its_first_revision_and_was_not_there_before(world: UseCases) -> None:
    await create(world)
    begun = world.clock.now()

    assert await at(world, begun - timedelta(microseconds=1)) == (None, True)
    first, complete = await at(world, begun)
    assert first == await now(world)
    assert complete
    assert await at(world, begun, AccountId("nobody")) == (None, True)


async def test_the_row_the_event_and_the_audit_are_of_one_transaction(world: UseCases) -> None:
    await create(world)
    world.clock.advance(HOUR)
    await world.accounts.suspend(LEKHAK, ANNA, reason="unpaid")

    rows = await world.fetch("SELECT revision, begin_time, cause FROM account_revisions ORDER BY revision")
    events = await world.fetch(
        "SELECT type, revision, create_time, payload->>'cause' AS cause FROM outbox_events"
        " WHERE account_id = 'anna' ORDER BY event_id"
    )

    assert [(row["revision"], row["cause"]) for row in rows] == [(2, "account.created"), (3, "account.suspend")]
    assert rows[1]["begin_time"] == world.clock.now()
    assert [event["type"] for event in events[-2:]] == ["account.suspend", "entitlement.changed"]
    assert {event["create_time"] for event in events[-2:]} == {world.clock.now()}
    assert (events[-1]["revision"], events[-1]["cause"]) == (3, "account.suspend")


async def test_a_change_that_fails_leaves_no_revision(world: UseCases) -> None:
    await create(world)

    with pytest.raises(RuntimeError):
        async with world.changes.begin(LEKHAK, [ANNA], actor="test", cause="broken"):
            raise RuntimeError

    assert len(await world.fetch("SELECT 1 FROM account_revisions")) == 1


async def test_one_change_of_many_accounts_stores_a_revision_of_each(world: UseCases) -> None:
    accounts = [AccountId(f"account-{n:03d}") for n in range(300)]
    for account_id in accounts[::100]:
        await create(world, account_id)
    await by_hand(
        world,
        "INSERT INTO accounts (tenant_id, account_id, create_time)"
        " SELECT $1, id, $3 FROM unnest($2::text[]) AS t(id) ON CONFLICT DO NOTHING",
        LEKHAK,
        accounts,
        world.clock.now(),
    )

    async with world.changes.begin(LEKHAK, accounts, actor="test", cause="catalog.applied") as change:
        pass

    rows = await world.fetch("SELECT account_id, revision FROM account_revisions WHERE cause = 'catalog.applied'")
    assert {row["account_id"]: row["revision"] for row in rows} == change.revisions
    assert len(rows) == 300


async def test_of_revisions_of_one_instant_the_highest_counts(world: UseCases) -> None:
    await create(world)
    await world.accounts.suspend(LEKHAK, ANNA)
    await world.accounts.suspend(LEKHAK, ANNA, suspend=False)

    sources, complete = await at(world, world.clock.now())

    assert sources == await now(world)
    assert complete


async def test_a_clock_that_is_behind_lets_no_revision_come_back(world: UseCases) -> None:
    await create(world)
    begun = world.clock.now()
    world.clock.advance(2 * HOUR)
    await world.accounts.suspend(LEKHAK, ANNA)
    world.clock.set(begun + HOUR)
    await world.accounts.suspend(LEKHAK, ANNA, suspend=False)
    history = await between(world, begun, begun + 5 * HOUR)

    for instant in (begun + HOUR, begun + 2 * HOUR, begun + 3 * HOUR):
        sources, complete = await at(world, instant)
        assert sources is not None
        assert (sources.revision, complete) == (4, True)
        assert history.sources_at(instant) == sources
    assert [revision.revision for revision in history.revisions] == [2, 4]


async def test_a_change_by_hand_is_a_gap_that_is_noticed_until_the_next_change(world: UseCases) -> None:
    await create(world)
    first = world.clock.now()
    world.clock.advance(HOUR)
    await by_hand(world, "UPDATE accounts SET state = 'suspended' WHERE account_id = 'anna'")
    assert (await at(world, first))[1] is False
    world.clock.advance(HOUR)
    await world.accounts.update(LEKHAK, ANNA, AccountUpdate(time_zone="Asia/Tokyo"))
    later = world.clock.now()
    world.clock.advance(HOUR)
    history = await between(world, first, later + HOUR)
    history_since = await between(world, later, later + HOUR)

    sources, complete = await at(world, later - timedelta(microseconds=1))
    assert sources is not None
    assert (sources.revision, complete) == (2, False)
    sources, complete = await at(world, later)
    assert sources is not None
    assert (sources.revision, sources.state, complete) == (4, AccountState.SUSPENDED, True)
    assert (history.complete, history_since.complete) == (False, True)


async def test_an_account_older_than_the_history_is_told_as_it_is_now_or_as_it_was_first_known(
    world: UseCases,
) -> None:
    await create(world)
    begun = world.clock.now()
    await forget(world)
    world.clock.advance(HOUR)
    history = await between(world, begun, world.clock.now())

    assert await at(world, begun) == (await now(world), False)
    assert await at(world, begun - HOUR) == (None, True)
    assert (history.complete, history.sources_at(begun)) == (False, await now(world))
    assert history.sources_at(begun - HOUR) is None

    await world.accounts.suspend(LEKHAK, ANNA)
    first_known = await now(world)
    changed = world.clock.now()
    world.clock.advance(HOUR)
    await world.accounts.suspend(LEKHAK, ANNA, suspend=False)

    assert await at(world, begun) == (first_known, False)
    assert await at(world, changed) == (first_known, True)
    history = await between(world, begun, changed)
    assert (history.complete, history.sources_at(begun)) == (False, first_known)
    assert (await between(world, changed, changed + HOUR)).complete


async def test_histories_tell_every_account_in_order_in_pages_as_asked_one_by_one(world: UseCases) -> None:
    start = world.clock.now()
    accounts = [AccountId(f"account-{n}") for n in range(6)]
    instants = []
    for round_ in range(3):
        for n, account_id in enumerate(accounts):
            if n == round_ * 2:
                await create(world, account_id)
            elif n < round_ * 2 and n % 2 == 0:
                await world.accounts.suspend(LEKHAK, account_id, suspend=(round_ + n) % 2 == 0)
            instants.append(world.clock.now())
            world.clock.advance(HOUR)
    for account_id in accounts[1::2]:
        await create(world, account_id)
    await forget(world, accounts[2])

    for first, last in ((start, world.clock.now()), (instants[5], instants[15]), (start - HOUR, instants[0])):
        told = [
            history
            async for history in account_history.histories(world.database, LEKHAK, first, last, accounts_per_read=2)
        ]

        assert [history.account_id for history in told] == accounts
        for history in told:
            assert history == await between(world, first, last, history.account_id)
            singly = [await at(world, instant, history.account_id) for instant in instants if first <= instant < last]
            alike = [history.sources_at(instant) for instant in instants if first <= instant < last]
            assert alike == [sources for sources, _ in singly]
            assert history.complete == all(complete for _, complete in singly)
    some = [
        history.account_id
        async for history in account_history.histories(
            world.database, LEKHAK, start, world.clock.now(), account_ids=accounts[3:5]
        )
    ]
    assert some == accounts[3:5]


async def test_revisions_after_one_come_in_order_and_bounded(world: UseCases) -> None:
    await lived(world)

    async with world.database.tenant_transaction(LEKHAK) as connection:
        both, rest = [
            (await account_history.revisions_after(connection, LEKHAK, {ANNA: known, NOBODY: 0}, limit=2))[ANNA]
            for known in (2, 4)
        ]

    assert [(each.revision, each.cause) for each in both] == [(3, "account.suspend"), (4, "account.reinstate")]
    assert [(each.revision, each.cause) for each in rest] == [(5, "account.time_zone")]
    assert both[0].sources.state is AccountState.SUSPENDED
