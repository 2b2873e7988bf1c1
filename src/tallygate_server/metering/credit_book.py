"""Limits that depend on more than one counter: an allowance, what rolled over to it, and credits.

Every way of counting under lock (increments, commits of reservations, events) opens a book over the counters that it
locks, asks their accounts who pays, and writes the book beside the counters. Readers open one without locks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from tallygate_server.domain.catalog import LimitMode
from tallygate_server.domain.credits import (
    NOTHING_ROLLED,
    Burn,
    CounterAccount,
    CreditBalance,
    Payment,
    PeriodBefore,
    Rolled,
    Totals,
    balance_at,
    roll,
    window_at,
)
from tallygate_server.domain.entitlement import AccountSources, Entitlement
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import EPOCH, Period
from tallygate_server.hot_accounts import HotFeature
from tallygate_server.storage import credit_rows
from tallygate_server.storage.credit_rows import CounterChain, CreditKey
from tallygate_server.storage.ledger import (
    NO_COUNTER,
    CounterKey,
    CounterState,
    ExactTransaction,
    LedgerConnection,
    LockedCounter,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedFeature:
    """A counter whose limit depends on more than its own total."""

    key: CounterKey
    period: Period
    entitlement: Entitlement
    time_zone: ZoneInfo

    @classmethod
    def of(cls, sources: AccountSources, feature: HotFeature, period: Period) -> CountedFeature:
        """Return the counter in which the account's usage of the feature counts in the period."""
        return cls(
            key=CounterKey(
                sources.tenant_id,
                sources.account_id,
                feature.entitlement.feature_key,
                period.kind.value,
                period.start,
            ),
            period=period,
            entitlement=feature.plain.entitlement,
            time_zone=ZoneInfo(sources.time_zone),
        )


Balances = dict[CreditKey, tuple[str, CreditBalance]]
"""By credit and window: the feature's key, and what there is; shared by the counters of one feature."""


class CreditBook:
    """Accounts of locked counters, and what is to be written of them."""

    def __init__(
        self, transaction: ExactTransaction, accounts: Mapping[CounterKey, CounterAccount], at: datetime
    ) -> None:
        """Use `lock`."""
        self._transaction = transaction
        self._accounts = accounts
        self._balances: Balances = {}
        self._at = at

    @classmethod
    async def lock(
        cls,
        transaction: ExactTransaction,
        counters: Mapping[CounterKey, datetime | None],
        counted: Iterable[CountedFeature],
        at: datetime,
    ) -> tuple[dict[CounterKey, LockedCounter], CreditBook]:
        """Lock counters (key: period end) and all that the limits of the counted ones depend on.

        Credits count as they are at the instant, which is the time of the decision, also for what happened earlier. The
        counters that are returned include those that hand something on. Reservations whose time is over are ended.
        """
        by_key = {each.key: each for each in counted}
        wanted = dict(counters)
        begun: dict[CounterKey, CounterChain] = {}
        rolling = [key for key, each in by_key.items() if each.entitlement.rollover is not None]
        if rolling:
            begun = await _begin(transaction.connection, rolling)
            for key, chain in begun.items():
                if chain.before is not None and chain.before.rolled_in is not None:
                    wanted[key._replace(period_start=chain.before.period_start)] = chain.before_end
        locked = await transaction.lock_counters(sorted(wanted.items(), key=lambda item: item[0])) if wanted else {}
        await transaction.expire_reservations(locked, at)
        newest: dict[CounterKey, CounterKey] = {}
        for key in sorted(begun):
            # What this very transaction has begun is the period before, too.
            _roll(by_key[key], begun[key], newest.get(_chain_of(key)), locked)
            newest[_chain_of(key)] = key
        book = cls(transaction, {}, at)
        book._balances = await _balances(transaction.connection, by_key.values(), at, lock=True)
        book._accounts = {
            key: _account(each, locked[key], book._balances, at) for key, each in by_key.items() if key in locked
        }
        return locked, book

    def account(self, key: CounterKey) -> CounterAccount | None:
        """Return the counter's account; None for one whose limit depends on its total alone."""
        return self._accounts.get(key)

    async def write(self) -> None:
        """Store the balances that were burned; counters are written by the transaction."""
        await credit_rows.write_balances(self._transaction.connection, self._balances, self._at)


