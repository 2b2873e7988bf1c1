"""A tenant with meters, prices of models and limits that hang on them, and short ways to record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from tallygate_server.catalog import Catalogs, CatalogSource
from tallygate_server.clock import SystemClock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.usage_event import AiUsage, UsageEvent
from tallygate_server.recording import RecordOutcome, RecordResult
from tallygate_server.service import Service
from tallygate_server.storage.engine import Database
from tallygate_server.tenants import TenantDirectory
from tests.support.acme import ANN, fetch, services
from tests.support.clock import FrozenClock

METERED: Final = TenantId("metered")
CLOSED: Final = TenantId("closed")
"""A tenant in which nobody is known who was not made known."""
NOON: Final = datetime(2026, 3, 15, 12, tzinfo=UTC)

CATALOG: Final = """
tenant: {tenant}
default_plan: free
auto_provision: {auto_provision}
features:
  requests: {{kind: counter, meter: requests}}
  tokens: {{kind: counter, meter: tokens}}
  ai_cost: {{kind: counter, meter: ai_cost}}
  soft_requests: {{kind: counter, meter: requests}}
  pro_requests: {{kind: counter, meter: requests}}
  seconds: {{kind: counter, meter: seconds}}
plans:
  free:
    rank: 0
    allowances:
      requests: {{limit: 10, period: day, thresholds: [80%, 100%]}}
      tokens: {{limit: 10000, period: month, thresholds: [50%, 5000]}}
      # A thousandth of a dollar.
      ai_cost: {{limit: 1000000, period: month, thresholds: [50%]}}
      soft_requests: {{limit: 2, period: month, mode: soft, thresholds: [100%]}}
      seconds: {{limit: 1000000000000, period: day}}
  pro:
    rank: 1
    allowances:
      requests: {{limit: 100, period: day}}
      pro_requests: {{limit: unlimited, period: month, anchor: billing}}
meters:
  requests: {{event_type: llm.call, aggregation: count, group_by: {{model: ai.model_key, region: region}}}}
  tokens:
    event_type: llm.call
    aggregation: sum
    value_property: ai.total_tokens
    group_by: {{model: ai.model_key, operation: ai.operation}}
    filters: {{operation: [chat, rewrite]}}
  ai_cost: {{event_type: llm.call, aggregation: sum, value_property: ai.cost_nanos, group_by: {{model: ai.model_key}}}}
  seconds: {{event_type: job.done, aggregation: sum, value_property: timing.seconds, scale: 3}}
  slowest: {{event_type: job.done, aggregation: max, value_property: timing.seconds, scale: 3}}
  authors: {{event_type: job.done, aggregation: unique, value_property: author}}
model_prices:
  small: {{input: 0.15, output: 0.60, cached_input: 0.075, currency: USD}}
  dated:
    - {{input: 1, output: 2, currency: USD, start: 2026-03-01, end: 2026-03-10}}
    - {{input: 2, output: 4, currency: EUR, start: 2026-03-12}}
"""


async def apply_metered_catalog(
    database_url: str, tenant_id: TenantId = METERED, *, auto_provision: bool = True, more: str = ""
) -> None:
    """Make the tenant known; `more` comes on top of the catalog."""
    database = Database(database_url, pool_size=1)
    try:
        catalogs = Catalogs(database, TenantDirectory(database, SystemClock()), clock=SystemClock())
        text = CATALOG.format(tenant=tenant_id, auto_provision="true" if auto_provision else "false")
        await catalogs.apply(CatalogSource(text + more))
    finally:
        await database.close()


@asynccontextmanager
async def metered_services(
    database_url: str, redis_url: str, count: int = 1, *, clock: FrozenClock | None = None
) -> AsyncIterator[list[Service]]:
    """Open servers whose clock stands still at noon."""
    async with services(database_url, redis_url, count, clock=clock or FrozenClock(NOON)) as opened:
        yield opened


def a_call(event_id: str, *, account_id: str = ANN, model: str = "small", **more: Any) -> UsageEvent:
    """Build the event of one call of a model: 1,000 tokens in and 500 out cost 450,000 nanos."""
    tokens = {"input_tokens": 1_000, "output_tokens": 500, "operation": "chat"} | more.pop("ai", {})
    return UsageEvent(
        source="/chat",
        event_id=event_id,
        type="llm.call",
        account_id=AccountId(account_id),
        ai=AiUsage(model_key=model, **tokens),
        **more,
    )


def a_job(event_id: str, seconds: Any = 1.5, *, author: Any = "ann", account_id: str = ANN, **more: Any) -> UsageEvent:
    """Build the event of a job that took so long."""
    data = {"timing": {"seconds": seconds}, "author": author}
    return UsageEvent(
        source="/jobs", event_id=event_id, type="job.done", account_id=AccountId(account_id), data=data, **more
    )


def outcomes(results: Sequence[RecordResult]) -> list[str]:
    """Return what became of events, as words: an outcome, or the reason of a refusal."""
    return [
        result.error.reason if result.error is not None else result.outcome.value
        for result in results
        if result.outcome is not RecordOutcome.REFUSED or result.error is not None
    ]


async def totals(database_url: str, *, account_id: str = ANN, tenant_id: str = METERED) -> dict[str, int]:
    """Return the total of each counter of the account, by feature; all of them have one period."""
    rows = await fetch(
        database_url,
        "SELECT feature_key, used_quantity FROM usage_counters WHERE (tenant_id, account_id) = ($1, $2)",
        tenant_id,
        account_id,
    )
    assert len({row["feature_key"] for row in rows}) == len(rows), "several periods"
    return {row["feature_key"]: row["used_quantity"] for row in rows}


async def events_in(database_url: str) -> int:
    """Return how many events are recorded."""
    [row] = await fetch(database_url, "SELECT count(*) FROM usage_events")
    count: int = row[0]
    return count
