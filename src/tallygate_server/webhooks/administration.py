"""What an administrator sees of webhooks that came in, and how they are processed again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import InvalidRequest, NotFound
from tallygate_server.storage import webhook_events as rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.engine import Database
from tallygate_server.storage.webhook_events import WebhookEventRow
from tallygate_server.webhooks.events import WebhookEventState, WebhookSource

log = structlog.get_logger(__name__)

REPLAY_BATCH_MAX: Final = 1_000
"""Events made due in one transaction."""
AUDITED_IDS_MAX: Final = 100
"""Ids that one audit entry names; it counts them all."""


class WebhookAdministration:
    """Lists, shows and replays webhooks, of every tenant and of none."""

    def __init__(
        self, database: Database, *, audit_database: Database, clock: Clock, wake: Callable[[], None] = lambda: None
    ) -> None:
        """Work on the database of the intake; the audit log is written as the application."""
        self._database = database
        self._audit_database = audit_database
        self._clock = clock
        self._wake = wake

    async def list(
        self,
        *,
        tenant_id: str = "",
        source: WebhookSource | None = None,
        state: WebhookEventState | None = None,
        event_type_prefix: str = "",
        account_id: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        before_sequence: int | None = None,
        limit: int,
    ) -> Sequence[WebhookEventRow]:
        """Return webhooks without their bodies, newest first; the page goes on before a sequence."""
        async with self._database.plain_transaction() as connection:
            return await rows.page_of_events(
                connection,
                tenant_id=tenant_id,
                source=source,
                state=state,
                event_type_prefix=event_type_prefix,
                account_id=account_id,
                start_time=start_time,
                end_time=end_time,
                before_sequence=before_sequence,
                limit=limit,
            )

    async def get(self, source: WebhookSource, event_id: str) -> WebhookEventRow:
        """Return the webhook with its body; raise NotFound."""
        async with self._database.plain_transaction() as connection:
            event = await rows.read_event(connection, (source, event_id))
        if event is None:
            raise NotFound("webhook_event", event_id, field="event_id")
        return event

    async def replay(
        self,
        *,
        source: WebhookSource | None = None,
        event_ids: Sequence[str] = (),
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        actor: str,
    ) -> int:
        """Process webhooks again, whatever became of them: those named, else all that failed too often.

        Return how many. With ids it is all or none; raises NotFound for the first that is not there, InvalidRequest.
        """
        if not event_ids:
            return await self._replay_dead(source=source, start_time=start_time, end_time=end_time, actor=actor)
        if source is None:
            raise InvalidRequest.of("source", "ids are unique at their source: name it")
        for field, time in (("start_time", start_time), ("end_time", end_time)):
            if time is not None:
                raise InvalidRequest.of(field, "only without event_ids")
        wanted = list(dict.fromkeys(event_ids))
        async with self._database.plain_transaction() as connection:
            missing = await rows.missing_event(connection, source, wanted)
            if missing is not None:
                raise NotFound("webhook_event", missing, field="event_ids")
            replayed = await rows.replay(connection, source, wanted, now=self._clock.now())
            await self._audit(replayed, actor)
        self._wake()
        return len(replayed)

    async def _replay_dead(
        self, *, source: WebhookSource | None, start_time: datetime | None, end_time: datetime | None, actor: str
    ) -> int:
        count = 0
        # One that dies again meanwhile stays dead: it came in before, and the next look would find it for ever.
        now = self._clock.now()
        after_sequence = 0
        while True:
            async with self._database.plain_transaction() as connection:
                replayed = await rows.replay_dead(
                    connection,
                    source=source,
                    start_time=start_time,
                    end_time=end_time,
                    after_sequence=after_sequence,
                    now=now,
                    limit=REPLAY_BATCH_MAX,
                )
                await self._audit(replayed, actor)
            self._wake()
            count += len(replayed)
            if len(replayed) < REPLAY_BATCH_MAX:
                return count
            after_sequence = replayed[-1].sequence

    async def _audit(self, replayed: Sequence[WebhookEventRow], actor: str) -> None:
        """Write an entry for each tenant; of events that are nobody's the log tells alone."""
        by_tenant: defaultdict[str, list[str]] = defaultdict(list)
        for event in replayed:
            by_tenant[event.tenant_id].append(f"{event.source.value}:{event.event_id}")
        for tenant_id, named in by_tenant.items():
            if not tenant_id:
                continue
            async with self._audit_database.tenant_transaction(TenantId(tenant_id)) as connection:
                await add_audit_entry(
                    connection,
                    TenantId(tenant_id),
                    actor=actor,
                    action="webhook.replay",
                    subject="webhooks",
                    detail={"events": named[:AUDITED_IDS_MAX], "count": len(named)},
                )
        if replayed:
            log.info("webhooks_replayed", rows=len(replayed))
