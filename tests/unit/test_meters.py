"""What one event says to one meter."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tallygate_server.domain.ai_cost import NO_COST, AiCost
from tallygate_server.domain.catalog import ConfigValue, Meter, MeterAggregation, MeterFilter
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.limits import DIMENSION_VALUE_LENGTH_MAX
from tallygate_server.domain.meters import (
    NUMBER_LENGTH_MAX,
    READING_MAX,
    PropertyUnreadable,
    Reading,
    decimal_text,
    read,
    readings,
)
from tallygate_server.domain.usage_event import AiUsage, ClientContext, UsageEvent

NUMERIC = [each for each in MeterAggregation if each not in (MeterAggregation.COUNT, MeterAggregation.UNIQUE)]


def a_meter(aggregation: MeterAggregation = MeterAggregation.SUM, path: str = "n", **more: Any) -> Meter:
    return Meter(key="m", event_type="call", aggregation=aggregation, value_property=path, **more)


def an_event(data: dict[str, ConfigValue] | None = None, *, type_: str = "call", **more: Any) -> UsageEvent:
    return UsageEvent(source="s", event_id="1", type=type_, account_id=AccountId("ann"), data=data, **more)


def value_of(meter: Meter, event: UsageEvent, cost: AiCost = NO_COST) -> int | str:
    reading = read(meter, event, cost)
    assert reading is not None
    return reading.value


@pytest.mark.parametrize(
    ("value", "scale", "expected"),
    [
        (0, 0, 0),
        (3, 0, 3),
        (-3, 0, -3),
        (3, 2, 300),
        (12.75, 2, 1_275),
        ("12.75", 2, 1_275),
        # What a float could not say.
        (0.1, 1, 1),
        (1.005, 2, 100),
        ("1.005", 2, 100),
        ("1.0051", 2, 101),
        (2.675, 2, 268),
        ("2.665", 2, 266),
        (0.5, 0, 0),
        (1.5, 0, 2),
        (2.5, 0, 2),
        (-0.5, 0, 0),
        (-1.5, 0, -2),
        (-2.5, 0, -2),
        ("-2.5000000000000000000001", 0, -3),
        ("9007199254740993", 0, 9_007_199_254_740_993),
        ("0.000000001", 9, 1),
        ("1e3", 0, 1_000),
        ("25E-1", 1, 25),
        (1e-300, 9, 0),
        ("1e-999", 9, 0),
        ("0e999", 9, 0),
        (READING_MAX, 0, READING_MAX),
        (-READING_MAX - 1, 0, -READING_MAX - 1),
        ("9223372036854775807.4", 0, READING_MAX),
        ("9223372036.854775807", 9, READING_MAX),
    ],
)
def test_numbers_are_read_digit_by_digit(value: ConfigValue, scale: int, expected: int) -> None:
    assert value_of(a_meter(scale=scale), an_event({"n": value})) == expected


@pytest.mark.parametrize(
    ("value", "scale"),
    [
        (READING_MAX + 1, 0),
        (-READING_MAX - 2, 0),
        ("9223372036854775807.5", 0),
        ("9223372036.8547758075", 9),
        (1e300, 0),
        (10**300, 9),
        ("1e999", 0),
        ("-1e25", 0),
        ("1e26", 0),
    ],
)
def test_a_number_beyond_64_bits_is_named(value: ConfigValue, scale: int) -> None:
    with pytest.raises(PropertyUnreadable, match="does not fit into 64 bits") as caught:
        read(a_meter(scale=scale), an_event({"n": value}), NO_COST)

    assert (caught.value.meter_key, caught.value.property_path) == ("m", "n")


@pytest.mark.parametrize(
    "value",
    [
        *(True, "", "x", "1,5", " 1", "1 ", "+1", ".5", "5.", "0x10", "1_000", "NaN", "Infinity", "1e1000", "१"),
        *([1], {"a": 1}, float("nan"), float("inf")),
    ],
)
@pytest.mark.parametrize("aggregation", NUMERIC)
def test_what_is_no_number_is_named(aggregation: MeterAggregation, value: ConfigValue) -> None:
    with pytest.raises(PropertyUnreadable, match="n is neither a number nor the text of one"):
        read(a_meter(aggregation), an_event({"n": value}), NO_COST)


def test_a_number_as_text_has_a_bound() -> None:
    at_the_bound = "1" + "0" * 10 + "." + "0" * (NUMBER_LENGTH_MAX - 12)

    assert value_of(a_meter(), an_event({"n": at_the_bound})) == 10**10
    with pytest.raises(PropertyUnreadable):
        read(a_meter(), an_event({"n": at_the_bound + "0"}), NO_COST)


@pytest.mark.parametrize("data", [None, {}, {"n": None}, {"m": 1}, {"n": None, "m": 1}])
def test_a_missing_property_is_named(data: dict[str, ConfigValue] | None) -> None:
    with pytest.raises(PropertyUnreadable, match="n is missing"):
        read(a_meter(), an_event(data), NO_COST)


@given(
    number=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=12),
    scale=st.integers(0, 9),
)
@example(number=Decimal("0.5"), scale=0)
def test_text_is_scaled_and_rounded_half_to_even(number: Decimal, scale: int) -> None:
    value = value_of(a_meter(scale=scale), an_event({"n": f"{number:f}"}))

    assert value == round(Fraction(number) * 10**scale)


@given(number=st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9), scale=st.integers(0, 9))
def test_a_number_means_the_decimal_that_json_shows(number: float, scale: int) -> None:
    """The shortest text that reads back as the same number, which is what JSON writers write."""
    assert value_of(a_meter(scale=scale), an_event({"n": number})) == round(Fraction(repr(number)) * 10**scale)


@given(value=st.integers(-(10**18), 10**18), scale=st.integers(0, 9))
def test_a_value_is_told_in_its_own_unit_exactly(value: int, scale: int) -> None:
    assert Fraction(decimal_text(value, scale)) == Fraction(value, 10**scale)


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [(1_275, 2, "12.75"), (5, 2, "0.05"), (-5, 2, "-0.05"), (0, 2, "0.00"), (7, 0, "7"), (-700, 1, "-70.0")],
)
def test_a_value_keeps_the_decimal_places_of_its_scale(value: int, scale: int, text: str) -> None:
    assert decimal_text(value, scale) == text


def test_a_count_needs_no_value() -> None:
    assert value_of(a_meter(MeterAggregation.COUNT, path=""), an_event()) == 1
    assert value_of(a_meter(MeterAggregation.COUNT, path="n"), an_event({"n": "whatever"})) == 1


@pytest.mark.parametrize(
    ("value", "text"), [("ann", "ann"), ("", ""), (3, "3"), (2.5, "2.5"), (True, "true"), (False, "false")]
)
def test_unique_takes_any_scalar_as_text(value: ConfigValue, text: str) -> None:
    assert value_of(a_meter(MeterAggregation.UNIQUE), an_event({"n": value})) == text


@pytest.mark.parametrize("value", [[], {}, ["a"], {"a": 1}, "line\nbreak", "x" * (DIMENSION_VALUE_LENGTH_MAX + 1)])
def test_unique_and_dimensions_take_short_single_values_only(value: ConfigValue) -> None:
    with pytest.raises(PropertyUnreadable):
        read(a_meter(MeterAggregation.UNIQUE), an_event({"n": value}), NO_COST)
    with pytest.raises(PropertyUnreadable) as caught:
        read(
            a_meter(MeterAggregation.COUNT, path="", group_by=(("who", "a.b"),)), an_event({"a": {"b": value}}), NO_COST
        )

    assert caught.value.property_path == "a.b"


def test_the_longest_text_is_taken() -> None:
    text = "x" * DIMENSION_VALUE_LENGTH_MAX

    assert value_of(a_meter(MeterAggregation.UNIQUE), an_event({"n": text})) == text


def test_a_path_leads_through_objects() -> None:
    data: dict[str, ConfigValue] = {"usage": {"total_tokens": 7, "x": [1]}, "usage.total_tokens": 9}

    assert value_of(a_meter(path="usage.total_tokens"), an_event(data)) == 7
    for path in ("usage.other", "usage.total_tokens.more", "usage.x.0", "other.total_tokens"):
        with pytest.raises(PropertyUnreadable, match="is missing"):
            read(a_meter(path=path), an_event(data), NO_COST)


def test_dimensions_are_texts_and_empty_where_the_event_has_none() -> None:
    meter = a_meter(
        MeterAggregation.COUNT,
        path="",
        group_by=(("model", "ai.model_key"), ("region", "r"), ("n", "n"), ("none", "x")),
    )

    reading = read(meter, an_event({"r": "eu", "n": 3}, ai=AiUsage(model_key="gpt")), NO_COST)

    assert reading == Reading("m", 1, {"model": "gpt", "region": "eu", "n": "3", "none": ""})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ai.input_tokens", 1_000),
        ("ai.output_tokens", 500),
        ("ai.cached_input_tokens", 200),
        ("ai.total_tokens", 1_500),
        ("ai.cost_nanos", 450_000),
    ],
)
def test_meters_read_what_a_model_did(path: str, value: int) -> None:
    ai = AiUsage(model_key="gpt", input_tokens=1_000, output_tokens=500, cached_input_tokens=200)
    # Data of the same name is in nobody's way.
    event = an_event({"ai": {"output_tokens": 9, "cost_nanos": 9}}, ai=ai)

    assert value_of(a_meter(path=path), event, AiCost(450_000, "USD")) == value


@pytest.mark.parametrize(
    ("path", "text"),
    [("ai.model_key", "gpt"), ("ai.operation", "rewrite"), ("ai.cost_currency_code", "USD"), ("ai.input_tokens", "4")],
)
def test_meters_group_by_what_a_model_did(path: str, text: str) -> None:
    meter = a_meter(MeterAggregation.COUNT, path="", group_by=(("d", path),))
    ai = AiUsage(model_key="gpt", input_tokens=4, operation="rewrite")

    reading = read(meter, an_event(ai=ai), AiCost(1, "USD"))

    assert reading is not None
    assert reading.dimensions == {"d": text}


@pytest.mark.parametrize("path", ["ai.operation", "ai.cost_currency_code", "ai.other", "ai", "ai.model_key.x"])
def test_what_a_model_did_not_say_is_missing(path: str) -> None:
    with pytest.raises(PropertyUnreadable, match="is missing"):
        read(a_meter(MeterAggregation.UNIQUE, path=path), an_event(ai=AiUsage(model_key="gpt")), NO_COST)


def test_without_a_model_nothing_of_it_is_read() -> None:
    with pytest.raises(PropertyUnreadable, match=r"ai\.output_tokens is missing"):
        read(a_meter(path="ai.output_tokens"), an_event({"ai": {"output_tokens": 9}}), NO_COST)


def test_a_model_without_a_price_costs_nothing() -> None:
    assert value_of(a_meter(path="ai.cost_nanos"), an_event(ai=AiUsage(model_key="gpt")), NO_COST) == 0


def test_a_meter_reads_events_of_its_type_only() -> None:
    assert read(a_meter(), an_event({"n": 1}, type_="Call"), NO_COST) is None
    # So what it would find there cannot refuse the event.
    assert read(a_meter(), an_event({"n": "x"}, type_="other"), NO_COST) is None


@pytest.mark.parametrize(
    ("data", "counts"),
    [
        ({"region": "eu", "tier": "a"}, True),
        ({"region": "us", "tier": "a"}, True),
        ({"region": "eu", "tier": "b"}, False),
        ({"region": "EU", "tier": "a"}, False),
        ({"region": "eu"}, False),
        ({}, False),
    ],
)
def test_every_filter_must_match_exactly(data: dict[str, ConfigValue], *, counts: bool) -> None:
    meter = a_meter(
        MeterAggregation.COUNT,
        path="",
        group_by=(("region", "region"), ("tier", "tier")),
        filters=(MeterFilter(dimension="region", values=("us", "eu")), MeterFilter(dimension="tier", values=("a",))),
    )

    assert (read(meter, an_event(data), NO_COST) is not None) is counts


def test_a_filter_for_the_empty_value_keeps_what_lacks_the_dimension() -> None:
    meter = a_meter(
        MeterAggregation.COUNT,
        path="",
        group_by=(("region", "region"),),
        filters=(MeterFilter(dimension="region", values=("",)),),
    )

    assert read(meter, an_event({}), NO_COST) is not None
    assert read(meter, an_event({"region": "eu"}), NO_COST) is None


def test_a_value_that_a_filter_keeps_out_is_not_looked_at() -> None:
    meter = a_meter(group_by=(("r", "r"),), filters=(MeterFilter(dimension="r", values=("eu",)),))

    assert read(meter, an_event({"r": "us", "n": "no number"}), NO_COST) is None


def test_an_event_counts_on_every_meter_that_it_matches() -> None:
    meters = [
        Meter(key="calls", event_type="call", aggregation=MeterAggregation.COUNT),
        Meter(key="tokens", event_type="call", aggregation=MeterAggregation.SUM, value_property="n"),
        Meter(key="others", event_type="other", aggregation=MeterAggregation.COUNT),
    ]

    found = readings(meters, an_event({"n": 7}), NO_COST)

    assert [(each.meter_key, each.value) for each in found] == [("calls", 1), ("tokens", 7)]


CHANGES: list[dict[str, Any]] = [
    {"type": "other"},
    {"account_id": AccountId("bob")},
    {"data": {"n": 2}},
    {"data": None},
    {"ai": AiUsage(model_key="gpt")},
    {"client": ClientContext()},
]


@pytest.mark.parametrize("change", CHANGES)
def test_another_content_has_another_fingerprint(change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"source": "s", "event_id": "1", "type": "call", "account_id": "ann", "data": {"n": 1}}

    assert UsageEvent(**fields).fingerprint() != UsageEvent(**{**fields, **change}).fingerprint()


def test_the_order_of_properties_says_nothing() -> None:
    one = an_event({"a": 1, "b": {"c": 1, "d": 2}})
    other = an_event({"b": {"d": 2, "c": 1}, "a": 1})

    assert one.fingerprint() == other.fingerprint()
    assert -(2**63) <= one.fingerprint() < 2**63
