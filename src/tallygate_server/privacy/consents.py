"""Consents: what accounts have said about the use of their data, with the whole history.

For each purpose the statement with the newest `consent_time` counts, whenever it was recorded; of two with the same
time the one recorded later. A statement whose time is to come does not count before. One that has expired gives no
consent, and does not let an older one count again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tallygate_server.accounts import Accounts
from tallygate_server.clock import Clock
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import AccountDeleted, AccountNotFound, InvalidRequest, RequestIdReused
from tallygate_server.storage.accounts import account_exists, read_account
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.consents import (
    Consent,
    add_consent,
    page_of_consents,
    read_consent_in_force,
    read_consent_of_request,
)
from tallygate_server.storage.engine import Database
from tallygate_server.subscriptions.wishes import check_request_id, fingerprint_of
from tallygate_server.tenants import TenantDirectory
from tallygate_server.unique_ids import new_id

__all__ = ["Consent", "Consents", "NewConsent"]

ID_PREFIX: Final = "con"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConsent:
    """A statement to record."""

    purpose: str
    granted: bool
    policy_version: str = ""
    source: str = ""
    consent_time: datetime | None = None
    """None: now."""
    expire_time: datetime | None = None
    """None: never."""


class Consents:
    """Records statements, and tells which counts."""

    def __init__(self, database: Database, *, tenants: TenantDirectory, accounts: Accounts, clock: Clock) -> None:
        """Work on the database."""
        self._database = database
        self._tenants = tenants
        self._accounts = accounts
        self._clock = clock

    async def record(
        self, tenant_id: TenantId, account_id: AccountId, wanted: NewConsent, *, request_id: str = "", actor: str = ""
    ) -> Consent:
        """Record a statement; the same request id with the same content returns the first one again.

        Raises TenantNotFound, AccountNotFound, AccountDeleted, RequestIdReused, InvalidRequest.
        """
        check_request_id(request_id)
        now = self._clock.now()
        consent = Consent(
            tenant_id=tenant_id,
            consent_id=new_id(ID_PREFIX, now),
            account_id=account_id,
            purpose=wanted.purpose,
            granted=wanted.granted,
            policy_version=wanted.policy_version,
            source=wanted.source,
            consent_time=wanted.consent_time or now,
            expire_time=wanted.expire_time,
            actor=actor,
            request_id=request_id,
            fingerprint=fingerprint_of("record_consent", wanted),
            create_time=now,
        )
        if consent.expire_time is not None and consent.expire_time <= consent.consent_time:
            raise InvalidRequest.of("expire_time", "must be after consent_time")
        await self._demand_account(tenant_id, account_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            account = await read_account(connection, tenant_id, account_id, lock=True)
            if account is None:
                raise AccountNotFound(account_id)
            if account.state is AccountState.DELETED:
                raise AccountDeleted(account_id)
            if request_id:
                first = await read_consent_of_request(connection, tenant_id, account_id, request_id)
                if first is not None:
                    if first.fingerprint != consent.fingerprint:
                        raise RequestIdReused(request_id)
                    return first
            recorded = await add_consent(connection, consent)
            await add_audit_entry(
                connection,
                tenant_id,
                actor=actor,
                action="data.consent_recorded",
                subject=f"account:{account_id}",
                detail={"consent_id": consent.consent_id, "purpose": consent.purpose, "granted": consent.granted},
            )
        return recorded

    async def list(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        purpose: str = "",
        current_only: bool = False,
        before: tuple[datetime, int] | None = None,
        limit: int,
    ) -> Sequence[Consent]:
        """Return statements, newest first; the page goes on before a (consent time, sequence).

        `current_only` leaves the one of each purpose that counts now. Raises TenantNotFound, AccountNotFound.
        """
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            if not await account_exists(connection, tenant_id, account_id):
                raise AccountNotFound(account_id)
            return await page_of_consents(
                connection,
                tenant_id,
                account_id,
                purpose=purpose,
                in_force_at=self._clock.now() if current_only else None,
                before=before,
                limit=limit,
            )

    async def has_consent(
        self, tenant_id: TenantId, account_id: AccountId, purpose: str, now: datetime | None = None
    ) -> bool:
        """Tell whether the account lets its data be used for a purpose, now or at an instant."""
        at = now or self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            consent = await read_consent_in_force(connection, tenant_id, account_id, purpose, now=at)
        return consent is not None and consent.allows(at)

    async def _demand_account(self, tenant_id: TenantId, account_id: AccountId) -> None:
        """Make the account where the tenant makes unknown ones; consent is often the first that is heard of one."""
        if not await self._accounts.provision(tenant_id, account_id):
            raise AccountNotFound(account_id)
