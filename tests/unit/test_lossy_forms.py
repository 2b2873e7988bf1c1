"""What each lossy form gives back, compared with what loops in plain Python say of the same records."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pytest

from tallygate_server.domain.lifecycle import CompressionForm, CompressionSettings
from tallygate_server.lifecycle.lossy import (
    AnalysisUnavailable,
    LossyForm,
    LossyPayloadDamaged,
    LossySettings,
    LossySettingsInvalid,
    decode,
    encode,
    lossy_settings,
    patterns_of,
    summary,
)

START: Final = datetime(2026, 3, 2, 0, 0, tzinfo=UTC)
"""A Monday."""
TIME: Final = pa.timestamp("us", tz="UTC")
HOUR: Final = timedelta(hours=1)


def a_table(times: list[datetime], **columns: Any) -> pa.Table:
    return pa.table({"time": pa.array(times, TIME), **columns})


def shuffled(table: pa.Table, seed: int = 1) -> pa.Table:
    places = list(range(table.num_rows))
    random.Random(seed).shuffle(places)
    return table.take(places)


def a_walk(count: int, seed: int = 6) -> list[float]:
    numbers = random.Random(seed)
    values = [0.0]
    while len(values) < count:
        values.append(values[-1] + numbers.gauss(0, 1))
    return values


def hours_of_readings(seed: int = 5) -> tuple[list[datetime], list[float | None]]:
    """Return readings at uneven times of some hours, one of them without any value."""
    numbers = random.Random(seed)
    times = sorted(START + timedelta(seconds=numbers.randrange(5 * 3600)) for _ in range(400))
    values: list[float | None] = [round(numbers.gauss(100, 20), 2) for _ in times]
    for place in range(0, 400, 37):
        values[place] = [None, math.nan, math.inf][place % 3]
    values = [None if time.hour == 3 else value for time, value in zip(times, values, strict=True)]
    return times, values


def quantile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    place = (len(ranked) - 1) * share
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


# Summary


def test_windows_hold_what_a_loop_over_their_records_finds() -> None:
    times, values = hours_of_readings()
    kinds = [["run", "ride", "rest"][place % 3] if place % 4 else None for place in range(400)]
    table = shuffled(a_table(times, v=pa.array(values, pa.float64()), n=list(range(400)), kind=kinds))

    windows = decode(encode(table, LossySettings(form=LossyForm.SUMMARY)).payload).windows()

    rows = windows.table.to_pylist()
    assert [row["time"] for row in rows] == [START + HOUR * hour for hour in range(5)]
    assert not windows.approximate
    by_time = [row for row in table.to_pylist() if row["time"] is not None]
    for row in rows:
        inside = [each for each in by_time if row["time"] <= each["time"] < row["time"] + HOUR]
        # Of one time the order of the table counts, as everywhere.
        inside.sort(key=lambda each: each["time"])
        present = [each["v"] for each in inside if each["v"] is not None and math.isfinite(each["v"])]
        assert row["v.count"] == len(present)
        assert row["v.missing"] == sum(each["v"] is None for each in inside)
        assert row["v.nan"] == sum(each["v"] is not None and math.isnan(each["v"]) for each in inside)
        assert row["v.infinite"] == sum(each["v"] == math.inf for each in inside)
        if not present:
            assert row["v.mean"] is row["v.p50"] is row["v.first"] is None
            continue
        assert row["v.min"] == min(present)
        assert row["v.max"] == max(present)
        assert row["v.first"] == present[0]
        assert row["v.last"] == present[-1]
        assert row["v.sum"] == pytest.approx(math.fsum(present))
        assert row["v.mean"] == pytest.approx(statistics.fmean(present))
        assert row["v.std"] == pytest.approx(statistics.pstdev(present))
        for share in (5, 25, 50, 75, 95):
            assert row[f"v.p{share}"] == pytest.approx(quantile(present, share / 100))
        assert row["n.min"] == min(each["n"] for each in inside)
        counts = {
            kind: sum(each["kind"] == kind for each in inside) for kind in {each["kind"] for each in inside} - {None}
        }
        assert json.loads(row["kind.top"]) == counts
        assert row["kind.missing"] == sum(each["kind"] is None for each in inside)


def test_an_hour_without_values_has_counts_and_no_numbers() -> None:
    times, values = hours_of_readings()

    result = encode(a_table(times, v=pa.array(values, pa.float64())), LossySettings(form=LossyForm.SUMMARY))
    row = decode(result.payload).windows().table.to_pylist()[3]

    assert row["v.count"] == 0
    assert row["v.missing"] > 0
    assert row["v.mean"] is None


def test_time_in_zones_is_what_each_reading_held() -> None:
    numbers = random.Random(3)
    seconds = [*sorted(numbers.sample(range(3 * 3600), 300)), 3 * 3600 + 1800]
    times = [START + timedelta(seconds=second) for second in seconds]
    values = [None if place % 11 == 5 else float(numbers.randrange(80, 180)) for place in range(len(times))]
    values[40] = math.nan
    settings = LossySettings(form=LossyForm.SUMMARY, zones={"v": (100.0, 120.0, 150.0)})

    rows = (
        decode(encode(a_table(times, v=pa.array(values, pa.float64())), settings).payload).windows().table.to_pylist()
    )

    readings = [(second, value) for second, value in zip(seconds, values, strict=True) if value is not None]
    distances = [after[0] - before[0] for before, after in itertools.pairwise(readings)]
    hold = int(3 * statistics.median(distances))
    expected = {(hour, zone): 0 for hour in range(4) for zone in range(4)}
    for (second, value), (until, _) in itertools.pairwise(readings):
        for each in range(second, min(until, second + hold)):
            if not math.isnan(value):
                expected[each // 3600, sum(value >= bound for bound in (100, 120, 150))] += 1
    found = {(row["time"].hour, zone): row[f"v.zone{zone}_seconds"] for row in rows for zone in range(4)}
    assert found == expected


def test_coarser_windows_are_exact_but_for_quantiles_and_finer_ones_are_refused() -> None:
    times, values = hours_of_readings()
    table = a_table(times, v=pa.array(values, pa.float64()), kind=[str(place % 13) for place in range(400)])
    zones = {"v": (90.0, 110.0)}
    fine = decode(encode(table, LossySettings(form=LossyForm.SUMMARY, zones=zones)).payload)
    coarse = decode(encode(table, LossySettings(form=LossyForm.SUMMARY, window=3 * HOUR, zones=zones)).payload)

    combined, straight = fine.windows(3 * HOUR), coarse.windows()
    left, right = combined.table.to_pylist(), straight.table.to_pylist()

    assert set(combined.approximate) == {"v.p5", "v.p25", "v.p50", "v.p75", "v.p95", "kind.top"}
    assert set(combined.table.column_names) == set(straight.table.column_names)
    for mine, theirs in zip(left, right, strict=True):
        for name, value in theirs.items():
            if name in combined.approximate:
                continue
            assert mine[name] == (pytest.approx(value) if isinstance(value, float) else value), name
    with pytest.raises(AnalysisUnavailable, match="multiples"):
        fine.windows(timedelta(minutes=30))
    with pytest.raises(AnalysisUnavailable, match="multiples"):
        fine.windows(timedelta(minutes=90))
    with pytest.raises(AnalysisUnavailable, match="gone"):
        fine.rows()


# Behaviour


def some_actions() -> tuple[list[datetime], list[str | None]]:
    numbers = random.Random(8)
    time, times, actions = START, [], []
    for place in range(500):
        time += timedelta(seconds=numbers.choice([5, 40, 600, 1800, 1801, 30_000]))
        times.append(time)
        actions.append(None if place % 23 == 7 else numbers.choice(["open", "read", "read", "share"]))
    return times, actions


@pytest.mark.parametrize("as_documents", [False, True])
def test_behaviour_is_what_a_loop_over_the_actions_counts(as_documents: bool) -> None:  # noqa: FBT001
    times, actions = some_actions()
    if as_documents:
        documents = [json.dumps({"screen": 1} | ({"what": action} if action else {})) for action in actions]
        table = shuffled(a_table(times, document=documents))
    else:
        table = shuffled(a_table(times, what=pa.array(actions, pa.string()), other=list(range(500))))

    kept = decode(encode(table, LossySettings(form=LossyForm.BEHAVIORAL, action_column="what")).payload)
    profile, sessions = kept.profile(), kept.sessions()

    done = [(time, action) for time, action in zip(times, actions, strict=True) if action]
    expected: list[list[tuple[datetime, str]]] = []
    for time, action in done:
        if not expected or time - expected[-1][-1][0] > timedelta(minutes=30):
            expected.append([])
        expected[-1].append((time, action))
    assert profile["actions"] == {
        name: [action for _, action in done].count(name) for name in ("open", "read", "share")
    }
    assert profile["missing"] == actions.count(None)
    assert profile["session_count"] == len(sessions) == len(expected)
    for found, session in zip(sessions, expected, strict=True):
        assert datetime.fromisoformat(found["start_time"]) == session[0][0]
        assert datetime.fromisoformat(found["end_time"]) == session[-1][0]
        assert found["length_seconds"] == (session[-1][0] - session[0][0]).total_seconds()
        assert found["action_count"] == len(session)
        names = [action for _, action in session]
        assert found["actions"] == {name: names.count(name) for name in set(names)}
    steps = [(a[1], b[1]) for session in expected for a, b in itertools.pairwise(session)]
    assert profile["transitions"] == {
        a: {b: steps.count((a, b)) for b in {to for start, to in steps if start == a}} for a in {a for a, _ in steps}
    }
    for name, week in profile["hours"].items():
        for day in range(7):
            for hour in range(24):
                assert week[day][hour] == sum(
                    action == name and (time.weekday(), time.hour) == (day, hour) for time, action in done
                )
    assert "single actions" in kept.limitation.lower()


def test_actions_beyond_the_bound_are_counted_together() -> None:
    def actions_of(count: int) -> dict[str, int]:
        names = [f"a{place:03}" for place in range(count)] + ["a000"]
        times = [START + timedelta(seconds=place) for place in range(len(names))]
        kept = decode(encode(a_table(times, what=names), LossySettings(form=LossyForm.BEHAVIORAL)).payload)
        found: dict[str, int] = kept.profile()["actions"]
        return found

    assert len(actions_of(256)) == 256
    assert "*" not in actions_of(256)
    assert len(actions_of(257)) == 256
    assert actions_of(257)["*"] == 2
    assert actions_of(257)["a000"] == 2
    names = [f"a{place:04}" for place in range(1_000)]
    result = encode(
        a_table([START + timedelta(seconds=place) for place in range(1_000)], what=names),
        LossySettings(form=LossyForm.BEHAVIORAL),
    )
    assert decode(result.payload).profile()["merged"] == 1_000 - 255
    assert result.value_retained <= 0.255


def test_the_action_must_be_named_where_it_is_not_plain() -> None:
    times = [START, START + HOUR]

    for table, name in [
        (a_table(times, a=["x", "y"], b=["x", "y"]), ""),
        (a_table(times, a=["x", "y"]), "c"),
        (a_table(times, document=["{}", "{}"]), ""),
        (a_table(times, n=[1, 2]), ""),
    ]:
        with pytest.raises(LossySettingsInvalid, match="action_column"):
            encode(table, LossySettings(form=LossyForm.BEHAVIORAL, action_column=name))


def test_what_always_follows_is_worth_more_than_what_comes_by_chance() -> None:
    numbers = random.Random(4)
    times = [START + timedelta(seconds=place * 61) for place in range(2_000)]
    settings = LossySettings(form=LossyForm.BEHAVIORAL)

    regular = encode(a_table(times, what=["abc"[place % 3] for place in range(2_000)]), settings)
    chance = encode(a_table(times, what=[numbers.choice("abc") for _ in range(2_000)]), settings)

    assert regular.value_retained > 0.95
    assert chance.value_retained < 0.15


# Seasons


def weeks_of_readings(noise: float) -> tuple[list[datetime], list[float], list[float]]:
    """Return five weeks, a reading each half hour: a rising line, a curve of the day, free Sundays, and noise."""
    numbers = random.Random(2)
    times = [START + timedelta(minutes=30 * place) for place in range(5 * 7 * 48)]
    plain = [
        50 + place / 400 + (0 if time.weekday() == 6 else 10 * math.sin(time.hour / 24 * 2 * math.pi))
        for place, time in enumerate(times)
    ]
    return times, [value + numbers.gauss(0, noise) for value in plain], plain


def test_patterns_find_trend_week_and_spread() -> None:
    times, values, plain = weeks_of_readings(noise=0.5)
    result = encode(shuffled(a_table(times, v=values)), LossySettings(form=LossyForm.SEASONAL))
    kept = decode(result.payload)

    found = kept.patterns()["v"]
    rows = kept.rows()

    assert found["cycle"] == "week"
    assert found["step_seconds"] == 1_800
    assert [len(day) for day in found["profile"]] == [48] * 7
    assert found["trend"][-1]["value"] - found["trend"][0]["value"] == pytest.approx(4 * 336 / 400, abs=0.3)
    assert found["profile"][0][12] - found["profile"][0][36] == pytest.approx(20, abs=1.0)
    assert found["profile"][6][12] - found["profile"][6][36] == pytest.approx(0, abs=1.0)
    assert statistics.fmean(value for day in found["spread"]["std"] for value in day) == pytest.approx(0.4, abs=0.1)
    assert rows.num_rows == len(times)
    drawn = rows.column("v").to_pylist()
    assert max(abs(a - b) for a, b in zip(drawn, plain, strict=True)) < 2.0
    errors = [abs(a - b) for a, b in zip(drawn, values, strict=True)]
    assert found["measured"]["max_error"] == pytest.approx(max(errors))
    assert result.columns[0].root_mean_square_error == pytest.approx(statistics.fmean(e * e for e in errors) ** 0.5)
    assert result.value_retained > 0.99
    assert len(result.payload) < result.original_bytes / 20


@pytest.mark.parametrize(
    ("days", "minutes", "cycle", "steps"),
    [(13, 10, "day", 48), (15, 60, "week", 168), (1, 10, "none", 1), (15, 7 * 60, "week", 21)],
)
def test_the_cycle_and_its_steps_follow_the_data(days: int, minutes: int, cycle: str, steps: int) -> None:
    times = [START + timedelta(minutes=place) for place in range(0, days * 1_440, minutes)]
    values = [math.sin(place / 5) for place in range(len(times))]

    found = patterns_of(a_table(times, v=values))["v"]

    assert found["cycle"] == cycle
    profile = found["profile"]
    assert sum(map(len, profile)) if cycle == "week" else len(profile) == steps
    assert found["trend"]


def test_rows_are_drawn_at_the_wanted_distance_up_to_a_bound() -> None:
    times, values, _ = weeks_of_readings(noise=0.1)
    kept = decode(encode(a_table(times, v=values), LossySettings(form=LossyForm.SEASONAL)).payload)

    assert kept.rows(timedelta(hours=6)).num_rows == 5 * 7 * 4
    with pytest.raises(AnalysisUnavailable, match="more than"):
        kept.rows(timedelta(seconds=1))


# Curves


def test_rows_come_back_with_ids_texts_and_all_that_is_exact() -> None:
    times = [START + timedelta(seconds=place // 2) for place in range(600)]
    table = shuffled(
        a_table(
            times,
            _id=[f"id-{place}" for place in range(600)],
            _sequence=list(range(600)),
            on=[place % 5 == 0 if place % 3 else None for place in range(600)],
            at=pa.array([START if place % 2 else None for place in range(600)], TIME),
            v=a_walk(600),
        )
    )

    result = encode(table, LossySettings(form=LossyForm.PIECEWISE))
    kept = decode(result.payload)
    rows = kept.rows()

    ordered = table.sort_by("time")
    assert rows.schema == table.schema
    exact = ["time", "on", "at"]
    by_id = {row["_id"]: row for row in table.to_pylist()}
    assert len({row["_id"] for row in rows.to_pylist()}) == 600
    for row in rows.to_pylist():
        assert {name: row[name] for name in [*exact, "_sequence"]} == {
            name: by_id[row["_id"]][name] for name in [*exact, "_sequence"]
        }
    assert rows.column("time").equals(ordered.column("time"))
    assert kept.available_analyses == ("rows", "windows", "patterns")
    assert f"v within {0.01 * (max(a_walk(600)) - min(a_walk(600))):.6g}" in kept.limitation
    assert {loss.column for loss in result.columns} == {"on", "at", "v"}
    assert kept.rows(timedelta(minutes=1)).num_rows == 5


def test_rows_tell_which_statistics_of_windows_are_only_near() -> None:
    times = [START + timedelta(seconds=place) for place in range(600)]
    table = a_table(times, v=a_walk(600), n=[1] * 600)
    kept = decode(encode(table, LossySettings(form=LossyForm.PIECEWISE)).payload)

    windows = kept.windows(timedelta(minutes=5))

    assert windows.table.num_rows == 2
    assert "v.mean" in windows.approximate
    assert "v.count" not in windows.approximate
    assert not any(name.startswith("n.") for name in windows.approximate)


# All forms


@pytest.mark.parametrize("form", LossyForm)
@pytest.mark.parametrize("count", [0, 1])
def test_every_form_takes_no_record_and_one(form: LossyForm, count: int) -> None:
    table = a_table([START] * count, v=pa.array([1.5] * count, pa.float64()), kind=pa.array(["x"] * count, pa.string()))

    result = encode(table, LossySettings(form=form))
    kept = decode(result.payload)

    assert kept.record_count == result.record_count == count
    assert 0 <= result.value_retained <= 1
    for analysis in kept.available_analyses:
        getattr(kept, analysis)()
    json.dumps(result.summary_metrics, allow_nan=False)


@pytest.mark.parametrize("form", LossyForm)
def test_extreme_numbers_break_no_form(form: LossyForm) -> None:
    values = [1.7e308, -1.7e308, math.inf, math.nan, 5e-324, None] * 20
    times = [START + timedelta(hours=place) for place in range(len(values))]
    table = a_table(
        times,
        v=pa.array(values, pa.float64()),
        n=[2**63 - 1, -(2**63)] * 60,
        wide=pa.array([5e-324, sys.float_info.max, -sys.float_info.max] * 40, pa.float64()),
        kind=["x"] * 120,
    )

    result = encode(table, LossySettings(form=form))
    kept = decode(result.payload)

    assert 0 <= result.value_retained <= 1
    json.dumps([result.summary_metrics, [loss.max_error for loss in result.columns]], allow_nan=False)
    assert kept.available_analyses == result.available_analyses


@pytest.mark.parametrize("form", [LossyForm.PIECEWISE, LossyForm.SUMMARY, LossyForm.SEASONAL])
def test_truth_values_and_instants_can_be_in_every_form(form: LossyForm) -> None:
    times = [START + timedelta(seconds=place) for place in range(40)]
    table = a_table(times, v=list(range(40)), on=[True] * 39 + [None], seen=times)

    result = encode(table, LossySettings(form=form))

    fits = {column.column: column for column in result.columns}
    # All are alike, so that what is left of them tells every one; of instants, no two of which are, at most one.
    assert fits["on"].root_mean_square_error <= math.sqrt(1 / 40) + 1e-12
    assert form is LossyForm.PIECEWISE or fits["seen"].root_mean_square_error == pytest.approx(math.sqrt(39 / 40))


@pytest.mark.parametrize("form", LossyForm)
def test_every_flipped_byte_is_found(form: LossyForm) -> None:
    times = [START + timedelta(minutes=place) for place in range(60)]
    payload = encode(a_table(times, v=list(range(60)), kind=["x", "y"] * 30), LossySettings(form=form)).payload

    for place in range(len(payload)):
        torn = bytearray(payload)
        torn[place] ^= 1 << (place % 8)
        with pytest.raises(LossyPayloadDamaged):
            decode(bytes(torn))
    for torn_off in (payload[:-1], payload[:20], b"", payload + b"x"):
        with pytest.raises(LossyPayloadDamaged):
            decode(torn_off)


def test_the_worth_that_is_left_falls_with_what_is_lost() -> None:
    table = a_table([START + timedelta(seconds=place) for place in range(3_000)], v=a_walk(3_000))

    def worth(**settings: Any) -> float:
        return encode(table, LossySettings(**settings)).value_retained

    curves = [worth(form=LossyForm.PIECEWISE, max_error_ratio=ratio) for ratio in (0.0, 0.01, 0.05, 0.5)]
    windows = [worth(form=LossyForm.SUMMARY, window=timedelta(seconds=length)) for length in (1, 60, 1_200, 86_400)]
    assert curves[0] == 1.0
    assert curves == sorted(curves, reverse=True)
    assert len(set(curves)) == 4
    assert windows[0] == 1.0
    assert windows == sorted(windows, reverse=True)
    assert windows[-1] == pytest.approx(0)


def test_documents_are_summed_up_by_their_fields() -> None:
    times = [START + timedelta(minutes=place) for place in range(120)]
    documents = [
        json.dumps({"n": place, "share": place / 2, "who": "ann", "tags": ["x"], "odd": place if place % 2 else "y"})
        for place in range(120)
    ]

    result = encode(a_table(times, document=documents), LossySettings(form=LossyForm.SUMMARY))
    rows = decode(result.payload).windows().table.to_pylist()

    assert {loss.column for loss in result.columns} == {"n", "share", "who", "odd"}
    assert [row["n.sum"] for row in rows] == [sum(range(60)), sum(range(60, 120))]
    assert json.loads(rows[0]["who.top"]) == {"ann": 60}


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": 0},
        {"level": 10},
        {"max_error_ratio": -0.1},
        {"max_error_ratio": 1.1},
        {"max_error_ratio": math.nan},
        {"column_error_ratios": {"v": 2.0}},
        {"window": timedelta(milliseconds=999)},
        {"window": timedelta(days=366, seconds=1)},
        {"session_gap": timedelta(0)},
        {"session_gap": timedelta(days=7, seconds=1)},
        {"zones": {"v": (2.0, 1.0)}},
        {"zones": {"v": (1.0, math.inf)}},
        {"zones": {"v": tuple(map(float, range(51)))}},
    ],
)
def test_settings_beyond_a_bound_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LossySettingsInvalid):
        LossySettings(form=LossyForm.SUMMARY, **wrong)


def test_settings_at_their_bounds_are_taken() -> None:
    for level, window, gap in [(1, timedelta(seconds=1), timedelta(seconds=1)), (9, 366 * 24 * HOUR, 168 * HOUR)]:
        LossySettings(
            form=LossyForm.SUMMARY,
            level=level,
            window=window,
            session_gap=gap,
            max_error_ratio=1.0,
            zones={"v": tuple(map(float, range(50)))},
        )


def test_the_contracts_settings_name_a_form() -> None:
    def form_of(form: CompressionForm, *, seasonal: bool = False) -> LossyForm:
        return lossy_settings(CompressionSettings(form=form, seasonal=seasonal)).form

    assert form_of(CompressionForm.SUMMARY) is LossyForm.SUMMARY
    assert form_of(CompressionForm.BEHAVIORAL) is LossyForm.BEHAVIORAL
    assert form_of(CompressionForm.STATISTICAL) is LossyForm.PIECEWISE
    assert form_of(CompressionForm.STATISTICAL, seasonal=True) is LossyForm.SEASONAL
    with pytest.raises(LossySettingsInvalid, match="form"):
        form_of(CompressionForm.LOSSLESS)


def test_documents_become_at_most_a_hundred_columns() -> None:
    def columns_of(count: int) -> set[str]:
        documents = [json.dumps({f"f{place:03}": 1 for place in range(count)}), json.dumps({"f000": 2})]
        result = encode(a_table([START, START + HOUR], document=documents), LossySettings(form=LossyForm.SUMMARY))
        return {loss.column for loss in result.columns}

    assert len(columns_of(100)) == 100
    assert len(columns_of(101)) == 100
    assert "f100" not in columns_of(101)


def test_a_reading_that_spans_too_many_windows_counts_where_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    table = a_table([START + timedelta(seconds=10 * place) for place in range(4)], v=[1.0, 5.0, 1.0, 5.0])
    settings = LossySettings(form=LossyForm.SUMMARY, window=timedelta(seconds=1), zones={"v": (3.0,)})

    def seconds() -> float:
        rows = decode(encode(table, settings).payload).windows().table.to_pylist()
        return math.fsum(row["v.zone0_seconds"] + row["v.zone1_seconds"] for row in rows)

    monkeypatch.setattr(summary, "ZONE_PIECES_MAX", 30)
    assert seconds() == 30
    monkeypatch.setattr(summary, "ZONE_PIECES_MAX", 29)
    assert seconds() == 3


@pytest.mark.parametrize("form", LossyForm)
def test_every_form_takes_columns_of_every_type(form: LossyForm) -> None:
    times = [START + timedelta(minutes=place) for place in range(240)]
    table = a_table(
        times,
        flag=[None if place % 50 == 3 else place % 120 < 60 for place in range(240)],
        at=pa.array([None if place % 40 == 1 else times[place // 60] for place in range(240)], TIME),
        nothing=pa.array([None] * 240, pa.float64()),
        empty=pa.array([None] * 240, pa.string()),
        what=["run" if place % 120 < 60 else "rest" for place in range(240)],
        v=[float(place % 7) for place in range(240)],
    )

    result = encode(table, LossySettings(form=form, action_column="what"))
    kept = decode(result.payload)

    assert 0 <= result.value_retained <= 1
    losses = {loss.column: loss for loss in result.columns}
    assert set(losses) == set(table.column_names) - {"time"}
    if form is LossyForm.SUMMARY:
        # Each hour has one value: what is missing is all that the windows do not tell.
        assert losses["flag"].root_mean_square_error == pytest.approx(math.sqrt(5 / 240))
        assert losses["at"].root_mean_square_error == pytest.approx(math.sqrt(6 / 240))
        assert losses["what"].max_error == 0
        assert json.loads(kept.windows().table.column("flag.top")[0].as_py()) == {"true": 58}
    if form is LossyForm.PIECEWISE:
        for name in ("flag", "at", "nothing", "empty", "what"):
            assert losses[name].max_error == 0
            assert kept.rows().column(name).equals(table.column(name))
