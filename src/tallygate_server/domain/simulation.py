"""Replaying what was counted and denied under other plans: who would have been blocked, when first, how often.

A decision depends on two things: what the account is entitled to at the moment, and how much its counter holds. The
first is resolved from the account's own history, with a draft's plans in place of those of the same key. The second is
known exactly of what really happened, as every line of the ledger and every denial says where its counter stood; the
replay keeps how far each counter has gone *away* from the real one: down by what a draft denies or counts elsewhere, up
by what it admits. So it needs no total to begin with, and the order in which calls of one moment were written does not
matter. Only where a draft counts in other periods than those in which usage was counted must earlier lines of the
ledger be carried in.

What credits and rollovers made of a limit at a moment is recorded with the line, as the limit that callers heard of. It
is taken as given: a draft changes the allowance below it, not what is left of a credit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from tallygate_server.domain.catalog import FeatureKind, LimitMode
from tallygate_server.domain.entitlement import (
    AccountSources,
    AccountState,
    Entitlement,
    PlanTerms,
    Reason,
    Resolution,
    SubscriptionSource,
    decide,
    resolve,
)
from tallygate_server.domain.limits import BATCH_ITEMS_MAX, LIMIT_UNLIMITED
from tallygate_server.domain.period import EPOCH, Period, PeriodKind
from tallygate_server.domain.usage import EntryKind

DECISION_LAG: Final = timedelta(seconds=60)
"""No call is recorded later than this after it was placed under its account's entitlements."""
CLOCK_SKEW: Final = timedelta(seconds=5)
"""Servers whose clocks differ by no more than this may disagree about which came first, a change or a call."""
FIRST_DAY: Final = timedelta(days=1)

