"""Entitlements: resolved from an account's sources, decided by one ladder.

`resolve` merges subscriptions and grants into what the account may do at an instant; `decide` walks the
ladder for one call. Both are pure, so the same code answers on the hot path, in tests and in hindsight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from enum import Enum, IntEnum
from typing import Literal
from zoneinfo import ZoneInfo

from tallygate_server.domain.catalog import Allowance, ConfigValue, FeatureKind, LimitMode, OverrunPolicy, Rollover
from tallygate_server.domain.identifier import AccountId, FeatureKey, PlanKey, TenantId
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import LIFETIME, Period, PeriodAnchor, PeriodKind, nominal_seconds, period_at
from tallygate_server.domain.subscription import (
    AccessWindow,
    ScheduledChange,
    Subscription,
    SubscriptionState,
    access_window,
)
from tallygate_server.domain.timeline import standing


class Reason(IntEnum):
    """Why a call was allowed or denied. The numbers are stored with request ids: never reuse one."""

    OK = 1
    UNLIMITED = 2
    IN_GRACE = 3
    OVERAGE = 4
    UNKNOWN_FEATURE = 10
    ACCOUNT_NOT_FOUND = 11
    ACCOUNT_SUSPENDED = 12
    ACCOUNT_DELETED = 13
    NO_ENTITLEMENT = 14
    FEATURE_DISABLED = 15
    SUBSCRIPTION_INACTIVE = 16
    EXHAUSTED = 17
    ATOMIC_BATCH = 18
    BELOW_ZERO = 19

    @property
    def allows(self) -> bool:
        """Whether a call with this reason was allowed."""
        return self <= Reason.OVERAGE


class AccountState(Enum):
    """Whether an account may do anything at all."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


