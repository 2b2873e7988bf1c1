"""Clerk's users as accounts: created, changed and closed as their webhooks say, in whatever order they come.

What an account has from Clerk (its email, its name, the addresses that it is known by) is what the newest event says,
by the user's own time of change, which is kept with the account. A user who is deleted at Clerk leaves a suspended
account: what was paid and used stays, and nothing that comes later opens it again but an administrator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tallygate_server.accounts import (
    DISPLAY_NAME_LENGTH_MAX,
    METADATA_VALUE_LENGTH_MAX,
    Account,
    Accounts,
    AccountUpdate,
    Identity,
    is_external_id,
)
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, TenantId, is_tenant_id
from tallygate_server.errors import AccountNotFound, IdentityConflict, InvalidRequest
from tallygate_server.storage import webhook_events as rows
from tallygate_server.storage.engine import Database
from tallygate_server.webhooks.contents import object_at, objects_at, text_at, whole_number_at
from tallygate_server.webhooks.events import Handled, StoredEvent, WebhookSource

ACTOR: Final = "clerk"
PROVIDER: Final = "clerk"
"""Of the identity; emails are identities of their own."""
TENANT_KEY: Final = "tallygate_tenant_id"
"""In the user's public or private metadata, which only the product's own backend can write."""
SUSPEND_REASON: Final = "deleted at Clerk"
EMAILS_MAX: Final = 10

_CHANGED: Final = "clerk_updated_at"
_EMAILS: Final = "clerk_emails"
_DELETED: Final = "clerk_deleted"
_DELETION: Final = "user.deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class _User:
    """What an event says of a user."""

    user_id: str
    changed_ms: int
    email: str
    """The primary address, verified or not."""
    verified_emails: tuple[str, ...]
    """In lower case; the primary one first."""
    display_name: str

    @property
    def identity(self) -> Identity:
        return Identity(PROVIDER, self.user_id)


class ClerkEvents:
    """Handles the events of users; organisations and sessions are nothing to us."""

    known_types: Final = frozenset({"user.created", "user.updated", _DELETION})

    def __init__(self, accounts: Accounts, lookups: Database, *, default_tenant_id: str = "") -> None:
        """Change accounts; look across tenants, as the intake, for a user whose webhook names none."""
        self._accounts = accounts
        self._lookups = lookups
        self._default_tenant_id = default_tenant_id

    async def handle(self, event: StoredEvent) -> Handled:
        """Bring the user's account up to what the event says, unless it knows better already."""
        data = object_at(event.content(), "data")
        user = _user(data)
        # One event of a user at a time: what an account has of Clerk is read, compared and written.
        async with self._lookups.plain_transaction() as connection:
            await rows.lock_object(connection, WebhookSource.CLERK, user.user_id)
            tenant_id = event.tenant_id or _named_tenant(data) or self._default_tenant_id
            if not tenant_id:
                owners = await rows.identity_owners(connection, PROVIDER, user.user_id)
                if len(owners) != 1:
                    # Nobody's that we know of, or of several tenants: nothing says whose.
                    return Handled()
                tenant_id = owners[0][0]
            if event.event_type == _DELETION:
                account = await self._delete(TenantId(tenant_id), user)
            else:
                account = await self._change(TenantId(tenant_id), user)
        return Handled(tenant_id=account.tenant_id, account_id=account.account_id)

    async def _change(self, tenant_id: TenantId, user: _User) -> Account:
        account = await self._find(tenant_id, user.identity)
        if account is None:
            account = await self._create(tenant_id, user)
        if account.state is AccountState.DELETED or user.changed_ms < int(account.metadata.get(_CHANGED, "0")):
            return account
        deleted = _DELETED in account.metadata
        return await self._write(
            account,
            emails=() if deleted else user.verified_emails,
            email=user.email,
            display_name=user.display_name,
            metadata={_CHANGED: str(user.changed_ms)},
        )

    async def _delete(self, tenant_id: TenantId, user: _User) -> Account:
        account = await self._find(tenant_id, user.identity)
        if account is None:
            # Its creation may still come; it shall find that the user is gone.
            account, _ = await self._accounts.identify(tenant_id, [user.identity], actor=ACTOR)
        if account.state is AccountState.DELETED or _DELETED in account.metadata:
            return account
        await self._accounts.suspend(tenant_id, account.account_id, reason=SUSPEND_REASON, actor=ACTOR)
        # Whoever signs up with the address again is somebody new.
        return await self._write(account, emails=(), metadata={_DELETED: "true"})

    async def _find(self, tenant_id: TenantId, identity: Identity) -> Account | None:
        with contextlib.suppress(AccountNotFound):
            return await self._accounts.find(tenant_id, identity)
        return None

    async def _create(self, tenant_id: TenantId, user: _User) -> Account:
        """Find the account that has one of the user's addresses, or create one."""
        emails = [Identity("email", email) for email in user.verified_emails]
        # Addresses may belong to accounts of their own; then the primary one decides, or none.
        for given in (emails, emails[:1]):
            with contextlib.suppress(IdentityConflict):
                account, _ = await self._accounts.identify(tenant_id, [user.identity, *given], actor=ACTOR)
                return account
        account, _ = await self._accounts.identify(tenant_id, [user.identity], actor=ACTOR)
        return account

    async def _write(
        self,
        account: Account,
        *,
        emails: Sequence[str],
        email: str | None = None,
        display_name: str | None = None,
        metadata: Mapping[str, str],
    ) -> Account:
        """Write what the account has from Clerk; addresses that Clerk gave it before, and no longer does, are taken."""
        had = [address for address in account.metadata.get(_EMAILS, "").split(" ") if address]
        update = AccountUpdate(
            email=email,
            display_name=display_name,
            metadata={**metadata, _EMAILS: " ".join(emails)},
            unlinked_identities=[Identity("email", address) for address in had if address not in emails],
        )
        account = await self._accounts.update(account.tenant_id, account.account_id, update, actor=ACTOR)
        for address in emails:
            identity = Identity("email", address)
            if identity not in account.identities:
                # An address that is another account's stays there.
                with contextlib.suppress(IdentityConflict):
                    await self._link(account.tenant_id, account.account_id, identity)
        return account

    async def _link(self, tenant_id: TenantId, account_id: AccountId, identity: Identity) -> None:
        await self._accounts.update(tenant_id, account_id, AccountUpdate(linked_identities=[identity]), actor=ACTOR)


