"""What a clean-up reports stays within its bounds, and its sums survive a crash."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tallygate_server.domain.classification import Classification
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import (
    CompressionForm,
    DataImportance,
    Segment,
    StorageOptimization,
    StorageTier,
)
from tallygate_server.domain.retention_rules import Kept, KeptKind
from tallygate_server.lifecycle.classification.cleanup import SAMPLE_MAX, SKIPPED_TOLD_MAX, _Report
from tallygate_server.lifecycle.policies import Removed

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
HELD = Kept(kind=KeptKind.LEGAL_HOLD, explanation="a suit", possible_time=NOW)


def a_segment(number: int, data_type: str = "ride") -> Segment:
    return Segment(
        tenant_id=TenantId("acme"),
        segment_id=f"seg_{number}",
        dataset_id="ds_1",
        account_id=AccountId("ann"),
        data_type=data_type,
        tier=StorageTier.HOT,
        form=CompressionForm.NONE,
        start_time=NOW - timedelta(hours=1),
        end_time=NOW,
        record_count=10,
        stored_bytes=7,
        original_bytes=10,
        checksum=b"",
        values_digest=b"",
        key_id="k",
        create_time=NOW,
    )


def classified(segment: Segment) -> Classification:
    return Classification(
        segment=segment,
        importance=DataImportance.LOW,
        retention_days=-1,
        compression_eligible=False,
        training_value=0.1,
        storage_optimization=StorageOptimization.DELETE,
        access_time=None,
        access_count=0,
        terms=(),
        explanation="why",
    )


def test_as_many_as_fit_are_listed_and_each_once() -> None:
    report = _Report({})

    for number in range(SKIPPED_TOLD_MAX):
        report.skip(a_segment(number), HELD)
        report.skip(a_segment(number), HELD)
    assert len(report.document()["skipped"]) == SKIPPED_TOLD_MAX
    report.skip(a_segment(SKIPPED_TOLD_MAX), HELD)

    assert len(report.document()["skipped"]) == SKIPPED_TOLD_MAX
    assert report.document()["skipped"][0]["possible_time"] == "2026-03-15T12:00:00Z"


def test_a_sample_is_shown_and_everything_is_counted() -> None:
    report = _Report({})

    for number in range(SAMPLE_MAX + 1):
        segment = a_segment(number, "ride" if number % 2 else "run")
        removed = Removed(segments=(segment,), record_count=10, freed_bytes=7)
        # As after a crash: from the checkpoint that was written last.
        report = _Report(report.with_added(removed, [classified(segment)]).checkpoint)

    document = report.document()
    assert (document["segment_count"], len(document["sample"])) == (SAMPLE_MAX + 1, SAMPLE_MAX)
    assert (document["record_count"], document["freed_bytes"]) == (1_010, 707)
    assert document["record_count_by_type"] == {"run": 510, "ride": 500}
    assert "checked" not in document


def test_what_was_kept_after_all_is_no_sample_of_what_was_removed() -> None:
    gone, kept = a_segment(1), a_segment(2)
    report = _Report({})

    report.add(
        Removed(segments=(gone,), record_count=10, freed_bytes=7, kept=((kept, HELD),)),
        [classified(gone), classified(kept)],
    )

    assert [each["segment_id"] for each in report.document()["sample"]] == ["seg_1"]
    assert [each["segment_id"] for each in report.document()["skipped"]] == ["seg_2"]
