"""Orphans are found and removed, soft deletes are purged, and what something rests on stays."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.domain.lifecycle import StorageTier
from tallygate_server.grants import NewGrant
from tallygate_server.grants.rules import AskedKind
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.own_data import leftovers, orphans
from tallygate_server.storage.data_segments import note_object
from tallygate_server.validation import Difference
from tests.support.acme import ACME, ANN, BOB, a_check, an_increment, apply_catalog, change_plan, outcome_of, services
from tests.support.clock import FrozenClock
from tests.support.lifecycle import a_dataset, a_table, lifecycles

DAY = timedelta(days=1)
HISTORY = timedelta(days=730)
SOFTLY_DELETED = """
UPDATE accounts SET state = 'deleted', delete_time = :then, email = 'ann@example.com' WHERE account_id = 'ann';
INSERT INTO account_identities SELECT tenant_id, 'clerk', account_id, account_id FROM accounts;
INSERT INTO customers (tenant_id, customer_id, account_id, provider, provider_customer_id, deleted, update_time)
VALUES ('acme', 'c1', 'bob', 'stripe', 'cus_1', true, :then), ('acme', 'c2', 'bob', 'stripe', 'cus_2', false, :then);
INSERT INTO checkout_sessions (
    tenant_id, provider_session_id, account_id, plan_key, fingerprint, state, url, expire_time, update_time
)
SELECT 'acme', 'cs_' || n, 'bob', 'pro', '', CASE n WHEN 0 THEN 'open' ELSE 'complete' END, '', :then, :then
FROM generate_series(0, 5) AS n;
INSERT INTO billing_operations (
    tenant_id, operation_id, account_id, kind, subject, fingerprint, state, key_time, attempt_time, update_time
)
SELECT 'acme', state, 'bob', 'change_plan', '', '', state, :then, :then, :then
FROM unnest(ARRAY['pending', 'done', 'failed']) AS state;
INSERT INTO legal_holds (tenant_id, legal_hold_id, selection, reason_text, actor, create_time, release_time)
VALUES ('acme', 'released', '{}', '', '', :then, :then), ('acme', 'held', '{}', '', '', :then, NULL);
INSERT INTO grant_requests VALUES ('acme', 'bob', 'r1', '', NULL, 1, :then);
INSERT INTO data_requests VALUES ('acme', 'bob', 'r1', '', '', '{}', :then);
INSERT INTO grant_balances (tenant_id, account_id, grant_id, window_start, feature_key, given_quantity, update_time)
VALUES ('acme', 'bob', 'gone', :then, 'ten', 5, :then);
"""


@pytest.fixture
def clock() -> FrozenClock:
    # The stores' own clocks are real: what they list is as old as the machine says.
    return FrozenClock(datetime.now(UTC))


@pytest.fixture
async def lifecycle(
    fresh_database: str, fresh_redis: str, tmp_path: Path, clock: FrozenClock
) -> AsyncIterator[Lifecycle]:
    await apply_catalog(fresh_database)
    async with (
        services(fresh_database, fresh_redis, clock=clock) as [service],
        lifecycles(fresh_database, service, tmp_path) as made,
    ):
        yield made


async def ask(lifecycle: Lifecycle, sql: str, **values: Any) -> list[Any]:
    """Run a statement on the tenant's rows; return the first column of what it gives."""
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        await connection.execute(text("SELECT set_config('tallygate.change', 'own', true)"))
        result = await connection.execute(text(sql), values)
        return list(result.scalars()) if result.returns_rows else []


async def differences(lifecycle: Lifecycle) -> list[Difference]:
    async with aclosing(lifecycle.service.validations.validate()) as updates:
        return [update async for update in updates if isinstance(update, Difference)]


# --- Orphans


