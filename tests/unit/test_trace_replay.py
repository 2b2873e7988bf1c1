from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tallygate_server.catalog_files import parse_catalog
from tallygate_server.trace_agreement import Told
from tallygate_server.trace_file import Trace
from tallygate_server.trace_replay import ReplayError, Run, StateFile, limit_for, new_run_id

RUN = Run(
    run_id="r1", trace_digest="d", tenant_id="replay", feature_key="llm_tokens", accounts=8, seed=1, limit=500,
    period="month", ack="committed",
)  # fmt: skip


def trace(quantities: list[int]) -> Trace:
    times_s = array("d", range(len(quantities)))
    return Trace(path=Path("t.csv"), digest="d", times_s=times_s, quantities=array("q", quantities))


def told(row: int) -> Told:
    return Told(
        row=row, quantity=5, request_id=RUN.request_id(row), allowed=True, reason="OK", used_quantity=5,
        limit_quantity=500, period_end_s=7, entry_id="1", replayed=False,
    )  # fmt: skip


def test_rows_are_spread_over_all_accounts_and_always_alike() -> None:
    spread = Counter(RUN.account_id(row) for row in range(1, 801))

    assert len(spread) == 8
    assert min(spread.values()) > 60
    assert RUN.account_id(17) == replace(RUN, limit=9).account_id(17)
    assert any(RUN.account_id(row)[-1] != replace(RUN, seed=2).account_id(row)[-1] for row in range(1, 20))


def test_two_runs_share_no_account_and_no_request() -> None:
    other = replace(RUN, run_id="r2")

    assert not {RUN.account_id(row) for row in range(99)} & {other.account_id(row) for row in range(99)}
    assert RUN.request_id(3) != other.request_id(3)
    assert new_run_id() != new_run_id()


@pytest.mark.parametrize("limit", [500, -1])
def test_the_catalog_of_a_run_is_valid(limit: int) -> None:
    catalogs = parse_catalog(replace(RUN, limit=limit).catalog_yaml())

    assert [feature.key for feature in catalogs.root.features] == ["llm_tokens"]


def test_the_chosen_limit_denies_some_calls_of_the_mean_account() -> None:
    assert limit_for(trace([100] * 10), 2) == 400
    assert limit_for(trace([1]), 50) == 1


def test_a_state_file_gives_back_what_was_told(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with StateFile.create(path, RUN) as state:
        state.record(told(2))
        state.record(told(1))

    state, run, answers = StateFile.resume(path, trace([5, 5, 5]))
    with state:
        state.record(told(3))

    assert run == RUN
    assert answers == {1: told(1), 2: told(2)}
    state, _, answers = StateFile.resume(path, trace([5, 5, 5]))
    with state:
        assert sorted(answers) == [1, 2, 3]


def test_a_line_cut_off_by_a_crash_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with StateFile.create(path, RUN) as state:
        state.record(told(1))
        state.record(told(2))
    path.write_bytes(path.read_bytes()[:-20])

    state, _, answers = StateFile.resume(path, trace([5, 5]))
    with state:
        state.record(told(2))

    assert sorted(answers) == [1]
    state, _, answers = StateFile.resume(path, trace([5, 5]))
    with state:
        assert sorted(answers) == [1, 2]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "its first line is no run"),
        ("hello\n", "its first line is no run"),
        ('{"run_id": "x"}\n', "its first line is no run"),
    ],
)
def test_other_files_are_no_state(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "state"
    path.write_text(content)

    with pytest.raises(ReplayError, match=words):
        StateFile.resume(path, trace([5]))


def test_a_damaged_answer_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with StateFile.create(path, RUN):
        pass
    with path.open("a") as file:
        file.write('{"row": 1}\n')

    with pytest.raises(ReplayError, match="line 2"):
        StateFile.resume(path, trace([5]))


def test_a_state_belongs_to_its_trace(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with StateFile.create(path, replace(RUN, trace_digest="other")):
        pass

    with pytest.raises(ReplayError, match="belongs to another trace"):
        StateFile.resume(path, trace([5]))


def test_a_state_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("mine")

    with pytest.raises(ReplayError, match="exists; go on with --resume"):
        StateFile.create(path, RUN)

    assert path.read_text() == "mine"
