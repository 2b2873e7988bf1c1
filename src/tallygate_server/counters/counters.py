"""What the hot path asks of Redis: take holds, settle them, read, keep sources, mark changes.

Nothing here is the truth. Every method may fail with RedisUnavailable, and whatever Redis holds may vanish
between two calls; Postgres then decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from tallygate_server.counters import keys, scripts
from tallygate_server.counters.connection import RedisCommandError, RedisConnection, RedisUnavailable, Reply
from tallygate_server.domain.identifier import AccountId, TenantId

log = structlog.get_logger(__name__)

CHANGE_MARK_TTL_MS: Final = 30_000
"""Longer than any transaction can last, so that a crashed writer's mark outlives its transaction."""
SOURCES_TTL_MS: Final = 600_000
COUNTER_KEEP_MS: Final = 86_400_000
"""How long a counter stays in Redis after its period ended."""
COUNTER_TTL_MS_MAX: Final = 30 * 86_400_000

HELD, EXHAUSTED, CONTENDED = ord("h"), ord("x"), ord("c")
STALE, MISSING = b"s", b"m"


@dataclass(slots=True)
class CounterHold:
    """What one batch wants of one counter."""

    account_index: int
    """1-based position of the account in the batch."""
    key: str
    limit: int
    hard: bool
    quantities: list[int]


@dataclass(frozen=True, slots=True)
class Settlement:
    """A counter's total from Postgres, and the hold that it ends."""

    key: str
    batch_id: str
    """Empty when no hold was taken."""
    committed: int | None
    """None: nothing was committed, only the hold ends."""
    version: int
    """0: the counter has no row yet."""
    ttl_ms: int


HoldReply = list[bytes | list[bytes]]
"""Per counter STALE, MISSING or [committed, held before, codes]."""


