"""Small models, fitted in a process of their own: scikit-learn is never imported where calls are served.

`models.run("evaluate_impact", parameters, [table])` starts a process, hands it the job and the tables, and returns what
it answers. What it can do stands in `jobs.py`: a name, and the function that does it.
"""

from __future__ import annotations

from tallygate_server.lifecycle.model_process.messages import ModelJobRefused, ModelProcessFailed
from tallygate_server.lifecycle.model_process.process import ModelProcesses

__all__ = ["ModelJobRefused", "ModelProcessFailed", "ModelProcesses"]
