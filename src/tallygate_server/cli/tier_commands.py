"""Commands that move stored data between tiers and check it: archive, restore, verify."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.job_progress import follow_job, tell_end
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant, with_client
from tallygate_server.cli.selection_options import (
    DryRun,
    FromTime,
    InTiers,
    OfAccount,
    OfDatasets,
    OfTypes,
    Tier,
    ToTime,
    selection_of,
)

if TYPE_CHECKING:
    from tallygate.v1 import data_lifecycle_pb2
    from tallygate_server.client import Client

ACTOR: Final = "tallygate command line"


class Depth(StrEnum):
    """How thoroughly is looked."""

    PRESENCE = "presence"
    CHECKSUM = "checksum"
    VALUES = "values"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("archive")(archive)
    app.command("restore")(restore)
    app.command("verify")(verify)


def archive(
    tenant: Tenant,
    *,
    account: OfAccount = "",
    types: OfTypes = None,
    datasets: OfDatasets = None,
    from_time: FromTime = "",
    to_time: ToTime = "",
    keep_days: Annotated[
        int, typer.Option("--keep", min=-1, help="Days to keep it; -1: for ever, 0: as the policy says.")
    ] = 0,
    dry_run: DryRun = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Move data to the cold tier now, whatever its age."""
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.ArchiveDataRequest(
        tenant_id=tenant,
        selection=selection_of(account=account, types=types, datasets=datasets, from_time=from_time, to_time=to_time),
        retention_days=keep_days,
        validate_only=dry_run,
        actor=ACTOR,
    )
    _ask("ArchiveData", request, target, as_json=as_json)


def restore(
    tenant: Tenant,
    *,
    account: OfAccount = "",
    types: OfTypes = None,
    datasets: OfDatasets = None,
    from_time: FromTime = "",
    to_time: ToTime = "",
    tier: Annotated[Tier, typer.Option("--to-tier", help="Where to: warm or hot.")] = Tier.WARM,
    days: Annotated[int, typer.Option("--days", min=1, max=90, help="How long it stays there.")] = 7,
    dry_run: DryRun = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Move data back from the cold tier, for a while."""
    from google.protobuf.duration_pb2 import Duration

    from tallygate.v1 import data_lifecycle_service_pb2

    stay = Duration()
    stay.FromTimedelta(timedelta(days=days))
    request = data_lifecycle_service_pb2.RestoreDataRequest(
        tenant_id=tenant,
        selection=selection_of(account=account, types=types, datasets=datasets, from_time=from_time, to_time=to_time),
        target_tier=f"STORAGE_TIER_{tier.name}",
        stay=stay,
        validate_only=dry_run,
        actor=ACTOR,
    )
    _ask("RestoreData", request, target, as_json=as_json)


def verify(
    tenant: Tenant,
    *,
    account: OfAccount = "",
    types: OfTypes = None,
    datasets: OfDatasets = None,
    from_time: FromTime = "",
    to_time: ToTime = "",
    tiers: InTiers = None,
    depth: Annotated[Depth, typer.Option("--depth", help="How thoroughly.")] = Depth.CHECKSUM,
    dry_run: DryRun = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Compare what is stored with the manifest; what is damaged is put in quarantine."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    chosen = selection_of(
        account=account, types=types, datasets=datasets, from_time=from_time, to_time=to_time, tiers=tiers
    )
    request = wire.ValidateIntegrityRequest(
        tenant_id=tenant,
        # Without any choice also what no manifest mentions is looked for.
        selection=chosen if chosen.ByteSize() else None,
        depth=f"INTEGRITY_DEPTH_{depth.name}",
        validate_only=dry_run,
        actor=ACTOR,
    )
    _ask("ValidateIntegrity", request, target, as_json=as_json)


def _ask(method: str, request: Any, target: str, *, as_json: bool) -> None:
    """Ask for a job, follow it to its end and print what came of it."""

    async def ask(client: Client) -> data_lifecycle_pb2.LifecycleJob:
        answer = await client.call(getattr(client.lifecycle, method), request)
        return await follow_job(client, answer.job, quiet=as_json)

    tell_end(with_client(target, ask), as_json=as_json)
