"""SQL of accounts' history: what decided their entitlements, revision by revision, and what did at an instant.

Every change of entitlements stores the sources that it leaves behind, with the instant from which on they hold. Of
revisions that have begun at an instant the highest was in force then: clocks of servers differ, so a later one may
say that it began earlier. What changes by hand, and what changed before there was a history, has left no row; the
readers find such gaps by the revisions' numbers and say that what they tell is not complete.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, select, text

from tallygate_server.domain.entitlement import AccountSources
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.sources import documents_statement, sources_from_document
from tallygate_server.storage.tables import accounts

CHANNEL: Final = "tallygate_revised"
"""Where every change is announced when it is committed, as tenant/account."""
CREATED_CAUSE: Final = "account.created"
"""Cause of the revision before which there was no account."""
ACCOUNTS_PER_READ_MAX: Final = 200
"""Accounts whose histories are in memory at a time."""

_DOCUMENTS: Final = documents_statement(
    ":tenant_id", "CAST(:account_ids AS text[])", "CAST(:begin_time AS timestamptz)"
)
# One statement for all, with the events: what they tell is in the history when they are seen.
_STORE: Final = text(
    f"""
WITH documents AS ({_DOCUMENTS}),
stored AS (
    INSERT INTO account_revisions (tenant_id, account_id, revision, begin_time, cause, sources)
    SELECT :tenant_id, account_id, revision, CAST(:begin_time AS timestamptz), CAST(:cause AS text), document::jsonb
    FROM documents
    RETURNING account_id, revision
),
told AS (
    INSERT INTO outbox_events (tenant_id, type, account_id, revision, payload, create_time)
    SELECT :tenant_id, 'entitlement.changed', account_id, revision,
        jsonb_build_object('cause', CAST(:cause AS text)), CAST(:begin_time AS timestamptz)
    FROM stored ORDER BY account_id
)
SELECT count(pg_notify('{CHANNEL}', :tenant_id || '/' || account_id)) FROM stored
"""  # noqa: S608 - names of our own.
)

_CURRENT: Final = text(f"SELECT account_id, document::text FROM ({_DOCUMENTS}) AS documents")  # noqa: S608 - as above.

_ACCOUNT: Final = text(
    "SELECT revision, create_time FROM accounts WHERE tenant_id = :tenant_id AND account_id = :account_id"
)

_ROWS: Final = """
SELECT revision, begin_time, cause, sources::text AS document FROM account_revisions
WHERE tenant_id = :tenant_id AND account_id = :account_id
"""
_AT: Final = text(f"{_ROWS} AND begin_time <= CAST(:at AS timestamptz) ORDER BY revision DESC LIMIT 1")
_ALL_AT: Final = text("""
SELECT DISTINCT ON (account_id) account_id, sources::text AS document FROM account_revisions
WHERE tenant_id = :tenant_id AND account_id = ANY(CAST(:account_ids AS text[]))
    AND begin_time <= CAST(:at AS timestamptz)
ORDER BY account_id, revision DESC
""")
_FIRST: Final = text(f"{_ROWS} ORDER BY revision LIMIT 1")
_SINCE: Final = text("""
SELECT k.account_id, r.revision, r.begin_time, r.cause, r.sources::text AS document
FROM unnest(CAST(:account_ids AS text[]), CAST(:revisions AS bigint[])) AS k(account_id, revision)
CROSS JOIN LATERAL (
    SELECT * FROM account_revisions AS e
    WHERE e.tenant_id = :tenant_id AND e.account_id = k.account_id AND e.revision > k.revision
    ORDER BY e.revision LIMIT :rows_max
) AS r
ORDER BY k.account_id, r.revision
""")
_NEXT: Final = text(f"{_ROWS} AND revision > :revision ORDER BY revision LIMIT :rows_max")

# By account, its revisions that were in force in the window, or whose beginning falls into it: from the one that was in
# force when it began, and where none was, from the first of all.
_HISTORIES: Final = """
WITH page AS (
    SELECT account_id, revision, create_time FROM accounts
    WHERE tenant_id = :tenant_id AND account_id > :after {only} ORDER BY account_id LIMIT :accounts_max
)
SELECT page.account_id, page.revision AS current_revision, page.create_time,
    r.revision, r.begin_time, r.cause, r.sources::text AS document,
    (SELECT min(revision) FROM account_revisions AS n
     WHERE n.tenant_id = :tenant_id AND n.account_id = page.account_id AND n.revision > r.revision) AS next_revision
FROM page
LEFT JOIN account_revisions AS r
    ON r.tenant_id = :tenant_id AND r.account_id = page.account_id
    AND r.revision >= COALESCE(
        (SELECT max(revision) FROM account_revisions AS b
         WHERE b.tenant_id = :tenant_id AND b.account_id = page.account_id
            AND b.begin_time <= CAST(:start AS timestamptz)),
        0)
    AND (r.begin_time < CAST(:end AS timestamptz)
        OR r.revision = (SELECT min(revision) FROM account_revisions AS f
                         WHERE f.tenant_id = :tenant_id AND f.account_id = page.account_id))
