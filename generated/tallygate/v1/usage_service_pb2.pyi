import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from tallygate.v1 import access_pb2 as _access_pb2
from tallygate.v1 import catalog_pb2 as _catalog_pb2
from tallygate.v1 import period_pb2 as _period_pb2
from tallygate.v1 import reservation_pb2 as _reservation_pb2
from tallygate.v1 import usage_pb2 as _usage_pb2
from tallygate.v1 import usage_event_pb2 as _usage_event_pb2
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

class ReservationSettlement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESERVATION_SETTLEMENT_UNSPECIFIED: _ClassVar[ReservationSettlement]
    RESERVATION_SETTLEMENT_EXACT: _ClassVar[ReservationSettlement]
    RESERVATION_SETTLEMENT_RETURNED: _ClassVar[ReservationSettlement]
    RESERVATION_SETTLEMENT_SURPLUS_TAKEN: _ClassVar[ReservationSettlement]
    RESERVATION_SETTLEMENT_OVERDRAWN: _ClassVar[ReservationSettlement]
    RESERVATION_SETTLEMENT_REJECTED: _ClassVar[ReservationSettlement]

class RecordOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECORD_OUTCOME_UNSPECIFIED: _ClassVar[RecordOutcome]
    RECORD_OUTCOME_RECORDED: _ClassVar[RecordOutcome]
    RECORD_OUTCOME_DUPLICATE: _ClassVar[RecordOutcome]
    RECORD_OUTCOME_REFUSED: _ClassVar[RecordOutcome]

class WindowSize(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WINDOW_SIZE_UNSPECIFIED: _ClassVar[WindowSize]
    WINDOW_SIZE_MINUTE: _ClassVar[WindowSize]
    WINDOW_SIZE_HOUR: _ClassVar[WindowSize]
    WINDOW_SIZE_DAY: _ClassVar[WindowSize]
    WINDOW_SIZE_WEEK: _ClassVar[WindowSize]
    WINDOW_SIZE_MONTH: _ClassVar[WindowSize]
ACK_MODE_UNSPECIFIED: AckMode
ACK_MODE_COMMITTED: AckMode
ACK_MODE_ACCEPTED: AckMode
RESERVATION_SETTLEMENT_UNSPECIFIED: ReservationSettlement
RESERVATION_SETTLEMENT_EXACT: ReservationSettlement
RESERVATION_SETTLEMENT_RETURNED: ReservationSettlement
RESERVATION_SETTLEMENT_SURPLUS_TAKEN: ReservationSettlement
RESERVATION_SETTLEMENT_OVERDRAWN: ReservationSettlement
RESERVATION_SETTLEMENT_REJECTED: ReservationSettlement
RECORD_OUTCOME_UNSPECIFIED: RecordOutcome
RECORD_OUTCOME_RECORDED: RecordOutcome
RECORD_OUTCOME_DUPLICATE: RecordOutcome
RECORD_OUTCOME_REFUSED: RecordOutcome
WINDOW_SIZE_UNSPECIFIED: WindowSize
WINDOW_SIZE_MINUTE: WindowSize
WINDOW_SIZE_HOUR: WindowSize
WINDOW_SIZE_DAY: WindowSize
WINDOW_SIZE_WEEK: WindowSize
WINDOW_SIZE_MONTH: WindowSize

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

class ReserveRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "quantity", "ttl", "request_id", "event_time", "dimensions", "overrun_policy")
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
    TTL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    OVERRUN_POLICY_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    quantity: int
    ttl: _duration_pb2.Duration
    request_id: str
    event_time: _timestamp_pb2.Timestamp
    dimensions: _containers.ScalarMap[str, str]
    overrun_policy: _catalog_pb2.OverrunPolicy
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., quantity: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., dimensions: _Optional[_Mapping[str, str]] = ..., overrun_policy: _Optional[_Union[_catalog_pb2.OverrunPolicy, str]] = ...) -> None: ...

