"""Clerk's users are accounts, and end as the same accounts in whatever order their events come."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tallygate_server.accounts import Account, AccountUpdate, Identity
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import AccountNotFound, InvalidRequest, TenantNotFound
from tallygate_server.storage.engine import Database, DatabaseRole
from tallygate_server.webhooks.clerk import SUSPEND_REASON, ClerkEvents
from tallygate_server.webhooks.events import Handled, StoredEvent, WebhookSource
from tests.support.use_cases import LEKHAK, UseCases, example, use_cases

FITNESS = TenantId("technically-fit")
CLERK = Identity("clerk", "user_1")


@dataclass(slots=True, kw_only=True)
class ClerkWorld:
    """Accounts of two tenants, and the handler of Clerk's events."""

    use_cases: UseCases
    handler: ClerkEvents

    async def tell(
        self, event_type: str, data: dict[str, Any], *, tenant_id: str = LEKHAK, event_id: str = "msg_1"
    ) -> Handled:
        """Handle an event."""
        return await self.handler.handle(
            StoredEvent(
                source=WebhookSource.CLERK,
                event_id=event_id,
                event_type=event_type,
                payload=json.dumps({"type": event_type, "data": data}).encode(),
                event_time=None,
                attempt=1,
                tenant_id=tenant_id,
            )
        )

    async def account(self, identity: Identity = CLERK, tenant_id: TenantId = LEKHAK) -> Account:
        """Return the account that the identity belongs to."""
        return await self.use_cases.accounts.find(tenant_id, identity)

    async def emails(self) -> set[str]:
        """Return the addresses that the user's account is known by."""
        account = await self.account()
        return {identity.external_id for identity in account.identities if identity.provider == "email"}


@pytest.fixture
async def world(empty_webhooks: str) -> AsyncIterator[ClerkWorld]:
    lookups = Database(empty_webhooks, role=DatabaseRole.INTAKE, pool_size=3)
    try:
        async with use_cases(empty_webhooks) as running:
            for name in (LEKHAK, FITNESS):
                await running.catalogs.apply(example(name))
            yield ClerkWorld(use_cases=running, handler=ClerkEvents(running.accounts, lookups))
    finally:
        await lookups.close()


def address(email: str, *, verified: bool = True) -> dict[str, Any]:
    status = "verified" if verified else "unverified"
    return {"id": f"idn_{email}", "email_address": email, "verification": {"status": status}}


def a_user(*emails: dict[str, Any], at: int = 1_000, **changes: Any) -> dict[str, Any]:
    return {
        "id": "user_1",
        "updated_at": at,
        "first_name": "Ann",
        "last_name": "Lee",
        "primary_email_address_id": emails[0]["id"] if emails else None,
        "email_addresses": list(emails),
        "public_metadata": {},
        "private_metadata": None,
        **changes,
    }


DELETED = {"id": "user_1", "object": "user", "deleted": True}


async def test_a_new_user_is_a_new_account_with_its_verified_addresses(world: ClerkWorld) -> None:
    handled = await world.tell(
        "user.created",
        a_user(address("Ann@Example.com"), address("other@example.com"), address("no@example.com", verified=False)),
    )

    account = await world.account()
    assert handled == Handled(tenant_id=LEKHAK, account_id=account.account_id)
    assert (account.email, account.display_name) == ("Ann@Example.com", "Ann Lee")
    assert await world.emails() == {"ann@example.com", "other@example.com"}
    assert account.state is AccountState.ACTIVE


async def test_a_user_with_the_address_of_an_account_is_that_account(world: ClerkWorld) -> None:
    before, _ = await world.use_cases.accounts.identify(LEKHAK, [], email="ann@example.com")

    await world.tell("user.created", a_user(address("ann@example.com")))

    assert (await world.account()).account_id == before.account_id


async def test_an_address_that_is_not_verified_opens_nobodys_account(world: ClerkWorld) -> None:
    before, _ = await world.use_cases.accounts.identify(LEKHAK, [], email="ann@example.com")

    await world.tell("user.created", a_user(address("ann@example.com", verified=False)))

    assert (await world.account()).account_id != before.account_id
    assert await world.emails() == set()


