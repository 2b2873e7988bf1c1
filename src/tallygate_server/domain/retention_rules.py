"""Whether data may be removed, from when on, and why not: policies, plans, exceptions and holds in one order.

What is said first wins:

1. a segment in quarantine waits for somebody's decision;
2. a legal hold forbids every removal, and every loss;
3. an exception gives its own days, and forbids loss until these are over;
4. days that somebody chose by hand when archiving;
5. critical data is kept as the policy says of critical data, and no job of ours ever removes it;
6. the plan's `data_retention_days`, be they more or fewer than the policy's;
7. the policy's standard days; data of low value may go from the deletion threshold on.

Ages count from the end of a segment: its last record decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import MAXYEAR, datetime, timedelta
from enum import Enum
from itertools import pairwise
from typing import Final

from tallygate_server.domain.catalog import ConfigValue
from tallygate_server.domain.entitlement import AccountSources, resolve
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataImportance, Segment, SegmentState
from tallygate_server.domain.retention import (
    ALL_TYPES,
    FOR_EVER,
    ImportanceRule,
    LegalHold,
    RetentionException,
    RetentionPolicy,
)

RETENTION_FEATURE: Final = "data_retention_days"
"""Config feature of a plan: days that data is kept, -1 for ever."""
PLAN_GRACE: Final = timedelta(days=7)
"""Time after which a plan that keeps data for less removes what the one before kept."""
HISTORY_FEATURE: Final = "history_days"
"""Config feature of a plan: days that can be seen, -1 all. It hides, and removes nothing."""
PLAN_DAYS_MAX: Final = 36_500
"""More are for ever."""


class KeptKind(Enum):
    """Why data is left alone; the words of the contract."""

    LEGAL_HOLD = "legal_hold"
    EXCEPTION = "exception"
    CRITICAL = "critical"
    POLICY = "policy"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Why a segment is left alone."""

    kind: KeptKind
    explanation: str
    possible_time: datetime | None = None
    """When it can be done; None: not known."""
    legal_hold_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDays:
    """What an account's plan says about its data; None: nothing."""

    retention_days: int | None = None
    history_days: int | None = None


NO_PLAN: Final = PlanDays()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a segment is kept, and what says so."""

    days: int
    decided_by: str
    """For people: `exception`, `critical data`, `plan`, `policy`, ..."""
    end_time: datetime | None
    """None: never."""


def plan_days(sources: AccountSources, now: datetime) -> PlanDays:
    """Return what an account's plan, and its grants, say about its data at an instant."""
    entitlements = resolve(sources, now).entitlements

    def days(feature_key: str) -> int | None:
        entitlement = entitlements.get(feature_key)
        return None if entitlement is None or entitlement.denied is not None else days_of(entitlement.value)

    return PlanDays(retention_days=days(RETENTION_FEATURE), history_days=days(HISTORY_FEATURE))


def with_grace(now: PlanDays, before: PlanDays) -> PlanDays:
    """Return what counts while a plan that keeps less is new: data is kept as long as the plan before would have.

    What can be seen changes at once: it comes back with the plan.
    """
    if now.retention_days is None or before.retention_days is None:
        return now
    for_ever = FOR_EVER in {now.retention_days, before.retention_days}
    return replace(now, retention_days=FOR_EVER if for_ever else max(now.retention_days, before.retention_days))


