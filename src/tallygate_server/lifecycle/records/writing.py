"""Putting records: a batch becomes one sealed segment, all of it or nothing.

A batch is fitted, judged, encoded and sealed before anything is locked. One short transaction then checks that the
dataset is still as it was looked at, and writes segment, ids, answer and sums together; where somebody was faster, it
is done again.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa

from tallygate_server.clock import Clock
from tallygate_server.domain.call import Check, CheckAnswer
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.lifecycle import OWN_DATA_TYPES, Dataset, DatasetShape, StorageTier
from tallygate_server.errors import (
    AccountDeleted,
    AccountNotFound,
    InvalidRequest,
    RequestIdReused,
    StorageLimitExceeded,
    Unavailable,
)
from tallygate_server.lifecycle.keys import DataKey, DataKeys, KeyDestroyed, KeyUnreadable
from tallygate_server.lifecycle.records.batches import Batch, time_of
from tallygate_server.lifecycle.records.quality import DataQuality, quality_of
from tallygate_server.lifecycle.records.schema import ColumnDefinition, Conformed, conform
from tallygate_server.lifecycle.records.views import DatasetView
from tallygate_server.lifecycle.sealing import SealBroken, seal, unseal
from tallygate_server.lifecycle.segments import PreparedSegment, SegmentStore
from tallygate_server.storage import data_records as rows
from tallygate_server.storage.accounts import read_account
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_keys import KeyRow, KeyState, read_keys_of_account
from tallygate_server.storage.datasets import add_dataset, read_dataset, write_dataset
from tallygate_server.storage.engine import Database
from tallygate_server.tenants import TenantDirectory
from tallygate_server.unique_ids import new_id

ATTEMPTS_MAX: Final = 10
"""A dataset that keeps changing while it is looked at is left to the caller's retry."""
STORAGE_LIMIT: Final = FeatureKey("storage_limit_bytes")
"""A config feature of this name bounds what is stored of an account."""
DATASET_ID_PREFIX: Final = "ds"
RECORD_ID: Final = "_id"
SEQUENCE: Final = "_sequence"
PUT_CALL: Final = "put_records"


class Accounts(Protocol):
    """Makes accounts that are not there."""

    async def provision(self, tenant_id: TenantId, account_id: AccountId) -> bool:
        """Create the account where its tenant allows that; tell whether it is there."""


