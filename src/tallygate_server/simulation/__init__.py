"""Simulations: what the real usage of a window would have met under other plans.

The replay runs in a process of its own, at low priority, so that no live call waits for it: `simulator.py` starts it
and passes on what it says, `__main__.py` is that process, `replaying.py` its work; the rules are in
`domain/simulation.py`.
"""

from __future__ import annotations

from tallygate_server.simulation.job import (
    SimulatedAccount,
    SimulationJob,
    SimulationProgress,
    SimulationTotals,
    SimulationUpdate,
)
from tallygate_server.simulation.simulator import SIMULATIONS_AT_ONCE_MAX, LimitSimulations, WantedSimulation

__all__ = [
    "SIMULATIONS_AT_ONCE_MAX",
    "LimitSimulations",
    "SimulatedAccount",
    "SimulationJob",
    "SimulationProgress",
    "SimulationTotals",
    "SimulationUpdate",
    "WantedSimulation",
]