async def test_objects_and_keys_that_no_row_names_go_after_a_day(
    lifecycle: Lifecycle, clock: FrozenClock, tmp_path: Path
) -> None:
    dataset = await a_dataset(lifecycle)
    prepared = await lifecycle.segments.prepare(dataset, a_table(), tier=StorageTier.COLD)
    [live] = await lifecycle.segments.replace([], [prepared], actor="test", action="data.moved")
    for path in ("acme/ab/seg_nobody", "other/ab/seg_of_another_installation"):
        await lifecycle.objects.put(path, b"left behind")
    store = lifecycle.keys.store
    await store.write(ACME, "dk_0123", os.urandom(32))
    signing = tmp_path / "keys" / "acme" / "sign_0123.json"
    signing.write_text("none of ours")

    clock.advance(orphans.UNKNOWN_KEPT - timedelta(minutes=5))
    assert await lifecycle.own_data.run("sweep_orphans") == {}
    clock.advance(timedelta(minutes=10))
    planned = await lifecycle.own_data.run("sweep_orphans", validate_only=True)
    done = await lifecycle.own_data.run("sweep_orphans")

    assert planned == done == {"unknown_objects": 1, "unknown_keys": 1}
    left = {str(path.relative_to(tmp_path / "objects")) for path in (tmp_path / "objects").rglob("seg_*")}
    assert left == {live.object_path, "other/ab/seg_of_another_installation"}
    assert signing.exists()
    assert len(list((tmp_path / "keys" / "acme").iterdir())) == 2
    assert (await lifecycle.segments.read(live)).equals(a_table())
    assert await ask(lifecycle, "SELECT count(*) FROM audit_entries WHERE action = 'data.orphans_removed'") == [2]


async def test_noted_objects_go_when_their_writer_died_or_their_segment_is_gone(
    lifecycle: Lifecycle, clock: FrozenClock, tmp_path: Path
) -> None:
    dataset = await a_dataset(lifecycle)
    prepared = await lifecycle.segments.prepare(dataset, a_table(), tier=StorageTier.COLD)
    await lifecycle.segments.replace([], [prepared], actor="test", action="data.moved")
    await ask(lifecycle, "DELETE FROM data_segments")
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        await note_object(connection, ACME, "acme/cd/seg_dying", kind="segment", stored_bytes=1, now=clock.now() - DAY)
    await lifecycle.objects.put("acme/cd/seg_dying", b"x")

    planned = await lifecycle.own_data.run("sweep_orphans", validate_only=True)
    done = await lifecycle.own_data.run("sweep_orphans")

    assert planned == done == {"objects": 2}
    assert list((tmp_path / "objects").rglob("seg_*")) == []
    assert await ask(lifecycle, "SELECT count(*) FROM stored_objects") == [0]


async def test_rows_of_segments_and_datasets_that_are_gone_go_in_batches(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "ROWS_PER_DELETE_MAX", 2)
    dataset = await a_dataset(lifecycle)
    prepared = await lifecycle.segments.prepare(dataset, a_table(), tier=StorageTier.HOT)
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        await lifecycle.segments.put_hot(connection, prepared)
    some = "FROM generate_series(1, 3) AS n"
    await ask(lifecycle, f"INSERT INTO data_payloads SELECT 'acme', 'seg_' || n, '' {some}")
    await ask(lifecycle, f"INSERT INTO data_segment_reads SELECT 'acme', 'seg_' || n, '2026-01-01', 1 {some}")
    await ask(lifecycle, f"INSERT INTO data_record_ids SELECT 'acme', 'gone', int8send(n), n {some}")
    await ask(lifecycle, f"INSERT INTO data_replaced_records SELECT 'acme', 'gone', n {some}")

    done = await lifecycle.own_data.run("sweep_orphans")

    assert done == {"payloads": 3, "segment_reads": 3, "record_ids": 3, "replaced_records": 3}
    assert (await lifecycle.segments.read(prepared.segment)).num_rows == 100
    await ask(lifecycle, "DELETE FROM datasets")
    # Data is for somebody to look at.
    assert await lifecycle.own_data.run("sweep_orphans") == {"segments_without_dataset": 1}


# --- What is done with


