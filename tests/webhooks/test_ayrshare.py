"""What happens at Ayrshare is told to the tenant whose account has the profile."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tallygate_server.accounts import Identity
from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.engine import Database, DatabaseRole
from tallygate_server.webhooks.ayrshare import AyrshareEvents
from tallygate_server.webhooks.events import Handled, StoredEvent, WebhookSource
from tests.support.use_cases import LEKHAK, UseCases, example, use_cases

FITNESS = TenantId("technically-fit")
PROFILE = Identity("ayrshare", "ref-1")


@dataclass(slots=True, kw_only=True)
class AyrshareWorld:
    """Accounts of two tenants, and the handler of Ayrshare's events."""

    use_cases: UseCases
    handler: AyrshareEvents

    async def tell(self, content: dict[str, Any], *, tenant_id: str = "", processed_before: bool = False) -> Handled:
        """Handle an event."""
        return await self.handler.handle(
            StoredEvent(
                source=WebhookSource.AYRSHARE,
                event_id="digest",
                event_type=content["action"],
                payload=json.dumps(content).encode(),
                event_time=None,
                attempt=1,
                tenant_id=tenant_id,
                processed_before=processed_before,
            )
        )

    async def told(self, tenant_id: str = LEKHAK) -> list[dict[str, Any]]:
        """Return what was told to the tenant."""
        return await self.use_cases.fetch(
            "SELECT type, account_id, payload FROM outbox_events WHERE type LIKE 'ayrshare.%' ORDER BY event_id",
            tenant_id=tenant_id,
        )


@pytest.fixture
async def world(empty_webhooks: str) -> AsyncIterator[AyrshareWorld]:
    lookups = Database(empty_webhooks, role=DatabaseRole.INTAKE, pool_size=1)
    try:
        async with use_cases(empty_webhooks) as running:
            for name in (LEKHAK, FITNESS):
                await running.catalogs.apply(example(name))
            handler = AyrshareEvents(running.database, lookups, clock=running.clock)
            yield AyrshareWorld(use_cases=running, handler=handler)
    finally:
        await lookups.close()


SCHEDULED = {"action": "scheduled", "refId": "ref-1", "status": "success", "id": "post-1", "code": 200, "errors": []}


async def test_an_event_of_an_accounts_profile_is_told_to_its_tenant(world: AyrshareWorld) -> None:
    account, _ = await world.use_cases.accounts.identify(LEKHAK, [PROFILE])

    handled = await world.tell(SCHEDULED)

    (told,) = await world.told()
    assert handled == Handled(tenant_id=LEKHAK, account_id=account.account_id)
    assert (told["type"], told["account_id"]) == ("ayrshare.scheduled", account.account_id)
    assert json.loads(told["payload"]) == {"event_id": "digest", "status": "success", "id": "post-1"}


async def test_processing_it_again_tells_nothing_again(world: AyrshareWorld) -> None:
    account, _ = await world.use_cases.accounts.identify(LEKHAK, [PROFILE])

    handled = await world.tell(SCHEDULED, processed_before=True)

    assert handled.account_id == account.account_id
    assert await world.told() == []


@pytest.mark.parametrize("content", [{"action": "feed"}, {"action": "feed", "refId": "ref-9"}])
async def test_an_event_of_nobodys_profile_is_kept_and_told_to_nobody(
    world: AyrshareWorld, content: dict[str, Any]
) -> None:
    assert await world.tell(content) == Handled()
    assert await world.tell(content, tenant_id=LEKHAK) == Handled(tenant_id=LEKHAK)
    assert await world.told() == []


async def test_a_profile_of_two_tenants_is_told_to_the_one_that_the_address_names(world: AyrshareWorld) -> None:
    for tenant_id in (LEKHAK, FITNESS):
        await world.use_cases.accounts.identify(tenant_id, [PROFILE])

    assert await world.tell(SCHEDULED) == Handled()
    assert (await world.tell(SCHEDULED, tenant_id=FITNESS)).tenant_id == FITNESS

    assert (len(await world.told(LEKHAK)), len(await world.told(FITNESS))) == (0, 1)
