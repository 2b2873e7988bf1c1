"""What the hot path asks of Redis: take holds, settle them, read, keep sources, mark changes.

Nothing here is the truth. Every method may fail with RedisUnavailable, and whatever Redis holds may vanish
between two calls; Postgres then decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from tallygate_server.counters import keys, scripts
from tallygate_server.counters.connection import RedisCommandError, RedisConnection, RedisUnavailable, Reply
from tallygate_server.domain.identifier import AccountId, TenantId

log = structlog.get_logger(__name__)

CHANGE_MARK_TTL_MS: Final = 30_000
"""Longer than any transaction can last, so that a crashed writer's mark outlives its transaction."""
SOURCES_TTL_MS: Final = 600_000
LEASE_TTL_MS: Final = 30_000
"""Of a hash that holds nothing but a lease; one that takes longer to load its sources may not store them."""
SETTLEMENTS_KEPT_MAX: Final = 20_000
SETTLEMENTS_AT_ONCE_MAX: Final = 500
COUNTER_KEEP_MS: Final = 86_400_000
"""How long a counter stays in Redis after its period ended."""
COUNTER_TTL_MS_MAX: Final = 30 * 86_400_000
KEYS_PER_SCAN: Final = 1_000

HELD, EXHAUSTED, CONTENDED, RESERVED = ord("h"), ord("x"), ord("c"), ord("r")
READ_FIELDS: Final = 3
"""How many items of a read's reply belong to one counter: committed, held, earliest expiry of a reservation."""
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
    """Of a counter that is new in Redis; 0: it is not made."""
    reserved: int = 0
    """What reservations hold, as of the version."""
    reserve_expire_ms: int = 0
    """When the first of them expires, at the earliest; 0 without any."""


HoldReply = list[bytes | list[bytes]]
"""Per counter STALE, MISSING or [committed, held before, codes]."""


