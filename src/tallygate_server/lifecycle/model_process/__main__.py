"""The model process: takes a job on its standard input, answers on its standard output, and ends.

It ends early when whoever started it goes away: then its standard input ends.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import Final

import structlog

from tallygate_server.lifecycle.model_process.jobs import job_function
from tallygate_server.lifecycle.model_process.messages import ModelJobRefused, answer_line, error_line, read_job
from tallygate_server.telemetry import configure_logging

log = structlog.get_logger(__name__)

NICENESS: Final = 5
"""Of 19: whatever serves live calls comes first."""
_DONE, _ABANDONED = 0, 1


def main() -> int:
    """Do the job that stands on the standard input."""
    os.nice(NICENESS)
    # Our own log goes to the standard error; the standard output is for the server.
    configure_logging(level="warning", log_format="json")
    told = read_job(sys.stdin.buffer)
    if told is None:
        return _ABANDONED
    # Fitting cannot be interrupted: a thread waits for the end of the input.
    threading.Thread(target=_end_with_input, daemon=True).start()
    name, parameters, tables = told
    try:
        answer = answer_line(job_function(name)(parameters, tables))
    except ModelJobRefused as error:
        answer = error_line(error)
    except Exception as error:  # noqa: BLE001 - the edge of the process: whatever it is, the server hears of it
        # Where, and no more: messages of libraries may quote what people have stored.
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error("model_job_failed", error=f"{type(error).__name__} at {place.filename}:{place.lineno}")  # noqa: TRY400
        answer = error_line(error)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    # At once: the waiting thread holds the lock of the standard input, which an orderly end would wait for.
    os._exit(_DONE)


def _end_with_input() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(_ABANDONED)


if __name__ == "__main__":
    sys.exit(main())
