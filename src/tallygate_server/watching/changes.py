"""What of an account's entitlements has changed, and why: pure comparisons of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tallygate_server.domain.call import CheckAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.event_types import PUBLIC_EVENTS, PUBLIC_TYPES
from tallygate_server.domain.limits import LIMIT_UNLIMITED

Answers = Mapping[str, CheckAnswer]
"""By feature: what a check of one unit is answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountChange:
    """One change of what an account is entitled to."""

    revision: int
    cause: str
    change_time: datetime
    changed: Answers = field(default_factory=dict)
    """Entitlements that are new or differ."""
    removed: tuple[str, ...] = ()
    """Features that the account is no longer entitled to."""

    def of(self, feature_keys: frozenset[str]) -> AccountChange:
        """Return what of the change is about these features; all for none."""
        if not feature_keys:
            return self
        return AccountChange(
            revision=self.revision,
            cause=self.cause,
            change_time=self.change_time,
            changed={key: answer for key, answer in self.changed.items() if key in feature_keys},
            removed=tuple(key for key in self.removed if key in feature_keys),
        )

    @property
    def empty(self) -> bool:
        """Whether nothing differs but the revision."""
        return not self.changed and not self.removed


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSnapshot:
    """Everything that an account is entitled to."""

    revision: int
    entitlements: Answers

    def of(self, feature_keys: frozenset[str]) -> AccountSnapshot:
        """Return what of it is about these features; all for none."""
        if not feature_keys:
            return self
        kept = {key: answer for key, answer in self.entitlements.items() if key in feature_keys}
        return AccountSnapshot(revision=self.revision, entitlements=kept)


def entitled(answers: Answers) -> dict[str, CheckAnswer]:
    """Return the features that the account has, also where nothing is left of one."""
    return {
        key: answer
        for key, answer in sorted(answers.items())
        if answer.reason.allows or answer.reason in (Reason.EXHAUSTED, Reason.BELOW_ZERO)
    }


def change_by_revision(
    before: Answers, after: Answers, *, revision: int, cause: str, change_time: datetime
) -> AccountChange:
    """Return what a revision has changed, which may be nothing."""
    had, has = entitled(before), entitled(after)
    return AccountChange(
        revision=revision,
        cause=public_cause(cause),
        change_time=change_time,
        changed={key: answer for key, answer in has.items() if key not in had or _shape(had[key]) != _shape(answer)},
        removed=tuple(key for key in had if key not in has),
    )


def changes_by_themselves(
    before: Answers,
    after: Answers,
    *,
    revision: int,
    boundaries: Sequence[tuple[datetime, str]],
    now: datetime,
) -> list[AccountChange]:
    """Return what time and usage have changed within one revision: one change for each cause, in order of time.

    `boundaries` is what has begun or ended since the answers before.
    """
    had, has = entitled(before), entitled(after)
    by_cause: dict[tuple[datetime, str], tuple[dict[str, CheckAnswer], list[str]]] = {}
    last_boundary = boundaries[-1] if boundaries else (now, "entitlement.changed")
    for key, answer in has.items():
        earlier = had.get(key)
        if earlier is None or _terms(earlier) != _terms(answer):
            cause = last_boundary
        elif earlier.reset_time != answer.reset_time:
            # The period before ended when this one began.
            began = earlier.reset_time if earlier.reset_time is not None and earlier.reset_time <= now else now
            cause = (began, "period.reset")
        elif _shape(earlier) != _shape(answer):
            cause = (now, _usage_cause(earlier, answer))
        else:
            continue
        by_cause.setdefault(cause, ({}, []))[0][key] = answer
    for key in had:
        if key not in has:
            by_cause.setdefault(last_boundary, ({}, []))[1].append(key)
    return [
        AccountChange(revision=revision, cause=cause, change_time=at, changed=changed, removed=tuple(removed))
        for (at, cause), (changed, removed) in sorted(by_cause.items(), key=lambda item: item[0])
    ]


def public_cause(cause: str) -> str:
    """Return what tenants know a cause as."""
    known = PUBLIC_EVENTS.get(cause)
    if known is not None:
        return known.type
    # Whatever is done to a subscription has its own name inside.
    return "subscription.updated" if cause.startswith("subscription.") and cause not in PUBLIC_TYPES else cause


def _usage_cause(before: CheckAnswer, after: CheckAnswer) -> str:
    if _used_up(after) and not _used_up(before):
        return "usage.exhausted"
    if (after.threshold_percent, after.threshold_quantity) > (before.threshold_percent, before.threshold_quantity):
        return "usage.threshold_crossed"
    return "usage.corrected"


def _used_up(answer: CheckAnswer) -> bool:
    """Tell whether the ledger alone leaves nothing; what is held comes and goes, and is not told."""
    return answer.limit_quantity != LIMIT_UNLIMITED and answer.used_quantity >= answer.limit_quantity


def _terms(answer: CheckAnswer) -> tuple[object, ...]:
    """Return what sources say, whatever is used."""
    return (
        answer.feature_kind,
        answer.value,
        answer.limit_quantity,
        answer.plan_key,
        answer.grace_end_time,
    )


def _shape(answer: CheckAnswer) -> tuple[object, ...]:
    """Return what watchers are told of when it differs: all but how much exactly is used."""
    metered = answer.feature_kind is not None and answer.feature_kind.metered
    return (
        _terms(answer),
        answer.reset_time,
        answer.threshold_percent,
        answer.threshold_quantity,
        metered and _used_up(answer),
    )
