"""Operations at a billing provider that happen once, whatever crashes in between.

Before the provider is asked, what is about to be done is committed: its id, from which the keys are derived that make
the provider do it once, and everything that was chosen for it (ids, times, the price), so that a second attempt asks
for exactly the same. An attempt whose outcome is unknown leaves the operation pending. Whoever asks for the same again
goes on with it: first by looking whether it has happened, then by doing it under the same key. Whoever asks for
something else has to wait until the attempt can have no effect any more; what it left is stored, or it is given up.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

import structlog

from tallygate_server.billing.ports import Order
from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import (
    BillingProviderUnavailable,
    OperationInProgress,
    PaymentRefused,
    RequestIdReused,
    RequestInProgress,
    TallygateError,
    Unavailable,
)
from tallygate_server.storage import billing_operations as rows
from tallygate_server.storage.billing_operations import OperationRow, OperationState
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.mapping import Json
from tallygate_server.telemetry import metrics
from tallygate_server.unique_ids import new_id

log = structlog.get_logger(__name__)

ATTEMPT_SECONDS_MAX: Final = 50.0
"""No attempt works longer, so that it can have no effect any more once `EFFECT_AFTER` has passed."""
RESUME_AFTER: Final = timedelta(seconds=10)
"""Age at which an attempt that said nothing is taken over with the same content: if it does live, both ask for the
same under the same key."""
EFFECT_AFTER: Final = timedelta(seconds=60)
"""Age of an attempt until which it may still have an effect: so long nothing else is begun in its place."""
KEY_AGE_MAX: Final = timedelta(seconds=120)
"""A provider keeps what it answered under a key, failures too: after this a new one is taken if nothing happened."""
PENDING_AGE_MAX: Final = timedelta(hours=1)
"""What was prepared longer ago (a price, an end of a page) is not gone on with."""
CLAIMS_MAX: Final = 8
"""Rounds in which one call settles what stands in its way; each is lost to another call or to an old operation."""

PROVIDER: Final = "stripe"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An attempt of this call at an operation."""

    row: OperationRow
    resumed: bool
    """Whether an earlier attempt may have done it."""

    @property
    def prepared(self) -> Json:
        """What was chosen at the first attempt."""
        return self.row.prepared

    @property
    def key(self) -> str:
        """Id that the provider's idempotency keys are derived from."""
        row = self.row
        return row.operation_id if row.key_number == 1 else f"{row.operation_id}-{row.key_number}"

    @property
    def tenant_id(self) -> TenantId:
        """Whose it is."""
        return self.row.tenant_id

    @property
    def account_id(self) -> AccountId:
        """Whose it is."""
        return self.row.account_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(Generic[T]):
    """How one kind of operation is done."""

    kind: str
    subject: str
    """What it is done to: of one kind and subject one operation at a time is pending."""
    prepare: Callable[[], Awaitable[Json]]
    """Choose everything that goes to the provider; not asked where an earlier attempt has chosen."""
    look: Callable[[Operation], Awaitable[T | None]]
    """Find out whether an earlier attempt has done it, store that, and return it."""
    act: Callable[[Operation], Awaitable[T]]
    """Do it, and store what came of it."""
    remember: Callable[[T], Json]
    """Return what a repeated request needs, without secrets."""
    recall: Callable[[Json], Awaitable[T | None]]
    """Return the answer to a repeated request; None where it is no use any more and is to be done anew."""
    store: Callable[[Connection, T], Awaitable[None]] | None = None
    """Write in the transaction in which the operation becomes done."""


@dataclass(frozen=True, slots=True)
class _Replay:
    """The request was carried out before."""

    row: OperationRow
    result: Json


class _Unprepared:
    """Nothing is known of it: choose, and claim again."""


@dataclass(frozen=True, slots=True)
class _InTheWay:
    """Something else is pending, and old enough to be settled."""

    operation: Operation


