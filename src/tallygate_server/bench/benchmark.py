"""Run the benchmark: verify, measure in turns, verify again, and put the results together."""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from google.protobuf.message import Message

from tallygate.v1 import access_pb2, catalog_service_pb2, entitlement_service_pb2, usage_service_pb2
from tallygate_server.bench.h2load import find_h2load, read_version, run_h2load
from tallygate_server.bench.scenarios import (
    BATCH_ITEMS,
    CATALOG,
    COUNTER,
    ONE,
    TENANT,
    Kind,
    Load,
    Scenario,
    scenarios,
)
from tallygate_server.bench.stand import Cpu, Stand, TransportKind, fsync_ms, machine_busy_s, open_stand, our_cpu_s
from tallygate_server.bench.statistics import Speed, interleaved, median, speed_of
from tallygate_server.client import Client

TURNS_DEFAULT: Final = 6
TURNS_MIN: Final = 5
SLICE_S_DEFAULT: Final = 0.9
SLICE_S_QUICK: Final = 0.3
PILOT_REQUESTS: Final = 256
PILOT_BATCHES: Final = 64
CALLS_MIN: Final = 128
PILOT_ROUNDS: Final = 2
SETTLE_TIMEOUT_S: Final = 10.0

OTHERS_SHARE_MAX: Final = 0.05
"""Of the machine's processors; beyond it, other programs decide the rates."""

CHECK_FLOOR: Final = 0.7
CHECK_GOAL: Final = 0.85
COMMITTED_FLOOR: Final = 0.3
COMMITTED_GOAL: Final = 0.4
CROSS_FLOOR: Final = 2.0
"""Increment COMMITTED on native over the empty call on grpcio."""


class BenchError(Exception):
    """A number would not mean what it says: a call failed, or counts differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One turn of one scenario."""

    turn: int
    calls: int
    speed: Speed
    cpu: Cpu
    elapsed_s: float
    others_s: float = 0.0
    """Processor time that went to programs outside of the benchmark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All turns of one scenario, summed up."""

    scenario: Scenario
    calls: int
    calls_per_s: float
    calls_per_s_min: float
    calls_per_s_max: float
    p50_ms: float
    p99_ms: float
    server_us: float
    """Processor time of the server for one call."""
    postgres_us: float
    valkey_us: float
    server_load: float
    """Share of one core that the server used."""
    ratio: float
    """Calls per second, or items of batches, over empty calls per second: the median over the turns."""
    cpu_ratio: float
    """Processor time of the server for an empty call over that for this one, or for one item of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A ratio that is promised."""

    name: str
    value: float
    floor: float
    goal: float

    @property
    def holds(self) -> bool:
        """Whether the ratio reaches its floor."""
        return self.value >= self.floor


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """The whole run."""

    results: Sequence[Result]
    bars: Sequence[Bar]
    versions: dict[str, str]
    ledger_rows: int
    ledger_rows_expected: int
    turns: int
    elapsed_s: float
    others_share: float
    """Share of all processors that programs outside of the benchmark took during the slices."""

    @property
    def is_quiet(self) -> bool:
        """Whether the machine was idle enough for the ratios to mean something."""
        return self.others_share <= OTHERS_SHARE_MAX

    @property
    def holds(self) -> bool:
        """Whether every promised ratio is reached."""
        return all(bar.holds for bar in self.bars)

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {
            "versions": self.versions,
            "turns": self.turns,
            "elapsed_s": self.elapsed_s,
            "others_share": self.others_share,
            "ledger_rows": self.ledger_rows,
            "ledger_rows_expected": self.ledger_rows_expected,
            "results": [
                {
                    "transport": result.scenario.transport,
                    "call": result.scenario.kind,
                    "load": result.scenario.load.name,
                    "calls": result.calls,
                    "calls_per_s": result.calls_per_s,
                    "calls_per_s_min": result.calls_per_s_min,
                    "calls_per_s_max": result.calls_per_s_max,
                    "items_per_s": result.calls_per_s * result.scenario.items_per_call,
                    "p50_ms": result.p50_ms,
                    "p99_ms": result.p99_ms,
                    "server_us_per_call": result.server_us,
                    "postgres_us_per_call": result.postgres_us,
                    "valkey_us_per_call": result.valkey_us,
                    "server_load": result.server_load,
                    "ratio_to_empty": result.ratio,
                    "cpu_ratio_to_empty": result.cpu_ratio,
                }
                for result in self.results
            ],
            "bars": [
                {"name": bar.name, "value": bar.value, "floor": bar.floor, "goal": bar.goal, "holds": bar.holds}
                for bar in self.bars
            ],
        }


