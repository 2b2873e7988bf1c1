import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageEvent(_message.Message):
    __slots__ = ("id", "source", "type", "subject", "time", "data", "ai", "client")
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    AI_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    source: str
    type: str
    subject: str
    time: _timestamp_pb2.Timestamp
    data: _struct_pb2.Struct
    ai: AiUsage
    client: ClientContext
    def __init__(self, id: _Optional[str] = ..., source: _Optional[str] = ..., type: _Optional[str] = ..., subject: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., data: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., ai: _Optional[_Union[AiUsage, _Mapping]] = ..., client: _Optional[_Union[ClientContext, _Mapping]] = ...) -> None: ...

class RecordedUsageEvent(_message.Message):
    __slots__ = ("event", "receive_time", "meter_keys", "cost_nanos", "cost_currency_code")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    METER_KEYS_FIELD_NUMBER: _ClassVar[int]
    COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    COST_CURRENCY_CODE_FIELD_NUMBER: _ClassVar[int]
    event: UsageEvent
    receive_time: _timestamp_pb2.Timestamp
    meter_keys: _containers.RepeatedScalarFieldContainer[str]
    cost_nanos: int
    cost_currency_code: str
    def __init__(self, event: _Optional[_Union[UsageEvent, _Mapping]] = ..., receive_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., meter_keys: _Optional[_Iterable[str]] = ..., cost_nanos: _Optional[int] = ..., cost_currency_code: _Optional[str] = ...) -> None: ...

class AiUsage(_message.Message):
    __slots__ = ("model_key", "input_tokens", "output_tokens", "cached_input_tokens", "operation")
    MODEL_KEY_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    model_key: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    operation: str
    def __init__(self, model_key: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cached_input_tokens: _Optional[int] = ..., operation: _Optional[str] = ...) -> None: ...

class ClientContext(_message.Message):
    __slots__ = ("user_agent", "ip_address", "input_text_length", "output_text_length")
    USER_AGENT_FIELD_NUMBER: _ClassVar[int]
    IP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    user_agent: str
    ip_address: str
    input_text_length: int
    output_text_length: int
    def __init__(self, user_agent: _Optional[str] = ..., ip_address: _Optional[str] = ..., input_text_length: _Optional[int] = ..., output_text_length: _Optional[int] = ...) -> None: ...
