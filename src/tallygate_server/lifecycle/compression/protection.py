"""Whether a segment may lose anything: what protects data, and what the policy says of its age and worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, Protocol

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataImportance, Segment, SegmentState
from tallygate_server.domain.retention import FOR_EVER, RetentionPolicy
from tallygate_server.lifecycle.tiers.documents import time_document
from tallygate_server.storage.connection import Connection


class SkipKind(Enum):
    """Why a segment was left alone; the words of the contract."""

    LEGAL_HOLD = "legal_hold"
    EXCEPTION = "exception"
    CRITICAL = "critical"
    POLICY = "policy"
    QUARANTINE = "quarantine"
    FORM = "form"
    NO_GAIN = "no_gain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Why a segment was left alone."""

    kind: SkipKind
    explanation: str
    possible_time: datetime | None = None

    def to_document(self, segment: Segment) -> dict[str, Any]:
        """Return it as the contract's JSON has it."""
        document = {"segment_id": segment.segment_id, "kind": self.kind.value, "explanation": self.explanation}
        if self.possible_time is not None:
            document["possible_time"] = time_document(self.possible_time)
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a segment is worth, as far as that protects it."""

    importance: DataImportance = DataImportance.MEDIUM
    training_value: float = 0.0


class KeptView(Protocol):
    """Why data is kept."""

    @property
    def kind(self) -> Enum:
        """One of the first words of `SkipKind`."""

    @property
    def explanation(self) -> str:
        """For people."""

    @property
    def possible_time(self) -> datetime | None:
        """When it ends, where that is known."""


class ProtectionsView(Protocol):
    """What protects a tenant's data at one instant."""

    def why_lossless(self, segment: Segment, importance: DataImportance, now: datetime) -> KeptView | None:
        """Tell why a segment must not lose anything: quarantine, holds, exceptions, importance."""


class PoliciesView(Protocol):
    """Where policies and protections are asked for."""

    async def policy_for(self, tenant_id: TenantId, data_type: str) -> RetentionPolicy:
        """Return the policy of a sort of data: its own, the one for all, or the defaults."""

    async def protections(self, tenant_id: TenantId, account_ids: Iterable[AccountId] = ()) -> ProtectionsView:
        """Return what protects a tenant's data now."""

    async def protections_in(self, connection: Connection, tenant_id: TenantId) -> ProtectionsView:
        """Return it, and let nothing new protect any data until the transaction ends."""

    async def visible_start(self, tenant_id: TenantId, account_id: AccountId, now: datetime) -> datetime | None:
        """Return the first instant that the account's plan lets it see; None: everything."""


class Worths(Protocol):
    """Where the worth of segments is asked for."""

    async def worths(self, segments: Sequence[Segment]) -> Mapping[str, Worth]:
        """Return the worth of segments of one tenant, by id."""


class NothingProtected:
    """Policies of a tenant of whom nobody said anything."""

    def why_lossless(self, _segment: Segment, _importance: DataImportance, _now: datetime) -> KeptView | None:
        """Nothing."""
        return None

    async def policy_for(self, tenant_id: TenantId, data_type: str) -> RetentionPolicy:  # noqa: ARG002 - a protocol's
        """Return the defaults."""
        return RetentionPolicy(tenant_id=tenant_id)

    async def protections(
        self,
        tenant_id: TenantId,
        account_ids: Iterable[AccountId] = (),  # noqa: ARG002 - a protocol's
    ) -> ProtectionsView:
        """Nothing is protected."""
        return self

    async def protections_in(self, connection: Connection, tenant_id: TenantId) -> ProtectionsView:  # noqa: ARG002
        """Nothing is protected."""
        return self

    async def visible_start(self, tenant_id: TenantId, account_id: AccountId, now: datetime) -> datetime | None:  # noqa: ARG002
        """Everything can be seen."""
        return None


class UsualWorths:
    """Takes every segment for one of usual worth."""

    async def worths(self, segments: Sequence[Segment]) -> Mapping[str, Worth]:
        """Return the usual worth."""
        return {segment.segment_id: Worth() for segment in segments}


USUAL: Final = Worth()


def why_not(
    segment: Segment, worth: Worth, policy: RetentionPolicy, protections: ProtectionsView, now: datetime
) -> Skip | None:
    """Tell why a segment must not be compressed with loss; None where it may be.

    Holds, exceptions and importance come first. Then the policy, where somebody has set one: its age threshold (-1:
    never), and the training value from which data is kept whole.
    """
    if segment.state is SegmentState.QUARANTINED:
        return Skip(kind=SkipKind.QUARANTINE, explanation=f"it is damaged: {segment.quarantine_reason}")
    kept = protections.why_lossless(segment, worth.importance, now)
    if kept is not None:
        return Skip(kind=SkipKind(kept.kind.value), explanation=kept.explanation, possible_time=kept.possible_time)
    if policy.version == 0:
        return None
    days = policy.compression_threshold_days
    if days == FOR_EVER:
        return Skip(kind=SkipKind.POLICY, explanation="the policy never lets this sort of data lose anything")
    due_time = segment.end_time + timedelta(days=days)
    if now < due_time:
        return Skip(
            kind=SkipKind.POLICY,
            explanation=f"the policy lets it lose nothing before it is {days} days old",
            possible_time=due_time,
        )
    if worth.training_value >= policy.ai_value_threshold:
        return Skip(
            kind=SkipKind.POLICY,
            explanation=(
                f"its training value {worth.training_value:.2f} reaches the policy's"
                f" ai_value_threshold {policy.ai_value_threshold:.2f}"
            ),
        )
    return None
