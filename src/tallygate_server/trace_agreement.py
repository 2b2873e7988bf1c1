"""Compare what a client was told, call by call, with what the server has in its counters and its ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

NO_PERIOD: Final = 0
"""Stands for the start or the end of a period that has none: it lasts for ever."""

UNLIMITED: Final = -1

EXAMPLES_MAX: Final = 3
"""Calls named by one finding; more would hide the others."""


@dataclass(slots=True, kw_only=True)
class Told:
    """The answer to one row of the trace."""

    row: int
    quantity: int
    request_id: str
    allowed: bool
    reason: str
    used_quantity: int
    limit_quantity: int
    period_end_s: int
    entry_id: str
    replayed: bool


@dataclass(slots=True, kw_only=True)
class LedgerLine:
    """One entry of the ledger."""

    entry_id: str
    request_id: str
    quantity: int
    used_quantity: int
    period_start_s: int


@dataclass(slots=True, kw_only=True)
class ServerSide:
    """What the server says about one account."""

    used_quantity: int
    """The counter, in the period that starts as follows."""
    period_start_s: int
    entries: Sequence[LedgerLine]
    held_quantity: int = 0
    """Units that reservations hold, when every call has been answered: none should be left."""


def find_disagreements(
    told: Mapping[str, Sequence[Told]],
    server: Mapping[str, ServerSide],
    *,
    committed: bool,
) -> list[str]:
    """Return every disagreement as a sentence that names the account; none means exact agreement.

    `committed` says that answers came after the commit: then they are prefix sums themselves. Answers of
    ACCEPTED calls are not; their ledger entries still are.
    """
    findings: list[str] = []
    for account_id in sorted(told):
        findings += (
            f"account {account_id}: {finding}"
            for finding in _account_findings(told[account_id], server[account_id], committed=committed)
        )
    return findings


def _account_findings(told: Sequence[Told], server: ServerSide, *, committed: bool) -> Iterable[str]:
    allowed = [answer for answer in told if answer.allowed]
    yield from _sums(allowed, server)
    if server.held_quantity:
        yield f"{server.held_quantity:,} units are still held"
    yield from _entries(allowed, told, server.entries, committed=committed)
    yield from _periods(allowed, server.entries)
    yield from _gaps(
        "the ledger's running totals",
        ((entry.period_start_s, entry.used_quantity, entry.quantity, entry.request_id) for entry in server.entries),
    )
    if committed:
        yield from _gaps(
            "the totals that the client was told",
            ((answer.period_end_s, answer.used_quantity, answer.quantity, answer.request_id) for answer in allowed),
        )
    beyond = [
        answer
        for answer in allowed
        if answer.limit_quantity != UNLIMITED
        and answer.used_quantity > answer.limit_quantity
        and answer.reason != "OVERAGE"
    ]
    if beyond:
        yield f"{len(beyond)} calls were allowed beyond the limit ({_rows(beyond)})"


def _sums(allowed: Sequence[Told], server: ServerSide) -> Iterable[str]:
    """Compare client and ledger over all periods, and ledger and counter in the present one."""
    client_sum = sum(answer.quantity for answer in allowed)
    ledger_sum = sum(entry.quantity for entry in server.entries)
    if client_sum != ledger_sum:
        yield f"the client was told {client_sum:,} units, the ledger has {ledger_sum:,}"
    present_sum = sum(entry.quantity for entry in server.entries if entry.period_start_s == server.period_start_s)
    if server.used_quantity != present_sum:
        yield f"the counter says {server.used_quantity:,} units, the ledger has {present_sum:,}"


def _periods(allowed: Sequence[Told], entries: Sequence[LedgerLine]) -> Iterable[str]:
    """Check that calls which were told one period are in one period of the ledger, and the other way round."""
    starts = {entry.request_id: entry.period_start_s for entry in entries}
    pairs = {(answer.period_end_s, starts[answer.request_id]) for answer in allowed if answer.request_id in starts}
    ends = {end for end, _ in pairs}
    if len(pairs) != len(ends) or len(pairs) != len({start for _, start in pairs}):
        yield "calls are in other periods of the ledger than the client was told"


def _entries(
    allowed: Sequence[Told], told: Sequence[Told], entries: Sequence[LedgerLine], *, committed: bool
) -> Iterable[str]:
    """Match allowed calls and entries one to one."""
    if len(entries) != len(allowed):
        yield f"{len(allowed):,} calls were allowed, the ledger has {len(entries):,} entries"
    by_request: defaultdict[str, list[LedgerLine]] = defaultdict(list)
    for entry in entries:
        by_request[entry.request_id].append(entry)
    twice = [request_id for request_id, lines in by_request.items() if len(lines) > 1]
    if twice:
        yield f"{len(twice)} requests are in the ledger more than once ({', '.join(twice[:EXAMPLES_MAX])})"
    missing = [answer for answer in allowed if answer.request_id not in by_request]
    if missing:
        yield f"{len(missing)} allowed calls are not in the ledger ({_rows(missing)})"
    counted_though_denied = [answer for answer in told if not answer.allowed and answer.request_id in by_request]
    if counted_though_denied:
        yield f"{len(counted_though_denied)} denied calls are in the ledger ({_rows(counted_though_denied)})"
    unknown = by_request.keys() - {answer.request_id for answer in told}
    if unknown:
        yield f"{len(unknown)} entries of the ledger belong to no call ({', '.join(sorted(unknown)[:EXAMPLES_MAX])})"
    different = [
        answer
        for answer in allowed
        if answer.request_id in by_request and not _same(answer, by_request[answer.request_id][0], committed=committed)
    ]
    if different:
        yield f"{len(different)} calls were told something else than the ledger says ({_rows(different)})"


def _same(answer: Told, entry: LedgerLine, *, committed: bool) -> bool:
    if answer.quantity != entry.quantity:
        return False
    # An ACCEPTED call is answered before its entry exists.
    return not committed or (answer.entry_id, answer.used_quantity) == (entry.entry_id, entry.used_quantity)


def _gaps(what: str, items: Iterable[tuple[int, int, int, str]]) -> Iterable[str]:
    """Check that every total is the one before plus its own quantity, from zero, in each period.

    Items are period, total, quantity and request id.
    """
    before: defaultdict[int, int] = defaultdict(int)
    for period, total, quantity, request_id in sorted(items):
        if total != before[period] + quantity:
            yield (
                f"{what} have a gap or an overlap: {before[period]:,} is followed by {total:,}"
                f" with a quantity of {quantity:,} (request {request_id})"
            )
            return
        before[period] = total


def _rows(answers: Sequence[Told]) -> str:
    rows = ", ".join(str(answer.row) for answer in answers[:EXAMPLES_MAX])
    return f"rows {rows}{', ...' if len(answers) > EXAMPLES_MAX else ''}"
