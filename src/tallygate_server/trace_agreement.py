"""Compare what a client was told, call by call, with what the server has in its counters and its ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

NO_END: Final = 0
"""Stands for the end of a period that has none."""

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
    period_end_s: int


@dataclass(slots=True, kw_only=True)
class ServerSide:
    """What the server says about one account."""

    used_quantity: int
    """The counter, in the period that ends as follows."""
    period_end_s: int
    entries: Sequence[LedgerLine]


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
    yield from _entries(allowed, told, server.entries, committed=committed)
    yield from _gaps("the ledger's running totals", server.entries)
    if committed:
        yield from _gaps("the totals that the client was told", allowed)
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
    """Compare client, ledger and counter, period by period."""
    by_client = _sum_by_period(allowed)
    by_ledger = _sum_by_period(server.entries)
    for period_end_s in sorted(by_client.keys() | by_ledger.keys()):
        client_sum, ledger_sum = by_client[period_end_s], by_ledger[period_end_s]
        if client_sum != ledger_sum:
            yield f"the client was told {client_sum:,} units, the ledger has {ledger_sum:,}"
    ledger_sum = by_ledger[server.period_end_s]
    if server.used_quantity != ledger_sum:
        yield f"the counter says {server.used_quantity:,} units, the ledger has {ledger_sum:,}"


def _sum_by_period(items: Iterable[Told | LedgerLine]) -> defaultdict[int, int]:
    sums: defaultdict[int, int] = defaultdict(int)
    for item in items:
        sums[item.period_end_s] += item.quantity
    return sums


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
    counted_though_denied = [
        answer for answer in told if not answer.allowed and answer.request_id in by_request
    ]
    if counted_though_denied:
        yield f"{len(counted_though_denied)} denied calls are in the ledger ({_rows(counted_though_denied)})"
    unknown = by_request.keys() - {answer.request_id for answer in told}
    if unknown:
        yield f"{len(unknown)} entries of the ledger belong to no call ({', '.join(sorted(unknown)[:EXAMPLES_MAX])})"
    different = [
        answer
        for answer in allowed
        if answer.request_id in by_request
        and not _same(answer, by_request[answer.request_id][0], committed=committed)
    ]
    if different:
        yield f"{len(different)} calls were told something else than the ledger says ({_rows(different)})"


def _same(answer: Told, entry: LedgerLine, *, committed: bool) -> bool:
    if answer.quantity != entry.quantity:
        return False
    # An ACCEPTED call is answered before its entry exists.
    return not committed or (answer.entry_id, answer.used_quantity) == (entry.entry_id, entry.used_quantity)


def _gaps(what: str, items: Sequence[Told | LedgerLine]) -> Iterable[str]:
    """Check that every total is the one before plus its own quantity, from zero, in each period."""
    by_period: defaultdict[int, list[Told | LedgerLine]] = defaultdict(list)
    for item in items:
        by_period[item.period_end_s].append(item)
    for period_items in by_period.values():
        period_items.sort(key=lambda item: item.used_quantity)
        total = 0
        for item in period_items:
            if item.used_quantity != total + item.quantity:
                yield (
                    f"{what} have a gap or an overlap: {total:,} is followed by {item.used_quantity:,}"
                    f" with a quantity of {item.quantity:,} (request {item.request_id})"
                )
                break
            total = item.used_quantity


def _rows(answers: Sequence[Told]) -> str:
    rows = ", ".join(str(answer.row) for answer in answers[:EXAMPLES_MAX])
    return f"rows {rows}{', ...' if len(answers) > EXAMPLES_MAX else ''}"