async def read_accounts(
    connection: LedgerConnection,
    counted: Sequence[CountedFeature],
    states: Mapping[CounterKey, CounterState],
    at: datetime,
) -> dict[CounterKey, CounterAccount]:
    """Return the accounts of counters as they stand, without locking or storing anything.

    `states` are those of the same counters, read on the same connection: they say what is held at the instant.
    """
    chains = await credit_rows.read_chains(connection, [each.key for each in counted])
    balances = await _balances(connection, counted, at, lock=False)
    accounts: dict[CounterKey, CounterAccount] = {}
    for each in counted:
        chain = chains[each.key]
        totals = chain.totals or Totals()
        if totals.rolled_in is None:
            rolled = _rolled(each, chain, totals)
            totals.rolled_in, totals.rolled_out = rolled.rolled_in, rolled.rolled_out
        totals.reserved = states.get(each.key, NO_COUNTER).held
        accounts[each.key] = _account(each, totals, balances, at)
    return accounts


def credits_json(payment: Payment) -> str | None:
    """Return what the ledger entry says of who paid: `[[grant, window start, quantity], ...]`; None for no credit."""
    if not payment.burns:
        return None
    return json.dumps([[burn.grant_id, burn.window_start.isoformat(), burn.quantity] for burn in payment.burns])


def burns_from_json(text: str | None) -> tuple[Burn, ...]:
    """Return what `credits_json` wrote."""
    if text is None:
        return ()
    return tuple(
        Burn(grant_id, datetime.fromisoformat(start), quantity) for grant_id, start, quantity in json.loads(text)
    )


async def _begin(connection: LedgerConnection, rolling: Sequence[CounterKey]) -> dict[CounterKey, CounterChain]:
    """Return those of the counters that are counted in for the first time; nobody else begins one meanwhile."""
    chains = await credit_rows.read_chains(connection, rolling)
    begun = [key for key, chain in chains.items() if chain.totals is None or chain.totals.rolled_in is None]
    if not begun:
        return {}
    await credit_rows.lock_chains(connection, begun)
    chains = await credit_rows.read_chains(connection, begun)
    return {key: chain for key, chain in chains.items() if chain.totals is None or chain.totals.rolled_in is None}


def _chain_of(key: CounterKey) -> CounterKey:
    return key._replace(period_start=EPOCH)


def _roll(
    counted: CountedFeature,
    chain: CounterChain,
    begun_before: CounterKey | None,
    locked: dict[CounterKey, LockedCounter],
) -> None:
    """Fix what rolls into a counter, and out of the one before it."""
    counter, before = locked[counted.key], chain.before
    before_key = None
    if before is not None:
        before_key = counted.key._replace(period_start=before.period_start)
    if begun_before is not None and (before_key is None or before_key < begun_before):
        before_key = begun_before
    if before_key in locked:
        held = locked[before_key]
        before = PeriodBefore(
            period_start=before_key.period_start,
            used=held.used,
            reserved=held.reserved,
            credited=held.credited,
            limit=held.limit,
            rolled_in=held.rolled_in,
            rolled_out=held.rolled_out,
        )
    rolled = _rolled(counted, chain._replace(before=before), counter)
    if counter.version == 0:
        # Until usage is counted: what it would have to hand on.
        counter.limit = counted.entitlement.limit_quantity
    counter.rolled_in, counter.rolled_out, counter.changed = rolled.rolled_in, rolled.rolled_out, True
    if rolled.out_of_before is not None:
        assert before_key is not None
        locked[before_key].rolled_out = rolled.out_of_before
        locked[before_key].changed = True


def _rolled(counted: CountedFeature, chain: CounterChain, totals: Totals | LockedCounter) -> Rolled:
    if totals.used:
        # Counted before there was a rollover: it began without one.
        return NOTHING_ROLLED
    return roll(counted.entitlement, counted.period, chain.before, later=chain.later, time_zone=counted.time_zone)


async def _balances(
    connection: LedgerConnection, counted: Iterable[CountedFeature], at: datetime, *, lock: bool
) -> Balances:
    wanted = {
        CreditKey(each.key.tenant_id, each.key.account_id, grant.grant_id, window_at(grant, at).start): grant
        for each in counted
        if each.entitlement.limit_quantity != LIMIT_UNLIMITED
        for grant in each.entitlement.credits
        if grant.active(at)
    }
    found = await credit_rows.find_balances(connection, sorted(wanted), lock=lock)
    return {
        key: (grant.feature_key, balance_at(grant, at, found[key].balance, later=found[key].later))
        for key, grant in wanted.items()
    }


def _account(
    counted: CountedFeature, counter: Totals | LockedCounter, balances: Balances, at: datetime
) -> CounterAccount:
    entitlement, key = counted.entitlement, counted.key
    active = []
    for grant in entitlement.credits:
        if grant.active(at):
            window_start = window_at(grant, at).start
            found = balances.get(CreditKey(key.tenant_id, key.account_id, grant.grant_id, window_start))
            if found is not None:
                active.append(found[1])
    return CounterAccount(
        limit=entitlement.limit_quantity,
        hard=entitlement.limit_mode is LimitMode.HARD,
        counter=counter,
        credits=tuple(active),
    )
