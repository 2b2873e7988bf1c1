"""What a model process can do: names of jobs, and the functions that do them.

A function takes the job's parameters and tables and returns a document for JSON; it may raise ModelJobRefused. It is
imported in the process only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import pyarrow as pa

JobFunction = Callable[[Mapping[str, Any], Sequence[pa.Table]], dict[str, Any]]

JOBS: Final[Mapping[str, str]] = {
    "echo": "tallygate_server.lifecycle.model_process.jobs:echo",
    "evaluate_impact": "tallygate_server.lifecycle.lossy.impact:run_job",
    "identify_critical": "tallygate_server.lifecycle.value.models:identify_critical",
    "select_samples": "tallygate_server.lifecycle.value.models:select_samples",
    "choose_training_set": "tallygate_server.lifecycle.value.models:choose_training_set",
}


def job_function(name: str) -> JobFunction:
    """Return the function of a job. Raises KeyError."""
    module, _, function = JOBS[name].partition(":")
    found: JobFunction = getattr(import_module(module), function)
    return found


def echo(parameters: Mapping[str, Any], tables: Sequence[pa.Table]) -> dict[str, Any]:
    """Return the parameters and what was received, to find out whether processes can be started."""
    return {"parameters": dict(parameters), "rows": [table.num_rows for table in tables]}
