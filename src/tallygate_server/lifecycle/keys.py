"""Data keys: one for each account, wrapped with a master key, kept apart from what they seal.

The wrapped keys lie in the key store, never in Postgres: a backup of the database, its write-ahead log and the archived
objects are all unreadable once the key store has let go of a key. Postgres knows only which key belongs to whom.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import StoreUnavailable
from tallygate_server.lifecycle.objects import ObjectMissing, ObjectStore, ObjectStoreUnavailable, StoredObject
from tallygate_server.lifecycle.sealing import KEY_BYTES, SealBroken, seal, unseal
from tallygate_server.storage.data_keys import (
    KeyRow,
    KeyState,
    add_active_key,
    is_being_erased,
    read_active_key,
    set_key_state,
)
from tallygate_server.storage.engine import Database

CACHED_KEYS_MAX: Final = 10_000
CACHE_SECONDS: Final = 30.0
"""A destroyed key is forgotten by every server within this time at the latest; usually at once, by notice."""


class KeyDestroyed(Exception):
    """The key is gone, and with it all that it sealed."""


class KeyUnreadable(Exception):
    """The stored key does not open with any master key of the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterKeys:
    """The keys that wrap data keys: the first wraps, all open."""

    keys: Mapping[str, bytes] = field(repr=False)
    """By id, in order."""

    @property
    def current_id(self) -> str:
        """Return the id of the key that wraps."""
        return next(iter(self.keys))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKey:
    """A key of one account, ready to seal with."""

    key_id: str
    secret: bytes = field(repr=False)


class KeyStore:
    """Wrapped keys, one object for each."""

    def __init__(self, objects: ObjectStore, master_keys: MasterKeys) -> None:
        """Keep keys in this store, which should hold nothing else and is not backed up with the data."""
        self._objects = objects
        self.master_keys = master_keys

    async def write(self, tenant_id: TenantId, key_id: str, secret: bytes) -> None:
        """Store a key, wrapped with the current master key. Raises StoreUnavailable."""
        master_key_id = self.master_keys.current_id
        wrapped = seal(self.master_keys.keys[master_key_id], secret, place=_path(tenant_id, key_id))
        document = {"master_key_id": master_key_id, "wrapped": wrapped.hex()}
        try:
            await self._objects.put(_path(tenant_id, key_id), json.dumps(document).encode())
        except ObjectStoreUnavailable as error:
            raise StoreUnavailable("the key store cannot be reached just now") from error

    async def read(self, tenant_id: TenantId, key_id: str) -> bytes:
        """Return a key. Raises KeyDestroyed, KeyUnreadable, StoreUnavailable."""
        document = await self._document(tenant_id, key_id)
        master_key = self.master_keys.keys.get(document.get("master_key_id", ""))
        if master_key is None:
            raise KeyUnreadable(key_id)
        try:
            return unseal(master_key, bytes.fromhex(document["wrapped"]), place=_path(tenant_id, key_id))
        except (SealBroken, ValueError, KeyError):
            raise KeyUnreadable(key_id) from None

    async def wrapped_with(self, tenant_id: TenantId, key_id: str) -> str:
        """Return the id of the master key that wraps a key. Raises KeyDestroyed, StoreUnavailable."""
        return (await self._document(tenant_id, key_id)).get("master_key_id", "")

    async def destroy(self, tenant_id: TenantId, key_id: str) -> bool:
        """Overwrite and delete a key; False where it was gone. Raises StoreUnavailable."""
        path = _path(tenant_id, key_id)
        try:
            size = await self._objects.size(path)
            await self._objects.put(path, os.urandom(size))
            return await self._objects.delete(path)
        except ObjectMissing:
            return False
        except ObjectStoreUnavailable as error:
            raise StoreUnavailable("the key store cannot be reached just now") from error

    async def list(self, tenant_id: TenantId) -> AsyncIterator[StoredObject]:
        """List what is stored of the tenant. Raises ObjectStoreUnavailable."""
        async for found in self._objects.list(f"{tenant_id}/"):
            yield found

    async def _document(self, tenant_id: TenantId, key_id: str) -> dict[str, str]:
        try:
            content = await self._objects.get(_path(tenant_id, key_id))
        except ObjectMissing:
            raise KeyDestroyed(key_id) from None
        except ObjectStoreUnavailable as error:
            raise StoreUnavailable("the key store cannot be reached just now") from error
        try:
            document: dict[str, str] = json.loads(content)
        except ValueError:
            raise KeyUnreadable(key_id) from None
        return document


