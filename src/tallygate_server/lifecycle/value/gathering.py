"""Reads what models are made from: segments with consent, and their records within bounds."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataSelection, DatasetShape, Segment
from tallygate_server.domain.retention import RetentionPolicy
from tallygate_server.errors import ConsentRequired, InvalidRequest, SegmentGone
from tallygate_server.lifecycle.lossy.documents import as_columns
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.lifecycle.tiers.records import read_merged
from tallygate_server.lifecycle.value.seasons import Integers
from tallygate_server.storage.data_segments import count_by_account_and_type, read_segments
from tallygate_server.storage.datasets import read_datasets

SEGMENTS_MAX: Final = 50_000
"""Segments that one call looks at; a selection of more is refused."""
SEGMENTS_READ_MAX: Final = 1_024
"""Segments whose records one call reads; of more, an even choice in the order of time."""
LOOKS_MAX: Final = 5
"""At segments that others move while they are read."""
RECORDS_MEASURED_MAX: Final = 100_000
"""Records that a model process is given; of more, every so many-th of each segment stands for those up to the next."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME: Final = "time"
_ID: Final = "_id"
_SEQUENCE: Final = "_sequence"


class ConsentUse(Protocol):
    """Knows what accounts have consented to."""

    async def has_consent(
        self, tenant_id: TenantId, account_id: AccountId, purpose: str, now: datetime | None = None
    ) -> bool:
        """Tell whether the account lets its data be used for a purpose, now or at an instant."""