def days_of(value: ConfigValue) -> int | None:
    """Return days as a plan states them: -1 for ever; None for what states none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value == FOR_EVER or value > PLAN_DAYS_MAX:
        return FOR_EVER
    # Half a day is not cut off: a plan never keeps less than it says.
    return math.ceil(value) if value >= 0 else None


def visible_start(days: PlanDays, now: datetime) -> datetime | None:
    """Return the first instant that an account can see; None: everything."""
    if days.history_days is None or days.history_days == FOR_EVER:
        return None
    return now - timedelta(days=days.history_days)


def end_after(start: datetime, days: int) -> datetime | None:
    """Return the instant so many days later; None for ever."""
    return None if days == FOR_EVER else start + timedelta(days=days)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySet:
    """The policies of a tenant: a data type's own, else that for all, else the defaults."""

    tenant_id: TenantId
    policies: Mapping[str, RetentionPolicy] = field(default_factory=dict)
    """By data type, `*` among them; only those that somebody has set."""

    @classmethod
    def of(cls, tenant_id: TenantId, policies: Iterable[RetentionPolicy]) -> PolicySet:
        """Return the set of these policies."""
        return cls(tenant_id=tenant_id, policies={policy.data_type: policy for policy in policies})

    def policy_for(self, data_type: str) -> RetentionPolicy:
        """Return the policy that counts for a data type."""
        own = self.policies.get(data_type) or self.policies.get(ALL_TYPES)
        return own or RetentionPolicy(tenant_id=self.tenant_id, data_type=data_type)

    @property
    def youngest_days(self) -> int:
        """Age before which no policy lets anything be removed or compressed with loss; -1: none ever does."""
        days = [
            each
            for policy in self.policies.values()
            for each in (
                policy.standard_retention_days,
                policy.deletion_threshold_days,
                policy.compression_threshold_days,
                *(exception.retention_days for exception in policy.exceptions),
            )
            if each != FOR_EVER
        ]
        return min(days, default=FOR_EVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protections:
    """Everything that protects a tenant's data, as it was read at one instant."""

    policy_set: PolicySet
    holds: tuple[LegalHold, ...] = ()
    plans: Mapping[AccountId, PlanDays] = field(default_factory=dict)
    """Of the accounts that were asked for; others have no bound."""

    def policy_for(self, data_type: str) -> RetentionPolicy:
        """Return the policy that counts for a data type."""
        return self.policy_set.policy_for(data_type)

    def plan_of(self, account_id: AccountId) -> PlanDays:
        """Return what an account's plan says."""
        return self.plans.get(account_id, NO_PLAN)

    def why_held(self, segment: Segment, now: datetime) -> Kept | None:
        """Tell why a segment must be left as it is, whatever it is worth: quarantine, holds, exceptions."""
        if segment.state is SegmentState.QUARANTINED:
            return Kept(
                kind=KeptKind.QUARANTINE,
                explanation=f"it is damaged and waits for a decision: {segment.quarantine_reason}",
            )
        return self.why_on_hold(segment, now) or self._why_excepted(segment, now)

    def why_on_hold(self, segment: Segment, now: datetime) -> Kept | None:
        """Tell which legal hold covers any record of a segment; that which ends last is told."""
        covering = [hold for hold in self.holds if hold.active_at(now) and hold.selection.covers(segment)]
        if not covering:
            return None
        endless = [hold for hold in covering if hold.end_time is None]
        hold = endless[0] if endless else max(covering, key=lambda each: each.end_time or now)
        return Kept(
            kind=KeptKind.LEGAL_HOLD,
            explanation=f"legal hold {hold.legal_hold_id}: {hold.reason_text}",
            possible_time=hold.end_time,
            legal_hold_id=hold.legal_hold_id,
        )

    def why_lossless(self, segment: Segment, importance: DataImportance, now: datetime) -> Kept | None:
        """Tell why a segment must not lose anything; None where it may be compressed with loss, as far as this goes.

        Age and worth are the policy's other conditions: see `domain.classification`.
        """
        held = self.why_held(segment, now)
        if held is not None:
            return held
        if importance is DataImportance.CRITICAL:
            return Kept(kind=KeptKind.CRITICAL, explanation="it is critical")
        if importance is DataImportance.HIGH:
            return Kept(kind=KeptKind.POLICY, explanation="it is of high importance, which is kept without loss")
        return None

    def retention(self, segment: Segment, importance: DataImportance, now: datetime) -> Retention:
        """Return how long a segment is kept by exceptions, hand, policy and plan; holds are another matter."""
        policy = self.policy_for(segment.data_type)
        for exception in self._exceptions(segment, now):
            return _retention(segment, exception.retention_days, f"an exception ({exception.reason_text})")
        if segment.retention_end_time is not None:
            return _chosen(segment, segment.retention_end_time)
        if importance is DataImportance.CRITICAL:
            return _retention(segment, policy.critical_retention_days, "the policy, for critical data")
        plan = self.plan_of(segment.account_id).retention_days
        if plan is not None:
            return _retention(segment, plan, "the account's plan")
        return _retention(segment, policy.standard_retention_days, "the policy")

    def removable_from(self, segment: Segment, importance: DataImportance, now: datetime) -> Retention:
        """Return from when on a segment may be removed: at the end of its retention; of low value, maybe before.

        The deletion threshold is the policy's: where an exception, somebody's hand or the plan says how long, it does
        not count.
        """
        kept = self.retention(segment, importance, now)
        policy = self.policy_for(segment.data_type)
        threshold = end_after(segment.end_time, policy.deletion_threshold_days)
        bound = (
            self._excepted(segment, now)
            or segment.retention_end_time is not None
            or self.plan_of(segment.account_id).retention_days is not None
        )
        if importance is not DataImportance.LOW or threshold is None or bound:
            return kept
        if kept.end_time is not None and kept.end_time <= threshold:
            return kept
        return Retention(
            days=policy.deletion_threshold_days,
            decided_by="the policy's deletion threshold, for data of low value",
            end_time=threshold,
        )

    def promised(self, segment: Segment, now: datetime) -> bool:
        """Tell whether anybody has said how long data like this is kept."""
        return (
            self.policy_for(segment.data_type).version > 0
            or self.plan_of(segment.account_id).retention_days is not None
            or segment.retention_end_time is not None
            or self._excepted(segment, now)
        )

    def why_kept(
        self, segment: Segment, importance: DataImportance | None, now: datetime, *, by_hand: bool = False
    ) -> Kept | None:
        """Tell why a segment must not be removed; None where it may be.

        Without an importance everything that depends on it is taken for granted by the caller: only quarantine, holds
        and exceptions are told. By hand, data that nobody ever said anything about may be removed, and critical data
        whose days are over.
        """
        held = self.why_held(segment, now)
        if held is not None or importance is None:
            return held
        kept = self.removable_from(segment, importance, now)
        if importance is DataImportance.CRITICAL and segment.retention_end_time is None:
            if not by_hand:
                return Kept(kind=KeptKind.CRITICAL, explanation="it is critical, and removed by hand only")
            if kept.end_time is None or now < kept.end_time:
                return Kept(
                    kind=KeptKind.CRITICAL,
                    explanation=f"it is critical and kept {days_text(kept.days)}",
                    possible_time=kept.end_time,
                )
            return None
        if kept.end_time is not None and now >= kept.end_time:
            return None
        if by_hand and not self.promised(segment, now):
            return None
        return Kept(
            kind=KeptKind.POLICY,
            explanation=f"{kept.decided_by} keeps it {days_text(kept.days)}",
            possible_time=kept.end_time,
        )

    def _why_excepted(self, segment: Segment, now: datetime) -> Kept | None:
        for exception in self._exceptions(segment, now):
            end_time = end_after(segment.end_time, exception.retention_days)
            if end_time is not None and end_time <= now:
                continue
            ends = [each for each in (end_time, exception.expire_time) if each is not None]
            return Kept(
                kind=KeptKind.EXCEPTION,
                explanation=f"an exception keeps it {days_text(exception.retention_days)}: {exception.reason_text}",
                possible_time=min(ends, default=None),
            )
        return None

    def _excepted(self, segment: Segment, now: datetime) -> bool:
        return next(self._exceptions(segment, now), None) is not None

    def _exceptions(self, segment: Segment, now: datetime) -> Iterator[RetentionException]:
        """Go through the exceptions for any record of a segment, that which keeps it longest first."""
        covering = [
            each
            for each in self.policy_for(segment.data_type).exceptions
            if (each.expire_time is None or now < each.expire_time)
            and (each.account_id is None or each.account_id == segment.account_id)
            and (each.start_time is None or segment.end_time > each.start_time)
            and (each.end_time is None or segment.start_time < each.end_time)
        ]
        covering.sort(key=lambda each: each.retention_days if each.retention_days != FOR_EVER else PLAN_DAYS_MAX + 1)
        return reversed(covering)


def effective_retention_days(policy: RetentionPolicy, plan: PlanDays) -> int:
    """Return days that data of no special sort is kept after all: the plan wins, shorter or longer; -1 for ever."""
    return policy.standard_retention_days if plan.retention_days is None else plan.retention_days


def days_text(days: int) -> str:
    """Return a number of days in words."""
    if days == FOR_EVER:
        return "for ever"
    return "1 day" if days == 1 else f"{days} days"


# --- What makes no sense -------------------------------------------------------------------------------------------


def policy_problems(policy: RetentionPolicy) -> list[tuple[str, str]]:
    """Return what in a policy makes no sense together: field and explanation, in the order of the fields."""
    return [
        *_order_problems(policy),
        *_zone_problems(policy),
        *_exception_problems(policy.exceptions),
        *_rule_problems(policy.importance_rules),
    ]


def _order_problems(policy: RetentionPolicy) -> Iterator[tuple[str, str]]:
    standard, critical = policy.standard_retention_days, policy.critical_retention_days
    compression, deletion = policy.compression_threshold_days, policy.deletion_threshold_days
    if critical != FOR_EVER and (standard == FOR_EVER or critical < standard):
        yield (
            "critical_retention_days",
            f"{days_text(critical)} is shorter than other data is kept: standard_retention_days {days_text(standard)}",
        )
    if FOR_EVER not in (compression, deletion) and compression > deletion:
        yield (
            "compression_threshold_days",
            f"must not be above deletion_threshold_days: {compression} is more than {deletion}",
        )
    if FOR_EVER not in (standard, deletion) and deletion > standard:
        yield (
            "deletion_threshold_days",
            f"must not be above standard_retention_days, after which all data goes: {deletion} is more than {standard}",
        )
    if policy.hot_days > policy.warm_days:
        yield "hot_days", f"must not be above warm_days: {policy.hot_days} is more than {policy.warm_days}"


def _zone_problems(policy: RetentionPolicy) -> Iterator[tuple[str, str]]:
    for column, bounds in sorted(policy.compression.zones.items()):
        if not bounds:
            yield f"compression.zones[{column}]", "needs at least one bound"
        elif any(low >= high for low, high in pairwise(bounds)):
            yield f"compression.zones[{column}]", "bounds must ascend"


def _exception_problems(exceptions: Sequence[RetentionException]) -> Iterator[tuple[str, str]]:
    for index, each in enumerate(exceptions):
        path = f"exceptions[{index}]"
        if each.start_time is not None and each.end_time is not None and each.start_time >= each.end_time:
            yield f"{path}.end_time", "must be after start_time"
        if not each.reason_text:
            yield f"{path}.reason_text", "say why"


def _rule_problems(rules: Sequence[ImportanceRule]) -> Iterator[tuple[str, str]]:
    names: set[str] = set()
    for index, rule in enumerate(rules):
        path = f"importance_rules[{index}]"
        if rule.name in names:
            yield f"{path}.name", f"{rule.name!r} is used twice"
        names.add(rule.name)
        if rule.min_value is not None and rule.max_value is not None and rule.min_value > rule.max_value:
            yield f"{path}.max_value", "must not be below min_value"
        if not rule.column and (rule.min_value is not None or rule.max_value is not None):
            yield f"{path}.column", "say which column min_value and max_value are about"


def _retention(segment: Segment, days: int, decided_by: str) -> Retention:
    return Retention(days=days, decided_by=decided_by, end_time=end_after(segment.end_time, days))


def _chosen(segment: Segment, end_time: datetime) -> Retention:
    decided_by = "what was chosen when it was archived"
    if end_time.year == MAXYEAR:
        return Retention(days=FOR_EVER, decided_by=decided_by, end_time=None)
    # A day that has begun counts.
    days = -((segment.end_time - end_time) // timedelta(days=1))
    return Retention(days=max(days, 0), decided_by=decided_by, end_time=end_time)
