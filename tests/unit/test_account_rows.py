"""The register says of every table of tenants what it holds of an account; nothing is forgotten when one is added."""

from __future__ import annotations

import pytest

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.privacy.scrubbing import Scrubbing
from tallygate_server.storage import tables
from tallygate_server.storage.account_rows import (
    LAST_TABLES,
    TABLES_WITHOUT_ACCOUNTS,
    AccountTable,
    Fate,
    Subject,
    account_tables,
    exported_columns,
)

SUBJECT = Subject(tenant_id=TenantId("acme"), account_id=AccountId("ann"), names=("clerk:user_1",))
SECRETS = {"secret", "old_secret", "key_id", "fingerprint", "facts"}


def test_every_table_of_tenants_is_in_the_register_once() -> None:
    registered = [entry.table.name for entry in account_tables()]

    assert len(registered) == len(set(registered))
    assert set(registered) | set(TABLES_WITHOUT_ACCOUNTS) == {table.name for table in tables.TENANT_TABLES}
    assert set(registered) & set(TABLES_WITHOUT_ACCOUNTS) == set()
    assert set(registered) >= LAST_TABLES


def test_no_table_with_an_account_id_is_said_to_hold_nothing() -> None:
    assert [
        table.name
        for table in tables.TENANT_TABLES
        if "account_id" in table.c and table.name in TABLES_WITHOUT_ACCOUNTS
    ] == []


def test_what_is_found_through_others_is_erased_before_them() -> None:
    order = [entry.table.name for entry in account_tables()]

    for child, parent in (
        ("webhook_deliveries", "outbox_events"),
        ("data_payloads", "data_segments"),
        ("data_record_ids", "datasets"),
        ("data_plan_steps", "data_plans"),
        ("data_plan_steps", "data_segments"),
        ("data_segments", "datasets"),
        ("usage_event_keys", "usage_events"),
        ("usage_rollup_values", "usage_series"),
        ("usage_rollups", "usage_series"),
        ("audit_entries", "grants"),
        ("scheduled_changes", "subscriptions"),
    ):
        assert order.index(child) < order.index(parent)
    assert order[-1] == "accounts"


@pytest.mark.parametrize("entry", account_tables(), ids=lambda entry: entry.table.name)
def test_an_entry_says_all_that_it_must(entry: AccountTable) -> None:
    assert entry.hidden <= set(entry.table.c.keys())
    assert entry.exported or entry.why_not_exported
    assert not (entry.exported and SECRETS & set(exported_columns(entry)))
    assert (entry.fate is Fate.ANONYMIZE) is (entry.change is not None)
    assert entry.fate is Fate.DELETE or entry.reason
    assert "account" in str(entry.find(SUBJECT)) or entry.mentions or "series" in str(entry.find(SUBJECT))


def test_reports_about_many_lose_what_is_about_the_account_and_nothing_else() -> None:
    scrubbing = Scrubbing(names={"ann", "seg_ann"}, living_segments={"seg_bob"})
    report = {
        "segment_count": 3,
        "results": [
            {"segment_id": "seg_bob", "summary_metrics": {"speed": 5}},
            {"segment_id": "seg_ann", "summary_metrics": {"speed": 7}},
            {"segment_id": "seg_gone", "summary_metrics": {"speed": 9}, "form": "LOSSLESS"},
        ],
        "skipped": [{"account_id": "ann"}, {"account_id": "hannah", "explanation": "ann"}],
        "names": ["ann", "hannah"],
    }

    assert scrubbing.of(report) == {
        "segment_count": 3,
        "results": [
            {"segment_id": "seg_bob", "summary_metrics": {"speed": 5}},
            {"segment_id": "seg_gone", "form": "LOSSLESS"},
        ],
        "skipped": [],
        "names": ["hannah"],
    }