@dataclass(slots=True)
class _State:
    """What is known of one scenario while it runs."""

    rate: float = 0.0
    slices: list[Slice] = field(default_factory=list)


class Benchmark:
    """Measures on an open stand."""

    def __init__(
        self,
        stand: Stand,
        program: str,
        *,
        turns: int,
        slice_s: float,
        progress: Callable[[Scenario], None] | None = None,
    ) -> None:
        """Prepare; every scenario gets `turns` slices of about `slice_s` seconds."""
        self._stand = stand
        self._program = program
        self._turns = turns
        self._slice_s = slice_s
        self._progress = progress
        self._states: defaultdict[Scenario, _State] = defaultdict(_State)
        self._clients: dict[TransportKind, Client] = {}
        self._totals: dict[tuple[str, ...], int] = {}
        """What the counters of a set of accounts must add up to."""
        self.ledger_rows_expected = 0

    async def run(self, wanted: Sequence[Scenario]) -> dict[Scenario, list[Slice]]:
        """Measure all scenarios in turns; raise BenchError, H2loadError or CallFailed."""
        for transport, server in self._stand.servers.items():
            self._clients[transport] = Client(server.address)
        try:
            client = self._clients["native"]
            await client.call(client.catalogs.ApplyCatalog, catalog_service_pb2.ApplyCatalogRequest(yaml=CATALOG))
            for scenario in wanted:
                if scenario.accounts_key not in self._totals:
                    self._totals[scenario.accounts_key] = await self._counted(scenario)
            for scenario in wanted:
                await self._pilot(scenario)
            for turn, scenario in interleaved(wanted, self._turns):
                state = self._states[scenario]
                state.slices.append(await self._slice(scenario, turn, self._calls(scenario, self._slice_s)))
                if self._progress is not None:
                    self._progress(scenario)
        finally:
            for client in self._clients.values():
                await client.close()
        return {scenario: self._states[scenario].slices for scenario in wanted}

    async def _pilot(self, scenario: Scenario) -> None:
        """Warm everything up and learn about how fast it is."""
        calls = PILOT_BATCHES if scenario.kind == "batch" else PILOT_REQUESTS
        for _ in range(PILOT_ROUNDS):
            await self._slice(scenario, -1, calls)
            calls = self._calls(scenario, self._slice_s / 4)

    def _calls(self, scenario: Scenario, seconds: float) -> int:
        """Return how many calls take about so long; enough for a few rounds of all connections in any case."""
        return max(CALLS_MIN, math.ceil(self._states[scenario].rate * seconds))

    async def _slice(self, scenario: Scenario, turn: int, calls: int) -> Slice:
        """Make so many calls, and prove that each one did what it should."""
        server = self._stand.servers[scenario.transport]
        await self._verify(scenario)
        answers_before = await server.answers()
        cpu_before = self._stand.cpu(scenario.transport)
        busy_before_s, ours_before_s = machine_busy_s(), our_cpu_s()
        began_s = time.monotonic()
        samples = await run_h2load(
            self._program,
            address=server.address,
            path=scenario.path,
            bodies=[request.SerializeToString() for request in scenario.requests],
            requests=calls,
            connections=scenario.load.connections,
            streams=scenario.streams,
            directory=self._stand.directory,
        )
        elapsed_s = time.monotonic() - began_s
        self._note_calls(scenario, calls)
        await self._expect_counted(scenario)
        # After the ledger has them all: the commits of ACCEPTED calls belong to the bill.
        cpu = self._stand.cpu(scenario.transport) - cpu_before
        others_s = machine_busy_s() - busy_before_s - (our_cpu_s() - ours_before_s) - cpu.total_s
        await self._expect_answers(scenario, answers_before, calls)
        await self._verify(scenario)
        # Nothing may be on its way into the next slice.
        await self._expect_counted(scenario)
        speed = speed_of(samples)
        self._states[scenario].rate = speed.calls_per_s
        return Slice(turn=turn, calls=calls, speed=speed, cpu=cpu, elapsed_s=elapsed_s, others_s=others_s)

    async def _verify(self, scenario: Scenario) -> None:
        """Make each process's call once with a real client, which sees the gRPC status and the answer."""
        client = self._clients[scenario.transport]
        for request in scenario.requests:
            call = client.method(scenario.path, type(request), scenario.response_type)
            response = await client.call(call, request)
            if not _is_right(response):
                raise BenchError(f"{scenario.title} on {scenario.transport} answered {response}")
            self._note_calls(scenario, 1)

    def _note_calls(self, scenario: Scenario, calls: int) -> None:
        """Note what calls must have added to counters and ledger."""
        added = calls * scenario.counted_per_call
        self._totals[scenario.accounts_key] += added
        self.ledger_rows_expected += added

    async def _counted(self, scenario: Scenario) -> int:
        """Return the sum of the counters that the scenario moves."""
        client = self._clients[scenario.transport]
        total = 0
        for account_id in scenario.counted_accounts:
            usage = await client.call(
                client.usage.GetUsage,
                usage_service_pb2.GetUsageRequest(tenant_id=TENANT, account_id=account_id, feature_key=COUNTER),
            )
            total += usage.quota.used_quantity
        return total

    async def _expect_counted(self, scenario: Scenario) -> None:
        """Compare the counters with the calls made; accepted ones may take a moment to arrive."""
        deadline_s = time.monotonic() + (SETTLE_TIMEOUT_S if scenario.kind == "accepted" else 0.0)
        expected = self._totals[scenario.accounts_key]
        while (counted := await self._counted(scenario)) != expected:
            if counted > expected or time.monotonic() > deadline_s:
                raise BenchError(
                    f"{scenario.title} on {scenario.transport}: the counters stand at {counted:,},"
                    f" and the calls make {expected:,}"
                )
            await asyncio.sleep(0.005)

    async def _expect_answers(self, scenario: Scenario, before: dict[tuple[str, str], int], calls: int) -> None:
        """Compare the server's own count of OK answers with h2load's; the empty call is not counted by the server."""
        if scenario.kind == "empty":
            return
        after = await self._stand.servers[scenario.transport].answers()
        method = scenario.path.removeprefix("/")
        delta = {
            code: count - before.get((name, code), 0)
            for (name, code), count in after.items()
            if name == method and count != before.get((name, code), 0)
        }
        if delta != {"OK": calls}:
            raise BenchError(f"{scenario.title} on {scenario.transport}: {calls:,} calls were answered {delta}")


