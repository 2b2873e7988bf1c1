"""Erases accounts: everything that names them or shows what they did, in every tier, cache and key.

The steps stand in an order in which a server may die at any moment: first the account may do nothing more, on every
server; then its rows and objects go, batch by batch, each noted in the job's checkpoint in its own transaction; then
its keys are destroyed, and with them whatever a backup still has of its records; then the account itself goes, in one
transaction with all by which it is known elsewhere; then the caches; and at the very end, in one transaction with the
receipt, its id leaves the job. Whoever goes on after a crash repeats nothing that was done and skips nothing else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters.connection import RedisCommandError, RedisUnavailable
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataSelection, JobKind, Segment, StorageTier
from tallygate_server.domain.lifecycle_job import LifecycleJob, NewJob
from tallygate_server.domain.subscription import LIVE_STATES
from tallygate_server.errors import (
    AccountNotFound,
    CountersUnavailable,
    DryRunRequired,
    IllegalTransition,
    LegalHoldActive,
    OperationInProgress,
    StoreUnavailable,
)
from tallygate_server.lifecycle.jobs import JobCanceled, JobControl, LifecycleJobs
from tallygate_server.lifecycle.keys import DataKeys
from tallygate_server.lifecycle.objects import ObjectStore, ObjectStoreUnavailable
from tallygate_server.privacy.receipts import (
    ErasedItem,
    ErasureMethod,
    ErasureReceipt,
    KeptItem,
    Receipts,
    digest_of,
    new_salt,
)
from tallygate_server.privacy.scrubbing import Scrubbing, segments_with_statistics
from tallygate_server.service import Service
from tallygate_server.storage import account_erasure as erasing
from tallygate_server.storage.account_rows import (
    LAST_TABLES,
    AccountTable,
    Fate,
    Subject,
    account_tables,
    count_all,
    names_in,
    read_names,
)
from tallygate_server.storage.accounts import account_exists, read_account, write_account
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_keys import KeyState, announce_destroyed, read_keys_of_account, set_key_state
from tallygate_server.storage.data_segments import forget_objects, read_segments
from tallygate_server.storage.engine import Database
from tallygate_server.storage.lifecycle_jobs import read_job_by_request
from tallygate_server.storage.outbox import add_event
from tallygate_server.storage.vacuum import vacuum
from tallygate_server.unique_ids import new_id

log = structlog.get_logger(__name__)

DRY_RUN_AGE_MAX: Final = timedelta(hours=24)
PASSES_MAX: Final = 10
"""Times that all tables are gone through; each but the first finds only what came in meanwhile."""
HOLDS_WAIT_SECONDS: Final = 15.0
"""Longest wait for calls under way to end; what they hold in Redis names the account."""
JOBS_PER_BATCH: Final = 20
_POLL_SECONDS: Final = 0.2
RECEIPT_PREFIX: Final = "rec"
THE_ACCOUNT: Final = "the account itself"
"""Who asked, where the name of whoever did is one of the account's."""

BEGUN, GONE, DONE = "begun", "gone", "done"
"""Phases of a checkpoint: rows are being erased; the account is gone; the receipt is written."""

