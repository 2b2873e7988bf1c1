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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tallygate_server.domain.lifecycle import JobKind, JobState, StorageTier
from tallygate_server.domain.lifecycle_job import LifecycleJob
from tallygate_server.domain.usage_event import UsageEvent
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.jobs import LifecycleJobRunner
from tallygate_server.privacy.consents import NewConsent
from tallygate_server.privacy.erasure import WantedErasure
from tallygate_server.privacy.export import DOWNLOAD_BYTES_MAX, WantedExport
from tallygate_server.service import Service
from tallygate_server.storage import tables
from tallygate_server.storage.account_rows import account_tables
from tallygate_server.storage.accounts import Identity
from tests.support.acme import an_increment, services
from tests.support.lifecycle import a_dataset, a_table, lifecycles
from tests.support.privacy import (
    MARK,
    READING,
    ZEBRA,
    everything_in_redis,
    files_with,
    insert_rows,
    let_the_owner_look,
    look,
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


@pytest.fixture
async def stand(fresh_database: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[Stand]:
    await apply_metered_catalog(fresh_database)
    async with (
        services(fresh_database, fresh_redis) as [service],
        lifecycles(fresh_database, service, tmp_path) as lifecycle,
    ):
        yield Stand(service, lifecycle, fresh_database, tmp_path)


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
            tables.exported_usage_sums: mine,
            tables.exported_credit_sums: mine,
            tables.data_segment_reads: {"tenant_id": METERED, "segment_id": moved.segment.segment_id},
            tables.data_record_ids: {"tenant_id": METERED, "dataset_id": dataset.dataset_id},
            tables.data_replaced_records: {"tenant_id": METERED, "dataset_id": dataset.dataset_id},
            tables.grants: mine
            | {"feature_key": "tokens", "kind": "bonus", "limit": None, "grant_id": f"{MARK}-grant"},
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


async def test_nothing_readable_of_an_erased_account_is_left(stand: Stand, capfd: pytest.CaptureFixture[str]) -> None:
    await let_the_owner_look(stand.url)
    await live(stand)
    exported = await stand.export()
    archive = await downloaded(stand, exported)
    assert await tables_without_a_row(stand.lifecycle, METERED, ZEBRA) == set()
    assert_complete(archive, exported)

    dry = await stand.erase(validate_only=True)
    done = await stand.erase(request_id="erase-1")
    assert done.state is JobState.SUCCEEDED

    assert "\n".join(await where_the_mark_is(stand.url)) == ""
    assert files_with(stand.directory, MARK.encode(), struct.pack("<d", READING)) == []
    assert MARK not in await everything_in_redis(stand.service)
    assert len(stand.service.hot_accounts) == 0
