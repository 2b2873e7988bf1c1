from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from tallygate_server.bench import scenarios
from tallygate_server.bench.benchmark import Slice, bars_of, sum_up
from tallygate_server.bench.h2load import H2loadError, Sample, find_h2load, frame, parse_log, parse_summary, run_h2load
from tallygate_server.bench.scenarios import CATALOG, ONE, Kind, Scenario
from tallygate_server.bench.stand import Cpu, TransportKind, parse_answers
from tallygate_server.bench.statistics import Speed, interleaved, median, percentile, speed_of
from tallygate_server.catalog_files import parse_catalog

FINISHED = """\
starting benchmark...
spawning thread #0: 4 total client(s). 1000 total requests
Application protocol: h2c
progress: 100% done

finished in 52.60ms, 19011.77 req/s, 650.24KB/s
requests: 1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 34.20KB (35023) total, 3.01KB (3081) headers (space savings 95.95%), 4.88KB (5000) data
                     min         max         mean         sd        +/- sd
time for request:      210us     24.90ms      8.07ms      3.17ms    93.00%
"""


def test_a_summary_is_read() -> None:
    summary = parse_summary(FINISHED)

    assert (summary.total, summary.succeeded, summary.failed) == (1_000, 1_000, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "did not finish; it said: nothing"),
        ("Could not connect to host\n", "it said: Could not connect to host"),
        (FINISHED.partition("traffic")[0].replace("finished in", "stopped in"), "did not finish"),
        (FINISHED.replace("1000 succeeded, 0 failed", "990 succeeded, 10 failed"), "not every request was answered"),
        (FINISHED.replace("0 timeout", "1 timeout"), "not every request was answered"),
        (FINISHED.replace("1000 2xx, 0 3xx, 0 4xx", "999 2xx, 0 3xx, 1 4xx"), "not every request was answered"),
    ],
)
def test_a_run_that_went_wrong_gives_no_numbers(text: str, words: str) -> None:
    with pytest.raises(H2loadError, match=words):
        parse_summary(text)


def test_a_log_is_read() -> None:
    sample = parse_log("1795164165645314\t200\t974\n1795164165645304\t200\t1001\n")

    assert list(sample.start_us) == [1795164165645314, 1795164165645304]
    assert list(sample.duration_us) == [974, 1001]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1795164165645314\t-1\t974\n", "line 1 of h2load's log has the status -1"),
        ("1795164165645314\t200\t974\n1795164165645314\t200\n", "line 2 of h2load's log is no request"),
    ],
)
def test_a_failed_request_in_the_log_gives_no_numbers(text: str, words: str) -> None:
    with pytest.raises(H2loadError, match=words):
        parse_log(text)


def test_a_message_is_framed_as_grpc_frames_it() -> None:
    assert frame(b"abc") == b"\x00\x00\x00\x00\x03abc"


def test_without_h2load_the_way_to_get_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(H2loadError, match="nghttp2-client"):
        find_h2load()


async def test_each_body_gets_a_process_and_its_share_of_the_requests(tmp_path: Path) -> None:
    program = tmp_path / "h2load"
    # Stands for the real one: logs as many requests as it was asked for, and says so.
    program.write_text(
        "#!/usr/bin/env python3\n"
        "import re, sys\n"
        "count = int(sys.argv[sys.argv.index('-n') + 1])\n"
        "log = next(a for a in sys.argv if a.startswith('--log-file=')).partition('=')[2]\n"
        "open(log, 'w').writelines(f'{1000 + i}\\t200\\t5\\n' for i in range(count))\n"
        f"text = {FINISHED!r}\n"
        "print(re.sub(r'\\b1000\\b', str(count), text))\n"
    )
    program.chmod(0o755)

    samples = await run_h2load(
        str(program), address="127.0.0.1:1", path="/a/b", bodies=[b"x", b"y", b"z"], requests=10, connections=1,
        streams=4, directory=tmp_path,
    )  # fmt: skip

    assert [len(sample) for sample in samples] == [4, 3, 3]
    assert (tmp_path / "h2load-1.body").read_bytes() == frame(b"y")


async def test_a_program_that_stops_early_is_noticed(tmp_path: Path) -> None:
    program = tmp_path / "h2load"
    program.write_text("#!/bin/sh\necho 'Could not resolve'\nexit 1\n")
    program.chmod(0o755)

    with pytest.raises(H2loadError, match="Could not resolve"):
        await run_h2load(
            str(program), address="127.0.0.1:1", path="/a/b", bodies=[b"x"], requests=10, connections=1, streams=4,
            directory=tmp_path,
        )  # fmt: skip


def sample(starts: list[int], durations: list[int]) -> Sample:
    return Sample(start_us=array("q", starts), duration_us=array("q", durations))


