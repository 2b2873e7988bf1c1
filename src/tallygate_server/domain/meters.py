"""Meters: what one event says to one meter.

An event that has the meter's type and passes its filters gives it one reading: a value and dimensions. A count needs
no value. `unique` takes any scalar as text. All others take numbers, as the whole number value times 10^scale, rounded
half to even: the decimal digits that the event shows are computed with exactly, and never as floats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from tallygate_server.domain.ai_cost import AiCost
from tallygate_server.domain.catalog import ConfigValue, Meter, MeterAggregation
from tallygate_server.domain.limits import DIMENSION_VALUE_LENGTH_MAX
from tallygate_server.domain.rounding import divide_half_even
from tallygate_server.domain.usage_event import UsageEvent

READING_MAX: Final = 2**63 - 1
"""Largest value of a reading, after scaling; the smallest is -READING_MAX - 1."""

NUMBER_LENGTH_MAX: Final = 64
"""Characters of a number that is given as text."""

_DIGITS_BEFORE_POINT_MAX: Final = 25
"""More than any value within bounds has: what is larger is told apart without computing powers of ten."""

_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_AI: Final = "ai"


class PropertyUnreadable(Exception):
    """The event lacks the property that the meter reads, or it is of another type or size."""

    def __init__(self, meter_key: str, property_path: str, why: str) -> None:
        """Name the meter and the property, and say what is wrong."""
        super().__init__(f"{property_path} {why}")
        self.meter_key = meter_key
        self.property_path = property_path


@dataclass(frozen=True, slots=True)
class Reading:
    """What one event says to one meter."""

    meter_key: str
    value: int | str
    """1 for a count; text for `unique`; else the number times 10^scale."""
    dimensions: dict[str, str]
    """One for each of the meter's `group_by`; empty text where the event has none."""


def readings(meters: Iterable[Meter], event: UsageEvent, cost: AiCost) -> list[Reading]:
    """Return what the event says to each meter that counts it; raise PropertyUnreadable."""
    return [found for meter in meters if (found := read(meter, event, cost)) is not None]


def read(meter: Meter, event: UsageEvent, cost: AiCost) -> Reading | None:
    """Return what the event says to the meter; None where its type or a filter says no. Raise PropertyUnreadable."""
    if event.type != meter.event_type:
        return None
    dimensions = {name: _dimension(meter, path, event, cost) for name, path in meter.group_by}
    for each in meter.filters:
        if dimensions.get(each.dimension, "") not in each.values:
            return None
    return Reading(meter.key, _value(meter, event, cost), dimensions)


def decimal_text(value: int, scale: int) -> str:
    """Return a meter's value in the property's own unit, exactly: 1275 at scale 2 is `12.75`."""
    if scale == 0:
        return str(value)
    digits = f"{abs(value):0{scale + 1}d}"
    return f"{'-' if value < 0 else ''}{digits[:-scale]}.{digits[-scale:]}"


def _value(meter: Meter, event: UsageEvent, cost: AiCost) -> int | str:
    path = meter.value_property
    if meter.aggregation is MeterAggregation.COUNT:
        return 1
    found = _property(event, cost, path)
    if found is None:
        raise PropertyUnreadable(meter.key, path, "is missing")
    if meter.aggregation is MeterAggregation.UNIQUE:
        return _text(meter, path, found)
    number = _number(found)
    if number is None:
        raise PropertyUnreadable(meter.key, path, "is neither a number nor the text of one")
    scaled = _scaled(number, meter.scale)
    if scaled is None:
        raise PropertyUnreadable(meter.key, path, f"times 10^{meter.scale} does not fit into 64 bits")
    return scaled


def _dimension(meter: Meter, path: str, event: UsageEvent, cost: AiCost) -> str:
    found = _property(event, cost, path)
    return "" if found is None else _text(meter, path, found)


def _property(event: UsageEvent, cost: AiCost, path: str) -> ConfigValue:
    """Return what the event has at the dotted path; None where it has nothing, or null."""
    names = path.split(".")
    if names[0] == _AI:
        return _ai_property(event, cost, names[1:])
    found: ConfigValue = event.data
    for name in names:
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def _ai_property(event: UsageEvent, cost: AiCost, names: Sequence[str]) -> ConfigValue:
    ai = event.ai
    if ai is None or len(names) != 1:
        return None
    match names[0]:
        case "input_tokens":
            return ai.input_tokens
        case "output_tokens":
            return ai.output_tokens
        case "cached_input_tokens":
            return ai.cached_input_tokens
        case "total_tokens":
            return ai.total_tokens
        case "cost_nanos":
            return cost.nanos
        case "model_key":
            return ai.model_key
        # An empty one says nothing: the wire knows no difference.
        case "operation":
            return ai.operation or None
        case "cost_currency_code":
            return cost.currency_code or None
        case _:
            return None


def _text(meter: Meter, path: str, value: ConfigValue) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            text = str(value) if isinstance(value, int) else repr(value)
        case str():
            text = value
        case _:
            raise PropertyUnreadable(meter.key, path, "is a list or an object where a single value is read")
    if len(text) > DIMENSION_VALUE_LENGTH_MAX or _CONTROL.search(text):
        rule = f"is not a text of up to {DIMENSION_VALUE_LENGTH_MAX} characters without control characters"
        raise PropertyUnreadable(meter.key, path, rule)
    return text


def _number(value: ConfigValue) -> Decimal | None:
    """Return the number that the value shows, digit by digit; None where it shows none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, float):
        # The shortest decimal that reads back as the same number: what the event's JSON said.
        number = Decimal(repr(value))
        return number if number.is_finite() else None
    if isinstance(value, str) and len(value) <= NUMBER_LENGTH_MAX and _NUMBER.fullmatch(value):
        return Decimal(value)
    return None


def _scaled(number: Decimal, scale: int) -> int | None:
    """Return the number times 10^scale, rounded half to even; None where it does not fit into 64 bits."""
    if number.is_zero():
        return 0
    if number.adjusted() + scale > _DIGITS_BEFORE_POINT_MAX:
        return None
    if number.adjusted() + scale < -1:
        # Less than a tenth.
        return 0
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    whole = int("".join(map(str, digits)))
    shift = exponent + scale
    scaled = whole * 10**shift if shift >= 0 else divide_half_even(whole, 10**-shift)
    if sign:
        scaled = -scaled
    return scaled if -READING_MAX - 1 <= scaled <= READING_MAX else None
