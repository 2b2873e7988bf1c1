"""Plans for smaller storage: made from what data is worth and what forms were measured to take, carried out by jobs.

A plan touches nothing that a hold, an exception or its importance protects, neither when it is made nor, asked again in
the very transaction, when it is carried out. A step is noted in the transaction that does it, so a job that goes on
after a crash does none twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import pyarrow as pa

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import (
    CompressionSettings,
    DataSelection,
    JobKind,
    Segment,
    SegmentState,
)
from tallygate_server.domain.retention_rules import Protections
from tallygate_server.errors import ArchiveCorruption, IntegrityViolation, InvalidRequest, NotFound, PlanOutdated
from tallygate_server.lifecycle import columnar
from tallygate_server.lifecycle.jobs import JobControl, LifecycleJob, LifecycleJobs, NewJob
from tallygate_server.lifecycle.lossy import LossySettingsInvalid, encode, lossy_settings
from tallygate_server.lifecycle.policies import Policies, Remover
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.lifecycle.tiers.records import read_merged
from tallygate_server.lifecycle.value.gathering import SEGMENTS_MAX
from tallygate_server.lifecycle.value.plan_rules import (
    Measured,
    Untouchable,
    allowed_actions,
    explanation_of,
    lossy_settings_for,
    options_of,
    wholly_within,
)
from tallygate_server.lifecycle.value.plan_steps import PlanSteps
from tallygate_server.lifecycle.value.planning import WORTHLESS, Candidate, Step, plan_steps
from tallygate_server.lifecycle.value.scoring import Scored, Scorer
from tallygate_server.storage import value_rows as rows
from tallygate_server.storage.data_segments import read_segment, read_segments
from tallygate_server.storage.value_rows import Plan, PlanStep

PLAN_LIFETIME: Final = timedelta(hours=24)
PLANS_MAX: Final = 100
"""Of one tenant; the oldest is forgotten for a new one."""
STEPS_MAX: Final = 10_000
"""Of one plan; what more would be needed is for the next one."""
STEPS_LISTED_MAX: Final = 1_000
TRIALS_MAX: Final = 3
"""Segments of a sort of data that are tried to be read, to measure one."""
DRIFT_MAX: Final = 0.1
"""Share of a plan's bytes whose segments may have changed or gone: with more the plan is outdated."""