class Counters:
    """The hot path's Redis, as verbs."""

    def __init__(self, url: str, *, timeout_ms: int, server_id: str) -> None:
        """Prepare a connection as one server process, whose holds are registered under its id."""
        self.connection = RedisConnection(url, timeout_ms=timeout_ms, on_connected=self._prepare)
        self._server_id = server_id
        self._registry = keys.holds(server_id)
        self._run = ""
        self._epoch = 0
        self._namespace = keys.namespace(self._run, self._epoch)
        self._kept: deque[Settlement] = deque(maxlen=SETTLEMENTS_KEPT_MAX)
        self._kept_batches: deque[str] = deque(maxlen=SETTLEMENTS_KEPT_MAX)
        self.on_renamed: Callable[[], None] = _do_nothing
        """Called when every key has another name: what is known of accounts is no longer comparable."""

    async def _prepare(self, connection: RedisConnection) -> None:
        """Make a new connection ready: learn whom we talk to, load the scripts, settle what was left open."""
        # The connection is not ready for others yet: hence the inner calls.
        facts = await connection._execute(("INFO", "server"))  # noqa: SLF001
        for script in scripts.ALL:
            await connection._execute(("SCRIPT", "LOAD", script.source))  # noqa: SLF001
        self._run = next(
            (line.partition(":")[2] for line in facts.decode().split("\r\n") if line.startswith("run_id:")), ""
        )
        self._rename()
        await self._settle_kept(connection)

    def begin_epoch(self, epoch: int) -> None:
        """Look at nothing that was known before this epoch."""
        self._epoch = epoch
        self._rename()

    def _rename(self) -> None:
        namespace = keys.namespace(self._run, self._epoch)
        if namespace != self._namespace:
            self._namespace = namespace
            self.on_renamed()

    def account_key(self, tenant_id: TenantId, account_id: AccountId) -> str:
        """Return the account's key, in the present namespace."""
        return keys.account(self._namespace, tenant_id, account_id)

    @property
    def ready(self) -> bool:
        """Whether Redis can be asked right now."""
        return self.connection.ready

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
        key_list = [self._registry, keys.SERVERS, *[key for key, _ in accounts], *[counter.key for counter in counters]]
        arguments: list[scripts.Argument] = [batch_id, deadline_ms, len(accounts), self._server_id]
        arguments += [revision for _, revision in accounts]
        for counter in counters:
            arguments += (counter.account_index, counter.limit, int(counter.hard), len(counter.quantities))
            arguments += counter.quantities
        scripts.call_soon(self.connection, scripts.HOLD, key_list, arguments, on_reply)

    def settle_soon(self, settlements: Sequence[Settlement], *, ended_batches: Sequence[str] = ()) -> None:
        """End this server's holds and take over totals.

        What Redis cannot be told is kept, up to a bound, until there is a connection again; beyond that the sweeper
        ends the holds, and a total waits for the counter's next increment.
        """
        if not self.connection.ready:
            self._keep(settlements, ended_batches)
            return

        def on_reply(reply: Reply | Exception) -> None:
            if isinstance(reply, RedisUnavailable):
                self._keep(settlements, ended_batches)
            elif isinstance(reply, Exception):
                log.error("settlement_refused", error=str(reply))

        key_list, arguments = _settle_arguments(self._registry, settlements, ended_batches)
        scripts.call_soon(self.connection, scripts.SETTLE, key_list, arguments, on_reply)

    async def settle_for(
        self, server_id: str, settlements: Sequence[Settlement], *, ended_batches: Sequence[str]
    ) -> None:
        """End holds that another server left behind; raises RedisUnavailable or RedisCommandError."""
        key_list, arguments = _settle_arguments(keys.holds(server_id), settlements, ended_batches)
        await scripts.call(self.connection, scripts.SETTLE, key_list, arguments)

    def _keep(self, settlements: Sequence[Settlement], ended_batches: Sequence[str]) -> None:
        self._kept.extend(settlements)
        self._kept_batches.extend(ended_batches)

    async def _settle_kept(self, connection: RedisConnection) -> None:
        """Tell Redis what it missed. Settling is idempotent, so what it did hear of is no harm."""
        # A total that waited may be an old one: good for a counter that Redis kept, not for one that it lost since.
        kept = [
            replace(settlement, ttl_ms=0) for settlement in self._kept if settlement.key.startswith(self._namespace)
        ]
        ended = list(self._kept_batches)
        self._kept.clear()
        self._kept_batches.clear()
        for start in range(0, max(len(kept), len(ended)), SETTLEMENTS_AT_ONCE_MAX):
            end = start + SETTLEMENTS_AT_ONCE_MAX
            key_list, arguments = _settle_arguments(self._registry, kept[start:end], ended[start:end])
            await connection._execute(  # noqa: SLF001 - as in `_prepare`.
                ("EVALSHA", scripts.SETTLE.sha, len(key_list), *key_list, *arguments)
            )

    def flush(self) -> None:
        """Put what was sent on the wire now, ahead of whatever is answered next."""
        self.connection.flush()

    def read_soon(
        self,
        account_keys: Sequence[str],
        counter_keys: Sequence[str],
        on_reply: Callable[[list[bytes | None] | Exception], None],
    ) -> None:
        """Read revisions and counters: see read.lua for the shape."""
        scripts.call_soon(self.connection, scripts.READ, [*account_keys, *counter_keys], [len(account_keys)], on_reply)

    async def sources(self, account_key: str, token: str) -> tuple[bytes | None, bytes | None]:
        """Return (sources as JSON, None), or (None, lease) for whoever loads them, or neither while they change.

        The token must never have been used before; it may become the lease.
        """
        found = await scripts.call(self.connection, scripts.READ_SOURCES, [account_key], [token, LEASE_TTL_MS])
        if len(found) == 2:  # noqa: PLR2004 - revision and sources
            return found[1], None
        return None, found[0] if found else None

    async def store_sources(self, account_key: str, lease: bytes, revision: int, sources: str | bytes) -> None:
        """Keep sources that were read from Postgres after the lease was given, if it still stands."""
        await scripts.call(
            self.connection, scripts.STORE_SOURCES, [account_key], [lease, revision, sources, SOURCES_TTL_MS]
        )

    async def mark_changing(self, tenant_id: TenantId, account_ids: Sequence[AccountId]) -> None:
        """Make every reader ask Postgres about these accounts until the change is published or time is up.

        What cannot be marked must be published, or the epoch ends: see entitlement_changes.
        """
        try:
            await scripts.call(
                self.connection,
                scripts.MARK_CHANGING,
                [self.account_key(tenant_id, account_id) for account_id in account_ids],
                [CHANGE_MARK_TTL_MS],
            )
        except (RedisUnavailable, RedisCommandError):
            log.warning("change_not_marked", accounts=len(account_ids))

    async def publish(self, tenant_id: TenantId, revisions: Mapping[AccountId, int]) -> bool:
        """End the change of these accounts and tell readers their new revisions (0: rolled back)."""
        try:
            await scripts.call(
                self.connection,
                scripts.PUBLISH_REVISION,
                [self.account_key(tenant_id, account_id) for account_id in revisions],
                [SOURCES_TTL_MS, *revisions.values()],
            )
        except (RedisUnavailable, RedisCommandError):
            log.warning("revision_not_published", accounts=len(revisions))
            return False
        return True

    def forget_soon(self, tenant_id: TenantId, account_id: AccountId) -> None:
        """Make readers ask Postgres about an account that was changed behind the service's back."""
        scripts.call_soon(self.connection, scripts.FORGET, [self.account_key(tenant_id, account_id)], [], _ignore)

    async def look(self, key: str) -> dict[str, str]:
        """Return what a hash says, read at once; empty for one that is not there.

        Raises RedisUnavailable or RedisCommandError.
        """
        flat = await self.connection.execute("HGETALL", key)
        return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}

    async def registered(self, batch_id: str) -> bool:
        """Tell whether a batch of holds stands in its server's registry; raises as `look` does."""
        server_id = batch_id.rpartition(":")[0]
        return bool(await self.connection.execute("HEXISTS", keys.holds(server_id), batch_id))

    async def forget_counter(self, key: str) -> None:
        """Drop a counter, as a flush would: who needs it asks Postgres. Raises as `look` does."""
        await self.connection.execute("DEL", key)

    async def forget_account(self, tenant_id: TenantId, account_id: AccountId) -> int:
        """Delete every key of an account, in whatever namespace; return how many. Raises as `look` does."""
        found = await self.keys_of(tenant_id, account_id)
        for key in found:
            await self.connection.execute("DEL", key)
        return len(found)

    async def keys_of(self, tenant_id: TenantId, account_id: AccountId) -> list[bytes]:
        """Return every key of an account, in whatever namespace; goes through all keys. Raises as `look` does."""
        found, cursor = set(), b"0"
        while True:
            cursor, page = await self.connection.execute(
                "SCAN", cursor, "MATCH", keys.every_key_of(tenant_id, account_id), "COUNT", KEYS_PER_SCAN
            )
            found.update(page)
            if int(cursor) == 0:
                return sorted(found)

    async def holds_of(self, tenant_id: TenantId, account_id: AccountId) -> int:
        """Return how many unsettled batches, of any server, hold something of an account. Raises as `look` does."""
        tag = keys.tag(tenant_id, account_id)
        count = 0
        for server_id in await self.servers_with_holds():
            for _, counter_keys in (await self.hold_batches(server_id)).values():
                count += any(tag in key for key in counter_keys)
        return count

    async def servers_with_holds(self) -> list[str]:
        """Return the ids of the servers that may have holds."""
        return [server.decode() for server in await self.connection.execute("SMEMBERS", keys.SERVERS)]

    async def hold_batches(self, server_id: str) -> dict[str, tuple[int, list[str]]]:
        """Return a server's unsettled batches: id -> (deadline in ms, counter keys)."""
        flat = await self.connection.execute("HGETALL", keys.holds(server_id))
        batches = {}
        for batch_id, text in zip(flat[::2], flat[1::2], strict=True):
            deadline, *counter_keys = text.decode().split(" ")
            batches[batch_id.decode()] = (int(deadline), counter_keys)
        return batches

    async def forget_server(self, server_id: str) -> None:
        """Remove a server from the list, unless it has holds; its next hold puts it there again."""
        await scripts.call(self.connection, scripts.FORGET_SERVER, [keys.holds(server_id), keys.SERVERS], [server_id])


def _settle_arguments(
    registry: str, settlements: Sequence[Settlement], ended_batches: Sequence[str]
) -> tuple[list[str], list[scripts.Argument]]:
    key_list = [registry, *[settlement.key for settlement in settlements]]
    arguments: list[scripts.Argument] = [len(ended_batches), *ended_batches]
    for settlement in settlements:
        committed = "" if settlement.committed is None else settlement.committed
        arguments += (
            settlement.batch_id,
            committed,
            settlement.version,
            settlement.reserved,
            settlement.reserve_expire_ms,
            settlement.ttl_ms,
        )
    return key_list, arguments


def _do_nothing() -> None:
    """Stand for nobody who wants to know."""


def _ignore(reply: Reply | Exception) -> None:
    if isinstance(reply, RedisCommandError):
        log.error("redis_command_refused", error=str(reply))
