"""What data is worth, and what follows from it: critical data, samples, training sets, plans for smaller storage.

`seasons.py`, `selection.py`, `priorities.py` and `planning.py` are pure rules; `models.py` runs in a model process;
`scoring.py` and `gathering.py` read what they need, within bounds; `use_cases.py` and `plans.py` put them together.
"""

from __future__ import annotations

from tallygate_server.lifecycle.value.gathering import Gatherer
from tallygate_server.lifecycle.value.plans import STEPS_LISTED_MAX, PlanView, StoragePlans, WantedOptimization
from tallygate_server.lifecycle.value.scoring import ModelWeights, Scored, Scorer
from tallygate_server.lifecycle.value.seasons import SeasonKind
from tallygate_server.lifecycle.value.use_cases import (
    CriticalData,
    DataValues,
    Measurement,
    Sample,
    Samples,
    TrainingSet,
    WeightsChange,
)

__all__ = [
    "STEPS_LISTED_MAX",
    "CriticalData",
    "DataValues",
    "Gatherer",
    "Measurement",
    "ModelWeights",
    "PlanView",
    "Sample",
    "Samples",
    "Scored",
    "Scorer",
    "SeasonKind",
    "StoragePlans",
    "TrainingSet",
    "WantedOptimization",
    "WeightsChange",
]
