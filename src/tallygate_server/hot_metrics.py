"""Tallies of the hot path as plain integers: a call pays an addition, `/metrics` does the rest when scraped."""

from __future__ import annotations

from collections import defaultdict

from tallygate_server.domain.call import CheckAnswer, IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.errors import TallygateError


class HotMetrics:
    """Counts since the process started; keys are bounded by enums and by names in the code."""

    def __init__(self) -> None:
        """Start at zero."""
        self.checks: defaultdict[Reason, int] = defaultdict(int)
        self.check_errors: defaultdict[str, int] = defaultdict(int)
        self.stale_checks = 0
        self.increments: defaultdict[Reason, int] = defaultdict(int)
        self.increment_errors: defaultdict[str, int] = defaultdict(int)
        self.replays = 0
        self.fallbacks: defaultdict[str, int] = defaultdict(int)
        self.group_commits = 0
        self.group_commit_rows = 0
        self.denials_unrecorded = 0
        self.accepted_refused = 0
        self.holds_swept = 0

    def check(self, outcome: CheckAnswer | TallygateError) -> None:
        """Count an answered check."""
        if isinstance(outcome, CheckAnswer):
            self.checks[outcome.reason] += 1
            self.stale_checks += outcome.stale
        else:
            self.check_errors[outcome.reason] += 1

    def increment(self, outcome: IncrementAnswer | TallygateError) -> None:
        """Count an answered increment."""
        if isinstance(outcome, IncrementAnswer):
            self.increments[outcome.reason] += 1
            self.replays += outcome.replayed
        else:
            self.increment_errors[outcome.reason] += 1

    def fallback(self, path: str, calls: int = 1) -> None:
        """Count calls that left the fast path."""
        self.fallbacks[path] += calls

    def committed(self, rows: int) -> None:
        """Count a group commit and its ledger rows."""
        self.group_commits += 1
        self.group_commit_rows += rows


metrics = HotMetrics()
