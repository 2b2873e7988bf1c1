import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from tallygate.v1 import access_pb2 as _access_pb2
from tallygate.v1 import usage_pb2 as _usage_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AckMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACK_MODE_UNSPECIFIED: _ClassVar[AckMode]
    ACK_MODE_COMMITTED: _ClassVar[AckMode]
    ACK_MODE_ACCEPTED: _ClassVar[AckMode]
ACK_MODE_UNSPECIFIED: AckMode
ACK_MODE_COMMITTED: AckMode
ACK_MODE_ACCEPTED: AckMode

class IncrementRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "quantity", "request_id", "event_time", "dimensions", "ack")
    class DimensionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    quantity: int
    request_id: str
    event_time: _timestamp_pb2.Timestamp
    dimensions: _containers.ScalarMap[str, str]
    ack: AckMode
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., quantity: _Optional[int] = ..., request_id: _Optional[str] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., dimensions: _Optional[_Mapping[str, str]] = ..., ack: _Optional[_Union[AckMode, str]] = ...) -> None: ...

class IncrementResponse(_message.Message):
    __slots__ = ("decision", "reason", "used_quantity", "held_quantity", "limit_quantity", "remaining_quantity", "reset_time", "threshold_percent", "replayed", "entry_id", "revision", "upgrade_url", "plan_key", "grace_end_time", "threshold_quantity")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    USED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    HELD_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REMAINING_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_PERCENT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_URL_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    GRACE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    decision: _access_pb2.Decision
    reason: _access_pb2.DecisionReason
    used_quantity: int
    held_quantity: int
    limit_quantity: int
    remaining_quantity: int
    reset_time: _timestamp_pb2.Timestamp
    threshold_percent: int
    replayed: bool
    entry_id: str
    revision: int
    upgrade_url: str
    plan_key: str
    grace_end_time: _timestamp_pb2.Timestamp
    threshold_quantity: int
    def __init__(self, decision: _Optional[_Union[_access_pb2.Decision, str]] = ..., reason: _Optional[_Union[_access_pb2.DecisionReason, str]] = ..., used_quantity: _Optional[int] = ..., held_quantity: _Optional[int] = ..., limit_quantity: _Optional[int] = ..., remaining_quantity: _Optional[int] = ..., reset_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., threshold_percent: _Optional[int] = ..., replayed: _Optional[bool] = ..., entry_id: _Optional[str] = ..., revision: _Optional[int] = ..., upgrade_url: _Optional[str] = ..., plan_key: _Optional[str] = ..., grace_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., threshold_quantity: _Optional[int] = ...) -> None: ...

class BatchIncrementRequest(_message.Message):
    __slots__ = ("increments", "atomic")
    INCREMENTS_FIELD_NUMBER: _ClassVar[int]
    ATOMIC_FIELD_NUMBER: _ClassVar[int]
    increments: _containers.RepeatedCompositeFieldContainer[IncrementRequest]
    atomic: bool
    def __init__(self, increments: _Optional[_Iterable[_Union[IncrementRequest, _Mapping]]] = ..., atomic: _Optional[bool] = ...) -> None: ...

class BatchIncrementResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchIncrementResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchIncrementResult, _Mapping]]] = ...) -> None: ...

class BatchIncrementResult(_message.Message):
    __slots__ = ("answer", "error")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    answer: IncrementResponse
    error: _status_pb2.Status
    def __init__(self, answer: _Optional[_Union[IncrementResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class GetUsageRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "min_revision")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    min_revision: int
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., min_revision: _Optional[int] = ...) -> None: ...

class GetUsageResponse(_message.Message):
    __slots__ = ("quota", "revision", "stale")
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    quota: _usage_pb2.Quota
    revision: int
    stale: bool
    def __init__(self, quota: _Optional[_Union[_usage_pb2.Quota, _Mapping]] = ..., revision: _Optional[int] = ..., stale: _Optional[bool] = ...) -> None: ...

class GetQuotaRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "min_revision")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    min_revision: int
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., min_revision: _Optional[int] = ...) -> None: ...

class GetQuotaResponse(_message.Message):
    __slots__ = ("quotas", "plan_key", "next_reset_time", "revision", "stale", "upgrade_url")
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    NEXT_RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_URL_FIELD_NUMBER: _ClassVar[int]
    quotas: _containers.RepeatedCompositeFieldContainer[_usage_pb2.Quota]
    plan_key: str
    next_reset_time: _timestamp_pb2.Timestamp
    revision: int
    stale: bool
    upgrade_url: str
    def __init__(self, quotas: _Optional[_Iterable[_Union[_usage_pb2.Quota, _Mapping]]] = ..., plan_key: _Optional[str] = ..., next_reset_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ..., stale: _Optional[bool] = ..., upgrade_url: _Optional[str] = ...) -> None: ...

class ListUsageEntriesRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "start_time", "end_time", "kind", "request_id", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    kind: _usage_pb2.UsageEntryKind
    request_id: str
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[_Union[_usage_pb2.UsageEntryKind, str]] = ..., request_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListUsageEntriesResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[_usage_pb2.UsageEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[_usage_pb2.UsageEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
