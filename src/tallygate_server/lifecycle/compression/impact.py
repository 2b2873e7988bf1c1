"""What a compression would lose, measured on data without changing it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import CompressionSettings, DataSelection, Segment, SegmentState
from tallygate_server.errors import ConsentRequired, FormNotRestorable, InvalidRequest, NotFound, Unavailable
from tallygate_server.lifecycle.compression.bounds import within
from tallygate_server.lifecycle.compression.fetching import Fetching
from tallygate_server.lifecycle.model_process import ModelJobRefused, ModelProcesses, ModelProcessFailed
from tallygate_server.lifecycle.policies import Policies
from tallygate_server.lifecycle.tiers.groups import groups_of
from tallygate_server.privacy.consents import Consents
from tallygate_server.storage.data_segments import read_segments
from tallygate_server.tenants import TenantDirectory

RECORDS_MAX: Final = 1_000_000
"""That are read; of more, the first."""
SEGMENTS_MAX: Final = 10_000
DATASETS_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedImpact:
    """What is asked for."""

    tenant_id: TenantId
    selection: DataSelection
    settings: CompressionSettings
    target_column: str = ""
    seed: int = 0


class CompressionImpacts:
    """Measures what compressions would lose."""

    def __init__(
        self,
        fetching: Fetching,
        policies: Policies,
        consents: Consents,
        models: ModelProcesses,
        tenants: TenantDirectory,
    ) -> None:
        """Fetch segments; models are fitted in processes of their own."""
        self._fetching = fetching
        self._segments = fetching.segments
        self._policies = policies
        self._consents = consents
        self._models = models
        self._tenants = tenants

    async def evaluate(self, wanted: WantedImpact) -> dict[str, Any]:
        """Return what `lossy.impact.evaluate_impact` finds, as a document.

        Raises TenantNotFound, NotFound, InvalidRequest, ConsentRequired where a model is fitted to an account's data
        and the policy names a purpose that the account has not agreed to, FormNotRestorable where all of the data has
        lost something before, Overloaded, Unavailable, IntegrityViolation, ArchiveCorruption.
        """
        await self._tenants.get(wanted.tenant_id)
        datasets = await self._chosen(wanted)
        if wanted.target_column:
            for segments in datasets:
                await self._demand_consent(wanted.tenant_id, segments[0].account_id, segments[0].data_type)
        tables = [await self._records(segments, wanted.selection) for segments in datasets]
        parameters = {
            "settings": wanted.settings.to_document(),
            "target_column": wanted.target_column,
            "seed": wanted.seed,
        }
        try:
            return await self._models.run("evaluate_impact", parameters, tables)
        except ModelJobRefused as refused:
            raise InvalidRequest.of(refused.field, refused.description) from refused
        except ModelProcessFailed as failed:
            raise Unavailable(f"the model could not be fitted: {failed}") from failed

    async def _chosen(self, wanted: WantedImpact) -> list[list[Segment]]:
        """Return segments that still have all their values, by dataset, up to the most records that are read."""
        async with self._segments.database.tenant_transaction(wanted.tenant_id) as connection:
            found = await read_segments(
                connection, wanted.tenant_id, wanted.selection, state=SegmentState.LIVE, limit=SEGMENTS_MAX
            )
        if not found:
            raise NotFound("data", _named(wanted.selection), field="selection")
        datasets: dict[str, list[Segment]] = {}
        count = 0
        for segment in found:
            if not segment.form.exact:
                continue
            if count + segment.record_count > RECORDS_MAX:
                break
            count += segment.record_count
            datasets.setdefault(segment.dataset_id, []).append(segment)
        if not datasets:
            raise FormNotRestorable(
                "all of this data has lost something before: there is nothing to compare with",
                dataset_id=found[0].dataset_id,
                form=found[0].form.name.lower(),
            )
        if len(datasets) > DATASETS_MAX:
            raise InvalidRequest.of("selection", f"covers more than {DATASETS_MAX} datasets")
        return list(datasets.values())

    async def _records(self, segments: Sequence[Segment], selection: DataSelection) -> pa.Table:
        tables = [await self._fetching.records(group) for group in groups_of(segments)]
        merged = pa.concat_tables(tables, promote_options="default")
        return await asyncio.to_thread(within, merged, selection.start_time, selection.end_time)

    async def _demand_consent(self, tenant_id: TenantId, account_id: AccountId, data_type: str) -> None:
        policy = await self._policies.policy_for(tenant_id, data_type)
        if not account_id or not policy.training_purpose:
            return
        if not await self._consents.has_consent(tenant_id, account_id, policy.training_purpose):
            raise ConsentRequired(account_id, policy.training_purpose)


def _named(selection: DataSelection) -> str:
    return f"{selection.account_id or '*'}/{','.join(selection.data_types) or '*'}"