class Operations:
    """Carries operations out."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Keep operations in the database."""
        self._database = database
        self._clock = clock

    async def carry_out(self, order: Order, work: Work[T]) -> tuple[T, bool]:
        """Return what came of the work, and whether it is the answer to an earlier request with the same id.

        Raises OperationInProgress while another call is at it, RequestIdReused for other content under the same
        request id, BillingProviderUnavailable or another Unavailable when the outcome is not known (the operation
        stays pending), and whatever the provider or the work refuses (the operation has failed then).
        """
        prepared: Json | None = None
        for _ in range(CLAIMS_MAX):
            claim = await self._claim(order, work, prepared)
            if claim is None:
                continue
            if isinstance(claim, _Unprepared):
                prepared = await work.prepare()
            elif isinstance(claim, _Replay):
                recalled = await work.recall(claim.result)
                if recalled is not None:
                    metrics.billing_operations.add(work.kind, "replayed")
                    return recalled, True
                async with self._database.tenant_transaction(order.tenant_id) as connection:
                    await rows.release_request(connection, claim.row)
            elif isinstance(claim, _InTheWay):
                await self._attempt(claim.operation, work, settle=True)
            else:
                done = await self._attempt(claim, work, settle=False)
                assert done is not None
                return done, False
        raise OperationInProgress(work.kind)

    async def _attempt(self, operation: Operation, work: Work[T], *, settle: bool) -> T | None:
        """Do the work, or only settle what it left: return what came of it, None where nothing did."""
        try:
            try:
                async with asyncio.timeout(ATTEMPT_SECONDS_MAX):
                    done = await work.look(operation) if operation.resumed else None
                    if done is None and not settle:
                        done = await work.act(operation)
            except TimeoutError as error:
                raise BillingProviderUnavailable(PROVIDER, f"no answer within {ATTEMPT_SECONDS_MAX:.0f} s") from error
        except TallygateError as error:
            if isinstance(error, Unavailable | RequestInProgress):
                metrics.billing_operations.add(work.kind, "left_pending")
                await self._leave_pending(operation)
            else:
                metrics.billing_operations.add(work.kind, "refused")
                await self._end(operation, OperationState.FAILED, _refusal(error), None)
            raise
        except BaseException:
            # A cancelled call, or a defect of ours: nobody knows what has happened.
            metrics.billing_operations.add(work.kind, "left_pending")
            await asyncio.shield(self._leave_pending(operation))
            raise
        if done is None:
            metrics.billing_operations.add(work.kind, "given_up")
            await self._end(operation, OperationState.FAILED, {"given_up": True}, None)
            return None
        try:
            store = work.store
            finished = done
            await self._end(
                operation,
                OperationState.DONE,
                work.remember(done),
                None if store is None else lambda connection: store(connection, finished),
            )
        except Unavailable:
            metrics.billing_operations.add(work.kind, "left_pending")
            await self._leave_pending(operation)
            raise
        metrics.billing_operations.add(work.kind, "done")
        return done

    async def _claim(
        self, order: Order, work: Work[T], prepared: Json | None
    ) -> Operation | _Replay | _InTheWay | _Unprepared | None:
        """Decide what this call does next; None: it was overtaken and must look again."""
        now = self._clock.now()
        attempt = secrets.token_hex(8)
        async with self._database.tenant_transaction(order.tenant_id) as connection:
            row = None
            if order.request_id:
                row = await rows.lock_operation_of_request(
                    connection, order.tenant_id, order.account_id, order.request_id
                )
                if row is not None and not _is_same(row, order, work):
                    raise RequestIdReused(order.request_id)
                if row is not None and row.state is OperationState.DONE:
                    return _Replay(row, row.result or {})
            if row is None:
                row = await rows.lock_pending_operation(
                    connection, order.tenant_id, order.account_id, kind=work.kind, subject=work.subject
                )
            if row is None and prepared is None:
                return _Unprepared()
            if row is None:
                new = _new_row(order, work, prepared or {}, attempt, now)
                added = await rows.add_operation(connection, new)
                return Operation(row=new, resumed=False) if added else None
            goes_on = _is_same(row, order, work) and now < row.create_time + PENDING_AGE_MAX
            outlived = now >= row.key_time + KEY_AGE_MAX
            if not _is_free(row, now, patient=not goes_on or outlived):
                raise OperationInProgress(work.kind)
            row = replace(row, attempt=attempt, attempt_time=now)
            if outlived:
                row = replace(row, key_number=row.key_number + 1, key_time=now)
            await rows.begin_attempt(connection, row)
        operation = Operation(row=row, resumed=True)
        log.info("billing_operation_resumed", kind=work.kind, tenant_id=order.tenant_id, account_id=order.account_id)
        return operation if goes_on else _InTheWay(operation)

    async def _end(
        self,
        operation: Operation,
        state: OperationState,
        result: Json,
        store: Callable[[Connection], Awaitable[None]] | None,
    ) -> None:
        async with self._database.tenant_transaction(operation.tenant_id) as connection:
            if store is not None:
                await store(connection)
            await rows.end_operation(connection, operation.row, state, result, at=self._clock.now())

    async def _leave_pending(self, operation: Operation) -> None:
        # Fails open: whoever comes next then waits until the attempt is old.
        with suppress(Exception):
            async with self._database.tenant_transaction(operation.tenant_id) as connection:
                await rows.end_attempt(connection, operation.row)


def _is_same(row: OperationRow, order: Order, work: Work[T]) -> bool:
    return (row.kind, row.subject, row.fingerprint) == (work.kind, work.subject, order.fingerprint)


def _is_free(row: OperationRow, now: datetime, *, patient: bool) -> bool:
    """Tell whether the operation may be taken over; `patient`: only once its last attempt can do nothing any more."""
    if patient:
        return now >= row.attempt_time + EFFECT_AFTER
    return not row.attempt or now >= row.attempt_time + RESUME_AFTER


def _new_row(order: Order, work: Work[T], prepared: Json, attempt: str, now: datetime) -> OperationRow:
    return OperationRow(
        tenant_id=order.tenant_id,
        account_id=order.account_id,
        operation_id=new_id("op", now),
        kind=work.kind,
        subject=work.subject,
        request_id=order.request_id,
        fingerprint=order.fingerprint,
        prepared=prepared,
        state=OperationState.PENDING,
        result=None,
        key_number=1,
        key_time=now,
        attempt=attempt,
        attempt_time=now,
        create_time=now,
    )


def _refusal(error: TallygateError) -> Json:
    if isinstance(error, PaymentRefused):
        return {"refused": error.reason, "provider_code": error.facts.get("provider_code", "")}
    return {"refused": error.reason}