def _is_right(response: Message) -> bool:
    if isinstance(response, usage_service_pb2.BatchIncrementResponse):
        return len(response.results) == BATCH_ITEMS and all(
            result.answer.decision == access_pb2.DECISION_ALLOWED for result in response.results
        )
    if isinstance(response, usage_service_pb2.IncrementResponse | entitlement_service_pb2.CheckAccessResponse):
        return response.decision == access_pb2.DECISION_ALLOWED
    return True


async def run_benchmark(
    *,
    turns: int,
    slice_s: float,
    spread: bool,
    parent_dir: Path | None = None,
    on_start: Callable[[int], None] | None = None,
    progress: Callable[[Scenario], None] | None = None,
) -> BenchReport:
    """Start everything, measure, stop everything; raise H2loadError, StandError, BenchError or SetupError."""
    program = find_h2load()
    began_s = time.monotonic()
    wanted = scenarios(spread=spread)
    async with open_stand(parent_dir) as stand:
        versions = await _versions(stand, program)
        if on_start is not None:
            on_start(len(wanted) * turns)
        benchmark = Benchmark(stand, program, turns=turns, slice_s=slice_s, progress=progress)
        slices = await benchmark.run(wanted)
        rows = await stand.ledger_rows(TENANT)
    if rows != benchmark.ledger_rows_expected:
        raise BenchError(f"the ledger has {rows:,} lines, and the calls make {benchmark.ledger_rows_expected:,}")
    results = sum_up(slices)
    measured = [one for own in slices.values() for one in own]
    processor_s = sum(one.elapsed_s for one in measured) * (psutil.cpu_count() or 1)
    return BenchReport(
        results=results,
        bars=bars_of(results),
        versions=versions,
        ledger_rows=rows,
        ledger_rows_expected=benchmark.ledger_rows_expected,
        turns=turns,
        elapsed_s=time.monotonic() - began_s,
        others_share=max(0.0, sum(one.others_s for one in measured) / processor_s),
    )


