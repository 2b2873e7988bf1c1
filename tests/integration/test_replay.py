"""Replays against real server processes, which are killed in the middle."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest

from tallygate_server.client import Client
from tallygate_server.trace_agreement import Told
from tallygate_server.trace_file import Trace, read_trace
from tallygate_server.trace_replay import GaveUp, Run, StateFile, TraceReplay, limit_for, report_of
from tests.support.eventually import eventually
from tests.support.tallygate_process import serving_process, tallygate

ROWS = 1_200
ACCOUNTS = 7


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    """Write a trace with a few rows that have nothing to count."""
    random = Random(20)
    lines = ["TIMESTAMP,Model,ContextTokens,GeneratedTokens"]
    for row in range(ROWS):
        seconds = f"2023-11-16 18:{15 + row // 600:02d}:{row // 10 % 60:02d}.{row % 10}805900"
        tokens = (0, 0) if row % 100 == 7 else (random.randint(1, 2_000), random.randint(0, 500))
        lines.append(f"{seconds},m{row % 3},{tokens[0]},{tokens[1]}")
    file = tmp_path / "trace.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def settings(fresh_database: str, fresh_redis: str) -> dict[str, str]:
    """Let a server process use this test's stores."""
    return {"TALLYGATE_DATABASE_URL": fresh_database, "TALLYGATE_REDIS_URL": fresh_redis}


def run_of(trace: Trace, *, ack: str = "committed", accounts: int = ACCOUNTS) -> Run:
    return Run(
        run_id="test", trace_digest=trace.digest, tenant_id="replay", feature_key="llm_tokens", accounts=accounts,
        seed=1, limit=limit_for(trace, accounts), period="month", ack="committed" if ack == "committed" else "accepted",
    )  # fmt: skip


def replay_of(client: Client, trace: Trace, run: Run, **more: object) -> TraceReplay:
    return TraceReplay(
        client=client,
        trace=trace,
        run=run,
        **({"concurrency": 32, "speed": None, "give_up_after_s": 300.0} | more),  # type: ignore[arg-type]  # Test options.
    )


def after(answers: int, act: Callable[[], object]) -> Callable[[Told], None]:
    """Return a progress that acts once, after so many answers."""
    seen = 0

    def note(_answer: Told) -> None:
        nonlocal seen
        seen += 1
        if seen == answers:
            act()

    return note


