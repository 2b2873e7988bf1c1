"""What every table holds of an account: how it is found, what an export shows of it, and what an erasure does with it.

One register for all tables that belong to tenants, so that none is forgotten: a test fails for a table that is neither
in `ACCOUNT_TABLES` nor in `TABLES_WITHOUT_ACCOUNTS`. The order of `ACCOUNT_TABLES` is that of erasing: rows that are
found through others stand before those, and what tells the account's other names stands last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    String,
    Table,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    null,
    or_,
    select,
    text,
    tuple_,
)

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.storage import tables
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database

ROWS_PER_BATCH: Final = 1_000
"""Rows that one transaction erases."""
SCAN_TIMEOUT_MS: Final = 600_000
"""A table without an index by account is read in whole."""


class Fate(Enum):
    """What an erasure does with rows."""

    DELETE = "delete"
    ANONYMIZE = "anonymize"
    """What is personal is overwritten; the rest is kept, with a reason."""
    OWN = "own"
    """Its own step of the erasure: keys, jobs, policies, the account itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An account, as its rows are found."""

    tenant_id: TenantId
    account_id: AccountId
    names: tuple[str, ...] = ()
    """Other texts that stand for it: identities, addresses, ids at the billing provider. The id itself is implied."""
    held_segments: frozenset[str] = frozenset()
    """Under a legal hold: they, and what is needed to read them, stay."""
    held_datasets: frozenset[str] = frozenset()
    held_keys: frozenset[str] = frozenset()
    job_id: str = ""
    """The erasure itself, whose row is needed until its end."""

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every text that stands for the account."""
        return tuple(dict.fromkeys((self.account_id, f"account:{self.account_id}", *self.names)))


