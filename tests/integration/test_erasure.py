"""After an erasure nothing readable of the account is left anywhere, and the receipt says so for good."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import DataSelection, Dataset, JobKind, JobState, Segment, StorageTier
from tallygate_server.domain.lifecycle_job import LifecycleJob
from tallygate_server.domain.usage_event import UsageEvent
from tallygate_server.errors import (
    AccountNotFound,
    ArchiveCorruption,
    DryRunRequired,
    IllegalTransition,
    IntegrityViolation,
    InvalidRequest,
    LegalHoldActive,
    NotFound,
    StoreUnavailable,
)
from tallygate_server.lifecycle.assembly import Lifecycle, open_lifecycle
from tallygate_server.lifecycle.jobs import LifecycleJobRunner
from tallygate_server.lifecycle.keys import KeyDestroyed, MasterKeys
from tallygate_server.privacy.consents import NewConsent
from tallygate_server.privacy.erasure import WantedErasure
from tallygate_server.privacy.export import DOWNLOAD_BYTES_MAX, EXPORT_RETENTION, WantedExport
from tallygate_server.privacy.key_rotation import WantedRotation
from tallygate_server.privacy.receipts import ErasureReceipt
from tallygate_server.service import Service
from tallygate_server.storage import tables
from tallygate_server.storage.account_rows import account_tables
from tallygate_server.storage.accounts import Identity
from tallygate_server.storage.data_segments import read_segments
from tallygate_server.transport.lifecycle_rpcs import privacy_convert
from tests.support.acme import BOB, an_increment, services
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.lifecycle import MASTER_KEYS, NOON, a_dataset, a_table, lifecycles, options_in
from tests.support.privacy import (
    MARK,
    READING,
    ZEBRA,
    backed_up,
    everything_in_redis,
    files_with,
    insert_rows,
    let_the_owner_look,
    logging_as_served,
    look,
    put_back,
    rows_of,
    tables_without_a_row,
    where_the_mark_is,
)
from tests.support.recording import METERED, apply_metered_catalog

SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Stand:
    """A service, its lifecycle, and where they keep things."""

    service: Service
    lifecycle: Lifecycle
    url: str
    directory: Path

    async def erase(self, **more: Any) -> LifecycleJob:
        """Ask for an erasure, and let it be done."""
        wanted = WantedErasure(
            tenant_id=METERED, account_id=ZEBRA, reason_text=f"asked by {ZEBRA}", **{"actor": "admin", **more}
        )
        job = await self.lifecycle.privacy.erasures.submit(wanted)
        await LifecycleJobRunner(self.lifecycle.jobs).run_due()
        return await self.lifecycle.jobs.get(METERED, job.job_id)

    async def export(self, **more: Any) -> LifecycleJob:
        """Ask for an export, and let it be made."""
        wanted = WantedExport(tenant_id=METERED, account_id=ZEBRA, actor="admin", **more)
        job = await self.lifecycle.privacy.exports.submit(wanted)
        await LifecycleJobRunner(self.lifecycle.jobs).run_due()
        return await self.lifecycle.jobs.get(METERED, job.job_id)

    async def receipt(self, job: LifecycleJob) -> ErasureReceipt:
        """Return the receipt of an erasure that has ended, as whoever has its message reads it."""
        assert job.result is not None, job.error
        message = privacy_convert.to_api_receipt(job.result["receipt"])
        receipt, unchanged = privacy_convert.from_api_receipt(message)
        assert unchanged
        return receipt


async def downloaded(stand: Stand, job: LifecycleJob, offset_bytes: int = 0) -> bytes:
    """Return the archive of an export, from a byte on."""
    content, position = b"", offset_bytes
    parts = stand.lifecycle.privacy.exports.download(METERED, job.job_id, offset_bytes=offset_bytes)
    async with aclosing(parts):
        async for part in parts:
            assert part.offset_bytes == position
            assert len(part.content) <= DOWNLOAD_BYTES_MAX
            content, position = content + part.content, position + len(part.content)
            assert part.total_bytes >= position
    return content


def assert_complete(content: bytes, job: LifecycleJob) -> None:
    """Look into an archive."""
    assert job.state is JobState.SUCCEEDED
    assert job.result is not None
    assert job.result["archive_bytes"] == len(content)
    assert job.result["checksum_sha256"] == hashlib.sha256(content).hexdigest()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
        assert [file["name"] for file in manifest["files"]] == names[:-1]
        for file in manifest["files"]:
            assert file["sha256"] == hashlib.sha256(archive.read(file["name"])).hexdigest()
        for entry in account_tables():
            assert (f"account/{entry.table.name}.jsonl" in names) is entry.exported
        [account] = [json.loads(line) for line in archive.read("account/accounts.jsonl").splitlines()]
        records = [json.loads(line) for line in archive.read("records/ride.jsonl").splitlines()]
        cells = list(csv.DictReader(io.StringIO(archive.read("records/ride.csv").decode())))
    assert account["email"] == f"{MARK}@example.com"
    assert [record["reading"] for record in records] == [READING] * 150
    assert [float(cell["reading"]) for cell in cells] == [READING] * 150
    assert {file["rows"] for file in manifest["files"] if file["name"].startswith("records/ride")} == {150}
    assert job.result["record_count_by_type"]["ride"] == 150
    assert b"old_secret" not in content


async def a_hold(stand: Stand, legal_hold_id: str, selection: DataSelection) -> None:
    """Put data under legal hold."""
    async with stand.lifecycle.database.tenant_transaction(METERED) as connection:
        await connection.execute(
            tables.legal_holds.insert().values(
                tenant_id=METERED,
                legal_hold_id=legal_hold_id,
                account_id=selection.account_id or "",
                selection=selection.to_document(),
                reason_text="a case",
                actor="court",
                create_time=NOON,
            )
        )


async def release(stand: Stand, legal_hold_id: str) -> None:
    """Release a hold."""
    holds = tables.legal_holds
    async with stand.lifecycle.database.tenant_transaction(METERED) as connection:
        await connection.execute(holds.update().where(holds.c.legal_hold_id == legal_hold_id).values(release_time=NOON))


@pytest.fixture
async def stand(fresh_database: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[Stand]:
    await apply_metered_catalog(fresh_database)
    async with (
        services(fresh_database, fresh_redis) as [service],
        lifecycles(fresh_database, service, tmp_path / "data") as lifecycle,
    ):
        yield Stand(service, lifecycle, fresh_database, tmp_path / "data")


async def live(stand: Stand) -> None:
    """Let the account use all there is, and leave a row in every table."""
    service, now = stand.service, datetime.now(UTC)
    await service.accounts.identify(
        METERED,
        [Identity("clerk", f"user_{MARK}")],
        account_id=ZEBRA,
        email=f"{MARK}@example.com",
        display_name=f"Zoe {MARK}",
        metadata={"town": MARK},
        preferences={"theme": MARK},
    )
    await service.consents.record(METERED, ZEBRA, NewConsent(purpose="ai_training", granted=True, source=MARK))
    for number in range(12):
        await service.meter.increment(
            an_increment(
                "tokens" if number < 10 else "requests",
                10,
                tenant_id=METERED,
                account_id=ZEBRA,
                request_id=f"{MARK}-{number}",
                dimensions={"document": MARK},
            )
        )
    await service.recorder.record(
        METERED,
        [
            UsageEvent(
                account_id=ZEBRA,
                event_id=f"{MARK}-event",
                source=MARK,
                type="job.done",
                time=now,
                data={"timing": {"seconds": 1.5}, "author": MARK},
            )
        ],
    )
    await service.roll_up.run()
    dataset = await a_dataset(stand.lifecycle, tenant_id=METERED, account_id=ZEBRA)
    segments = stand.lifecycle.segments
    for number, tier in enumerate(StorageTier):
        table = a_table(now - 3600 * number * SECOND, 50, reading=[READING] * 50, note=[MARK] * 50)
        prepared = await segments.prepare(dataset, table, tier=StorageTier.HOT)
        async with segments.database.tenant_transaction(METERED) as connection:
            await segments.put_hot(connection, prepared)
        if tier is not StorageTier.HOT:
            moved = await segments.prepare(dataset, table, tier=tier)
            await segments.replace([prepared.segment], [moved], actor=ZEBRA, action="data.moved")
    [segment_id, *_] = [segment.segment_id for segment in await segments_of(stand, ZEBRA)]
    [[subscription_id]] = await look(stand.url, "SELECT subscription_id FROM subscriptions")
    [[event_id], *_] = await look(stand.url, "SELECT event_id FROM outbox_events WHERE account_id = $1", ZEBRA)
    mine: dict[str, Any] = {"tenant_id": METERED, "account_id": ZEBRA}
    await insert_rows(
        stand.url,
        {
            tables.customers: mine | {"provider_customer_id": f"cus_{MARK}"},
            tables.payments: mine
            | {"state": "succeeded", "payment_id": "pay_1", "provider_payment_id": "pi_1"}
            | {"provider": "stripe", "currency": "EUR", "failure_code": "", "invoice_id": "inv_1"},
            tables.invoices: mine
            | {"state": "paid", "invoice_id": "inv_1", "provider_invoice_id": "in_1", "provider": "stripe"}
            | {"number": "2026-0001", "currency": "EUR"},
            tables.checkout_sessions: mine | {"state": "complete"},
            tables.billing_operations: mine | {"state": "done"},
            tables.webhook_events: mine
            | {"source": "stripe", "state": "processed", "account_id": None}
            | {"payload": f'{{"customer": "cus_{MARK}"}}'.encode()},
            tables.legal_holds: mine
            | {"release_time": now, "selection": {"account_id": ZEBRA, "says": MARK}, "request_id": MARK}
            | {"legal_hold_id": "hold_1", "actor": "admin"},
            tables.retention_policies: {
                "tenant_id": METERED,
                "actor": "admin",
                "data_type": "ride",
                "policy": {"data_type": "ride", "exceptions": [{"account_id": ZEBRA, "reason_text": MARK}]},
            },
            tables.data_plans: {"tenant_id": METERED, "plan": {"steps": [{"account_id": ZEBRA}]}},
            tables.data_requests: mine,
            tables.usage_exports: mine,
            tables.data_plan_steps: {"tenant_id": METERED, "segment_id": segment_id},
            tables.exported_usage_sums: mine,
            tables.exported_credit_sums: mine,
            tables.data_segment_reads: {"tenant_id": METERED, "segment_id": segment_id},
            tables.data_record_ids: {"tenant_id": METERED, "dataset_id": dataset.dataset_id},
            tables.data_replaced_records: {"tenant_id": METERED, "dataset_id": dataset.dataset_id},
            tables.grants: mine
            | {
                "feature_key": "tokens",
                "kind": "bonus",
                "limit": None,
                "recurrence": None,
                "rollover": None,
                "grant_id": f"{MARK}-grant",
            },
            tables.grant_balances: mine | {"grant_id": f"{MARK}-grant", "feature_key": "tokens"},
            tables.grant_requests: mine,
            tables.scheduled_changes: mine
            | {"subscription_id": subscription_id, "kind": "pause", "state": "canceled", "plan_key": None},
            tables.webhook_endpoints: {
                "tenant_id": METERED,
                "url": "https://acme.example",
                "secret": "s",
                "disabled": True,
            }
            | {
                "description": "",
                "request_id": None,
                "fingerprint": None,
                "endpoint_id": "we_1",
                "event_types": [],
                "disable_reason": "",
                "old_secret": "",
            },
            tables.webhook_deliveries: {"tenant_id": METERED, "state": "pending", "event_id": event_id}
            | {"endpoint_id": "we_1"},
            tables.lifecycle_jobs: mine
            | {"kind": int(JobKind.COMPRESSION), "state": int(JobState.SUCCEEDED), "progress": {}, "error": None},
            tables.reservations: mine | {"state": "released"},
        },
    )


async def bob_too(stand: Stand) -> None:
    """Let somebody else use the same things."""
    for dimensions in ({"document": "of-bob"}, {"document": "shared"}):
        await stand.service.meter.increment(
            an_increment("tokens", 10, tenant_id=METERED, account_id=BOB, dimensions=dimensions)
        )
        if dimensions["document"] == "shared":
            await stand.service.meter.increment(
                an_increment("tokens", 10, tenant_id=METERED, account_id=ZEBRA, dimensions=dimensions)
            )
    dataset = await a_dataset(stand.lifecycle, tenant_id=METERED, account_id=BOB)
    await put_hot(stand, dataset, a_table(NOON, 50))


async def by_document(stand: Stand) -> dict[str, int]:
    """Return what all accounts have used, by the document that they used it for."""
    rows = await look(
        stand.url,
        "SELECT dimensions ->> 'document' AS document, sum(quantity) AS quantity FROM usage_rollups"
        " JOIN usage_series USING (tenant_id, series_id)"
        " WHERE account_id = '' AND subject_key = 'tokens' AND minutes = 1440 GROUP BY 1",
    )
    return {row["document"]: int(row["quantity"]) for row in rows}


async def put_hot(stand: Stand, dataset: Dataset, table: pa.Table) -> Segment:
    segments = stand.lifecycle.segments
    prepared = await segments.prepare(dataset, table, tier=StorageTier.HOT)
    async with segments.database.tenant_transaction(METERED) as connection:
        await segments.put_hot(connection, prepared)
    return prepared.segment


async def segments_of(stand: Stand, account_id: AccountId) -> list[Segment]:
    async with stand.lifecycle.database.tenant_transaction(METERED) as connection:
        return await read_segments(connection, METERED, DataSelection(account_id=account_id), state=None)


async def test_nothing_readable_of_an_erased_account_is_left(
    stand: Stand, reachable_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await let_the_owner_look(stand.url)
    await live(stand)
    await bob_too(stand)
    await stand.service.roll_up.run()
    exported = await stand.export()
    assert await tables_without_a_row(stand.lifecycle, METERED, ZEBRA) == set()
    assert_complete(await downloaded(stand, exported), exported)
    bob_before = await rows_of(stand.lifecycle, METERED, BOB)
    sums_before = await by_document(stand)
    # In the database's files, and in the objects, records were never readable.
    record = struct.pack("<4d", *[READING] * 4)
    assert files_with(reachable_dir / "shared" / "postgres", record) == []
    backup = await backed_up(stand.url, stand.directory)

    async with lifecycles(stand.url, stand.service, stand.directory) as other_server:
        segments = await segments_of(stand, ZEBRA)
        assert [len(await other_server.segments.read(segment)) for segment in segments] == [50] * 3
        assert (await stand.erase(validate_only=True)).state is JobState.SUCCEEDED
        assert await segments_of(stand, ZEBRA) == segments
        with logging_as_served(monkeypatch):
            done = await stand.erase(request_id="erase-1")
        assert done.state is JobState.SUCCEEDED
        await eventually(lambda: other_server.keys.cached_count == 0)

        assert "\n".join(await where_the_mark_is(stand.url)) == ""
        assert files_with(stand.directory, MARK.encode(), record) == []
        assert MARK not in await everything_in_redis(stand.service)
        assert len(stand.service.hot_accounts) <= 1
        log_lines = capsys.readouterr().err
        assert "account_erased" in log_lines
        assert MARK not in log_lines
        # Nobody else has lost anything, and what all have used is the same.
        assert await rows_of(stand.lifecycle, METERED, BOB) == bob_before
        [bobs] = await segments_of(stand, BOB)
        assert len(await stand.lifecycle.segments.read(bobs)) == 50
        sums = await by_document(stand)
        assert sorted(sums.values()) == sorted(sums_before.values())
        assert (sums["shared"], sums["of-bob"]) == (20, 10)
        assert MARK in sums_before
        totals = await look(stand.url, "SELECT feature_key, used_quantity FROM erased_usage_totals")
        assert {row["feature_key"]: row["used_quantity"] for row in totals}["tokens"] == 110
        [invoice] = await look(stand.url, "SELECT * FROM invoices")
        assert (invoice["due_minor"], invoice["account_id"][:7]) == (1, "erased_")

        # Yesterday's backup beside today's key store: nobody reads a record of it.
        await put_back(stand.url, stand.directory, backup)
        restored = await segments_of(stand, ZEBRA)
        assert len(restored) == 3
        for lifecycle in (stand.lifecycle, other_server):
            for segment in restored:
                with pytest.raises((IntegrityViolation, ArchiveCorruption), match="key was destroyed"):
                    await lifecycle.segments.read(segment)


async def test_an_erasure_is_asked_for_once_and_looked_at_before(stand: Stand) -> None:
    await stand.service.accounts.identify(METERED, [], account_id=ZEBRA)
    with pytest.raises(DryRunRequired):
        await stand.erase()
    dry = await stand.erase(validate_only=True)
    assert dry.result is not None
    assert dry.result["receipt"]["signature"] == ""
    await stand.service.accounts.get(METERED, ZEBRA)

    done = await stand.erase(request_id="erase-1")

    assert (await stand.erase(request_id="erase-1")).job_id == done.job_id
    assert done.account_id is None
    with pytest.raises(AccountNotFound):
        await stand.erase(force=True)
    with pytest.raises(AccountNotFound):
        await stand.service.accounts.get(METERED, ZEBRA)
    with pytest.raises(AccountNotFound):
        await stand.export()


async def test_a_receipt_is_recognised_and_a_changed_one_is_not(stand: Stand) -> None:
    await stand.service.accounts.identify(METERED, [], account_id=ZEBRA)
    done = await stand.erase(force=True)
    assert done.result is not None
    receipt = await stand.receipt(done)
    verify = stand.lifecycle.privacy.verifications.verify

    good = await verify(receipt, unchanged=True, account_id=ZEBRA)
    assert (good.signature_valid, good.account_matches, good.still_erased, good.explanation) == (True, True, True, "")
    about_another = await verify(receipt, unchanged=True, account_id=BOB)
    assert (about_another.signature_valid, about_another.account_matches) == (True, False)
    for changed in (
        replace(receipt, actor="somebody"),
        replace(receipt, kept=()),
        replace(receipt, erase_time=receipt.erase_time + SECOND),
        replace(receipt, signature=receipt.signature[:-1] + bytes([receipt.signature[-1] ^ 1])),
        replace(receipt, signing_key_id="sign_0"),
    ):
        assert not (await verify(changed, unchanged=True, account_id=ZEBRA)).signature_valid

    await stand.service.accounts.identify(METERED, [], account_id=ZEBRA)
    back = await verify(receipt, unchanged=True, account_id=ZEBRA)
    assert not back.still_erased
    assert "1 rows in accounts" in back.explanation


async def test_what_is_under_legal_hold_stays_until_it_is_released(stand: Stand) -> None:
    await stand.service.accounts.identify(METERED, [], account_id=ZEBRA, email=f"{MARK}@example.com")
    rides = await a_dataset(stand.lifecycle, tenant_id=METERED, account_id=ZEBRA)
    sleep = await a_dataset(stand.lifecycle, tenant_id=METERED, account_id=ZEBRA, data_type="sleep")
    held = await put_hot(stand, rides, a_table(NOON, 5))
    await put_hot(stand, sleep, a_table(NOON, 5))
    await a_hold(stand, "hold_all", DataSelection(account_id=ZEBRA))
    with pytest.raises(LegalHoldActive):
        await stand.erase(force=True)
    await release(stand, "hold_all")
    await a_hold(stand, "hold_rides", DataSelection(data_types=("ride",)))

    part = await stand.receipt(await stand.erase(force=True))

    assert [(item.kind, item.record_count) for item in part.refused] == [("ride", 5)]
    assert part.destroyed_key_ids == ()
    assert await segments_of(stand, ZEBRA) == [held]
    assert len(await stand.lifecycle.segments.read(held)) == 5
    account = await stand.service.accounts.get(METERED, ZEBRA)
    assert (account.state, account.email, account.identities) == (AccountState.DELETED, "", ())
    assert (await stand.lifecycle.privacy.verifications.verify(part, unchanged=True, account_id=ZEBRA)).still_erased
    await release(stand, "hold_rides")

    rest = await stand.receipt(await stand.erase(force=True))

    assert rest.refused == ()
    assert len(rest.destroyed_key_ids) == 1
    assert await segments_of(stand, ZEBRA) == []
    assert (await stand.lifecycle.privacy.verifications.verify(rest, unchanged=True, account_id=ZEBRA)).still_erased


async def test_what_is_paid_for_at_stripe_is_ended_first(stand: Stand) -> None:
    await stand.service.accounts.identify(METERED, [], account_id=ZEBRA)
    await let_the_owner_look(stand.url)
    await look(stand.url, "UPDATE subscriptions SET provider = 'stripe' WHERE account_id = $1", ZEBRA)

    dry = await stand.erase(validate_only=True)
    with pytest.raises(IllegalTransition):
        await stand.erase()

    assert dry.result is not None
    assert [item["kind"] for item in dry.result["receipt"]["refused"]] == ["subscriptions"]


async def test_an_erasure_that_died_anywhere_is_brought_to_its_end(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    await let_the_owner_look(stand.url)
    await live(stand)
    erasures = stand.lifecycle.privacy.erasures
    # What dies, and after how many of its steps.
    deaths = iter([("_erase_batch", 3), ("_remove_objects", 40), ("_destroy_keys", 0), ("_remove_account", 0)])
    dying: dict[str, Any] = {}

    def die_next() -> None:
        for name, original in dying.items():
            monkeypatch.setattr(erasures, name, original)
        dying.clear()
        if (death := next(deaths, None)) is None:
            return
        name, steps = death
        original = dying[name] = getattr(erasures, name)
        left = [steps]

        async def until_death(*arguments: Any, **more: Any) -> Any:
            if not left[0]:
                raise StoreUnavailable("died")
            left[0] -= 1
            return await original(*arguments, **more)

        monkeypatch.setattr(erasures, name, until_death)

    die_next()
    wanted = WantedErasure(tenant_id=METERED, account_id=ZEBRA, reason_text="asked for", force=True, actor="admin")
    job = await erasures.submit(wanted)
    for _ in range(4):
        await LifecycleJobRunner(stand.lifecycle.jobs).run_due()
        assert (await stand.lifecycle.jobs.get(METERED, job.job_id)).state is JobState.PENDING
        await look(stand.url, "UPDATE lifecycle_jobs SET lease_time = NULL, crash_count = 0")
        die_next()
    await LifecycleJobRunner(stand.lifecycle.jobs).run_due()

    done = await stand.lifecycle.jobs.get(METERED, job.job_id)
    receipt = await stand.receipt(done)
    counted = {item.kind: item.record_count for item in receipt.removed if item.tier is None}
    assert "\n".join(await where_the_mark_is(stand.url)) == ""
    assert files_with(stand.directory, MARK.encode()) == []
    assert (counted["usage_entries"], counted["stored_objects"], counted["accounts"]) == (12, 1, 1)
    assert len(receipt.destroyed_key_ids) == 1
    assert sum(item.record_count for item in receipt.removed if item.tier is not None) == 150


async def test_keys_are_wrapped_anew_and_segments_sealed_anew(stand: Stand) -> None:
    await stand.service.accounts.identify(METERED, [], account_id=ZEBRA)
    dataset = await a_dataset(stand.lifecycle, tenant_id=METERED, account_id=ZEBRA)
    old = await put_hot(stand, dataset, a_table(NOON, 5))
    turned = MasterKeys(keys={name: MASTER_KEYS.keys[name] for name in ("second", "first")})
    options = options_in(stand.directory, master_keys=turned)
    async with open_lifecycle(stand.url, stand.service, options, clock=stand.service.clock) as lifecycle:

        async def rotate(**more: Any) -> dict[str, Any]:
            wanted = WantedRotation(tenant_id=METERED, account_id=ZEBRA, **more)
            job = await lifecycle.privacy.key_rotations.submit(wanted)
            await LifecycleJobRunner(lifecycle.jobs).run_due()
            return dict((await lifecycle.jobs.get(METERED, job.job_id)).result or {})

        assert await rotate(validate_only=True) == {"wrapped_key_count": 1, "segment_count": 0}
        assert await lifecycle.keys.store.wrapped_with(METERED, old.key_id) == "first"
        assert await rotate() == {"wrapped_key_count": 1, "segment_count": 0}
        assert await lifecycle.keys.store.wrapped_with(METERED, old.key_id) == "second"
        assert await rotate() == {"wrapped_key_count": 0, "segment_count": 0}
        assert await rotate(reencrypt=True, validate_only=True) == {"wrapped_key_count": 0, "segment_count": 1}
        assert await segments_of(stand, ZEBRA) == [old]
        assert await rotate(reencrypt=True) == {"wrapped_key_count": 0, "segment_count": 1}

        [new] = await segments_of(stand, ZEBRA)
        assert (new.key_id != old.key_id, new.values_digest, new.tier) == (True, old.values_digest, old.tier)
        assert (await lifecycle.segments.read(new)).equals(a_table(NOON, 5))
        with pytest.raises(KeyDestroyed):
            await lifecycle.keys.to_unseal(METERED, old.key_id)


async def test_an_export_ends_with_its_time(fresh_database: str, fresh_redis: str, tmp_path: Path) -> None:
    await apply_metered_catalog(fresh_database)
    clock = FrozenClock(NOON)
    async with (
        services(fresh_database, fresh_redis, clock=clock) as [service],
        lifecycles(fresh_database, service, tmp_path) as lifecycle,
    ):
        stand = Stand(service, lifecycle, fresh_database, tmp_path)
        await service.accounts.identify(METERED, [], account_id=ZEBRA)
        dataset = await a_dataset(lifecycle, tenant_id=METERED, account_id=ZEBRA)
        await put_hot(stand, dataset, a_table(NOON, 5))
        job = await stand.export(exclude_records=True)
        whole = await downloaded(stand, job)
        assert await downloaded(stand, job, offset_bytes=100) == whole[100:]
        assert await downloaded(stand, job, offset_bytes=len(whole)) == b""
        with pytest.raises(InvalidRequest):
            await downloaded(stand, job, offset_bytes=len(whole) + 1)
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            assert not [name for name in archive.namelist() if name.startswith("records/")]

        clock.advance(EXPORT_RETENTION - timedelta(microseconds=1))
        assert await downloaded(stand, job) == whole
        assert await lifecycle.privacy.exports.expire() == {}
        clock.advance(timedelta(microseconds=1))

        with pytest.raises(NotFound):
            await downloaded(stand, job)
        assert await lifecycle.privacy.exports.expire() == {"exports_expired": 1}
        assert [file for file in (tmp_path / "objects").rglob("*") if file.is_file()] == []
