"""The steps that keep our own data small, each of which may be run at any time, by anybody, any number of times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from tallygate_server.clock import Clock
from tallygate_server.lifecycle.own_data.archive import RecordArchive
from tallygate_server.lifecycle.own_data.leftovers import LeftoverPurge
from tallygate_server.lifecycle.own_data.orphans import OrphanSweep
from tallygate_server.lifecycle.own_data.usage import UsageExport
from tallygate_server.lifecycle.own_data.webhook_events import WebhookArchive
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.telemetry import metrics

WEBHOOK_RETENTION_DAYS: Final = 90
SOFT_DELETE_RETENTION_DAYS: Final = 90
HISTORY_RETENTION_DAYS: Final = 730


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnDataOptions:
    """How long our own data is kept where it was written; the settings of the same names explain them."""

    webhook_retention_days: int = WEBHOOK_RETENTION_DAYS
    soft_delete_retention_days: int = SOFT_DELETE_RETENTION_DAYS
    history_retention_days: int = HISTORY_RETENTION_DAYS


class UpkeepStep(Protocol):
    """Something that is done again and again, in bounded batches."""

    async def run(self, *, validate_only: bool = False) -> Any:
        """Do all that is due, or with `validate_only` only tell what that is; return numbers by what they count."""


class OwnDataUpkeep:
    """All steps, by the names of their jobs."""

    def __init__(self, segments: SegmentStore, clock: Clock, options: OwnDataOptions) -> None:
        """Work on the data of one installation."""
        archive = RecordArchive(segments, clock)
        self.webhooks = WebhookArchive(archive, clock, retention_days=options.webhook_retention_days)
        self.usage = UsageExport(archive, clock)
        self.steps: Mapping[str, UpkeepStep] = {
            "archive_webhooks": self.webhooks,
            "export_usage": self.usage,
            "sweep_orphans": OrphanSweep(segments, clock),
            "purge_leftovers": LeftoverPurge(
                segments.database,
                clock,
                deleted_days=options.soft_delete_retention_days,
                history_days=options.history_retention_days,
            ),
        }

    async def run(self, name: str, *, validate_only: bool = False) -> dict[str, int]:
        """Run a step; return what it did, without what it did none of. Raises StoreUnavailable."""
        result = await self.steps[name].run(validate_only=validate_only)
        counted: Mapping[str, int] = result if isinstance(result, Mapping) else asdict(result)
        counts = {what: int(count) for what, count in counted.items() if count}
        if not validate_only:
            metrics.own_data(name, counts)
        return counts

    def job(self, name: str) -> Callable[[], Awaitable[dict[str, int]]]:
        """Return what the job of a step runs."""
        return lambda: self.run(name)
