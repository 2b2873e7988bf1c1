import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeriodKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PERIOD_KIND_UNSPECIFIED: _ClassVar[PeriodKind]
    PERIOD_KIND_HOUR: _ClassVar[PeriodKind]
    PERIOD_KIND_DAY: _ClassVar[PeriodKind]
    PERIOD_KIND_WEEK: _ClassVar[PeriodKind]
    PERIOD_KIND_MONTH: _ClassVar[PeriodKind]
    PERIOD_KIND_YEAR: _ClassVar[PeriodKind]
    PERIOD_KIND_LIFETIME: _ClassVar[PeriodKind]

class PeriodAnchor(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PERIOD_ANCHOR_UNSPECIFIED: _ClassVar[PeriodAnchor]
    PERIOD_ANCHOR_UTC: _ClassVar[PeriodAnchor]
    PERIOD_ANCHOR_ACCOUNT_TIMEZONE: _ClassVar[PeriodAnchor]
    PERIOD_ANCHOR_BILLING: _ClassVar[PeriodAnchor]
PERIOD_KIND_UNSPECIFIED: PeriodKind
PERIOD_KIND_HOUR: PeriodKind
PERIOD_KIND_DAY: PeriodKind
PERIOD_KIND_WEEK: PeriodKind
PERIOD_KIND_MONTH: PeriodKind
PERIOD_KIND_YEAR: PeriodKind
PERIOD_KIND_LIFETIME: PeriodKind
PERIOD_ANCHOR_UNSPECIFIED: PeriodAnchor
PERIOD_ANCHOR_UTC: PeriodAnchor
PERIOD_ANCHOR_ACCOUNT_TIMEZONE: PeriodAnchor
PERIOD_ANCHOR_BILLING: PeriodAnchor

class Period(_message.Message):
    __slots__ = ("start_time", "end_time")
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
