"""What a person is told when the embedded servers cannot start."""

from __future__ import annotations


class EmbeddedError(Exception):
    """Say what is in the way of the embedded servers, and the way out, a sentence each."""

    def __init__(self, message: str, way_out: str) -> None:
        super().__init__(f"{message} {way_out}")
        self.message = message
        self.way_out = way_out
