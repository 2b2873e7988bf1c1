"""A tenant whose limits depend on more than counters: credits, rollovers, overrides; and the audit of who paid."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from typing import Any, Final

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.call import CheckAnswer, IncrementAnswer
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.grants import GrantView, NewGrant
from tallygate_server.grants.rules import AskedKind
from tallygate_server.service import Service
from tests.support.acme import ANN, a_check, an_increment, fetch

CREDITA: Final = TenantId("credita")

_CATALOG: Final = """
tenant: credita
default_plan: free
auto_provision: true
features:
  words: {kind: counter}
  soft: {kind: counter}
  rolling: {kind: counter}
  capped: {kind: counter}
  endless: {kind: counter}
  extra: {kind: counter}
  devices: {kind: gauge}
  export: {kind: boolean}
  history: {kind: config}
plans:
  free:
    rank: 0
    allowances:
      words: {limit: 10, period: month, thresholds: [80%, 100%]}
      soft: {limit: 10, period: month, mode: soft}
      rolling: {limit: 10, period: month, rollover: {max: 0}}
      capped: {limit: 10, period: month, rollover: {min: 3, max: 5}}
      endless: {limit: unlimited, period: month}
      devices: 2
      history: 30
  pro:
    rank: 1
    allowances:
      words: {limit: 100, period: month, thresholds: [80%, 100%]}
      rolling: {limit: 20, period: month, rollover: {max: 0}}
      devices: 5
      export: on
      history: 180
"""


async def apply_catalog(service: Service) -> None:
    """Make the tenant known."""
    await service.catalogs.apply(CatalogSource(_CATALOG))


def a_credit(quantity: int, *, feature: str = "words", kind: AskedKind = AskedKind.BONUS, **more: Any) -> NewGrant:
    """Ask for a credit."""
    return NewGrant(feature_key=FeatureKey(feature), kind=kind, credit_quantity=quantity, reason="a test", **more)


async def give(service: Service, wanted: NewGrant, *, account_id: AccountId = ANN, **more: Any) -> GrantView:
    """Give it."""
    return await service.grants.create(CREDITA, account_id, wanted, actor="tester", **more)


async def spend(
    service: Service, quantity: int = 1, feature_key: str = "words", *, account_id: AccountId = ANN, **more: Any
) -> IncrementAnswer:
    """Count."""
    return await service.meter.increment(
        an_increment(feature_key, quantity, account_id=account_id, tenant_id=CREDITA, **more)
    )


async def spent(service: Service, quantity: int = 1, feature_key: str = "words", **more: Any) -> bool:
    """Count, and tell whether it was allowed."""
    return (await spend(service, quantity, feature_key, **more)).reason.allows


async def look(service: Service, feature_key: str = "words", quantity: int = 1) -> CheckAnswer:
    """Check."""
    return await service.checker.check(a_check(feature_key, quantity, tenant_id=CREDITA))


async def standing(service: Service, feature_key: str = "words") -> tuple[int, int, int]:
    """Return limit, used and remaining, which every way of asking must tell alike."""
    answer = await look(service, feature_key)
    usage = await service.usage.usage(CREDITA, ANN, FeatureKey(feature_key))
    quota = {each.feature_key: each for each in (await service.usage.quota(CREDITA, ANN)).usages}[feature_key]
    said = (answer.limit_quantity, answer.used_quantity, answer.remaining_quantity)
    assert (usage.limit_quantity, usage.used_quantity, usage.remaining_quantity) == said
    assert (quota.limit_quantity, quota.used_quantity, quota.remaining_quantity) == said
    return said


async def known(service: Service) -> None:
    """Make the account, on the default plan."""
    await service.accounts.provision(CREDITA, ANN)


async def balances(database_url: str) -> dict[tuple[str, datetime], tuple[int, int]]:
    """Return (given, used) of every stored balance, by grant and window."""
    rows = await fetch(database_url, "SELECT * FROM grant_balances ORDER BY grant_id, window_start")
    return {(row["grant_id"], row["window_start"]): (row["given_quantity"], row["used_quantity"]) for row in rows}


async def assert_credits_balance(database_url: str) -> None:
    """Check every balance, and every counter's credited part, against the entries that they paid for."""
    burned: defaultdict[tuple[str, datetime], int] = defaultdict(int)
    credited: defaultdict[tuple[object, ...], int] = defaultdict(int)
    key = ("account_id", "feature_key", "period_kind", "period_start")
    for entry in await fetch(database_url, "SELECT * FROM usage_entries"):
        for grant_id, start, quantity in json.loads(entry["credits"] or "[]"):
            burned[grant_id, datetime.fromisoformat(start)] += quantity
            credited[tuple(entry[name] for name in key)] += quantity
    stored = await balances(database_url)
    assert {each: used for each, (_, used) in stored.items() if used} == {k: v for k, v in burned.items() if v}
    assert all(0 <= used <= given for given, used in stored.values())
    for counter in await fetch(database_url, "SELECT * FROM usage_counters"):
        assert counter["credited_quantity"] == credited[tuple(counter[name] for name in key)]
        rolled_in = counter["rolled_in_quantity"]
        if rolled_in is not None and counter["limit_quantity"] >= 0:
            # What came in, and what the plan gives, pays for all that credits do not.
            most = counter["limit_quantity"] + rolled_in - counter["rolled_out_quantity"]
            assert counter["used_quantity"] - counter["credited_quantity"] <= max(0, most)