class TenantUse(Protocol):
    """Knows tenants."""

    async def get(self, tenant_id: TenantId) -> Any:
        """Return the tenant. Raises TenantNotFound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """A plan, and what it would come to."""

    plan: Plan
    present_bytes: int
    planned_bytes: int
    value_retained: float
    feasible: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedOptimization:
    """What `StoragePlans.optimize` is asked for: a plan towards a target, or to carry one out."""

    selection: DataSelection = field(default_factory=DataSelection)
    target_reduction_ratio: float | None = None
    plan_id: str = ""
    min_value_retained: float = 0.0

    def to_document(self) -> dict[str, Any]:
        """Return it as a job's request holds it."""
        return {
            "selection": self.selection.to_document(),
            "target_reduction_ratio": self.target_reduction_ratio,
            "plan_id": self.plan_id,
            "min_value_retained": self.min_value_retained,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> WantedOptimization:
        """Return what `to_document` wrote."""
        return cls(**{**document, "selection": DataSelection.from_document(document["selection"])})


class StoragePlans:
    """Makes plans for smaller storage and carries them out."""

    def __init__(
        self,
        segments: SegmentStore,
        scorer: Scorer,
        policies: Policies,
        remover: Remover,
        *,
        jobs: LifecycleJobs,
        tenants: TenantUse,
        clock: Clock,
    ) -> None:
        """Use a segment store with the lifecycle's role."""
        self._store = segments
        self._database = segments.database
        self._scorer = scorer
        self._policies = policies
        self._jobs = jobs
        self._tenants = tenants
        self._clock = clock
        self._steps = PlanSteps(segments, scorer, policies, remover, clock)

    async def plan_retention(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        *,
        storage_limit_bytes: int,
        model_key: str = "",
        actor: str,
    ) -> PlanView:
        """Plan what to compress, summarise or delete so that data fits; keeps the plan for a day.

        Raises TenantNotFound, InvalidRequest.
        """
        await self._tenants.get(tenant_id)
        return await self._plan(tenant_id, selection, limit_bytes=storage_limit_bytes, model_key=model_key, actor=actor)

    async def optimize(
        self,
        tenant_id: TenantId,
        wanted: WantedOptimization,
        *,
        validate_only: bool,
        wait: timedelta | None,
        request_id: str,
        actor: str,
    ) -> LifecycleJob:
        """Ask for the job that plans, or that carries a plan out. Raises TenantNotFound, NotFound, PlanOutdated."""
        await self._tenants.get(tenant_id)
        account_id = wanted.selection.account_id
        if wanted.plan_id:
            # What can be told at once is told to the caller, not to the job. A retry finds the job that it began.
            plan = await self._read(tenant_id, wanted.plan_id)
            account_id = DataSelection.from_document(plan.document["selection"]).account_id
            if not request_id:
                self._demand_fresh(plan)
        return await self._jobs.submit(
            NewJob(
                kind=JobKind.OPTIMIZATION,
                tenant_id=tenant_id,
                account_id=account_id,
                request=wanted.to_document(),
                validate_only=validate_only,
                actor=actor,
                request_id=request_id,
            ),
            wait,
        )

    async def run(self, job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        """Do the work of a job; returns an OptimizationReport."""
        wanted = WantedOptimization.from_document(job.request)
        if wanted.plan_id:
            return await self._carry_out(job, control, wanted)
        await control.report(done=0, total=1, phase="planning")
        view = await self._plan(
            job.tenant_id,
            wanted.selection,
            reduction_ratio=wanted.target_reduction_ratio,
            min_value_retained=wanted.min_value_retained,
            actor=job.actor,
        )
        await control.report(done=1, total=1, phase="planned")
        return _report(
            view.plan.plan_id,
            original_bytes=view.present_bytes,
            saved_bytes=view.present_bytes - view.planned_bytes,
            target_reached=view.feasible,
            steps=[(step, step.explanation, False) for step in view.plan.steps],
            value_retained=view.value_retained,
        )

    # --- Making a plan ----------------------------------------------------------------------------------------------

    async def _plan(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        *,
        limit_bytes: int | None = None,
        reduction_ratio: float | None = None,
        min_value_retained: float = 0.0,
        model_key: str = "",
        actor: str,
    ) -> PlanView:
        now = self._clock.now()
        async with self._database.tenant_snapshot(tenant_id) as connection:
            # Damaged segments take their bytes as well, but nothing may become of them.
            every = await read_segments(connection, tenant_id, selection, state=None, limit=SEGMENTS_MAX + 1)
        if len(every) > SEGMENTS_MAX:
            raise InvalidRequest.of("selection", f"covers more than {SEGMENTS_MAX} segments; choose less at a time")
        present = sum(segment.stored_bytes for segment in every)
        segments = [segment for segment in every if segment.state is SegmentState.LIVE]
        limit = limit_bytes if limit_bytes is not None else int(present * (1.0 - (reduction_ratio or 0.0)))
        scored = await self._scorer.score(tenant_id, segments, model_key=model_key)
        total = sum(each.worth for each in scored)
        candidates, measured = (
            await self._candidates(tenant_id, wholly_within(selection, scored), now) if present > limit else ([], {})
        )
        chosen = plan_steps(candidates, excess_bytes=present - limit, worth_losable=total * (1.0 - min_value_retained))[
            :STEPS_MAX
        ]
        by_id = {each.segment.segment_id: each for each in scored}
        steps = tuple(_plan_step(by_id[step.segment_id], step, measured) for step in chosen)
        planned = present - sum(step.saved_bytes for step in steps)
        retained = _share(total - sum(step.worth_lost for step in steps), total)
        plan = Plan(
            plan_id=f"plan_{secrets.token_hex(12)}",
            document={
                "selection": selection.to_document(),
                "limit_bytes": limit,
                "present_bytes": present,
                "planned_bytes": planned,
                "worth": total,
                "value_retained": retained,
                "model_key": model_key,
            },
            actor=actor,
            create_time=now,
            expire_time=now + PLAN_LIFETIME,
            steps=steps,
        )
        async with self._database.tenant_transaction(tenant_id) as connection:
            await rows.add_plan(connection, tenant_id, plan, plans_max=PLANS_MAX)
        return PlanView(
            plan=plan,
            present_bytes=present,
            planned_bytes=planned,
            value_retained=retained,
            feasible=planned <= limit,
        )

    async def _candidates(
        self, tenant_id: TenantId, scored: Sequence[Scored], now: datetime
    ) -> tuple[list[Candidate], dict[str, Measured]]:
        accounts = {each.segment.account_id for each in scored}
        protections = await self._policies.protections(tenant_id, accounts)
        allowed = {each.segment.segment_id: allowed_actions(protections, each, now) for each in scored}
        open_ = [each for each in scored if allowed[each.segment.segment_id]]
        measured: dict[str, Measured] = {}
        for data_type in sorted({each.segment.data_type for each in open_}):
            of_type = [
                each.segment for each in open_ if each.segment.data_type == data_type and each.segment.form.exact
            ]
            if of_type:
                found = await self._measure(protections, of_type)
                if found is not None:
                    measured[data_type] = found
        candidates = [
            Candidate(
                segment_id=each.segment.segment_id,
                stored_bytes=each.segment.stored_bytes,
                worth=each.worth,
                options=options_of(
                    each.segment, allowed[each.segment.segment_id], measured.get(each.segment.data_type)
                ),
            )
            for each in open_
        ]
        return [each for each in candidates if each.options], measured

    async def _measure(self, protections: Protections, segments: Sequence[Segment]) -> Measured | None:
        """Encode the middle one of the segments in both ways, to see what comes of it; None where none can be read."""
        by_size = sorted(segments, key=lambda each: (each.record_count, each.segment_id))
        middle = len(by_size) // 2
        for segment in by_size[middle : middle + TRIALS_MAX] or by_size:
            try:
                table, _ = await read_merged(self._store, [segment])
            except (IntegrityViolation, ArchiveCorruption):
                continue
            if table.num_rows:
                return await asyncio.to_thread(_tried, table, lossy_settings_for(protections, segment.data_type))
        return None

    # --- Carrying it out --------------------------------------------------------------------------------------------

    async def _carry_out(self, job: LifecycleJob, control: JobControl, wanted: WantedOptimization) -> dict[str, Any]:
        tenant_id = job.tenant_id
        plan = await self._read(tenant_id, wanted.plan_id)
        if not control.checkpoint:
            self._demand_fresh(plan)
            await self._demand_fitting(tenant_id, plan)
            await control.report(done=0, total=len(plan.steps), phase="checked", checkpoint={"checked": True})
        worth = float(plan.document["worth"])
        losable = worth * (1.0 - wanted.min_value_retained)
        told: list[tuple[PlanStep, str, bool]] = []
        saved, lost = 0, 0.0
        for place, step in enumerate(plan.steps):
            await control.report(done=place, total=len(plan.steps), phase=step.action.name.lower(), written_bytes=saved)
            if step.done_bytes is not None:
                done = step
            elif lost + step.worth_lost > losable * (1.0 + WORTHLESS):
                told.append(
                    (step, f"not done: less than {wanted.min_value_retained:.0%} of the worth would be left", False)
                )
                continue
            else:
                try:
                    done = await self._steps.do(job, plan, step)
                except Untouchable as why:
                    told.append((step, f"not done: {why}", False))
                    continue
            saved += done.done_bytes or 0
            lost += _lost_of(done)
            actual = replace(done, saved_bytes=done.done_bytes or 0, value_lost=done.done_value_lost or 0.0)
            told.append((actual, step.explanation, not job.validate_only))
        await control.report(done=len(plan.steps), total=len(plan.steps), phase="carried out", written_bytes=saved)
        if not job.validate_only:
            async with self._database.tenant_transaction(tenant_id) as connection:
                await rows.end_plan(connection, tenant_id, plan.plan_id, now=self._clock.now())
                # Who goes on after a crash in this very moment only reports.
                await control.note(connection, {"checked": True})
        present = int(plan.document["present_bytes"])
        return _report(
            plan.plan_id,
            original_bytes=present,
            saved_bytes=saved,
            target_reached=present - saved <= int(plan.document["limit_bytes"]),
            steps=told,
            value_retained=_share(worth - lost, worth),
        )

    async def _read(self, tenant_id: TenantId, plan_id: str) -> Plan:
        async with self._database.tenant_transaction(tenant_id) as connection:
            plan = await rows.read_plan(connection, tenant_id, plan_id)
        if plan is None:
            raise NotFound("plan", plan_id, field="plan_id")
        return plan

    def _demand_fresh(self, plan: Plan) -> None:
        if plan.done_time is not None:
            raise PlanOutdated(plan.plan_id, f"plan {plan.plan_id!r} has been carried out")
        if self._clock.now() >= plan.expire_time:
            raise PlanOutdated(plan.plan_id, f"plan {plan.plan_id!r} has expired")

    async def _demand_fitting(self, tenant_id: TenantId, plan: Plan) -> None:
        """Raise PlanOutdated where too much of what the plan is about has changed or gone."""
        changed = 0
        for step in plan.steps:
            if step.done_bytes is not None:
                continue
            async with self._database.tenant_transaction(tenant_id) as connection:
                segment = await read_segment(connection, tenant_id, step.segment_id)
            if segment is None or segment.checksum != step.checksum:
                changed += step.saved_bytes
        total = sum(step.saved_bytes for step in plan.steps)
        if changed > DRIFT_MAX * total:
            raise PlanOutdated(
                plan.plan_id,
                f"segments with {changed / total:.0%} of what plan {plan.plan_id!r} would save have changed",
            )


def _plan_step(scored: Scored, step: Step, measured: Mapping[str, Measured]) -> PlanStep:
    segment = scored.segment
    return PlanStep(
        segment_id=segment.segment_id,
        checksum=segment.checksum,
        stored_bytes=segment.stored_bytes,
        action=step.action,
        saved_bytes=step.saved_bytes,
        value_lost=step.value_lost,
        worth_lost=step.worth_lost,
        explanation=explanation_of(scored, step, measured.get(segment.data_type)),
    )


def _tried(table: pa.Table, settings: CompressionSettings) -> Measured:
    original = max(columnar.plain_bytes(table), 1)
    lossless = len(columnar.encode(table).payload) / original
    try:
        lossy = encode(table, lossy_settings(settings))
    except LossySettingsInvalid:
        return Measured(lossless_ratio=lossless, lossy_ratio=None, lossy_kept=0.0, lossy_form="")
    return Measured(
        lossless_ratio=lossless,
        lossy_ratio=len(lossy.payload) / original,
        lossy_kept=max(0.0, min(1.0, lossy.value_retained)),
        lossy_form=settings.form.name.lower(),
    )


def _share(part: float, whole: float) -> float:
    return max(0.0, min(1.0, part / whole)) if whole > 0 else 1.0


def _lost_of(step: PlanStep) -> float:
    """Return the worth that a step has lost, in records."""
    if not step.value_lost:
        return 0.0
    return step.worth_lost * (step.done_value_lost or 0.0) / step.value_lost


def _report(
    plan_id: str,
    *,
    original_bytes: int,
    saved_bytes: int,
    target_reached: bool,
    steps: Sequence[tuple[PlanStep, str, bool]],
    value_retained: float,
) -> dict[str, Any]:
    """Return an OptimizationReport as the contract's JSON has it."""
    return {
        "plan_id": plan_id,
        "original_bytes": original_bytes,
        "optimized_bytes": original_bytes - saved_bytes,
        "reduction_ratio": saved_bytes / original_bytes if original_bytes else 0.0,
        "target_reached": target_reached,
        "steps": [
            {
                "segment_id": step.segment_id,
                "action": f"STORAGE_OPTIMIZATION_{step.action.name}",
                "saved_bytes": step.saved_bytes,
                "value_lost": step.value_lost,
                "explanation": explanation,
                "done": done,
            }
            for step, explanation, done in steps[:STEPS_LISTED_MAX]
        ],
        "value_retained": value_retained,
    }
