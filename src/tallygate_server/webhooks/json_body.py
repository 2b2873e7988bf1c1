"""The body of a webhook as JSON that can be trusted to be stored and read again: strictly parsed, within bounds."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from tallygate_server.errors import InvalidRequest

BODY_BYTES_MAX: Final = 1_048_576
DEPTH_MAX: Final = 64
NUMBER_LENGTH_MAX: Final = 64

_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


class _RefusedError(ValueError):
    """A value that JSON in Python knows, and we do not take; the text is one of ours."""


def parse_body(payload: bytes) -> dict[str, Any]:
    """Return the object that the body is; raise InvalidRequest naming `payload`, and nothing of what is in it."""
    if not payload:
        raise _refused("is empty")
    if len(payload) > BODY_BYTES_MAX:
        raise _refused(f"at most {BODY_BYTES_MAX} bytes")
    try:
        content = json.loads(
            payload.decode(),
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=_constant,
        )
        _look_through(content)
    except UnicodeDecodeError:
        raise _refused("is not text in UTF-8") from None
    except _RefusedError as error:
        raise _refused(str(error)) from None
    except ValueError:
        raise _refused("is no JSON") from None
    except RecursionError:
        raise _refused(f"is nested more than {DEPTH_MAX} deep") from None
    if not isinstance(content, dict):
        raise _refused("is no JSON object")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Whoever reads it next may take the other one.
        raise _RefusedError("names a key twice in one object")
    return found


def _whole_number(text: str) -> int:
    if len(text) > NUMBER_LENGTH_MAX:
        raise _RefusedError("holds a number that is too long")
    return int(text)


def _number(text: str) -> float:
    number = float(text) if len(text) <= NUMBER_LENGTH_MAX else math.inf
    if not math.isfinite(number):
        raise _RefusedError("holds a number that is too large or too long")
    return number


def _constant(_text: str) -> float:
    raise _RefusedError("holds a number that is none")


def _look_through(content: object) -> None:
    level: list[Any] = [content]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.keys())
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str) and _UNSTORABLE.search(value) is not None:
                raise _RefusedError("holds a character that is none")
        if not below:
            return
        level = below
    raise _RefusedError(f"is nested more than {DEPTH_MAX} deep")


def _refused(description: str) -> InvalidRequest:
    return InvalidRequest.of("payload", description)