ORDER BY page.account_id, r.revision
"""
_PAGE_OF_ALL: Final = text(_HISTORIES.format(only=""))
_PAGE_OF_SOME: Final = text(_HISTORIES.format(only="AND account_id = ANY(CAST(:account_ids AS text[]))"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRevision:
    """What decided an account's entitlements from an instant on, until a higher revision began."""

    revision: int
    begin_time: datetime
    cause: str
    sources: AccountSources


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountHistory:
    """What decided one account's entitlements in a window of time."""

    account_id: AccountId
    create_time: datetime
    revisions: Sequence[AccountRevision]
    """Those that were in force, in order; each holds until the next begins."""
    earlier: AccountSources | None
    """What held before the first of them; None: there was no account."""
    complete: bool
    """False where a revision is missing, so that what is told of some instants is the best that is left."""

    def sources_at(self, at: datetime) -> AccountSources | None:
        """Return what decided at an instant of the window; None: there was no account."""
        if at < self.create_time:
            return None
        position = bisect_right(self.revisions, at, key=lambda revision: revision.begin_time)
        return self.revisions[position - 1].sources if position else self.earlier


async def store_revisions(
    connection: Connection, tenant_id: TenantId, account_ids: Sequence[AccountId], *, begin_time: datetime, cause: str
) -> None:
    """Store what decides the entitlements of these accounts from the instant on, with the event that says so.

    In the transaction that has changed them, after their revisions rose. Whoever listens on `CHANNEL` hears of it.
    """
    if account_ids:
        await connection.execute(
            _STORE,
            {"tenant_id": tenant_id, "account_ids": list(account_ids), "begin_time": begin_time, "cause": cause},
        )


async def sources_at(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, at: datetime
) -> tuple[AccountSources | None, bool]:
    """Return what decided the account's entitlements at the instant, and whether that is certain.

    None: there was no such account. Where nothing that old is kept, the oldest that is known is returned; where a
    revision is missing, the one before it.
    """
    account = (await connection.execute(_ACCOUNT, {"tenant_id": tenant_id, "account_id": account_id})).one_or_none()
    if account is None:
        return None, True
    key = {"tenant_id": tenant_id, "account_id": account_id}
    row = (await connection.execute(_AT, key | {"at": at})).one_or_none()
    if row is not None:
        following = (await connection.execute(_NEXT, key | {"revision": row.revision, "rows_max": 1})).one_or_none()
        complete = account.revision == row.revision if following is None else following.revision == row.revision + 1
        return sources_from_document(tenant_id, account_id, row.document), complete
    first = (await connection.execute(_FIRST, key)).one_or_none()
    if at < account.create_time or (first is not None and first.cause == CREATED_CAUSE):
        return None, True
    if first is not None:
        return sources_from_document(tenant_id, account_id, first.document), False
    return (await current_sources(connection, tenant_id, [account_id], at)).get(account_id), False


async def revisions_between(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, start: datetime, end: datetime
) -> AccountHistory | None:
    """Return what decided the account's entitlements in `[start, end)`; None: there is no such account."""
    for history in await _page(connection, tenant_id, start, end, after="", account_ids=[account_id]):
        return history
    return None


async def revisions_after(
    connection: Connection, tenant_id: TenantId, known: Mapping[AccountId, int], *, limit: int
) -> dict[AccountId, list[AccountRevision]]:
    """Return the revisions of accounts that followed the known one of each, in order, at most so many of each."""
    if not known:
        return {}
    rows = await connection.execute(
        _SINCE,
        {
            "tenant_id": tenant_id,
            "account_ids": list(known),
            "revisions": list(known.values()),
            "rows_max": limit,
        },
    )
    found: dict[AccountId, list[AccountRevision]] = {}
    for row in rows:
        account_id = AccountId(row.account_id)
        found.setdefault(account_id, []).append(_revision(tenant_id, account_id, row))
    return found


async def histories(
    database: Database,
    tenant_id: TenantId,
    start: datetime,
    end: datetime,
    *,
    account_ids: Sequence[AccountId] | None = None,
    accounts_per_read: int = ACCOUNTS_PER_READ_MAX,
) -> AsyncIterator[AccountHistory]:
    """Tell, by account id, what decided the entitlements of a tenant's accounts in `[start, end)`.

    All accounts, or those that are named. Each page is read in a transaction of its own: whoever listens may take his
    time, and no more than `accounts_per_read` accounts are in memory. Accounts that were made after the window are
    told, too, without revisions.
    """
    after = ""
    while True:
        async with database.tenant_transaction(tenant_id) as connection:
            page = await _page(
                connection, tenant_id, start, end, after=after, account_ids=account_ids, accounts_max=accounts_per_read
            )
        for history in page:
            yield history
        if len(page) < accounts_per_read:
            return
        after = page[-1].account_id


