"""The data lifecycle over real stores, for tests: small records, a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataColumn, Dataset, DatasetShape
from tallygate_server.lifecycle.assembly import Lifecycle, LifecycleOptions, open_lifecycle
from tallygate_server.lifecycle.keys import MasterKeys
from tallygate_server.service import Service
from tallygate_server.storage.datasets import add_dataset
from tests.support.acme import ACME, ANN

MASTER_KEYS = MasterKeys(keys={"first": bytes(range(32)), "second": bytes(range(1, 33))})
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def options_in(directory: Path, *, master_keys: MasterKeys = MASTER_KEYS) -> LifecycleOptions:
    """Return options whose stores lie in a directory."""
    return LifecycleOptions(
        object_store_url=(directory / "objects").as_uri(),
        key_store_url=(directory / "keys").as_uri(),
        master_keys=master_keys,
    )


@asynccontextmanager
async def lifecycles(
    database_url: str, service: Service, directory: Path, *, clock: Clock | None = None
) -> AsyncIterator[Lifecycle]:
    """Open the lifecycle beside a service."""
    async with open_lifecycle(database_url, service, options_in(directory), clock=clock or service.clock) as lifecycle:
        yield lifecycle


def a_table(start_time: datetime = NOON, count: int = 100, **columns: list[Any]) -> pa.Table:
    """Return records, one a second, with a heart rate and a speed unless other columns are given."""
    times = [start_time + timedelta(seconds=second) for second in range(count)]
    chosen = columns or {
        "heart_rate": [100 + second % 60 for second in range(count)],
        "speed": [round(5 + (second % 37) / 10, 1) for second in range(count)],
    }
    return pa.table({"time": pa.array(times, pa.timestamp("us", tz="UTC")), **chosen})


async def a_dataset(
    lifecycle: Lifecycle,
    *,
    tenant_id: TenantId = ACME,
    account_id: AccountId = ANN,
    data_type: str = "ride",
    columns: tuple[DataColumn, ...] = (),
) -> Dataset:
    """Make a dataset without records."""
    now = lifecycle.clock.now()
    dataset = Dataset(
        tenant_id=tenant_id,
        dataset_id=f"ds_{account_id}_{data_type}",
        account_id=account_id,
        data_type=data_type,
        shape=DatasetShape.TIME_SERIES,
        columns=columns,
        create_time=now,
        update_time=now,
    )
    async with lifecycle.database.tenant_transaction(tenant_id) as connection:
        return await add_dataset(connection, dataset)
