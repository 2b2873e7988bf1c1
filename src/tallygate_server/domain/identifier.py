"""Identifiers: parsed once at the edge, trusted inside."""

from __future__ import annotations

import re
from typing import NewType

from tallygate_server.domain import limits

TenantId = NewType("TenantId", str)
AccountId = NewType("AccountId", str)
FeatureKey = NewType("FeatureKey", str)
PlanKey = NewType("PlanKey", str)

_TENANT_ID = re.compile(limits.TENANT_ID_PATTERN)
_ACCOUNT_ID = re.compile(limits.ACCOUNT_ID_PATTERN)
_KEY = re.compile(limits.KEY_PATTERN)
_REQUEST_ID = re.compile(limits.REQUEST_ID_PATTERN)


def is_tenant_id(text: str) -> bool:
    """Tell whether the text is a well-formed tenant id."""
    return _TENANT_ID.fullmatch(text) is not None


def is_account_id(text: str) -> bool:
    """Tell whether the text is a well-formed account id."""
    return _ACCOUNT_ID.fullmatch(text) is not None


def is_key(text: str) -> bool:
    """Tell whether the text is a well-formed feature, plan or meter key."""
    return _KEY.fullmatch(text) is not None


def is_request_id(text: str) -> bool:
    """Tell whether the text is a well-formed, non-empty request id."""
    return _REQUEST_ID.fullmatch(text) is not None
