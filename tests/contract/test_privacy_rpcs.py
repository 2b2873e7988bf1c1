"""Consents, exports, erasures and receipts through a real channel, on both transports, over real stores."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from tallygate.v1 import account_pb2, account_service_pb2, account_service_pb2_grpc
from tallygate.v1 import data_lifecycle_pb2 as data
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.lifecycle.jobs import LifecycleJobRunner
from tests.support.acme import ACME, ANN, BOB
from tests.support.lifecycle_server import TRANSPORTS, ServedLifecycle, serving_lifecycle

WHO: dict[str, Any] = {"tenant_id": ACME, "account_id": ANN}


@pytest.fixture(params=TRANSPORTS)
async def served(
    request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str, tmp_path: Path
) -> AsyncIterator[ServedLifecycle]:
    async with serving_lifecycle(request.param, fresh_database, fresh_redis, tmp_path) as served:
        yield served


async def done(served: ServedLifecycle, answer: Any) -> data.LifecycleJob:
    """Run what was asked for and return the job as it is afterwards."""
    await LifecycleJobRunner(served.lifecycle.jobs).run_due()
    asked = wire.GetLifecycleJobRequest(tenant_id=ACME, job_id=answer.job.job_id)
    job: data.LifecycleJob = (await served.stub.GetLifecycleJob(asked)).job
    assert job.state == data.LIFECYCLE_JOB_STATE_SUCCEEDED, job
    return job


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """Return the code and the reason of a call that fails."""
    with pytest.raises(aio.AioRpcError) as failure:
        await call
    details = dict(failure.value.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    return failure.value.code(), info.reason


async def test_consents_are_recorded_and_paged(served: ServedLifecycle) -> None:
    accounts = account_service_pb2_grpc.AccountServiceStub(served.channel)
    asked = account_service_pb2.RecordConsentRequest(**WHO, purpose="ai_training", granted=True, request_id="r1")
    first = (await accounts.RecordConsent(asked)).consent
    again = (await accounts.RecordConsent(asked)).consent
    other = account_service_pb2.RecordConsentRequest(**WHO, purpose="marketing", granted=False)
    await accounts.RecordConsent(other)

    request = account_service_pb2.ListConsentsRequest(**WHO, page_size=1)
    page = await accounts.ListConsents(request)
    request.page_token = page.next_page_token
    rest = await accounts.ListConsents(request)

    assert first == again
    assert (first.account_id, first.purpose, first.granted, first.actor) == (ANN, "ai_training", True, "api")
    assert [consent.purpose for consent in (*page.consents, *rest.consents)] == ["marketing", "ai_training"]
    assert not rest.next_page_token


async def test_an_account_takes_its_data_along_and_is_erased(served: ServedLifecycle) -> None:
    accounts = account_service_pb2_grpc.AccountServiceStub(served.channel)
    identity = account_pb2.Identity(provider="clerk", external_id="user_ann")
    await accounts.IdentifyAccount(
        account_service_pb2.IdentifyAccountRequest(**WHO, identity=identity, email="ann@example.com")
    )
    exported = await done(served, await served.stub.ExportAccountData(wire.ExportAccountDataRequest(**WHO)))
    asked = wire.DownloadExportRequest(tenant_id=ACME, job_id=exported.job_id)
    whole = b"".join([part.content async for part in served.stub.DownloadExport(asked)])
    asked.offset_bytes = 1_000
    rest = b"".join([part.content async for part in served.stub.DownloadExport(asked)])
    assert exported.export.archive_bytes == len(whole)
    assert rest == whole[1_000:]
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert b"ann@example.com" in archive.read("account/accounts.jsonl")

    erase = wire.EraseAccountDataRequest(**WHO, reason_text="asked for", request_id="e1")
    unlooked = await refused(served.stub.EraseAccountData(erase))
    trial = wire.EraseAccountDataRequest(**WHO, reason_text="asked for", validate_only=True)
    planned = (await done(served, await served.stub.EraseAccountData(trial))).erasure.receipt
    erased = await done(served, await served.stub.EraseAccountData(erase))
    again = await served.stub.EraseAccountData(erase)
    assert unlooked == (grpc.StatusCode.FAILED_PRECONDITION, "PLAN_OUTDATED")
    assert not planned.signature
    assert len(planned.destroyed_key_ids) == 1
    assert again.job.job_id == erased.job_id
    assert not erased.account_id
    with pytest.raises(aio.AioRpcError) as gone:
        await anext(aiter(served.stub.DownloadExport(asked)))
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND

    receipt_id = erased.erasure.receipt.receipt_id
    kept = await served.stub.GetErasureReceipt(wire.GetErasureReceiptRequest(tenant_id=ACME, receipt_id=receipt_id))
    good = await served.stub.VerifyErasureReceipt(
        wire.VerifyErasureReceiptRequest(receipt=kept.receipt, account_id=ANN)
    )
    about_another = await served.stub.VerifyErasureReceipt(
        wire.VerifyErasureReceiptRequest(receipt=kept.receipt, account_id=BOB)
    )
    assert kept.receipt == erased.erasure.receipt
    assert (good.signature_valid, good.account_matches, good.still_erased) == (True, True, True)
    assert (about_another.signature_valid, about_another.account_matches) == (True, False)
    for field in ("nanos", "seconds"):
        forged = wire.VerifyErasureReceiptRequest(receipt=kept.receipt, account_id=ANN)
        setattr(forged.receipt.erase_time, field, getattr(forged.receipt.erase_time, field) ^ 1)
        assert not (await served.stub.VerifyErasureReceipt(forged)).signature_valid

    unknown = await refused(served.stub.EraseAccountData(wire.EraseAccountDataRequest(**WHO, reason_text="again")))
    assert unknown == (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")
    rotated = await done(served, await served.stub.RotateDataKeys(wire.RotateDataKeysRequest(tenant_id=ACME)))
    assert rotated.key_rotation.wrapped_key_count == 0