Find = Callable[[Subject], ColumnElement[bool]]
Change = Callable[[Subject, str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountTable:
    """What one table holds of an account."""

    table: Table
    find: Find
    """Which rows are about the account, beside the tenant's id."""
    fate: Fate = Fate.DELETE
    change: Change | None = None
    """What anonymous rows hold instead, by column; given the subject and the anonymous id."""
    reason: str = ""
    """Why something is kept, or what its own step does."""
    hidden: frozenset[str] = frozenset()
    """Columns that no export shows: secrets, and what only the database's own work needs."""
    exported: bool = True
    why_not_exported: str = ""
    rows_per_page: int = 2_000
    """Rows that an export holds at a time; fewer where they are long."""
    mentions: bool = False
    """Whether rows are found by what they say: every row of the tenant is read."""


def _by_account(table: Table) -> Find:
    return lambda subject: table.c.account_id == subject.account_id


def _all_of(table: Table, **more: Any) -> AccountTable:
    return AccountTable(table=table, find=_by_account(table), **more)


def says(column: ColumnElement[Any], names: Sequence[str]) -> ColumnElement[bool]:
    """Tell whether a JSON value says one of the names, as a whole string: `"ann"`, not a part of `"channel"`."""
    rendered = cast(column, String)
    return or_(false(), *(func.strpos(rendered, json.dumps(name, ensure_ascii=False)) > 0 for name in names))


def names_in(content: str, names: Sequence[str]) -> bool:
    """Tell whether a text for people says one of the names as a word: `ann` in `user:ann`, not in `channel`."""
    return any(re.search(_word(name), content) for name in names)


def _word(name: str) -> str:
    escaped = re.sub(r"([^A-Za-z0-9])", r"\\\1", name)
    return f"(^|[^A-Za-z0-9]){escaped}($|[^A-Za-z0-9])"


def _names_someone(column: ColumnElement[Any], names: Sequence[str]) -> ColumnElement[bool]:
    """Tell the same of a column."""
    return or_(false(), *(column.op("~")(_word(name)) for name in names))


def _body_says(column: ColumnElement[Any], names: Sequence[str]) -> ColumnElement[bool]:
    """Tell the same of bytes that hold JSON, in either spelling of letters beyond ASCII."""
    spellings = {json.dumps(name, ensure_ascii=ascii_only).encode() for name in names for ascii_only in (True, False)}
    return or_(
        false(), *(func.pg_catalog.position(column, literal(each, LargeBinary)) > 0 for each in sorted(spellings))
    )


# --- How rows are found ---------------------------------------------------------------------------------------------


def _webhook_events(subject: Subject) -> ColumnElement[bool]:
    columns = tables.webhook_events.c
    return or_(
        columns.account_id == subject.account_id,
        and_(columns.account_id.is_(None), _body_says(columns.payload, subject.all_names)),
    )


def _outbox_events(subject: Subject) -> ColumnElement[bool]:
    columns = tables.outbox_events.c
    return or_(
        columns.account_id == subject.account_id,
        and_(columns.account_id == "", says(columns.payload, subject.all_names)),
    )


def _webhook_deliveries(subject: Subject) -> ColumnElement[bool]:
    events = tables.outbox_events.c
    mine = select(events.event_id).where(events.tenant_id == subject.tenant_id, _outbox_events(subject))
    return tables.webhook_deliveries.c.event_id.in_(mine)


def _audit_entries(subject: Subject) -> ColumnElement[bool]:
    columns, jobs = tables.audit_entries.c, tables.lifecycle_jobs.c
    subjects = [
        select(literal(prefix) + id_column).where(
            id_column.table.c.tenant_id == subject.tenant_id,
            id_column.table.c.account_id == subject.account_id,
            id_column != subject.job_id,
        )
        for prefix, id_column in (
            ("grant:", tables.grants.c.grant_id),
            ("subscription:", tables.subscriptions.c.subscription_id),
            ("customer:", tables.customers.c.customer_id),
            ("dataset/", tables.datasets.c.dataset_id),
            ("lifecycle_job/", jobs.job_id),
        )
    ]
    return or_(
        columns.subject.in_([*subject.all_names]),
        *(columns.subject.in_(each) for each in subjects),
        _names_someone(columns.actor, subject.all_names),
        says(columns.detail, subject.all_names),
    )


def _segments(subject: Subject) -> ColumnElement[bool]:
    columns = tables.data_segments.c
    mine = columns.account_id == subject.account_id
    return and_(mine, columns.segment_id.not_in(sorted(subject.held_segments))) if subject.held_segments else mine


def _datasets(subject: Subject) -> ColumnElement[bool]:
    columns = tables.datasets.c
    mine = columns.account_id == subject.account_id
    return and_(mine, columns.dataset_id.not_in(sorted(subject.held_datasets))) if subject.held_datasets else mine


def _of_segments(table: Table) -> Find:
    def find(subject: Subject) -> ColumnElement[bool]:
        segments = tables.data_segments.c
        mine = select(segments.segment_id).where(segments.tenant_id == subject.tenant_id, _segments(subject))
        return table.c.segment_id.in_(mine)

    return find


def _of_datasets(table: Table) -> Find:
    def find(subject: Subject) -> ColumnElement[bool]:
        datasets = tables.datasets.c
        mine = select(datasets.dataset_id).where(datasets.tenant_id == subject.tenant_id, _datasets(subject))
        return table.c.dataset_id.in_(mine)

    return find


def _of_series(table: Table) -> Find:
    def find(subject: Subject) -> ColumnElement[bool]:
        series = tables.usage_series.c
        mine = select(series.series_id).where(
            series.tenant_id == subject.tenant_id, series.account_id == subject.account_id
        )
        return table.c.series_id.in_(mine)

    return find


def _event_keys(subject: Subject) -> ColumnElement[bool]:
    keys, events = tables.usage_event_keys.c, tables.usage_events.c
    mine = select(events.source, events.event_id).where(
        events.tenant_id == subject.tenant_id, events.account_id == subject.account_id
    )
    return tuple_(keys.source, keys.event_id).in_(mine)


def _keys(subject: Subject) -> ColumnElement[bool]:
    columns = tables.data_keys.c
    mine = columns.account_id == subject.account_id
    return and_(mine, columns.key_id.not_in(sorted(subject.held_keys))) if subject.held_keys else mine


def _objects(subject: Subject) -> ColumnElement[bool]:
    objects, segments = tables.stored_objects.c, tables.data_segments.c
    mine = select(segments.object_path).where(segments.tenant_id == subject.tenant_id, _segments(subject))
    exports = tables.account_exports.c
    of_exports = select(literal(1)).where(
        exports.tenant_id == subject.tenant_id,
        exports.account_id == subject.account_id,
        func.starts_with(objects.object_path, exports.object_prefix),
    )
    return or_(objects.object_path.in_(mine), of_exports.correlate(tables.stored_objects).exists())


def _jobs(subject: Subject) -> ColumnElement[bool]:
    columns = tables.lifecycle_jobs.c
    return and_(columns.account_id == subject.account_id, columns.job_id != subject.job_id)


def policies_about(subject: Subject) -> ColumnElement[bool]:
    """Tell which policies have an exception for the account."""
    return says(tables.retention_policies.c.policy, [subject.account_id])


def _plans(subject: Subject) -> ColumnElement[bool]:
    return says(tables.data_plans.c.plan, subject.all_names)


def _plan_steps(subject: Subject) -> ColumnElement[bool]:
    plans = tables.data_plans.c
    about = select(plans.plan_id).where(plans.tenant_id == subject.tenant_id, _plans(subject))
    return or_(_of_segments(tables.data_plan_steps)(subject), tables.data_plan_steps.c.plan_id.in_(about))


# --- The register ---------------------------------------------------------------------------------------------------

_COMMIT = frozenset({"commit_xid"})
_FINGERPRINT = frozenset({"fingerprint"})


def _money(table: Table, **more: Any) -> AccountTable:
    return AccountTable(
        table=table,
        find=_by_account(table),
        fate=Fate.ANONYMIZE,
        reason="books must be kept as tax law demands; nothing in them names the account any more",
        **more,
    )


ACCOUNT_TABLES: Final[tuple[AccountTable, ...]] = (
    # What is found by what it says comes first: the account's other names are still known.
    AccountTable(table=tables.webhook_events, find=_webhook_events, mentions=True, rows_per_page=50),
    AccountTable(
        table=tables.webhook_deliveries,
        find=_webhook_deliveries,
        exported=False,
        why_not_exported="when events of the account were sent to the tenant's own systems; the events are there",
    ),
    AccountTable(table=tables.outbox_events, find=_outbox_events, mentions=True),
    AccountTable(
        table=tables.audit_entries,
        find=_audit_entries,
        mentions=True,
        fate=Fate.ANONYMIZE,
        change=lambda subject, anonymous: {
            "subject": f"account:{anonymous}",
            "detail": literal({}, tables.audit_entries.c.detail.type),
            "actor": case(
                (_names_someone(tables.audit_entries.c.actor, subject.all_names), anonymous),
                else_=tables.audit_entries.c.actor,
            ),
        },
        reason="that something was done, when and by whom is kept for accountability; about whom is not",
    ),
    AccountTable(
        table=tables.retention_policies,
        find=policies_about,
        mentions=True,
        fate=Fate.OWN,
        reason="the policy stays, its exceptions for the account are removed",
        exported=False,
        why_not_exported="rules of the tenant; the exceptions for the account are named in its holds and audit entries",
    ),
    AccountTable(
        table=tables.data_plan_steps,
        find=_plan_steps,
        exported=False,
        why_not_exported="plans of the tenant to save storage",
    ),
    AccountTable(
        table=tables.data_plans,
        find=_plans,
        mentions=True,
        exported=False,
        why_not_exported="plans of the tenant to save storage",
    ),
    _all_of(
        tables.legal_holds,
        fate=Fate.OWN,
        reason="that data was held is kept for accountability; about whom is not",
        hidden=frozenset({"request_id"}),
    ),
    # Ours, in its own order: what is found through segments, datasets and series before those.
    AccountTable(
        table=tables.stored_objects,
        find=_objects,
        fate=Fate.OWN,
        reason="objects are deleted with the segments and exports that they belong to",
        exported=False,
        why_not_exported="where data lies; the data itself is there",
    ),
    AccountTable(
        table=tables.data_payloads,
        find=_of_segments(tables.data_payloads),
        exported=False,
        why_not_exported="sealed records; the records themselves are there",
    ),
    AccountTable(table=tables.data_segment_reads, find=_of_segments(tables.data_segment_reads)),
    AccountTable(
        table=tables.data_record_ids,
        find=_of_datasets(tables.data_record_ids),
        exported=False,
        why_not_exported="digests by which records are found again; the records themselves are there",
    ),
    AccountTable(
        table=tables.data_replaced_records,
        find=_of_datasets(tables.data_replaced_records),
        exported=False,
        why_not_exported="which records are out of date; the export has only those that are not",
    ),
    AccountTable(
        table=tables.data_segments,
        find=_segments,
        hidden=frozenset({"checksum", "values_digest", "facts", "key_id", "object_path"}),
    ),
    AccountTable(table=tables.datasets, find=_datasets, hidden=frozenset({"next_sequence"})),
    _all_of(tables.data_requests, hidden=_FINGERPRINT),
    _all_of(
        tables.account_exports,
        hidden=frozenset({"key_id", "object_prefix"}),
    ),
    _all_of(tables.consents, hidden=_FINGERPRINT | {"sequence"}),
    AccountTable(table=tables.usage_event_keys, find=_event_keys, hidden=frozenset({"fingerprint"})),
    _all_of(tables.usage_events, hidden=_COMMIT),
    _all_of(tables.usage_denials),
    _all_of(tables.usage_entries, hidden=_COMMIT),
    _all_of(tables.exported_usage_sums),
    _all_of(tables.exported_credit_sums),
    _all_of(tables.usage_exports),
    _all_of(tables.usage_requests, hidden=frozenset({"fingerprint"})),
    _all_of(tables.reservations),
    AccountTable(table=tables.usage_rollup_values, find=_of_series(tables.usage_rollup_values)),
    AccountTable(
        table=tables.usage_rollups,
        find=_of_series(tables.usage_rollups),
        hidden=frozenset({"xids", "latest_key"}),
    ),
    _all_of(tables.usage_series, hidden=frozenset({"digest"})),
    _all_of(
        tables.usage_counters,
        fate=Fate.OWN,
        reason="sums by feature and period are kept together with those of other erased accounts",
    ),
    _all_of(tables.grant_balances),
    _all_of(tables.grant_requests, hidden=_FINGERPRINT),
    _all_of(tables.account_revisions),
    _all_of(tables.billing_operations, hidden=_FINGERPRINT | {"attempt", "key_number", "key_time", "attempt_time"}),
    _money(
        tables.payments,
        change=lambda _, anonymous: {
            "account_id": anonymous,
            "subscription_id": null(),
            "description": "",
            "metadata": literal({}, tables.payments.c.metadata.type),
        },
    ),
    _money(
        tables.invoices,
        change=lambda _, anonymous: {"account_id": anonymous, "subscription_id": null(), "hosted_url": ""},
    ),
    AccountTable(
        table=tables.lifecycle_jobs,
        find=_jobs,
        hidden=_FINGERPRINT | {"runner_id", "lease_time", "checkpoint"},
    ),
    # The account itself, and by what else it is known.
    _all_of(tables.checkout_sessions, hidden=_FINGERPRINT),
    _all_of(tables.subscription_history),
    _all_of(tables.scheduled_changes),
    _all_of(tables.grants),
    _all_of(tables.subscriptions, hidden=frozenset({"create_fingerprint"})),
    _all_of(tables.customers),
    _all_of(tables.account_identities),
    AccountTable(
        table=tables.data_keys,
        find=_keys,
        fate=Fate.OWN,
        reason="keys are destroyed, then their rows deleted",
        exported=False,
        why_not_exported="secret",
    ),
    _all_of(
        tables.accounts,
        fate=Fate.OWN,
        reason="gone at the very end; where books are kept, an anonymous account stands for it",
    ),
)

LAST_TABLES: Final = frozenset(
    {
        "checkout_sessions",
        "subscription_history",
        "scheduled_changes",
        "grants",
        "subscriptions",
        "customers",
        "account_identities",
    }
)
"""Erased in one transaction with the account: they tell its other names, by which the rest is found."""

TABLES_WITHOUT_ACCOUNTS: Final[Mapping[str, str]] = {
    "tenants": "the tenant's own settings",
    "features": "the tenant's catalog",
    "plans": "the tenant's catalog",
    "meters": "the tenant's catalog",
    "model_prices": "the tenant's catalog",
    "catalog_revisions": "the tenant's catalog",
    "outbox_horizons": "a position among all events",
    "webhook_endpoints": "the tenant's own systems and their secrets",
    "reconciliations": "a position among all changes at the billing provider",
    "storage_days": "sums over all accounts",
    "storage_removals": "sums over all accounts",
    "value_weights": "weights for all accounts",
    "erasure_receipts": "proofs that name nobody: a salted digest stands for the account",
    "erased_usage_totals": "sums over all erased accounts",
}


def account_tables() -> tuple[AccountTable, ...]:
    """Return the register, in the order of erasing."""
    return ACCOUNT_TABLES


# --- Reading --------------------------------------------------------------------------------------------------------


async def read_names(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> tuple[str, ...]:
    """Return the texts that stand for an account elsewhere: identities, addresses, ids at the billing provider."""
    identities, customers = tables.account_identities.c, tables.customers.c
    subscriptions, accounts = tables.subscriptions.c, tables.accounts.c
    found: list[str] = []
    for columns, table in (
        ((identities.external_id, identities.provider + ":" + identities.external_id), tables.account_identities),
        ((customers.customer_id, customers.provider_customer_id, customers.email), tables.customers),
        ((subscriptions.subscription_id, subscriptions.provider_subscription_id), tables.subscriptions),
        ((accounts.email,), tables.accounts),
    ):
        rows = await connection.execute(
            select(*columns).where(table.c.tenant_id == tenant_id, table.c.account_id == account_id)
        )
        found += [text for row in rows for text in row if text]
    return tuple(dict.fromkeys(found))


async def count_rows(connection: Connection, entry: AccountTable, subject: Subject) -> int:
    """Return how many rows a table holds of the account."""
    await allow_time(connection)
    statement = select(func.count()).select_from(entry.table).where(*chosen(entry, subject))
    count: int = (await connection.execute(statement)).scalar_one()
    return count


async def count_all(database: Database, subject: Subject) -> dict[str, int]:
    """Return how many rows each table holds of the account, of those that hold any.

    A transaction for each: whoever holds many tables at once gets in the way of those who change them.
    """
    counts = {}
    for entry in account_tables():
        async with database.tenant_transaction(subject.tenant_id) as connection:
            count = await count_rows(connection, entry, subject)
        if count:
            counts[entry.table.name] = count
    return counts


async def read_page(
    connection: Connection, entry: AccountTable, subject: Subject, *, after: tuple[Any, ...] | None, limit: int
) -> tuple[list[dict[str, Any]], tuple[Any, ...] | None]:
    """Return rows of the account without what is hidden, in the order of their keys, and where the next page begins.

    None: there is none.
    """
    await allow_time(connection)
    key = key_of(entry.table)
    statement = select(entry.table).where(*chosen(entry, subject))
    if after is not None:
        statement = statement.where(
            tuple_(*key) > tuple_(*(literal(v, c.type) for v, c in zip(after, key, strict=True)))
        )
    rows = (await connection.execute(statement.order_by(*key).limit(limit))).mappings().all()
    shown = [{name: row[name] for name in exported_columns(entry)} for row in rows]
    return shown, tuple(rows[-1][column.name] for column in key) if len(rows) == limit else None


def exported_columns(entry: AccountTable) -> list[str]:
    """Return the names of the columns that an export shows."""
    return [column.name for column in entry.table.columns if column.name not in entry.hidden]


def chosen(entry: AccountTable, subject: Subject) -> list[ColumnElement[bool]]:
    """Return the conditions that rows of the account meet."""
    return [entry.table.c.tenant_id == subject.tenant_id, entry.find(subject)]


def key_of(table: Table) -> list[ColumnElement[Any]]:
    """Return the columns of the primary key."""
    return list(table.primary_key.columns)


async def allow_time(connection: Connection) -> None:
    """Let the statements of this transaction read whole tables."""
    await connection.execute(
        text("SELECT set_config('statement_timeout', :time, true)"), {"time": str(SCAN_TIMEOUT_MS)}
    )


def entry_of(table: Table) -> AccountTable:
    """Return what the register says of a table."""
    return next(entry for entry in account_tables() if entry.table is table)
