"""Commands about what an account's people may ask for: consents, an export, an erasure, its receipt."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tallygate_server.cli.explanations import EXIT_NO, CommandError
from tallygate_server.cli.job_progress import follow_job, tell_end
from tallygate_server.cli.options import ACTOR, TARGET_DEFAULT, Account, Json, Target, Tenant, time_of, with_client
from tallygate_server.cli.output import (
    bytes_text,
    console,
    print_facts,
    print_message,
    print_table,
    time_text,
)

if TYPE_CHECKING:
    from tallygate.v1 import account_pb2, data_lifecycle_pb2, data_lifecycle_service_pb2
    from tallygate_server.client import Client

SHOWN_MAX: Final = 100
DOWNLOAD_FAILURES_MAX: Final = 10
"""Breaks of a download in a row, none of which got further."""
VERIFY_TIMEOUT_S: Final = 120.0
"""All tables are looked through for what is left."""

Purpose = Annotated[str, typer.Argument(metavar="PURPOSE", help="What for, such as ai_training or marketing.")]
RequestId = Annotated[str, typer.Option("--request-id", help="Makes a retry safe: the same id is done once.")]

ReceiptId = Annotated[str, typer.Argument(metavar="RECEIPT", help="Id of a receipt, such as rec_...")]


def add_to(account: typer.Typer) -> None:
    """Add these commands to the group of accounts."""
    consent = typer.Typer(no_args_is_help=True, help="Record and list consents.")
    consent.command("record")(consent_record)
    consent.command("list")(consent_list)
    account.add_typer(consent, name="consent")
    account.command("export")(export)
    account.command("erase")(erase)
    receipt = typer.Typer(no_args_is_help=True, help="Look at receipts of erasures, and verify them.")
    receipt.command("show")(receipt_show)
    receipt.command("verify")(receipt_verify)
    account.add_typer(receipt, name="receipt")
    account.command("rotate-keys")(rotate_keys)


def consent_record(
    tenant: Tenant,
    account: Account,
    purpose: Purpose,
    *,
    granted: Annotated[bool, typer.Option("--granted/--refused", help="Whether it is given or refused.")],
    policy_version: Annotated[str, typer.Option(help="Version of the text that was shown.")] = "",
    source: Annotated[str, typer.Option(help="Where it was given, such as a form.")] = "",
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="When it was given; now when absent.")] = "",
    end: Annotated[str, typer.Option("--end", metavar="TIME", help="When it ends; never when absent.")] = "",
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Record that an account lets its data be used for a purpose, or does not."""
    from tallygate.v1 import account_service_pb2

    request = account_service_pb2.RecordConsentRequest(
        tenant_id=tenant,
        account_id=account,
        purpose=purpose,
        granted=granted,
        policy_version=policy_version,
        source=source,
        consent_time=time_of("--at", at),
        expire_time=time_of("--end", end),
        actor=ACTOR,
        request_id=request_id,
    )
    response = with_client(target, lambda client: client.call(client.accounts.RecordConsent, request))
    if as_json:
        print_message(response)
        return
    consent = response.consent
    print_facts(
        (
            ("consent", consent.consent_id),
            ("purpose", consent.purpose),
            ("says", _says(consent)),
            ("since", time_text(consent.consent_time)),
            ("until", time_text(consent.expire_time)),
        )
    )


