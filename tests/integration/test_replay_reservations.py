"""A trace replayed with reservations: no limit is passed, nothing stays held, and a recount of the file agrees."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tallygate.v1 import usage_service_pb2
from tallygate_server.client import Client
from tallygate_server.trace_file import read_trace
from tallygate_server.trace_replay import Run
from tests.support.tallygate_process import serving_process, tallygate

ROWS = 400
ACCOUNTS = 7
LIMIT = 40_000
MARGIN = 300


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    """Write a trace in which some calls generate more than what is reserved for them."""
    random = Random(20)
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    lines += [
        f"2023-11-16 18:15:46.{row:07},{random.randint(0, 2_000)},{random.randint(1, 400)}" for row in range(ROWS)
    ]
    file = tmp_path / "trace.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def recount(file: Path, run: Run) -> tuple[Counter[str], int]:
    """Count again, from nothing but the file and the rules: what each account used, and how many calls were denied."""
    used: Counter[str] = Counter()
    denied = 0
    with file.open(newline="") as lines:
        for row, cells in enumerate(csv.DictReader(lines), start=1):
            account = run.account_id(row)
            context, generated = int(cells["ContextTokens"]), int(cells["GeneratedTokens"])
            if used[account] + context + MARGIN > LIMIT:
                denied += 1
            elif used[account] + context + generated <= LIMIT:
                used[account] += context + generated
            else:
                used[account] += min(context + generated, context + MARGIN)
    return used, denied


async def test_a_replay_with_reservations_is_what_a_recount_of_the_file_says(
    trace_file: Path, fresh_database: str, fresh_redis: str
) -> None:
    settings = {"TALLYGATE_DATABASE_URL": fresh_database, "TALLYGATE_REDIS_URL": fresh_redis}
    options = (
        "--accounts",
        str(ACCOUNTS),
        "--limit",
        str(LIMIT),
        "--reserve",
        str(MARGIN),
        "--run-id",
        "one",
        "--json",
    )
    run = Run(
        run_id="one", trace_digest=read_trace(trace_file).digest, tenant_id="replay", feature_key="llm_tokens",
        accounts=ACCOUNTS, seed=1, limit=LIMIT, period="month", ack="committed", reserve_margin=MARGIN,
    )  # fmt: skip
    async with serving_process("--port", "0", settings=settings) as server, Client(server.address) as client:
        first = await tallygate("replay", str(trace_file), "--target", server.address, *options)
        again = await tallygate("replay", str(trace_file), "--target", server.address, *options)
        standing = {}
        for number in range(ACCOUNTS):
            account = f"replay-one-{number}"
            answer = await client.call(
                client.usage.GetUsage,
                usage_service_pb2.GetUsageRequest(tenant_id="replay", account_id=account, feature_key="llm_tokens"),
            )
            standing[account] = (answer.quota.used_quantity, answer.quota.held_quantity)

    used, denied = recount(trace_file, run)
    report, repeated = json.loads(first.output), json.loads(again.output)
    assert (first.code, again.code) == (0, 0), first.output
    assert report["agreement"] is True
    assert standing == {account: (quantity, 0) for account, quantity in used.items()}
    assert max(used.values()) <= LIMIT
    assert report["denied"] == denied > 0
    assert report["tokens_allowed"] == used.total()
    # The same run again: every answer is the first one again, and nothing more is counted.
    assert repeated["replayed"] == ROWS
    assert repeated["tokens_allowed"] == report["tokens_allowed"]
