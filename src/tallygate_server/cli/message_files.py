"""Messages of the contract from YAML or JSON files as people write them; what does not fit is told by its field.

Beside the contract's own JSON: enums by the short name (`summary`), instants as dates, lengths of time such as `90m`,
and a list where a message has nothing but one.
"""

from __future__ import annotations

import difflib
import math
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tallygate_server.cli.explanations import CommandError

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
    from google.protobuf.message import Message

    Read = TypeVar("Read", bound=Message)

_LENGTH: Final = re.compile(r"(\d+)(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
FILE_BYTES_MAX: Final = 1 << 20


def read_message_file(file: Path, message: Read) -> Read:
    """Fill a message from a file and return it. Raises CommandError naming every field that does not fit."""
    from google.protobuf import json_format
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if file.stat().st_size > FILE_BYTES_MAX:
        raise CommandError(f"{file}: is larger than {FILE_BYTES_MAX:,} bytes")
    try:
        # JSON is YAML.
        content = YAML(typ="safe", pure=True).load(file.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise CommandError(f"{file}: is not text in UTF-8 (byte {error.start})") from None
    except YAMLError as error:
        raise CommandError(f"{file}: {' '.join(str(error).split())}") from None
    problems: list[str] = []
    descriptor: Any = message.DESCRIPTOR
    document = _message(content, descriptor, "", problems)
    if problems:
        raise CommandError(f"{file}: " + "; ".join(problems))
    try:
        return json_format.ParseDict(document, message)
    except json_format.ParseError as error:
        raise CommandError(f"{file}: {error}") from None


def _message(value: Any, descriptor: Descriptor, path: str, problems: list[str]) -> Any:
    if descriptor.full_name == "google.protobuf.Timestamp":
        return _instant(value, path, problems)
    if descriptor.full_name == "google.protobuf.Duration":
        return _length(value, path, problems)
    if isinstance(value, list) and len(descriptor.fields) == 1 and descriptor.fields[0].is_repeated:
        value = {descriptor.fields[0].name: value}
    if not isinstance(value, dict):
        problems.append(f"{path or 'the file'}: must be fields with values")
        return {}
    known = {field.name: field for field in descriptor.fields}
    read = {}
    for key, item in value.items():
        name = f"{path}.{key}" if path else str(key)
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"do you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            problems.append(f"{name}: there is no such field; {hint}")
        elif item is not None:
            read[key] = _field(item, known[key], name, problems)
    return read


def _field(value: Any, field: FieldDescriptor, path: str, problems: list[str]) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if not isinstance(value, dict):
            problems.append(f"{path}: must be names with values")
            return {}
        kind = field.message_type.fields_by_name["value"]
        return {str(key): _single(item, kind, f"{path}[{key}]", problems) for key, item in value.items()}
    if not field.is_repeated:
        return _single(value, field, path, problems)
    if not isinstance(value, list):
        problems.append(f"{path}: must be a list")
        return []
    return [_single(item, field, f"{path}[{number}]", problems) for number, item in enumerate(value)]


def _single(value: Any, field: FieldDescriptor, path: str, problems: list[str]) -> Any:
    if field.message_type is not None:
        return _message(value, field.message_type, path, problems)
    if field.enum_type is not None:
        return _enum(value, field.enum_type, path, problems)
    kind = field.cpp_type
    if kind == field.CPPTYPE_BOOL:
        fits, wanted = isinstance(value, bool), "must be true or false"
    elif kind == field.CPPTYPE_STRING:
        fits, wanted = isinstance(value, str), "must be a text; quote it"
    elif kind in {field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT}:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits, wanted = number and math.isfinite(value), "must be a number"
    else:
        fits, wanted = isinstance(value, int) and not isinstance(value, bool), "must be a whole number"
    if not fits:
        problems.append(f"{path}: {value!r}: {wanted}")
        return None
    return value


def _enum(value: Any, kind: EnumDescriptor, path: str, problems: list[str]) -> Any:
    names = [each.name for each in kind.values]
    # The first is `..._UNSPECIFIED`, which tells the prefix of all.
    prefix = names[0].removesuffix("UNSPECIFIED")
    short = {name.removeprefix(prefix).lower(): name for name in names[1:]}
    if value in names:
        return value
    found = short.get(str(value).lower())
    if found is None:
        problems.append(f"{path}: {value!r}: must be one of {', '.join(short)}")
    return found


def _instant(value: Any, path: str, problems: list[str]) -> str | None:
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        instant = None
    if isinstance(instant, date) and not isinstance(instant, datetime):
        instant = datetime(instant.year, instant.month, instant.day, tzinfo=UTC)
    if not isinstance(instant, datetime):
        problems.append(f"{path}: {value!r}: is no time; write 2026-12-01 or 2026-12-01T09:30")
        return None
    aware = instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _length(value: Any, path: str, problems: list[str]) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return f"{value:.6f}s"
    found = _LENGTH.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        problems.append(f"{path}: {value!r}: is no length of time; write 90s, 15m, 2h or 1d")
        return None
    return f"{int(found[1]) * _SECONDS[found[2]]}s"
