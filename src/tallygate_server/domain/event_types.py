"""Types of events: what they are called inside, and what tenants know them as."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PublicEvent:
    """What tenants know an event as."""

    type: str
    change: str = ""
    """Which of several changes of this type it was; told in the event's data."""


_OTHER_CHANGES_OF_SUBSCRIPTIONS: Final = (
    "changed",
    "scheduled",
    "schedule_canceled",
    "renewed",
    "recovered",
    "paused",
    "resumed",
    "grace_ended",
)

PUBLIC_EVENTS: Final[Mapping[str, PublicEvent]] = {
    "usage.threshold_crossed": PublicEvent("usage.threshold_crossed"),
    "usage.exhausted": PublicEvent("usage.exhausted"),
    "entitlement.changed": PublicEvent("entitlement.changed"),
    "grant.created": PublicEvent("grant.created"),
    "grant.expiring": PublicEvent("grant.expiring"),
    "grant.revoked": PublicEvent("grant.revoked"),
    "subscription.created": PublicEvent("subscription.created"),
    "subscription.trial_will_end": PublicEvent("subscription.trial_ending"),
    "subscription.past_due": PublicEvent("subscription.past_due"),
    "subscription.canceled": PublicEvent("subscription.canceled"),
    "subscription.expired": PublicEvent("subscription.expired"),
    **{
        f"subscription.{change}": PublicEvent("subscription.updated", change)
        for change in _OTHER_CHANGES_OF_SUBSCRIPTIONS
    },
    "payment.succeeded": PublicEvent("payment.succeeded"),
    "payment.failed": PublicEvent("payment.failed"),
    "payment.refunded": PublicEvent("payment.refunded"),
    "payment.disputed": PublicEvent("payment.disputed"),
    "payment.fraud_warning": PublicEvent("payment.fraud_warning"),
    "account.created": PublicEvent("account.created"),
    "account.suspend": PublicEvent("account.suspended"),
    "account.reinstate": PublicEvent("account.reinstated"),
    "account.erased": PublicEvent("account.erased"),
    "catalog.changed": PublicEvent("catalog.applied"),
    "job.failed": PublicEvent("job.failed"),
    "endpoint.disabled": PublicEvent("endpoint.disabled"),
    **{
        f"ayrshare.{name}": PublicEvent(f"ayrshare.{name}")
        for name in (
            "scheduled",
            "social",
            "feed",
            "batch",
            "messages",
            "comments",
            "mentions",
            "automations",
            "suspended",
        )
    },
}
"""By the type inside. Events of any other type are for ourselves and never shown."""

PUBLIC_TYPES: Final = frozenset(event.type for event in PUBLIC_EVENTS.values())


def wants(event_types: Collection[str], event_type: str) -> bool:
    """Tell whether somebody who names these types wants an event of the type; nobody's names stand for all."""
    group = event_type.partition(".")[0]
    return not event_types or event_type in event_types or f"{group}.*" in event_types
