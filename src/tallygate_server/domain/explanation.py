"""Explanations: every rule of the ladder that was tried, and every source that gives a feature, or could have given it.

Nothing is decided here. What decided is what `domain.entitlement` says: the steps lead up to the reason that `decide`
gives, and a source counted if the entitlement would be another one without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from tallygate_server.domain.catalog import Allowance, LimitMode
from tallygate_server.domain.entitlement import (
    AccountSources,
    AccountState,
    Entitlement,
    Grant,
    GrantKind,
    Reason,
    SubscriptionSource,
    burn_order,
    decide,
    resolve,
)
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.subscription import AccessWindow, Subscription, SubscriptionState, access_window


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the ladder is walked with for one call."""

    account_id: str
    feature_key: str
    feature_known: bool
    account_state: AccountState | None
    entitlement: Entitlement | None
    limit: int
    """Units that may be used in the period, credits included; -1 without limit."""
    quantity: int
    used: int
    held: int
    reset_time: datetime | None
    """When the counter starts again; None: never."""
    why_not: str = ""
    """Why no source gives the feature, where none does."""

    @property
    def reason(self) -> Reason:
        """What the ladder says."""
        entitlement = self.entitlement
        if entitlement is not None and entitlement.denied is None and entitlement.kind.metered:
            entitlement = replace(entitlement, limit_quantity=self.limit)
        return decide(
            feature_known=self.feature_known,
            account_state=self.account_state,
            entitlement=entitlement,
            quantity=self.quantity,
            used=self.used,
            held=self.held,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule that was tried."""

    reason: Reason
    """What the rule gives when it applies."""
    decided: bool
    """Whether it applied; true of the last step only."""
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedSource:
    """A subscription or a grant that gives a feature, or could have given it."""

    subscription: Subscription | None = None
    grant: Grant | None = None
    allowance: Allowance | None = None
    """What a subscription's plan gives."""
    start: datetime
    end: datetime | None
    """When it no longer gives that, grace included; None: never."""
    effective: bool
    """Whether it counted in the result."""
    explanation: str = ""
    """Why it did not count; empty when it did."""


def explain_steps(facts: Facts) -> list[Step]:
    """Return the rules in the order in which they are tried, up to the one that decided."""
    reason = facts.reason
    steps = []
    for rung in LADDER:
        if rung.reason is reason or rung.is_tried(facts):
            steps.append(Step(reason=rung.reason, decided=rung.reason is reason, explanation=rung.found(facts)))
        if rung.reason is reason:
            return steps
    raise AssertionError(f"no rung of the ladder says {reason.name}")


def explain_sources(sources: AccountSources, feature_key: str, at: datetime) -> list[ExplainedSource]:
    """Return the account's sources that speak of the feature at the instant, the deciding one first."""
    resolved = resolve(sources, at).entitlements.get(feature_key)
    winner = _winner(sources, feature_key, at)
    counting = _counting_grants(sources, feature_key, at)
    subscriptions = [
        _explain_subscription(stored, feature_key, at, winner=winner, resolved=resolved)
        for stored in sources.subscriptions
    ]
    found = [source for source in subscriptions if source is not None]
    found += [
        _explain_grant(grant, counting, at, resolved) for grant in sources.grants if grant.feature_key == feature_key
    ]
    return sorted(found, key=lambda source: (not source.effective, _order(source, resolved)))


def explain_past_grant(grant: Grant, at: datetime, revoke_time: datetime | None) -> ExplainedSource:
    """Return a grant that no longer stands among the sources: it has expired long ago, or was taken back."""
    if revoke_time is not None and revoke_time <= at:
        return ExplainedSource(
            grant=grant,
            start=grant.start_time,
            end=min(revoke_time, grant.expire_time or revoke_time),
            effective=False,
            explanation=f"taken back on {when(revoke_time)}",
        )
    return ExplainedSource(
        grant=grant,
        start=grant.start_time,
        end=grant.expire_time,
        effective=False,
        explanation=_why_grant_is_not_active(grant, at) or "not among the account's sources then",
    )


def when(instant: datetime) -> str:
    """Write an instant for people."""
    return instant.strftime("%Y-%m-%d %H:%M:%S UTC")


# --- The ladder ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rung:
    reason: Reason
    found: Callable[[Facts], str]
    """Says what was found, whether the rule applied or not."""
    is_tried: Callable[[Facts], bool] = lambda _facts: True


def _is_metered(facts: Facts) -> bool:
    return facts.entitlement is not None and facts.entitlement.kind.metered


def _is_soft(facts: Facts) -> bool:
    return _is_metered(facts) and facts.entitlement is not None and facts.entitlement.limit_mode is LimitMode.SOFT


def _unknown_feature(facts: Facts) -> str:
    if facts.reason is Reason.UNKNOWN_FEATURE:
        return f"the tenant's catalog has no feature {facts.feature_key!r}"
    return f"the tenant's catalog has the feature {facts.feature_key!r}"


def _account_not_found(facts: Facts) -> str:
    if facts.account_state is None:
        return f"there is no account {facts.account_id!r}"
    return f"there is an account {facts.account_id!r}"


def _account_deleted(facts: Facts) -> str:
    return "the account is deleted" if facts.account_state is AccountState.DELETED else "the account is not deleted"


def _account_suspended(facts: Facts) -> str:
    if facts.account_state is AccountState.SUSPENDED:
        return "the account is suspended"
    return "the account is not suspended"


def _no_entitlement(facts: Facts) -> str:
    if facts.reason is Reason.NO_ENTITLEMENT:
        return facts.why_not or "no subscription and no grant of the account gives the feature"
    return "a source of the account names the feature"


def _feature_disabled(facts: Facts) -> str:
    if facts.reason is Reason.FEATURE_DISABLED:
        return facts.why_not or "a grant switches the feature off for this account"
    return "no grant switches the feature off"


def _subscription_inactive(facts: Facts) -> str:
    if facts.reason is Reason.SUBSCRIPTION_INACTIVE:
        return facts.why_not or "the subscription that would give the feature is not active"
    entitlement = facts.entitlement
    if entitlement is not None and entitlement.plan_key:
        return f"plan {entitlement.plan_key!r} (version {entitlement.plan_version}) gives the feature"
    return "a grant gives the feature"


def _below_zero(facts: Facts) -> str:
    after = facts.used + facts.quantity
    return f"{facts.used} used {_signed(facts.quantity)} = {after}, {'below' if after < 0 else 'not below'} zero"


def _exhausted(facts: Facts) -> str:
    if _is_soft(facts):
        return "the limit is soft: what exceeds it is counted, and not denied"
    return _against_limit(facts)


def _overage(facts: Facts) -> str:
    return _against_limit(facts)


def _against_limit(facts: Facts) -> str:
    wanted = facts.used + facts.held + facts.quantity
    total = f"{facts.used} used + {facts.held} held {_signed(facts.quantity)} wanted = {wanted}"
    if facts.limit == LIMIT_UNLIMITED:
        return f"{total}, and there is no limit"
    until = "" if facts.reset_time is None else f" until {when(facts.reset_time)}"
    return f"{total}, {'more than' if wanted > facts.limit else 'within'} the limit of {facts.limit}{until}"


def _in_grace(facts: Facts) -> str:
    entitlement = facts.entitlement
    if entitlement is not None and entitlement.grace_end_time is not None:
        return f"the feature is there in grace, until {when(entitlement.grace_end_time)}"
    return "the feature does not rest on grace"


def _unlimited(facts: Facts) -> str:
    if facts.limit == LIMIT_UNLIMITED:
        return "the account has no limit for the feature"
    return f"the limit is {facts.limit}"


def _ok(facts: Facts) -> str:
    if not _is_metered(facts):
        return "the feature is on"
    left = max(0, facts.limit - facts.used - facts.held)
    return f"{left} of {facts.limit} are left, and {facts.quantity} wanted"


def _signed(quantity: int) -> str:
    return f"+ {quantity}" if quantity >= 0 else f"- {-quantity}"


LADDER: Final = (
    _Rung(Reason.UNKNOWN_FEATURE, _unknown_feature),
    _Rung(Reason.ACCOUNT_NOT_FOUND, _account_not_found),
    _Rung(Reason.ACCOUNT_DELETED, _account_deleted),
    _Rung(Reason.ACCOUNT_SUSPENDED, _account_suspended),
    _Rung(Reason.NO_ENTITLEMENT, _no_entitlement),
    _Rung(Reason.FEATURE_DISABLED, _feature_disabled),
    _Rung(Reason.SUBSCRIPTION_INACTIVE, _subscription_inactive),
    _Rung(Reason.BELOW_ZERO, _below_zero, _is_metered),
    _Rung(Reason.EXHAUSTED, _exhausted, _is_metered),
    _Rung(Reason.OVERAGE, _overage, _is_soft),
    _Rung(Reason.IN_GRACE, _in_grace),
    _Rung(Reason.UNLIMITED, _unlimited, _is_metered),
    _Rung(Reason.OK, _ok),
)
"""In the order of `decide`; a test holds every step of every explanation against it."""


# --- Sources ---------------------------------------------------------------------------------------------


def _winner(sources: AccountSources, feature_key: str, at: datetime) -> str:
    """Return the subscription whose allowance was the most generous one; empty for none.

    It is the one that is left when every other one can be taken away without a difference.
    """
    left = replace(sources, grants=())
    given = resolve(left, at).entitlements.get(feature_key)
    if given is None or given.denied is not None:
        return ""
    for source in sources.subscriptions:
        others = replace(left, subscriptions=tuple(each for each in left.subscriptions if each is not source))
        if resolve(others, at).entitlements.get(feature_key) == given:
            left = others
    return next((each.subscription.subscription_id for each in left.subscriptions), "")


def _counting_grants(sources: AccountSources, feature_key: str, at: datetime) -> tuple[Grant, ...]:
    """Return the feature's grants without which the entitlement would be another one, the first in use first.

    Of those that do the same, the first counts.
    """
    left = replace(
        sources, grants=tuple(sorted((g for g in sources.grants if g.feature_key == feature_key), key=burn_order))
    )
    given = resolve(left, at).entitlements.get(feature_key)
    for grant in reversed(left.grants):
        others = replace(left, grants=tuple(each for each in left.grants if each is not grant))
        if _alike(resolve(others, at).entitlements.get(feature_key), given):
            left = others
    return left.grants


def _alike(one: Entitlement | None, other: Entitlement | None) -> bool:
    # What is denied says nothing else.
    if one is not None and other is not None and one.denied is not None:
        return one.denied is other.denied
    return _without_idle_credits(one) == _without_idle_credits(other)


def _without_idle_credits(entitlement: Entitlement | None) -> Entitlement | None:
    if entitlement is None or entitlement.limit_quantity != LIMIT_UNLIMITED:
        return entitlement
    return replace(entitlement, credits=())


def _explain_subscription(
    stored: SubscriptionSource, feature_key: str, at: datetime, *, winner: str, resolved: Entitlement | None
) -> ExplainedSource | None:
    source, _ = stored.at(at)
    allowance = next((each for each in source.allowances if each.feature_key == feature_key), None)
    if allowance is None:
        return None
    subscription = source.subscription
    window = access_window(subscription, source.grace_days)
    is_winner = subscription.subscription_id == winner
    effective = is_winner and resolved is not None and resolved.denied is None
    return ExplainedSource(
        subscription=subscription,
        allowance=allowance,
        start=subscription.start_time,
        end=_end(subscription, window),
        effective=effective,
        explanation="" if effective else _why_not(subscription, allowance, window, at, is_winner=is_winner),
    )


def _end(subscription: Subscription, window: AccessWindow | None) -> datetime | None:
    if window is not None:
        return window.grace_end if window.grace_end is not None else window.paid_end
    if subscription.state is SubscriptionState.PAUSED:
        return subscription.pause_start_time or subscription.period_end_time
    if subscription.canceled_time is None or subscription.cancel_at_period_end:
        return subscription.period_end_time
    # Canceled at once, and not for the end of its period.
    return min(subscription.canceled_time, subscription.period_end_time or subscription.canceled_time)


def _why_not(
    subscription: Subscription, allowance: Allowance, window: AccessWindow | None, at: datetime, *, is_winner: bool
) -> str:
    closed = _why_closed(subscription, window, at)
    if closed:
        return closed
    if not allowance.enabled:
        return f"plan {subscription.plan_key!r} switches the feature off"
    if is_winner:
        return "a grant switches the feature off"
    return "a more generous plan applies"


def _why_closed(subscription: Subscription, window: AccessWindow | None, at: datetime) -> str:
    """Say why the subscription gives nothing at the instant; empty when it does give."""
    state, end = subscription.state, _end(subscription, window)
    if window is None:
        if state is SubscriptionState.PAUSED and subscription.pause_start_time is not None:
            return f"paused since {when(subscription.pause_start_time)}"
        said = _CLOSED_STATES.get(state, "not active")
        return f"{said} on {when(end)}" if state in _DATED_STATES and end is not None else said
    if window.paid_end is None or at < window.paid_end:
        return ""
    if window.grace_end is None or window.grace_end <= window.paid_end:
        ended = "trial ended" if state is SubscriptionState.TRIALING else "ended"
        return f"{ended} on {when(window.paid_end)}"
    return "" if at < window.grace_end else f"grace ended on {when(window.grace_end)}"


_CLOSED_STATES: Final = {
    SubscriptionState.INCOMPLETE: "the first payment is still to come",
    SubscriptionState.INCOMPLETE_EXPIRED: "the first payment never came",
    SubscriptionState.UNPAID: "unpaid",
    SubscriptionState.PAUSED: "paused",
    SubscriptionState.CANCELED: "canceled",
    SubscriptionState.EXPIRED: "expired",
}
_DATED_STATES: Final = (SubscriptionState.CANCELED, SubscriptionState.EXPIRED)


def _explain_grant(
    grant: Grant, counting: Sequence[Grant], at: datetime, resolved: Entitlement | None
) -> ExplainedSource:
    why_not = _why_grant_is_not_active(grant, at)
    if not why_not and grant not in counting:
        why_not = _why_grant_changes_nothing(grant, counting, resolved)
    return ExplainedSource(
        grant=grant, start=grant.start_time, end=grant.expire_time, effective=not why_not, explanation=why_not
    )


def _why_grant_is_not_active(grant: Grant, at: datetime) -> str:
    if at < grant.start_time:
        return f"begins on {when(grant.start_time)}"
    if grant.expire_time is not None and grant.expire_time <= at:
        return f"expired on {when(grant.expire_time)}"
    return ""


def _why_grant_changes_nothing(grant: Grant, counting: Sequence[Grant], resolved: Entitlement | None) -> str:
    switch = next((each for each in counting if each.kind is GrantKind.DISABLE), None)
    if switch is not None and resolved is not None and resolved.denied is not None:
        return f"switched off by grant {switch.grant_id}"
    if resolved is not None and resolved.limit_quantity == LIMIT_UNLIMITED and grant.kind.credit:
        return "there is no limit anyway"
    if grant.kind is GrantKind.ENABLE:
        return "another source gives the feature anyway"
    return "another grant comes before it"


def _order(source: ExplainedSource, resolved: Entitlement | None) -> tuple[int | float | datetime | str, ...]:
    """Order sources of one sort: what denies first, then the plan, then grants in the order of use."""
    if source.grant is None:
        assert source.subscription is not None
        return (1, source.subscription.subscription_id)
    grant = source.grant
    denies = grant.kind is GrantKind.DISABLE and resolved is not None and resolved.denied is not None
    replaces = grant.kind is GrantKind.OVERRIDE
    return (0 if denies or replaces else 2, *burn_order(grant))


def why_no_source(sources: Sequence[ExplainedSource], reason: Reason) -> str:
    """Say, from the sources, why none of them gives the feature; empty where they say nothing of it."""
    if reason is Reason.FEATURE_DISABLED:
        switches = [each.grant for each in sources if each.effective and each.grant is not None]
        return f"switched off by grant {switches[0].grant_id}" if switches else ""
    told = [
        f"subscription {each.subscription.subscription_id} to plan {each.subscription.plan_key!r}: {each.explanation}"
        for each in sources
        if each.subscription is not None and not each.effective
    ]
    return "; ".join(told)
