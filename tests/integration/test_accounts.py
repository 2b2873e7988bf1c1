from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tallygate_server.accounts import Account, AccountUpdate, Identity
from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.limits import IDENTITIES_PER_ACCOUNT_MAX
from tallygate_server.domain.subscription import BillingProvider, SubscriptionState
from tallygate_server.errors import (
    AccountDeleted,
    AccountNotFound,
    IdentityConflict,
    InvalidRequest,
    TenantNotFound,
)
from tallygate_server.storage.accounts import write_account
from tallygate_server.subscriptions import NewSubscription
from tests.support.use_cases import LEKHAK, UseCases, example, use_cases

ANNA = AccountId("anna")
FITNESS = TenantId("technically-fit")
INSTALLATION = Identity("extension", "0b9f6c3e")
MAIL = Identity("email", "anna@example.com")


@pytest.fixture
async def world(database_without_tenants: str) -> AsyncIterator[UseCases]:
    async with use_cases(database_without_tenants) as running:
        await running.catalogs.apply(example("lekhak"))
        await running.catalogs.apply(example("technically-fit"))
        yield running


async def plans_of(world: UseCases, account: Account) -> list[str]:
    found = await world.subscriptions.list(account.tenant_id, account_id=account.account_id, limit=10)
    return [view.subscription.plan_key for view in found]


# --- Provisioning -----------------------------------------------------------------------------------------


async def test_an_unknown_account_starts_on_the_default_plan_where_the_tenant_allows(world: UseCases) -> None:
    assert await world.accounts.provision(LEKHAK, ANNA)

    account = await world.accounts.get(LEKHAK, ANNA)
    (view,) = await world.subscriptions.list(LEKHAK, account_id=ANNA, limit=10)
    assert account.state is AccountState.ACTIVE
    assert view.subscription.plan_key == "free"
    assert view.subscription.state is SubscriptionState.ACTIVE
    assert view.subscription.provider is BillingProvider.NONE
    assert view.subscription.interval is None
    assert view.end_time is None
    assert world.marks.revisions[LEKHAK, ANNA] == account.revision == 2
    assert not world.marks.changing


async def test_an_unknown_account_stays_unknown_where_the_tenant_does_not_allow(world: UseCases) -> None:
    assert not await world.accounts.provision(FITNESS, ANNA)

    with pytest.raises(AccountNotFound):
        await world.accounts.get(FITNESS, ANNA)


async def test_provisioning_a_known_account_changes_nothing(world: UseCases) -> None:
    await world.accounts.provision(LEKHAK, ANNA)
    before = await world.accounts.get(LEKHAK, ANNA)

    assert await world.accounts.provision(LEKHAK, ANNA)

    assert await world.accounts.get(LEKHAK, ANNA) == before


async def test_an_account_of_a_tenant_without_provisioning_is_known_once_it_exists(world: UseCases) -> None:
    await world.accounts.identify(FITNESS, [MAIL], account_id=ANNA)

    assert await world.accounts.provision(FITNESS, ANNA)


async def test_two_servers_that_provision_one_account_make_one(world: UseCases, database_without_tenants: str) -> None:
    async with use_cases(database_without_tenants) as other:
        outcomes = await asyncio.gather(
            *(side.accounts.provision(LEKHAK, ANNA) for side in (world, other) for _ in range(5))
        )

        assert all(outcomes)
        assert not world.marks.changing
        assert not other.marks.changing
    assert await plans_of(world, await world.accounts.get(LEKHAK, ANNA)) == ["free"]
    created = await world.fetch("SELECT count(*) FROM outbox_events WHERE type = 'account.created'")
    assert created == [{"count": 1}]


async def test_provisioning_names_an_unknown_tenant(world: UseCases) -> None:
    with pytest.raises(TenantNotFound):
        await world.accounts.provision(TenantId("nobody"), ANNA)


# --- Identifying ------------------------------------------------------------------------------------------


