"""The use cases of reservations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Self, TypeVar

from tallygate_server.clock import Clock
from tallygate_server.counters.counters import Counters
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.entitlement import AccountState, decide
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.reservation import Reservation, ReservationState, standing
from tallygate_server.errors import FeatureNotMetered, ReservationNotFound
from tallygate_server.hot_accounts import HotAccount, HotAccounts
from tallygate_server.reservations.calls import (
    Answer,
    Commit,
    CommitAnswer,
    Extend,
    ExtendAnswer,
    Release,
    ReleaseAnswer,
    ReservationCall,
    Reserve,
    ReserveAnswer,
    Wish,
    fingerprint,
)
from tallygate_server.reservations.commit_loop import ReservationCommits
from tallygate_server.reservations.fresh_accounts import FreshAccounts
from tallygate_server.storage import reservations as rows
from tallygate_server.storage.engine import Database
from tallygate_server.storage.ledger import Ledger
from tallygate_server.tenants import TenantDirectory
from tallygate_server.unique_ids import new_id

_Answered = TypeVar("_Answered", ReserveAnswer, CommitAnswer, ReleaseAnswer, ExtendAnswer)


class Reservations:
    """Takes quantity from limits for a while, and counts what was really consumed."""

    def __init__(
        self,
        *,
        accounts: HotAccounts,
        counters: Counters,
        ledger: Ledger,
        database: Database,
        tenants: TenantDirectory,
        clock: Clock,
        next_entry_id: Callable[[], int],
        late_window: timedelta,
        waiting_max: int,
        timeout_ms: int,
    ) -> None:
        """Wire the use cases; entering begins to commit. A commit may come `late_window` after the expiry."""
        self._fresh = FreshAccounts(accounts, counters)
        self._database = database
        self._tenants = tenants
        self._clock = clock
        self._next_entry_id = next_entry_id
        self._loop = asyncio.get_running_loop()
        self._commits = ReservationCommits(
            ledger=ledger,
            counters=counters,
            clock=clock,
            tenants=tenants,
            late_window=late_window,
            waiting_max=waiting_max,
            timeout_ms=timeout_ms,
        )

    async def __aenter__(self) -> Self:
        """Begin to commit."""
        await self._commits.start()
        return self

    async def __aexit__(self, *_raised: object) -> None:
        """Finish what waits, then stop."""
        await self._commits.close()

    async def reserve(self, wish: Reserve) -> ReserveAnswer:
        """Take quantity from a limit, all of it or nothing.

        Raises FeatureNotMetered, RequestIdReused, TenantNotFound, StoreUnavailable, OutcomeUnknown, Overloaded.
        """
        account = await self._fresh.get(wish.tenant_id, wish.account_id)
        call = self._call(wish, account, new_id("rsv", self._clock.now()))
        call.fingerprint = fingerprint(wish)
        await self._place(call, wish, account)
        return await self._committed(call, ReserveAnswer)

    async def commit(self, wish: Commit) -> CommitAnswer:
        """Count the actual quantity of a reservation and give the rest back.

        Raises ReservationNotFound, ReservationClosed, TenantNotFound, StoreUnavailable, OutcomeUnknown, Overloaded.
        """
        return await self._committed(await self._named(wish), CommitAnswer)

    async def release(self, wish: Release) -> ReleaseAnswer:
        """Give a reservation back without counting anything; raises as `commit` does."""
        return await self._committed(await self._named(wish), ReleaseAnswer)

    async def extend(self, wish: Extend) -> ExtendAnswer:
        """Set a new time to live, counted from now; raises as `commit` does."""
        return await self._committed(await self._named(wish), ExtendAnswer)

    async def list(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        feature_key: str = "",
        state: ReservationState | None = None,
        before_reservation_id: str = "",
        limit: int,
    ) -> list[Reservation]:
        """Return reservations, newest first, as they stand now: those before one, at most so many.

        Raises TenantNotFound, StoreUnavailable.
        """
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            found = await rows.read_page(
                connection,
                tenant_id,
                account_id,
                feature_key=feature_key,
                state=state,
                now=now,
                before_reservation_id=before_reservation_id,
                limit=limit,
            )
        return [standing(each, now) for each in found]

    async def _named(self, wish: Commit | Release | Extend) -> ReservationCall:
        """Begin a call on a reservation that must be there."""
        if not self._fresh.cached(wish.tenant_id, wish.account_id):
            # Loading an account that is not there may make it, which is not what naming a reservation is for.
            await self._tenants.get(wish.tenant_id)
            async with self._database.tenant_transaction(wish.tenant_id) as connection:
                if not await rows.exists(connection, wish.tenant_id, wish.account_id, wish.reservation_id):
                    raise ReservationNotFound(wish.reservation_id)
        account = await self._fresh.get(wish.tenant_id, wish.account_id)
        if account is None:
            raise ReservationNotFound(wish.reservation_id)
        return self._call(wish, account, wish.reservation_id)

    def _call(self, wish: Wish, account: HotAccount | None, reservation_id: str) -> ReservationCall:
        return ReservationCall(
            wish=wish,
            account=account,
            answer=self._loop.create_future(),
            reservation_id=reservation_id,
            entry_id=self._next_entry_id(),
            recorded_time=self._clock.now(),
        )

    async def _committed(self, call: ReservationCall, kind: type[_Answered]) -> _Answered:
        self._commits.take(call)
        answer: Answer = await call.answer
        assert isinstance(answer, kind)
        return answer

    async def _place(self, call: ReservationCall, wish: Reserve, account: HotAccount | None) -> None:
        """Find the counter of a Reserve, or the rung of the ladder that denies it whatever the counter says."""
        feature = account.feature(wish.feature_key, self._clock.now_ms()) if account is not None else None
        call.feature = feature
        if feature is None:
            kind = await self._declared_kind(wish)
        else:
            kind = feature.entitlement.kind
        if kind is not None and not kind.metered:
            raise FeatureNotMetered(wish.feature_key, kind.value)
        state = account.sources.state if account is not None else None
        if account is not None and feature is not None and feature.metered and state is AccountState.ACTIVE:
            call.period = feature.period if wish.event_time is None else account.period_at(feature, wish.event_time)
            return
        call.reason = decide(
            feature_known=kind is not None,
            account_state=state,
            entitlement=feature.entitlement if feature is not None else None,
            quantity=wish.quantity,
            used=0,
            held=0,
        )
        assert not call.reason.allows

    async def _declared_kind(self, wish: Reserve) -> FeatureKind | None:
        """Return what the catalog says of a feature that no source mentions; None when it does not know it."""
        tenant = self._tenants.last_known(wish.tenant_id)
        if tenant is None or wish.feature_key not in tenant.features:
            tenant = await self._tenants.refresh(wish.tenant_id)
        feature = tenant.features.get(wish.feature_key)
        return feature.kind if feature is not None else None
