"""Accounts: found or created by what others call them, changed, suspended.

An account is known by the id that its tenant chose, by any number of identities, or both. Whatever can
alter an entitlement (a new account, a suspension, another time zone) is an entitlement change; the rest is
a plain write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from tallygate_server.clock import Clock
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId, is_account_id
from tallygate_server.domain.limits import IDENTITIES_PER_ACCOUNT_MAX
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.errors import (
    AccountDeleted,
    AccountNotFound,
    IdentityConflict,
    InvalidRequest,
    Unavailable,
)
from tallygate_server.storage import accounts as rows
from tallygate_server.storage.account_history import CREATED_CAUSE
from tallygate_server.storage.accounts import Account, Identity
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.subscriptions import start_default_subscription
from tallygate_server.tenants import TenantDirectory
from tallygate_server.time_zones import time_zones
from tallygate_server.unique_ids import new_id

__all__ = ["Account", "AccountUpdate", "Accounts", "Identity", "is_external_id"]

ID_PREFIX: Final = "acc"
"""Of ids that the server makes."""
IDENTITIES_PER_CALL_MAX: Final = 22
"""The one and twenty more that a request may carry, and its email."""
EMAIL_LENGTH_MAX: Final = 382
DISPLAY_NAME_LENGTH_MAX: Final = 200
PREFERENCES_BYTES_MAX: Final = 16_384
METADATA_PAIRS_MAX: Final = 64
METADATA_VALUE_LENGTH_MAX: Final = 1_000
REASON_LENGTH_MAX: Final = 1_000
SEEN_EVERY: Final = timedelta(minutes=1)
"""`last_seen_time` is kept to the minute, so that identifying an account at every call stays a read."""
ATTEMPTS_MAX: Final = 5
"""Lost races of one identification; each is lost to a call that linked one of the identities just now."""

_PROVIDER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_EXTERNAL_ID = re.compile(r"[^\x00-\x20\x7f\ud800-\udfff]{1,256}")
_EMAIL = re.compile(r"[^@\x00-\x20\x7f\ud800-\udfff]{1,128}@[^@\x00-\x20\x7f\ud800-\udfff]{1,253}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_METADATA_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUpdate:
    """What `Accounts.update` shall change; None leaves as it is, an empty text clears."""

    email: str | None = None
    display_name: str | None = None
    time_zone: str | None = None
    preferences: Mapping[str, Any] = field(default_factory=dict)
    """Merged key by key at the top level; a None value removes its key."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Merged; an empty value removes its key."""
    linked_identities: Sequence[Identity] = ()
    unlinked_identities: Sequence[Identity] = ()


class _LostRaceError(Exception):
    """Somebody linked one of the identities since they were looked up: look again."""