async def test_a_new_identity_makes_an_account_with_an_id_of_ours(world: UseCases) -> None:
    account, created = await world.accounts.identify(
        LEKHAK, [INSTALLATION], time_zone="Asia/Kolkata", preferences={"theme": "dark"}, metadata={"v": "1"}
    )

    assert created
    assert re.fullmatch("acc_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", account.account_id)
    assert account.identities == (INSTALLATION,)
    assert account.time_zone == "Asia/Kolkata"
    assert account.preferences == {"theme": "dark"}
    assert account.metadata == {"v": "1"}
    assert account.last_seen_time == world.clock.now()
    assert await plans_of(world, account) == ["free"]
    assert account == await world.accounts.get(LEKHAK, account.account_id)


async def test_an_identity_finds_its_account_again(world: UseCases) -> None:
    first, _ = await world.accounts.identify(LEKHAK, [INSTALLATION])

    second, created = await world.accounts.identify(LEKHAK, [INSTALLATION])

    assert not created
    assert second == first
    assert await world.accounts.find(LEKHAK, INSTALLATION) == first


async def test_an_email_given_later_is_linked_and_finds_the_account_from_another_installation(world: UseCases) -> None:
    anonymous, _ = await world.accounts.identify(LEKHAK, [INSTALLATION])
    world.clock.advance(dt.timedelta(hours=1))
    known, _ = await world.accounts.identify(LEKHAK, [INSTALLATION], email="Anna@Example.com")
    elsewhere = Identity("extension", "other-browser")

    found, created = await world.accounts.identify(LEKHAK, [elsewhere], email="ANNA@example.COM")

    assert not created
    assert found.account_id == known.account_id == anonymous.account_id
    assert found.identities == (INSTALLATION, MAIL, elsewhere)
    assert found.email == "Anna@Example.com"


async def test_identities_of_different_accounts_are_refused_and_change_nothing(world: UseCases) -> None:
    first, _ = await world.accounts.identify(LEKHAK, [INSTALLATION])
    await world.accounts.identify(LEKHAK, [Identity("clerk", "user_2")])

    with pytest.raises(IdentityConflict, match=first.account_id):
        await world.accounts.identify(LEKHAK, [INSTALLATION, Identity("clerk", "user_2"), MAIL])

    with pytest.raises(AccountNotFound):
        await world.accounts.find(LEKHAK, MAIL)


async def test_concurrent_identifications_of_one_identity_make_one_account(
    world: UseCases, database_without_tenants: str
) -> None:
    async with use_cases(database_without_tenants) as other:
        found = await asyncio.gather(
            *(side.accounts.identify(LEKHAK, [INSTALLATION, MAIL]) for side in (world, other) for _ in range(5))
        )

    assert len({account.account_id for account, _ in found}) == 1
    assert sum(created for _, created in found) == 1
    assert await world.fetch("SELECT count(*) FROM accounts") == [{"count": 1}]
    assert await world.fetch("SELECT count(*) FROM subscriptions") == [{"count": 1}]


async def test_concurrent_identifications_that_overlap_end_in_one_account_or_a_conflict(world: UseCases) -> None:
    names = [Identity("clerk", f"user_{number}") for number in range(4)]
    pairs = [[names[a], names[b]] for a in range(4) for b in range(4) if a != b]

    outcomes = await asyncio.gather(*(world.accounts.identify(LEKHAK, pair) for pair in pairs), return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} <= {tuple, IdentityConflict}
    owners = [await world.accounts.find(LEKHAK, name) for name in names]
    for outcome, pair in zip(outcomes, pairs, strict=True):
        if isinstance(outcome, tuple):
            assert {owner.account_id for owner, name in zip(owners, names, strict=True) if name in pair} == {
                outcome[0].account_id
            }


async def test_an_account_id_of_the_caller_is_taken(world: UseCases) -> None:
    account, created = await world.accounts.identify(LEKHAK, [INSTALLATION], account_id="anna")

    assert created
    assert account.account_id == "anna"


async def test_identities_are_linked_to_an_account_that_a_first_call_provisioned(world: UseCases) -> None:
    await world.accounts.provision(LEKHAK, ANNA)

    account, created = await world.accounts.identify(LEKHAK, [INSTALLATION], account_id="anna")

    assert not created
    assert account.account_id == "anna"
    assert (await world.accounts.find(LEKHAK, INSTALLATION)).account_id == "anna"


