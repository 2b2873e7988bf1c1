"""Converts policies, holds and classifications."""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeVar

from google.protobuf import json_format

from tallygate.v1 import data_lifecycle_pb2 as wire
from tallygate.v1 import data_lifecycle_service_pb2 as service
from tallygate_server.domain.classification import Classification
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataImportance
from tallygate_server.domain.retention import (
    HOT_DAYS,
    WARM_DAYS,
    ImportanceRule,
    LegalHold,
    RetentionException,
    RetentionPolicy,
)
from tallygate_server.errors import FieldViolation, InvalidRequest
from tallygate_server.lifecycle.policies import NewLegalHold, PolicyEffect
from tallygate_server.lifecycle.policies.documents import classification_document
from tallygate_server.transport import convert
from tallygate_server.transport.lifecycle_rpcs.selection_convert import (
    from_api_selection,
    from_api_settings,
    to_api_selection,
    to_api_settings,
)

IMPORTANCE: Final = convert.api_enum(DataImportance, wire.DataImportance, "DATA_IMPORTANCE")
_IMPORTANCE: Final = convert.domain_enum(DataImportance, wire.DataImportance, "DATA_IMPORTANCE")
Value = TypeVar("Value")
_DEFAULTS: Final = RetentionPolicy(tenant_id=TenantId(""))


def from_api_policy(tenant_id: TenantId, policy: wire.RetentionPolicy) -> RetentionPolicy:
    """Convert a policy that is to be set; what is absent is as nobody had set it. Raises InvalidRequest."""
    if policy.tenant_id and policy.tenant_id != tenant_id:
        raise InvalidRequest([FieldViolation("policy.tenant_id", "must be empty, or that of the request")])
    return RetentionPolicy(
        tenant_id=tenant_id,
        data_type=policy.data_type,
        critical_retention_days=_or(policy, "critical_retention_days", _DEFAULTS.critical_retention_days),
        standard_retention_days=_or(policy, "standard_retention_days", _DEFAULTS.standard_retention_days),
        compression_threshold_days=_or(policy, "compression_threshold_days", _DEFAULTS.compression_threshold_days),
        deletion_threshold_days=_or(policy, "deletion_threshold_days", _DEFAULTS.deletion_threshold_days),
        ai_value_threshold=_or(policy, "ai_value_threshold", _DEFAULTS.ai_value_threshold),
        quality_threshold=_or(policy, "quality_threshold", _DEFAULTS.quality_threshold),
        hot_days=_or(policy, "hot_days", HOT_DAYS),
        warm_days=_or(policy, "warm_days", WARM_DAYS),
        compression=from_api_settings(policy.compression, "policy.compression"),
        exceptions=tuple(_from_api_exception(each) for each in policy.exceptions),
        importance_rules=tuple(_from_api_rule(each) for each in policy.importance_rules),
        training_purpose=policy.training_purpose,
    )


def to_api_policy(policy: RetentionPolicy) -> wire.RetentionPolicy:
    """Convert a policy."""
    return wire.RetentionPolicy(
        tenant_id=policy.tenant_id,
        data_type=policy.data_type,
        critical_retention_days=policy.critical_retention_days,
        standard_retention_days=policy.standard_retention_days,
        compression_threshold_days=policy.compression_threshold_days,
        deletion_threshold_days=policy.deletion_threshold_days,
        ai_value_threshold=policy.ai_value_threshold,
        quality_threshold=policy.quality_threshold,
        hot_days=policy.hot_days,
        warm_days=policy.warm_days,
        compression=to_api_settings(policy.compression),
        exceptions=[_to_api_exception(each) for each in policy.exceptions],
        importance_rules=[_to_api_rule(each) for each in policy.importance_rules],
        training_purpose=policy.training_purpose,
        version=policy.version,
        update_time=convert.to_api_optional_instant(policy.update_time),
        actor=policy.actor,
    )


def to_api_set_policy(policy: RetentionPolicy, effect: PolicyEffect) -> service.SetRetentionPolicyResponse:
    """Convert a policy and what it lets happen."""
    return service.SetRetentionPolicyResponse(
        policy=to_api_policy(policy),
        compressible_record_count=effect.compressible_records,
        deletable_record_count=effect.deletable_records,
        plan_bound_account_count=effect.plan_bound_accounts,
    )


def from_api_hold(request: service.CreateLegalHoldRequest) -> NewLegalHold:
    """Convert what is to be held."""
    return NewLegalHold(
        selection=from_api_selection(request.selection),
        reason_text=request.reason_text,
        end_time=convert.from_api_optional_time(request, "end_time"),
    )


def to_api_hold(hold: LegalHold) -> wire.LegalHold:
    """Convert a hold."""
    return wire.LegalHold(
        legal_hold_id=hold.legal_hold_id,
        tenant_id=hold.tenant_id,
        selection=to_api_selection(hold.selection),
        reason_text=hold.reason_text,
        actor=hold.actor,
        create_time=convert.to_api_instant(hold.create_time),
        end_time=convert.to_api_optional_instant(hold.end_time),
        release_time=convert.to_api_optional_instant(hold.release_time),
    )


def to_api_classification(classification: Classification) -> wire.DataClassification:
    """Convert what a segment is worth."""
    return json_format.ParseDict(classification_document(classification), wire.DataClassification())


def from_api_importance(importance: int) -> DataImportance:
    """Convert the greatest importance of what is removed; low unless it is told."""
    return _IMPORTANCE.get(importance, DataImportance.LOW)


def position_text(position: tuple[datetime, str]) -> str:
    """Return where a page ends, as text for its token."""
    instant, name = position
    return f"{instant.isoformat()} {name}"


def position_of(text: str) -> tuple[datetime, str] | None:
    """Return what `position_text` wrote; None for the first page."""
    if not text:
        return None
    instant, _, name = text.partition(" ")
    return datetime.fromisoformat(instant), name


def _or(policy: wire.RetentionPolicy, field: str, default: Value) -> Value:
    value: Value | None = convert.optional(policy, field)
    return default if value is None else value


def _from_api_exception(exception: wire.RetentionException) -> RetentionException:
    return RetentionException(
        account_id=AccountId(exception.account_id) if exception.account_id else None,
        start_time=convert.from_api_optional_time(exception, "start_time"),
        end_time=convert.from_api_optional_time(exception, "end_time"),
        retention_days=exception.retention_days,
        reason_text=exception.reason_text,
        expire_time=convert.from_api_optional_time(exception, "expire_time"),
    )


def _to_api_exception(exception: RetentionException) -> wire.RetentionException:
    return wire.RetentionException(
        account_id=exception.account_id or "",
        start_time=convert.to_api_optional_instant(exception.start_time),
        end_time=convert.to_api_optional_instant(exception.end_time),
        retention_days=exception.retention_days,
        reason_text=exception.reason_text,
        expire_time=convert.to_api_optional_instant(exception.expire_time),
    )


def _from_api_rule(rule: wire.ImportanceRule) -> ImportanceRule:
    return ImportanceRule(
        name=rule.name,
        column=rule.column,
        min_value=convert.optional(rule, "min_value"),
        max_value=convert.optional(rule, "max_value"),
        min_training_value=rule.min_training_value,
        importance=_IMPORTANCE[rule.importance],
    )


def _to_api_rule(rule: ImportanceRule) -> wire.ImportanceRule:
    return wire.ImportanceRule(
        name=rule.name,
        column=rule.column,
        min_value=rule.min_value,
        max_value=rule.max_value,
        min_training_value=rule.min_training_value,
        importance=IMPORTANCE[rule.importance],
    )