async def test_addresses_of_two_accounts_make_neither_of_them_the_others(world: ClerkWorld) -> None:
    first, _ = await world.use_cases.accounts.identify(LEKHAK, [], email="a@example.com")
    second, _ = await world.use_cases.accounts.identify(LEKHAK, [], email="b@example.com")

    await world.tell("user.created", a_user(address("a@example.com"), address("b@example.com")))

    assert (await world.account()).account_id == first.account_id
    assert (await world.account(Identity("email", "b@example.com"))).account_id == second.account_id


async def test_a_change_replaces_what_clerk_said_before_and_nothing_else(world: ClerkWorld) -> None:
    await world.tell("user.created", a_user(address("a@example.com"), address("b@example.com"), at=1))
    account = await world.account()
    extension = Identity("extension", "e-1")
    await world.use_cases.accounts.update(
        LEKHAK, account.account_id, AccountUpdate(metadata={"team": "x"}, linked_identities=[extension])
    )

    await world.tell("user.updated", a_user(address("c@example.com"), address("b@example.com"), at=2, last_name="Bee"))

    after = await world.account()
    assert (after.email, after.display_name, after.metadata["team"]) == ("c@example.com", "Ann Bee", "x")
    assert await world.emails() == {"b@example.com", "c@example.com"}
    assert extension in after.identities


async def test_an_older_change_that_comes_later_changes_nothing(world: ClerkWorld) -> None:
    await world.tell("user.updated", a_user(address("new@example.com"), at=2))
    before = await world.account()

    handled = await world.tell("user.updated", a_user(address("old@example.com"), at=1))

    assert await world.account() == before
    assert handled.account_id == before.account_id


async def test_a_deleted_user_leaves_a_suspended_account_and_its_addresses(world: ClerkWorld) -> None:
    await world.tell("user.created", a_user(address("ann@example.com")))

    await world.tell("user.deleted", DELETED)

    account = await world.account()
    assert (account.state, account.suspend_reason) == (AccountState.SUSPENDED, SUSPEND_REASON)
    assert await world.emails() == set()


async def test_deleted_stays_deleted_but_what_an_administrator_reinstates_stays_so(world: ClerkWorld) -> None:
    await world.tell("user.created", a_user(address("ann@example.com"), at=1))
    await world.tell("user.deleted", DELETED)
    await world.tell("user.updated", a_user(address("ann@example.com"), at=2))
    account = await world.account()
    assert account.state is AccountState.SUSPENDED

    await world.use_cases.accounts.suspend(LEKHAK, account.account_id, suspend=False)
    await world.tell("user.deleted", DELETED)

    assert (await world.account()).state is AccountState.ACTIVE


async def test_somebody_who_signs_up_again_is_somebody_new(world: ClerkWorld) -> None:
    await world.tell("user.created", a_user(address("ann@example.com")))
    await world.tell("user.deleted", DELETED)

    await world.tell("user.created", a_user(address("ann@example.com"), id="user_2"))

    again = await world.account(Identity("clerk", "user_2"))
    assert again.state is AccountState.ACTIVE
    assert again.account_id != (await world.account()).account_id


STORY: Sequence[tuple[str, dict[str, Any]]] = (
    ("user.created", a_user(address("a@example.com"), at=1)),
    ("user.updated", a_user(address("b@example.com"), address("a@example.com"), at=2)),
    ("user.updated", a_user(address("b@example.com"), at=3, first_name="Anna")),
    ("user.deleted", DELETED),
)


def shown(account: Account, identities: set[str]) -> tuple[object, ...]:
    return account.state, account.email, account.display_name, account.suspend_reason, account.metadata, identities


