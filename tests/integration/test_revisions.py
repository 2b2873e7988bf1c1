"""A change that was answered is seen by every later check on every server, whatever breaks in between."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tallygate_server.domain.call import CheckAnswer, IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.errors import RevisionNotReached, StoreUnavailable
from tallygate_server.service import Service
from tallygate_server.storage import accounts as account_rows
from tests.support.acme import ACME, ANN, a_check, allowed, an_increment, change_plan, outcome_of, services
from tests.support.eventually import eventually
from tests.support.faulty_proxy import redis_proxy

LIMITS = {"free": 10, "pro": 20, "bare": 1}


@pytest.fixture
async def trio(acme_database: str, fresh_redis: str) -> AsyncIterator[list[Service]]:
    async with services(acme_database, fresh_redis, 3) as running:
        await warm(running)
        yield running


async def warm(running: Sequence[Service]) -> None:
    """Let every server know the account and its counter."""
    for service in running:
        await outcome_of(service, an_increment("hourly"))
        await service.checker.check(a_check("ten"))


async def assert_sees(running: Sequence[Service], plan: str, revision: int) -> None:
    """Check that checks and increments of every server go by the plan, at the revision or a later one."""
    for service in running:
        answer = await reliable_check(service, revision)
        assert answer.revision >= revision
        assert answer.limit_quantity == LIMITS[plan]
        counted = await outcome_of(service, an_increment("none", 6))
        assert isinstance(counted, IncrementAnswer)
        assert counted.revision >= revision


async def reliable_check(service: Service, min_revision: int) -> CheckAnswer:
    """Return the first answer that may be relied upon; a server that did not hear Postgres for a second says so."""

    async def relied_upon() -> CheckAnswer | None:
        answer = await service.checker.check(a_check("ten", min_revision=min_revision))
        return None if answer.stale else answer

    answer = await eventually(relied_upon, ignore=StoreUnavailable)
    assert answer is not None
    return answer


async def test_a_change_of_plan_is_seen_by_every_server_at_once(trio: list[Service]) -> None:
    for n in range(150):
        plan = ("pro", "bare", "free")[n % 3]
        revision = await change_plan(trio[n % 3], plan)

        answers = await asyncio.gather(*(service.checker.check(a_check("ten")) for service in trio))

        assert [answer.limit_quantity for answer in answers] == [LIMITS[plan]] * 3
        assert {answer.revision for answer in answers} == {revision}


async def test_a_suspension_is_seen_by_checks_and_increments_at_once(trio: list[Service]) -> None:
    for n in range(100):
        suspend = n % 2 == 0
        await trio[n % 3].accounts.suspend(ACME, ANN, suspend=suspend)

        for service in trio:
            check = await service.checker.check(a_check("export"))
            count = await outcome_of(service, an_increment("endless"))

            assert isinstance(count, IncrementAnswer)
            for answer in (check, count):
                assert (answer.reason is Reason.ACCOUNT_SUSPENDED) is suspend


async def test_a_new_time_zone_is_seen_at_once(trio: list[Service]) -> None:
    from tallygate_server.accounts import AccountUpdate  # noqa: PLC0415 - only here.

    resets = set()
    for n, zone in enumerate(["Asia/Tokyo", "Europe/Berlin", "America/New_York", "UTC"] * 5):
        await trio[n % 3].accounts.update(ACME, ANN, AccountUpdate(time_zone=zone))

        answers = [await service.checker.check(a_check("local")) for service in trio]

        assert len({answer.reset_time for answer in answers}) == 1
        resets.add(answers[0].reset_time)
    assert len(resets) >= 3


async def test_concurrent_writers_leave_the_newest_revision(trio: list[Service]) -> None:
    """Every writer's own answer is visible to it everywhere, whoever else writes."""

    async def write(service: Service, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            revision = await change_plan(service, chance.choice(["pro", "bare", "free"]))
            for other in trio:
                answer = await other.checker.check(a_check("ten"))
                assert answer.revision >= revision

    await asyncio.gather(*(write(service, seed) for seed, service in enumerate(trio)))

    answers = [await service.checker.check(a_check("ten")) for service in trio]
    assert len({(answer.revision, answer.limit_quantity) for answer in answers}) == 1


@pytest.mark.parametrize("flushed", [False, True])
async def test_checks_under_concurrent_changes_never_go_back(
    trio: list[Service], servers: EmbeddedServers, *, flushed: bool
) -> None:
    """What one caller was told is never taken back by a later answer of any server."""
    done = asyncio.Event()
    reads = 0
    newest = [0]

    async def read(service: Service) -> None:
        nonlocal reads
        while not done.is_set():
            floor = newest[0]
            answer = await service.checker.check(a_check("ten"))
            assert answer.revision >= floor
            newest[0] = max(newest[0], answer.revision)
            reads += 1

    readers = [asyncio.create_task(read(service)) for service in trio]
    n = 0
    while n < 60 or (reads < 100 and not any(reader.done() for reader in readers)):
        newest[0] = max(newest[0], await change_plan(trio[n % 3], ("pro", "bare", "free")[n % 3]))
        if flushed:
            await servers.flush_redis()
        n += 1
    done.set()
    await asyncio.gather(*readers)


# --- Slow loads -----------------------------------------------------------------------------------------


class SlowLoads:
    """Stops a server's loads between reading Postgres and telling Redis, as a busy machine may."""

    def __init__(self, service: Service) -> None:
        self._accounts = service.hot_accounts
        self._read = self._accounts._read
        self.has_read = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def _slowly(self, tenant_id: TenantId, account_ids: list[AccountId]) -> Mapping[AccountId, tuple[int, str]]:
        documents = await self._read(tenant_id, account_ids)
        self.has_read.set()
        await self.may_go_on.wait()
        return documents

    @asynccontextmanager
    async def one(self, service: Service) -> AsyncIterator[None]:
        """Let a load read now and go on only when the block is left."""
        self._accounts._read = self._slowly  # type: ignore[assignment, method-assign]
        check = asyncio.create_task(service.checker.check(a_check("ten")))
        await self.has_read.wait()
        del self._accounts._read
        try:
            yield
        finally:
            self.may_go_on.set()
            await check


def forget(service: Service) -> None:
    """Let the server know the account no more, as after a restart."""
    service.hot_accounts._cache.clear()


async def stored_revision(service: Service) -> bytes | None:
    revision: bytes | None = await service.redis.execute("HGET", service.counters.account_key(ACME, ANN), "rev")
    return revision


async def settle_stores(service: Service) -> None:
    """Wait until the server has nothing left to tell Redis."""
    await service.hot_accounts.close()


@pytest.mark.parametrize(
    "event", ["change", "change, flush", "change, rollback", "flush, change", "two changes, flush"]
)
async def test_a_slow_load_never_overwrites_a_newer_revision(
    trio: list[Service], servers: EmbeddedServers, event: str
) -> None:
    writer, slow, other = trio
    await servers.flush_redis()
    forget(slow)
    async with SlowLoads(slow).one(slow):
        if event.startswith("flush"):
            await servers.flush_redis()
        revision = await change_plan(writer, "bare")
        if event.startswith("two"):
            revision = await change_plan(writer, "pro")
        if event.endswith("rollback"):
            await roll_back(writer)
        if event.endswith("flush"):
            await servers.flush_redis()
    await settle_stores(slow)

    await assert_sees(trio, "pro" if event.startswith("two") else "bare", revision)
    forget(other)
    await assert_sees([other], "pro" if event.startswith("two") else "bare", revision)


class BareMarks:
    """A writer's word to Redis, and to nobody else."""

    def __init__(self, service: Service) -> None:
        self._counters = service.counters

    async def mark_changing(self, tenant_id: TenantId, account_ids: Sequence[AccountId]) -> None:
        """Tell Redis."""
        await self._counters.mark_changing(tenant_id, account_ids)

    async def publish(
        self,
        tenant_id: TenantId,
        revisions: Mapping[AccountId, int],
        *,
        may_be_cached: bool = True,  # noqa: ARG002 - Redis can always be told here.
    ) -> None:
        """Tell Redis."""
        await self._counters.publish(tenant_id, revisions)


async def roll_back(service: Service) -> None:
    """Begin a change and fail."""
    changes = EntitlementChanges(service.database, BareMarks(service), clock=service.clock)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - leaving the block is what is tested.
        async with changes.begin(ACME, [ANN], actor="test", cause="test") as change:
            await account_rows.write_account(change.connection, ACME, ANN, {"state": "suspended"})
            raise ZeroDivisionError


async def test_a_change_that_is_rolled_back_changes_nothing(trio: list[Service]) -> None:
    revision = await change_plan(trio[0], "pro")

    await roll_back(trio[1])

    await assert_sees(trio, "pro", revision)


# --- Writers that die -----------------------------------------------------------------------------------


class DyingMarks(BareMarks):
    """A writer's word to Redis, until it dies."""

    def __init__(self, service: Service, servers: EmbeddedServers, *, flush: str) -> None:
        super().__init__(service)
        self._servers = servers
        self._flush = flush

    async def mark_changing(self, tenant_id: TenantId, account_ids: Sequence[AccountId]) -> None:
        """Tell Redis."""
        await super().mark_changing(tenant_id, account_ids)
        if self._flush == "after mark":
            await self._servers.flush_redis()

    async def publish(self, *_: object, **__: object) -> None:
        """Die."""
        if self._flush == "after commit":
            await self._servers.flush_redis()
        raise ProcessDiedError


class ProcessDiedError(Exception):
    """Stands for everything that ends a process between two statements."""


@pytest.mark.parametrize("flush", ["never", "after commit"])
async def test_a_writer_that_dies_after_its_commit_leaves_nothing_stale(
    trio: list[Service], servers: EmbeddedServers, flush: str
) -> None:
    """A flush *between mark and commit* on top of the death is the one double fault left; see the docs."""
    changes = EntitlementChanges(trio[0].database, DyingMarks(trio[0], servers, flush=flush), clock=trio[0].clock)
    with pytest.raises(ProcessDiedError):
        async with changes.begin(ACME, [ANN], actor="test", cause="test") as change:
            await account_rows.write_account(change.connection, ACME, ANN, {"state": "suspended"})

    for service in trio:
        assert (await service.checker.check(a_check("ten"))).reason is Reason.ACCOUNT_SUSPENDED
    await trio[1].accounts.suspend(ACME, ANN, suspend=False)
    for service in trio:
        assert (await service.checker.check(a_check("ten"))).reason is Reason.OK


@pytest.mark.parametrize("flush", ["never", "after mark"])
async def test_a_writer_that_dies_before_its_commit_leaves_nothing_stale(
    trio: list[Service], servers: EmbeddedServers, flush: str
) -> None:
    revision = await change_plan(trio[0], "pro")
    changes = EntitlementChanges(trio[0].database, DyingMarks(trio[0], servers, flush=flush), clock=trio[0].clock)
    with pytest.raises(ProcessDiedError):
        async with changes.begin(ACME, [ANN], actor="test", cause="test"):
            raise ZeroDivisionError

    await assert_sees(trio, "pro", revision)
    revision = await change_plan(trio[1], "bare")
    await assert_sees(trio, "bare", revision)


async def test_the_mark_of_a_dead_writer_runs_out(trio: list[Service]) -> None:
    await trio[0].counters.mark_changing(ACME, [ANN])

    key = trio[0].counters.account_key(ACME, ANN)
    assert 0 < await trio[0].redis.execute("PTTL", key) <= 30_000


@pytest.mark.parametrize("moment", ["before", "in the middle", "after"])
async def test_a_flush_at_any_moment_of_a_change_leaves_nothing_stale(
    trio: list[Service], servers: EmbeddedServers, moment: str
) -> None:
    for n in range(10):
        state = "suspended" if n % 2 == 0 else "active"
        if moment == "before":
            await servers.flush_redis()
        changes = EntitlementChanges(trio[0].database, BareMarks(trio[0]), clock=trio[0].clock)
        async with changes.begin(ACME, [ANN], actor="test", cause="test") as change:
            await account_rows.write_account(change.connection, ACME, ANN, {"state": state})
            if moment == "in the middle":
                await servers.flush_redis()
                # Readers meanwhile compile and keep what is not true for much longer.
                forget(trio[1])
                await trio[1].checker.check(a_check("ten"))
                await settle_stores(trio[1])
        if moment == "after":
            await servers.flush_redis()

        for service in trio:
            reason = (await service.checker.check(a_check("ten"))).reason
            assert reason is (Reason.ACCOUNT_SUSPENDED if state == "suspended" else Reason.OK)


# --- Writers without Redis ------------------------------------------------------------------------------


@pytest.mark.usefixtures("usual_epochs")
async def test_a_writer_that_lost_redis_leaves_nothing_stale_for_the_others(
    acme_database: str, fresh_redis: str
) -> None:
    """Redis lives and the others use it: what the writer cannot tell them, they must learn all the same."""
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            redis_proxy(fresh_redis, Path(parent) / "wire") as (address, proxy),
            services(acme_database, address) as [writer],
            services(acme_database, fresh_redis) as [reader],
        ):
            await warm([writer, reader])
            for plan in ("pro", "bare", "free"):
                proxy.refuses = True
                proxy.cut()
                await eventually(lambda: not writer.counters.ready)
                revision = await change_plan(writer, plan)

                await assert_sees([reader], plan, revision)
                proxy.refuses = False
                await eventually(lambda: writer.counters.ready)
                await assert_sees([writer, reader], plan, revision)


