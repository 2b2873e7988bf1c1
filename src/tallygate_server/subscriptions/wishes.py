"""What callers ask for, checked as far as it can be without looking anything up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from tallygate_server.catalog_rules import TRIAL_DAYS_MAX
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import PlanKey, is_request_id
from tallygate_server.domain.subscription import BillingProvider
from tallygate_server.errors import InvalidRequest

QUANTITY_MAX: Final = 1_000_000
METADATA_PAIRS_MAX: Final = 32
METADATA_KEY_LENGTH_MAX: Final = 40
METADATA_VALUE_LENGTH_MAX: Final = 500


class ChangeTiming(Enum):
    """When a change of a subscription takes effect."""

    NOW = "now"
    PERIOD_END = "period_end"
    AT_TIME = "at_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSubscription:
    """What `Subscriptions.create` is asked for; None and empty mean the default."""

    plan_key: PlanKey
    interval: BillingInterval | None = None
    """None: the month where the plan is sold by month, else its only interval."""
    provider: BillingProvider | None = None
    currency: str = ""
    quantity: int = 1
    trial_days: int | None = None
    """None: as many as the plan gives; 0: none."""
    start_time: datetime | None = None
    end_time: datetime | None = None
    """None: it runs until it is canceled."""
    payment_method_id: str = ""
    """At the provider; empty: the customer's default."""
    promotion_code: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMove:
    """What `Subscriptions.change_plan` is asked for; None means as before."""

    plan_key: PlanKey
    interval: BillingInterval | None = None
    quantity: int | None = None
    provider: BillingProvider | None = None
    timing: ChangeTiming | None = None
    """None: an upgrade now, a downgrade at the end of the paid period."""
    effective_time: datetime | None = None
    """With AT_TIME."""
    payment_method_id: str = ""
    preview_time: datetime | None = None


def check_new(wanted: NewSubscription) -> None:
    """Raise InvalidRequest for what nobody can have."""
    check_quantity(wanted.quantity)
    if wanted.trial_days is not None and not 0 <= wanted.trial_days <= TRIAL_DAYS_MAX:
        raise InvalidRequest.of("trial_days", f"must be between 0 and {TRIAL_DAYS_MAX}")
    if len(wanted.metadata) > METADATA_PAIRS_MAX:
        raise InvalidRequest.of("metadata", f"at most {METADATA_PAIRS_MAX} pairs")
    for key, value in wanted.metadata.items():
        if not key or len(key) > METADATA_KEY_LENGTH_MAX or len(value) > METADATA_VALUE_LENGTH_MAX or "\0" in value:
            raise InvalidRequest.of(
                f"metadata[{key[:METADATA_KEY_LENGTH_MAX]}]",
                f"at most {METADATA_KEY_LENGTH_MAX} in a key, {METADATA_VALUE_LENGTH_MAX} in a value",
            )


def check_quantity(quantity: int) -> None:
    """Raise InvalidRequest for a number of seats that is out of bounds."""
    if not 1 <= quantity <= QUANTITY_MAX:
        raise InvalidRequest.of("quantity", f"must be between 1 and {QUANTITY_MAX}")


def check_request_id(request_id: str) -> None:
    """Raise InvalidRequest for one that is malformed."""
    if request_id and not is_request_id(request_id):
        raise InvalidRequest.of("request_id", "must be up to 128 printable ASCII characters without spaces")


def check_timing(timing: ChangeTiming | None, effective_time: datetime | None, now: datetime) -> None:
    """Raise InvalidRequest for a time without its timing, a timing without its time, and a time that is over."""
    if timing is not ChangeTiming.AT_TIME:
        if effective_time is not None:
            raise InvalidRequest.of("effective_time", "is used with CHANGE_TIMING_AT_TIME only")
    elif effective_time is None:
        raise InvalidRequest.of("effective_time", "is required with CHANGE_TIMING_AT_TIME")
    elif effective_time <= now:
        raise InvalidRequest.of("effective_time", "must be in the future")


def fingerprint_of(method: str, *content: object) -> str:
    """Return a digest of what is asked: the same for a retry, another one for anything else."""
    return hashlib.sha256(f"{method} {json.dumps(_plain(content), sort_keys=True)}".encode()).hexdigest()


def _plain(content: object) -> object:
    if is_dataclass(content):
        return [_plain(getattr(content, each.name)) for each in fields(content)]
    if isinstance(content, tuple):
        return [_plain(each) for each in content]
    if isinstance(content, Mapping):
        return dict(content)
    if isinstance(content, Enum):
        return content.value
    if isinstance(content, datetime):
        return content.timestamp()
    return content
