import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WebhookSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WEBHOOK_SOURCE_UNSPECIFIED: _ClassVar[WebhookSource]
    WEBHOOK_SOURCE_STRIPE: _ClassVar[WebhookSource]
    WEBHOOK_SOURCE_CLERK: _ClassVar[WebhookSource]
    WEBHOOK_SOURCE_AYRSHARE: _ClassVar[WebhookSource]

class WebhookEventState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WEBHOOK_EVENT_STATE_UNSPECIFIED: _ClassVar[WebhookEventState]
    WEBHOOK_EVENT_STATE_PENDING: _ClassVar[WebhookEventState]
    WEBHOOK_EVENT_STATE_PROCESSED: _ClassVar[WebhookEventState]
    WEBHOOK_EVENT_STATE_IGNORED: _ClassVar[WebhookEventState]
    WEBHOOK_EVENT_STATE_RETRYING: _ClassVar[WebhookEventState]
    WEBHOOK_EVENT_STATE_DEAD: _ClassVar[WebhookEventState]
WEBHOOK_SOURCE_UNSPECIFIED: WebhookSource
WEBHOOK_SOURCE_STRIPE: WebhookSource
WEBHOOK_SOURCE_CLERK: WebhookSource
WEBHOOK_SOURCE_AYRSHARE: WebhookSource
WEBHOOK_EVENT_STATE_UNSPECIFIED: WebhookEventState
WEBHOOK_EVENT_STATE_PENDING: WebhookEventState
WEBHOOK_EVENT_STATE_PROCESSED: WebhookEventState
WEBHOOK_EVENT_STATE_IGNORED: WebhookEventState
WEBHOOK_EVENT_STATE_RETRYING: WebhookEventState
WEBHOOK_EVENT_STATE_DEAD: WebhookEventState

class WebhookEvent(_message.Message):
    __slots__ = ("source", "event_id", "event_type", "tenant_id", "account_id", "state", "attempt_count", "error_text", "next_attempt_time", "api_version", "api_version_mismatch", "payload", "event_time", "receive_time", "delivery_count", "process_time")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    ERROR_TEXT_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_TIME_FIELD_NUMBER: _ClassVar[int]
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    API_VERSION_MISMATCH_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_COUNT_FIELD_NUMBER: _ClassVar[int]
    PROCESS_TIME_FIELD_NUMBER: _ClassVar[int]
    source: WebhookSource
    event_id: str
    event_type: str
    tenant_id: str
    account_id: str
    state: WebhookEventState
    attempt_count: int
    error_text: str
    next_attempt_time: _timestamp_pb2.Timestamp
    api_version: str
    api_version_mismatch: bool
    payload: bytes
    event_time: _timestamp_pb2.Timestamp
    receive_time: _timestamp_pb2.Timestamp
    delivery_count: int
    process_time: _timestamp_pb2.Timestamp
    def __init__(self, source: _Optional[_Union[WebhookSource, str]] = ..., event_id: _Optional[str] = ..., event_type: _Optional[str] = ..., tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., state: _Optional[_Union[WebhookEventState, str]] = ..., attempt_count: _Optional[int] = ..., error_text: _Optional[str] = ..., next_attempt_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., api_version: _Optional[str] = ..., api_version_mismatch: _Optional[bool] = ..., payload: _Optional[bytes] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., receive_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delivery_count: _Optional[int] = ..., process_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