_MILLISECOND: Final = timedelta(milliseconds=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_FOREVER: Final = datetime.max.replace(tzinfo=UTC)
_KINDS_THAT_ASK: Final = frozenset({EntryKind.INCREMENT, EntryKind.RESERVATION})
"""All others are never denied."""
_DECIDED_BY_COUNTER: Final = frozenset({Reason.EXHAUSTED, Reason.BELOW_ZERO, Reason.ATOMIC_BATCH})

CounterName = tuple[str, datetime]
"""Kind of the period, and its start."""


class ReplayedEntry(NamedTuple):
    """A line of the ledger."""

    recorded_time: datetime
    event_time: datetime
    kind: int
    quantity: int
    used_after: int
    limit_quantity: int
    period_kind: str
    period_start: datetime
    plan_key: str | None
    """None: not recorded."""


class ReplayedDenial(NamedTuple):
    """A denied increment as it was recorded."""

    entry_id: int
    recorded_time: datetime
    event_time: datetime
    quantity: int
    reason: Reason
    used_quantity: int
    limit_quantity: int


class Revision(NamedTuple):
    """What decided an account's entitlements from an instant on, until a higher revision began."""

    revision: int
    begin_time: datetime
    sources: AccountSources


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What is simulated: plans that take the place of those of the same key; none at all for the plans in force."""

    plans: Mapping[str, PlanTerms]
    feature_keys: Collection[str]
    """Features that the catalog knows, those of the draft included."""
    given_feature_keys: Collection[str] = ()
    """Features that the draft declares."""

    def sources(self, sources: AccountSources) -> AccountSources:
        """Return the sources with the draft's plans in them; the very same where it has none of them."""
        if not any(_plan_keys(source) & self.plans.keys() for source in sources.subscriptions):
            return sources
        return replace(sources, subscriptions=tuple(map(self._subscription, sources.subscriptions)))

    def _subscription(self, source: SubscriptionSource) -> SubscriptionSource:
        terms = self.plans.get(source.subscription.plan_key)
        if terms is not None:
            source = replace(
                source, plan_rank=terms.plan_rank, grace_days=terms.grace_days, allowances=terms.allowances
            )
        if source.change is not None and source.terms_after is not None and source.change.plan_key is not None:
            after = self.plans.get(source.change.plan_key)
            if after is not None:
                source = replace(source, terms_after=after)
        return source


def _plan_keys(source: SubscriptionSource) -> set[str]:
    keys: set[str] = {source.subscription.plan_key}
    if source.change is not None and source.change.plan_key is not None:
        keys.add(source.change.plan_key)
    return keys


class Segment:
    """A span of time in which an account's entitlements do not change: as they were, and as the draft has them."""

    __slots__ = ("draft", "end", "real", "start", "state")

    def __init__(
        self, state: AccountState, *, start: datetime, end: datetime, real: Resolution, draft: Resolution
    ) -> None:
        self.state = state
        self.start = start
        self.end = end
        self.real = real
        self.draft = draft

    def on_plan(self, plan_key: str) -> bool:
        """Tell whether the plan really gave the account anything."""
        if self.real.plan_key == plan_key:
            return True
        return any(entitlement.plan_key == plan_key for entitlement in self.real.entitlements.values())


class Timeline:
    """What decided an account's entitlements, instant by instant; revisions are added as they are read."""

    def __init__(self, draft: Draft) -> None:
        """Begin without any revision."""
        self._draft = draft
        self._revisions: list[Revision] = []
        self._drafted: dict[int, AccountSources] = {}
        self._segments: dict[int, list[Segment]] = {}

    def __len__(self) -> int:
        """Return how many revisions are kept."""
        return len(self._revisions)

    def add(self, revision: Revision) -> None:
        """Go on with the next revision; they come in order of their numbers."""
        self._revisions.append(revision)
        self._drafted[revision.revision] = self._draft.sources(revision.sources)
        # What seemed to have no end may have one now.
        for segments in self._segments.values():
            segments[:] = [segment for segment in segments if segment.end <= revision.begin_time]

    def forget_before(self, instant: datetime) -> None:
        """Drop revisions that nothing recorded at or after the instant can go by."""
        before = instant - DECISION_LAG
        while len(self._revisions) > 1 and self._revisions[1].begin_time <= before:
            gone = self._revisions.pop(0)
            self._drafted.pop(gone.revision, None)
            self._segments.pop(gone.revision, None)

    def at(self, instant: datetime) -> Segment | None:
        """Return what was in force at the instant; None where nothing is known of the account."""
        for revision in reversed(self._revisions):
            if revision.begin_time <= instant:
                return self._segment(revision, instant)
        return self._segment(self._revisions[0], instant) if self._revisions else None

    def near(self, instant: datetime) -> list[Segment]:
        """Return what may have been in force for a call that was recorded at the instant, the likeliest first.

        A call is placed before it is recorded, perhaps by a server whose clock differs: what was in force a little
        before comes first, the newest first; then what came a little later.
        """
        earliest, latest = instant - DECISION_LAG, instant + CLOCK_SKEW
        found: list[Segment] = []
        later: list[Segment] = []
        for i in range(len(self._revisions) - 1, -1, -1):
            revision = self._revisions[i]
            following = self._revisions[i + 1].begin_time if i + 1 < len(self._revisions) else _FOREVER
            if revision.begin_time > latest or (following < earliest and i + 1 < len(self._revisions)):
                continue
            begin = max(earliest, revision.begin_time) if i else earliest
            segments = self._walk(revision, begin, min(latest, max(following, begin)))
            found += [segment for segment in reversed(segments) if segment.start <= instant]
            later = [segment for segment in segments if segment.start > instant] + later
        return found + later

    def _walk(self, revision: Revision, begin: datetime, end: datetime) -> list[Segment]:
        """Return the segments of a revision between two instants, the one at the first of them always."""
        segments = [self._segment(revision, begin)]
        while segments[-1].end < end:
            segments.append(self._segment(revision, segments[-1].end))
        return segments

    def _segment(self, revision: Revision, instant: datetime) -> Segment:
        known = self._segments.setdefault(revision.revision, [])
        for segment in known:
            if segment.start <= instant < segment.end:
                return segment
        # Calls are placed by whole milliseconds and resolved at their end: see hot_accounts.end_of_ms.
        floor = _floor_ms(instant)
        at = floor + _MILLISECOND - _MICROSECOND
        real = resolve(revision.sources, at)
        drafted = self._drafted[revision.revision]
        draft = real if drafted is revision.sources else resolve(drafted, at)
        if draft == real:
            draft = real
        end = min((_floor_ms(t) for t in (real.expire_time, draft.expire_time) if t is not None), default=_FOREVER)
        # Of revisions that have begun the highest is in force: a later one ends it.
        for other in self._revisions:
            if other.revision > revision.revision and other.begin_time > instant:
                end = min(end, other.begin_time)
        segment = Segment(revision.sources.state, start=instant, end=max(end, instant), real=real, draft=draft)
        known.append(segment)
        return segment


class _Counter:
    """One counter of the replay: how far it has gone away from the real one."""

    __slots__ = ("offset", "real")

    def __init__(self) -> None:
        self.offset = 0
        """How much more it holds than the real one."""
        self.real = 0
        """Where the real one stood last, as far as it was read."""


class _View:
    """A feature within a segment and a real period: everything that most calls have in common."""

    __slots__ = (
        "counter",
        "end",
        "entitlement",
        "limit",
        "open",
        "period_kind",
        "period_start",
        "real_counter",
        "real_limit",
        "segment",
        "start",
        "unexplained",
        "until",
    )

    def __init__(
        self, segment: Segment, feature_key: str, period: CounterName, real_counter: _Counter, recorded_limit: int
    ) -> None:
        entitlement = segment.draft.entitlements.get(feature_key)
        real = segment.real.entitlements.get(feature_key)
        if entitlement is not None and real is not None and _has_extras(real):
            entitlement = _with_extras(entitlement, recorded_limit - real.limit_quantity)
        self.segment = segment
        self.start = segment.start
        self.end = segment.end
        self.entitlement = entitlement
        self.period_kind, self.period_start = period
        self.real_limit = recorded_limit
        """What the calls were told that it speaks of."""
        self.open = (
            segment.state is AccountState.ACTIVE
            and entitlement is not None
            and entitlement.denied is None
            and entitlement.kind.metered
        )
        """Whether only the counter can stand in the way."""
        hard = entitlement is not None and entitlement.limit_mode is LimitMode.HARD
        self.limit = entitlement.limit_quantity if entitlement is not None and self.open and hard else LIMIT_UNLIMITED
        self.real_counter = real_counter
        """Where usage was really counted."""
        self.counter = real_counter
        """Where the draft counts it."""
        self.until: Period | None = None
        """Period of the draft's counter, where it is not that of the real one."""
        self.unexplained = False
        """Whether nothing that is known of the account explains the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedFeature:
    """What would have happened to one account with one feature."""

    feature_key: str
    plan_key: str
    first_denial_time: datetime
    denied_count: int
    denied_quantity: int
    used_quantity: int
    """Units that were really used in the window."""
    limit_quantity: int
    """The draft's, in the period of the first denial; 0 where it gives nothing."""
    reason: Reason
    real_denied_count: int


class FeatureReplay:
    """One feature of one account under a draft."""

    __slots__ = (
        "_counters",
        "_draft",
        "_timeline",
        "_view",
        "denied_count",
        "denied_quantity",
        "feature_key",
        "first_denial_time",
        "limit_quantity",
        "plan_key",
        "real_denied_count",
        "reason",
        "seen_on_plan",
        "unexplained_count",
        "used_quantity",
        "wanted_plan_key",
    )

    def __init__(self, feature_key: str, timeline: Timeline, draft: Draft, *, wanted_plan_key: str = "") -> None:
        """Go by the account's timeline; take note whether the account was on the wanted plan."""
        self.feature_key = feature_key
        self._timeline = timeline
        self._draft = draft
        self._counters: dict[CounterName, _Counter] = {}
        self._view: _View | None = None
        self.wanted_plan_key = wanted_plan_key
        self.seen_on_plan = not wanted_plan_key
        self.unexplained_count = 0
        self.used_quantity = 0
        self.real_denied_count = 0
        self.denied_count = 0
        self.denied_quantity = 0
        self.first_denial_time: datetime | None = None
        self.plan_key = ""
        self.limit_quantity = 0
        self.reason = Reason.OK

    def carry_in(self, entry: ReplayedEntry) -> None:
        """Count a line of the ledger from before the window, in the period in which the draft counts it."""
        view = self._view_of(entry)
        counter, real = self._draft_counter(view, entry.event_time), view.real_counter
        real.real = entry.used_after
        if counter is not real:
            real.offset -= entry.quantity
            counter.offset += entry.quantity

    def entry(self, entry: ReplayedEntry) -> None:
        """Replay a line of the ledger: a call that was really allowed."""
        recorded_time, event_time, kind, quantity, used_after, limit, period_kind, period_start, _ = entry
        view = self._view
        if (
            view is None
            or recorded_time >= view.end
            or recorded_time < view.start
            or period_start != view.period_start
            or limit != view.real_limit
            or period_kind != view.period_kind
        ):
            view = self._view_of(entry)
        self.used_quantity += quantity
        self.unexplained_count += view.unexplained
        real = view.real_counter
        real.real = used_after
        if view.until is None:
            counter = real
            used_before = used_after - quantity + real.offset
        else:
            counter = self._draft_counter(view, event_time)
            if counter is real:
                used_before = used_after - quantity + real.offset
            else:
                real.offset -= quantity
                used_before = counter.real + counter.offset
        limit = view.limit
        if kind in _KINDS_THAT_ASK and (
            not view.open or (quantity > 0 and limit != LIMIT_UNLIMITED and used_before + quantity > limit)
        ):
            in_force = view.segment.draft is view.segment.real
            reason = self._decide(view, entry, used_before, 0)
            stays = view.unexplained and in_force
            if kind == EntryKind.RESERVATION:
                # It was granted earlier, and what is promised always counts: where the draft leaves its limit and its
                # counter as they really were, so was its fate.
                stays = not view.open or (counter.offset == 0 and (in_force or limit == view.real_limit))
            if not (reason.allows or stays):
                if counter is real:
                    counter.offset -= quantity
                self._deny(view, reason, quantity, recorded_time)
                return
        if counter is not real:
            counter.offset += quantity
        if used_before + quantity < 0:
            # What the draft never let in cannot be given back.
            counter.offset -= used_before + quantity

    def denial(self, denial: ReplayedDenial, *, spoilt: bool = False) -> bool:
        """Replay a call that was really denied; return whether it would have been allowed.

        One whose batch of all or nothing is spoilt by another call of it is denied whatever its own counter says.
        """
        view = self._view_of_denial(denial)
        self.unexplained_count += view.unexplained
        if denial.reason in _DECIDED_BY_COUNTER:
            view.real_counter.real = denial.used_quantity
        counter = self._draft_counter(view, denial.event_time)
        reason = denial.reason
        if not spoilt and not (view.unexplained and view.segment.draft is view.segment.real):
            # Where what was used left room, reservations or earlier calls of the same batch took at least the rest.
            left = denial.limit_quantity - denial.used_quantity
            held = max(left - denial.quantity + 1, 0) if reason is Reason.EXHAUSTED else 0
            reason = self._decide(view, denial, counter.real + counter.offset, held)
        if reason.allows:
            counter.offset += denial.quantity
            return True
        self._deny(view, reason, denial.quantity, denial.recorded_time)
        return False

    def outcome(self) -> SimulatedFeature | None:
        """Return what would have happened; None where nothing would have been denied."""
        if self.first_denial_time is None:
            return None
        return SimulatedFeature(
            feature_key=self.feature_key,
            plan_key=self.plan_key,
            first_denial_time=self.first_denial_time,
            denied_count=self.denied_count,
            denied_quantity=self.denied_quantity,
            used_quantity=self.used_quantity,
            limit_quantity=self.limit_quantity,
            reason=self.reason,
            real_denied_count=self.real_denied_count,
        )

    def _decide(self, view: _View, call: ReplayedEntry | ReplayedDenial, used: int, held: int) -> Reason:
        known = self.feature_key in self._draft.feature_keys
        if isinstance(call, ReplayedDenial) and call.reason is Reason.UNKNOWN_FEATURE:
            # One that the catalog knows by now it may not have known then.
            known = self.feature_key in self._draft.given_feature_keys
        return decide(
            feature_known=known,
            account_state=view.segment.state,
            entitlement=view.entitlement,
            quantity=call.quantity,
            used=used,
            held=held,
        )

    def _deny(self, view: _View, reason: Reason, quantity: int, recorded_time: datetime) -> None:
        self.denied_count += 1
        self.denied_quantity += quantity
        if self.first_denial_time is None or recorded_time < self.first_denial_time:
            entitlement = view.entitlement
            given = entitlement is not None and entitlement.denied is None
            self.first_denial_time = recorded_time
            self.reason = reason
            self.limit_quantity = entitlement.limit_quantity if entitlement is not None and given else 0
            self.plan_key = (entitlement.plan_key if entitlement is not None else "") or view.segment.draft.plan_key

    def _draft_counter(self, view: _View, event_time: datetime) -> _Counter:
        """Return the counter in which the draft counts what happened at the instant."""
        period = view.until
        if period is None or event_time in period:
            return view.counter
        entitlement = view.entitlement
        assert entitlement is not None
        view.until = period = entitlement.period_at(event_time, view.segment.draft.time_zone)
        view.counter = self._counter((period.kind.value, period.start))
        return view.counter

    def _counter(self, name: CounterName) -> _Counter:
        counter = self._counters.get(name)
        if counter is None:
            counter = self._counters[name] = _Counter()
        return counter

    def _view_of(self, entry: ReplayedEntry) -> _View:
        """Find under which of the entitlements about its time an allowed call was decided."""
        segment = likeliest = self._timeline.at(entry.recorded_time)
        # Only an increment was decided at the moment that it is recorded at.
        asked = entry.kind == EntryKind.INCREMENT
        explained = segment is not None and (not asked or self._admitted(segment, entry))
        if not explained:
            near = self._timeline.near(entry.recorded_time)
            other = next((segment for segment in near if self._admitted(segment, entry)), None)
            segment, explained = other or segment, other is not None
        view = self._use(segment, (entry.period_kind, entry.period_start), entry.limit_quantity, explained=explained)
        if segment is likeliest:
            # One of another moment than that of its record says nothing about the calls that follow.
            self._view = view
        return view

    def _admitted(self, segment: Segment, entry: ReplayedEntry) -> bool:
        """Tell whether the entry can have been admitted under the segment: its limit and its period say so."""
        real = segment.real.entitlements.get(self.feature_key)
        if segment.state is not AccountState.ACTIVE or real is None or real.denied is not None:
            return False
        if real.period_kind.value != entry.period_kind:
            return False
        if real.limit_quantity != entry.limit_quantity and not _has_extras(real):
            return False
        if entry.plan_key is not None and real.plan_key != entry.plan_key:
            return False
        return real.period_at(entry.event_time, segment.real.time_zone).start == entry.period_start

    def _view_of_denial(self, denial: ReplayedDenial) -> _View:
        """Find under which of the entitlements about its time a call was denied."""
        segment = self._timeline.at(denial.recorded_time)
        explained = segment is not None and self._refused(segment, denial)
        if not explained:
            near = self._timeline.near(denial.recorded_time)
            other = next((segment for segment in near if self._refused(segment, denial)), None)
            segment, explained = other or segment, other is not None
        period = self._denied_period(segment, denial)
        return self._use(segment, period, denial.limit_quantity, explained=explained)

    def _refused(self, segment: Segment, denial: ReplayedDenial) -> bool:
        """Tell whether the call can have been denied for its reason under the segment."""
        real = segment.real.entitlements.get(self.feature_key)
        if denial.reason in _DECIDED_BY_COUNTER:
            return (
                segment.state is AccountState.ACTIVE
                and real is not None
                and real.denied is None
                and (real.limit_quantity == denial.limit_quantity or _has_extras(real))
            )
        known = denial.reason is not Reason.UNKNOWN_FEATURE
        reason = decide(
            feature_known=known, account_state=segment.state, entitlement=real, quantity=denial.quantity, used=0, held=0
        )
        return reason is denial.reason

    def _denied_period(self, segment: Segment | None, denial: ReplayedDenial) -> CounterName:
        """Return the counter that stood in the way, or would have been counted in."""
        if segment is not None:
            for resolution in (segment.real, segment.draft):
                entitlement = resolution.entitlements.get(self.feature_key)
                if entitlement is not None and entitlement.denied is None:
                    period: Period = entitlement.period_at(denial.event_time, resolution.time_zone)
                    return (period.kind.value, period.start)
        return ("", EPOCH)

    def _use(self, segment: Segment | None, period: CounterName, recorded_limit: int, *, explained: bool) -> _View:
        segment = segment or _NOWHERE
        if not self.seen_on_plan:
            self.seen_on_plan = segment.on_plan(self.wanted_plan_key)
        view = _View(segment, self.feature_key, period, self._counter(period), recorded_limit)
        if segment.draft is not segment.real and view.open:
            # To be found for each instant: the draft may count in other periods.
            view.until = _NO_PERIOD
        view.unexplained = not explained
        return view


def _has_extras(entitlement: Entitlement) -> bool:
    """Tell whether more than the allowance makes the limit: then it changes from call to call."""
    if entitlement.denied is not None or entitlement.limit_quantity == LIMIT_UNLIMITED:
        return False
    return entitlement.kind is FeatureKind.COUNTER and bool(
        entitlement.credits or entitlement.credited_until is not None or entitlement.rollover is not None
    )


def _with_extras(entitlement: Entitlement, extras: int) -> Entitlement:
    if entitlement.denied is not None or entitlement.limit_quantity == LIMIT_UNLIMITED:
        return entitlement
    return replace(entitlement, limit_quantity=max(entitlement.limit_quantity + extras, 0))


_NO_PERIOD: Final = Period(PeriodKind.HOUR, EPOCH, EPOCH)
_NOTHING: Final = Resolution(entitlements={}, expire_time=None, time_zone=UTC)
_NOWHERE: Final = Segment(AccountState.ACTIVE, start=EPOCH, end=_FOREVER, real=_NOTHING, draft=_NOTHING)
"""For an account of which nothing is known."""


class AccountReplay:
    """One account under a draft: lines of the ledger and denials as they come, then what became of each feature."""

    def __init__(self, draft: Draft, *, with_denied_usage: bool, wanted_plan_key: str = "") -> None:
        """Replay what was denied, too, where that is wanted; take note whether it was on the wanted plan."""
        self.timeline = Timeline(draft)
        self._draft = draft
        self._with_denied_usage = with_denied_usage
        self._wanted_plan_key = wanted_plan_key
        self._features: dict[str, FeatureReplay] = {}
        self._moment: list[tuple[FeatureReplay, ReplayedDenial]] = []

    @property
    def on_plan(self) -> bool:
        """Whether the account was on the wanted plan when anything happened; also where none is wanted."""
        return not self._wanted_plan_key or any(feature.seen_on_plan for feature in self._features.values())

    @property
    def unexplained_count(self) -> int:
        """How many calls nothing that is known of the account explains: it was changed by hand, or lacks a history."""
        return sum(feature.unexplained_count for feature in self._features.values())

    def feature(self, feature_key: str) -> FeatureReplay:
        """Return the replay of a feature."""
        found = self._features.get(feature_key)
        if found is None:
            found = self._features[feature_key] = FeatureReplay(
                feature_key, self.timeline, self._draft, wanted_plan_key=self._wanted_plan_key
            )
        return found

    def denial(self, feature_key: str, denial: ReplayedDenial) -> None:
        """Replay a call that was denied; denials come in the order of their ids."""
        feature = self.feature(feature_key)
        feature.real_denied_count += 1
        if not self._with_denied_usage:
            return
        moment = self._moment
        # A batch of all or nothing is recorded in one moment: what some of its calls were denied for hangs on others.
        if moment and (denial.recorded_time != moment[0][1].recorded_time or len(moment) >= BATCH_ITEMS_MAX):
            self._conclude_moment()
        self._moment.append((feature, denial))

    def outcomes(self) -> list[SimulatedFeature]:
        """Return what would have been denied, by feature key; nothing more can come."""
        self._conclude_moment()
        found = (self._features[key].outcome() for key in sorted(self._features))
        return [outcome for outcome in found if outcome is not None]

    def _conclude_moment(self) -> None:
        moment, self._moment = self._moment, []
        culprits = denied_culprits = 0
        for feature, denial in moment:
            if denial.reason is not Reason.ATOMIC_BATCH:
                culprits += 1
                denied_culprits += not feature.denial(denial)
        # Who spoilt a batch for the others may be another account: then it stays spoilt.
        spoilt = denied_culprits > 0 or not culprits
        for feature, denial in moment:
            if denial.reason is Reason.ATOMIC_BATCH:
                feature.denial(denial, spoilt=spoilt)


def _floor_ms(instant: datetime) -> datetime:
    return instant - timedelta(microseconds=instant.microsecond % 1_000)
