import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tallygate.v1 import access_pb2 as _access_pb2
from tallygate.v1 import catalog_pb2 as _catalog_pb2
from tallygate.v1 import period_pb2 as _period_pb2
from tallygate.v1 import subscription_pb2 as _subscription_pb2
from tallygate.v1 import usage_pb2 as _usage_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GrantKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRANT_KIND_UNSPECIFIED: _ClassVar[GrantKind]
    GRANT_KIND_BONUS: _ClassVar[GrantKind]
    GRANT_KIND_PURCHASE: _ClassVar[GrantKind]
    GRANT_KIND_OVERRIDE: _ClassVar[GrantKind]
    GRANT_KIND_SWITCH: _ClassVar[GrantKind]

class GrantState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRANT_STATE_UNSPECIFIED: _ClassVar[GrantState]
    GRANT_STATE_PENDING: _ClassVar[GrantState]
    GRANT_STATE_ACTIVE: _ClassVar[GrantState]
    GRANT_STATE_USED_UP: _ClassVar[GrantState]
    GRANT_STATE_EXPIRED: _ClassVar[GrantState]
    GRANT_STATE_REVOKED: _ClassVar[GrantState]
GRANT_KIND_UNSPECIFIED: GrantKind
GRANT_KIND_BONUS: GrantKind
GRANT_KIND_PURCHASE: GrantKind
GRANT_KIND_OVERRIDE: GrantKind
GRANT_KIND_SWITCH: GrantKind
GRANT_STATE_UNSPECIFIED: GrantState
GRANT_STATE_PENDING: GrantState
GRANT_STATE_ACTIVE: GrantState
GRANT_STATE_USED_UP: GrantState
GRANT_STATE_EXPIRED: GrantState
GRANT_STATE_REVOKED: GrantState

class Entitlement(_message.Message):
    __slots__ = ("feature_key", "feature_kind", "display_name", "decision", "reason", "value", "quota", "sources", "grace_end_time", "expire_time", "failure_mode")
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KIND_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    GRACE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
    feature_key: str
    feature_kind: _access_pb2.FeatureKind
    display_name: str
    decision: _access_pb2.Decision
    reason: _access_pb2.DecisionReason
    value: _struct_pb2.Value
    quota: _usage_pb2.Quota
    sources: _containers.RepeatedCompositeFieldContainer[EntitlementSource]
    grace_end_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    failure_mode: _access_pb2.FailureMode
    def __init__(self, feature_key: _Optional[str] = ..., feature_kind: _Optional[_Union[_access_pb2.FeatureKind, str]] = ..., display_name: _Optional[str] = ..., decision: _Optional[_Union[_access_pb2.Decision, str]] = ..., reason: _Optional[_Union[_access_pb2.DecisionReason, str]] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., quota: _Optional[_Union[_usage_pb2.Quota, _Mapping]] = ..., sources: _Optional[_Iterable[_Union[EntitlementSource, _Mapping]]] = ..., grace_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., failure_mode: _Optional[_Union[_access_pb2.FailureMode, str]] = ...) -> None: ...

class EntitlementSource(_message.Message):
    __slots__ = ("subscription_id", "grant_id", "plan_key", "plan_version", "subscription_state", "allowance", "validity", "effective", "explanation")
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    PLAN_VERSION_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_STATE_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_FIELD_NUMBER: _ClassVar[int]
    VALIDITY_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    subscription_id: str
    grant_id: str
    plan_key: str
    plan_version: int
    subscription_state: _subscription_pb2.SubscriptionState
    allowance: _catalog_pb2.Allowance
    validity: _period_pb2.Period
    effective: bool
    explanation: str
    def __init__(self, subscription_id: _Optional[str] = ..., grant_id: _Optional[str] = ..., plan_key: _Optional[str] = ..., plan_version: _Optional[int] = ..., subscription_state: _Optional[_Union[_subscription_pb2.SubscriptionState, str]] = ..., allowance: _Optional[_Union[_catalog_pb2.Allowance, _Mapping]] = ..., validity: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., effective: _Optional[bool] = ..., explanation: _Optional[str] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("grant_id", "tenant_id", "account_id", "feature_key", "kind", "enabled", "config_value", "credit_quantity", "limit", "priority", "start_time", "expire_time", "recurrence", "rollover", "grace_end_time", "used_quantity", "remaining_quantity", "state", "reason_text", "actor", "metadata", "create_time", "revoke_time", "revoke_reason")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
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
    GRACE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    USED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REMAINING_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVOKE_REASON_FIELD_NUMBER: _ClassVar[int]
    grant_id: str
    tenant_id: str
    account_id: str
    feature_key: str
    kind: GrantKind
    enabled: bool
    config_value: _struct_pb2.Value
    credit_quantity: int
    limit: _catalog_pb2.Limit
    priority: int
    start_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    recurrence: _period_pb2.PeriodKind
    rollover: _catalog_pb2.Rollover
    grace_end_time: _timestamp_pb2.Timestamp
    used_quantity: int
    remaining_quantity: int
    state: GrantState
    reason_text: str
    actor: str
    metadata: _containers.ScalarMap[str, str]
    create_time: _timestamp_pb2.Timestamp
    revoke_time: _timestamp_pb2.Timestamp
    revoke_reason: str
    def __init__(self, grant_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., kind: _Optional[_Union[GrantKind, str]] = ..., enabled: _Optional[bool] = ..., config_value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., credit_quantity: _Optional[int] = ..., limit: _Optional[_Union[_catalog_pb2.Limit, _Mapping]] = ..., priority: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., recurrence: _Optional[_Union[_period_pb2.PeriodKind, str]] = ..., rollover: _Optional[_Union[_catalog_pb2.Rollover, _Mapping]] = ..., grace_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., used_quantity: _Optional[int] = ..., remaining_quantity: _Optional[int] = ..., state: _Optional[_Union[GrantState, str]] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_reason: _Optional[str] = ...) -> None: ...
