import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tallygate.v1 import access_pb2 as _access_pb2
from tallygate.v1 import period_pb2 as _period_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageEntryKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USAGE_ENTRY_KIND_UNSPECIFIED: _ClassVar[UsageEntryKind]
    USAGE_ENTRY_KIND_INCREMENT: _ClassVar[UsageEntryKind]
    USAGE_ENTRY_KIND_RESERVATION: _ClassVar[UsageEntryKind]
    USAGE_ENTRY_KIND_EVENT: _ClassVar[UsageEntryKind]
    USAGE_ENTRY_KIND_REVERSAL: _ClassVar[UsageEntryKind]
    USAGE_ENTRY_KIND_CORRECTION: _ClassVar[UsageEntryKind]
USAGE_ENTRY_KIND_UNSPECIFIED: UsageEntryKind
USAGE_ENTRY_KIND_INCREMENT: UsageEntryKind
USAGE_ENTRY_KIND_RESERVATION: UsageEntryKind
USAGE_ENTRY_KIND_EVENT: UsageEntryKind
USAGE_ENTRY_KIND_REVERSAL: UsageEntryKind
USAGE_ENTRY_KIND_CORRECTION: UsageEntryKind

class Quota(_message.Message):
    __slots__ = ("feature_key", "feature_kind", "decision", "reason", "limit_quantity", "used_quantity", "held_quantity", "remaining_quantity", "period_kind", "period", "reset_time", "threshold_percent", "threshold_quantity", "plan_key", "grace_end_time", "unit")
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KIND_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LIMIT_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    USED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    HELD_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REMAINING_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    PERIOD_KIND_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_PERCENT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    GRACE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    feature_key: str
    feature_kind: _access_pb2.FeatureKind
    decision: _access_pb2.Decision
    reason: _access_pb2.DecisionReason
    limit_quantity: int
    used_quantity: int
    held_quantity: int
    remaining_quantity: int
    period_kind: _period_pb2.PeriodKind
    period: _period_pb2.Period
    reset_time: _timestamp_pb2.Timestamp
    threshold_percent: int
    threshold_quantity: int
    plan_key: str
    grace_end_time: _timestamp_pb2.Timestamp
    unit: str
    def __init__(self, feature_key: _Optional[str] = ..., feature_kind: _Optional[_Union[_access_pb2.FeatureKind, str]] = ..., decision: _Optional[_Union[_access_pb2.Decision, str]] = ..., reason: _Optional[_Union[_access_pb2.DecisionReason, str]] = ..., limit_quantity: _Optional[int] = ..., used_quantity: _Optional[int] = ..., held_quantity: _Optional[int] = ..., remaining_quantity: _Optional[int] = ..., period_kind: _Optional[_Union[_period_pb2.PeriodKind, str]] = ..., period: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., reset_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., threshold_percent: _Optional[int] = ..., threshold_quantity: _Optional[int] = ..., plan_key: _Optional[str] = ..., grace_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., unit: _Optional[str] = ...) -> None: ...

class UsageEntry(_message.Message):
    __slots__ = ("entry_id", "tenant_id", "account_id", "feature_key", "kind", "quantity", "used_quantity", "request_id", "event_time", "commit_time", "period", "dimensions", "reversed_entry_id", "reservation_id", "reason_text", "actor", "plan_key")
    class DimensionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    USED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    REVERSED_ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    tenant_id: str
    account_id: str
    feature_key: str
    kind: UsageEntryKind
    quantity: int
    used_quantity: int
    request_id: str
    event_time: _timestamp_pb2.Timestamp
    commit_time: _timestamp_pb2.Timestamp
    period: _period_pb2.Period
    dimensions: _containers.ScalarMap[str, str]
    reversed_entry_id: str
    reservation_id: str
    reason_text: str
    actor: str
    plan_key: str
    def __init__(self, entry_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., kind: _Optional[_Union[UsageEntryKind, str]] = ..., quantity: _Optional[int] = ..., used_quantity: _Optional[int] = ..., request_id: _Optional[str] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., commit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., period: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., dimensions: _Optional[_Mapping[str, str]] = ..., reversed_entry_id: _Optional[str] = ..., reservation_id: _Optional[str] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ..., plan_key: _Optional[str] = ...) -> None: ...
