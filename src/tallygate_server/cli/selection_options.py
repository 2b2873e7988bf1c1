"""Options that choose stored data, the same for every command."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tallygate_server.cli.options import time_of

if TYPE_CHECKING:
    from tallygate.v1 import data_lifecycle_pb2


class Tier(StrEnum):
    """Where data lies."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"


OfAccount = Annotated[str, typer.Option("--account", "-a", help="Only this account.")]
OfTypes = Annotated[list[str] | None, typer.Option("--type", help="Only this sort of data; may be repeated.")]
OfDatasets = Annotated[list[str] | None, typer.Option("--dataset", help="Only this dataset; may be repeated.")]
FromTime = Annotated[str, typer.Option("--from", metavar="TIME", help="Only records at or after it.")]
ToTime = Annotated[str, typer.Option("--to", metavar="TIME", help="Only records before it.")]
InTiers = Annotated[list[Tier] | None, typer.Option("--tier", help="Only this tier; may be repeated.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would happen.")]


def selection_of(
    *,
    account: str = "",
    types: list[str] | None = None,
    datasets: list[str] | None = None,
    from_time: str = "",
    to_time: str = "",
    tiers: list[Tier] | None = None,
) -> data_lifecycle_pb2.DataSelection:
    """Return what the options choose."""
    from tallygate.v1 import data_lifecycle_pb2 as wire

    return wire.DataSelection(
        account_id=account,
        data_types=types or (),
        dataset_ids=datasets or (),
        start_time=time_of("--from", from_time),
        end_time=time_of("--to", to_time),
        tiers=[f"STORAGE_TIER_{tier.name}" for tier in tiers or ()],
    )