class Checks(Protocol):
    """Knows what an account's plan allows."""

    async def check(self, check: Check) -> CheckAnswer:
        """Answer one check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecords:
    """Records to put."""

    tenant_id: TenantId
    account_id: AccountId
    data_type: str
    batch: Batch
    shape: DatasetShape | None = None
    definitions: Sequence[ColumnDefinition] = ()
    request_id: str = ""
    content: bytes = field(default=b"", repr=False)
    """The request in a form that is the same for a retry; needed with a request id."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsPut:
    """What became of records."""

    dataset: DatasetView
    record_count: int
    replaced_count: int
    quality: Mapping[str, Any]
    """The contract's JSON."""
    replayed: bool = False

    def to_document(self) -> dict[str, Any]:
        """Return the answer as it is kept for retries."""
        return {
            "dataset": self.dataset.to_document(),
            "record_count": self.record_count,
            "replaced_count": self.replaced_count,
            "quality": dict(self.quality),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> RecordsPut:
        """Return the answer that `to_document` wrote, as one of a retry."""
        return cls(**{**document, "dataset": DatasetView.from_document(document["dataset"])}, replayed=True)


class _ChangedError(Exception):
    """The dataset, the key or the request is not what was looked at; look again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """Keys of an account for one put."""

    sealing: DataKey
    digesting: DataKey
    """The oldest that there is, so that ids are recognised after the sealing key has changed."""


class RecordWriting:
    """Puts records."""

    def __init__(
        self,
        segments: SegmentStore,
        keys: DataKeys,
        *,
        tenants: TenantDirectory,
        accounts: Accounts,
        checks: Checks,
        clock: Clock,
    ) -> None:
        """Write through the segment store."""
        self._segments = segments
        self._database: Database = segments.database
        self._keys = keys
        self._tenants = tenants
        self._accounts = accounts
        self._checks = checks
        self._clock = clock

    async def put(self, wanted: NewRecords) -> RecordsPut:
        """Put all records, or none.

        Raises TenantNotFound, AccountNotFound, AccountDeleted, InvalidRequest, SchemaDrift, StorageLimitExceeded,
        RequestIdReused, Unavailable.
        """
        if wanted.data_type in OWN_DATA_TYPES:
            raise InvalidRequest.of("data_type", f"{wanted.data_type!r} is what we archive ourselves; choose another")
        limit_bytes = await self._limit_bytes(wanted)
        for _ in range(ATTEMPTS_MAX):
            try:
                return await self._attempt(wanted, limit_bytes)
            except _ChangedError:
                continue
        raise Unavailable("others keep changing the dataset at the same time; try again")

    async def _attempt(self, wanted: NewRecords, limit_bytes: int | None) -> RecordsPut:
        tenant_id, account_id, now = wanted.tenant_id, wanted.account_id, self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            account = await read_account(connection, tenant_id, account_id)
            key_rows = await read_keys_of_account(connection, tenant_id, account_id)
            first = await _first(connection, wanted)
            seen = await read_dataset(connection, tenant_id, account_id, wanted.data_type)
        if account is None and not await self._accounts.provision(tenant_id, account_id):
            raise AccountNotFound(account_id)
        if account is not None and account.state is AccountState.DELETED:
            raise AccountDeleted(account_id)
        keys = await self._keys_of(wanted, key_rows)
        if first is not None:
            return await self._replayed(wanted, first)
        fitted, quality = await asyncio.to_thread(_fit, wanted, seen, now)
        dataset = _dataset_of(wanted, seen, fitted, now)
        first_sequence = await self._sequences(seen, len(fitted.table)) if dataset.has_record_ids else 1
        if seen is None and dataset.has_record_ids:
            dataset = replace(dataset, next_sequence=1 + len(fitted.table))
        table, digests, sequences = await asyncio.to_thread(
            _arrange, fitted, keys.digesting.secret, first_sequence if dataset.has_record_ids else None
        )
        prepared = await self._segments.prepare(
            dataset,
            table,
            tier=StorageTier.HOT,
            quality_score=quality.score,
            facts={"quality": quality.to_document(), **({"source": wanted.source} if wanted.source else {})},
            key=keys.sealing,
        )
        async with self._database.tenant_transaction(tenant_id) as connection:
            await self._lock(connection, seen, dataset, keys)
            await _check_room(connection, prepared, limit_bytes)
            replaced = len(fitted.table) - len(table)
            if digests:
                replaced += await rows.take_places(connection, tenant_id, dataset.dataset_id, digests, sequences)
            await self._segments.put_hot(connection, prepared)
            after = await _write_sums(connection, dataset, quality, len(fitted.table), now)
            usage = await rows.usage_of(connection, tenant_id, [dataset])
            answer = RecordsPut(
                dataset=DatasetView.of(after, usage[dataset.dataset_id]),
                record_count=len(fitted.table),
                replaced_count=replaced,
                quality=quality.to_document(),
            )
            if wanted.request_id:
                request = rows.DataRequest(
                    call=PUT_CALL,
                    fingerprint=_fingerprint(keys.sealing.secret, wanted),
                    answer=_sealed_answer(wanted, keys.sealing, answer),
                )
                if not await rows.add_request(connection, tenant_id, account_id, wanted.request_id, request, now=now):
                    raise _ChangedError
        return answer

    # --- Before anything is locked ------------------------------------------------------------------------------

    async def _limit_bytes(self, wanted: NewRecords) -> int | None:
        """Return what the account may store; None: any amount. Raises TenantNotFound."""
        tenant = await self._tenants.get(wanted.tenant_id)
        if STORAGE_LIMIT not in tenant.features:
            return None
        answer = await self._checks.check(Check(wanted.tenant_id, wanted.account_id, STORAGE_LIMIT))
        value = answer.value
        return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None

    async def _keys_of(self, wanted: NewRecords, key_rows: Sequence[KeyRow]) -> _Keys:
        """Return the account's keys, a new one where it has none that seals."""
        tenant_id, account_id = wanted.tenant_id, wanted.account_id
        usable = [row for row in key_rows if row.state is not KeyState.DESTROYED]
        active = next((row for row in usable if row.state is KeyState.ACTIVE), None)
        try:
            if active is None:
                sealing = await self._keys.to_seal(tenant_id, account_id)
            else:
                sealing = DataKey(key_id=active.key_id, secret=await self._keys.to_unseal(tenant_id, active.key_id))
            digesting = sealing
            if usable:
                oldest = usable[0].key_id
                digesting = DataKey(key_id=oldest, secret=await self._keys.to_unseal(tenant_id, oldest))
        except (KeyDestroyed, KeyUnreadable):
            raise Unavailable("the account's key cannot be used just now; try again") from None
        return _Keys(sealing=sealing, digesting=digesting)

    async def _replayed(self, wanted: NewRecords, first: rows.DataRequest) -> RecordsPut:
        if first.call != PUT_CALL:
            raise RequestIdReused(wanted.request_id)
        try:
            secret = await self._keys.to_unseal(wanted.tenant_id, first.answer["key_id"])
            if not hmac.compare_digest(first.fingerprint, _fingerprint(secret, wanted)):
                raise RequestIdReused(wanted.request_id)
            plain = unseal(secret, bytes.fromhex(first.answer["sealed"]), place=_place(wanted))
        except (KeyDestroyed, KeyUnreadable, SealBroken):
            raise RequestIdReused(wanted.request_id) from None
        return RecordsPut.from_document(json.loads(plain))

    async def _sequences(self, seen: Dataset | None, count: int) -> int:
        if seen is None:
            return 1
        async with self._database.tenant_transaction(seen.tenant_id) as connection:
            return await rows.reserve_sequences(connection, seen.tenant_id, seen.dataset_id, count)

    # --- Within the transaction ---------------------------------------------------------------------------------

    async def _lock(self, connection: Connection, seen: Dataset | None, dataset: Dataset, keys: _Keys) -> None:
        """Lock the dataset, a new one included, and the key; raises _ChangedError where either is another."""
        if seen is None:
            present = await add_dataset(connection, dataset)
            if present.dataset_id != dataset.dataset_id:
                raise _ChangedError
        else:
            locked = await read_dataset(connection, dataset.tenant_id, dataset.account_id, dataset.data_type, lock=True)
            if locked is None or _schema(locked) != _schema(seen):
                raise _ChangedError
        states = await rows.hold_keys(connection, dataset.tenant_id, [keys.sealing.key_id, keys.digesting.key_id])
        if states.get(keys.sealing.key_id) is not KeyState.ACTIVE:
            raise _ChangedError
        if states.get(keys.digesting.key_id) in {None, KeyState.DESTROYED}:
            raise _ChangedError


async def _first(connection: Connection, wanted: NewRecords) -> rows.DataRequest | None:
    if not wanted.request_id:
        return None
    return await rows.read_request(connection, wanted.tenant_id, wanted.account_id, wanted.request_id)


def _fit(wanted: NewRecords, seen: Dataset | None, now: datetime) -> tuple[Conformed, DataQuality]:
    fitted = conform(wanted.batch, seen, shape=wanted.shape, definitions=wanted.definitions, now=now)
    return fitted, quality_of(fitted)


def _dataset_of(wanted: NewRecords, seen: Dataset | None, fitted: Conformed, now: datetime) -> Dataset:
    if seen is not None:
        return replace(seen, columns=fitted.columns, has_record_ids=seen.has_record_ids or bool(fitted.record_ids))
    return Dataset(
        tenant_id=wanted.tenant_id,
        dataset_id=new_id(DATASET_ID_PREFIX, now),
        account_id=wanted.account_id,
        data_type=wanted.data_type,
        shape=fitted.shape,
        columns=fitted.columns,
        has_record_ids=bool(fitted.record_ids),
        create_time=now,
        update_time=now,
    )


def _arrange(
    fitted: Conformed, digesting: bytes, first_sequence: int | None
) -> tuple[pa.Table, list[bytes], list[int]]:
    """Return the records by time, without those that others of the batch replace, and the ids with their numbers."""
    table, digests, sequences = fitted.table, list[bytes](), list[int]()
    if first_sequence is not None:
        count = table.num_rows
        numbers = np.arange(first_sequence, first_sequence + count, dtype=np.int64)
        ids = [record_id or None for record_id in fitted.record_ids] or [None] * count
        table = table.append_column(RECORD_ID, pa.array(ids, pa.string()))
        table = table.append_column(SEQUENCE, pa.array(numbers))
        last = {record_id: index for index, record_id in enumerate(ids) if record_id is not None}
        digests = [record_id_digest(digesting, record_id) for record_id in last]
        sequences = [int(numbers[index]) for index in last.values()]
        kept = [index for index, record_id in enumerate(ids) if record_id is None or last[record_id] == index]
        if len(kept) < count:
            table = table.take(kept)
    times = time_of(table)
    if np.any(np.diff(times) < 0):
        table = table.take(np.argsort(times, kind="stable"))
    return table.combine_chunks(), digests, sequences


def record_id_digest(secret: bytes, record_id: str) -> bytes:
    """Return what stands for a record's id in Postgres: nobody without the account's key can tell the id."""
    return hmac.digest(secret, record_id.encode(), "sha256")


async def _check_room(connection: Connection, prepared: PreparedSegment, limit_bytes: int | None) -> None:
    if limit_bytes is None:
        return
    segment = prepared.segment
    used = await rows.stored_bytes_of(connection, segment.tenant_id, segment.account_id)
    if used + segment.stored_bytes > limit_bytes:
        raise StorageLimitExceeded(limit_bytes=limit_bytes, used_bytes=used, added_bytes=segment.stored_bytes)


async def _write_sums(
    connection: Connection, dataset: Dataset, quality: DataQuality, count: int, now: datetime
) -> Dataset:
    """Write the schema and the mean quality; return the dataset as it is now."""
    present = await read_dataset(connection, dataset.tenant_id, dataset.account_id, dataset.data_type)
    assert present is not None, "it is locked"
    changes: dict[str, Any] = {
        "columns": dataset.columns,
        "has_record_ids": dataset.has_record_ids,
        "quality_sum": present.quality_sum + quality.score * count,
        "quality_weight": present.quality_weight + count,
        "update_time": max(now, present.update_time),
    }
    await write_dataset(connection, dataset.tenant_id, dataset.dataset_id, changes)
    return replace(present, **changes)


def _schema(dataset: Dataset) -> tuple[object, ...]:
    return dataset.dataset_id, dataset.shape, dataset.columns, dataset.has_record_ids


def _fingerprint(secret: bytes, wanted: NewRecords) -> str:
    """Return what tells this content from all others, and tells nobody without the key what it was."""
    return hmac.digest(secret, wanted.content, "sha256").hex()


def _sealed_answer(wanted: NewRecords, key: DataKey, answer: RecordsPut) -> dict[str, Any]:
    """Return an answer in a form that nobody reads without the account's key."""
    content = json.dumps(answer.to_document()).encode()
    return {"key_id": key.key_id, "sealed": seal(key.secret, content, place=_place(wanted)).hex()}


def _place(wanted: NewRecords) -> str:
    return f"{wanted.tenant_id}/{wanted.account_id}/{PUT_CALL}/{wanted.request_id}"