def test_speed_is_that_of_the_middle_of_a_slice() -> None:
    # A call ends every 1,000 us for a second; each takes 2,000 us.
    steady = sample([index * 1_000 for index in range(1_000)], [2_000] * 1_000)

    speed = speed_of([steady])

    assert speed.calls_per_s == pytest.approx(1_000, rel=0.01)
    assert (speed.p50_ms, speed.p99_ms) == (2.0, 2.0)


def test_speed_adds_processes_up_where_all_of_them_ran() -> None:
    one = sample([index * 1_000 for index in range(1_000)], [500] * 1_000)
    late = sample([200_000 + index * 500 for index in range(1_000)], [500] * 1_000)

    assert speed_of([one, late]).calls_per_s == pytest.approx(3_000, rel=0.01)


def test_speed_of_processes_that_never_ran_together_is_that_of_the_whole_time() -> None:
    one = sample([index * 1_000 for index in range(100)], [500] * 100)
    other = sample([200_000 + index * 1_000 for index in range(100)], [500] * 100)

    assert speed_of([one, other]).calls_per_s == pytest.approx(2_000 / 3, rel=0.1)


def test_speed_of_calls_that_ended_as_one_is_that_of_the_whole_time() -> None:
    burst = sample([1_000_000] * 64, [500_000] * 64)

    assert speed_of([burst]).calls_per_s == pytest.approx(128)


def test_percentiles_and_medians() -> None:
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([7], 50) == 7
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5


def test_turns_go_forwards_and_backwards() -> None:
    assert "".join(item for _, item in interleaved("ABC", 3)) == "ABCCBAABC"


def test_the_servers_own_count_is_read_from_its_metrics() -> None:
    text = (
        "# TYPE grpc_server_handled counter\n"
        'grpc_server_handled_total{grpc_type="unary",grpc_service="a.B",grpc_method="C",grpc_code="OK"} 12.0\n'
        'grpc_server_handled_total{grpc_code="INTERNAL",grpc_method="C",grpc_service="a.B",grpc_type="unary"} 1.0 17\n'
        "grpc_server_handled_created 5\n"
    )

    assert parse_answers(text) == {("a.B/C", "OK"): 12, ("a.B/C", "INTERNAL"): 1}


def test_the_catalog_of_the_benchmark_is_valid() -> None:
    assert {feature.key for feature in parse_catalog(CATALOG).root.features} == {scenarios.COUNTER, scenarios.SWITCH}


def test_every_scenario_has_an_empty_call_to_be_compared_with() -> None:
    wanted = scenarios.scenarios(spread=True)

    assert len(wanted) == len(set(wanted)) == 20
    for scenario in wanted:
        assert Scenario(transport=scenario.transport, kind="empty", load=scenario.load) in wanted
        assert len(scenario.requests) == scenario.load.processes
        assert scenario.in_flight == (8 if scenario.kind == "batch" else 64)


def test_no_two_transports_share_an_account() -> None:
    wanted = scenarios.scenarios(spread=True)

    native, grpcio = (
        {account for scenario in wanted if scenario.transport == transport for account in scenario.accounts}
        for transport in ("native", "grpcio")
    )
    assert not native & grpcio


def slices(rates: list[float], *, server_s: float = 0.5) -> list[Slice]:
    return [
        Slice(
            turn=turn,
            calls=1_000,
            speed=Speed(calls_per_s=rate, p50_ms=1, p99_ms=2),
            cpu=Cpu(server_s=server_s, postgres_s=0.1, valkey_s=0.2),
            elapsed_s=1.0,
        )
        for turn, rate in enumerate(rates)
    ]


def test_a_ratio_is_the_median_of_the_ratios_of_each_turn() -> None:
    # The machine becomes half as fast; the ratio does not.
    measured: dict[Scenario, list[Slice]] = {}
    kinds: tuple[Kind, ...] = ("empty", "check_counter", "check_boolean", "committed")
    transports: tuple[TransportKind, ...] = ("native", "grpcio")
    for transport in transports:
        for kind in kinds:
            share = 1.0 if kind == "empty" else 0.4
            rates = [share * rate for rate in (40_000.0, 38_000.0, 21_000.0, 20_000.0, 20_000.0)]
            scale = 1.0 if transport == "native" else 0.1
            measured[Scenario(transport=transport, kind=kind, load=ONE)] = slices([rate * scale for rate in rates])

    results = {(result.scenario.transport, result.scenario.kind): result for result in sum_up(measured)}
    bars = bars_of(list(results.values()))

    committed = results["native", "committed"]
    assert committed.ratio == pytest.approx(0.4)
    assert committed.server_us == pytest.approx(500)
    assert committed.server_load == pytest.approx(0.5)
    assert committed.cpu_ratio == pytest.approx(1.0)
    assert [bar.holds for bar in bars] == [False, False, True, True]
    assert bars[-1].value == pytest.approx(4.0)
