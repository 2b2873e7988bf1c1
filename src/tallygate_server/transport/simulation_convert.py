"""Messages of simulations to and from what the use case takes and tells."""

from __future__ import annotations

from typing import Final

from google.protobuf.duration_pb2 import Duration

from tallygate.v1 import access_pb2, catalog_service_pb2, entitlement_service_pb2
from tallygate_server.catalog import CatalogSource
from tallygate_server.catalog_rules import CatalogSet
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import TenantId
from tallygate_server.simulation import (
    SimulatedAccount,
    SimulationProgress,
    SimulationUpdate,
    WantedSimulation,
)
from tallygate_server.transport import catalog_convert, convert

_DECISION_REASON: Final = convert.api_enum(Reason, access_pb2.DecisionReason, "DECISION_REASON")


def from_api_simulation(request: entitlement_service_pb2.SimulateLimitsRequest) -> WantedSimulation:
    """Convert what is to be simulated; raise CatalogInvalid for a draft that is none."""
    return WantedSimulation(
        tenant_id=TenantId(request.tenant_id),
        draft=_draft(request),
        start_time=convert.from_api_time(request.start_time, "start_time"),
        end_time=convert.from_api_optional_time(request, "end_time"),
        account_id=request.account_id,
        feature_key=request.feature_key,
        plan_key=request.plan_key,
        include_denied_usage=request.include_denied_usage,
    )


def _draft(request: entitlement_service_pb2.SimulateLimitsRequest) -> CatalogSource | CatalogSet | None:
    draft = request.WhichOneof("draft")
    if draft == "yaml":
        return CatalogSource(request.yaml)
    if draft == "catalog":
        apply = catalog_service_pb2.ApplyCatalogRequest(catalog=request.catalog)
        return catalog_convert.from_api_catalog_source(apply)
    return None


def to_api_update(update: SimulationUpdate) -> entitlement_service_pb2.SimulateLimitsResponse:
    """Convert what a simulation tells."""
    if isinstance(update, SimulatedAccount):
        return entitlement_service_pb2.SimulateLimitsResponse(
            account=entitlement_service_pb2.SimulatedAccount(
                account_id=update.account_id,
                feature_key=update.feature_key,
                plan_key=update.plan_key,
                first_denial_time=convert.to_api_optional_instant(update.first_denial_time),
                denied_count=update.denied_count,
                denied_quantity=update.denied_quantity,
                used_quantity=update.used_quantity,
                limit_quantity=update.limit_quantity,
                reason=_DECISION_REASON[update.reason],
                real_denied_count=update.real_denied_count,
            )
        )
    if isinstance(update, SimulationProgress):
        return entitlement_service_pb2.SimulateLimitsResponse(
            progress=entitlement_service_pb2.SimulationProgress(
                entry_count=update.entry_count, entry_count_total=update.entry_count_total
            )
        )
    took = Duration()
    took.FromTimedelta(update.duration)
    return entitlement_service_pb2.SimulateLimitsResponse(
        totals=entitlement_service_pb2.SimulationTotals(
            entry_count=update.entry_count,
            account_count=update.account_count,
            denied_account_count=update.denied_account_count,
            denied_count=update.denied_count,
            denied_quantity=update.denied_quantity,
            first_day_account_count=update.first_day_account_count,
            duration=took,
        )
    )
