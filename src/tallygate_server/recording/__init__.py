"""Recording usage events: what happened, happened; see README.md."""

from __future__ import annotations

from tallygate_server.recording.events import UsageEvents
from tallygate_server.recording.recorder import UsageRecorder
from tallygate_server.recording.results import RecordOutcome, RecordResult

__all__ = ["RecordOutcome", "RecordResult", "UsageEvents", "UsageRecorder"]
