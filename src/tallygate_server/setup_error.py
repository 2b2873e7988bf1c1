"""What a person who starts Tallygate is told when something is in the way."""

from __future__ import annotations


class SetupError(Exception):
    """Say what is in the way and the way out, a sentence each."""

    def __init__(self, message: str, way_out: str) -> None:
        """Keep the two sentences; as text they stand one after the other."""
        super().__init__(f"{message} {way_out}")
        self.message = message
        self.way_out = way_out