class DataKeys:
    """The keys of accounts: made when first needed, kept in memory for a short while."""

    def __init__(self, database: Database, store: KeyStore, clock: Clock) -> None:
        """Find keys in the database and the key store."""
        self._database = database
        self.store = store
        self._clock = clock
        self._cache: OrderedDict[tuple[str, str], tuple[bytes, int]] = OrderedDict()
        self._forgotten = 0

    async def to_seal(self, tenant_id: TenantId, account_id: AccountId) -> DataKey:
        """Return the account's active key, a new one where it has none.

        Raises StoreUnavailable, and KeyDestroyed where the account is being erased.
        """
        async with self._database.tenant_transaction(tenant_id) as connection:
            row = await read_active_key(connection, tenant_id, account_id)
        if row is None:
            row = await self._create(tenant_id, account_id)
        return DataKey(key_id=row.key_id, secret=await self.to_unseal(tenant_id, row.key_id))

    async def to_unseal(self, tenant_id: TenantId, key_id: str) -> bytes:
        """Return a key by its id. Raises KeyDestroyed, KeyUnreadable, StoreUnavailable."""
        now = self._clock.monotonic_ns()
        cached = self._cache.get((tenant_id, key_id))
        if cached is not None and now - cached[1] < CACHE_SECONDS * 1e9:
            return cached[0]
        forgotten = self._forgotten
        secret = await self.store.read(tenant_id, key_id)
        if forgotten != self._forgotten:
            # A key was destroyed while this one was read; it may have been this one, and is not kept.
            return secret
        self._cache[tenant_id, key_id] = (secret, now)
        self._cache.move_to_end((tenant_id, key_id))
        while len(self._cache) > CACHED_KEYS_MAX:
            self._cache.popitem(last=False)
        return secret

    def forget(self, tenant_id: TenantId, key_id: str) -> None:
        """Drop a key from memory."""
        self._forgotten += 1
        self._cache.pop((tenant_id, key_id), None)

    @property
    def cached_count(self) -> int:
        """Return how many keys are in memory."""
        return len(self._cache)

    async def _create(self, tenant_id: TenantId, account_id: AccountId) -> KeyRow:
        """Make a key; where another server was faster, return that one's."""
        key_id, secret = new_key_id(), secrets.token_bytes(KEY_BYTES)
        row = KeyRow(
            tenant_id=tenant_id,
            key_id=key_id,
            account_id=account_id,
            state=KeyState.ACTIVE,
            create_time=self._clock.now(),
        )
        # Stored before anybody can find it, so that no segment is ever sealed with a key that a crash took away.
        await self.store.write(tenant_id, key_id, secret)
        async with self._database.tenant_transaction(tenant_id) as connection:
            # An account that is being erased gets no new key: nothing more can be put into it.
            erased = await is_being_erased(connection, tenant_id, account_id)
            added = not erased and await add_active_key(connection, row)
            present = row if added or erased else await read_active_key(connection, tenant_id, account_id)
        if not added:
            await self.store.destroy(tenant_id, key_id)
        if erased:
            raise KeyDestroyed(key_id)
        if present is None:
            raise StoreUnavailable("the account's key is being replaced; try again")
        return present

    async def retire(self, tenant_id: TenantId, account_id: AccountId) -> None:
        """Let the account's next sealing make a new key; the present one still opens what it sealed."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            row = await read_active_key(connection, tenant_id, account_id)
            if row is not None:
                await set_key_state(connection, tenant_id, row.key_id, KeyState.RETIRED, now=self._clock.now())


def new_key_id() -> str:
    """Return a new id."""
    return f"dk_{secrets.token_hex(12)}"


def _path(tenant_id: TenantId, key_id: str) -> str:
    return f"{tenant_id}/{key_id}.json"