@pytest.mark.usefixtures("usual_epochs")
async def test_a_change_while_nobody_reaches_redis_is_seen_when_it_is_back(
    acme_database: str, fresh_redis: str
) -> None:
    """A Redis that only slept comes back with all it knew, which is no longer true."""
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            redis_proxy(fresh_redis, Path(parent) / "wire") as (address, proxy),
            services(acme_database, address, 2, redis_timeout_ms=100) as running,
        ):
            await warm(running)
            proxy.flows.clear()
            # Their next question goes unanswered, and they give the connection up.
            await asyncio.gather(*(service.checker.check(a_check("ten")) for service in running))
            await eventually(lambda: not any(service.counters.ready for service in running))
            revision = await change_plan(running[0], "bare")
            proxy.flows.set()
            proxy.cut()

            for _ in range(200):
                answers = await asyncio.gather(*(service.checker.check(a_check("ten")) for service in running))

                relied_upon = [answer for answer in answers if not answer.stale]
                assert {answer.limit_quantity for answer in relied_upon} <= {1}
                assert {answer.revision for answer in relied_upon} <= {revision}
                await asyncio.sleep(0)
            await eventually(lambda: all(service.counters.ready for service in running))
            await assert_sees(running, "bare", revision)


# --- min_revision ---------------------------------------------------------------------------------------


async def test_a_revision_that_is_not_reached_is_said_so(trio: list[Service]) -> None:
    revision = await change_plan(trio[0], "pro")

    for service in trio:
        assert (await service.checker.check(a_check("ten", min_revision=revision))).revision == revision
        with pytest.raises(RevisionNotReached):
            await service.checker.check(a_check("ten", min_revision=revision + 1))


async def test_increments_go_by_the_newest_plan_too(trio: list[Service]) -> None:
    for n in range(40):
        plan = ("pro", "free")[n % 2]
        revision = await change_plan(trio[n % 3], plan)

        outcomes = [await outcome_of(service, an_increment("words")) for service in trio]

        for answer in allowed(outcomes):
            assert answer.revision == revision
            assert answer.limit_quantity == (100_000 if plan == "pro" else 1_000)
        assert len(allowed(outcomes)) == 3
