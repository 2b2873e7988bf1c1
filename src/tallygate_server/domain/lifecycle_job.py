"""Long work on data: what was asked for, how far it is, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import JobKind, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """Asks for long work."""

    kind: JobKind
    tenant_id: TenantId
    account_id: AccountId | None
    """None: about several."""
    request: Mapping[str, Any]
    """What is asked for, as JSON, as the kind's handler reads it; part of what a retry must repeat."""
    validate_only: bool
    actor: str
    request_id: str
    """Empty: every call is a new one."""
    schedule_time: datetime | None = None
    """None: due at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """How far a job is."""

    done: int = 0
    total: int = 0
    """0 while unknown."""
    phase: str = ""
    read_bytes: int = 0
    written_bytes: int = 0
    estimated_end_time: datetime | None = None
    furthest: int = 0
    """Most steps that any attempt had done: one that gets beyond has not died of the same step again."""

    def to_document(self) -> dict[str, Any]:
        """Return the progress as JSON holds it."""
        return {
            "done": self.done,
            "total": self.total,
            "phase": self.phase,
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
            "estimated_end_time": self.estimated_end_time.isoformat() if self.estimated_end_time else None,
            "furthest": self.furthest,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> JobProgress:
        """Return the progress that `to_document` wrote, or that of a job that has not begun."""
        end = document.get("estimated_end_time")
        return cls(**{**document, "estimated_end_time": datetime.fromisoformat(end) if end else None})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job failed, as callers may see it."""

    reason: str
    """Name of an `ErrorReason` without its prefix."""
    message: str
    facts: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    """Fields of what was asked for that cannot be, and why."""

    def to_document(self) -> dict[str, Any]:
        """Return the error as JSON holds it."""
        return {
            "reason": self.reason,
            "message": self.message,
            "facts": dict(self.facts),
            "violations": [list(violation) for violation in self.violations],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> JobError:
        """Return the error that `to_document` wrote."""
        violations = tuple((path, description) for path, description in document["violations"])
        return cls(**{**document, "violations": violations})


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleJob:
    """Long work on data of one tenant."""

    tenant_id: TenantId
    job_id: str
    account_id: AccountId | None
    """None: about several."""
    kind: JobKind
    state: JobState
    validate_only: bool
    request: Mapping[str, Any]
    progress: JobProgress
    checkpoint: Mapping[str, Any]
    """Where to go on after a crash, as the kind's handler wrote it."""
    result: Mapping[str, Any] | None
    """The report in its proto's JSON form with the original field names; None before the end."""
    error: JobError | None
    actor: str
    request_id: str
    fingerprint: str
    attempt_count: int
    crash_count: int
    """Attempts in a row that ended without a word and got no further than those before."""
    cancel_requested: bool
    runner_id: str
    """Who runs it; empty: nobody."""
    lease_time: datetime | None
    """While it runs, whoever runs it must renew before; while it waits, not to be started before."""
    schedule_time: datetime | None
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
