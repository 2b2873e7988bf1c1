"""Ayrshare's events about social accounts and posts: kept, matched to the account, and told to its tenant.

Nothing else follows: they change no entitlement.
"""

from __future__ import annotations

from typing import Final

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage import webhook_events as rows
from tallygate_server.storage.engine import Database
from tallygate_server.storage.outbox import add_event
from tallygate_server.webhooks.contents import text_at
from tallygate_server.webhooks.events import Handled, StoredEvent

PROVIDER: Final = "ayrshare"
"""Of the identity that an account has when it has a profile there; its external id is the profile's `refId`."""
_TEXT_LENGTH_MAX: Final = 256


class AyrshareEvents:
    """Tells tenants what happened at Ayrshare."""

    known_types: Final = frozenset(
        {"scheduled", "social", "feed", "batch", "messages", "comments", "mentions", "automations", "suspended"}
    )

    def __init__(self, database: Database, lookups: Database, *, clock: Clock) -> None:
        """Write events of tenants; look across tenants, as the intake, for whose profile it is."""
        self._database = database
        self._lookups = lookups
        self._clock = clock

    async def handle(self, event: StoredEvent) -> Handled:
        """Write an event `ayrshare.<action>` for the tenant whose account has the profile.

        Processing one again writes none; after a crash in the very moment between, there are two of one `event_id`.
        """
        content = event.content()
        reference = text_at(content, "refId")
        if not reference:
            return Handled(tenant_id=event.tenant_id)
        async with self._lookups.plain_transaction() as connection:
            owners = await rows.identity_owners(connection, PROVIDER, reference, tenant_id=event.tenant_id)
        if len(owners) != 1:
            # Nobody's that we know of, or of several tenants: nothing says whose.
            return Handled(tenant_id=event.tenant_id)
        tenant_id, account_id = owners[0]
        if not event.processed_before:
            payload = {
                name: text_at(content, name)[:_TEXT_LENGTH_MAX]
                for name in ("subAction", "type", "platform", "status", "id")
                if isinstance(content.get(name), str)
            }
            async with self._database.tenant_transaction(TenantId(tenant_id)) as connection:
                await add_event(
                    connection,
                    TenantId(tenant_id),
                    event_type=f"ayrshare.{event.event_type}",
                    account_id=account_id,
                    payload={**payload, "event_id": event.event_id},
                    create_time=self._clock.now(),
                )
        return Handled(tenant_id=tenant_id, account_id=account_id)