class ReserveResponse(_message.Message):
    __slots__ = ("decision", "reason", "reservation", "used_quantity", "held_quantity", "limit_quantity", "remaining_quantity", "reset_time", "replayed", "revision", "upgrade_url", "plan_key", "grace_end_time")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    USED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    HELD_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REMAINING_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_URL_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    GRACE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    decision: _access_pb2.Decision
    reason: _access_pb2.DecisionReason
    reservation: _reservation_pb2.Reservation
    used_quantity: int
    held_quantity: int
    limit_quantity: int
    remaining_quantity: int
    reset_time: _timestamp_pb2.Timestamp
    replayed: bool
    revision: int
    upgrade_url: str
    plan_key: str
    grace_end_time: _timestamp_pb2.Timestamp
    def __init__(self, decision: _Optional[_Union[_access_pb2.Decision, str]] = ..., reason: _Optional[_Union[_access_pb2.DecisionReason, str]] = ..., reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., used_quantity: _Optional[int] = ..., held_quantity: _Optional[int] = ..., limit_quantity: _Optional[int] = ..., remaining_quantity: _Optional[int] = ..., reset_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., replayed: _Optional[bool] = ..., revision: _Optional[int] = ..., upgrade_url: _Optional[str] = ..., plan_key: _Optional[str] = ..., grace_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CommitReservationRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "reservation_id", "quantity", "overrun_policy", "dimensions")
    class DimensionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    OVERRUN_POLICY_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    reservation_id: str
    quantity: int
    overrun_policy: _catalog_pb2.OverrunPolicy
    dimensions: _containers.ScalarMap[str, str]
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., reservation_id: _Optional[str] = ..., quantity: _Optional[int] = ..., overrun_policy: _Optional[_Union[_catalog_pb2.OverrunPolicy, str]] = ..., dimensions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CommitReservationResponse(_message.Message):
    __slots__ = ("decision", "reason", "reservation", "settlement", "committed_quantity", "overdrawn_quantity", "used_quantity", "held_quantity", "limit_quantity", "remaining_quantity", "reset_time", "threshold_percent", "threshold_quantity", "replayed", "late", "entry_id", "revision")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    SETTLEMENT_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    OVERDRAWN_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    USED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    HELD_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REMAINING_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_PERCENT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    decision: _access_pb2.Decision
    reason: _access_pb2.DecisionReason
    reservation: _reservation_pb2.Reservation
    settlement: ReservationSettlement
    committed_quantity: int
    overdrawn_quantity: int
    used_quantity: int
    held_quantity: int
    limit_quantity: int
    remaining_quantity: int
    reset_time: _timestamp_pb2.Timestamp
    threshold_percent: int
    threshold_quantity: int
    replayed: bool
    late: bool
    entry_id: str
    revision: int
    def __init__(self, decision: _Optional[_Union[_access_pb2.Decision, str]] = ..., reason: _Optional[_Union[_access_pb2.DecisionReason, str]] = ..., reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., settlement: _Optional[_Union[ReservationSettlement, str]] = ..., committed_quantity: _Optional[int] = ..., overdrawn_quantity: _Optional[int] = ..., used_quantity: _Optional[int] = ..., held_quantity: _Optional[int] = ..., limit_quantity: _Optional[int] = ..., remaining_quantity: _Optional[int] = ..., reset_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., threshold_percent: _Optional[int] = ..., threshold_quantity: _Optional[int] = ..., replayed: _Optional[bool] = ..., late: _Optional[bool] = ..., entry_id: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class ReleaseReservationRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "reservation_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    reservation_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., reservation_id: _Optional[str] = ...) -> None: ...

class ReleaseReservationResponse(_message.Message):
    __slots__ = ("reservation", "remaining_quantity")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    REMAINING_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    remaining_quantity: int
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., remaining_quantity: _Optional[int] = ...) -> None: ...

class ExtendReservationRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "reservation_id", "ttl")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    reservation_id: str
    ttl: _duration_pb2.Duration
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., reservation_id: _Optional[str] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ExtendReservationResponse(_message.Message):
    __slots__ = ("reservation",)
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ...) -> None: ...

class ListReservationsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "state", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    state: _reservation_pb2.ReservationState
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., state: _Optional[_Union[_reservation_pb2.ReservationState, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReservationsResponse(_message.Message):
    __slots__ = ("reservations", "next_page_token")
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    reservations: _containers.RepeatedCompositeFieldContainer[_reservation_pb2.Reservation]
    next_page_token: str
    def __init__(self, reservations: _Optional[_Iterable[_Union[_reservation_pb2.Reservation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RecordUsageRequest(_message.Message):
    __slots__ = ("tenant_id", "events")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    events: _containers.RepeatedCompositeFieldContainer[_usage_event_pb2.UsageEvent]
    def __init__(self, tenant_id: _Optional[str] = ..., events: _Optional[_Iterable[_Union[_usage_event_pb2.UsageEvent, _Mapping]]] = ...) -> None: ...

class RecordUsageResponse(_message.Message):
    __slots__ = ("results", "recorded_count", "duplicate_count", "refused_count")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    RECORDED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_COUNT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_COUNT_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RecordUsageResult]
    recorded_count: int
    duplicate_count: int
    refused_count: int
    def __init__(self, results: _Optional[_Iterable[_Union[RecordUsageResult, _Mapping]]] = ..., recorded_count: _Optional[int] = ..., duplicate_count: _Optional[int] = ..., refused_count: _Optional[int] = ...) -> None: ...

class RecordUsageResult(_message.Message):
    __slots__ = ("event_id", "source", "outcome", "error", "meter_keys", "cost_nanos", "cost_currency_code")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    METER_KEYS_FIELD_NUMBER: _ClassVar[int]
    COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    COST_CURRENCY_CODE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    source: str
    outcome: RecordOutcome
    error: _status_pb2.Status
    meter_keys: _containers.RepeatedScalarFieldContainer[str]
    cost_nanos: int
    cost_currency_code: str
    def __init__(self, event_id: _Optional[str] = ..., source: _Optional[str] = ..., outcome: _Optional[_Union[RecordOutcome, str]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., meter_keys: _Optional[_Iterable[str]] = ..., cost_nanos: _Optional[int] = ..., cost_currency_code: _Optional[str] = ...) -> None: ...

class ReverseUsageRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "entry_id", "quantity", "reason_text", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    entry_id: str
    quantity: int
    reason_text: str
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., entry_id: _Optional[str] = ..., quantity: _Optional[int] = ..., reason_text: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ReverseUsageResponse(_message.Message):
    __slots__ = ("entry", "reversible_quantity", "quota", "redeemable_denials", "redeemable_denial_count", "replayed", "revision")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    REVERSIBLE_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    REDEEMABLE_DENIALS_FIELD_NUMBER: _ClassVar[int]
    REDEEMABLE_DENIAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    entry: _usage_pb2.UsageEntry
    reversible_quantity: int
    quota: _usage_pb2.Quota
    redeemable_denials: _containers.RepeatedCompositeFieldContainer[UsageDenial]
    redeemable_denial_count: int
    replayed: bool
    revision: int
    def __init__(self, entry: _Optional[_Union[_usage_pb2.UsageEntry, _Mapping]] = ..., reversible_quantity: _Optional[int] = ..., quota: _Optional[_Union[_usage_pb2.Quota, _Mapping]] = ..., redeemable_denials: _Optional[_Iterable[_Union[UsageDenial, _Mapping]]] = ..., redeemable_denial_count: _Optional[int] = ..., replayed: _Optional[bool] = ..., revision: _Optional[int] = ...) -> None: ...

class UsageDenial(_message.Message):
    __slots__ = ("denial_time", "feature_key", "quantity", "reason", "request_id")
    DENIAL_TIME_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    denial_time: _timestamp_pb2.Timestamp
    feature_key: str
    quantity: int
    reason: _access_pb2.DecisionReason
    request_id: str
    def __init__(self, denial_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., feature_key: _Optional[str] = ..., quantity: _Optional[int] = ..., reason: _Optional[_Union[_access_pb2.DecisionReason, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class QueryUsageRequest(_message.Message):
    __slots__ = ("tenant_id", "meter_key", "feature_key", "ai_cost", "start_time", "end_time", "window_size", "time_zone", "account_ids", "group_by", "filters", "top_count", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    METER_KEY_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    AI_COST_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SIZE_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_IDS_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    TOP_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    meter_key: str
    feature_key: str
    ai_cost: bool
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    window_size: WindowSize
    time_zone: str
    account_ids: _containers.RepeatedScalarFieldContainer[str]
    group_by: _containers.RepeatedScalarFieldContainer[str]
    filters: _containers.RepeatedCompositeFieldContainer[_catalog_pb2.DimensionFilter]
    top_count: int
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., meter_key: _Optional[str] = ..., feature_key: _Optional[str] = ..., ai_cost: _Optional[bool] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., window_size: _Optional[_Union[WindowSize, str]] = ..., time_zone: _Optional[str] = ..., account_ids: _Optional[_Iterable[str]] = ..., group_by: _Optional[_Iterable[str]] = ..., filters: _Optional[_Iterable[_Union[_catalog_pb2.DimensionFilter, _Mapping]]] = ..., top_count: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class QueryUsageResponse(_message.Message):
    __slots__ = ("rows", "next_page_token", "total_quantity", "fresh_time")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    FRESH_TIME_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[UsageRow]
    next_page_token: str
    total_quantity: int
    fresh_time: _timestamp_pb2.Timestamp
    def __init__(self, rows: _Optional[_Iterable[_Union[UsageRow, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_quantity: _Optional[int] = ..., fresh_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UsageRow(_message.Message):
    __slots__ = ("window", "group", "quantity", "decimal_quantity", "event_count", "rest")
    class GroupEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    window: _period_pb2.Period
    group: _containers.ScalarMap[str, str]
    quantity: int
    decimal_quantity: str
    event_count: int
    rest: bool
    def __init__(self, window: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., group: _Optional[_Mapping[str, str]] = ..., quantity: _Optional[int] = ..., decimal_quantity: _Optional[str] = ..., event_count: _Optional[int] = ..., rest: _Optional[bool] = ...) -> None: ...

class ListUsageEventsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "event_type", "source", "event_id", "start_time", "end_time", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    event_type: str
    source: str
    event_id: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., event_type: _Optional[str] = ..., source: _Optional[str] = ..., event_id: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListUsageEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_usage_event_pb2.RecordedUsageEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[_usage_event_pb2.RecordedUsageEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
