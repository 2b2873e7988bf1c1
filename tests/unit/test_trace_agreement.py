from __future__ import annotations

from collections.abc import Callable

import pytest

from tallygate_server.trace_agreement import LedgerLine, ServerSide, Told, find_disagreements


def told(row: int, quantity: int, used: int, *, allowed: bool = True, limit: int = 100, reason: str = "") -> Told:
    return Told(
        row=row,
        quantity=quantity,
        request_id=f"r{row}",
        allowed=allowed,
        reason=reason or ("OK" if allowed else "EXHAUSTED"),
        used_quantity=used,
        limit_quantity=limit,
        period_end_s=1_000,
        entry_id=f"e{row}" if allowed else "",
        replayed=False,
    )


def line(row: int, quantity: int, used: int) -> LedgerLine:
    return LedgerLine(
        entry_id=f"e{row}", request_id=f"r{row}", quantity=quantity, used_quantity=used, period_start_s=1_000
    )


class World:
    """Three calls of one account, the last one denied, in agreement."""

    def __init__(self) -> None:
        self.told = [told(1, 60, 90), told(2, 30, 30), told(3, 20, 90, allowed=False)]
        self.entries = [line(1, 60, 90), line(2, 30, 30)]
        self.used = 90

    def findings(self, *, committed: bool = True) -> list[str]:
        """Compare."""
        side = ServerSide(used_quantity=self.used, period_start_s=1_000, entries=self.entries)
        return find_disagreements({"a": self.told}, {"a": side}, committed=committed)


def test_equal_sides_agree() -> None:
    assert World().findings() == []


def _lost(world: World) -> None:
    del world.entries[1]


def _counted_twice(world: World) -> None:
    world.entries.append(
        LedgerLine(entry_id="e9", request_id="r2", quantity=30, used_quantity=120, period_start_s=1_000)
    )


def _counter_off(world: World) -> None:
    world.used = 91


def _denied_counted(world: World) -> None:
    world.entries.append(line(3, 20, 110))


def _stranger(world: World) -> None:
    world.entries.append(line(7, 5, 95))


def _other_total_told(world: World) -> None:
    world.told[0].used_quantity = 91


def _other_quantity(world: World) -> None:
    world.entries[0].quantity = 61


def _beyond_limit(world: World) -> None:
    world.told[0].limit_quantity = 89


def _same_total_twice(world: World) -> None:
    world.told[0].used_quantity = 60
    world.entries[0].used_quantity = 60


def _other_period(world: World) -> None:
    world.entries[0].period_start_s = 2_000


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (_lost, "1 allowed calls are not in the ledger (rows 2)"),
        (_counted_twice, "1 requests are in the ledger more than once (r2)"),
        (_counter_off, "the counter says 91 units, the ledger has 90"),
        (_denied_counted, "1 denied calls are in the ledger (rows 3)"),
        (_stranger, "1 entries of the ledger belong to no call (r7)"),
        (_other_total_told, "1 calls were told something else than the ledger says (rows 1)"),
        (_other_quantity, "the client was told 90 units, the ledger has 91"),
        (_beyond_limit, "1 calls were allowed beyond the limit (rows 1)"),
        (_same_total_twice, "the ledger's running totals have a gap or an overlap"),
        (_other_period, "calls are in other periods of the ledger than the client was told"),
    ],
)
def test_each_disagreement_is_named(break_it: Callable[[World], None], words: str) -> None:
    world = World()
    break_it(world)

    findings = world.findings()

    assert any(words in finding for finding in findings), findings
    assert all(finding.startswith("account a: ") for finding in findings)


def test_a_gap_in_what_the_client_was_told_is_found_though_sums_agree() -> None:
    world = World()
    world.told[0].used_quantity, world.told[1].used_quantity = 91, 31

    assert any("the totals that the client was told have a gap" in finding for finding in world.findings())


def test_answers_before_the_commit_need_not_be_prefix_sums() -> None:
    world = World()
    world.told[0].used_quantity = world.told[1].used_quantity = 0
    world.told[0].entry_id = world.told[1].entry_id = ""

    assert world.findings(committed=False) == []


def test_soft_limits_may_be_exceeded() -> None:
    world = World()
    world.told[0].limit_quantity = 50
    world.told[0].reason = "OVERAGE"

    assert world.findings() == []


def test_totals_start_again_in_a_new_period() -> None:
    answers = [told(1, 60, 60), told(2, 30, 30)]
    answers[1].period_end_s = 2_000
    entries = [line(1, 60, 60), line(2, 30, 30)]
    entries[1].period_start_s = 2_000
    side = ServerSide(used_quantity=30, period_start_s=2_000, entries=entries)

    assert find_disagreements({"a": answers}, {"a": side}, committed=True) == []


def test_a_period_that_has_just_begun_counts_nothing() -> None:
    side = ServerSide(used_quantity=0, period_start_s=2_000, entries=[line(1, 60, 60)])

    assert find_disagreements({"a": [told(1, 60, 60)]}, {"a": side}, committed=True) == []