def sum_up(slices: dict[Scenario, list[Slice]]) -> list[Result]:
    """Sum up every scenario and compare it with its empty call: same transport, same load, same turn."""
    results = []
    for scenario, own in slices.items():
        empty = slices[Scenario(transport=scenario.transport, kind="empty", load=scenario.load)]
        calls = sum(one.calls for one in own)
        rates = [one.speed.calls_per_s for one in own]
        cpu = _total([one.cpu for one in own])
        server_us = cpu.server_s * 1e6 / calls
        empty_us = _total([one.cpu for one in empty]).server_s * 1e6 / sum(one.calls for one in empty)
        results.append(
            Result(
                scenario=scenario,
                calls=calls,
                calls_per_s=median(rates),
                calls_per_s_min=min(rates),
                calls_per_s_max=max(rates),
                p50_ms=median(one.speed.p50_ms for one in own),
                p99_ms=median(one.speed.p99_ms for one in own),
                server_us=server_us,
                postgres_us=cpu.postgres_s * 1e6 / calls,
                valkey_us=cpu.valkey_s * 1e6 / calls,
                server_load=cpu.server_s / sum(one.elapsed_s for one in own),
                ratio=_paired_ratio(own, empty) * scenario.items_per_call,
                cpu_ratio=empty_us * scenario.items_per_call / server_us if server_us else 0.0,
            )
        )
    return results


def bars_of(results: Sequence[Result]) -> list[Bar]:
    """Return the promised ratios; across transports from the medians."""
    by_scenario = {result.scenario: result for result in results}

    def of(transport: TransportKind, kind: Kind, load: Load = ONE) -> Result:
        return by_scenario[Scenario(transport=transport, kind=kind, load=load)]

    return [
        Bar(
            name="CheckAccess of a counter / empty call, native",
            value=of("native", "check_counter").ratio,
            floor=CHECK_FLOOR,
            goal=CHECK_GOAL,
        ),
        Bar(
            name="CheckAccess of a boolean / empty call, native",
            value=of("native", "check_boolean").ratio,
            floor=CHECK_FLOOR,
            goal=CHECK_GOAL,
        ),
        Bar(
            name="Increment COMMITTED / empty call, native",
            value=of("native", "committed").ratio,
            floor=COMMITTED_FLOOR,
            goal=COMMITTED_GOAL,
        ),
        Bar(
            name="Increment COMMITTED on native / empty call on grpcio",
            value=of("native", "committed").calls_per_s / of("grpcio", "empty").calls_per_s,
            floor=CROSS_FLOOR,
            goal=CROSS_FLOOR,
        ),
    ]


def _paired_ratio(own: Sequence[Slice], empty: Sequence[Slice]) -> float:
    empty_rates = {one.turn: one.speed.calls_per_s for one in empty}
    return median(one.speed.calls_per_s / empty_rates[one.turn] for one in own)


def _total(parts: Sequence[Cpu]) -> Cpu:
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


async def _versions(stand: Stand, program: str) -> dict[str, str]:
    native = stand.servers["native"]
    packages = ("grpcio", "pygrpc-native", "protobuf", "uvloop", "asyncpg", "hiredis")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "loop": native.loop,
        **await stand.store_versions(),
        "fdatasync_ms": f"{await asyncio.to_thread(fsync_ms, stand.directory):.3f}",
        "h2load": await read_version(program),
        "cores": str(psutil.cpu_count()),
    }
