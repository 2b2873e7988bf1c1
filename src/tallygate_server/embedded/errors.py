"""What a person is told when the embedded servers cannot start."""

from __future__ import annotations

from tallygate_server.setup_error import SetupError


class EmbeddedError(SetupError):
    """Something is in the way of the embedded servers."""