def _user(data: Mapping[str, Any]) -> _User:
    user_id = text_at(data, "id")
    if not user_id:
        raise InvalidRequest.of("payload.data.id", "is missing")
    primary_id = text_at(data, "primary_email_address_id")
    addresses = objects_at(data, "email_addresses", count_max=EMAILS_MAX)
    # The primary one first, the others as they stand.
    addresses.sort(key=lambda address: text_at(address, "id") != primary_id)
    verified = [
        text_at(address, "email_address").lower()
        for address in addresses
        if text_at(object_at(address, "verification"), "status") == "verified"
    ]
    # What cannot be an identity is no way to find an account either.
    verified = [email for email in verified if is_external_id(email)]
    names = [text_at(data, "first_name"), text_at(data, "last_name")]
    display_name = " ".join(name for name in names if name) or text_at(data, "username")
    return _User(
        user_id=user_id,
        changed_ms=whole_number_at(data, "updated_at"),
        email=text_at(addresses[0], "email_address") if addresses else "",
        verified_emails=_bounded(dict.fromkeys(verified)),
        display_name="".join(letter for letter in display_name if letter.isprintable())[:DISPLAY_NAME_LENGTH_MAX],
    )


def _bounded(emails: Iterable[str]) -> tuple[str, ...]:
    """Return as many addresses as the account's metadata has room to remember."""
    kept: list[str] = []
    for email in emails:
        if len(" ".join([*kept, email])) > METADATA_VALUE_LENGTH_MAX:
            break
        kept.append(email)
    return tuple(kept)


def _named_tenant(data: Mapping[str, Any]) -> str:
    for place in ("private_metadata", "public_metadata"):
        tenant_id = text_at(object_at(data, place), TENANT_KEY)
        if tenant_id:
            if not is_tenant_id(tenant_id):
                raise InvalidRequest.of(f"payload.data.{place}.{TENANT_KEY}", "is not a well-formed tenant id")
            return tenant_id
    return ""
