"""Replay a trace of LLM calls through a server, remember every answer, and compare notes with it.

A call's account and request id follow from the run's id and the row's number alone. So whatever is repeated,
after a crash of the server or of the replay itself, is the same call again, and is counted once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import re
import secrets
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TextIO, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from tallygate.v1 import access_pb2, catalog_service_pb2, usage_pb2, usage_service_pb2
from tallygate_server.client import CallFailed, Client
from tallygate_server.domain.limits import LIMIT_MAX, PAGE_SIZE_MAX
from tallygate_server.trace_agreement import NO_PERIOD, LedgerLine, ServerSide, Told, find_disagreements
from tallygate_server.trace_file import Trace

OWN_TENANT: Final = "replay"
OWN_FEATURE: Final = "llm_tokens"
LIMIT_SHARE: Final = 0.8
"""The limit that is chosen when none is given, as a share of an account's mean tokens: some calls are denied."""

ACCOUNTS_MAX: Final = 100_000
CONCURRENCY_MAX: Final = 2_000
RUN_ID_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

RESERVATION_TTL_S: Final = 600
"""How long a reservation is held; a replay that stops in between may go on with it for as long, and a window more."""

RETRY_DELAY_S: Final = 0.05
RETRY_DELAY_S_MAX: Final = 1.0
FLUSH_EVERY: Final = 200
"""Answers between two writes of the state file. Those lost in a crash are asked for again."""

SETTLE_TIMEOUT_S: Final = 15.0
"""How long ACCEPTED calls may take to reach the ledger before that is a disagreement."""
SETTLE_PAUSE_S: Final = 0.1
READERS: Final = 8
"""Accounts that are compared at a time."""

Period = Literal["hour", "day", "week", "month", "year", "lifetime"]
Ack = Literal["committed", "accepted"]
Response = TypeVar("Response", bound=Message)


class ReplayError(Exception):
    """The replay cannot start or go on; the message says why and what to do."""


class GaveUp(ReplayError):
    """The server was away for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All that decides what is sent; two replays of one run send the same calls."""

    run_id: str
    trace_digest: str
    tenant_id: str
    feature_key: str
    accounts: int
    seed: int
    limit: int
    """Units per account and period in our own tenant's plan, -1 for unlimited; 0 in a tenant of others."""
    period: Period
    ack: Ack
    reserve_margin: int | None = None
    """Tokens above the context that are reserved before a call whose actual tokens are then committed; None: every call
    is one increment."""

    @property
    def makes_tenant(self) -> bool:
        """Whether the replay brings its own catalog."""
        return self.limit != 0

    def account_id(self, row: int) -> str:
        """Return the account that a row's call belongs to; the same for the same seed everywhere."""
        digest = hashlib.blake2b(f"{self.seed}:{row}".encode(), digest_size=8).digest()
        number = int.from_bytes(digest) % self.accounts
        return f"replay-{self.run_id}-{number:0{len(str(self.accounts - 1))}d}"

    def request_id(self, row: int) -> str:
        """Return the request id of a row's call."""
        return f"replay-{self.run_id}-{row}"

    def catalog_yaml(self) -> str:
        """Return the catalog of our own tenant: one counter, one plan with a limit."""
        limit = "unlimited" if self.limit == -1 else str(self.limit)
        return (
            f"tenant: {self.tenant_id}\n"
            "name: Replayed traces\n"
            f"default_plan: {OWN_TENANT}\n"
            "auto_provision: true\n"
            "features:\n"
            f"  {self.feature_key}: {{kind: counter, name: LLM tokens, unit: token}}\n"
            "plans:\n"
            f"  {OWN_TENANT}:\n"
            "    name: Replay\n"
            "    allowances:\n"
            f"      {self.feature_key}: {{limit: {limit}, period: {self.period}, anchor: utc}}\n"
        )


def limit_for(trace: Trace, accounts: int) -> int:
    """Return a limit that denies some calls of a trace that is spread over this many accounts."""
    return min(LIMIT_MAX, max(1, math.ceil(trace.tokens / accounts * LIMIT_SHARE)))


