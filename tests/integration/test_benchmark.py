"""The benchmark against real servers and stores, with a slow stand-in for h2load that needs no package."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tallygate_server.bench.benchmark import BenchError, Benchmark
from tallygate_server.bench.scenarios import ONE, SPREAD, TENANT, Kind, Load, Scenario
from tallygate_server.bench.stand import Stand, TransportKind, fsync_ms, open_stand
from tests.support.tallygate_process import tallygate

# Makes real calls, then logs and says what h2load would; like h2load it takes a gRPC error for a success.
STAND_IN = """\
#!{python}
import sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc

def option(name):
    return sys.argv[sys.argv.index(name) + 1]

count = int(option("-n"))
message = open(option("-d"), "rb").read()[5:]
log = next(argument for argument in sys.argv if argument.startswith("--log-file=")).partition("=")[2]
address, _, path = sys.argv[-1].removeprefix("http://").partition("/")
call = grpc.insecure_channel(address).unary_unary("/" + path)

def make_call(_):
    began_us = time.time_ns() // 1000
    try:
        call({message}, timeout=120)
    except grpc.RpcError:
        pass
    return f"{{began_us}}\\t200\\t{{time.time_ns() // 1000 - began_us}}\\n"

with ThreadPoolExecutor(16) as pool:
    open(log, "w").writelines(pool.map(make_call, range(count)))
print("finished in 1s, 1 req/s, 1KB/s")
print(f"requests: {{count}} total, {{count}} started, {{count}} done,", end=" ")
print(f"{{count}} succeeded, 0 failed, 0 errored, 0 timeout")
print(f"status codes: {{count}} 2xx, 0 3xx, 0 4xx, 0 5xx")
"""


@pytest.fixture(scope="module")
async def stand(reachable_dir: Path) -> AsyncIterator[Stand]:
    """Start both servers once."""
    async with open_stand(reachable_dir) as running:
        yield running


def stand_in(directory: Path, *, message: str = "message") -> str:
    """Write the program; `message` is the expression that it sends."""
    program = directory / "h2load"
    program.write_text(STAND_IN.format(python=sys.executable, message=message))
    program.chmod(0o755)
    return str(program)


def scenario(transport: TransportKind, kind: Kind, load: Load = ONE) -> Scenario:
    return Scenario(transport=transport, kind=kind, load=load)


async def test_every_call_is_counted_and_found_in_the_ledger(stand: Stand, tmp_path: Path) -> None:
    wanted = [
        scenario("native", "empty"),
        scenario("native", "check_counter"),
        scenario("native", "committed"),
        scenario("grpcio", "batch"),
        scenario("grpcio", "accepted", SPREAD),
    ]
    rows_before = await stand.ledger_rows(TENANT)
    benchmark = Benchmark(stand, stand_in(tmp_path), turns=1, slice_s=0.05)

    slices = await benchmark.run(wanted)

    assert [len(slices[each]) for each in wanted] == [1] * len(wanted)
    for each in wanted:
        (measured,) = slices[each]
        assert measured.calls >= 64
        assert measured.speed.calls_per_s > 0
        assert measured.cpu.server_s >= 0
    assert await stand.ledger_rows(TENANT) - rows_before == benchmark.ledger_rows_expected
    assert benchmark.ledger_rows_expected > 100 * 64


@pytest.mark.parametrize(
    ("kind", "words"),
    [("committed", "the counters stand at"), ("check_counter", "calls were answered {'INVALID_ARGUMENT'")],
)
async def test_failed_calls_that_look_like_http_successes_stop_the_benchmark(
    stand: Stand, tmp_path: Path, kind: Kind, words: str
) -> None:
    # An empty message is a request without tenant: HTTP 200, gRPC INVALID_ARGUMENT.
    benchmark = Benchmark(stand, stand_in(tmp_path, message='b""'), turns=1, slice_s=0.05)

    with pytest.raises(BenchError, match=words):
        await benchmark.run([scenario("native", kind)])


async def test_both_servers_and_their_stores_are_described(stand: Stand) -> None:
    versions = await stand.store_versions()

    assert versions["fsync"] == versions["synchronous_commit"] == "on"
    assert versions["postgres"].startswith("18")
    assert versions["valkey"][0].isdigit()
    assert {server.loop for server in stand.servers.values()} == {"uvloop"}
    assert fsync_ms(stand.directory) > 0


async def test_without_h2load_the_benchmark_says_how_to_get_it(tmp_path: Path) -> None:
    told = await tallygate("bench", "--quick", settings={"PATH": str(tmp_path)})

    assert told.code == 2
    assert "nghttp2-client" in told.errors
    assert told.errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