class Counters:
    """The hot path's Redis, as verbs."""

    def __init__(self, connection: RedisConnection, server_id: str) -> None:
        """Work on a connection as one server process, whose holds are registered under its id."""
        self._connection = connection
        self._registry = keys.holds(server_id)

    @staticmethod
    async def prepare(connection: RedisConnection, server_id: str) -> None:
        """Make a new connection ready: load the scripts and announce the server."""
        for script in scripts.ALL:
            # The connection is not ready for others yet: hence the inner call.
            await connection._execute(("SCRIPT", "LOAD", script.source))  # noqa: SLF001
        await connection._execute(("SADD", keys.SERVERS, server_id))  # noqa: SLF001

    @property
    def ready(self) -> bool:
        """Whether Redis can be asked right now."""
        return self._connection.ready

    def hold_soon(
        self,
        *,
        batch_id: str,
        deadline_ms: int,
        accounts: Sequence[tuple[str, str]],
        counters: Sequence[CounterHold],
        on_reply: Callable[[HoldReply | Exception], None],
    ) -> None:
        """Take holds for one tick; `accounts` are (key, expected revision or `*`)."""
        key_list = [self._registry, *[key for key, _ in accounts], *[counter.key for counter in counters]]
        arguments: list[scripts.Argument] = [batch_id, deadline_ms, len(accounts), *[rev for _, rev in accounts]]
        for counter in counters:
            arguments += (counter.account_index, counter.limit, int(counter.hard), len(counter.quantities))
            arguments += counter.quantities
        scripts.call_soon(self._connection, scripts.HOLD, key_list, arguments, on_reply)

    def settle_soon(
        self,
        settlements: Sequence[Settlement],
        *,
        ended_batches: Sequence[str] = (),
        registry: str | None = None,
        on_reply: Callable[[Reply | Exception], None] | None = None,
    ) -> None:
        """End holds and take over totals; failures only leave the holds to the sweeper."""
        key_list = [registry or self._registry, *[settlement.key for settlement in settlements]]
        arguments: list[scripts.Argument] = [len(ended_batches), *ended_batches]
        for settlement in settlements:
            committed = "" if settlement.committed is None else settlement.committed
            arguments += (settlement.batch_id, committed, settlement.version, settlement.ttl_ms)
        scripts.call_soon(self._connection, scripts.SETTLE, key_list, arguments, on_reply or _ignore)

    def flush(self) -> None:
        """Put what was sent on the wire now, ahead of whatever is answered next."""
        self._connection.flush()

    def read_soon(
        self,
        account_keys: Sequence[str],
        counter_keys: Sequence[str],
        on_reply: Callable[[list[bytes | None] | Exception], None],
    ) -> None:
        """Read revisions and counters: see read.lua for the shape."""
        scripts.call_soon(self._connection, scripts.READ, [*account_keys, *counter_keys], [len(account_keys)], on_reply)

    async def sources(self, account_key: str) -> tuple[bytes, bytes] | None:
        """Return (revision, sources as JSON) when Redis has them and nobody is changing them."""
        revision, sources = await self._connection.execute("HMGET", account_key, "rev", "src")
        return (revision, sources) if revision and sources else None

    async def store_sources(self, account_key: str, revision: int, sources: str | bytes) -> None:
        """Keep sources that were read from Postgres, unless something newer is known."""
        await scripts.call(self._connection, scripts.STORE_SOURCES, [account_key], [revision, sources, SOURCES_TTL_MS])

    async def mark_changing(self, tenant_id: TenantId, account_ids: Sequence[AccountId]) -> None:
        """Make every reader ask Postgres about these accounts until the change is published or time is up.

        Without Redis there is nothing to mark: readers then ask Postgres anyway.
        """
        try:
            await scripts.call(
                self._connection,
                scripts.MARK_CHANGING,
                [keys.account(tenant_id, account_id) for account_id in account_ids],
                [CHANGE_MARK_TTL_MS],
            )
        except RedisUnavailable:
            log.warning("change_not_marked", accounts=len(account_ids))

    async def publish(self, tenant_id: TenantId, revisions: Mapping[AccountId, int]) -> bool:
        """End the change of these accounts and tell readers their new revisions (0: rolled back)."""
        try:
            await scripts.call(
                self._connection,
                scripts.PUBLISH_REVISION,
                [keys.account(tenant_id, account_id) for account_id in revisions],
                [SOURCES_TTL_MS, *revisions.values()],
            )
        except (RedisUnavailable, RedisCommandError):
            log.warning("revision_not_published", accounts=len(revisions))
            return False
        return True

    def forget_soon(self, tenant_id: TenantId, account_id: AccountId) -> None:
        """Make readers ask Postgres about an account that was changed behind the service's back."""
        scripts.call_soon(self._connection, scripts.FORGET, [keys.account(tenant_id, account_id)], [], _ignore)

    async def servers_with_holds(self) -> list[str]:
        """Return the ids of the servers that may have holds."""
        return [server.decode() for server in await self._connection.execute("SMEMBERS", keys.SERVERS)]

    async def hold_batches(self, server_id: str) -> dict[str, tuple[int, list[str]]]:
        """Return a server's unsettled batches: id -> (deadline in ms, counter keys)."""
        flat = await self._connection.execute("HGETALL", keys.holds(server_id))
        batches = {}
        for batch_id, text in zip(flat[::2], flat[1::2], strict=True):
            deadline, *counter_keys = text.decode().split(" ")
            batches[batch_id.decode()] = (int(deadline), counter_keys)
        return batches

    async def forget_server(self, server_id: str) -> None:
        """Remove a server without holds from the list; a living one announces itself again."""
        await self._connection.execute("SREM", keys.SERVERS, server_id)

    async def announce(self, server_id: str) -> None:
        """Put this server on the list of those that may have holds."""
        await self._connection.execute("SADD", keys.SERVERS, server_id)


def _ignore(reply: Reply | Exception) -> None:
    if isinstance(reply, RedisCommandError):
        log.error("redis_command_refused", error=str(reply))
