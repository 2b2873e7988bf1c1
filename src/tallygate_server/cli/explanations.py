"""Turn whatever went wrong into one sentence for a person, or one line of JSON for a program."""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import dataclass, field
from typing import Any, Final

import typer

EXIT_NO: Final = 1
"""The answer is no: denied, different, in disagreement."""

EXIT_ERROR: Final = 2
"""Something is wrong."""

EXIT_INTERRUPTED: Final = 130

NOT_MIGRATED_STATES: Final = frozenset({"42P01", "42703", "42883", "42704", "22023"})
"""SQLSTATEs of a table, column, function or role that is not there."""

STACK_LEVEL: Final = "debug"
"""The log level at which the stack of an unexpected error is shown too."""


class CommandError(Exception):
    """A command cannot do what it was asked to; the message is a sentence for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What went wrong and the way out."""

    sentence: str
    way_out: str = ""
    points: tuple[str, ...] = ()
    """Single mistakes, where there are several."""
    facts: dict[str, Any] = field(default_factory=dict)


def explain(error: BaseException) -> Explanation:
    """Find the words for an error."""
    # Libraries are not imported to ask about their errors: an error's own module says where it is from.
    origin = type(error).__module__.partition(".")[0]
    if origin == "tallygate_server":
        return _explain_ours(error)
    if origin in {"asyncpg", "sqlalchemy"}:
        return _explain_database(error)
    if origin == "alembic":
        return Explanation(
            sentence=f"the database cannot be migrated: {error}",
            way_out="was it migrated by a newer release? then run that one",
        )
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return Explanation(sentence=f"{place}{error.strerror or error}")
    stack = "" if _shows_stack() else f"; TALLYGATE_LOG_LEVEL={STACK_LEVEL} shows where"
    return Explanation(
        sentence=f"an unexpected {type(error).__name__} ({error}) stopped the command; this is a defect{stack}"
    )


def _explain_database(error: BaseException) -> Explanation:
    """Say what the database said; a part of the schema that is not there yet is the usual cause."""
    cause: BaseException = getattr(error, "orig", None) or error
    sentence = f"the database refused: {str(cause).partition(chr(10))[0].strip()}"
    if getattr(cause, "sqlstate", None) in NOT_MIGRATED_STATES:
        return Explanation(sentence=sentence, way_out="Bring its schema up to date: tallygate migrate")
    return Explanation(sentence=sentence, way_out="`tallygate doctor` looks for the cause")


def _explain_ours(error: BaseException) -> Explanation:
    from tallygate_server.client import CallFailed
    from tallygate_server.config import SettingsError
    from tallygate_server.errors import StoreUnavailable
    from tallygate_server.setup_error import SetupError

    if isinstance(error, CallFailed):
        points = tuple(f"{violation.field}: {violation.description}" for violation in error.violations)
        if len(points) > 1:
            return Explanation(
                sentence=f"{len(points)} things are wrong ({error.reason})", points=points, facts=error.as_json()
            )
        return Explanation(sentence=error.sentence, facts=error.as_json())
    if isinstance(error, SettingsError):
        points = tuple(error.problems)
        if len(points) == 1:
            return Explanation(sentence=points[0])
        return Explanation(sentence=f"{len(points)} settings are wrong", points=points)
    if isinstance(error, SetupError):
        return Explanation(sentence=error.message, way_out=error.way_out)
    if isinstance(error, StoreUnavailable):
        return Explanation(
            sentence=str(error),
            way_out="check TALLYGATE_DATABASE_URL; `tallygate doctor` looks for the cause",
        )
    if isinstance(error, OSError) and error.strerror:
        return Explanation(sentence=error.strerror)
    return Explanation(sentence=str(error))


def speak(error: BaseException, *, as_json: bool) -> int:
    """Say on standard error what went wrong and return the exit code."""
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return speak(error.exceptions[0], as_json=as_json)
    if isinstance(error, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    explanation = explain(error)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "error": {
                        "message": explanation.sentence,
                        "way_out": explanation.way_out,
                        "points": explanation.points,
                    }
                    | explanation.facts
                }
            ),
            err=True,
        )
    else:
        # Some sentences end with a full stop, others do not; two of them need one between.
        sentence = explanation.sentence.rstrip(".")
        way_out = explanation.way_out[:1].upper() + explanation.way_out[1:]
        typer.echo(f"tallygate: {sentence}{f'. {way_out}' if way_out else ''}", err=True)
        for point in explanation.points:
            typer.echo(f"  - {point}", err=True)
    if _shows_stack():
        traceback.print_exception(error, file=sys.stderr)
    return EXIT_ERROR


def _shows_stack() -> bool:
    return os.environ.get("TALLYGATE_LOG_LEVEL") == STACK_LEVEL
