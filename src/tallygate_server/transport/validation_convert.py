"""Messages of validations from what the use case tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tallygate.v1 import admin_service_pb2
from tallygate_server.transport import convert
from tallygate_server.validation import Difference, DifferencePlace, ValidationProgress, ValidationUpdate

_PLACE: Final = convert.api_enum(DifferencePlace, admin_service_pb2.DifferencePlace, "DIFFERENCE_PLACE")


def to_api_update(update: ValidationUpdate) -> admin_service_pb2.ValidateEntitlementsResponse:
    """Convert what a validation tells."""
    if isinstance(update, Difference):
        return admin_service_pb2.ValidateEntitlementsResponse(
            difference=admin_service_pb2.EntitlementDifference(
                tenant_id=update.tenant_id,
                account_id=update.account_id,
                feature_key=update.feature_key,
                place=_PLACE[update.place],
                expected_json=_json(update.expected),
                actual_json=_json(update.actual),
                repaired=update.repaired,
            )
        )
    if isinstance(update, ValidationProgress):
        return admin_service_pb2.ValidateEntitlementsResponse(
            progress=admin_service_pb2.ValidationProgress(
                account_count=update.account_count, account_count_total=update.account_count_total
            )
        )
    return admin_service_pb2.ValidateEntitlementsResponse(
        totals=admin_service_pb2.ValidationTotals(
            account_count=update.account_count,
            counter_count=update.counter_count,
            entry_count=update.entry_count,
            difference_count=update.difference_count,
            repaired_count=update.repaired_count,
        )
    )


def _json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)