async def test_the_account_of_an_identity_counts_more_than_a_given_id(world: UseCases) -> None:
    first, _ = await world.accounts.identify(LEKHAK, [INSTALLATION], account_id="anna")

    found, _ = await world.accounts.identify(LEKHAK, [INSTALLATION], account_id="bert")

    assert found.account_id == first.account_id


async def test_details_of_a_known_account_fill_only_what_is_empty(world: UseCases) -> None:
    await world.accounts.identify(LEKHAK, [INSTALLATION], display_name="Anna", preferences={"theme": "dark"})

    found, _ = await world.accounts.identify(
        LEKHAK,
        [INSTALLATION],
        display_name="Somebody",
        email="anna@example.com",
        time_zone="Asia/Tokyo",
        preferences={"theme": "light", "lang": "en"},
    )

    assert found.display_name == "Anna"
    assert found.email == "anna@example.com"
    assert found.time_zone == "UTC"
    assert found.preferences == {"theme": "dark", "lang": "en"}


async def test_last_seen_is_kept_to_the_minute(world: UseCases) -> None:
    first, _ = await world.accounts.identify(LEKHAK, [INSTALLATION])
    world.clock.advance(dt.timedelta(seconds=59))
    soon, _ = await world.accounts.identify(LEKHAK, [INSTALLATION])
    world.clock.advance(dt.timedelta(seconds=1))
    later, _ = await world.accounts.identify(LEKHAK, [INSTALLATION])

    assert soon.last_seen_time == first.last_seen_time
    assert later.last_seen_time == world.clock.now()
    assert later.revision == first.revision
    assert later.update_time == first.update_time


async def test_a_priced_default_plan_is_not_given_away(world: UseCases) -> None:
    await world.catalogs.apply(
        CatalogSource("tenant: club\ndefault_plan: pro\nplans: {pro: {prices: {month: {amount: 5, currency: USD}}}}")
    )

    account, _ = await world.accounts.identify(TenantId("club"), [MAIL])

    assert await plans_of(world, account) == []


