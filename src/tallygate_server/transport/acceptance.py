"""Quick checks of the hot messages, written by hand.

Each returns True only for messages that the rules in the protos accept too, so a True spares the call the
validator. False means nothing but "ask the validator", which then names the exact violations.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from tallygate.v1 import entitlement_service_pb2, usage_service_pb2
from tallygate_server.domain import limits
from tallygate_server.domain.identifier import is_key, is_tenant_id

DIMENSIONS_QUICK_MAX: Final = 16
EVENT_SECONDS_MIN: Final = 946_684_800
EVENT_SECONDS_MAX: Final = 4_102_444_799
NANOS_MAX: Final = 999_999_999

_REMEMBERED_MAX: Final = 4_096
_account_id = re.compile(limits.ACCOUNT_ID_PATTERN).fullmatch
_request_id = re.compile(limits.REQUEST_ID_PATTERN).fullmatch
_dimension_value = re.compile(r"[^\x00-\x1f\x7f]{0,256}").fullmatch

# Tenants and features are few: a set answers five times as fast as the pattern.
_tenant_ids: set[str] = set()
_feature_keys: set[str] = set()


def accepts_check(request: entitlement_service_pb2.CheckAccessRequest) -> bool:
    """Tell whether a check certainly obeys its rules."""
    quantity = request.quantity
    if not 1 <= quantity <= limits.QUANTITY_MAX and (quantity != 0 or request.HasField("quantity")):
        return False
    if request.min_revision < 0:
        return False
    return _subject_accepted(request.tenant_id, request.account_id, request.feature_key)


def accepts_increment(request: usage_service_pb2.IncrementRequest) -> bool:
    """Tell whether an increment certainly obeys its rules."""
    quantity = request.quantity
    if not -limits.QUANTITY_MAX <= quantity <= limits.QUANTITY_MAX:
        return False
    if quantity == 0 and request.HasField("quantity"):
        return False
    request_id = request.request_id
    if request_id and _request_id(request_id) is None:
        return False
    if not 0 <= request.ack <= usage_service_pb2.ACK_MODE_ACCEPTED:
        return False
    if request.HasField("event_time"):
        event_time = request.event_time
        if not EVENT_SECONDS_MIN <= event_time.seconds <= EVENT_SECONDS_MAX or not 0 <= event_time.nanos <= NANOS_MAX:
            return False
    dimensions = request.dimensions
    if dimensions and not _dimensions_accepted(dict(dimensions)):
        return False
    return _subject_accepted(request.tenant_id, request.account_id, request.feature_key)


def accepts_batch_check(request: entitlement_service_pb2.BatchCheckAccessRequest) -> bool:
    """Tell whether a batch of checks certainly obeys its rules."""
    checks = request.checks
    return 1 <= len(checks) <= limits.BATCH_ITEMS_MAX and all(map(accepts_check, checks))


def accepts_batch_increment(request: usage_service_pb2.BatchIncrementRequest) -> bool:
    """Tell whether a batch of increments certainly obeys its rules."""
    increments = request.increments
    return 1 <= len(increments) <= limits.BATCH_ITEMS_MAX and all(map(accepts_increment, increments))


def _subject_accepted(tenant_id: str, account_id: str, feature_key: str) -> bool:
    return (
        (tenant_id in _tenant_ids or _remembered(_tenant_ids, is_tenant_id, tenant_id))
        and (feature_key in _feature_keys or _remembered(_feature_keys, is_key, feature_key))
        and _account_id(account_id) is not None
    )


def _dimensions_accepted(dimensions: dict[str, str]) -> bool:
    return len(dimensions) <= DIMENSIONS_QUICK_MAX and all(
        is_key(key) and _dimension_value(value) is not None for key, value in dimensions.items()
    )


def _remembered(known: set[str], well_formed: Callable[[str], bool], text: str) -> bool:
    if not well_formed(text):
        return False
    if len(known) >= _REMEMBERED_MAX:
        known.clear()
    known.add(text)
    return True
