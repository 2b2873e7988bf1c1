"""What a server and the process of a simulation say to each other: one JSON document on each line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import (
    CatalogConflict,
    CatalogInvalid,
    FieldViolation,
    InvalidRequest,
    StoreUnavailable,
    TallygateError,
)

LINE_BYTES_MAX: Final = 8 * 1_048_576
"""Of one document: a draft of a megabyte fits, even if each of its bytes is escaped with six."""
VIOLATIONS_TOLD_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationJob:
    """What the process is asked to do."""

    database_url: str
    tenant_id: TenantId
    catalog_yaml: str | None
    """The draft; None: the plans in force."""
    start_time: datetime
    end_time: datetime
    account_id: str
    feature_key: str
    plan_key: str
    include_denied_usage: bool

    def to_line(self) -> bytes:
        """Return the job as one line."""
        return _line(
            {
                "database_url": self.database_url,
                "tenant_id": self.tenant_id,
                "catalog_yaml": self.catalog_yaml,
                "start_time": self.start_time.isoformat(),
                "end_time": self.end_time.isoformat(),
                "account_id": self.account_id,
                "feature_key": self.feature_key,
                "plan_key": self.plan_key,
                "include_denied_usage": self.include_denied_usage,
            }
        )

    @classmethod
    def from_line(cls, line: bytes) -> SimulationJob:
        """Return the job that `to_line` wrote."""
        data: dict[str, Any] = json.loads(line)
        return cls(
            database_url=data["database_url"],
            tenant_id=TenantId(data["tenant_id"]),
            catalog_yaml=data["catalog_yaml"],
            start_time=datetime.fromisoformat(data["start_time"]),
            end_time=datetime.fromisoformat(data["end_time"]),
            account_id=data["account_id"],
            feature_key=data["feature_key"],
            plan_key=data["plan_key"],
            include_denied_usage=data["include_denied_usage"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedAccount:
    """What would have happened to one account with one feature that would have been denied."""

    account_id: AccountId
    feature_key: str
    plan_key: str
    first_denial_time: datetime
    denied_count: int
    denied_quantity: int
    used_quantity: int
    limit_quantity: int
    reason: Reason
    real_denied_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationProgress:
    """How far it is, in lines of the ledger."""

    entry_count: int
    entry_count_total: int
    """Estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationTotals:
    """The sums."""

    entry_count: int = 0
    account_count: int = 0
    """Accounts of which anything was replayed."""
    denied_account_count: int = 0
    denied_count: int = 0
    denied_quantity: int = 0
    first_day_account_count: int = 0
    """Accounts that would have been denied within a day of the window's begin."""
    unexplained_count: int = 0
    """Calls that nothing explains which is known of their accounts: these are taken as they were recorded."""
    duration: timedelta = timedelta()
    """How long it took; the process does not tell."""


SimulationUpdate = SimulatedAccount | SimulationProgress | SimulationTotals


def update_line(update: SimulationUpdate) -> bytes:
    """Return what the process has to say as one line."""
    if isinstance(update, SimulatedAccount):
        return _line(
            {
                "account": {
                    "account_id": update.account_id,
                    "feature_key": update.feature_key,
                    "plan_key": update.plan_key,
                    "first_denial_time": update.first_denial_time.isoformat(),
                    "denied_count": update.denied_count,
                    "denied_quantity": update.denied_quantity,
                    "used_quantity": update.used_quantity,
                    "limit_quantity": update.limit_quantity,
                    "reason": int(update.reason),
                    "real_denied_count": update.real_denied_count,
                }
            }
        )
    if isinstance(update, SimulationProgress):
        return _line({"progress": [update.entry_count, update.entry_count_total]})
    return _line(
        {
            "totals": {
                "entry_count": update.entry_count,
                "account_count": update.account_count,
                "denied_account_count": update.denied_account_count,
                "denied_count": update.denied_count,
                "denied_quantity": update.denied_quantity,
                "first_day_account_count": update.first_day_account_count,
                "unexplained_count": update.unexplained_count,
            }
        }
    )


def error_line(error: Exception) -> bytes:
    """Return as one line why there will be no totals; of what nobody foresaw the type alone."""
    if isinstance(error, CatalogInvalid):
        told = [
            [violation.field, violation.description, violation.rule]
            for violation in error.violations[:VIOLATIONS_TOLD_MAX]
        ]
        return _line({"error": {"catalog_invalid": told}})
    if isinstance(error, InvalidRequest):
        told = [[violation.field, violation.description, violation.rule] for violation in error.violations]
        return _line({"error": {"invalid": told}})
    if isinstance(error, CatalogConflict):
        path = error.facts["path"]
        description = error.message.removeprefix(f"{path}: ")
        return _line({"error": {"catalog_conflict": [error.facts["tenant_id"], path, description]}})
    if isinstance(error, StoreUnavailable):
        return _line({"error": {"store_unavailable": str(error)}})
    return _line({"error": {"unforeseen": type(error).__name__}})


class SimulationFailed(Exception):
    """The process of a simulation failed in a way that nobody foresaw."""


def parse_line(line: bytes) -> SimulationUpdate:
    """Return what a line says; raise what it says went wrong: a TallygateError, or SimulationFailed."""
    data: dict[str, Any] = json.loads(line)
    if (account := data.get("account")) is not None:
        first = datetime.fromisoformat(account.pop("first_denial_time"))
        return SimulatedAccount(first_denial_time=first, reason=Reason(account.pop("reason")), **account)
    if (progress := data.get("progress")) is not None:
        return SimulationProgress(entry_count=progress[0], entry_count_total=progress[1])
    if (totals := data.get("totals")) is not None:
        return SimulationTotals(**totals)
    raise _error(data["error"])


def _error(told: dict[str, Any]) -> TallygateError | SimulationFailed:
    if (violations := told.get("catalog_invalid")) is not None:
        return CatalogInvalid([FieldViolation(*violation) for violation in violations])
    if (violations := told.get("invalid")) is not None:
        return InvalidRequest([FieldViolation(*violation) for violation in violations])
    if (conflict := told.get("catalog_conflict")) is not None:
        return CatalogConflict(*conflict)
    if (why := told.get("store_unavailable")) is not None:
        return StoreUnavailable(why)
    return SimulationFailed(told["unforeseen"])


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
