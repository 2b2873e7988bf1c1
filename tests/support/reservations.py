"""Short ways to reserve in tests, and looks at what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.errors import TallygateError
from tallygate_server.reservations import (
    Commit,
    CommitAnswer,
    Extend,
    ExtendAnswer,
    Release,
    ReleaseAnswer,
    Reserve,
    ReserveAnswer,
)
from tallygate_server.service import Service
from tests.support.acme import ACME, ANN, fetch

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)

Answered = TypeVar("Answered")


def a_reserve(
    feature_key: str = "ten",
    quantity: int = 1,
    *,
    account_id: str = ANN,
    tenant_id: str = ACME,
    ttl: timedelta = HOUR,
    **more: Any,
) -> Reserve:
    """Build a wish to reserve."""
    return Reserve(
        tenant_id=TenantId(tenant_id),
        account_id=AccountId(account_id),
        feature_key=FeatureKey(feature_key),
        quantity=quantity,
        ttl=ttl,
        **more,
    )


async def reserve(service: Service, feature_key: str = "ten", quantity: int = 1, **more: Any) -> ReserveAnswer:
    """Reserve."""
    return await service.reservations.reserve(a_reserve(feature_key, quantity, **more))


async def reserved(service: Service, feature_key: str = "ten", quantity: int = 1, **more: Any) -> str:
    """Reserve what there is room for; return the reservation's id."""
    answer = await reserve(service, feature_key, quantity, **more)
    assert answer.reservation is not None, answer
    return answer.reservation.reservation_id


async def commit(
    service: Service,
    reservation_id: str,
    quantity: int | None = None,
    *,
    account_id: str = ANN,
    tenant_id: str = ACME,
    **more: Any,
) -> CommitAnswer:
    """Commit."""
    return await service.reservations.commit(
        Commit(
            tenant_id=TenantId(tenant_id),
            account_id=AccountId(account_id),
            reservation_id=reservation_id,
            quantity=quantity,
            **more,
        )
    )


async def release(
    service: Service, reservation_id: str, *, account_id: str = ANN, tenant_id: str = ACME
) -> ReleaseAnswer:
    """Release."""
    return await service.reservations.release(
        Release(tenant_id=TenantId(tenant_id), account_id=AccountId(account_id), reservation_id=reservation_id)
    )


async def extend(
    service: Service, reservation_id: str, ttl: timedelta = HOUR, *, account_id: str = ANN
) -> ExtendAnswer:
    """Extend."""
    return await service.reservations.extend(
        Extend(tenant_id=ACME, account_id=AccountId(account_id), reservation_id=reservation_id, ttl=ttl)
    )


async def outcomes_of(calls: Sequence[Coroutine[Any, Any, Answered]]) -> list[Answered | TallygateError]:
    """Make calls at the same time; return answers and errors, in order."""

    async def outcome(call: Coroutine[Any, Any, Answered]) -> Answered | TallygateError:
        try:
            return await call
        except TallygateError as error:
            return error

    return list(await asyncio.gather(*(outcome(call) for call in calls)))


async def held(database_url: str, feature_key: str = "ten", *, account_id: str = ANN) -> int:
    """Return what the counters of a feature say is reserved."""
    rows = await fetch(
        database_url,
        "SELECT COALESCE(sum(reserved_quantity), 0)::bigint FROM usage_counters"
        " WHERE (tenant_id, account_id, feature_key) = ($1, $2, $3)",
        ACME,
        account_id,
        feature_key,
    )
    total: int = rows[0][0]
    return total
