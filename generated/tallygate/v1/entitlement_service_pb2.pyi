import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from tallygate.v1 import access_pb2 as _access_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

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
