"""Whatever holds, exceptions, rules and worth there are: no plan touches what they protect."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import (
    CompressionForm,
    DataImportance,
    DataSelection,
    Segment,
    SegmentState,
    StorageOptimization,
    StorageTier,
)
from tallygate_server.domain.retention import LegalHold, RetentionException, RetentionPolicy
from tallygate_server.domain.retention_rules import PolicySet, Protections
from tallygate_server.lifecycle.value.plan_rules import (
    ESTIMATE_MARGIN,
    Measured,
    Untouchable,
    allowed_actions,
    demand_allowed,
    options_of,
    wholly_within,
)
from tallygate_server.lifecycle.value.planning import Candidate, plan_steps
from tallygate_server.lifecycle.value.scoring import Scored
from tests.support.acme import ACME, ANN, BOB
from tests.support.lifecycle import NOON
from tests.support.long_run import LONG

DAY = timedelta(days=1)
NOW = NOON + 100 * DAY
MEASURED = Measured(lossless_ratio=0.3, lossy_ratio=0.05, lossy_kept=0.6, lossy_form="summary")
COMPRESS, SUMMARIZE, DELETE = (
    StorageOptimization.COMPRESS,
    StorageOptimization.SUMMARIZE,
    StorageOptimization.DELETE,
)


def a_scored(
    day: int = 0,
    *,
    account_id: AccountId = ANN,
    form: CompressionForm = CompressionForm.NONE,
    importance: DataImportance = DataImportance.MEDIUM,
    state: SegmentState = SegmentState.LIVE,
    eligible: bool = False,
) -> Scored:
    segment = Segment(
        tenant_id=ACME,
        segment_id=f"seg_{account_id}_{day}",
        dataset_id=f"ds_{account_id}",
        account_id=account_id,
        data_type="ride",
        tier=StorageTier.HOT,
        form=form,
        state=state,
        start_time=NOON + day * DAY,
        end_time=NOON + (day + 1) * DAY,
        record_count=1_000,
        stored_bytes=10_000,
        original_bytes=10_000,
        checksum=b"",
        values_digest=b"",
        key_id="key",
        create_time=NOON,
    )
    return Scored(segment=segment, score=0.4, terms=(), importance=importance, compression_eligible=eligible)


def protections_of(*, holds: tuple[LegalHold, ...] = (), policy: RetentionPolicy | None = None) -> Protections:
    return Protections(policy_set=PolicySet.of(ACME, [policy] if policy else []), holds=holds)


def a_hold(start: int, days: int, *, account_id: AccountId | None = None) -> LegalHold:
    selection = DataSelection(
        account_id=account_id, start_time=NOON + start * DAY, end_time=NOON + (start + days) * DAY
    )
    return LegalHold(
        tenant_id=ACME,
        legal_hold_id="lh",
        selection=selection,
        reason_text="a trial",
        actor="court",
        create_time=NOON,
    )


def an_exception(start: int, days: int, *, account_id: AccountId | None = None) -> RetentionException:
    return RetentionException(
        account_id=account_id,
        start_time=NOON + start * DAY,
        end_time=NOON + (start + days) * DAY,
        retention_days=-1,
        reason_text="a promise",
    )


SPANS = st.tuples(st.integers(0, 9), st.integers(1, 4), st.sampled_from([None, ANN, BOB]))
SCORED = st.builds(
    a_scored,
    st.integers(0, 9),
    account_id=st.sampled_from([ANN, BOB]),
    form=st.sampled_from([CompressionForm.NONE, CompressionForm.LOSSLESS, CompressionForm.SUMMARY]),
    importance=st.sampled_from(DataImportance),
    state=st.sampled_from([SegmentState.LIVE, SegmentState.LIVE, SegmentState.QUARANTINED]),
    eligible=st.booleans(),
)


@settings(max_examples=300 if LONG else 60, deadline=None)
@given(
    each=st.lists(SCORED, min_size=1, max_size=10, unique_by=lambda scored: scored.segment.segment_id),
    held=st.lists(SPANS, max_size=3),
    excepted=st.lists(SPANS, max_size=3),
    standard_days=st.sampled_from([-1, 10, 99, 1_000]),
    has_policy=st.booleans(),
)
def test_no_plan_touches_what_is_protected(
    *,
    each: list[Scored],
    held: list[tuple[int, int, AccountId | None]],
    excepted: list[tuple[int, int, AccountId | None]],
    standard_days: int,
    has_policy: bool,
) -> None:
    policy = RetentionPolicy(
        tenant_id=ACME,
        data_type="ride",
        standard_retention_days=standard_days,
        exceptions=tuple(an_exception(start, days, account_id=account) for start, days, account in excepted),
        version=1,
    )
    protections = protections_of(
        holds=tuple(a_hold(start, days, account_id=account) for start, days, account in held),
        policy=policy if has_policy else None,
    )
    candidates = [
        Candidate(
            segment_id=scored.segment.segment_id,
            stored_bytes=scored.segment.stored_bytes,
            worth=scored.worth,
            options=options_of(scored.segment, allowed_actions(protections, scored, NOW), MEASURED),
        )
        for scored in each
    ]

    steps = plan_steps(candidates, excess_bytes=10**9)

    by_id = {scored.segment.segment_id: scored for scored in each}
    spans = [*held, *(excepted if has_policy else [])]
    for step in steps:
        scored = by_id[step.segment_id]
        day = (scored.segment.start_time - NOON) // DAY
        assert scored.segment.state is SegmentState.LIVE
        assert scored.importance is not DataImportance.CRITICAL
        assert not any(
            start < day + 1 and day < start + days and account in {None, scored.segment.account_id}
            for start, days, account in spans
        )
        if step.action is SUMMARIZE:
            assert scored.importance is not DataImportance.HIGH
            assert scored.compression_eligible or not has_policy
            assert scored.segment.form.exact
        if step.action is DELETE and has_policy:
            assert standard_days != -1
            assert scored.segment.end_time + standard_days * DAY <= NOW


def test_where_nobody_said_anything_everything_but_critical_data_may_go() -> None:
    everything = {COMPRESS, SUMMARIZE, DELETE}

    assert allowed_actions(protections_of(), a_scored(), NOW) == everything
    assert allowed_actions(protections_of(), a_scored(importance=DataImportance.HIGH), NOW) == {COMPRESS, DELETE}
    assert allowed_actions(protections_of(), a_scored(importance=DataImportance.CRITICAL), NOW) == set()
    assert allowed_actions(protections_of(), a_scored(form=CompressionForm.SUMMARY), NOW) == {DELETE}


def test_why_a_step_is_not_done_names_what_protects_the_data() -> None:
    with pytest.raises(Untouchable, match="a trial"):
        demand_allowed(protections_of(holds=(a_hold(0, 5),)), a_scored(), DELETE, NOW)
    with pytest.raises(Untouchable, match="it is critical"):
        demand_allowed(protections_of(), a_scored(importance=DataImportance.CRITICAL), COMPRESS, NOW)


def test_estimates_are_worse_than_what_was_measured() -> None:
    [lossless, lossy, nothing] = options_of(a_scored().segment, {COMPRESS, SUMMARIZE, DELETE}, MEASURED)

    assert lossless.bytes_after == pytest.approx(10_000 * 0.3 * (1 + ESTIMATE_MARGIN), abs=1)
    assert (lossless.worth_kept, lossy.worth_kept, nothing.worth_kept) == (1.0, 0.6, 0.0)
    assert nothing.bytes_after == 0


@pytest.mark.parametrize(
    ("start", "end", "inside"), [(None, None, True), (NOON, NOON + DAY, True), (NOON + DAY / 2, None, False)]
)
def test_what_reaches_beyond_the_selection_is_left_alone(
    *, start: datetime | None, end: datetime | None, inside: bool
) -> None:
    found = wholly_within(DataSelection(start_time=start, end_time=end), [a_scored()])

    assert bool(found) == inside
