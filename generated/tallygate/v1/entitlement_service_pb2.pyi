import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from tallygate.v1 import access_pb2 as _access_pb2
from tallygate.v1 import catalog_pb2 as _catalog_pb2
from tallygate.v1 import entitlement_pb2 as _entitlement_pb2
from tallygate.v1 import period_pb2 as _period_pb2
from tallygate.v1 import usage_pb2 as _usage_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FeatureOverride(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_OVERRIDE_UNSPECIFIED: _ClassVar[FeatureOverride]
    FEATURE_OVERRIDE_ENABLED: _ClassVar[FeatureOverride]
    FEATURE_OVERRIDE_DISABLED: _ClassVar[FeatureOverride]
    FEATURE_OVERRIDE_CLEARED: _ClassVar[FeatureOverride]
FEATURE_OVERRIDE_UNSPECIFIED: FeatureOverride
FEATURE_OVERRIDE_ENABLED: FeatureOverride
FEATURE_OVERRIDE_DISABLED: FeatureOverride
FEATURE_OVERRIDE_CLEARED: FeatureOverride

class CheckAccessRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "quantity", "min_revision")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    quantity: int
    min_revision: int
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., quantity: _Optional[int] = ..., min_revision: _Optional[int] = ...) -> None: ...

class CheckAccessResponse(_message.Message):
    __slots__ = ("decision", "reason", "feature_kind", "value", "limit_quantity", "used_quantity", "held_quantity", "remaining_quantity", "reset_time", "threshold_percent", "grace_end_time", "upgrade_url", "plan_key", "revision", "cache_ttl", "stale", "threshold_quantity")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KIND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    USED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    HELD_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REMAINING_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_PERCENT_FIELD_NUMBER: _ClassVar[int]
    GRACE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_URL_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CACHE_TTL_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    decision: _access_pb2.Decision
    reason: _access_pb2.DecisionReason
    feature_kind: _access_pb2.FeatureKind
    value: _struct_pb2.Value
    limit_quantity: int
    used_quantity: int
    held_quantity: int
    remaining_quantity: int
    reset_time: _timestamp_pb2.Timestamp
    threshold_percent: int
    grace_end_time: _timestamp_pb2.Timestamp
    upgrade_url: str
    plan_key: str
    revision: int
    cache_ttl: _duration_pb2.Duration
    stale: bool
    threshold_quantity: int
    def __init__(self, decision: _Optional[_Union[_access_pb2.Decision, str]] = ..., reason: _Optional[_Union[_access_pb2.DecisionReason, str]] = ..., feature_kind: _Optional[_Union[_access_pb2.FeatureKind, str]] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., limit_quantity: _Optional[int] = ..., used_quantity: _Optional[int] = ..., held_quantity: _Optional[int] = ..., remaining_quantity: _Optional[int] = ..., reset_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., threshold_percent: _Optional[int] = ..., grace_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., upgrade_url: _Optional[str] = ..., plan_key: _Optional[str] = ..., revision: _Optional[int] = ..., cache_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stale: _Optional[bool] = ..., threshold_quantity: _Optional[int] = ...) -> None: ...

class BatchCheckAccessRequest(_message.Message):
    __slots__ = ("checks",)
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[CheckAccessRequest]
    def __init__(self, checks: _Optional[_Iterable[_Union[CheckAccessRequest, _Mapping]]] = ...) -> None: ...

class BatchCheckAccessResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchCheckAccessResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchCheckAccessResult, _Mapping]]] = ...) -> None: ...

