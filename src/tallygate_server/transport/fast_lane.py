"""How a hot RPC is answered without a task, on transports that can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import Message


class Done(Protocol):
    """Takes the outcome of a call."""

    def __call__(self, outcome: Any, /) -> None:
        """Answer the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FastLane:
    """How one hot RPC is answered without a task."""

    path: str
    request: type[Message]
    accept: Callable[[Any], bool]
    """Tells whether a request certainly obeys its rules."""
    start: Callable[[Any, Done], None]
    """Converts the request and starts the use case; whatever it raises sends the call the ordinary way."""
    encode: Callable[[Any], bytes]
    """Turns an outcome that is no error into the bytes of the response."""