class Accounts:
    """Finds, creates and changes accounts."""

    def __init__(
        self, database: Database, changes: EntitlementChanges, *, tenants: TenantDirectory, clock: Clock
    ) -> None:
        """Work on the database; every change of an entitlement goes through `changes`."""
        self._database = database
        self._changes = changes
        self._tenants = tenants
        self._clock = clock

    async def provision(self, tenant_id: TenantId, account_id: AccountId) -> bool:
        """Create the unknown account on the tenant's default plan where the tenant allows it.

        Return whether the account exists afterwards, whoever made it. Raises TenantNotFound.
        """
        tenant = await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            if await rows.account_exists(connection, tenant_id, account_id):
                return True
        if not tenant.settings.auto_provision:
            return False
        time_zone = tenant.settings.default_time_zone or "UTC"
        account = replace(self._blank(tenant_id, account_id), time_zone=time_zone)
        try:
            await self._create(account, (), tenant.settings.default_plan_key, actor="auto-provision")
        except _LostRaceError:
            # Made by another call or server in the same moment: just as good.
            return True
        return True

    async def identify(
        self,
        tenant_id: TenantId,
        identities: Sequence[Identity],
        *,
        account_id: str = "",
        email: str = "",
        display_name: str = "",
        time_zone: str = "",
        preferences: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        actor: str = "",
    ) -> tuple[Account, bool]:
        """Find the account by any of its identities, or create it; return it and whether it is new.

        Identities that are nobody's are linked to it, the email as one of provider `email`. An account id is
        used for a new account, or to link identities that are nobody's to an account that has this id. What
        is given of an existing account fills what is empty, and never changes its time zone. Raises
        IdentityConflict where the identities belong to different accounts, TenantNotFound, InvalidRequest.
        """
        wanted = replace(
            self._blank(tenant_id, AccountId(account_id)),
            email=_email(email),
            display_name=_display_name(display_name),
            time_zone=_time_zone(time_zone or "UTC"),
            preferences=_preferences(preferences or {}),
            metadata=_metadata(metadata or {}),
        )
        if account_id and not is_account_id(account_id):
            raise InvalidRequest.of("account_id", "is not a well-formed account id")
        given = _identities(identities, "identities")
        if email:
            given = _unique([*given, Identity("email", email.lower())])
        if not given and not account_id:
            raise InvalidRequest.of("identities", "name at least one identity, or an account id")
        if len(given) > IDENTITIES_PER_CALL_MAX:
            raise InvalidRequest.of("identities", f"at most {IDENTITIES_PER_CALL_MAX}")
        tenant = await self._tenants.get(tenant_id)
        if not time_zone and tenant.settings.default_time_zone:
            wanted = replace(wanted, time_zone=tenant.settings.default_time_zone)
        for _ in range(ATTEMPTS_MAX):
            try:
                found = await self._find(wanted, given, actor)
                if found is not None:
                    return found, False
                new = (
                    wanted
                    if account_id
                    else replace(wanted, account_id=AccountId(new_id(ID_PREFIX, wanted.create_time)))
                )
                created = await self._create(new, given, tenant.settings.default_plan_key, actor=actor)
            except _LostRaceError:
                continue
            return created, True
        raise Unavailable("identities: others keep linking them at the same time; try again")

    async def get(self, tenant_id: TenantId, account_id: AccountId) -> Account:
        """Return the account; raise TenantNotFound or AccountNotFound."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await _existing(connection, tenant_id, account_id)

    async def find(self, tenant_id: TenantId, identity: Identity) -> Account:
        """Return the account that the identity belongs to; raise TenantNotFound or AccountNotFound."""
        await self._tenants.get(tenant_id)
        (identity,) = _identities([identity], "identity")
        async with self._database.tenant_transaction(tenant_id) as connection:
            owners = await rows.owners(connection, tenant_id, [identity])
            if identity not in owners:
                raise AccountNotFound(f"{identity.provider}:{identity.external_id}")
            return await _existing(connection, tenant_id, owners[identity])

    async def list(
        self,
        tenant_id: TenantId,
        *,
        state: AccountState | None = None,
        plan_key: str = "",
        account_id_prefix: str = "",
        after_account_id: str = "",
        limit: int,
    ) -> Sequence[Account]:
        """Return accounts by id; the page goes on after the last id of the page before.

        Without a state: all but the deleted ones. Raises TenantNotFound.
        """
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await rows.page_of_accounts(
                connection,
                tenant_id,
                state=state,
                plan_key=plan_key,
                account_id_prefix=account_id_prefix,
                after_account_id=after_account_id,
                limit=limit,
            )

    async def update(
        self, tenant_id: TenantId, account_id: AccountId, update: AccountUpdate, *, actor: str = ""
    ) -> Account:
        """Change details and identities; only what is given, and nothing where nothing differs.

        Raises AccountNotFound, AccountDeleted, IdentityConflict, TenantNotFound, InvalidRequest.
        """
        linked = _identities(update.linked_identities, "linked_identities")
        unlinked = _identities(update.unlinked_identities, "unlinked_identities")
        checked = replace(
            update,
            email=None if update.email is None else _email(update.email),
            display_name=None if update.display_name is None else _display_name(update.display_name),
            time_zone=None if update.time_zone is None else _time_zone(update.time_zone or "UTC"),
            metadata=_metadata(update.metadata),
            linked_identities=linked,
            unlinked_identities=unlinked,
        )
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            before = await _changeable(connection, tenant_id, account_id)
            values = _changed_values(before, checked)
            if "time_zone" not in values:
                await self._write_update(connection, before, checked, actor)
                return await _existing(connection, tenant_id, account_id)
        # Another time zone moves the account's days and months.
        cause = "account.time_zone"
        async with self._changes.begin(tenant_id, [account_id], actor=actor, cause=cause) as change:
            before = await _changeable(change.connection, tenant_id, account_id)
            await self._write_update(change.connection, before, checked, actor)
            after = await _existing(change.connection, tenant_id, account_id)
        return replace(after, revision=change.revisions[account_id])

    async def suspend(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        suspend: bool = True,
        reason: str = "",
        actor: str = "",
    ) -> Account:
        """Suspend the account, or lift its suspension; repeating either changes at most the reason.

        Raises AccountNotFound, AccountDeleted, TenantNotFound, InvalidRequest.
        """
        if len(reason) > REASON_LENGTH_MAX or "\0" in reason:
            raise InvalidRequest.of("reason_text", f"at most {REASON_LENGTH_MAX} characters")
        state = AccountState.SUSPENDED if suspend else AccountState.ACTIVE
        values = {
            "state": state.value,
            "suspend_reason": reason if suspend else "",
            "update_time": self._clock.now(),
        }
        action = "account.suspend" if suspend else "account.reinstate"
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            before = await _changeable(connection, tenant_id, account_id)
            if before.state is state:
                if before.suspend_reason == values["suspend_reason"]:
                    return before
                await rows.write_account(connection, tenant_id, account_id, values)
                await self._audit(connection, before, action, {"reason": reason}, actor)
                return await _existing(connection, tenant_id, account_id)
        async with self._changes.begin(tenant_id, [account_id], actor=actor, cause=action) as change:
            before = await _changeable(change.connection, tenant_id, account_id)
            await rows.write_account(change.connection, tenant_id, account_id, values)
            await self._audit(change.connection, before, action, {"reason": reason}, actor)
            await change.emit(action, account_id, {"reason": reason})
            after = await _existing(change.connection, tenant_id, account_id)
        return replace(after, revision=change.revisions[account_id])

    # --- Steps ------------------------------------------------------------------------------------------

    def _blank(self, tenant_id: TenantId, account_id: AccountId) -> Account:
        now = self._clock.now()
        return Account(
            tenant_id=tenant_id,
            account_id=account_id,
            state=AccountState.ACTIVE,
            revision=1,
            time_zone="UTC",
            display_name="",
            email="",
            preferences={},
            metadata={},
            suspend_reason="",
            create_time=now,
            update_time=now,
            last_seen_time=now,
        )

    async def _find(self, wanted: Account, given: Sequence[Identity], actor: str) -> Account | None:
        """Return the account that is meant, linked and filled in; None where there is none."""
        tenant_id = wanted.tenant_id
        async with self._database.tenant_transaction(tenant_id) as connection:
            owners = await rows.owners(connection, tenant_id, given)
            account_ids = sorted(set(owners.values()))
            if len(account_ids) > 1:
                raise _conflict(owners)
            account_id = account_ids[0] if account_ids else wanted.account_id
            if not account_id:
                return None
            account = await rows.read_account(connection, tenant_id, account_id)
            if account is None:
                return None
            missing = [identity for identity in given if identity not in owners]
            values = _fill(account, wanted)
            seen = account.last_seen_time
            if not missing and not values and seen is not None and wanted.create_time - seen < SEEN_EVERY:
                return account
            if account.state is AccountState.DELETED:
                return account
            # Locked before its identities, as everywhere, and looked at again.
            account = await rows.read_account(connection, tenant_id, account_id, lock=True)
            assert account is not None  # accounts are never deleted from the table
            values = _fill(account, wanted)
            await self._link(connection, account, missing)
            values["last_seen_time"] = max(wanted.create_time, account.last_seen_time or wanted.create_time)
            if missing or len(values) > 1:
                values["update_time"] = wanted.create_time
                detail = {"linked": [_named(identity) for identity in missing], "filled": sorted(values)}
                await self._audit(connection, account, "account.identify", detail, actor)
            await rows.write_account(connection, tenant_id, account_id, values)
            return await _existing(connection, tenant_id, account_id)

    async def _create(
        self, new: Account, given: Sequence[Identity], default_plan_key: PlanKey | None, *, actor: str
    ) -> Account:
        """Create the account with its identities and first subscription.

        Raises _LostRaceError, having written nothing, where somebody else was first.
        """
        tenant_id, account_id, now = new.tenant_id, new.account_id, new.create_time
        cause = CREATED_CAUSE
        async with self._changes.begin(tenant_id, [account_id], actor=actor, cause=cause) as change:
            if not await rows.add_account(change.connection, new):
                raise _LostRaceError
            if await rows.link_identities(change.connection, tenant_id, account_id, given, at=now):
                raise _LostRaceError
            await start_default_subscription(change, account_id, default_plan_key, at=now)
            detail = {"identities": [_named(identity) for identity in given]}
            await self._audit(change.connection, new, "account.create", detail, actor)
            await change.emit("account.created", account_id, detail)
            account = await _existing(change.connection, tenant_id, account_id)
        return replace(account, revision=change.revisions[account_id])

    async def _link(self, connection: Connection, account: Account, identities: Sequence[Identity]) -> None:
        if not identities:
            return
        if len(account.identities) + len(identities) > IDENTITIES_PER_ACCOUNT_MAX:
            raise InvalidRequest.of("identities", f"an account has at most {IDENTITIES_PER_ACCOUNT_MAX}")
        new = [identity for identity in identities if identity not in account.identities]
        now = self._clock.now()
        if await rows.link_identities(connection, account.tenant_id, account.account_id, new, at=now):
            raise _LostRaceError

    async def _write_update(self, connection: Connection, before: Account, update: AccountUpdate, actor: str) -> None:
        values = _changed_values(before, update)
        linked = [identity for identity in update.linked_identities if identity not in before.identities]
        unlinked = [identity for identity in update.unlinked_identities if identity in before.identities]
        if not values and not linked and not unlinked:
            return
        left = set(before.identities) - set(unlinked) | set(linked)
        if unlinked and not left and before.account_id.startswith(f"{ID_PREFIX}_"):
            raise InvalidRequest.of("unlinked_identities", "without one of them nobody would find the account again")
        if unlinked:
            await rows.unlink_identities(connection, before.tenant_id, before.account_id, unlinked)
        if linked:
            owners = await rows.owners(connection, before.tenant_id, linked)
            if owners:
                raise _taken(min(owners))
            try:
                await self._link(connection, before, linked)
            except _LostRaceError:
                raise _taken(linked[0]) from None
        values["update_time"] = self._clock.now()
        await rows.write_account(connection, before.tenant_id, before.account_id, values)
        detail = {
            "changed": sorted(set(values) - {"update_time"}),
            "linked": [_named(identity) for identity in linked],
            "unlinked": [_named(identity) for identity in unlinked],
        }
        await self._audit(connection, before, "account.update", detail, actor)

    async def _audit(
        self, connection: Connection, account: Account, action: str, detail: Mapping[str, Any], actor: str
    ) -> None:
        await add_audit_entry(
            connection,
            account.tenant_id,
            actor=actor,
            action=action,
            subject=f"account:{account.account_id}",
            detail=detail,
        )


async def _existing(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> Account:
    account = await rows.read_account(connection, tenant_id, account_id)
    if account is None:
        raise AccountNotFound(account_id)
    return account


async def _changeable(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> Account:
    account = await rows.read_account(connection, tenant_id, account_id, lock=True)
    if account is None:
        raise AccountNotFound(account_id)
    if account.state is AccountState.DELETED:
        raise AccountDeleted(account_id)
    return account


def _changed_values(before: Account, update: AccountUpdate) -> dict[str, Any]:
    """Return the columns that the update changes; raise where the result would be too large."""
    values: dict[str, Any] = {}
    for name in ("email", "display_name", "time_zone"):
        wanted = getattr(update, name)
        if wanted is not None and wanted != getattr(before, name):
            values[name] = wanted
    if update.preferences:
        merged = {**before.preferences, **update.preferences}
        preferences = _preferences({key: value for key, value in merged.items() if value is not None})
        if preferences != before.preferences:
            values["preferences"] = preferences
    if update.metadata:
        merged = {**before.metadata, **update.metadata}
        metadata = _metadata({key: value for key, value in merged.items() if value})
        if metadata != before.metadata:
            values["metadata"] = metadata
    return values


def _fill(account: Account, wanted: Account) -> dict[str, Any]:
    """Return the columns that are empty and that the caller knows something for."""
    values: dict[str, Any] = {}
    for name in ("email", "display_name"):
        if getattr(wanted, name) and not getattr(account, name):
            values[name] = getattr(wanted, name)
    missing = {key: value for key, value in wanted.preferences.items() if key not in account.preferences}
    if missing:
        values["preferences"] = _preferences({**account.preferences, **missing})
    return values


def _conflict(owners: Mapping[Identity, AccountId]) -> IdentityConflict:
    named = ", ".join(f"{_named(identity)} to {account_id!r}" for identity, account_id in sorted(owners.items()))
    first = min(owners)
    return IdentityConflict(
        f"identities: they belong to different accounts: {named}",
        identity_provider=first.provider,
        field="identities",
    )


def _taken(identity: Identity) -> IdentityConflict:
    return IdentityConflict(
        f"linked_identities: {_named(identity)} belongs to another account",
        identity_provider=identity.provider,
        field="linked_identities",
    )


def _named(identity: Identity) -> str:
    return f"{identity.provider}:{identity.external_id}"


def _identities(identities: Sequence[Identity], path: str) -> list[Identity]:
    """Return the identities in one spelling, each once; raise InvalidRequest for a malformed one."""
    found = []
    for index, identity in enumerate(identities):
        if _PROVIDER.fullmatch(identity.provider) is None:
            message = "1 to 32 characters: a lower-case letter, then lower-case letters, digits, '_' or '-'"
            raise InvalidRequest.of(f"{path}[{index}].provider", message)
        if not is_external_id(identity.external_id):
            message = "1 to 256 characters without spaces and control characters"
            raise InvalidRequest.of(f"{path}[{index}].external_id", message)
        external_id = identity.external_id.lower() if identity.provider == "email" else identity.external_id
        found.append(Identity(identity.provider, external_id))
    return _unique(found)


def is_external_id(text: str) -> bool:
    """Tell whether somebody may be known by this text."""
    return _EXTERNAL_ID.fullmatch(text) is not None


def _unique(identities: Sequence[Identity]) -> list[Identity]:
    return list(dict.fromkeys(identities))


def _email(email: str) -> str:
    if email and (len(email) > EMAIL_LENGTH_MAX or _EMAIL.fullmatch(email) is None):
        raise InvalidRequest.of("email", "is not an email address")
    return email


def _display_name(name: str) -> str:
    if len(name) > DISPLAY_NAME_LENGTH_MAX or _CONTROL.search(name):
        raise InvalidRequest.of(
            "display_name", f"at most {DISPLAY_NAME_LENGTH_MAX} characters, none of them a control character"
        )
    return name


def _time_zone(name: str) -> str:
    if name not in time_zones():
        raise InvalidRequest.of("time_zone", f"{name[:64]!r} is no IANA time zone such as Europe/Berlin")
    return name


def _preferences(preferences: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(preferences, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest.of("preferences", "are not JSON that can be stored") from None
    if size > PREFERENCES_BYTES_MAX:
        raise InvalidRequest.of("preferences", f"at most {PREFERENCES_BYTES_MAX} bytes as JSON, here are {size}")
    if "\\u0000" in text:
        raise InvalidRequest.of("preferences", "contain a character that cannot be stored")
    return dict(preferences)


def _metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    if len(metadata) > METADATA_PAIRS_MAX:
        raise InvalidRequest.of("metadata", f"at most {METADATA_PAIRS_MAX} pairs")
    for key, value in metadata.items():
        if _METADATA_KEY.fullmatch(key) is None:
            raise InvalidRequest.of("metadata", f"{key[:64]!r} is no key: up to 64 letters, digits, '_', '.' and '-'")
        if len(value) > METADATA_VALUE_LENGTH_MAX or re.search(r"[\x00\ud800-\udfff]", value):
            raise InvalidRequest.of(f"metadata[{key}]", f"at most {METADATA_VALUE_LENGTH_MAX} characters")
    return dict(metadata)