class GrantKind(Enum):
    """What a grant changes for its account and feature."""

    BONUS = "bonus"
    PURCHASE = "purchase"
    OVERRIDE = "override"
    ENABLE = "enable"
    DISABLE = "disable"

    @property
    def credit(self) -> bool:
        """Whether it gives units on top of the plan's."""
        return self in (GrantKind.BONUS, GrantKind.PURCHASE)

    @property
    def switch(self) -> bool:
        """Whether it switches the feature on or off."""
        return self in (GrantKind.ENABLE, GrantKind.DISABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOverride:
    """A limit in place of the plan's; what is None stays as the plan has it."""

    quantity: int
    mode: LimitMode | None = None
    period_kind: PeriodKind | None = None
    """None: that of the plan, and without a plan the month. Gauges have no period."""
    period_anchor: PeriodAnchor | None = None
    thresholds_percent: tuple[int, ...] | None = None
    thresholds_absolute: tuple[int, ...] | None = None
    rollover: Rollover | None = None
    overrun_policy: OverrunPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A dated extra for one account and feature."""

    grant_id: str
    feature_key: FeatureKey
    feature_kind: FeatureKind
    kind: GrantKind
    quantity: int = 0
    """Units of a credit, in each window of its recurrence."""
    value: ConfigValue = None
    limit: LimitOverride | None = None
    recurrence: PeriodKind | None = None
    """How often a credit is given anew, counted from its start; None: once."""
    rollover: Rollover | None = None
    """What of an unused credit goes into its next window."""
    priority: int = 100
    """Lower numbers win; then the earlier expiry, then the earlier creation."""
    start_time: datetime
    expire_time: datetime | None = None
    create_time: datetime
    grace_end_time: datetime | None = None
    """For a disabling grant: until then the feature still works, in grace."""
    revoke_time: datetime | None = None

    @property
    def end_time(self) -> datetime | None:
        """When it ends or ended, by itself or taken back; None for never."""
        return min((t for t in (self.expire_time, self.revoke_time) if t is not None), default=None)

    def active(self, at: datetime) -> bool:
        """Tell whether it counts at the instant."""
        end_time = self.end_time
        return self.start_time <= at and (end_time is None or at < end_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTerms:
    """What a plan version gives, as far as access depends on it."""

    plan_rank: int
    grace_days: int
    allowances: tuple[Allowance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionSource:
    """A subscription together with what its pinned plan version gives."""

    subscription: Subscription
    plan_rank: int
    grace_days: int
    allowances: tuple[Allowance, ...]
    change: ScheduledChange | None = None
    """A change that is planned for it, and takes effect by itself."""
    terms_after: PlanTerms | None = None
    """What the plan of that change gives; None where the plan stays."""

    def at(self, instant: datetime) -> tuple[SubscriptionSource, datetime | None]:
        """Return the source as it is at the instant, and when it next changes by itself (None: never)."""
        held = standing(self.subscription, self.change, instant)
        if held.subscription is self.subscription:
            return self, held.next_time
        terms = self.terms_after
        # One that ends keeps the plan that it had.
        if terms is None or not held.moved or held.subscription.state is SubscriptionState.CANCELED:
            return replace(self, subscription=held.subscription), held.next_time
        moved = replace(
            self,
            subscription=held.subscription,
            plan_rank=terms.plan_rank,
            grace_days=terms.grace_days,
            allowances=terms.allowances,
        )
        return moved, held.next_time


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSources:
    """Everything that decides one account's entitlements, at one revision."""

    tenant_id: TenantId
    account_id: AccountId
    revision: int
    state: AccountState
    time_zone: str
    create_time: datetime
    subscriptions: tuple[SubscriptionSource, ...] = ()
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """The resolved right of one account to one feature.

    `denied` is set when no live source gives the feature; the other fields then describe nothing.
    """

    feature_key: FeatureKey
    kind: FeatureKind
    denied: Reason | None = None
    value: ConfigValue = None
    limit_quantity: int = LIMIT_UNLIMITED
    limit_mode: LimitMode = LimitMode.HARD
    period_kind: PeriodKind = PeriodKind.LIFETIME
    period_anchor: PeriodAnchor = PeriodAnchor.UTC
    billing_anchor: datetime
    thresholds_percent: tuple[int, ...] = ()
    thresholds_absolute: tuple[int, ...] = ()
    plan_key: PlanKey | Literal[""] = ""
    plan_version: int = 0
    grace_end_time: datetime | None = None
    """Set while the entitlement rests on grace; access ends then."""
    credits: tuple[Grant, ...] = ()
    """Counters: credits that are active, in the order in which they are used, after the allowance."""
    credited_until: datetime | None = None
    """Counters: when the last of its credits that are over ended; None: there was none."""
    rollover: Rollover | None = None
    """What of an unused rest goes into the next period; None: nothing."""
    overrun_policy: OverrunPolicy = OverrunPolicy.REJECT
    """What the commit of a reservation does when more was consumed than is left."""
    rollover_since: datetime | None = None
    """When that allowance began; nothing rolls over from before. None: with the billing anchor."""

    def period_at(self, at: datetime, time_zone: tzinfo) -> Period:
        """Return the period in which usage at the instant counts."""
        if self.period_kind is PeriodKind.LIFETIME:
            return LIFETIME
        return period_at(
            self.period_kind, self.period_anchor, at, billing_anchor=self.billing_anchor, time_zone=time_zone
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """An account's entitlements, true from the instant of resolution until `expire_time` (None: no end)."""

    entitlements: dict[str, Entitlement]
    expire_time: datetime | None
    time_zone: tzinfo
    plan_key: PlanKey | Literal[""] = ""
    """Plan of the highest rank among the subscriptions that give access now; empty for none."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    allowance: Allowance
    source: SubscriptionSource
    grace_end_time: datetime | None


def resolve(sources: AccountSources, at: datetime) -> Resolution:
    """Merge an account's sources into its entitlements at the instant.

    Between subscriptions the more generous allowance wins, per feature; grants come on top. An overdue
    subscription never takes away what another one gives.
    """
    boundaries: list[datetime] = []
    best: dict[str, _Candidate] = {}
    leading: SubscriptionSource | None = None
    inactive: dict[str, Allowance] = {}
    off: dict[str, Allowance] = {}
    for stored in sources.subscriptions:
        source, next_time = stored.at(at)
        if next_time is not None:
            boundaries.append(next_time)
        window = access_window(source.subscription, source.grace_days)
        boundaries.extend(_instants(window))
        open_until = _open(window, at)
        if open_until is not None and (leading is None or _rank(source) > _rank(leading)):
            leading = source
        for allowance in source.allowances:
            key: str = allowance.feature_key
            if not allowance.enabled:
                off.setdefault(key, allowance)
            elif open_until is None:
                inactive.setdefault(key, allowance)
            else:
                candidate = _Candidate(allowance, source, open_until[0])
                if key not in best or _generosity(candidate) > _generosity(best[key]):
                    best[key] = candidate
    entitlements: dict[str, Entitlement] = {}
    for denied, allowances in ((Reason.NO_ENTITLEMENT, off), (Reason.SUBSCRIPTION_INACTIVE, inactive)):
        for key, allowance in allowances.items():
            entitlements[key] = Entitlement(
                feature_key=allowance.feature_key,
                kind=allowance.kind,
                denied=denied,
                billing_anchor=sources.create_time,
            )
    for key, candidate in best.items():
        entitlements[key] = _from_candidate(candidate)
    boundaries.extend(_lay_grants(sources, at, entitlements, inactive))
    return Resolution(
        entitlements=entitlements,
        expire_time=min((boundary for boundary in boundaries if boundary > at), default=None),
        time_zone=ZoneInfo(sources.time_zone),
        plan_key=leading.subscription.plan_key if leading is not None else "",
    )


def decide(
    *,
    feature_known: bool,
    account_state: AccountState | None,
    entitlement: Entitlement | None,
    quantity: int,
    used: int,
    held: int,
) -> Reason:
    """Walk the decision ladder for one call; the first rung that applies answers.

    unknown feature -> account missing, deleted or suspended -> no entitlement -> subscription inactive or
    feature disabled -> below zero (gauges) -> unlimited or in grace -> exhausted (hard) or overage (soft).

    `used` and `held` are the counter's committed and in-flight quantities in the current period, both 0
    for features that are not metered.
    """
    if not feature_known and entitlement is None:
        return Reason.UNKNOWN_FEATURE
    if account_state is None:
        return Reason.ACCOUNT_NOT_FOUND
    if account_state is AccountState.DELETED:
        return Reason.ACCOUNT_DELETED
    if account_state is AccountState.SUSPENDED:
        return Reason.ACCOUNT_SUSPENDED
    if entitlement is None:
        return Reason.NO_ENTITLEMENT
    if entitlement.denied is not None:
        return entitlement.denied
    if not entitlement.kind.metered:
        return Reason.OK if entitlement.grace_end_time is None else Reason.IN_GRACE
    if used + quantity < 0:
        return Reason.BELOW_ZERO
    limit = entitlement.limit_quantity
    # Giving back (a gauge going down) is never refused for being over the limit.
    if limit != LIMIT_UNLIMITED and quantity > 0 and used + held + quantity > limit:
        return Reason.EXHAUSTED if entitlement.limit_mode is LimitMode.HARD else Reason.OVERAGE
    return allowed_reason(entitlement)


def allowed_reason(entitlement: Entitlement) -> Reason:
    """Return the reason of an allowed call that stays within its limit."""
    if entitlement.grace_end_time is not None:
        return Reason.IN_GRACE
    if entitlement.kind.metered and entitlement.limit_quantity == LIMIT_UNLIMITED:
        return Reason.UNLIMITED
    return Reason.OK


def _instants(window: AccessWindow | None) -> list[datetime]:
    if window is None:
        return []
    return [instant for instant in (window.paid_end, window.grace_end) if instant is not None]


def _open(window: AccessWindow | None, at: datetime) -> tuple[datetime | None] | None:
    """Return None when closed, else a 1-tuple with the end of the grace that holds it open (None: paid)."""
    if window is None:
        return None
    if window.paid_end is None or at < window.paid_end:
        return (None,)
    if window.grace_end is not None and at < window.grace_end:
        return (window.grace_end,)
    return None


def _rank(source: SubscriptionSource) -> tuple[int, str]:
    return (source.plan_rank, source.subscription.subscription_id)


def _generosity(candidate: _Candidate) -> tuple[int, int, int, int, str]:
    """Order candidates for one feature; the last parts only make the order total."""
    allowance = candidate.allowance
    paid = int(candidate.grace_end_time is None)
    rank = candidate.source.plan_rank
    tie = candidate.source.subscription.subscription_id
    if allowance.kind is FeatureKind.CONFIG:
        return (*_config_generosity(allowance.value), paid, rank, tie)
    limit = _limit(candidate)
    if limit == LIMIT_UNLIMITED:
        return (2, 0, paid, rank, tie)
    soft = int(allowance.limit_mode is LimitMode.SOFT)
    # Limits over unlike periods compare by what they allow per unit of time, in exact integers.
    per_time = limit * nominal_seconds(PeriodKind.LIFETIME) // nominal_seconds(allowance.period_kind)
    return (soft, per_time, paid, rank, tie)


def _config_generosity(value: ConfigValue) -> tuple[int, int]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return (0, int(value is True))
    if value == LIMIT_UNLIMITED:
        return (2, 0)
    return (1, int(value * 1_000))


def _limit(candidate: _Candidate) -> int:
    """Return the limit of the allowance, which may be another one during a trial."""
    trial = candidate.allowance.trial_limit_quantity
    if trial is not None and candidate.source.subscription.state is SubscriptionState.TRIALING:
        return trial
    return candidate.allowance.limit_quantity


def _from_candidate(candidate: _Candidate) -> Entitlement:
    allowance = candidate.allowance
    subscription = candidate.source.subscription
    return Entitlement(
        feature_key=allowance.feature_key,
        kind=allowance.kind,
        value=allowance.value,
        limit_quantity=_limit(candidate),
        limit_mode=allowance.limit_mode,
        period_kind=PeriodKind.LIFETIME if allowance.kind is FeatureKind.GAUGE else allowance.period_kind,
        period_anchor=allowance.period_anchor,
        billing_anchor=subscription.start_time,
        thresholds_percent=allowance.thresholds_percent,
        thresholds_absolute=allowance.thresholds_absolute,
        plan_key=subscription.plan_key,
        plan_version=subscription.plan_version,
        grace_end_time=candidate.grace_end_time,
        rollover=allowance.rollover if allowance.kind is FeatureKind.COUNTER else None,
        overrun_policy=allowance.overrun_policy,
    )


def burn_order(grant: Grant) -> tuple[int, float, datetime, str]:
    """Return what grants are sorted by: priority, then the earlier expiry, the earlier creation, the id."""
    expiry = grant.expire_time.timestamp() if grant.expire_time is not None else float("inf")
    return (grant.priority, expiry, grant.create_time, grant.grant_id)


def _lay_grants(
    sources: AccountSources, at: datetime, entitlements: dict[str, Entitlement], inactive: dict[str, Allowance]
) -> list[datetime]:
    """Lay the grants over what plans give; return when any of them begins, ends or takes effect."""
    boundaries: list[datetime] = []
    by_feature: dict[FeatureKey, list[Grant]] = {}
    credited_until: dict[str, datetime] = {}
    for grant in sorted(sources.grants, key=burn_order):
        boundaries.extend(t for t in (grant.start_time, grant.end_time, grant.grace_end_time) if t is not None)
        if grant.active(at):
            by_feature.setdefault(grant.feature_key, []).append(grant)
        elif grant.kind.credit and grant.end_time is not None and grant.end_time <= at:
            until = credited_until.get(grant.feature_key)
            credited_until[grant.feature_key] = grant.end_time if until is None else max(until, grant.end_time)
    for feature_key, grants in by_feature.items():
        entitlements[feature_key] = _with_grants(
            grants, entitlements.get(feature_key), inactive.get(feature_key), sources, at
        )
    for key, until in credited_until.items():
        if key in entitlements and entitlements[key].kind is FeatureKind.COUNTER:
            entitlements[key] = replace(entitlements[key], credited_until=until)
    return boundaries


def _with_grants(
    grants: list[Grant],
    before: Entitlement | None,
    inactive: Allowance | None,
    sources: AccountSources,
    at: datetime,
) -> Entitlement:
    """Lay the active grants of one feature, strongest first, over what its plans give.

    The strongest override replaces the limit or value, credits come on top, and the strongest switch has the last word.
    """
    given = before is not None and before.denied is None
    current = before
    if current is None or not given:
        current = Entitlement(
            feature_key=grants[0].feature_key,
            kind=grants[0].feature_kind,
            limit_quantity=0,
            billing_anchor=sources.create_time,
        )
    planned = given
    override = next((grant for grant in grants if grant.kind is GrantKind.OVERRIDE), None)
    if override is not None:
        current = _overridden(current, override, planned=planned)
        given = True
    extras = tuple(grant for grant in grants if grant.kind.credit)
    if extras and current.kind is FeatureKind.GAUGE:
        # A gauge is never used up: what is on top of its limit is there as long as the grant.
        if current.limit_quantity != LIMIT_UNLIMITED:
            more = sum(grant.quantity for grant in extras)
            current = replace(current, limit_quantity=current.limit_quantity + more)
    elif extras:
        current = replace(current, credits=extras)
    switch = next((grant for grant in grants if grant.kind.switch), None)
    if switch is None:
        return current
    if switch.kind is GrantKind.DISABLE:
        return _switched_off(current, switch, at, given=given or bool(extras))
    if not given:
        # An allowance that is out of force still says how much; without any there is no limit.
        current = _switched_on(current, inactive, sources)
    return replace(current, grace_end_time=None)


def _overridden(current: Entitlement, grant: Grant, *, planned: bool) -> Entitlement:
    if not current.kind.metered:
        return replace(current, value=grant.value)
    limit = grant.limit or LimitOverride(quantity=grant.quantity)
    kind, anchor = current.period_kind, current.period_anchor
    if current.kind is FeatureKind.COUNTER:
        if limit.period_kind is not None:
            kind, anchor = limit.period_kind, limit.period_anchor or PeriodAnchor.UTC
        elif not planned:
            kind, anchor = PeriodKind.MONTH, limit.period_anchor or PeriodAnchor.UTC
        elif limit.period_anchor is not None:
            anchor = limit.period_anchor
    percent, absolute = limit.thresholds_percent, limit.thresholds_absolute
    return replace(
        current,
        limit_quantity=limit.quantity,
        limit_mode=limit.mode or current.limit_mode,
        period_kind=kind,
        period_anchor=anchor,
        thresholds_percent=current.thresholds_percent if percent is None else percent,
        thresholds_absolute=current.thresholds_absolute if absolute is None else absolute,
        rollover=limit.rollover or current.rollover,
        overrun_policy=limit.overrun_policy or current.overrun_policy,
        rollover_since=grant.start_time,
    )


def _switched_off(current: Entitlement, switch: Grant, at: datetime, *, given: bool) -> Entitlement:
    grace_end = switch.grace_end_time
    if given and grace_end is not None and at < grace_end:
        return replace(current, grace_end_time=min(grace_end, current.grace_end_time or grace_end))
    return replace(current, denied=Reason.FEATURE_DISABLED)


def _switched_on(current: Entitlement, inactive: Allowance | None, sources: AccountSources) -> Entitlement:
    if inactive is None:
        return replace(current, limit_quantity=LIMIT_UNLIMITED)
    return replace(
        current,
        value=inactive.value,
        limit_quantity=inactive.limit_quantity,
        limit_mode=inactive.limit_mode,
        period_kind=PeriodKind.LIFETIME if inactive.kind is FeatureKind.GAUGE else inactive.period_kind,
        period_anchor=inactive.period_anchor,
        billing_anchor=sources.create_time,
        thresholds_percent=inactive.thresholds_percent,
        thresholds_absolute=inactive.thresholds_absolute,
        overrun_policy=inactive.overrun_policy,
    )
