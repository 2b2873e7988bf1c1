"""Legal holds: after one was answered, nothing that it covers is removed, whatever was under way."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import datetime

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataSelection
from tallygate_server.domain.retention import LegalHold
from tallygate_server.errors import InvalidRequest, NotFound, RequestIdReused
from tallygate_server.storage import legal_holds as rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.data_segments import count_records
from tallygate_server.storage.engine import Database
from tallygate_server.storage.legal_holds import HoldPage
from tallygate_server.storage.retention_policies import lock_protections
from tallygate_server.tenants import TenantDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLegalHold:
    """What `LegalHolds.create` is asked for."""

    selection: DataSelection
    reason_text: str
    end_time: datetime | None = None
    """None: it ends when it is released."""


class LegalHolds:
    """Sets and releases holds."""

    def __init__(self, database: Database, tenants: TenantDirectory, clock: Clock) -> None:
        """Use a database with the lifecycle's role."""
        self._database = database
        self._tenants = tenants
        self._clock = clock

    async def create(
        self, tenant_id: TenantId, wanted: NewLegalHold, *, request_id: str = "", actor: str
    ) -> tuple[LegalHold, int]:
        """Forbid removal of data; return the hold and how many records it covers now.

        The same request id with the same content returns the first hold again. Removals that are under way end before,
        and leave alone what it covers from then on. Raises TenantNotFound, InvalidRequest, RequestIdReused.
        """
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        if wanted.selection.tiers:
            raise InvalidRequest.of("selection.tiers", "a hold follows data wherever it lies; leave the tiers out")
        hold = LegalHold(
            tenant_id=tenant_id,
            legal_hold_id=f"lh_{secrets.token_hex(12)}",
            selection=wanted.selection,
            reason_text=wanted.reason_text,
            actor=actor,
            create_time=now,
            end_time=wanted.end_time,
        )
        async with self._database.tenant_transaction(tenant_id) as connection:
            await lock_protections(connection, tenant_id)
            first = await rows.hold_of_request(connection, tenant_id, request_id) if request_id else None
            if first is not None:
                if _content(first) != _content(hold):
                    raise RequestIdReused(request_id)
                return first, await count_records(connection, tenant_id, first.selection)
            if wanted.end_time is not None and wanted.end_time <= now:
                raise InvalidRequest.of("end_time", "must be in the future")
            await rows.add_hold(connection, hold, request_id=request_id)
            record_count = await count_records(connection, tenant_id, hold.selection)
            await add_audit_entry(
                connection,
                tenant_id,
                actor=actor,
                action="data.legal_hold_created",
                subject=f"legal_hold/{hold.legal_hold_id}",
                detail={
                    "selection": hold.selection.to_document(),
                    "reason": hold.reason_text,
                    "end_time": hold.end_time.isoformat() if hold.end_time is not None else None,
                    "records": record_count,
                },
            )
        return hold, record_count

    async def release(self, tenant_id: TenantId, legal_hold_id: str, *, reason: str, actor: str) -> LegalHold:
        """Let policies apply again; a hold that was released before stays as it is. Raises TenantNotFound, NotFound."""
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            hold = await rows.read_hold(connection, tenant_id, legal_hold_id, lock=True)
            if hold is None:
                raise NotFound("legal hold", legal_hold_id, field="legal_hold_id")
            if hold.release_time is not None:
                return hold
            await rows.release_hold(connection, tenant_id, legal_hold_id, reason=reason, now=now)
            await add_audit_entry(
                connection,
                tenant_id,
                actor=actor,
                action="data.legal_hold_released",
                subject=f"legal_hold/{legal_hold_id}",
                detail={"reason": reason},
            )
        return replace(hold, release_time=now)

    async def page(
        self,
        tenant_id: TenantId,
        *,
        account_id: AccountId | None = None,
        include_released: bool = False,
        before: tuple[datetime, str] | None = None,
        limit: int,
    ) -> HoldPage:
        """Return holds, newest first; for an account, those on it and those on all. Raises TenantNotFound."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await rows.page_of_holds(
                connection,
                tenant_id,
                account_id=account_id,
                include_released=include_released,
                before=before,
                limit=limit,
            )


def _content(hold: LegalHold) -> tuple[DataSelection, str, datetime | None]:
    return hold.selection, hold.reason_text, hold.end_time
