"""The scripts that Redis runs, one by one, at their edges."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallygate_server.counters.counters import CounterHold, Counters, Settlement
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.limits import LIMIT_MAX, QUANTITY_MAX
from tallygate_server.domain.usage import admit
from tests.support.acme import ACME, ANN

COUNTER = "tg:test:{acme/ann}:words:d:0"
OTHER = "tg:test:{acme/ann}:other:d:0"
EXACT_MAX = 2**53 - 1
"""Largest number to which Lua counts without a gap."""

_batches = itertools.count(1)


@pytest.fixture
async def counters(fresh_redis: str) -> AsyncIterator[Counters]:
    made = Counters(fresh_redis, timeout_ms=2_000, server_id="test")
    await made.connection.start()
    yield made
    await made.connection.close()


def wanting(key: str, *quantities: int, limit: int = 10, hard: bool = True, account: int = 1) -> CounterHold:
    return CounterHold(account_index=account, key=key, limit=limit, hard=hard, quantities=list(quantities))


async def hold(
    counters: Counters,
    *quantities: int,
    limit: int = 10,
    hard: bool = True,
    key: str = COUNTER,
    revision: str = "*",
    batch: str = "",
) -> Any:
    """Hold on one counter; return STALE, MISSING or (committed, held before, codes)."""
    reply = asyncio.get_running_loop().create_future()
    counters.hold_soon(
        batch_id=batch or f"test:{next(_batches)}",
        deadline_ms=1,
        accounts=[(counters.account_key(ACME, ANN), revision)],
        counters=[wanting(key, *quantities, limit=limit, hard=hard)],
        on_reply=reply.set_result,
    )
    [result] = await reply
    return (int(result[0]), int(result[1]), result[2].decode()) if isinstance(result, list) else result


async def settle(counters: Counters, *settlements: Settlement, ended: Sequence[str] = ()) -> None:
    await counters.settle_for("test", settlements, ended_batches=ended)


def total(used: int | None, version: int, batch: str = "", key: str = COUNTER) -> Settlement:
    return Settlement(key, batch, used, version, 60_000)


async def state(counters: Counters, key: str = COUNTER) -> dict[str, str]:
    flat = [part.decode() for part in await counters.connection.execute("HGETALL", key)]
    return dict(zip(flat[::2], flat[1::2], strict=True))


# --- hold and settle ------------------------------------------------------------------------------------


async def test_a_counter_that_redis_does_not_know_is_missing(counters: Counters) -> None:
    assert await hold(counters, 1) == b"m"
    assert await state(counters) == {}


async def test_a_revision_that_is_not_the_accounts_is_stale(counters: Counters) -> None:
    await settle(counters, total(0, 1))
    await counters.publish(ACME, {ANN: 7})

    assert await hold(counters, 1, revision="6") == b"s"
    assert await hold(counters, 1, revision="7") == (0, 0, "h")
    await counters.mark_changing(ACME, [ANN])
    assert await hold(counters, 1, revision="7") == b"s"
    assert await hold(counters, 1, revision="") != b"m"


async def test_holds_add_up_and_end_in_any_order(counters: Counters) -> None:
    await settle(counters, total(3, 1))
    assert await hold(counters, 2, 1, batch="a") == (3, 0, "hh")
    assert await hold(counters, 2, batch="b") == (3, 3, "h")

    await settle(counters, total(8, 3, "b"), ended=["b"])
    await settle(counters, total(6, 2, "a"), ended=["a"])

    assert await state(counters) == {"c": "8", "v": "3", "h": "0"}
    assert await counters.connection.execute("EXISTS", "tg:holds:test") == 0


async def test_settling_twice_changes_nothing(counters: Counters) -> None:
    await settle(counters, total(0, 1))
    await hold(counters, 5, batch="a")
    for _ in range(3):
        await settle(counters, total(5, 2, "a"), ended=["a"])

    assert await state(counters) == {"c": "5", "v": "2", "h": "0"}


async def test_a_hold_may_end_without_a_total(counters: Counters) -> None:
    await settle(counters, total(4, 1))
    await hold(counters, 5, batch="a")
    await settle(counters, total(None, 0, "a"), ended=["a"])

    assert await state(counters) == {"c": "4", "v": "1", "h": "0"}


async def test_without_a_time_to_live_no_counter_is_made(counters: Counters) -> None:
    late = Settlement(COUNTER, "", 5, 2, 0)
    await settle(counters, late)
    before = await state(counters)
    await settle(counters, total(4, 1))
    await settle(counters, late)

    assert before == {}
    assert await state(counters) == {"c": "5", "v": "2"}


async def test_an_older_total_never_replaces_a_newer_one(counters: Counters) -> None:
    await settle(counters, total(9, 9))
    await settle(counters, total(3, 3))
    await settle(counters, total(0, 0))

    assert await state(counters) == {"c": "9", "v": "9"}


async def test_a_counter_twice_in_one_batch_is_held_in_full(counters: Counters) -> None:
    """Calls of one tick may have seen different revisions of the account, and so different limits."""
    await settle(counters, total(0, 1))
    reply = asyncio.get_running_loop().create_future()
    counters.hold_soon(
        batch_id="a",
        deadline_ms=1,
        accounts=[(counters.account_key(ACME, ANN), "*")],
        counters=[wanting(COUNTER, 4), wanting(COUNTER, 9, limit=20)],
        on_reply=reply.set_result,
    )
    await reply
    before = await state(counters)
    await settle(counters, total(13, 2, "a"), ended=["a"])

    assert (before["h"], before["h:a"]) == ("13", "13")
    assert await state(counters) == {"c": "13", "v": "2", "h": "0"}


async def test_codes_tell_the_exhausted_from_the_contended(counters: Counters) -> None:
    await settle(counters, total(6, 1))

    assert await hold(counters, 3, 2, 1, 5, limit=10) == (6, 0, "hchx")
    assert await hold(counters, 1, limit=10) == (6, 4, "c")
    assert await hold(counters, 1, limit=0) == (6, 4, "x")
    assert await hold(counters, 100, limit=10, hard=False) == (6, 4, "h")
    assert await hold(counters, 100, limit=-1) == (6, 104, "h")


async def test_reservations_are_held_apart_and_told_from_holds_in_flight(counters: Counters) -> None:
    await settle(counters, Settlement(COUNTER, "", 4, 1, 60_000, reserved=3, reserve_expire_ms=5_000))
    before = await state(counters)
    await hold(counters, 2, limit=10, batch="a")

    assert before == {"c": "4", "v": "1", "r": "3", "e": "5000", "h": "3"}
    assert await hold(counters, 2, 1, 4, 7, limit=10) == (4, 5, "chrx")
    await settle(counters, Settlement(COUNTER, "a", 6, 2, 60_000, reserved=1, reserve_expire_ms=9_000), ended=["a"])
    settled = {name: text for name, text in (await state(counters)).items() if not name.startswith("h:")}
    assert settled == {"c": "6", "v": "2", "r": "1", "e": "9000", "h": "2"}
    await settle(counters, Settlement(COUNTER, "", 7, 3, 60_000))
    assert {name: text for name, text in (await state(counters)).items() if not name.startswith("h:")} == {
        "c": "7",
        "v": "3",
        "h": "1",
    }


async def test_an_older_total_takes_back_no_reservation(counters: Counters) -> None:
    await settle(counters, Settlement(COUNTER, "", 4, 5, 60_000, reserved=3, reserve_expire_ms=5_000))
    await settle(counters, Settlement(COUNTER, "", 1, 4, 60_000))

    assert await state(counters) == {"c": "4", "v": "5", "r": "3", "e": "5000", "h": "3"}


async def test_one_unknown_counter_does_not_disturb_the_others_of_its_batch(counters: Counters) -> None:
    await settle(counters, total(0, 1))
    reply = asyncio.get_running_loop().create_future()
    counters.hold_soon(
        batch_id="a",
        deadline_ms=77,
        accounts=[(counters.account_key(ACME, ANN), "*"), (counters.account_key(ACME, AccountId("bob")), "5")],
        counters=[
            wanting(OTHER, 1),
            wanting(COUNTER, 1, 2, account=2),
            wanting(COUNTER, 3, 4),
        ],
        on_reply=reply.set_result,
    )

    assert await reply == [b"m", b"s", [b"0", b"0", b"hh"]]
    assert await counters.hold_batches("test") == {"a": (77, [COUNTER])}


async def test_a_batch_that_holds_nothing_is_not_registered(counters: Counters) -> None:
    await settle(counters, total(10, 1))
    await hold(counters, 1)

    assert await counters.hold_batches("test") == {}


@pytest.mark.parametrize("used", [0, 1, LIMIT_MAX - 1, LIMIT_MAX])
async def test_the_largest_limit_is_exact(counters: Counters, used: int) -> None:
    await settle(counters, total(used, 1))
    room = LIMIT_MAX - used

    committed, _, codes = await hold(counters, room + 1, max(1, room), limit=LIMIT_MAX)

    assert committed == used
    assert codes == ("xh" if room else "xx")


async def test_totals_beyond_what_lua_counts_come_back_to_the_unit(counters: Counters) -> None:
    """Only limits are computed with; a total is passed through as text."""
    await settle(counters, total(2**63 - 1, 1))

    assert (await hold(counters, QUANTITY_MAX, limit=-1)) == (2**63 - 1, 0, "h")


async def test_holds_are_exact_as_long_as_lua_counts(counters: Counters) -> None:
    await settle(counters, total(0, 1))
    await hold(counters, *([QUANTITY_MAX] * 1_000), limit=-1, batch="many")
    await hold(counters, EXACT_MAX - 1_000 * QUANTITY_MAX, limit=-1, batch="rest")
    full = await state(counters)
    await settle(counters, total(None, 0, "many"))
    await settle(counters, total(None, 0, "rest"))

    assert full["h"] == str(EXACT_MAX)
    assert (await state(counters))["h"] == "0"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    used=st.integers(0, 30),
    limit=st.integers(0, 40),
    batches=st.lists(st.lists(st.integers(1, 15), min_size=1, max_size=6), min_size=1, max_size=5),
    data=st.data(),
)
async def test_what_is_held_is_what_the_domain_admits(
    counters: Counters, used: int, limit: int, batches: list[list[int]], data: st.DataObject
) -> None:
    """Whatever is held, committed in any order or given up: the sums stay true, and the limit is kept."""
    await counters.connection.execute("FLUSHALL")
    await settle(counters, total(used, 1))
    committed, version = used, 1
    open_batches: dict[str, int] = {}
    for quantities in batches:
        held = sum(open_batches.values())
        batch = f"b{next(_batches)}"

        reply = await hold(counters, *quantities, limit=limit, batch=batch)

        admitted = admit(quantities, used=committed + held, limit=limit)
        assert [code == "h" for code in reply[2]] == admitted
        assert (reply[0], reply[1]) == (committed, held)
        taken = sum(q for q, fits in zip(quantities, admitted, strict=True) if fits)
        if taken:
            open_batches[batch] = taken
        ending = data.draw(st.sampled_from(["", *sorted(open_batches)]))
        if ending:
            quantity = open_batches.pop(ending)
            if data.draw(st.sampled_from(["committed", "given up"])) == "committed":
                committed, version = committed + quantity, version + 1
                await settle(counters, total(committed, version, ending), ended=[ending])
            else:
                await settle(counters, total(None, 0, ending), ended=[ending])
        assert committed + sum(open_batches.values()) <= max(limit, used)
        now = await state(counters)
        assert int(now.get("h", 0)) == sum(open_batches.values())
        assert int(now["c"]) == committed


# --- revisions and sources ------------------------------------------------------------------------------


async def read(counters: Counters, caller: str = "t") -> tuple[bytes | None, bytes | None]:
    return await counters.sources(counters.account_key(ACME, ANN), caller)


async def store(counters: Counters, lease: bytes, revision: int) -> bool:
    await counters.store_sources(counters.account_key(ACME, ANN), lease, revision, f"sources {revision}")
    return (await read(counters, "probe"))[0] == f"sources {revision}".encode()


async def lease_of(counters: Counters, caller: str = "t") -> bytes:
    document, lease = await read(counters, caller)
    assert document is None
    assert lease is not None
    return lease


async def revision_of(counters: Counters) -> bytes | None:
    revision: bytes | None = await counters.connection.execute("HGET", counters.account_key(ACME, ANN), "rev")
    return revision


async def test_what_is_stored_under_a_lease_is_found(counters: Counters) -> None:
    lease = await lease_of(counters)

    assert await store(counters, lease, 5)
    assert await read(counters) == (b"sources 5", None)
    assert await revision_of(counters) == b"5"


async def test_loaders_at_the_same_time_share_a_lease_and_the_first_one_uses_it_up(counters: Counters) -> None:
    first, second = await lease_of(counters, "a"), await lease_of(counters, "b")

    assert first == second
    assert await store(counters, first, 5)
    assert not await store(counters, second, 4)


@pytest.mark.parametrize("event", ["mark", "publish", "roll back", "flush", "forget"])
async def test_everything_that_happens_ends_the_lease(counters: Counters, event: str) -> None:
    lease = await lease_of(counters)
    match event:
        case "mark":
            await counters.mark_changing(ACME, [ANN])
        case "publish":
            await counters.publish(ACME, {ANN: 6})
        case "roll back":
            await counters.mark_changing(ACME, [ANN])
            await counters.publish(ACME, {ANN: 0})
        case "flush":
            await counters.connection.execute("FLUSHALL")
        case "forget":
            counters.forget_soon(ACME, ANN)

    assert not await store(counters, lease, 5)


async def test_nothing_may_be_stored_while_an_account_changes(counters: Counters) -> None:
    await counters.mark_changing(ACME, [ANN])

    assert await read(counters) == (None, None)


async def test_the_last_of_several_changes_publishes_the_newest_revision(counters: Counters) -> None:
    for _ in range(3):
        await counters.mark_changing(ACME, [ANN])
    await counters.publish(ACME, {ANN: 9})
    first = await revision_of(counters)
    await counters.publish(ACME, {ANN: 0})
    second = await revision_of(counters)
    await counters.publish(ACME, {ANN: 8})

    assert (first, second) == (b"", b"")
    assert await revision_of(counters) == b"9"


async def test_a_change_that_is_rolled_back_leaves_nothing_behind(counters: Counters) -> None:
    await store(counters, await lease_of(counters), 5)
    await counters.mark_changing(ACME, [ANN])
    await counters.publish(ACME, {ANN: 0})

    assert await revision_of(counters) is None


async def test_publishing_an_older_revision_keeps_the_newer_one(counters: Counters) -> None:
    await counters.publish(ACME, {ANN: 9})
    await counters.publish(ACME, {ANN: 3})

    assert await revision_of(counters) == b"9"


async def test_a_publication_without_its_mark_publishes(counters: Counters) -> None:
    """Redis was flushed in between."""
    await counters.mark_changing(ACME, [ANN])
    await counters.connection.execute("FLUSHALL")
    await counters.publish(ACME, {ANN: 4})

    assert await revision_of(counters) == b"4"


async def test_many_accounts_are_marked_and_published_at_once(counters: Counters) -> None:
    accounts = [AccountId(f"a{i}") for i in range(500)]
    await counters.mark_changing(ACME, accounts)
    await counters.publish(ACME, {account: n + 1 for n, account in enumerate(accounts)})

    for n in (0, 250, 499):
        key = counters.account_key(ACME, accounts[n])
        assert await counters.connection.execute("HGET", key, "rev") == str(n + 1).encode()


async def test_marks_and_leases_run_out(counters: Counters) -> None:
    key = counters.account_key(ACME, ANN)
    await lease_of(counters)
    lease_ttl = await counters.connection.execute("PTTL", key)
    await counters.mark_changing(ACME, [ANN])
    mark_ttl = await counters.connection.execute("PTTL", key)
    await counters.publish(ACME, {ANN: 3})
    published_ttl = await counters.connection.execute("PTTL", key)
    await lease_of(counters)

    assert 0 < lease_ttl <= 30_000
    assert 0 < mark_ttl <= 30_000
    assert 30_000 < published_ttl <= 600_000
    # A lease on a published account must not shorten the life of its revision.
    assert await counters.connection.execute("PTTL", key) > 30_000


async def test_another_epoch_knows_nothing_of_the_one_before(counters: Counters) -> None:
    renamed = 0

    def on_renamed() -> None:
        nonlocal renamed
        renamed += 1

    counters.on_renamed = on_renamed
    await store(counters, await lease_of(counters), 5)
    counters.begin_epoch(1)
    counters.begin_epoch(1)

    assert renamed == 1
    assert await revision_of(counters) is None


async def test_each_run_of_redis_has_a_namespace_of_its_own(counters: Counters) -> None:
    facts = (await counters.connection.execute("INFO", "server")).decode()
    run = next(line for line in facts.split("\r\n") if line.startswith("run_id:")).removeprefix("run_id:")

    assert counters.account_key(TenantId("t"), AccountId("a")) == f"tg:{run[:8]}.0:{{t/a}}"


# --- the sweeper's list ---------------------------------------------------------------------------------


async def test_a_hold_puts_its_server_on_the_list_even_after_a_flush(counters: Counters) -> None:
    for _ in range(2):
        await counters.connection.execute("FLUSHALL")
        await settle(counters, total(0, 1))
        await hold(counters, 1)

        assert await counters.servers_with_holds() == ["test"]


async def test_a_server_with_holds_cannot_be_struck_off(counters: Counters) -> None:
    await settle(counters, total(0, 1))
    await hold(counters, 1, batch="a")
    await counters.forget_server("test")
    with_holds = await counters.servers_with_holds()
    await settle(counters, total(1, 2, "a"), ended=["a"])
    await counters.forget_server("test")

    assert with_holds == ["test"]
    assert await counters.servers_with_holds() == []