async def _page(
    connection: Connection,
    tenant_id: TenantId,
    start: datetime,
    end: datetime,
    *,
    after: str,
    account_ids: Sequence[AccountId] | None,
    accounts_max: int = ACCOUNTS_PER_READ_MAX,
) -> list[AccountHistory]:
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "after": after,
        "start": start,
        "end": end,
        "accounts_max": accounts_max,
    }
    if account_ids is None:
        rows = (await connection.execute(_PAGE_OF_ALL, values)).all()
    else:
        rows = (await connection.execute(_PAGE_OF_SOME, values | {"account_ids": list(account_ids)})).all()
    by_account: dict[AccountId, list[Row[Any]]] = {}
    for row in rows:
        by_account.setdefault(AccountId(row.account_id), []).append(row)
    unrecorded = [account_id for account_id, found in by_account.items() if found[0].revision is None]
    current = await current_sources(connection, tenant_id, unrecorded, start)
    return [_history(tenant_id, found, start, end, current) for found in by_account.values()]


def _history(
    tenant_id: TenantId,
    rows: Sequence[Row[Any]],
    start: datetime,
    end: datetime,
    current: Mapping[AccountId, AccountSources],
) -> AccountHistory:
    first = rows[0]
    account_id = AccountId(first.account_id)
    if first.revision is None:
        existed = first.create_time < end
        return AccountHistory(
            account_id=account_id,
            create_time=first.create_time,
            revisions=(),
            earlier=current.get(account_id) if existed else None,
            complete=not existed,
        )
    revisions = [_revision(tenant_id, account_id, row) for row in rows]
    began = first.begin_time <= start
    made = first.cause == CREATED_CAUSE or end <= first.create_time
    # The first of all is read where none is older than the window, also when it begins after it.
    inside = [revision for revision in revisions if revision.begin_time < end]
    gaps = any(
        row.next_revision != row.revision + 1 if row.next_revision is not None else row.current_revision != row.revision
        for row in rows
        if row.begin_time < end
    )
    return AccountHistory(
        account_id=account_id,
        create_time=first.create_time,
        revisions=_in_force(inside),
        earlier=None if began or made else revisions[0].sources,
        complete=not gaps and (began or made),
    )


def _in_force(revisions: Iterable[AccountRevision]) -> tuple[AccountRevision, ...]:
    """Leave out what a higher revision, that says it began no later, never let come into force."""
    kept: list[AccountRevision] = []
    for revision in revisions:
        while kept and kept[-1].begin_time >= revision.begin_time:
            kept.pop()
        kept.append(revision)
    return tuple(kept)


async def read_revisions(
    connection: Connection, tenant_id: TenantId, account_ids: Sequence[AccountId]
) -> dict[AccountId, int]:
    """Return the present revision of each account that exists."""
    rows = await connection.execute(
        select(accounts.c.account_id, accounts.c.revision).where(
            accounts.c.tenant_id == tenant_id, accounts.c.account_id.in_(account_ids)
        )
    )
    return {AccountId(row.account_id): row.revision for row in rows}


async def current_sources(
    connection: Connection, tenant_id: TenantId, account_ids: Sequence[AccountId], at: datetime
) -> dict[AccountId, AccountSources]:
    """Return what decides the entitlements of each account that exists, to be looked at from the instant on."""
    if not account_ids:
        return {}
    rows = await connection.execute(
        _CURRENT, {"tenant_id": tenant_id, "account_ids": list(account_ids), "begin_time": at}
    )
    return {
        AccountId(row.account_id): sources_from_document(tenant_id, AccountId(row.account_id), row.document)
        for row in rows
    }


async def all_sources_at(
    connection: Connection, tenant_id: TenantId, account_ids: Sequence[AccountId], at: datetime
) -> dict[AccountId, AccountSources]:
    """Return what decided the entitlements of accounts at an instant, of those that were there then."""
    if not account_ids:
        return {}
    rows = await connection.execute(_ALL_AT, {"tenant_id": tenant_id, "account_ids": list(account_ids), "at": at})
    return {
        AccountId(row.account_id): sources_from_document(tenant_id, AccountId(row.account_id), row.document)
        for row in rows
    }


def _revision(tenant_id: TenantId, account_id: AccountId, row: Row[Any]) -> AccountRevision:
    return AccountRevision(
        revision=row.revision,
        begin_time=row.begin_time,
        cause=row.cause,
        sources=sources_from_document(tenant_id, account_id, row.document),
    )