async def test_identities_belong_to_one_tenant(world: UseCases) -> None:
    here, _ = await world.accounts.identify(LEKHAK, [MAIL])
    there, created = await world.accounts.identify(FITNESS, [MAIL])

    assert created
    assert here.account_id != there.account_id


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"identities": []}, "identities"),
        ({"identities": [Identity("Clerk", "x")]}, "identities[0].provider"),
        ({"identities": [Identity("", "x")]}, "identities[0].provider"),
        ({"identities": [MAIL, Identity("clerk", "")]}, "identities[1].external_id"),
        ({"identities": [Identity("clerk", "a b")]}, "identities[0].external_id"),
        ({"identities": [Identity("clerk", "x" * 257)]}, "identities[0].external_id"),
        ({"identities": [Identity("clerk", str(number)) for number in range(23)]}, "identities"),
        ({"account_id": "a b"}, "account_id"),
        ({"email": "anna"}, "email"),
        ({"display_name": "x" * 201}, "display_name"),
        ({"display_name": "a\nb"}, "display_name"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "localtime"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"preferences": {"x": "y" * 20_000}}, "preferences"),
        ({"preferences": {"x": float("nan")}}, "preferences"),
        ({"preferences": {"x": "\0"}}, "preferences"),
        ({"metadata": {"a b": "x"}}, "metadata"),
        ({"metadata": {str(number): "x" for number in range(65)}}, "metadata"),
        ({"metadata": {"a": "x" * 1001}}, "metadata[a]"),
    ],
)
async def test_malformed_input_is_refused_with_the_field(world: UseCases, given: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await world.accounts.identify(LEKHAK, **{"identities": [MAIL], **given})  # type: ignore[arg-type]

    assert [violation.field for violation in caught.value.violations] == [field]
    assert await world.fetch("SELECT * FROM accounts") == []


async def test_an_account_has_a_number_of_identities_at_most(world: UseCases) -> None:
    names = [Identity("clerk", f"user_{number}") for number in range(IDENTITIES_PER_ACCOUNT_MAX + 1)]
    await world.accounts.identify(LEKHAK, names[:1], account_id=ANNA)
    for start in (1, 21, 41):
        wanted = AccountUpdate(linked_identities=names[start : min(start + 20, IDENTITIES_PER_ACCOUNT_MAX)])
        await world.accounts.update(LEKHAK, ANNA, wanted)

    with pytest.raises(InvalidRequest):
        await world.accounts.update(LEKHAK, ANNA, AccountUpdate(linked_identities=names[-1:]))

    assert len((await world.accounts.get(LEKHAK, ANNA)).identities) == IDENTITIES_PER_ACCOUNT_MAX


# --- Changing ---------------------------------------------------------------------------------------------


async def test_an_update_changes_only_what_is_given(world: UseCases) -> None:
    before, _ = await world.accounts.identify(
        LEKHAK, [INSTALLATION], account_id=ANNA, display_name="Anna", preferences={"a": 1, "b": 2}, metadata={"x": "1"}
    )
    world.clock.advance(dt.timedelta(minutes=5))

    after = await world.accounts.update(
        LEKHAK,
        ANNA,
        AccountUpdate(email="anna@example.com", preferences={"b": None, "c": [3]}, metadata={"x": "", "y": "2"}),
    )

    assert after == replace(
        before,
        email="anna@example.com",
        preferences={"a": 1, "c": [3]},
        metadata={"y": "2"},
        update_time=world.clock.now(),
    )
    assert after == await world.accounts.get(LEKHAK, ANNA)


async def test_an_update_without_a_difference_writes_nothing(world: UseCases) -> None:
    before, _ = await world.accounts.identify(LEKHAK, [INSTALLATION], account_id=ANNA, display_name="Anna")
    world.clock.advance(dt.timedelta(minutes=5))

    after = await world.accounts.update(
        LEKHAK, ANNA, AccountUpdate(display_name="Anna", time_zone="UTC", linked_identities=[INSTALLATION])
    )

    assert after == before


async def test_another_time_zone_is_an_entitlement_change(world: UseCases) -> None:
    before, _ = await world.accounts.identify(LEKHAK, [INSTALLATION], account_id=ANNA)

    after = await world.accounts.update(LEKHAK, ANNA, AccountUpdate(time_zone="Europe/Berlin", display_name="A"))

    assert after.time_zone == "Europe/Berlin"
    assert after.display_name == "A"
    assert after.revision == before.revision + 1 == world.marks.revisions[LEKHAK, ANNA]
    assert after == await world.accounts.get(LEKHAK, ANNA)


async def test_identities_are_linked_and_unlinked(world: UseCases) -> None:
    await world.accounts.identify(LEKHAK, [INSTALLATION], account_id=ANNA)

    after = await world.accounts.update(
        LEKHAK, ANNA, AccountUpdate(linked_identities=[MAIL], unlinked_identities=[INSTALLATION])
    )

    assert after.identities == (MAIL,)
    with pytest.raises(AccountNotFound):
        await world.accounts.find(LEKHAK, INSTALLATION)


async def test_an_identity_of_somebody_else_is_not_linked(world: UseCases) -> None:
    await world.accounts.identify(LEKHAK, [INSTALLATION], account_id=ANNA)
    await world.accounts.identify(LEKHAK, [MAIL], account_id="bert")

    with pytest.raises(IdentityConflict):
        await world.accounts.update(LEKHAK, ANNA, AccountUpdate(linked_identities=[MAIL], display_name="x"))

    assert (await world.accounts.get(LEKHAK, ANNA)).display_name == ""


async def test_the_last_identity_of_an_account_with_an_id_of_ours_stays(world: UseCases) -> None:
    account, _ = await world.accounts.identify(LEKHAK, [INSTALLATION])

    with pytest.raises(InvalidRequest):
        await world.accounts.update(LEKHAK, account.account_id, AccountUpdate(unlinked_identities=[INSTALLATION]))

    swap = AccountUpdate(unlinked_identities=[INSTALLATION], linked_identities=[MAIL])
    assert (await world.accounts.update(LEKHAK, account.account_id, swap)).identities == (MAIL,)


async def test_a_suspension_and_its_end_are_entitlement_changes(world: UseCases) -> None:
    await world.accounts.provision(LEKHAK, ANNA)

    suspended = await world.accounts.suspend(LEKHAK, ANNA, reason="chargeback", actor="ops")

    assert (suspended.state, suspended.suspend_reason, suspended.revision) == (AccountState.SUSPENDED, "chargeback", 3)
    assert world.marks.revisions[LEKHAK, ANNA] == 3

    again = await world.accounts.suspend(LEKHAK, ANNA, reason="fraud")

    assert (again.suspend_reason, again.revision) == ("fraud", 3)

    active = await world.accounts.suspend(LEKHAK, ANNA, suspend=False)

    assert (active.state, active.suspend_reason, active.revision) == (AccountState.ACTIVE, "", 4)
    assert await world.accounts.suspend(LEKHAK, ANNA, suspend=False) == active
    events = await world.fetch("SELECT type, revision FROM outbox_events ORDER BY event_id")
    assert [event["type"] for event in events if event["type"].startswith("account.")] == [
        "account.created",
        "account.suspend",
        "account.reinstate",
    ]
    audit = await world.fetch("SELECT action, actor FROM audit_entries WHERE subject = 'account:anna'")
    assert {"action": "account.suspend", "actor": "ops"} in audit


async def test_a_change_that_fails_leaves_nothing_and_marks_nothing(world: UseCases) -> None:
    with pytest.raises(AccountNotFound):
        await world.accounts.suspend(LEKHAK, ANNA, reason="x")
    with pytest.raises(AccountNotFound):
        await world.accounts.update(LEKHAK, ANNA, AccountUpdate(time_zone="Asia/Tokyo"))

    assert not world.marks.changing


async def test_a_deleted_account_does_not_change_any_more(world: UseCases) -> None:
    await world.accounts.identify(LEKHAK, [INSTALLATION], account_id=ANNA)
    async with world.database.tenant_transaction(LEKHAK) as connection:
        await write_account(connection, LEKHAK, ANNA, {"state": "deleted"})

    with pytest.raises(AccountDeleted):
        await world.accounts.suspend(LEKHAK, ANNA, reason="x")
    with pytest.raises(AccountDeleted):
        await world.accounts.update(LEKHAK, ANNA, AccountUpdate(display_name="x"))
    with pytest.raises(AccountDeleted):
        await world.subscriptions.create(LEKHAK, ANNA, NewSubscription(plan_key=PlanKey("free")))
    found, _ = await world.accounts.identify(LEKHAK, [INSTALLATION], display_name="x")
    assert (found.state, found.display_name) == (AccountState.DELETED, "")
    assert await world.accounts.list(LEKHAK, limit=10) == []


# --- Listing ----------------------------------------------------------------------------------------------


async def test_accounts_are_listed_by_id_in_pages(world: UseCases) -> None:
    for name in ("c", "a", "e", "b", "d"):
        await world.accounts.provision(LEKHAK, AccountId(name))
    await world.accounts.identify(LEKHAK, [MAIL], account_id="a")

    first = await world.accounts.list(LEKHAK, limit=2)
    second = await world.accounts.list(LEKHAK, after_account_id=first[-1].account_id, limit=2)
    third = await world.accounts.list(LEKHAK, after_account_id=second[-1].account_id, limit=2)

    assert [account.account_id for page in (first, second, third) for account in page] == ["a", "b", "c", "d", "e"]
    assert first[0].identities == (MAIL,)
    assert first[1].identities == ()


async def test_accounts_are_listed_by_state_plan_and_prefix(world: UseCases) -> None:
    for name in ("team_1", "team_2", "teamx1"):
        await world.accounts.provision(LEKHAK, AccountId(name))
    await world.accounts.suspend(LEKHAK, AccountId("team_2"), reason="x")
    pro = NewSubscription(plan_key=PlanKey("pro"), provider=BillingProvider.MANUAL)
    await world.subscriptions.create(LEKHAK, AccountId("teamx1"), pro)

    suspended = await world.accounts.list(LEKHAK, state=AccountState.SUSPENDED, limit=10)
    paying = await world.accounts.list(LEKHAK, plan_key="pro", limit=10)
    teams = await world.accounts.list(LEKHAK, account_id_prefix="team_", limit=10)

    assert [account.account_id for account in suspended] == ["team_2"]
    assert [account.account_id for account in paying] == ["teamx1"]
    assert [account.account_id for account in teams] == ["team_1", "team_2"]