class StateFile:
    """What the client was told, a line for each answer, so that a replay can go on where another one stopped.

    The first line is the run. A last line that was cut off by a crash is ignored: its call is made again.
    """

    def __init__(self, file: TextIO, path: Path) -> None:
        """Use `create` or `resume`."""
        self._file = file
        self._unwritten = 0
        self.path = path

    @classmethod
    def create(cls, path: Path, run: Run) -> Self:
        """Begin a state file; raise ReplayError when there is one already, or it cannot be written."""
        try:
            file = path.open("x", encoding="utf-8")
        except FileExistsError:
            raise ReplayError(f"{path} exists; go on with --resume {path}, or name another file") from None
        except OSError as error:
            raise ReplayError(f"{path} cannot be written: {error.strerror}") from None
        file.write(json.dumps(asdict(run)) + "\n")
        file.flush()
        return cls(file, path)

    @classmethod
    def resume(cls, path: Path, trace: Trace) -> tuple[Self, Run, dict[int, Told]]:
        """Open a state file to go on; return it with its run and the answers so far.

        Raise ReplayError when it is no state file, or belongs to another trace.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ReplayError(f"{path} cannot be read: {error}") from None
        complete, _, _cut_off = text.rpartition("\n")
        lines = complete.split("\n")
        try:
            run = Run(**json.loads(lines[0]))
        except (ValueError, TypeError):
            raise ReplayError(f"{path} is not the state of a replay: its first line is no run") from None
        if run.trace_digest != trace.digest:
            raise ReplayError(f"{path} belongs to another trace than {trace.path}, or the trace was changed")
        told: dict[int, Told] = {}
        for number, line in enumerate(lines[1:], start=2):
            try:
                answer = Told(**json.loads(line))
            except (ValueError, TypeError):
                raise ReplayError(f"{path}, line {number}: is no answer of a replay") from None
            if not 1 <= answer.row <= len(trace):
                raise ReplayError(f"{path}, line {number}: the trace has no row {answer.row}")
            told[answer.row] = answer
        try:
            file = path.open("r+", encoding="utf-8")
            file.truncate(len(complete.encode()) + 1)
            file.seek(0, 2)
        except OSError as error:
            raise ReplayError(f"{path} cannot be written: {error.strerror}") from None
        return cls(file, path), run, told

    def record(self, answer: Told) -> None:
        """Remember an answer."""
        self._file.write(json.dumps(asdict(answer), separators=(",", ":")) + "\n")
        self._unwritten += 1
        if self._unwritten >= FLUSH_EVERY:
            self._file.flush()
            self._unwritten = 0

    def __enter__(self) -> Self:
        """Write to the file; it is closed at the end."""
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what is left and close."""
        self._file.close()


class Progress(Protocol):
    """Is told of every answer."""

    def __call__(self, answer: Told, /) -> None:
        """Note one answer."""


@dataclass(slots=True, kw_only=True)
class Session:
    """What one process did for a run."""

    elapsed_s: float = 0.0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    """Of the attempts that were answered."""
    longest_wait_s: float = 0.0
    """From the first attempt of a call to its answer, outages included."""
    behind_s: float = 0.0
    """How late the latest call was made, at recorded speed."""
    retries: int = 0
    resumed: int = 0
    """Answers that an earlier session was told."""