_OWN_STEPS: Final = frozenset({"accounts", "data_keys", "data_payloads", "data_segment_reads", "stored_objects"})
"""Tables that are erased with others: objects and payloads with the segments that they belong to."""
_BOOKS: Final = frozenset({"payments", "invoices"})
"""Tables that refer to the account, and are kept."""
BACKUPS_REASON: Final = (
    "rows that were deleted stay in unused space of the database's files and in its write-ahead log until these are"
    " overwritten, and in backups until they expire; records of datasets are sealed there, and their keys are gone"
)
PROVIDER_REASON: Final = (
    "customers, invoices and payments are kept by the billing provider, under duties of its own; delete the customer"
    " there, too"
)
TOTALS_REASON: Final = "sums by feature and period over all erased accounts, for the tenant's books"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedErasure:
    """An erasure that is asked for."""

    tenant_id: TenantId
    account_id: AccountId
    reason_text: str
    validate_only: bool = False
    force: bool = False
    request_id: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hold:
    legal_hold_id: str
    selection: DataSelection
    end_time: datetime | None

    @property
    def whole(self) -> bool:
        """Whether it is about everything of the account."""
        chosen = self.selection
        return not (chosen.data_types or chosen.dataset_ids or chosen.start_time or chosen.end_time or chosen.tiers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Obstacles:
    """What stands against an erasure, in whole or in part."""

    whole_hold: _Hold | None
    paid: Sequence[tuple[str, str]]
    """(id, state) of subscriptions that are still paid for."""
    refused: tuple[KeptItem, ...]

    def raise_first(self) -> None:
        """Raise what forbids to erase anything."""
        if self.whole_hold is not None:
            end = self.whole_hold.end_time
            raise LegalHoldActive(
                f"legal hold {self.whole_hold.legal_hold_id!r} is about everything of the account",
                legal_hold_id=self.whole_hold.legal_hold_id,
                end_time=end.isoformat() if end else "",
            )
        for _, state in self.paid:
            raise IllegalTransition(state, "erased")


class Erasures:
    """Asks for erasures, and carries them out."""

    def __init__(
        self,
        database: Database,
        service: Service,
        *,
        jobs: LifecycleJobs,
        objects: ObjectStore,
        keys: DataKeys,
        receipts: Receipts,
        clock: Clock,
    ) -> None:
        """Use a database with the lifecycle's role."""
        self._database = database
        self._service = service
        self._jobs = jobs
        self._objects = objects
        self._keys = keys
        self._receipts = receipts
        self._clock = clock

    async def submit(self, wanted: WantedErasure, *, wait: timedelta | None = None) -> LifecycleJob:
        """Ask for an erasure, or for a dry run of it, and wait for its end for a while.

        Raises AccountNotFound, DryRunRequired, LegalHoldActive, IllegalTransition (a subscription is still paid for),
        and what asking for any job raises.
        """
        await self._service.tenants.get(wanted.tenant_id)
        job = NewJob(
            kind=JobKind.ERASURE,
            tenant_id=wanted.tenant_id,
            account_id=wanted.account_id,
            request={"reason_text": wanted.reason_text, "force": wanted.force},
            validate_only=wanted.validate_only,
            actor=wanted.actor,
            request_id=wanted.request_id,
        )
        async with self._database.tenant_transaction(wanted.tenant_id) as connection:
            if wanted.request_id and await read_job_by_request(
                connection, wanted.tenant_id, JobKind.ERASURE, wanted.request_id
            ):
                # Also when the account is gone by now: its first job is the answer.
                return await self._jobs.submit(job, wait)
            bare = Subject(tenant_id=wanted.tenant_id, account_id=wanted.account_id)
            if not await account_exists(connection, wanted.tenant_id, wanted.account_id):
                if await erasing.unfinished_erasure(connection, bare) is None:
                    raise AccountNotFound(wanted.account_id)
                # One that failed after the account was gone is brought to its end.
                return await self._jobs.submit(job, wait)
            if not wanted.validate_only:
                subject = await self._subject(connection, wanted.tenant_id, wanted.account_id)
                (await self._obstacles(connection, subject)).raise_first()
                since = self._clock.now() - DRY_RUN_AGE_MAX
                if not wanted.force and not await erasing.dry_run_since(
                    connection, wanted.tenant_id, wanted.account_id, since=since
                ):
                    raise DryRunRequired
        return await self._jobs.submit(job, wait)

    async def run(self, job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        """Erase, or tell what would be erased; raises what `submit` raises."""
        phase = control.checkpoint.get("phase")
        if phase == DONE:
            return {"receipt": await self._receipts.get(job.tenant_id, control.checkpoint["receipt_id"])}
        if job.account_id is None:
            # Another erasure was faster; whose it was is no longer known here.
            raise AccountNotFound("")
        async with self._database.tenant_transaction(job.tenant_id) as connection:
            subject = await self._subject(connection, job.tenant_id, job.account_id, job_id=job.job_id)
            obstacles = await self._obstacles(connection, subject)
            before = await erasing.unfinished_erasure(connection, subject) if phase is None else None
            known = phase is not None or before is not None
            if not known and not await account_exists(connection, job.tenant_id, job.account_id):
                raise AccountNotFound(job.account_id)
            if phase is None and not job.validate_only:
                obstacles.raise_first()
                if await erasing.other_open_erasure(connection, subject):
                    raise OperationInProgress("another erasure of the account")
        if job.validate_only:
            return {"receipt": (await self._plan(job, subject, obstacles)).to_document()}
        work = _Work(self._database, control, subject, before or control.checkpoint)
        if not known:
            await self._begin(job, work)
        if work.checkpoint["phase"] != GONE:
            await self._erase_rows(work)
            await self._destroy_keys(work)
            await self._remove_account(work, is_held=bool(subject.held_segments))
        # What came in while the account was going.
        await self._erase_rows(work)
        await self._destroy_keys(work)
        await self._forget_in_memory(subject)
        await work.tell("giving unused space back")
        vacuumed = await vacuum(self._database.url, sorted(work.removed))
        return {"receipt": (await self._finish(job, work, obstacles, vacuumed=vacuumed)).to_document()}

    # --- Looking --------------------------------------------------------------------------------------------------

    async def _subject(
        self, connection: Connection, tenant_id: TenantId, account_id: AccountId, *, job_id: str = ""
    ) -> Subject:
        """Return how the account's rows are found, and which of them are under legal hold."""
        bare = Subject(tenant_id=tenant_id, account_id=account_id, job_id=job_id)
        names = await read_names(connection, tenant_id, account_id)
        holds = await self._holds(connection, bare)
        if not holds:
            return replace(bare, names=names)
        segments = await read_segments(connection, tenant_id, DataSelection(account_id=account_id), state=None)
        held = [segment for segment in segments if any(hold.selection.covers(segment) for hold in holds)]
        return replace(
            bare,
            names=names,
            held_segments=frozenset(segment.segment_id for segment in held),
            held_datasets=frozenset(segment.dataset_id for segment in held),
            held_keys=frozenset(segment.key_id for segment in held),
        )

    async def _holds(self, connection: Connection, subject: Subject) -> list[_Hold]:
        rows = await erasing.active_holds(connection, subject, now=self._clock.now())
        holds = [
            _Hold(
                legal_hold_id=row["legal_hold_id"],
                selection=DataSelection.from_document(row["selection"]),
                end_time=row["end_time"],
            )
            for row in rows
        ]
        return [hold for hold in holds if hold.selection.account_id in {None, subject.account_id}]

    async def _obstacles(self, connection: Connection, subject: Subject) -> _Obstacles:
        holds = await self._holds(connection, subject)
        whole = next((hold for hold in holds if hold.whole), None)
        refused = []
        for hold in holds:
            selection = replace(hold.selection, account_id=subject.account_id)
            segments = await read_segments(connection, subject.tenant_id, selection, state=None)
            by_type: dict[str, int] = {}
            for segment in segments:
                by_type[segment.data_type] = by_type.get(segment.data_type, 0) + segment.record_count
            refused += [
                KeptItem(
                    kind=kind,
                    record_count=count,
                    reason_text=f"under legal hold {hold.legal_hold_id}; the account's id and the keys to it stay too",
                    end_time=hold.end_time,
                )
                for kind, count in sorted(by_type.items() or ([("account", 0)] if hold.whole else []))
            ]
        paid = await erasing.live_paid_subscriptions(
            connection,
            subject.tenant_id,
            subject.account_id,
            states=sorted(state.value for state in LIVE_STATES),
        )
        refused += [
            KeptItem(
                kind="subscriptions",
                record_count=1,
                reason_text=f"subscription {subscription_id} is {state} and paid for at Stripe: end it first",
            )
            for subscription_id, state in paid
        ]
        return _Obstacles(whole_hold=whole, paid=paid, refused=tuple(refused))

    async def _plan(self, job: LifecycleJob, subject: Subject, obstacles: _Obstacles) -> ErasureReceipt:
        """Return what a receipt would say, unsigned."""
        counts = await count_all(self._database, subject)
        async with self._database.tenant_transaction(subject.tenant_id) as connection:
            segments = {
                f"{data_type}/{tier}": [count, records, size]
                for data_type, tier, count, records, size in await erasing.sums_of_segments(connection, subject)
            }
            keys = await read_keys_of_account(connection, subject.tenant_id, subject.account_id)
        destroyed = [key.key_id for key in keys if key.key_id not in subject.held_keys]
        removed, kept = _items(counts, segments, shredded=not subject.held_keys)
        return ErasureReceipt(
            receipt_id="",
            tenant_id=subject.tenant_id,
            account_digest="",
            digest_salt="",
            removed=removed,
            kept=kept,
            refused=obstacles.refused,
            destroyed_key_ids=tuple(destroyed),
            erase_time=self._clock.now(),
            actor=job.actor,
        )

    # --- Doing ----------------------------------------------------------------------------------------------------

    async def _begin(self, job: LifecycleJob, work: _Work) -> None:
        """Let the account do nothing more, on any server."""
        subject = work.subject
        now = self._clock.now()
        work.note("anonymous_id", f"erased_{secrets.token_hex(12)}")
        work.note("receipt_id", new_id(RECEIPT_PREFIX, now))
        work.note("salt", new_salt())
        work.note("phase", BEGUN)
        async with self._service.changes.begin(
            subject.tenant_id, [subject.account_id], actor=job.actor, cause="account.erased"
        ) as change:
            account = await read_account(change.connection, subject.tenant_id, subject.account_id)
            if account is None:
                raise AccountNotFound(subject.account_id)
            await write_account(
                change.connection,
                subject.tenant_id,
                subject.account_id,
                {"state": "deleted", "delete_time": now, "update_time": now},
            )
        await work.tell("the account may do nothing more", at_once=True)
        # Nor can what is being put just now be sealed any more; a new key is not given to it.
        await self._keys.retire(subject.tenant_id, subject.account_id)
        # The sums over all accounts shall have what this one used.
        await self._service.roll_up.run()

    async def _erase_rows(self, work: _Work) -> None:
        """Go through all tables until nothing is left."""
        await self._scrub_jobs(work)
        for _ in range(PASSES_MAX):
            before = work.done
            for entry in account_tables():
                await self._erase_table(work, entry)
            if work.done == before:
                return

    async def _scrub_jobs(self, work: _Work) -> None:
        """Take the account's data out of what jobs about many accounts have reported; before its ids are gone."""
        subject = work.subject
        async with self._database.tenant_transaction(subject.tenant_id) as connection:
            mine = await erasing.names_of_data(connection, subject)
        names = {*subject.all_names, *mine} - subject.held_segments
        after = ""
        while True:
            async with self._database.tenant_transaction(subject.tenant_id) as connection:
                jobs = await erasing.jobs_about_many(connection, subject, after=after, limit=JOBS_PER_BATCH)
                told = {each for job in jobs for each in segments_with_statistics(job.result)}
                living = await erasing.living_segments(connection, subject.tenant_id, told, but=subject.account_id)
                scrubbing = Scrubbing(names=names, living_segments=living)
                for job in jobs:
                    before = {
                        name: getattr(job, name)
                        for name in ("request", "checkpoint", "result", "error")
                        if getattr(job, name) is not None
                    }
                    changed = {
                        name: scrubbed
                        for name, document in before.items()
                        if (scrubbed := scrubbing.of(document)) != document
                    }
                    if changed:
                        await erasing.write_job_documents(connection, subject.tenant_id, job.job_id, changed)
            if len(jobs) < JOBS_PER_BATCH:
                return
            after = jobs[-1].job_id

    async def _erase_table(self, work: _Work, entry: AccountTable) -> None:
        name, subject = entry.table.name, work.subject
        if name in LAST_TABLES or name in _OWN_STEPS:
            return
        if name == "usage_rollup_values":
            async with self._database.tenant_transaction(subject.tenant_id) as connection:
                await erasing.anonymize_shared_series(connection, subject)
        while True:
            # Those of a batch that a crash left.
            await self._remove_objects(work)
            async with self._database.tenant_transaction(subject.tenant_id) as connection:
                await erasing.change_silently(connection)
                count = await self._erase_batch(connection, work, entry)
                if count:
                    await work.write(connection, name, count)
            await work.tell("deleting")
            if not count:
                return

    async def _erase_batch(self, connection: Connection, work: _Work, entry: AccountTable) -> int:
        """Erase rows of one table; return how many, less than a batch when none is left."""
        subject = work.subject
        match entry.table.name:
            case "retention_policies":
                return await erasing.erase_exceptions(connection, subject)
            case "legal_holds":
                return await erasing.anonymize_holds(connection, subject, work.anonymous_id, ended_at=self._clock.now())
            case "usage_counters":
                return await erasing.erase_counters(connection, subject)
            case "data_segments":
                segments = await erasing.erase_segments(connection, subject, now=self._clock.now())
                work.add_segments(segments)
                return len(segments)
            case "account_exports":
                count, paths = await erasing.erase_exports(connection, subject, now=self._clock.now())
                work.add_objects(paths)
                return count
            case "payments" | "invoices":
                # The books refer to an account: one that is nobody.
                await erasing.add_anonymous_account(
                    connection, subject.tenant_id, work.anonymous_id, now=self._clock.now()
                )
                return await erasing.erase_batch(connection, entry, subject, work.anonymous_id)
            case _:
                assert entry.fate is not Fate.OWN, entry.table.name
                return await erasing.erase_batch(connection, entry, subject, work.anonymous_id)

    async def _remove_objects(self, work: _Work) -> None:
        """Delete the objects whose rows of the manifest are gone."""
        paths = work.objects
        if not paths:
            return
        try:
            for path in paths:
                await self._objects.delete(path)
                await work.tell("deleting objects")
        except ObjectStoreUnavailable as error:
            raise StoreUnavailable("the object store cannot be reached just now") from error
        async with self._database.tenant_transaction(work.subject.tenant_id) as connection:
            await forget_objects(connection, work.subject.tenant_id, paths)
            work.note("objects", [])
            await work.write(connection, "stored_objects", len(paths))

    async def _destroy_keys(self, work: _Work) -> None:
        """Destroy every key that nothing under hold needs, here and on all servers."""
        subject = work.subject
        await work.tell("destroying keys")
        async with self._database.tenant_transaction(subject.tenant_id) as connection:
            keys = await read_keys_of_account(connection, subject.tenant_id, subject.account_id)
        for key in keys:
            if key.key_id in subject.held_keys:
                continue
            # Written down first: what a crash leaves half destroyed is gone on with, and is in the receipt.
            async with self._database.tenant_transaction(subject.tenant_id) as connection:
                await set_key_state(connection, subject.tenant_id, key.key_id, KeyState.RETIRED, now=self._clock.now())
                work.add_key(key.key_id)
                await work.write(connection, "data_keys", 0)
            await self._keys.store.destroy(subject.tenant_id, key.key_id)
            self._keys.forget(subject.tenant_id, key.key_id)
            async with self._database.tenant_transaction(subject.tenant_id) as connection:
                await announce_destroyed(connection, subject.tenant_id, key.key_id)
                await erasing.delete_key(connection, subject.tenant_id, key.key_id)

    async def _remove_account(self, work: _Work, *, is_held: bool) -> None:
        """Remove the account, and all by which it is known, at once."""
        subject = work.subject
        await work.tell("removing the account")
        async with self._database.tenant_transaction(subject.tenant_id) as connection:
            await erasing.change_silently(connection)
            await read_account(connection, subject.tenant_id, subject.account_id, lock=True)
            for entry in account_tables():
                if entry.table.name not in LAST_TABLES | _BOOKS:
                    continue
                while count := await self._erase_batch(connection, work, entry):
                    work.add(entry.table.name, count)
            if is_held:
                await erasing.strip_account(connection, subject, now=self._clock.now())
            elif await erasing.delete_account(connection, subject):
                work.add("accounts", 1)
            await erasing.announce_removal(connection, subject)
            work.note("phase", GONE)
            await work.write(connection, "accounts", 0)
        await self._remove_objects(work)

    async def _forget_in_memory(self, subject: Subject) -> None:
        """Let no cache name the account; servers were told, Redis is cleared here."""
        self._service.hot_accounts.forget(subject.tenant_id, subject.account_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HOLDS_WAIT_SECONDS
        counters = self._service.counters
        try:
            while await counters.holds_of(subject.tenant_id, subject.account_id) and loop.time() < deadline:
                # Ends what dead servers left; what living ones hold ends by itself.
                await self._service.sweeper.sweep()
                await asyncio.sleep(_POLL_SECONDS)
            await counters.forget_account(subject.tenant_id, subject.account_id)
        except (RedisUnavailable, RedisCommandError) as error:
            raise CountersUnavailable(
                "Redis cannot be reached; the account's keys there are not deleted yet"
            ) from error

    async def _finish(self, job: LifecycleJob, work: _Work, obstacles: _Obstacles, *, vacuumed: bool) -> ErasureReceipt:
        """Write the receipt, and take the account's id from the job."""
        subject, checkpoint = work.subject, work.checkpoint
        removed, kept = _items(work.removed, work.segments, shredded=not subject.held_keys, vacuumed=vacuumed)
        actor = THE_ACCOUNT if names_in(job.actor, subject.all_names) else job.actor
        receipt = await self._receipts.sign(
            ErasureReceipt(
                receipt_id=checkpoint["receipt_id"],
                tenant_id=subject.tenant_id,
                account_digest=digest_of(subject.tenant_id, subject.account_id, salt=checkpoint["salt"]),
                digest_salt=checkpoint["salt"],
                removed=removed,
                kept=kept,
                refused=obstacles.refused,
                destroyed_key_ids=tuple(checkpoint.get("keys", ())),
                erase_time=self._clock.now(),
                actor=actor,
            )
        )
        reason = str(job.request.get("reason_text", ""))
        async with self._database.tenant_transaction(subject.tenant_id) as connection:
            await self._receipts.write(connection, receipt)
            await add_audit_entry(
                connection,
                subject.tenant_id,
                actor=receipt.actor,
                action="data.account_erased",
                subject=f"erasure_receipt/{receipt.receipt_id}",
                detail={"reason": "" if names_in(reason, subject.all_names) else reason},
            )
            # The event names nobody: who knows the account recognises it by the digest.
            await add_event(
                connection,
                subject.tenant_id,
                event_type="account.erased",
                payload={
                    "receipt_id": receipt.receipt_id,
                    "account_digest": receipt.account_digest,
                    "digest_salt": receipt.digest_salt,
                },
                create_time=self._clock.now(),
            )
            # A name of the account is worth more than finding the job again by an id that says it.
            request_id = "" if names_in(job.request_id, subject.all_names) else job.request_id
            await erasing.anonymize_job(connection, subject, actor=actor, request_id=request_id)
            await work.control.note(connection, {"phase": DONE, "receipt_id": receipt.receipt_id})
        log.info("account_erased", tenant_id=subject.tenant_id, receipt_id=receipt.receipt_id, rows=work.done)
        return receipt


class _Work:
    """What an erasure has done, as its checkpoint says."""

    def __init__(
        self, database: Database, control: JobControl, subject: Subject, checkpoint: Mapping[str, Any]
    ) -> None:
        self._database = database
        self.control = control
        self.subject = subject
        self.checkpoint: dict[str, Any] = dict(checkpoint)
        self.removed: dict[str, int] = dict(self.checkpoint.get("removed", {}))
        self.segments: dict[str, list[int]] = dict(self.checkpoint.get("segments", {}))

    @property
    def anonymous_id(self) -> str:
        """What stands for the account in what is kept."""
        return str(self.checkpoint["anonymous_id"])

    @property
    def done(self) -> int:
        """Rows erased so far."""
        return sum(self.removed.values())

    def note(self, name: str, value: Any) -> None:
        """Remember a fact with the next write."""
        self.checkpoint[name] = value

    def add(self, table: str, count: int) -> None:
        """Count rows with the next write."""
        self.removed[table] = self.removed.get(table, 0) + count

    def add_segments(self, segments: Sequence[Segment]) -> None:
        """Count segments, and remember their objects, with the next write."""
        for segment in segments:
            sums = self.segments.setdefault(f"{segment.data_type}/{int(segment.tier)}", [0, 0, 0])
            sums[:] = [sums[0] + 1, sums[1] + segment.record_count, sums[2] + segment.stored_bytes]
        self.add("data_payloads", sum(not segment.object_path for segment in segments))
        self.add_objects([segment.object_path for segment in segments if segment.object_path])

    def add_objects(self, paths: Sequence[str]) -> None:
        """Remember objects that are to be deleted with the next write."""
        self.checkpoint["objects"] = [*self.objects, *paths]

    @property
    def objects(self) -> list[str]:
        """Objects that are to be deleted."""
        return list(self.checkpoint.get("objects", ()))

    def add_key(self, key_id: str) -> None:
        """Remember a destroyed key with the next write."""
        keys = self.checkpoint.setdefault("keys", [])
        if key_id not in keys:
            keys.append(key_id)

    async def write(self, connection: Connection, table: str, count: int) -> None:
        """Write the checkpoint in the transaction that did the step. Raises JobLost."""
        self.add(table, count)
        await self.control.note(connection, self._document())

    async def tell(self, phase: str, *, at_once: bool = False) -> None:
        """Tell how far it is. Raises JobLost; once begun, an erasure is not cancelled: half of one helps nobody."""
        try:
            await self.control.report(done=self.done, phase=phase, checkpoint=self._document(), at_once=at_once)
        except JobCanceled:
            async with self._database.tenant_transaction(self.subject.tenant_id) as connection:
                await erasing.decline_cancellation(connection, self.subject)

    def _document(self) -> dict[str, Any]:
        return {
            **self.checkpoint,
            "removed": {name: count for name, count in self.removed.items() if count},
            "segments": self.segments,
        }


def _items(
    counts: Mapping[str, int], segments: Mapping[str, Sequence[int]], *, shredded: bool, vacuumed: bool = True
) -> tuple[tuple[ErasedItem, ...], tuple[KeptItem, ...]]:
    """Return what was removed and what was kept, from the rows that were erased by table."""
    removed, kept = [], []
    for key, (count, records, size) in sorted(segments.items()):
        data_type, _, tier = key.rpartition("/")
        removed.append(
            ErasedItem(
                kind=data_type,
                tier=StorageTier(int(tier)),
                record_count=records,
                segment_count=count,
                bytes=size,
                method=ErasureMethod.KEY_DESTROYED if shredded else ErasureMethod.DELETED,
            )
        )
    for entry in account_tables():
        count = counts.get(entry.table.name, 0)
        if not count:
            continue
        if entry.fate is Fate.ANONYMIZE or entry.table.name in {"legal_holds", "retention_policies"}:
            kept.append(KeptItem(kind=entry.table.name, record_count=count, reason_text=entry.reason, anonymized=True))
            continue
        method = ErasureMethod.KEY_DESTROYED if entry.table.name == "data_keys" else ErasureMethod.DELETED
        removed.append(ErasedItem(kind=entry.table.name, record_count=count, method=method))
        if entry.table.name == "customers":
            kept.append(KeptItem(kind="billing_provider", record_count=count, reason_text=PROVIDER_REASON))
        if entry.table.name == "usage_counters":
            kept.append(
                KeptItem(kind="erased_usage_totals", record_count=count, reason_text=TOTALS_REASON, anonymized=True)
            )
    unused = "" if vacuumed else "; this installation may not give unused space back by itself: run VACUUM as the owner"
    kept.append(KeptItem(kind="database_files", reason_text=BACKUPS_REASON + unused))
    return tuple(removed), tuple(kept)