async def test_a_replay_ends_in_exact_agreement_with_some_calls_denied(
    trace_file: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    async with serving_process("--port", "0", settings=settings) as server:
        told = await tallygate(
            *("replay", str(trace_file), "--target", server.address, "--accounts", "7", "--state", str(state)),
            *("--run-id", "one", "--json"),
        )
        shown = await tallygate("replay", str(trace_file), "--target", server.address, "--resume", str(state))
        again = await tallygate(
            *("replay", str(trace_file), "--target", server.address, "--accounts", "7", "--run-id", "one", "--json")
        )

    report, repeated = json.loads(told.output), json.loads(again.output)
    assert told.code == shown.code == again.code == 0
    assert report["agreement"] is True
    assert report["allowed"] + report["denied"] + report["empty"] == ROWS
    assert report["denied"] > 0
    assert report["empty"] == ROWS // 100
    assert report["replayed"] == 0
    assert "Exact agreement" in shown.output
    # The same run again: every answer is the first one again.
    assert repeated["replayed"] == ROWS - report["empty"]
    assert [repeated[name] for name in ("allowed", "denied", "tokens_allowed")] == [
        report[name] for name in ("allowed", "denied", "tokens_allowed")
    ]


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_a_replay_agrees_after_the_server_was_killed_and_came_back(
    transport: str, trace_file: Path, settings: dict[str, str]
) -> None:
    trace = read_trace(trace_file)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(
            serving_process("--port", "0", "--transport", transport, settings=settings)
        )
        client = await stack.enter_async_context(Client(first.address))
        replaying = replay_of(client, trace, run_of(trace), progress=after(ROWS // 3, first.process.kill))

        async def bring_back() -> None:
            await first.process.wait()
            # A stranger may get the port for a moment, and the server then ends at once.
            await eventually(
                lambda: stack.enter_async_context(
                    serving_process("--port", str(first.port), "--transport", transport, settings=settings)
                )
            )

        await replaying.prepare()
        await asyncio.gather(replaying.make_calls(), bring_back())
        report = report_of(replaying, await replaying.compare())

    assert report.disagreements == []
    assert report.retries > 0
    assert report.allowed + report.denied == ROWS - ROWS // 100
    assert report.denied > 0


async def test_a_replay_that_was_killed_itself_is_resumed_from_its_state(
    trace_file: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    trace, state = read_trace(trace_file), tmp_path / "state"
    run = run_of(trace)
    async with serving_process("--port", "0", settings=settings) as server, Client(server.address) as client:
        with StateFile.create(state, run) as file:
            replaying = replay_of(client, trace, run, record=file.record)
            await replaying.prepare()
            calls = asyncio.create_task(replaying.make_calls())
            replaying.progress = after(ROWS // 2, calls.cancel)
            with pytest.raises(asyncio.CancelledError):
                await calls
        # Most of it never reached the disk, and the last line only in part.
        lines = state.read_bytes().splitlines(keepends=True)
        state.write_bytes(b"".join(lines[:201]) + lines[201][:20])

        told = await tallygate("replay", str(trace_file), "--target", server.address, "--resume", str(state), "--json")

    report = json.loads(told.output)
    assert told.code == 0
    assert report["agreement"] is True
    assert report["resumed"] == 200
    assert report["replayed"] > 0


async def test_a_server_that_stays_away_is_given_up_and_the_way_on_is_told(trace_file: Path, tmp_path: Path) -> None:
    with socket.socket() as away:
        away.bind(("127.0.0.1", 0))
        # Bound, so that nobody else gets it, and not listened on.
        address = f"127.0.0.1:{away.getsockname()[1]}"
        told = await tallygate(
            *("replay", str(trace_file), "--target", address, "--give-up-after", "0.2"),
            *("--state", str(tmp_path / "state")),
        )

    assert told.code == 2
    assert f"--resume {tmp_path / 'state'}" in told.errors
    assert "Traceback" not in told.errors


async def test_workers_stop_together_when_the_server_stays_away(trace_file: Path, settings: dict[str, str]) -> None:
    trace = read_trace(trace_file)
    async with serving_process("--port", "0", settings=settings) as server, Client(server.address) as client:
        replaying = replay_of(
            client, trace, run_of(trace), give_up_after_s=0.2, progress=after(50, server.process.kill)
        )
        await replaying.prepare()
        with pytest.raises(GaveUp):
            await replaying.make_calls()

    assert 50 <= len(replaying.told) < ROWS


async def test_what_the_client_was_told_is_really_compared(trace_file: Path, settings: dict[str, str]) -> None:
    trace = read_trace(trace_file)
    async with serving_process("--port", "0", settings=settings) as server, Client(server.address) as client:
        replaying = replay_of(client, trace, run_of(trace))
        await replaying.prepare()
        await replaying.make_calls()
        some = next(answer for answer in replaying.told.values() if answer.allowed)
        some.quantity += 1
        findings = await replaying.compare()

    account = replaying.run.account_id(some.row)
    assert findings
    assert all(finding.startswith(f"account {account}: ") for finding in findings)


async def test_accepted_calls_reach_the_ledger_too(trace_file: Path, settings: dict[str, str]) -> None:
    trace = read_trace(trace_file)
    async with serving_process("--port", "0", settings=settings) as server, Client(server.address) as client:
        # One call at a time: what was accepted is then never in competition.
        replaying = replay_of(client, trace, run_of(trace, ack="accepted"), concurrency=1)
        await replaying.prepare()
        await replaying.make_calls()
        findings = await replaying.compare()

    assert findings == []


async def test_a_tenant_of_others_is_replayed_against_as_it_is(
    trace_file: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    catalog = tmp_path / "shop.yaml"
    catalog.write_text(
        "tenant: shop\nname: Shop\nfeatures:\n  tokens: {kind: counter}\n"
        "plans:\n  free: {name: Free, allowances: {tokens: {limit: 10, period: day}}}\n"
    )
    async with serving_process("--port", "0", settings=settings) as server:
        applied = await tallygate("catalog", "apply", str(catalog), "--target", server.address)
        told = await tallygate(
            *("replay", str(trace_file), "--target", server.address, "--tenant", "shop", "--feature", "tokens"),
            "--json",
        )
        refused = await tallygate(
            *("replay", str(trace_file), "--target", server.address, "--tenant", "shop", "--limit", "5")
        )

    report = json.loads(told.output)
    assert applied.code == 0, applied.errors
    # This tenant makes no accounts by itself: everything is denied, and both sides know it.
    assert (told.code, report["allowed"], report["agreement"]) == (0, 0, True)
    assert report["denials"] == {"ACCOUNT_NOT_FOUND": ROWS - ROWS // 100}
    assert refused.code == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--speed", "fast"), "--speed fast"),
        (("--speed", "-1"), "--speed -1"),
        (("--run-id", "A B"), "--run-id A B"),
        (("--limit", "0"), "--limit 0"),
        (("--period", "decade"), "--period decade"),
        (("--ack", "maybe"), "--ack maybe"),
        (("--resume", "nowhere"), "nowhere cannot be read"),
    ],
)
async def test_wrong_options_are_told_before_anything_is_sent(
    trace_file: Path, options: tuple[str, ...], words: str
) -> None:
    told = await tallygate("replay", str(trace_file), *options)

    assert told.code == 2
    assert words in told.errors
    assert told.errors.count("\n") == 1


async def test_a_bad_row_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text("timestamp,context_tokens,generated_tokens\n1,2,3\n2,x,4\n")

    told = await tallygate("replay", str(file))

    assert told.code == 2
    assert f"{file}, line 3: tokens: 'x'" in told.errors


async def test_recorded_speed_keeps_the_recorded_times(trace_file: Path, settings: dict[str, str]) -> None:
    trace = read_trace(trace_file)
    span_s = trace.times_s[-1] - trace.times_s[0]
    async with serving_process("--port", "0", settings=settings) as server, Client(server.address) as client:
        replaying = replay_of(client, trace, run_of(trace), speed=span_s / 1.5)
        await replaying.prepare()
        await replaying.make_calls()

    assert replaying.session.elapsed_s >= 1.5
