"""Grants as callers see them: where each is in its life, and what is left of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from tallygate_server.domain.call import CheckAnswer
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.credits import StoredBalance, balance_at, recurs, window_at
from tallygate_server.domain.entitlement import Grant
from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.grants import GrantRow

_INSTANT = timedelta(microseconds=1)


class GrantState(Enum):
    """Where a grant is in its life."""

    PENDING = "pending"
    ACTIVE = "active"
    USED_UP = "used_up"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantView:
    """A grant at an instant."""

    tenant_id: TenantId
    row: GrantRow
    now: datetime
    state: GrantState
    used_quantity: int
    """Units of the credit used in its window."""
    remaining_quantity: int
    """Units of the credit left in its window."""
    revision: int = 0
    replayed: bool = False

    @property
    def grant(self) -> Grant:
        """The grant itself."""
        return self.row.grant


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantPage:
    """Some grants, newest first."""

    grants: tuple[GrantView, ...]
    position: tuple[datetime, str] | None
    """Where the next page begins; None on the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideView:
    """A switch, and what it does."""

    grant: GrantView | None
    """None: it was taken back."""
    answer: CheckAnswer
    revision: int
    replayed: bool


def seen_at(row: GrantRow, now: datetime) -> datetime:
    """Return the instant at which a credit's balance is shown: now, or the last or first one of its life."""
    grant = row.grant
    end = grant.end_time
    if end is not None and end <= now:
        # Its window is the one before its end, which belongs to no window of it any more.
        return max(grant.start_time, end - _INSTANT)
    return max(grant.start_time, now)


def view_of(tenant_id: TenantId, row: GrantRow, stored: StoredBalance | None, now: datetime) -> GrantView:
    """Return the grant as it is now; `stored` is its newest balance up to the window of `seen_at`."""
    grant = row.grant
    used = remaining = 0
    if grant.kind.credit:
        if grant.feature_kind is FeatureKind.COUNTER:
            balance = balance_at(grant, seen_at(row, now), stored)
            used, remaining = balance.used, balance.remaining
        else:
            remaining = grant.quantity
    state = _state(row, now, remaining)
    if state in (GrantState.EXPIRED, GrantState.REVOKED):
        remaining = 0
    return GrantView(
        tenant_id=tenant_id, row=row, now=now, state=state, used_quantity=used, remaining_quantity=remaining
    )


def _state(row: GrantRow, now: datetime, remaining: int) -> GrantState:
    grant = row.grant
    if grant.revoke_time is not None:
        return GrantState.REVOKED
    if grant.expire_time is not None and grant.expire_time <= now:
        return GrantState.EXPIRED
    if now < grant.start_time:
        return GrantState.PENDING
    if grant.kind.credit and remaining == 0 and not _given_again(grant, now):
        return GrantState.USED_UP
    return GrantState.ACTIVE


def _given_again(grant: Grant, now: datetime) -> bool:
    if not recurs(grant):
        return False
    return grant.expire_time is None or window_at(grant, now).end != grant.expire_time