class TraceReplay:
    """Makes the calls of one run and remembers the answers."""

    def __init__(
        self,
        *,
        client: Client,
        trace: Trace,
        run: Run,
        concurrency: int,
        speed: float | None,
        give_up_after_s: float,
        told: dict[int, Told] | None = None,
        record: Callable[[Told], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Prepare a replay; `speed` is a factor of the recorded one, None for as fast as possible."""
        self.run = run
        self.trace = trace
        self.told = {} if told is None else told
        self.session = Session(resumed=len(self.told))
        self._client = client
        self._concurrency = concurrency
        self._speed = speed
        self._give_up_after_s = give_up_after_s
        self._record = record
        self.progress = progress
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._request_ack = (
            usage_service_pb2.ACK_MODE_COMMITTED if run.ack == "committed" else usage_service_pb2.ACK_MODE_ACCEPTED
        )

    @property
    def countable(self) -> int:
        """Rows with at least one token; the others have nothing to count and are not sent."""
        return len(self.trace) - sum(1 for quantity in self.trace.quantities if quantity == 0)

    async def prepare(self) -> None:
        """Apply the catalog of our own tenant, if the run is to use it."""
        if self.run.makes_tenant:
            await self._persistently(
                self._client.catalogs.ApplyCatalog,
                catalog_service_pb2.ApplyCatalogRequest(yaml=self.run.catalog_yaml(), actor="tallygate replay"),
            )

    async def make_calls(self) -> None:
        """Make every call that has no answer yet; raise GaveUp or CallFailed."""
        began_s = time.monotonic()
        rows = (row for row, quantity in enumerate(self.trace.quantities, start=1) if quantity and row not in self.told)
        first_row = next(rows, None)
        if first_row is None:
            return
        first_time_s = self.trace.times_s[first_row - 1]

        def due_s(row: int) -> float:
            if self._speed is None:
                return 0.0
            # Rows out of order are made at once.
            return began_s + max(0.0, self.trace.times_s[row - 1] - first_time_s) / self._speed

        remaining = _chain(first_row, rows)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._work(remaining, due_s))
        except BaseExceptionGroup as failures:
            # All workers fail for one reason; the first tells it.
            raise _first_leaf(failures) from None
        finally:
            self.session.elapsed_s = time.monotonic() - began_s

    async def compare(self) -> list[str]:
        """Read counters and ledger of every account of the run and return all disagreements."""
        by_account: defaultdict[str, list[Told]] = defaultdict(list)
        for answer in self.told.values():
            by_account[self.run.account_id(answer.row)].append(answer)
        findings = []
        if len(self.told) != self.countable:
            findings.append(f"{self.countable - len(self.told):,} calls have no answer")
        committed = self.run.ack == "committed"
        deadline_s = time.monotonic() + (0 if committed else SETTLE_TIMEOUT_S)
        while True:
            server = await self._server_sides(list(by_account))
            found = find_disagreements(by_account, server, committed=committed)
            if not found or time.monotonic() > deadline_s:
                return findings + found
            await asyncio.sleep(SETTLE_PAUSE_S)

    async def _work(self, rows: Iterator[int], due_s: Callable[[int], float]) -> None:
        for row in rows:
            wait_s = due_s(row) - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif self._speed is not None:
                self.session.behind_s = max(self.session.behind_s, -wait_s)
            answer = await (self._increment(row) if self.run.reserve_margin is None else self._work_reserved(row))
            self.told[row] = answer
            if self._record is not None:
                self._record(answer)
            if self.progress is not None:
                self.progress(answer)

    async def _increment(self, row: int) -> Told:
        run = self.run
        quantity = self.trace.quantities[row - 1]
        request = usage_service_pb2.IncrementRequest(
            tenant_id=run.tenant_id,
            account_id=run.account_id(row),
            feature_key=run.feature_key,
            quantity=quantity,
            request_id=run.request_id(row),
            ack=self._request_ack,
        )
        response = await self._persistently(self._client.usage.Increment, request, latencies_s=self.session.latencies_s)
        return Told(
            row=row,
            quantity=quantity,
            request_id=request.request_id,
            allowed=response.decision == access_pb2.DECISION_ALLOWED,
            reason=_reason(response.reason),
            used_quantity=response.used_quantity,
            limit_quantity=response.limit_quantity,
            period_end_s=response.reset_time.seconds if response.HasField("reset_time") else NO_PERIOD,
            entry_id=response.entry_id,
            replayed=response.replayed,
        )

    async def _work_reserved(self, row: int) -> Told:
        """Reserve what a call may cost, then commit what it did; calls of one account in the order of the trace.

        So what is allowed follows from the trace alone. A surplus that the limit refuses is not counted.
        """
        async with self._turns[self.run.account_id(row)]:
            return await self._reserve_and_commit(row)

    async def _reserve_and_commit(self, row: int) -> Told:
        run, quantity = self.run, self.trace.quantities[row - 1]
        assert run.reserve_margin is not None
        reserve = usage_service_pb2.ReserveRequest(
            tenant_id=run.tenant_id,
            account_id=run.account_id(row),
            feature_key=run.feature_key,
            quantity=max(1, self.trace.contexts[row - 1] + run.reserve_margin),
            ttl=Duration(seconds=RESERVATION_TTL_S),
            request_id=run.request_id(row),
        )
        latencies_s = self.session.latencies_s
        held = await self._persistently(self._client.usage.Reserve, reserve, latencies_s=latencies_s)
        told = Told(
            row=row,
            quantity=quantity,
            request_id=reserve.request_id,
            allowed=False,
            reason=_reason(held.reason),
            used_quantity=held.used_quantity,
            limit_quantity=held.limit_quantity,
            period_end_s=held.reset_time.seconds if held.HasField("reset_time") else NO_PERIOD,
            entry_id="",
            replayed=held.replayed,
        )
        if held.decision != access_pb2.DECISION_ALLOWED:
            return told
        # Beyond the limit only as much counts as was promised.
        for actual in (quantity, min(quantity, reserve.quantity)):
            commit = usage_service_pb2.CommitReservationRequest(
                tenant_id=run.tenant_id,
                account_id=reserve.account_id,
                reservation_id=held.reservation.reservation_id,
                quantity=actual,
            )
            try:
                done = await self._persistently(self._client.usage.CommitReservation, commit, latencies_s=latencies_s)
            except CallFailed as failure:
                # Committed with the other quantity by an earlier session, or too late even for a late commit.
                if failure.reason != "RESERVATION_CLOSED":
                    raise
                told.reason = failure.reason
                continue
            told.reason = _reason(done.reason)
            if done.decision == access_pb2.DECISION_ALLOWED:
                told.allowed = True
                told.quantity = done.committed_quantity
                told.used_quantity, told.limit_quantity = done.used_quantity, done.limit_quantity
                told.entry_id, told.replayed = done.entry_id, done.replayed
                break
        return told

    async def _persistently(
        self,
        method: Callable[..., Any],
        request: Message,
        *,
        latencies_s: array[float] | None = None,
    ) -> Any:
        """Make a call, again and again while the server is away; raise GaveUp or CallFailed."""
        first_s = time.monotonic()
        delay_s = RETRY_DELAY_S
        while True:
            began_s = time.monotonic()
            try:
                response = await self._client.call(method, request)
            except CallFailed as failure:
                if not failure.may_be_retried:
                    raise
                waited_s = time.monotonic() - first_s
                if waited_s >= self._give_up_after_s:
                    raise GaveUp(f"gave up after {waited_s:.0f} s without an answer: {failure}") from None
                self.session.retries += 1
                # Jitter: a thousand callers must not come back in the same instant.
                jittered_s = delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing.
                await asyncio.sleep(max(jittered_s, failure.retry_delay_s))
                delay_s = min(delay_s * 2, RETRY_DELAY_S_MAX)
            else:
                now_s = time.monotonic()
                if latencies_s is not None:
                    latencies_s.append(now_s - began_s)
                    self.session.longest_wait_s = max(self.session.longest_wait_s, now_s - first_s)
                return response

    async def _server_sides(self, account_ids: Sequence[str]) -> Mapping[str, ServerSide]:
        places = asyncio.Semaphore(READERS)

        async def read(account_id: str) -> ServerSide:
            async with places:
                return await self._server_side(account_id)

        sides = await asyncio.gather(*(read(account_id) for account_id in account_ids))
        return dict(zip(account_ids, sides, strict=True))

    async def _server_side(self, account_id: str) -> ServerSide:
        run = self.run
        entries: list[LedgerLine] = []
        request = usage_service_pb2.ListUsageEntriesRequest(
            tenant_id=run.tenant_id, account_id=account_id, feature_key=run.feature_key, page_size=PAGE_SIZE_MAX
        )
        try:
            while True:
                page = await self._persistently(self._client.usage.ListUsageEntries, request)
                entries += (
                    LedgerLine(
                        entry_id=entry.entry_id,
                        request_id=entry.request_id,
                        quantity=entry.quantity,
                        used_quantity=entry.used_quantity,
                        period_start_s=_start_s(entry),
                    )
                    for entry in page.entries
                )
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
            usage = await self._persistently(
                self._client.usage.GetUsage,
                usage_service_pb2.GetUsageRequest(
                    tenant_id=run.tenant_id, account_id=account_id, feature_key=run.feature_key
                ),
            )
        except CallFailed as failure:
            # A tenant that makes no accounts by itself denied all of its calls: nothing was counted.
            if failure.reason != "ACCOUNT_NOT_FOUND":
                raise
            return ServerSide(used_quantity=0, period_start_s=NO_PERIOD, entries=entries)
        quota = usage.quota
        return ServerSide(
            used_quantity=quota.used_quantity,
            period_start_s=_start_s(quota),
            entries=entries,
            held_quantity=quota.held_quantity if run.reserve_margin is not None else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The end of a replay, for people and programs."""

    run: Run
    rows: int
    empty: int
    allowed: int
    denied: int
    denials: Mapping[str, int]
    tokens_allowed: int
    tokens_denied: int
    replayed: int
    resumed: int
    retries: int
    calls: int
    """Made by this session."""
    elapsed_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    longest_wait_ms: float
    behind_s: float
    disagreements: Sequence[str]

    @property
    def calls_per_s(self) -> float:
        """Answers of this session per second."""
        return self.calls / self.elapsed_s if self.elapsed_s else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {
            **asdict(self),
            "denials": dict(self.denials),
            "disagreements": list(self.disagreements),
            "calls_per_s": self.calls_per_s,
            "agreement": not self.disagreements,
        }


def report_of(replay: TraceReplay, disagreements: Sequence[str]) -> Report:
    """Sum up a finished replay."""
    told = replay.told.values()
    session = replay.session
    latencies_s = sorted(session.latencies_s)
    denials = Counter(answer.reason for answer in told if not answer.allowed)
    return Report(
        run=replay.run,
        rows=len(replay.trace),
        empty=len(replay.trace) - replay.countable,
        allowed=sum(1 for answer in told if answer.allowed),
        denied=denials.total(),
        denials=dict(denials.most_common()),
        tokens_allowed=sum(answer.quantity for answer in told if answer.allowed),
        tokens_denied=sum(answer.quantity for answer in told if not answer.allowed),
        replayed=sum(1 for answer in told if answer.replayed),
        resumed=session.resumed,
        retries=session.retries,
        calls=len(latencies_s),
        elapsed_s=session.elapsed_s,
        p50_ms=_percentile(latencies_s, 50) * 1_000,
        p95_ms=_percentile(latencies_s, 95) * 1_000,
        p99_ms=_percentile(latencies_s, 99) * 1_000,
        longest_wait_ms=session.longest_wait_s * 1_000,
        behind_s=session.behind_s,
        disagreements=disagreements,
    )


def _reason(reason: access_pb2.DecisionReason) -> str:
    return access_pb2.DecisionReason.Name(reason).removeprefix("DECISION_REASON_")


def _percentile(ascending: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least so many percent do not exceed; 0 for none."""
    if not ascending:
        return 0.0
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def _start_s(item: usage_pb2.Quota | usage_pb2.UsageEntry) -> int:
    """Return when the item's period began; a period that never ends needs no name."""
    if isinstance(item, usage_pb2.Quota) and not item.HasField("reset_time"):
        return NO_PERIOD
    return item.period.start_time.seconds if item.HasField("period") else NO_PERIOD


def _chain(first: int, rest: Iterator[int]) -> Iterator[int]:
    yield first
    yield from rest


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first failure itself, whatever the nesting."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def new_run_id() -> str:
    """Return an id that no other run has."""
    return secrets.token_hex(4)
