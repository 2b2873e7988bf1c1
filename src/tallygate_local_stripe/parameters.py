"""Check and read request parameters against the pinned SDK's own parameter types.

The SDK's TypedDicts are generated from the API version that it pins, so an unknown, misplaced or ill-typed parameter is
refused here exactly where the real API of that version would refuse it.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typing_extensions
from stripe import RequestOptions

from tallygate_local_stripe.errors import StripeError, missing_parameter, unknown_parameter

# Never sent as parameters: the SDK takes them out of the same mapping.
_OPTIONS = frozenset(RequestOptions.__annotations__) | {"headers"}
_NOTHING_TYPED: Mapping[str, tuple[bool, Any]] = {}


def read(shape: type | None, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with the types that the shape gives them.

    Raises:
        StripeError: a parameter is unknown, missing or of the wrong type.

    """
    return _mapping(shape, raw, "")


@cache
def _fields(shape: type | None) -> Mapping[str, tuple[bool, Any]]:
    if shape is None:
        return _NOTHING_TYPED
    # A class with the parameters alone: the request options' names mean nothing in the module of the shape.
    own = {name: hint for name, hint in shape.__annotations__.items() if name not in _OPTIONS}
    scope = dict(vars(sys.modules[shape.__module__]))
    hints = get_type_hints(type(shape.__name__, (), {"__annotations__": own}), globalns=scope, include_extras=True)
    fields: dict[str, tuple[bool, Any]] = {}
    for name, hint in hints.items():
        optional = get_origin(hint) in (typing.NotRequired, typing_extensions.NotRequired)
        fields[name] = (not optional, get_args(hint)[0] if optional else hint)
    return fields


def _mapping(shape: type | None, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = _fields(shape)
    for name in raw:
        if name not in fields:
            raise unknown_parameter(_join(where, name))
    for name, (required, _) in fields.items():
        if required and raw.get(name) is None:
            raise missing_parameter(_join(where, name))
    return {name: _value(fields[name][1], value, _join(where, name)) for name, value in raw.items()}


def _join(where: str, name: str) -> str:
    return f"{where}[{name}]" if where else name


def _options(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [option for part in get_args(hint) for option in _options(part)]
    return [hint]


def _value(hint: Any, raw: Any, where: str) -> Any:
    options = _options(hint)
    if isinstance(raw, Mapping):
        return _structure(options, raw, where)
    literals = [value for option in options if get_origin(option) is Literal for value in get_args(option)]
    if raw in literals:
        return raw
    for kind, reader in ((bool, _boolean), (int, _integer), (float, _number), (Decimal, _number)):
        if kind in options:
            return reader(raw, where)
    choices = [value for value in literals if value != ""]
    if choices:
        raise StripeError(f"Invalid {where}: must be one of {', '.join(map(str, choices))}", param=where)
    if str in options or Any in options:
        return raw
    # An empty string where a list or a mapping belongs empties it.
    if raw == "":
        return ""
    raise StripeError(f"Invalid {_structure_name(options)}", param=where)


def _structure(options: list[Any], raw: Mapping[str, Any], where: str) -> Any:
    for option in options:
        if get_origin(option) is list and all(key.isdigit() for key in raw):
            inner = get_args(option)[0]
            ordered = sorted(raw, key=int)
            return [_value(inner, raw[key], f"{where}[{key}]") for key in ordered]
        if typing_extensions.is_typeddict(option):
            return _mapping(option, raw, where)
        if get_origin(option) is dict:
            inner = get_args(option)[1]
            return {key: _value(inner, value, f"{where}[{key}]") for key, value in raw.items()}
    raise StripeError(f"Invalid {_structure_name(options)}", param=where)


def _structure_name(options: list[Any]) -> str:
    if any(get_origin(option) is list for option in options):
        return "array"
    return "object" if any(typing_extensions.is_typeddict(option) for option in options) else "string"


def _boolean(raw: str, where: str) -> bool:
    if raw not in ("true", "false"):
        raise StripeError(f"Invalid boolean: {raw}", param=where)
    return raw == "true"


def _integer(raw: str, where: str) -> int:
    try:
        return int(raw)
    except ValueError as error:
        raise StripeError(f"Invalid integer: {raw}", code="parameter_invalid_integer", param=where) from error


def _number(raw: str, where: str) -> float:
    try:
        return float(Decimal(raw))
    except InvalidOperation as error:
        raise StripeError(f"Invalid decimal: {raw}", param=where) from error