def consent_list(
    tenant: Tenant,
    account: Account,
    *,
    purpose: Annotated[str, typer.Option(help="Only this purpose.")] = "",
    current: Annotated[bool, typer.Option("--current", help="Only what counts now.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List an account's consents, newest first."""
    from tallygate.v1 import account_service_pb2

    request = account_service_pb2.ListConsentsRequest(
        tenant_id=tenant, account_id=account, purpose=purpose, current_only=current, page_size=SHOWN_MAX
    )
    page = with_client(target, lambda client: client.call(client.accounts.ListConsents, request))
    if as_json:
        print_message(page)
    elif page.consents:
        print_table(
            ("purpose", "says", "since", "until", "policy", "source", "recorded by"),
            (
                (
                    consent.purpose,
                    _says(consent),
                    time_text(consent.consent_time),
                    time_text(consent.expire_time),
                    consent.policy_version,
                    consent.source,
                    consent.actor,
                )
                for consent in page.consents
            ),
        )
        if page.next_page_token:
            typer.echo(f"There are more than {SHOWN_MAX}.")
    else:
        typer.echo("No consents.")


def export(
    tenant: Tenant,
    account: Account,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the ZIP goes; ACCOUNT.zip when absent."),
    ] = None,
    exclude_records: Annotated[
        bool, typer.Option("--exclude-records", help="Only what is known about the account itself.")
    ] = False,
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Export everything that is held on an account, and download it. Goes on where a broken download ended."""
    from tallygate.v1 import data_lifecycle_pb2, data_lifecycle_service_pb2

    file = output or Path(f"{_file_name(account)}.zip")
    if file.exists():
        raise CommandError(f"{file}: is there already")
    request = data_lifecycle_service_pb2.ExportAccountDataRequest(
        tenant_id=tenant, account_id=account, exclude_records=exclude_records, actor=ACTOR, request_id=request_id
    )

    async def run(client: Client) -> data_lifecycle_pb2.LifecycleJob:
        asked = await client.call(client.lifecycle.ExportAccountData, request)
        job = await follow_job(client, asked.job, quiet=as_json)
        if job.state == data_lifecycle_pb2.LIFECYCLE_JOB_STATE_SUCCEEDED:
            await _download(client, job, file, quiet=as_json)
        return job

    job = with_client(target, run)
    tell_end(job, as_json=as_json)
    if not as_json:
        typer.echo(f"Written to {file}.")


async def _download(client: Client, job: data_lifecycle_pb2.LifecycleJob, file: Path, *, quiet: bool) -> None:
    """Write an archive into a file that appears when it is whole; raises CommandError where it is not what it was."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from tallygate.v1 import data_lifecycle_service_pb2
    from tallygate_server.client import CallFailed

    part, position, failures = file.with_name(file.name + ".part"), 0, 0
    digest = hashlib.sha256()
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with part.open("wb") as handle, Progress(*columns, console=console(err=True), disable=quiet) as progress:
        task = progress.add_task("download", total=job.export.archive_bytes)
        while position < job.export.archive_bytes:
            request = data_lifecycle_service_pb2.DownloadExportRequest(
                tenant_id=job.tenant_id, job_id=job.job_id, offset_bytes=position
            )
            try:
                async for message in client.stream(client.lifecycle.DownloadExport, request):
                    handle.write(message.content)
                    digest.update(message.content)
                    position += len(message.content)
                    failures = 0
                    progress.update(task, completed=position)
            except CallFailed as error:
                failures += 1
                if not error.may_be_retried or failures > DOWNLOAD_FAILURES_MAX:
                    raise
    if digest.hexdigest() != job.export.checksum_sha256:
        raise CommandError(f"{part}: is not what the server exported; try again")
    part.rename(file)


def erase(
    tenant: Tenant,
    account: Account,
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why, for the audit log; no personal values.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask after the dry run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be erased.")] = False,
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Erase an account for good: shows what will go, what is kept and why, and asks."""
    from tallygate.v1 import data_lifecycle_pb2, data_lifecycle_service_pb2

    if as_json and not (yes or dry_run):
        raise CommandError("--json asks nothing: give --dry-run or --yes, too")

    def ask(*, validate_only: bool) -> data_lifecycle_pb2.LifecycleJob:
        request = data_lifecycle_service_pb2.EraseAccountDataRequest(
            tenant_id=tenant,
            account_id=account,
            validate_only=validate_only,
            reason_text=reason,
            actor=ACTOR,
            request_id="" if validate_only else request_id,
        )

        async def run(client: Client) -> data_lifecycle_pb2.LifecycleJob:
            asked = await client.call(client.lifecycle.EraseAccountData, request)
            return await follow_job(client, asked.job, quiet=as_json)

        return with_client(target, run)

    trial = ask(validate_only=True)
    succeeded = trial.state == data_lifecycle_pb2.LIFECYCLE_JOB_STATE_SUCCEEDED
    if not succeeded or (dry_run and as_json):
        tell_end(trial, as_json=as_json)
    if not as_json:
        _print_receipt(trial.erasure.receipt, future=True)
    if dry_run:
        return
    if not yes and not typer.confirm(f"Erase account {account} of {tenant} for good?"):
        raise typer.Exit(EXIT_NO)
    job = ask(validate_only=False)
    if as_json or job.state != data_lifecycle_pb2.LIFECYCLE_JOB_STATE_SUCCEEDED:
        tell_end(job, as_json=as_json)
        return
    _print_receipt(job.erasure.receipt, future=False)
    receipt_id = job.erasure.receipt.receipt_id
    typer.echo(f"Receipt {receipt_id}. Verify it with: tallygate account receipt verify {tenant} {receipt_id}")


def receipt_show(
    tenant: Tenant, receipt_id: ReceiptId, *, target: Target = TARGET_DEFAULT, as_json: Json = False
) -> None:
    """Show what an erasure removed, kept and refused."""
    receipt = with_client(target, lambda client: _receipt(client, tenant, receipt_id))
    if as_json:
        print_message(receipt)
    else:
        _print_receipt(receipt, future=False)


def receipt_verify(
    tenant: Tenant,
    receipt_id: ReceiptId = "",
    *,
    file: Annotated[
        Path | None, typer.Option("--file", help="The receipt as JSON, in place of the one that is kept.")
    ] = None,
    account: Annotated[str, typer.Option("--account", help="Also: whether it is about this account.")] = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Verify a receipt. Exit code 0 when it is genuine and still true, 1 when not."""
    from google.protobuf.json_format import Parse, ParseError

    from tallygate.v1 import data_lifecycle_pb2, data_lifecycle_service_pb2

    if bool(receipt_id) is (file is not None):
        raise CommandError("name a receipt, or a --file")
    given = None
    if file is not None:
        try:
            given = Parse(file.read_text("utf-8"), data_lifecycle_pb2.ErasureReceipt())
        except (ParseError, UnicodeDecodeError) as error:
            raise CommandError(f"{file}: is no receipt as JSON ({error})") from None

    async def run(client: Client) -> data_lifecycle_service_pb2.VerifyErasureReceiptResponse:
        receipt = given or await _receipt(client, tenant, receipt_id)
        request = data_lifecycle_service_pb2.VerifyErasureReceiptRequest(receipt=receipt, account_id=account)
        return await client.call(client.lifecycle.VerifyErasureReceipt, request, timeout_s=VERIFY_TIMEOUT_S)

    found = with_client(target, run)
    if as_json:
        print_message(found)
    else:
        print_facts(
            (
                ("signature", "ours, nothing was changed" if found.signature_valid else "not ours, or changed"),
                ("account", ("matches" if found.account_matches else "another one") if account else ""),
                ("erased", ("still" if found.still_erased else "not any more") if found.account_matches else ""),
                ("wrong", found.explanation),
            )
        )
    if not found.signature_valid or (account and not found.still_erased):
        raise typer.Exit(EXIT_NO)


def rotate_keys(
    tenant: Tenant,
    account: Annotated[str, typer.Argument(metavar="[ACCOUNT]", help="Only this account; all when absent.")] = "",
    *,
    reencrypt: Annotated[bool, typer.Option("--reencrypt", help="Seal all data with new keys, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be done.")] = False,
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Wrap data keys with the present master key."""
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.RotateDataKeysRequest(
        tenant_id=tenant,
        account_id=account,
        reencrypt=reencrypt,
        validate_only=dry_run,
        request_id=request_id,
        actor=ACTOR,
    )

    async def run(client: Client) -> data_lifecycle_pb2.LifecycleJob:
        asked = await client.call(client.lifecycle.RotateDataKeys, request)
        return await follow_job(client, asked.job, quiet=as_json)

    tell_end(with_client(target, run), as_json=as_json)


async def _receipt(client: Client, tenant: str, receipt_id: str) -> data_lifecycle_pb2.ErasureReceipt:
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.GetErasureReceiptRequest(tenant_id=tenant, receipt_id=receipt_id)
    return (await client.call(client.lifecycle.GetErasureReceipt, request)).receipt


def _print_receipt(receipt: data_lifecycle_pb2.ErasureReceipt, *, future: bool) -> None:
    """Print three tables: what goes, what is kept, what is refused."""
    from tallygate.v1 import data_lifecycle_pb2 as wire

    if not future:
        print_facts(
            (
                ("receipt", receipt.receipt_id),
                ("erased", time_text(receipt.erase_time)),
                ("asked for by", receipt.actor),
                ("signed with", receipt.signing_key_id),
            )
        )
    print_table(
        ("what", "tier", "rows", "segments", "bytes", "how"),
        (
            (
                item.kind,
                wire.StorageTier.Name(item.tier).rpartition("_")[2].lower() if item.tier else "",
                f"{item.record_count:,}",
                item.segment_count or "",
                bytes_text(item.bytes) if item.bytes else "",
                wire.ErasureMethod.Name(item.method).removeprefix("ERASURE_METHOD_").replace("_", " ").lower(),
            )
            for item in receipt.removed
        ),
        title="Will be removed" if future else "Removed",
        numeric=("rows", "segments", "bytes"),
    )
    for title, items in (("Kept", receipt.kept), ("Refused", receipt.refused)):
        if items:
            print_table(
                ("what", "rows", "until", "why"),
                (
                    (item.kind, f"{item.record_count:,}" or "", time_text(item.end_time), item.reason_text)
                    for item in items
                ),
                title=title,
                numeric=("rows",),
            )
    if receipt.destroyed_key_ids:
        keys = "will be destroyed" if future else "destroyed"
        typer.echo(f"{len(receipt.destroyed_key_ids)} keys {keys}.")


def _file_name(account: str) -> str:
    return "".join(each if each.isalnum() or each in "._-" else "_" for each in account)


def _says(consent: account_pb2.Consent) -> str:
    return "granted" if consent.granted else "refused"