async def test_grants_that_ended_go_unless_they_paid_for_something(lifecycle: Lifecycle, clock: FrozenClock) -> None:
    service = lifecycle.service
    await service.accounts.identify(ACME, [], account_id=ANN)
    ids = {}
    for name, more in {
        "spent": {"kind": AskedKind.BONUS, "feature_key": FeatureKey("ten"), "credit_quantity": 5},
        "unused": {"kind": AskedKind.BONUS, "feature_key": FeatureKey("hourly"), "credit_quantity": 5},
        "kept": {"kind": AskedKind.BONUS, "feature_key": FeatureKey("words"), "credit_quantity": 5},
    }.items():
        view = await service.grants.create(ACME, ANN, NewGrant(reason="a test", **more))  # type: ignore[arg-type]
        ids[name] = view.grant.grant_id
    # Ten are the plan's, and the credit pays the rest.
    await outcome_of(service, an_increment("ten", 12))
    for name in ("spent", "unused"):
        await service.grants.revoke(ACME, ANN, ids[name], reason="a test")
    clock.advance(HISTORY)
    assert await differences(lifecycle) == []
    revisions = await ask(lifecycle, "SELECT revision FROM accounts WHERE account_id = 'ann'")
    assert "grants" not in await lifecycle.own_data.run("purge_leftovers", validate_only=True)

    clock.advance(timedelta(microseconds=1))
    done = await lifecycle.own_data.run("purge_leftovers")

    assert done["grants"] == 1
    assert set(await ask(lifecycle, "SELECT grant_id FROM grants")) == {ids["spent"], ids["kept"]}
    assert await ask(lifecycle, "SELECT revision FROM accounts WHERE account_id = 'ann'") == revisions
    assert await differences(lifecycle) == []


async def test_history_keeps_the_revision_that_was_in_force_when_it_begins(
    lifecycle: Lifecycle, clock: FrozenClock
) -> None:
    service = lifecycle.service
    await service.accounts.identify(ACME, [], account_id=ANN)
    for plan in ("pro", "bare", "pro"):
        clock.advance(DAY)
        await change_plan(service, plan)
    asked = clock.now() - DAY / 2
    before = await service.explainer.explain(a_check("ten"), asked)
    clock.set(asked + HISTORY)

    done = await lifecycle.own_data.run("purge_leftovers")

    assert done["account_revisions"] > 0
    after = await service.explainer.explain(a_check("ten"), asked)
    assert (after.answer, after.history_complete) == (before.answer, True)
    assert await differences(lifecycle) == []
    assert "account_revisions" not in await lifecycle.own_data.run("purge_leftovers")


async def test_what_was_deleted_softly_goes_after_its_time(
    lifecycle: Lifecycle, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "ROWS_PER_PURGE_MAX", 2)
    now = clock.now()
    for account_id in (ANN, BOB):
        await lifecycle.service.accounts.identify(ACME, [], account_id=account_id)
    for statement in SOFTLY_DELETED.split(";")[:-1]:
        await ask(lifecycle, statement, **({"then": now} if ":then" in statement else {}))
    clock.set(now + 35 * DAY)
    assert await lifecycle.own_data.run("purge_leftovers") == {}
    clock.set(now + 90 * DAY)
    assert await lifecycle.own_data.run("purge_leftovers") == {"grant_requests": 1, "data_requests": 1}

    clock.advance(timedelta(microseconds=1))
    planned = await lifecycle.own_data.run("purge_leftovers", validate_only=True)
    done = await lifecycle.own_data.run("purge_leftovers")

    assert planned == done
    assert done == {
        "grant_balances": 1,
        "account_identities": 1,
        "deleted_accounts": 1,
        "customers": 1,
        "checkout_sessions": 5,
        "billing_operations": 2,
        "legal_holds": 1,
    }
    assert await ask(lifecycle, "SELECT account_id FROM account_identities") == [BOB]
    assert await ask(lifecycle, "SELECT email FROM accounts WHERE account_id = 'ann'") == [""]
    assert await ask(lifecycle, "SELECT customer_id FROM customers") == ["c2"]
    assert await ask(lifecycle, "SELECT state FROM checkout_sessions") == ["open"]
    assert await ask(lifecycle, "SELECT state FROM billing_operations") == ["pending"]
    assert await ask(lifecycle, "SELECT legal_hold_id FROM legal_holds") == ["held"]
    rows = "SELECT sum((detail ->> 'rows')::int) FROM audit_entries WHERE action = 'data.purged'"
    assert await ask(lifecycle, rows) == [14]
    assert await lifecycle.own_data.run("purge_leftovers") == {}
