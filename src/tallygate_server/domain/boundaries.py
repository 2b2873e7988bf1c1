"""What time does to an account's entitlements by itself, each with its instant and a name."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from tallygate_server.domain.entitlement import AccountSources, SubscriptionSource
from tallygate_server.domain.subscription import access_window
from tallygate_server.domain.timeline import StepKind, steps_until

_STEP_CAUSES: Final = {
    StepKind.EXPIRY: "subscription.expired",
    StepKind.TRIAL_END: "trial.ended",
    StepKind.RESUMPTION: "subscription.resumed",
    StepKind.SCHEDULED_CHANGE: "subscription.updated",
}


def boundaries_between(sources: AccountSources, after: datetime, until: datetime) -> list[tuple[datetime, str]]:
    """Return what begins or ends by itself in `(after, until]`, in order."""
    found: list[tuple[datetime | None, str]] = []
    for stored in sources.subscriptions:
        found += _of_subscription(stored, until)
    for grant in sources.grants:
        found += [
            (grant.start_time, "grant.began"),
            (grant.expire_time, "grant.expired"),
            (grant.grace_end_time, "grace.ended"),
        ]
    return sorted((at, cause) for at, cause in found if at is not None and after < at <= until)


def _of_subscription(stored: SubscriptionSource, until: datetime) -> list[tuple[datetime | None, str]]:
    found: list[tuple[datetime | None, str]] = [
        (step.at, _STEP_CAUSES[step.kind]) for step in steps_until(stored.subscription, stored.change, until)
    ]
    source, _ = stored.at(until)
    window = access_window(source.subscription, source.grace_days)
    if window is not None:
        if window.grace_end is not None and window.grace_end != window.paid_end:
            found += [(window.paid_end, "grace.began"), (window.grace_end, "grace.ended")]
        else:
            found.append((window.paid_end, "subscription.expired"))
    return found
