"""What data is worth, and what follows from it: critical data, samples, training sets, plans for smaller storage.

`seasons.py`, `selection.py`, `priorities.py` and `planning.py` are pure rules; `models.py` runs in a model process;
`gathering.py` reads what they need, within bounds; `use_cases.py` and `plans.py` put them together.
"""