class PolicyUse(Protocol):
    """Knows what becomes of data."""

    async def policy_for(self, tenant_id: TenantId, data_type: str) -> RetentionPolicy:
        """Return the policy that counts for a data type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which data of a selection may be looked at."""

    selection: DataSelection
    allowed: Collection[tuple[AccountId, str]]
    """Accounts and sorts of data with consent, or without need of it."""

    def allows(self, segment: Segment) -> bool:
        """Tell whether a segment may be looked at."""
        return (segment.account_id, segment.data_type) in self.allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Records that were read, by dataset and time, and where they come from."""

    table: pa.Table
    """As `models.py` wants it."""
    segments: Sequence[Segment]
    """In the order of the table's `segment`."""
    dataset_ids: Sequence[str]
    """In the order of the table's `dataset`."""
    pieces: Sequence[pa.Table] = field(repr=False)
    documents: Sequence[bool]
    """Of each piece whether it holds documents."""
    origins: Integers
    """Of each row its piece, and its row there."""
    record_count: int
    """Records that these stand for."""

    def rows(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Return records as they were put: `time`, `values`, `record_id`."""
        found: dict[int, dict[str, Any]] = {}
        by_piece: dict[int, list[int]] = {}
        for place in places:
            by_piece.setdefault(int(self.origins[place, 0]), []).append(place)
        for piece, wanted in by_piece.items():
            taken = self.pieces[piece].take(pa.array([int(self.origins[place, 1]) for place in wanted]))
            for place, row in zip(wanted, taken.to_pylist(), strict=True):
                found[place] = _record(row, documents=self.documents[piece])
        return [found[place] for place in places]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What of a selection may be used for training."""

    segments: Sequence[Segment]
    """In the order of time."""
    unconsented: Sequence[Segment]
    """What may not be used."""
    records: Records | None
    """None: there is none, or none was wanted."""


class Gatherer:
    """Reads data that a model may be trained on."""

    def __init__(self, segments: SegmentStore, policies: PolicyUse, consents: ConsentUse) -> None:
        """Read through the segment store, under its database's role."""
        self._store = segments
        self._policies = policies
        self._consents = consents

    async def choose(self, tenant_id: TenantId, selection: DataSelection, now: datetime) -> Chosen:
        """Tell which data of a selection may be used for training.

        Raises ConsentRequired where a single account is chosen, or all data needs a consent that is missing, and
        InvalidRequest where there is too much of it.
        """
        async with self._store.database.tenant_snapshot(tenant_id) as connection:
            groups = await count_by_account_and_type(connection, tenant_id, selection)
        if sum(count for count, _ in groups.values()) > SEGMENTS_MAX:
            raise InvalidRequest.of("selection", f"covers more than {SEGMENTS_MAX} segments; choose less at a time")
        refused: dict[tuple[AccountId, str], str] = {}
        known: dict[tuple[AccountId, str], bool] = {}
        for account_id, data_type in groups:
            purpose = (await self._policies.policy_for(tenant_id, data_type)).training_purpose
            # The tenant's own data is about nobody.
            if not purpose or not account_id:
                continue
            if (account_id, purpose) not in known:
                known[account_id, purpose] = await self._consents.has_consent(tenant_id, account_id, purpose, now)
            if not known[account_id, purpose]:
                refused[account_id, data_type] = purpose
        single = selection.account_id is not None or len({account_id for account_id, _ in groups}) == 1
        if refused and (single or len(refused) == len(groups)):
            (account_id, _), purpose = next(iter(refused.items()))
            raise ConsentRequired(account_id, purpose)
        return Chosen(
            selection=selection,
            allowed=groups.keys() - refused.keys(),
        )

    async def gather(
        self, tenant_id: TenantId, selection: DataSelection, now: datetime, *, with_records: bool = True
    ) -> Gathered:
        """Return what of a selection may be used for training, with its records or without.

        Looks again where others move segments meanwhile. Raises as `choose`, and what reading raises.
        """
        chosen = await self.choose(tenant_id, selection, now)
        for look in range(1, LOOKS_MAX + 1):
            async with self._store.database.tenant_snapshot(tenant_id) as connection:
                found = await read_segments(connection, tenant_id, selection, limit=SEGMENTS_MAX)
            allowed = [segment for segment in found if chosen.allows(segment)]
            try:
                records = await self._records(tenant_id, selection, allowed) if with_records else None
            except SegmentGone:
                if look == LOOKS_MAX:
                    raise
                continue
            return Gathered(
                segments=allowed,
                unconsented=[segment for segment in found if not chosen.allows(segment)],
                records=records,
            )
        raise AssertionError("the last look returns or raises")

    async def _records(
        self, tenant_id: TenantId, selection: DataSelection, segments: Sequence[Segment]
    ) -> Records | None:
        """Return records of segments in a selection's range, all or evenly chosen; None where there is none.

        Lossy forms have none to give. Raises what reading raises.
        """
        exact = [segment for segment in segments if segment.form.exact]
        if len(exact) > SEGMENTS_READ_MAX:
            exact = [exact[len(exact) * place // SEGMENTS_READ_MAX] for place in range(SEGMENTS_READ_MAX)]
        async with self._store.database.tenant_snapshot(tenant_id) as connection:
            datasets = await read_datasets(connection, tenant_id, [segment.dataset_id for segment in exact])
        expected = sum(records_in(segment, selection) for segment in exact)
        stride = max(1, math.ceil(expected / RECORDS_MEASURED_MAX))
        dataset_ids = sorted({segment.dataset_id for segment in exact})
        parts: list[_Part] = []
        for place, segment in enumerate(exact):
            table, _ = await read_merged(self._store, [segment])
            documents = datasets[segment.dataset_id].shape is DatasetShape.DOCUMENTS
            part = await asyncio.to_thread(
                _thinned,
                table,
                selection,
                stride=stride,
                segment=place,
                dataset=dataset_ids.index(segment.dataset_id),
                documents=documents,
            )
            if part is not None:
                parts.append(part)
        if not parts:
            return None
        return await asyncio.to_thread(_joined, parts, exact, dataset_ids)


@dataclass(frozen=True, slots=True)
class _Part:
    original: pa.Table
    features: pa.Table
    record_count: int
    documents: bool


def records_in(segment: Segment, selection: DataSelection) -> int:
    """Return about how many records of a segment lie in the range."""
    start = max(selection.start_time or segment.start_time, segment.start_time)
    end = min(selection.end_time or segment.end_time, segment.end_time)
    share = (end - start) / (segment.end_time - segment.start_time)
    return math.ceil(segment.record_count * max(0.0, min(1.0, share)))


def _thinned(
    table: pa.Table, selection: DataSelection, *, stride: int, segment: int, dataset: int, documents: bool
) -> _Part | None:
    times = table.column(_TIME)
    for bound, compare in ((selection.start_time, pc.greater_equal), (selection.end_time, pc.less)):
        if bound is not None:
            table = table.filter(compare(table.column(_TIME), pa.scalar(bound, times.type)))
    count = table.num_rows
    if not count:
        return None
    places = np.arange(0, count, stride)
    weights = np.full(len(places), stride, dtype=np.int64)
    weights[-1] = count - places[-1]
    taken = table.take(pa.array(places))
    told: dict[str, Any] = {
        "time": taken.column(_TIME).cast(pa.int64()),
        "dataset": pa.array(np.full(len(places), dataset, dtype=np.int32)),
        "segment": pa.array(np.full(len(places), segment, dtype=np.int32)),
        "weight": pa.array(weights),
    }
    flat = as_columns(taken) if documents else taken
    for name in flat.column_names:
        column = flat.column(name)
        if name in (_TIME, _ID, _SEQUENCE):
            continue
        if pa.types.is_boolean(column.type):
            told[f"n:{name}"] = column.cast(pa.int8()).cast(pa.float64())
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            told[f"n:{name}"] = column.cast(pa.float64(), safe=False)
        elif pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
            told[f"t:{name}"] = column.cast(pa.string())
    return _Part(taken, pa.table(told), count, documents)


def _joined(parts: Sequence[_Part], segments: Sequence[Segment], dataset_ids: Sequence[str]) -> Records:
    table = pa.concat_tables([part.features for part in parts], promote_options="default")
    order = np.lexsort((table.column("time").to_numpy(), table.column("dataset").to_numpy()))
    origins = np.concatenate(
        [
            np.column_stack([np.full(part.original.num_rows, place), np.arange(part.original.num_rows)])
            for place, part in enumerate(parts)
        ]
    )
    return Records(
        table=table.take(pa.array(order)).combine_chunks(),
        segments=segments,
        dataset_ids=dataset_ids,
        pieces=[part.original for part in parts],
        documents=[part.documents for part in parts],
        origins=origins[order].astype(np.int64),
        record_count=sum(part.record_count for part in parts),
    )


def _record(row: Mapping[str, Any], *, documents: bool) -> dict[str, Any]:
    values = {name: value for name, value in row.items() if name not in (_TIME, _ID, _SEQUENCE)}
    if documents:
        values = json.loads(row["document"])
    return {
        "time": row[_TIME],
        "values": {name: _scalar(value) for name, value in values.items()},
        "record_id": row.get(_ID) or "",
    }


def _scalar(value: Any) -> Any:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def instant_of(micros: int) -> datetime:
    """Return the instant so many microseconds after 1970."""
    return _EPOCH + timedelta(microseconds=micros)