@pytest.mark.parametrize("length", [3, 4])
async def test_events_in_any_order_and_number_end_in_the_same_account(world: ClerkWorld, length: int) -> None:
    story = STORY[:length]
    ends = []
    orders = list(itertools.permutations(range(length)))
    chance = random.Random(7)
    for number, order in enumerate([tuple(range(length)), *chance.sample(orders, min(10, len(orders)))]):
        user_id = f"user_{number}"
        repeated = [*order, *chance.choices(order, k=3)] if number else order
        for step in repeated:
            event_type, data = story[step]
            own = json.loads(json.dumps({**data, "id": user_id}).replace("@example", f"@{number}.example"))
            await world.tell(event_type, own)
        account = await world.account(Identity("clerk", user_id))
        emails = {one.external_id for one in account.identities if one.provider == "email"}
        ends.append(json.dumps([str(item) for item in shown(account, emails)]).replace(f"@{number}.", "@"))

    assert set(ends) == {ends[0]}


@pytest.mark.parametrize("place", ["public_metadata", "private_metadata"])
async def test_the_users_own_metadata_may_name_the_tenant(world: ClerkWorld, place: str) -> None:
    user = {**a_user(address("ann@example.com")), place: {"tallygate_tenant_id": FITNESS}}

    await world.tell("user.created", user, tenant_id="")

    assert (await world.account(tenant_id=FITNESS)).tenant_id == FITNESS
    with pytest.raises(AccountNotFound):
        await world.account()


async def test_what_users_themselves_may_write_names_no_tenant(world: ClerkWorld) -> None:
    user = a_user(address("ann@example.com"), unsafe_metadata={"tallygate_tenant_id": FITNESS})

    assert await world.tell("user.created", user, tenant_id="") == Handled()


async def test_a_deletion_that_names_no_tenant_finds_the_one_who_knows_the_user(world: ClerkWorld) -> None:
    await world.tell("user.created", a_user(), tenant_id=FITNESS)

    handled = await world.tell("user.deleted", DELETED, tenant_id="")

    assert handled.tenant_id == FITNESS
    assert (await world.account(tenant_id=FITNESS)).state is AccountState.SUSPENDED


async def test_a_user_of_two_tenants_is_nobodys_where_nothing_says_whose(world: ClerkWorld) -> None:
    for tenant_id in (LEKHAK, FITNESS):
        await world.tell("user.created", a_user(), tenant_id=tenant_id)

    assert await world.tell("user.deleted", DELETED, tenant_id="") == Handled()
    assert (await world.account()).state is AccountState.ACTIVE


async def test_the_tenant_of_the_settings_is_the_last_resort(world: ClerkWorld, empty_webhooks: str) -> None:
    lookups = Database(empty_webhooks, role=DatabaseRole.INTAKE, pool_size=1)
    world.handler = ClerkEvents(world.use_cases.accounts, lookups, default_tenant_id=LEKHAK)
    try:
        handled = await world.tell("user.created", a_user(), tenant_id="")
    finally:
        await lookups.close()

    assert handled.tenant_id == LEKHAK


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"id": 7},
        a_user(email_addresses=7),
        a_user(email_addresses=["x"]),
        a_user(email_addresses=[{"verification": "verified"}]),
        a_user(updated_at="now"),
        a_user(updated_at=True),
        a_user(first_name=["Ann"]),
        a_user(id="user with spaces"),
    ],
)
async def test_a_user_that_is_none_is_refused_by_its_field(world: ClerkWorld, data: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await world.tell("user.created", data)


async def test_names_and_addresses_that_do_not_fit_are_cut_or_left_out(world: ClerkWorld) -> None:
    await world.tell(
        "user.created",
        a_user(
            *(address(f"{number}{'x' * 100}@example.com") for number in range(30)),
            address(f"{'y' * 300}@example.com"),
            first_name="A\x01" + "n" * 500,
        ),
    )

    account = await world.account()
    assert len(account.display_name) == 200
    assert len(await world.emails()) == 8
    assert all(email.startswith(tuple("01234567")) for email in await world.emails())


async def test_an_unknown_tenant_is_an_error_that_is_tried_again(world: ClerkWorld) -> None:
    with pytest.raises(TenantNotFound):
        await world.tell("user.created", a_user(), tenant_id="nobody")


async def test_a_user_is_known_to_its_tenant_alone(world: ClerkWorld) -> None:
    await world.tell("user.created", a_user())

    with pytest.raises(AccountNotFound):
        await world.use_cases.accounts.get(FITNESS, AccountId((await world.account()).account_id))
