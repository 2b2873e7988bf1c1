"""QueryUsage and ListUsageEntries over the wire and from the command line, on a server in this process."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tallygate.v1 import catalog_pb2, usage_event_pb2, usage_pb2, usage_service_pb2
from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.cli.usage_commands import BAR_WIDTH, bar
from tallygate_server.client import CallFailed, Client
from tallygate_server.config import Settings
from tallygate_server.domain import usage_windows
from tallygate_server.rollups import queries
from tests.support.usage_rows import apply_catalog

NOW = datetime.now(UTC)
MODELS = ("large", "small")


@dataclass(frozen=True, slots=True)
class Studio:
    """A server with the tenant `studio`, and ways to speak to it."""

    app: App
    client: Client
    address: str

    async def count(self, account_id: str, quantity: int, **more: Any) -> None:
        """Count tokens."""
        request = usage_service_pb2.IncrementRequest(
            tenant_id="studio", account_id=account_id, feature_key="tokens", quantity=quantity, **more
        )
        answer = await self.client.call(self.client.usage.Increment, request)
        assert answer.entry_id, answer

    async def query(self, **wanted: Any) -> usage_service_pb2.QueryUsageResponse:
        """Ask for usage of the last hours, of tokens unless told otherwise."""
        if not {"meter_key", "feature_key", "ai_cost"} & set(wanted):
            wanted["feature_key"] = "tokens"
        wanted = dict[str, Any](tenant_id="studio", start_time=NOW - timedelta(hours=3)) | wanted
        request = usage_service_pb2.QueryUsageRequest(**wanted)
        return await self.client.call(self.client.usage.QueryUsage, request)

    async def refused(self, **wanted: Any) -> CallFailed:
        """Ask, and return why not."""
        with pytest.raises(CallFailed) as caught:
            await self.query(**wanted)
        return caught.value

    async def say(self, *arguments: str) -> Result:
        """Run `tallygate usage ...` in a thread: it has a loop of its own."""
        return await asyncio.to_thread(
            CliRunner().invoke, command_line, ["usage", *arguments], env={"TALLYGATE_TARGET": self.address}
        )


_PLANS = """
currency: USD
default_plan: free
auto_provision: true
plans:
  free:
    allowances:
      tokens: {limit: unlimited, period: month}
model_prices:
  gpt: {input: 3.00, output: 6.00}
