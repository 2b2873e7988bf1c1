"""Accounts as Postgres has them now: from the cache where Redis confirms the revision, else loaded."""

from __future__ import annotations

import asyncio
from typing import Final

from tallygate_server.counters.counters import Counters
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.hot_accounts import HotAccount, HotAccounts

_LOOKS_MAX: Final = 3
"""How often an account that keeps changing is looked for in the cache before Postgres is asked alone."""


class FreshAccounts:
    """Validates cached accounts, all those of one turn of the event loop in one round trip."""

    def __init__(self, accounts: HotAccounts, counters: Counters) -> None:
        """Look into the cache and ask Redis."""
        self._accounts = accounts
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._asking: dict[str, list[asyncio.Future[bytes | None]]] = {}

    def cached(self, tenant_id: TenantId, account_id: AccountId) -> bool:
        """Tell whether this process knows the account, at whatever revision."""
        return self._accounts.cached(tenant_id, account_id) is not None

    async def get(self, tenant_id: TenantId, account_id: AccountId) -> HotAccount | None:
        """Return the account as it was at some moment after the call came in; None when there is none.

        One that is not there is made, where its tenant allows that. Raises TenantNotFound, StoreUnavailable.
        """
        for _ in range(_LOOKS_MAX):
            if not self._counters.ready:
                break
            account = self._accounts.cached(tenant_id, account_id)
            if account is None:
                loaded = await self._accounts.load(tenant_id, account_id, ask_redis=True)
                if loaded.fresh:
                    return loaded.account
                account = loaded.account
                assert account is not None
            if await self._revision(account.key) == account.revision_bytes:
                return account
            loaded = await self._accounts.load(tenant_id, account_id, ask_redis=True)
            if loaded.fresh:
                return loaded.account
        return (await self._accounts.load(tenant_id, account_id, ask_redis=False)).account

    def _revision(self, account_key: str) -> asyncio.Future[bytes | None]:
        """Ask Redis for the account's revision; None when it does not know, or is away."""
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        if not self._asking:
            self._loop.call_soon(self._ask)
        self._asking.setdefault(account_key, []).append(future)
        return future

    def _ask(self) -> None:
        asking, self._asking = self._asking, {}

        def on_read(reply: list[bytes | None] | Exception) -> None:
            for index, futures in enumerate(asking.values()):
                for future in futures:
                    if not future.done():
                        future.set_result(None if isinstance(reply, Exception) else reply[index])

        self._counters.read_soon(list(asking), [], on_read)
