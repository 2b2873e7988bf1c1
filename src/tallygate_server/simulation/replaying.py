"""The work of a simulation: read the calls of a window in the order of accounts, and replay each account's.

What is kept in memory is one account's counters, the revisions that are in force where the replay stands, and one page
of calls, however many there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tallygate_server.catalog_files import parse_catalog
from tallygate_server.catalog_rules import CatalogSet
from tallygate_server.domain.catalog import Allowance, Catalog, FeatureKind
from tallygate_server.domain.entitlement import PlanTerms, Reason
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.limits import EVENT_AGE_SECONDS_MAX
from tallygate_server.domain.period import PeriodAnchor, PeriodKind
from tallygate_server.domain.simulation import (
    CLOCK_SKEW,
    DECISION_LAG,
    FIRST_DAY,
    AccountReplay,
    Draft,
    FeatureReplay,
    ReplayedDenial,
    ReplayedEntry,
    Revision,
    SimulatedFeature,
)
from tallygate_server.errors import CatalogConflict, CatalogInvalid, FieldViolation, InvalidRequest
from tallygate_server.simulation.job import (
    SimulatedAccount,
    SimulationJob,
    SimulationProgress,
    SimulationTotals,
    SimulationUpdate,
)
from tallygate_server.storage.replay_rows import (
    ACCOUNTS_PER_READ_MAX,
    COUNTED,
    DENIED,
    REVISIONS_PER_READ_MAX,
    CallsWanted,
    ReplayRows,
    RevisionDocument,
    open_replay,
)
from tallygate_server.storage.sources import sources_from_document

PROGRESS_INTERVAL_SECONDS: Final = 0.25

# Longer than any period of the kind: no entry from before this can be in a period that the window touches.
_LENGTHS: Final = {
    PeriodKind.HOUR: timedelta(hours=2),
    PeriodKind.DAY: timedelta(days=2),
    PeriodKind.WEEK: timedelta(days=8),
    PeriodKind.MONTH: timedelta(days=33),
    PeriodKind.YEAR: timedelta(days=368),
}
_LATE: Final = timedelta(seconds=EVENT_AGE_SECONDS_MAX)
_FOREVER: Final = datetime.max.replace(tzinfo=UTC)
_SINCE_EVER: Final = datetime.min.replace(tzinfo=UTC)

Tell = Callable[[SimulationUpdate], None]


async def simulate(job: SimulationJob, tell: Tell) -> None:
    """Replay what the job asks for; tell each account that would be denied, progress, and the totals last.

    Raises InvalidRequest, CatalogInvalid, CatalogConflict, StoreUnavailable.
    """
    given = _given(job)
    async with open_replay(job.database_url, job.tenant_id) as rows:
        draft, wanted = await _prepare(job, given, rows)
        await _Simulation(job, draft, wanted, rows, tell).run()


def _given(job: SimulationJob) -> Catalog | None:
    """Return the draft of the tenant; None for the plans in force."""
    if job.catalog_yaml is None:
        return None
    catalogs: CatalogSet = parse_catalog(job.catalog_yaml)
    for catalog in catalogs.catalogs:
        if catalog.settings.tenant_id == job.tenant_id:
            return catalog
    about = ", ".join(repr(str(catalog.settings.tenant_id)) for catalog in catalogs.catalogs)
    raise CatalogInvalid([FieldViolation("tenant", f"the catalog is about {about}, not about {str(job.tenant_id)!r}")])


async def _prepare(job: SimulationJob, given: Catalog | None, rows: ReplayRows) -> tuple[Draft, CallsWanted]:
    kinds = await rows.feature_kinds()
    exported = await rows.exported_until(job.account_id)
    if exported is not None and job.start_time <= exported:
        raise InvalidRequest.of(
            "start_time", f"usage until {exported.isoformat()} was moved to the archive and cannot be replayed"
        )
    wanted = CallsWanted(start=job.start_time, end=job.end_time, account_id=job.account_id, feature_key=job.feature_key)
    if given is None:
        return Draft(plans={}, feature_keys=frozenset(kinds)), wanted
    for feature in given.features:
        before = kinds.get(feature.key)
        if before is not None and before != feature.kind.value:
            raise CatalogConflict(
                job.tenant_id,
                f"features.{feature.key}.kind",
                f"{feature.key!r} is a {before} feature and cannot become a {feature.kind.value} one",
            )
    plans = {
        str(plan.key): PlanTerms(plan_rank=plan.rank, grace_days=plan.grace_days, allowances=plan.allowances)
        for plan in given.plans
    }
    declared = frozenset(str(feature.key) for feature in given.features)
    drafted = [allowance for plan in given.plans for allowance in plan.allowances]
    draft = Draft(plans=plans, feature_keys=declared | kinds.keys(), given_feature_keys=declared)
    features, reach = counted_elsewhere(await rows.allowances(), drafted)
    if not features:
        return draft, wanted
    begin = None if reach is None else job.start_time - reach - _LATE
    return draft, replace(wanted, carried_features=sorted(features), carried_from=begin)


def counted_elsewhere(stored: Iterable[Allowance], drafted: Iterable[Allowance]) -> tuple[set[str], timedelta | None]:
    """Return features that plans count in unlike periods, and how long before the window the draft's may begin.

    None: without end. Of all other features the draft's counters are the real ones.
    """
    periods: dict[str, set[tuple[PeriodKind, PeriodAnchor]]] = {}
    kinds: dict[str, set[PeriodKind]] = {}
    for allowance in drafted:
        if allowance.enabled and allowance.kind is FeatureKind.COUNTER:
            periods.setdefault(allowance.feature_key, set()).add((allowance.period_kind, allowance.period_anchor))
            kinds.setdefault(allowance.feature_key, set()).add(allowance.period_kind)
    for allowance in stored:
        if allowance.enabled and allowance.feature_key in periods:
            periods[allowance.feature_key].add((allowance.period_kind, allowance.period_anchor))
    features = {key for key, found in periods.items() if len(found) > 1}
    reaching = {kind for key in features for kind in kinds[key]}
    if PeriodKind.LIFETIME in reaching:
        return features, None
    return features, max((_LENGTHS[kind] for kind in reaching), default=timedelta())


def _known_from(wanted: CallsWanted) -> datetime | None:
    """Return from when on it must be known what accounts were entitled to; None: since ever."""
    if not wanted.carried_features:
        return wanted.start - DECISION_LAG
    return None if wanted.carried_from is None else wanted.carried_from - DECISION_LAG


class _Simulation:
    """One simulation under way."""

    def __init__(self, job: SimulationJob, draft: Draft, wanted: CallsWanted, rows: ReplayRows, tell: Tell) -> None:
        self._job = job
        self._draft = draft
        self._wanted = wanted
        self._rows = rows
        self._tell = tell
        self._totals = SimulationTotals()
        self._read_count = 0
        self._known_from = _known_from(wanted)
        self._ahead: dict[AccountId, list[RevisionDocument]] = {}
        """Revisions that were read for accounts to come."""

    async def run(self) -> None:
        """Replay account after account."""
        total = await self._rows.count(self._wanted)
        self._tell(SimulationProgress(entry_count=0, entry_count_total=total))
        told = time.monotonic()
        account: _Account | None = None
        async for calls in self._rows.calls(self._wanted):
            account = await self._replay(calls, account)
            if time.monotonic() - told >= PROGRESS_INTERVAL_SECONDS:
                told = time.monotonic()
                read = self._read_count
                self._tell(SimulationProgress(entry_count=read, entry_count_total=max(total, read)))
        if account is not None:
            self._conclude(account)
        self._tell(self._totals)

    async def _replay(self, calls: Sequence[Any], account: _Account | None) -> _Account:
        """Replay a page of calls, of which the first may go on with the account of the page before."""
        account_ids = list(dict.fromkeys(call[0] for call in calls))
        position = 0
        for (
            account_id, entry_id, feature_key, source, recorded_time, event_time, kind, quantity, used, limit,
            period_kind, period_start, plan_key,
        ) in calls:  # fmt: skip
            if account is None or account.account_id != account_id:
                if account is not None:
                    self._conclude(account)
                if account_id not in self._ahead:
                    position = account_ids.index(account_id, position)
                    await self._read_ahead(account_ids[position : position + ACCOUNTS_PER_READ_MAX])
                account = self._begin(AccountId(account_id))
            if recorded_time >= account.known_until:
                await self._know_more(account, recorded_time)
            feature = account.features.get(feature_key)
            if feature is None:
                feature = account.features[feature_key] = account.replay.feature(feature_key)
            if source == DENIED:
                account.denial_count += 1
                account.replay.denial(
                    feature_key,
                    ReplayedDenial(entry_id, recorded_time, event_time, quantity, Reason(kind), used, limit),
                )
                continue
            entry = ReplayedEntry(
                recorded_time, event_time, kind, quantity, used, limit, period_kind, period_start, plan_key
            )
            self._read_count += 1
            if source == COUNTED:
                account.entry_count += 1
                feature.entry(entry)
            else:
                feature.carry_in(entry)
        assert account is not None
        return account

    async def _read_ahead(self, account_ids: Sequence[AccountId]) -> None:
        """Read the first revisions of the accounts that come next."""
        self._ahead = await self._rows.revisions(dict.fromkeys(account_ids, 0), self._known_from)
        without = [account_id for account_id, found in self._ahead.items() if not found]
        for account_id, (revision, document) in (
            await self._rows.current_documents(without, self._wanted.start)
        ).items():
            # The oldest that is known is what is: it has held since ever, as far as anybody can tell.
            self._ahead[account_id] = [RevisionDocument(account_id, revision, _SINCE_EVER, document)]

    def _begin(self, account_id: AccountId) -> _Account:
        account = _Account(account_id, self._draft, self._job)
        self._learn(account, self._ahead.pop(account_id))
        return account

    async def _know_more(self, account: _Account, instant: datetime) -> None:
        """Read the account's revisions up to the instant and somewhat beyond."""
        while account.known_until <= instant:
            after = {account.account_id: account.last_revision}
            found = await self._rows.revisions(after, self._known_from)
            account.replay.timeline.forget_before(instant)
            self._learn(account, found[account.account_id])

    def _learn(self, account: _Account, revisions: Sequence[RevisionDocument]) -> None:
        for revision in revisions:
            sources = sources_from_document(self._job.tenant_id, account.account_id, revision.document)
            account.replay.timeline.add(Revision(revision.revision, revision.begin_time, sources))
            account.last_revision = revision.revision
        if len(revisions) < REVISIONS_PER_READ_MAX:
            account.known_until = _FOREVER
        else:
            account.known_until = max(revision.begin_time for revision in revisions) - CLOCK_SKEW

    def _conclude(self, account: _Account) -> None:
        """Tell what would have happened to the account, and add it to the totals."""
        outcomes = account.replay.outcomes()
        with_denials = self._job.include_denied_usage and account.denial_count > 0
        if not (account.entry_count or with_denials) or not account.replay.on_plan:
            return
        for outcome in outcomes:
            self._tell(_told(account.account_id, outcome))
        totals = self._totals
        first = min((outcome.first_denial_time for outcome in outcomes), default=None)
        self._totals = SimulationTotals(
            entry_count=totals.entry_count + account.entry_count,
            account_count=totals.account_count + 1,
            denied_account_count=totals.denied_account_count + bool(outcomes),
            denied_count=totals.denied_count + sum(outcome.denied_count for outcome in outcomes),
            denied_quantity=totals.denied_quantity + sum(outcome.denied_quantity for outcome in outcomes),
            first_day_account_count=totals.first_day_account_count
            + (first is not None and first < self._job.start_time + FIRST_DAY),
            unexplained_count=totals.unexplained_count + account.replay.unexplained_count,
        )


class _Account:
    """The account that is replayed just now."""

    __slots__ = (
        "account_id",
        "denial_count",
        "entry_count",
        "features",
        "known_until",
        "last_revision",
        "replay",
    )

    def __init__(self, account_id: AccountId, draft: Draft, job: SimulationJob) -> None:
        self.account_id = account_id
        self.replay = AccountReplay(draft, with_denied_usage=job.include_denied_usage, wanted_plan_key=job.plan_key)
        self.features: dict[str, FeatureReplay] = {}
        self.entry_count = 0
        self.denial_count = 0
        self.last_revision = 0
        self.known_until = _FOREVER
        """Calls recorded from then on may go by revisions that are not read yet."""


def _told(account_id: AccountId, outcome: SimulatedFeature) -> SimulatedAccount:
    return SimulatedAccount(
        account_id=account_id,
        feature_key=outcome.feature_key,
        plan_key=outcome.plan_key,
        first_denial_time=outcome.first_denial_time,
        denied_count=outcome.denied_count,
        denied_quantity=outcome.denied_quantity,
        used_quantity=outcome.used_quantity,
        limit_quantity=outcome.limit_quantity,
        reason=outcome.reason,
        real_denied_count=outcome.real_denied_count,
    )