"""


@pytest.fixture
async def studio(fresh_database: str, fresh_redis: str) -> AsyncIterator[Studio]:
    await apply_catalog(fresh_database, more=_PLANS)
    settings = Settings.model_validate(
        {
            "database_url": fresh_database,
            "redis_url": fresh_redis,
            "grpc_port": 0,
            "ops_port": 0,
            "run_workers": False,
            "drain_delay_ms": 0,
        }
    )
    async with App.open(settings) as app:
        address = f"127.0.0.1:{app.grpc_port}"
        async with Client(address) as client:
            yield Studio(app, client, address)


def sums(answer: usage_service_pb2.QueryUsageResponse) -> list[tuple[dict[str, str], int]]:
    return [(dict(row.group), row.quantity) for row in answer.rows]


async def test_increments_are_summed_up_by_group_before_and_after_they_are_rolled_up(studio: Studio) -> None:
    before_ns = datetime.now(UTC)
    for account_id in ("ann", "bob"):
        for quantity, model in enumerate(MODELS, start=1):
            await studio.count(account_id, quantity, dimensions={"model": model})
    wanted: dict[str, Any] = {
        "group_by": ["account_id", "model"],
        "window_size": usage_service_pb2.WINDOW_SIZE_UNSPECIFIED,
    }

    raw = await studio.query(**wanted)
    await studio.app.service.roll_up.run()
    rolled_up = await studio.query(**wanted)

    assert sums(raw) == sums(rolled_up)
    assert sums(raw) == [
        ({"account_id": account_id, "model": model}, quantity)
        for account_id in ("ann", "bob")
        for quantity, model in enumerate(MODELS, start=1)
    ]
    assert raw.total_quantity == 6
    assert raw.fresh_time.ToDatetime(UTC) >= before_ns
    assert [row.event_count for row in raw.rows] == [1, 1, 1, 1]
    assert raw.rows[0].window.start_time.ToDatetime(UTC) == NOW - timedelta(hours=3)


async def test_pages_follow_each_other_and_carry_long_groups(studio: Studio) -> None:
    # Together far longer than a page token.
    names = ("a", "b", "c", "d")
    texts = [letter + "ü" * 255 for letter in "vwxyz"]
    for text in texts:
        await studio.count("ann", 1, dimensions=dict.fromkeys(names, text))
    wanted: dict[str, Any] = {"group_by": names, "page_size": 2}

    found: list[str] = []
    answer = await studio.query(**wanted)
    sizes = [len(answer.rows)]
    found += [row.group["a"] for row in answer.rows]
    while answer.next_page_token:
        answer = await studio.query(**wanted, page_token=answer.next_page_token)
        sizes.append(len(answer.rows))
        found += [row.group["a"] for row in answer.rows]
        assert answer.total_quantity == 5

    assert sizes == [2, 2, 1]
    assert found == texts


async def test_a_token_of_another_query_is_refused(studio: Studio) -> None:
    for model in MODELS:
        await studio.count("ann", 1, dimensions={"model": model})
    token = (await studio.query(group_by=["model"], page_size=1)).next_page_token

    assert (await studio.refused(group_by=["region"], page_size=1, page_token=token)).reason == "PAGE_TOKEN_INVALID"


async def test_the_largest_groups_stand_alone_and_the_rest_together(studio: Studio) -> None:
    for quantity, model in ((5, "a"), (4, "b"), (3, "c"), (2, "d")):
        await studio.count("ann", quantity, dimensions={"model": model})

    answer = await studio.query(group_by=["model"], top_count=2)

    assert [(row.group.get("model"), row.quantity, row.rest) for row in answer.rows] == [
        ("a", 5, False),
        ("b", 4, False),
        (None, 5, True),
    ]
    assert answer.total_quantity == 14


async def test_filters_keep_what_matches_all_of_them(studio: Studio) -> None:
    await studio.count("ann", 1, dimensions={"model": "large", "region": "eu"})
    await studio.count("ann", 2, dimensions={"model": "large"})
    await studio.count("bob", 4, dimensions={"model": "small", "region": "eu"})

    async def total(*filters: tuple[str, list[str]], account_ids: Sequence[str] = ()) -> int:
        conditions = [catalog_pb2.DimensionFilter(dimension=name, values=values) for name, values in filters]
        return (await studio.query(filters=conditions, account_ids=account_ids)).total_quantity

    assert await total(("model", ["large"])) == 3
    assert await total(("model", ["large", "small"]), ("region", ["eu"])) == 5
    assert await total(("region", [""])) == 2
    assert await total(("account_id", ["bob"])) == 4
    assert await total(("account_id", ["bob"]), account_ids=["ann"]) == 0
    assert await total(account_ids=["ann", "nobody"]) == 3


async def test_recorded_events_are_summed_up_by_meter_and_cost(studio: Studio) -> None:
    request = usage_service_pb2.RecordUsageRequest(
        tenant_id="studio",
        events=[
            usage_event_pb2.UsageEvent(
                id=f"e{number}",
                source="/chat",
                type="used",
                subject="ann",
                data={"n": number, "user": f"u{number % 2}", "model": "large"},
                ai=usage_event_pb2.AiUsage(model_key="gpt", input_tokens=1_000, output_tokens=500, operation="chat"),
            )
            for number in (1, 2, 4)
        ],
    )
    recorded = await studio.client.call(studio.client.usage.RecordUsage, request)
    assert recorded.recorded_count == 3, recorded
    answers = {}
    for _ in range(2):
        for meter in ("sum", "count", "max", "min", "average", "unique", "latest"):
            answer = await studio.query(meter_key=meter, group_by=["model"])
            (row,) = answer.rows
            answers[meter] = (row.group["model"], row.quantity, row.decimal_quantity, row.event_count)
        cost = await studio.query(ai_cost=True, group_by=["model", "currency_code", "operation"])

        assert answers == {
            "sum": ("large", 7, "", 3),
            "count": ("large", 3, "", 3),
            "max": ("large", 4, "", 3),
            "min": ("large", 1, "", 3),
            # 233.33... at a scale of two.
            "average": ("large", 233, "2.33", 3),
            "unique": ("large", 2, "", 3),
            "latest": ("large", 4, "", 3),
        }
        assert sums(cost) == [({"model": "gpt", "currency_code": "USD", "operation": "chat"}, 18_000_000)]
        await studio.app.service.roll_up.run()


async def test_what_is_wrong_with_a_query_is_said(studio: Studio) -> None:
    expected: list[tuple[dict[str, Any], str]] = [
        ({"tenant_id": "nowhere"}, "TENANT_NOT_FOUND"),
        ({"feature_key": "none"}, "FEATURE_NOT_FOUND"),
        ({"feature_key": "export"}, "FEATURE_NOT_METERED"),
        ({"meter_key": "none"}, "METER_NOT_FOUND"),
        ({"time_zone": "Europe/Nowhere"}, "VALIDATION_FAILED"),
        ({"group_by": ["a", "b", "c", "d", "e"]}, "VALIDATION_FAILED"),
    ]

    found = [(await studio.refused(**wanted)).reason for wanted, _ in expected]

    assert found == [reason for _, reason in expected]


async def test_a_query_with_too_many_rows_is_refused(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "QUERY_ROWS_MAX", 2)
    for model in MODELS:
        await studio.count("ann", 1, dimensions={"model": model})
    at_the_bound = await studio.query(group_by=["model"])
    await studio.count("ann", 1, dimensions={"model": "third"})

    refusal = await studio.refused(group_by=["model"])

    assert len(at_the_bound.rows) == 2
    assert refusal.reason == "QUERY_TOO_LARGE"
    assert refusal.facts == {"rows": "3", "rows_max": "2"}
    # A page of it is refused as well, the rest in one row is not.
    assert (await studio.refused(group_by=["model"], page_size=1)).reason == "QUERY_TOO_LARGE"
    assert len((await studio.query(group_by=["model"], top_count=1)).rows) == 2


async def test_a_century_of_hours_answers_with_the_few_that_have_usage(studio: Studio) -> None:
    await studio.count("ann", 3)
    century: dict[str, Any] = {
        "start_time": datetime(2000, 1, 1, tzinfo=UTC),
        "end_time": datetime(2099, 1, 1, tzinfo=UTC),
        "window_size": usage_service_pb2.WINDOW_SIZE_HOUR,
    }

    raw = await studio.query(**century)
    await studio.app.service.roll_up.run()
    rolled_up = await studio.query(**century)
    nothing = await studio.query(**century, account_ids=["nobody"])
    unused = await studio.query(**century, meter_key="sum")

    assert [row.quantity for row in raw.rows] == [row.quantity for row in rolled_up.rows] == [3]
    assert not nothing.rows
    assert not unused.rows


async def test_more_windows_than_can_be_laid_out_are_refused(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    await studio.count("ann", 3)
    monkeypatch.setattr(queries, "QUERY_ROWS_MAX", 1)
    monkeypatch.setattr(queries, "QUERY_WINDOWS_MAX", 23)

    # All usage is of one day, which is laid out in 24 hours.
    wide: dict[str, Any] = {
        "start_time": NOW - timedelta(days=5),
        "end_time": NOW + timedelta(days=5),
        "window_size": usage_service_pb2.WINDOW_SIZE_HOUR,
    }

    refusal = await studio.refused(**wide)

    assert refusal.reason == "QUERY_TOO_LARGE"
    monkeypatch.setattr(queries, "QUERY_WINDOWS_MAX", 24)
    assert (await studio.query(**wide)).total_quantity == 3


async def test_a_range_that_has_not_begun_is_empty(studio: Studio) -> None:
    await studio.count("ann", 3)

    answer = await studio.query(start_time=datetime.now(UTC) + timedelta(days=1))

    assert not answer.rows
    assert answer.total_quantity == 0


async def test_the_ledger_is_listed_by_kind_and_by_request(studio: Studio) -> None:
    for number in range(3):
        await studio.count("ann", 1, request_id=f"r{number}")

    async def listed(**wanted: Any) -> list[str]:
        request = usage_service_pb2.ListUsageEntriesRequest(tenant_id="studio", account_id="ann", **wanted)
        return [
            entry.request_id
            for entry in (await studio.client.call(studio.client.usage.ListUsageEntries, request)).entries
        ]

    assert await listed() == ["r2", "r1", "r0"]
    assert await listed(request_id="r1") == ["r1"]
    assert await listed(request_id="r9") == []
    assert await listed(kind=usage_pb2.USAGE_ENTRY_KIND_INCREMENT) == ["r2", "r1", "r0"]
    assert await listed(kind=usage_pb2.USAGE_ENTRY_KIND_REVERSAL) == []


async def test_reversals_are_taken_off_where_they_are_summed_up(studio: Studio) -> None:
    await studio.count("ann", 5, dimensions={"model": "large"}, request_id="r1")
    listing = usage_service_pb2.ListUsageEntriesRequest(tenant_id="studio", account_id="ann", request_id="r1")
    (entry,) = (await studio.client.call(studio.client.usage.ListUsageEntries, listing)).entries
    reversal = usage_service_pb2.ReverseUsageRequest(
        tenant_id="studio", account_id="ann", entry_id=entry.entry_id, quantity=2, reason_text="counted twice"
    )
    await studio.client.call(studio.client.usage.ReverseUsage, reversal)
    listing = usage_service_pb2.ListUsageEntriesRequest(
        tenant_id="studio", account_id="ann", kind=usage_pb2.USAGE_ENTRY_KIND_REVERSAL
    )

    raw = await studio.query()
    await studio.app.service.roll_up.run()
    rolled_up = await studio.query()
    listed = await studio.client.call(studio.client.usage.ListUsageEntries, listing)

    assert [(row.quantity, row.event_count) for row in raw.rows] == [(3, 2)]
    assert sums(raw) == sums(rolled_up)
    assert [(each.quantity, each.reversed_entry_id) for each in listed.entries] == [(-2, entry.entry_id)]


async def test_usage_is_shown_as_a_table_json_and_csv(studio: Studio) -> None:
    await studio.count("ann", 30, dimensions={"model": "[large]"})
    await studio.count("ann", 10, dimensions={"model": "small"})

    table = await studio.say("query", "studio", "--feature", "tokens", "--by", "model", "--window", "month")
    shown = json.loads((await studio.say("query", "studio", "-f", "tokens", "-b", "model", "--json")).stdout)
    rows = list(
        csv.DictReader(
            io.StringIO((await studio.say("query", "studio", "-f", "tokens", "-b", "model", "--csv")).stdout)
        )
    )
    kept = await studio.say("query", "studio", "-f", "tokens", "--where", "model=small,tiny", "--window", "whole")
    nothing = await studio.say("query", "studio", "-m", "sum", "--start", "2026-01-01", "--end", "2026-01-02T10:00")

    assert table.exit_code == 0, table.output
    assert "[large]" in table.stdout
    assert "█" * BAR_WIDTH in table.stdout
    assert "Total 40" in table.stdout
    assert shown["total_quantity"] == "40"
    assert [(row["model"], row["quantity"]) for row in rows] == [("[large]", "30"), ("small", "10")]
    assert "Total 10" in kept.stdout
    assert nothing.stdout == "No usage.\n"


async def test_where_an_account_stands_is_shown_without_a_name_of_the_command(studio: Studio) -> None:
    await studio.count("ann", 30)

    short = await studio.say("studio", "ann")
    named = await studio.say("show", "studio", "ann")
    options_first = await studio.say("--entries", "studio", "ann")

    assert short.exit_code == 0, short.output
    assert "tokens" in short.stdout
    assert short.stdout == named.stdout
    assert "total after" in options_first.stdout


async def test_what_is_wrong_with_a_command_is_one_sentence(studio: Studio) -> None:
    tokens = ("query", "studio", "-f", "tokens")
    expected = {
        ("query", "studio"): "name one of --feature, --meter and --ai-cost",
        (*tokens, "--ai-cost"): "name one of",
        (*tokens, "--csv", "--json"): "exclude each other",
        (*tokens, "--start", "soon"): "--start soon: is no time",
        (*tokens, "--start", "2026-01-01", "--zone", "Nowhere"): "--zone Nowhere: is no IANA",
        (*tokens, "--where", "model"): "write it as DIMENSION=VALUE",
        ("query", "studio", "-f", "none"): "(FEATURE_NOT_FOUND)",
    }

    for arguments, words in expected.items():
        told = await studio.say(*arguments)
        assert told.exit_code == 2, arguments
        assert words in told.output
        assert "Traceback" not in told.output


def test_bars_are_in_proportion_and_never_vanish() -> None:
    assert bar(10, 10) == "█" * BAR_WIDTH
    assert bar(5, 10) == "█" * (BAR_WIDTH // 2)
    assert len(bar(1, 1_000_000)) == 1
    assert bar(0, 10) == bar(-5, 10) == ""


def test_windows_are_named_as_in_the_contract() -> None:
    names = {name.removeprefix("WINDOW_SIZE_") for name in usage_service_pb2.WindowSize.keys()}  # noqa: SIM118

    assert names == {size.name for size in usage_windows.WindowSize} | {"UNSPECIFIED"}
