"""SQL of what data is worth: the weights of models, reads of segments, and plans for smaller storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import StorageOptimization
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import data_plan_steps, data_plans, value_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWeights:
    """The weights of the value terms for one model and sort of data, and the measurement they follow."""

    data_type: str
    weights: Mapping[str, float]
    accuracy: float
    measure_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStep:
    """What a plan does with a segment."""

    segment_id: str
    checksum: bytes
    stored_bytes: int
    action: StorageOptimization
    saved_bytes: int
    value_lost: float
    worth_lost: float
    explanation: str
    done_bytes: int | None = None
    done_value_lost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan for smaller storage."""

    plan_id: str
    document: Mapping[str, Any]
    actor: str
    create_time: datetime
    expire_time: datetime
    done_time: datetime | None = None
    steps: tuple[PlanStep, ...]


async def read_weights(
    connection: Connection, tenant_id: TenantId, model_key: str, *, lock: bool = False
) -> dict[str, ModelWeights]:
    """Return the weights of a model by sort of data, locked if wanted."""
    columns = value_weights.c
    statement = (
        select(columns.data_type, columns.weights, columns.accuracy, columns.measure_time)
        .where(columns.tenant_id == tenant_id, columns.model_key == model_key)
        .order_by(columns.data_type)
    )
    rows = await connection.execute(statement.with_for_update() if lock else statement)
    return {row.data_type: ModelWeights(**row._mapping) for row in rows}  # noqa: SLF001 - public in spite of its name


async def write_weights(
    connection: Connection, tenant_id: TenantId, model_key: str, weights: ModelWeights, *, actor: str, now: datetime
) -> None:
    """Write the weights of one sort of data."""
    columns = value_weights.c
    values = {
        "weights": dict(weights.weights),
        "accuracy": weights.accuracy,
        "measure_time": weights.measure_time,
        "actor": actor,
        "update_time": now,
    }
    key = {"tenant_id": tenant_id, "model_key": model_key, "data_type": weights.data_type}
    statement = insert(value_weights).values(**key, **values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[columns.tenant_id, columns.model_key, columns.data_type], set_=values
        )
    )


async def add_plan(connection: Connection, tenant_id: TenantId, plan: Plan, *, plans_max: int) -> None:
    """Write a plan; those that have expired go, and the oldest where there are too many."""
    await _forget_plans(connection, tenant_id, before=plan.create_time, keep=plans_max - 1)
    await connection.execute(
        data_plans.insert().values(
            tenant_id=tenant_id,
            plan_id=plan.plan_id,
            plan=dict(plan.document),
            actor=plan.actor,
            create_time=plan.create_time,
            expire_time=plan.expire_time,
        )
    )
    if plan.steps:
        await connection.execute(
            data_plan_steps.insert(),
            [
                {
                    "tenant_id": tenant_id,
                    "plan_id": plan.plan_id,
                    "position": position,
                    "segment_id": step.segment_id,
                    "checksum": step.checksum,
                    "stored_bytes": step.stored_bytes,
                    "action": int(step.action),
                    "saved_bytes": step.saved_bytes,
                    "value_lost": step.value_lost,
                    "worth_lost": step.worth_lost,
                    "explanation": step.explanation,
                }
                for position, step in enumerate(plan.steps)
            ],
        )


async def read_plan(connection: Connection, tenant_id: TenantId, plan_id: str, *, lock: bool = False) -> Plan | None:
    """Return a plan with its steps, locked if wanted; None where there is none."""
    plans, steps = data_plans.c, data_plan_steps.c
    statement = select(data_plans).where(plans.tenant_id == tenant_id, plans.plan_id == plan_id)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
    if row is None:
        return None
    found = await connection.execute(
        select(data_plan_steps).where(steps.tenant_id == tenant_id, steps.plan_id == plan_id).order_by(steps.position)
    )
    return Plan(
        plan_id=row.plan_id,
        document=row.plan,
        actor=row.actor,
        create_time=row.create_time,
        expire_time=row.expire_time,
        done_time=row.done_time,
        steps=tuple(_step(each) for each in found),
    )


async def end_plan(connection: Connection, tenant_id: TenantId, plan_id: str, *, now: datetime) -> None:
    """Note that a plan was carried out."""
    plans = data_plans.c
    await connection.execute(
        update(data_plans).where(plans.tenant_id == tenant_id, plans.plan_id == plan_id).values(done_time=now)
    )


async def write_step_done(
    connection: Connection, tenant_id: TenantId, plan_id: str, segment_id: str, *, saved_bytes: int, value_lost: float
) -> None:
    """Note, in the transaction that carries a step out, what it saved and lost."""
    steps = data_plan_steps.c
    await connection.execute(
        update(data_plan_steps)
        .where(steps.tenant_id == tenant_id, steps.plan_id == plan_id, steps.segment_id == segment_id)
        .values(done_bytes=saved_bytes, done_value_lost=value_lost)
    )


async def _forget_plans(connection: Connection, tenant_id: TenantId, *, before: datetime, keep: int) -> None:
    # Their steps go with them.
    plans = data_plans.c
    await connection.execute(delete(data_plans).where(plans.tenant_id == tenant_id, plans.expire_time <= before))
    oldest = (
        select(plans.plan_id)
        .where(plans.tenant_id == tenant_id)
        .order_by(plans.create_time.desc(), plans.plan_id.desc())
        .offset(keep)
    )
    await connection.execute(
        delete(data_plans).where(plans.tenant_id == tenant_id, plans.plan_id.in_(oldest.scalar_subquery()))
    )


def _step(row: Any) -> PlanStep:
    step = PlanStep(**{name: getattr(row, name) for name in PlanStep.__slots__})
    return replace(step, action=StorageOptimization(step.action))