class BatchCheckAccessResult(_message.Message):
    __slots__ = ("answer", "error")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    answer: CheckAccessResponse
    error: _status_pb2.Status
    def __init__(self, answer: _Optional[_Union[CheckAccessResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ListEntitlementsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "kind", "include_denied", "min_revision", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_DENIED_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    kind: _access_pb2.FeatureKind
    include_denied: bool
    min_revision: int
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., kind: _Optional[_Union[_access_pb2.FeatureKind, str]] = ..., include_denied: _Optional[bool] = ..., min_revision: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEntitlementsResponse(_message.Message):
    __slots__ = ("entitlements", "next_page_token", "revision", "stale")
    ENTITLEMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    entitlements: _containers.RepeatedCompositeFieldContainer[_entitlement_pb2.Entitlement]
    next_page_token: str
    revision: int
    stale: bool
    def __init__(self, entitlements: _Optional[_Iterable[_Union[_entitlement_pb2.Entitlement, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[int] = ..., stale: _Optional[bool] = ...) -> None: ...

class WatchEntitlementsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_keys", "resume_revision")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEYS_FIELD_NUMBER: _ClassVar[int]
    RESUME_REVISION_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_keys: _containers.RepeatedScalarFieldContainer[str]
    resume_revision: int
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_keys: _Optional[_Iterable[str]] = ..., resume_revision: _Optional[int] = ...) -> None: ...

class WatchEntitlementsResponse(_message.Message):
    __slots__ = ("snapshot", "change", "heartbeat")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    snapshot: EntitlementSnapshot
    change: EntitlementChange
    heartbeat: WatchHeartbeat
    def __init__(self, snapshot: _Optional[_Union[EntitlementSnapshot, _Mapping]] = ..., change: _Optional[_Union[EntitlementChange, _Mapping]] = ..., heartbeat: _Optional[_Union[WatchHeartbeat, _Mapping]] = ...) -> None: ...

class EntitlementSnapshot(_message.Message):
    __slots__ = ("entitlements", "revision")
    ENTITLEMENTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    entitlements: _containers.RepeatedCompositeFieldContainer[_entitlement_pb2.Entitlement]
    revision: int
    def __init__(self, entitlements: _Optional[_Iterable[_Union[_entitlement_pb2.Entitlement, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class EntitlementChange(_message.Message):
    __slots__ = ("changed_entitlements", "removed_feature_keys", "cause", "revision", "change_time")
    CHANGED_ENTITLEMENTS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FEATURE_KEYS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CHANGE_TIME_FIELD_NUMBER: _ClassVar[int]
    changed_entitlements: _containers.RepeatedCompositeFieldContainer[_entitlement_pb2.Entitlement]
    removed_feature_keys: _containers.RepeatedScalarFieldContainer[str]
    cause: str
    revision: int
    change_time: _timestamp_pb2.Timestamp
    def __init__(self, changed_entitlements: _Optional[_Iterable[_Union[_entitlement_pb2.Entitlement, _Mapping]]] = ..., removed_feature_keys: _Optional[_Iterable[str]] = ..., cause: _Optional[str] = ..., revision: _Optional[int] = ..., change_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WatchHeartbeat(_message.Message):
    __slots__ = ("server_time", "revision")
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    server_time: _timestamp_pb2.Timestamp
    revision: int
    def __init__(self, server_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class ExplainAccessRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "quantity", "at_time")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    AT_TIME_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    quantity: int
    at_time: _timestamp_pb2.Timestamp
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., quantity: _Optional[int] = ..., at_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ExplainAccessResponse(_message.Message):
    __slots__ = ("answer", "steps", "sources", "grants", "quota", "at_time", "catalog_revision", "history_complete")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    AT_TIME_FIELD_NUMBER: _ClassVar[int]
    CATALOG_REVISION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    answer: CheckAccessResponse
    steps: _containers.RepeatedCompositeFieldContainer[ExplanationStep]
    sources: _containers.RepeatedCompositeFieldContainer[_entitlement_pb2.EntitlementSource]
    grants: _containers.RepeatedCompositeFieldContainer[_entitlement_pb2.Grant]
    quota: _usage_pb2.Quota
    at_time: _timestamp_pb2.Timestamp
    catalog_revision: int
    history_complete: bool
    def __init__(self, answer: _Optional[_Union[CheckAccessResponse, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[ExplanationStep, _Mapping]]] = ..., sources: _Optional[_Iterable[_Union[_entitlement_pb2.EntitlementSource, _Mapping]]] = ..., grants: _Optional[_Iterable[_Union[_entitlement_pb2.Grant, _Mapping]]] = ..., quota: _Optional[_Union[_usage_pb2.Quota, _Mapping]] = ..., at_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., catalog_revision: _Optional[int] = ..., history_complete: _Optional[bool] = ...) -> None: ...

class ExplanationStep(_message.Message):
    __slots__ = ("reason", "decided", "explanation")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    reason: _access_pb2.DecisionReason
    decided: bool
    explanation: str
    def __init__(self, reason: _Optional[_Union[_access_pb2.DecisionReason, str]] = ..., decided: _Optional[bool] = ..., explanation: _Optional[str] = ...) -> None: ...

class CreateGrantRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "kind", "enabled", "config_value", "credit_quantity", "limit", "priority", "start_time", "expire_time", "recurrence", "rollover", "reason_text", "request_id", "actor", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VALUE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    RECURRENCE_FIELD_NUMBER: _ClassVar[int]
    ROLLOVER_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    kind: _entitlement_pb2.GrantKind
    enabled: bool
    config_value: _struct_pb2.Value
    credit_quantity: int
    limit: _catalog_pb2.Limit
    priority: int
    start_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    recurrence: _period_pb2.PeriodKind
    rollover: _catalog_pb2.Rollover
    reason_text: str
    request_id: str
    actor: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., kind: _Optional[_Union[_entitlement_pb2.GrantKind, str]] = ..., enabled: _Optional[bool] = ..., config_value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., credit_quantity: _Optional[int] = ..., limit: _Optional[_Union[_catalog_pb2.Limit, _Mapping]] = ..., priority: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., recurrence: _Optional[_Union[_period_pb2.PeriodKind, str]] = ..., rollover: _Optional[_Union[_catalog_pb2.Rollover, _Mapping]] = ..., reason_text: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CreateGrantResponse(_message.Message):
    __slots__ = ("grant", "revision", "replayed")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    grant: _entitlement_pb2.Grant
    revision: int
    replayed: bool
    def __init__(self, grant: _Optional[_Union[_entitlement_pb2.Grant, _Mapping]] = ..., revision: _Optional[int] = ..., replayed: _Optional[bool] = ...) -> None: ...

class RevokeGrantRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "grant_id", "reason_text", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    grant_id: str
    reason_text: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., grant_id: _Optional[str] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class RevokeGrantResponse(_message.Message):
    __slots__ = ("grant", "revision")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    grant: _entitlement_pb2.Grant
    revision: int
    def __init__(self, grant: _Optional[_Union[_entitlement_pb2.Grant, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class ListGrantsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "kind", "state", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    kind: _entitlement_pb2.GrantKind
    state: _entitlement_pb2.GrantState
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., kind: _Optional[_Union[_entitlement_pb2.GrantKind, str]] = ..., state: _Optional[_Union[_entitlement_pb2.GrantState, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListGrantsResponse(_message.Message):
    __slots__ = ("grants", "next_page_token")
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    grants: _containers.RepeatedCompositeFieldContainer[_entitlement_pb2.Grant]
    next_page_token: str
    def __init__(self, grants: _Optional[_Iterable[_Union[_entitlement_pb2.Grant, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SetFeatureOverrideRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "override", "grace_days", "expire_time", "reason_text", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    GRACE_DAYS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    override: FeatureOverride
    grace_days: int
    expire_time: _timestamp_pb2.Timestamp
    reason_text: str
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., override: _Optional[_Union[FeatureOverride, str]] = ..., grace_days: _Optional[int] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason_text: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class SetFeatureOverrideResponse(_message.Message):
    __slots__ = ("grant", "answer", "revision", "replayed")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    grant: _entitlement_pb2.Grant
    answer: CheckAccessResponse
    revision: int
    replayed: bool
    def __init__(self, grant: _Optional[_Union[_entitlement_pb2.Grant, _Mapping]] = ..., answer: _Optional[_Union[CheckAccessResponse, _Mapping]] = ..., revision: _Optional[int] = ..., replayed: _Optional[bool] = ...) -> None: ...

class SimulateLimitsRequest(_message.Message):
    __slots__ = ("tenant_id", "catalog", "yaml", "in_force", "start_time", "end_time", "account_id", "feature_key", "plan_key", "include_denied_usage")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CATALOG_FIELD_NUMBER: _ClassVar[int]
    YAML_FIELD_NUMBER: _ClassVar[int]
    IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_DENIED_USAGE_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    catalog: _catalog_pb2.Catalog
    yaml: str
    in_force: bool
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    account_id: str
    feature_key: str
    plan_key: str
    include_denied_usage: bool
    def __init__(self, tenant_id: _Optional[str] = ..., catalog: _Optional[_Union[_catalog_pb2.Catalog, _Mapping]] = ..., yaml: _Optional[str] = ..., in_force: _Optional[bool] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., plan_key: _Optional[str] = ..., include_denied_usage: _Optional[bool] = ...) -> None: ...

class SimulateLimitsResponse(_message.Message):
    __slots__ = ("account", "progress", "totals")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    account: SimulatedAccount
    progress: SimulationProgress
    totals: SimulationTotals
    def __init__(self, account: _Optional[_Union[SimulatedAccount, _Mapping]] = ..., progress: _Optional[_Union[SimulationProgress, _Mapping]] = ..., totals: _Optional[_Union[SimulationTotals, _Mapping]] = ...) -> None: ...

class SimulatedAccount(_message.Message):
    __slots__ = ("account_id", "feature_key", "plan_key", "first_denial_time", "denied_count", "denied_quantity", "used_quantity", "limit_quantity", "reason", "real_denied_count")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    FIRST_DENIAL_TIME_FIELD_NUMBER: _ClassVar[int]
    DENIED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DENIED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    USED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REAL_DENIED_COUNT_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    feature_key: str
    plan_key: str
    first_denial_time: _timestamp_pb2.Timestamp
    denied_count: int
    denied_quantity: int
    used_quantity: int
    limit_quantity: int
    reason: _access_pb2.DecisionReason
    real_denied_count: int
    def __init__(self, account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., plan_key: _Optional[str] = ..., first_denial_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., denied_count: _Optional[int] = ..., denied_quantity: _Optional[int] = ..., used_quantity: _Optional[int] = ..., limit_quantity: _Optional[int] = ..., reason: _Optional[_Union[_access_pb2.DecisionReason, str]] = ..., real_denied_count: _Optional[int] = ...) -> None: ...

class SimulationProgress(_message.Message):
    __slots__ = ("entry_count", "entry_count_total")
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENTRY_COUNT_TOTAL_FIELD_NUMBER: _ClassVar[int]
    entry_count: int
    entry_count_total: int
    def __init__(self, entry_count: _Optional[int] = ..., entry_count_total: _Optional[int] = ...) -> None: ...

class SimulationTotals(_message.Message):
    __slots__ = ("entry_count", "account_count", "denied_account_count", "denied_count", "denied_quantity", "first_day_account_count", "duration")
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_COUNT_FIELD_NUMBER: _ClassVar[int]
    DENIED_ACCOUNT_COUNT_FIELD_NUMBER: _ClassVar[int]
    DENIED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DENIED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    FIRST_DAY_ACCOUNT_COUNT_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    entry_count: int
    account_count: int
    denied_account_count: int
    denied_count: int
    denied_quantity: int
    first_day_account_count: int
    duration: _duration_pb2.Duration
    def __init__(self, entry_count: _Optional[int] = ..., account_count: _Optional[int] = ..., denied_account_count: _Optional[int] = ..., denied_count: _Optional[int] = ..., denied_quantity: _Optional[int] = ..., first_day_account_count: _Optional[int] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
