"""SQL of datasets: which records there are of whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataColumn, Dataset, DatasetShape
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import datasets


async def read_dataset(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, data_type: str, *, lock: bool = False
) -> Dataset | None:
    """Return the dataset of the account and data type, locked if wanted; None where there is none."""
    columns = datasets.c
    statement = select(datasets).where(
        columns.tenant_id == tenant_id, columns.account_id == account_id, columns.data_type == data_type
    )
    row = (await connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
    return None if row is None else _row(row)


async def read_dataset_by_id(
    connection: Connection, tenant_id: TenantId, dataset_id: str, *, lock: bool = False
) -> Dataset | None:
    """Return the dataset with this id, locked if wanted; None where there is none."""
    columns = datasets.c
    statement = select(datasets).where(columns.tenant_id == tenant_id, columns.dataset_id == dataset_id)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
    return None if row is None else _row(row)


async def read_datasets(connection: Connection, tenant_id: TenantId, dataset_ids: Sequence[str]) -> dict[str, Dataset]:
    """Return the datasets with these ids that there are."""
    columns = datasets.c
    rows = await connection.execute(
        select(datasets).where(columns.tenant_id == tenant_id, columns.dataset_id.in_(sorted(set(dataset_ids))))
    )
    return {dataset.dataset_id: dataset for dataset in map(_row, rows)}


async def page_of_datasets(
    connection: Connection,
    tenant_id: TenantId,
    *,
    account_id: AccountId | None = None,
    data_type: str = "",
    after: tuple[str, str] | None = None,
    limit: int,
) -> list[Dataset]:
    """Return datasets by account and data type, those after one."""
    columns = datasets.c
    statement = select(datasets).where(columns.tenant_id == tenant_id)
    if account_id is not None:
        statement = statement.where(columns.account_id == account_id)
    if data_type:
        statement = statement.where(columns.data_type == data_type)
    if after is not None:
        later = (columns.account_id > after[0]) | ((columns.account_id == after[0]) & (columns.data_type > after[1]))
        statement = statement.where(later)
    rows = await connection.execute(statement.order_by(columns.account_id, columns.data_type).limit(limit))
    return [_row(row) for row in rows]


async def add_dataset(connection: Connection, dataset: Dataset) -> Dataset:
    """Write a new dataset; return the one that is there, locked, where somebody was faster."""
    values = {name: getattr(dataset, name) for name in datasets.c.keys()}  # noqa: SIM118 - not a mapping
    values["shape"] = int(dataset.shape)
    values["columns"] = [column.to_document() for column in dataset.columns]
    await connection.execute(insert(datasets).values(values).on_conflict_do_nothing())
    present = await read_dataset(connection, dataset.tenant_id, dataset.account_id, dataset.data_type, lock=True)
    assert present is not None, "it was there, or has just been written"
    return present


async def write_dataset(
    connection: Connection, tenant_id: TenantId, dataset_id: str, values: Mapping[str, Any]
) -> None:
    """Change columns of the row; the dataset's own columns go in as `columns`, a tuple of DataColumn."""
    changed = dict(values)
    if "columns" in changed:
        changed["columns"] = [column.to_document() for column in changed["columns"]]
    columns = datasets.c
    await connection.execute(
        update(datasets).where(columns.tenant_id == tenant_id, columns.dataset_id == dataset_id).values(**changed)
    )


def _row(row: Row[Any]) -> Dataset:
    values = dict(row._mapping)  # noqa: SLF001 - public in spite of its name
    values["shape"] = DatasetShape(values["shape"])
    values["columns"] = tuple(DataColumn.from_document(column) for column in values["columns"])
    return Dataset(**values)
