"""What callers want of reservations, what they hear, and a call on its way in between."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from tallygate_server.domain.catalog import OverrunPolicy
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import Period
from tallygate_server.domain.reservation import Reservation, Settlement
from tallygate_server.errors import TallygateError
from tallygate_server.hot_accounts import HotAccount, HotFeature
from tallygate_server.storage.ledger import CounterKey
from tallygate_server.storage.reservations import ReservationKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Take quantity from a limit for a while."""

    tenant_id: TenantId
    account_id: AccountId
    feature_key: FeatureKey
    quantity: int = 1
    ttl: timedelta
    request_id: str = ""
    """Empty: every call is a new one."""
    event_time: datetime | None = None
    """When the work happens, which decides the period; None: now."""
    dimensions: dict[str, str] = field(default_factory=dict)
    overrun_policy: OverrunPolicy | None = None
    """None: as the limit says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Count the actual quantity of a reservation."""

    tenant_id: TenantId
    account_id: AccountId
    reservation_id: str
    quantity: int | None = None
    """None: as reserved."""
    overrun_policy: OverrunPolicy | None = None
    """None: as the reservation says."""
    dimensions: dict[str, str] = field(default_factory=dict)
    """These win over the reservation's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give a reservation back."""

    tenant_id: TenantId
    account_id: AccountId
    reservation_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """Hold a reservation for longer, or less long: for so much time from now on."""

    tenant_id: TenantId
    account_id: AccountId
    reservation_id: str
    ttl: timedelta


Wish = Reserve | Commit | Release | Extend


def remaining(*, limit: int, used: int, held: int) -> int:
    """Return what is left of a limit; -1 for unlimited."""
    return LIMIT_UNLIMITED if limit == LIMIT_UNLIMITED else max(0, limit - used - held)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveAnswer:
    """What `Reserve` says."""

    reason: Reason
    reservation: Reservation | None = None
    """None when denied."""
    used_quantity: int = 0
    held_quantity: int = 0
    limit_quantity: int = 0
    reset_time: datetime | None = None
    replayed: bool = False
    revision: int = 0
    upgrade_url: str = ""
    plan_key: str = ""
    grace_end_time: datetime | None = None

    @property
    def remaining_quantity(self) -> int:
        """What is left after the call; -1 for unlimited."""
        return remaining(limit=self.limit_quantity, used=self.used_quantity, held=self.held_quantity)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitAnswer:
    """What `CommitReservation` says."""

    reason: Reason
    reservation: Reservation
    settlement: Settlement
    overdrawn_quantity: int = 0
    used_quantity: int
    held_quantity: int
    limit_quantity: int
    threshold_percent: int = 0
    threshold_quantity: int = 0
    replayed: bool = False
    late: bool = False
    revision: int

    @property
    def remaining_quantity(self) -> int:
        """What is left after the call; -1 for unlimited."""
        return remaining(limit=self.limit_quantity, used=self.used_quantity, held=self.held_quantity)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseAnswer:
    """What `ReleaseReservation` says."""

    reservation: Reservation
    remaining_quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendAnswer:
    """What `ExtendReservation` says."""

    reservation: Reservation


Answer = ReserveAnswer | CommitAnswer | ReleaseAnswer | ExtendAnswer


class Place(NamedTuple):
    """Where a reservation counts, which never changes."""

    feature_key: FeatureKey
    period: Period


@dataclass(slots=True, kw_only=True)
class ReservationCall:
    """One call on its way; what is chosen for it is chosen before the first attempt: another one changes nothing."""

    wish: Wish
    account: HotAccount | None
    answer: asyncio.Future[Answer]
    feature: HotFeature | None = None
    """Of a Reserve: the right that it rests on."""
    period: Period | None = None
    """Of a Reserve: where it counts; None when the ladder denies it."""
    reason: Reason | None = None
    """Of a Reserve: why the ladder denies it, whatever the counter says."""
    fingerprint: int = 0
    reservation_id: str
    entry_id: int = 0
    recorded_time: datetime
    doubtful: bool = False
    """An attempt was lost in the middle: what it wrote may be there already."""

    @property
    def key(self) -> ReservationKey:
        """What names the reservation."""
        return (self.wish.tenant_id, self.wish.account_id, self.reservation_id)

    def counter_key(self) -> CounterKey:
        """Return the key of the counter that a placed Reserve takes from."""
        assert isinstance(self.wish, Reserve)
        assert self.period is not None
        return counter_key_of(self.wish.tenant_id, self.wish.account_id, self.wish.feature_key, self.period)

    def finish(self, outcome: Answer | TallygateError) -> None:
        """Let the caller, if it is still there, hear the outcome."""
        if self.answer.done():
            return
        if isinstance(outcome, TallygateError):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


def counter_key_of(tenant_id: TenantId, account_id: AccountId, feature_key: FeatureKey, period: Period) -> CounterKey:
    """Return the key of a counter in Postgres."""
    return CounterKey(tenant_id, account_id, feature_key, period.kind.value, period.start)


def fingerprint(wish: Reserve) -> int:
    """Return a 64-bit hash of what a request id stands for; the RPC's name sets it apart from other calls."""
    content = json.dumps(
        [
            "Reserve",
            wish.feature_key,
            wish.quantity,
            wish.ttl // timedelta(microseconds=1),
            wish.event_time.isoformat() if wish.event_time is not None else "",
            sorted(wish.dimensions.items()),
            wish.overrun_policy.value if wish.overrun_policy is not None else "",
        ],
        separators=(",", ":"),
    )
    value: int = struct.unpack(">q", hashlib.blake2b(content.encode(), digest_size=8).digest())[0]
    return value
