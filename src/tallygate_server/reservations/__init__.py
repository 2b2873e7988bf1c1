"""Reservations: quantity taken from a limit before the cost of the work is known."""

from __future__ import annotations

from tallygate_server.reservations.calls import (
    Commit,
    CommitAnswer,
    Extend,
    ExtendAnswer,
    Release,
    ReleaseAnswer,
    Reserve,
    ReserveAnswer,
)
from tallygate_server.reservations.expiry import ReservationExpiry
from tallygate_server.reservations.use_cases import Reservations

__all__ = [
    "Commit",
    "CommitAnswer",
    "Extend",
    "ExtendAnswer",
    "Release",
    "ReleaseAnswer",
    "ReservationExpiry",
    "Reservations",
    "Reserve",
    "ReserveAnswer",
]
