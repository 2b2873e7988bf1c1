import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tallygate.v1 import data_lifecycle_pb2 as _data_lifecycle_pb2
from tallygate.v1 import money_pb2 as _money_pb2
from tallygate.v1 import period_pb2 as _period_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecordFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECORD_FORMAT_UNSPECIFIED: _ClassVar[RecordFormat]
    RECORD_FORMAT_RECORDS: _ClassVar[RecordFormat]
    RECORD_FORMAT_COLUMNS: _ClassVar[RecordFormat]
    RECORD_FORMAT_ARROW: _ClassVar[RecordFormat]

class AnalysisKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANALYSIS_KIND_UNSPECIFIED: _ClassVar[AnalysisKind]
    ANALYSIS_KIND_ROWS: _ClassVar[AnalysisKind]
    ANALYSIS_KIND_WINDOWS: _ClassVar[AnalysisKind]
    ANALYSIS_KIND_SEASONS: _ClassVar[AnalysisKind]
    ANALYSIS_KIND_BEHAVIOR: _ClassVar[AnalysisKind]

class IntegrityDepth(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INTEGRITY_DEPTH_UNSPECIFIED: _ClassVar[IntegrityDepth]
    INTEGRITY_DEPTH_PRESENCE: _ClassVar[IntegrityDepth]
    INTEGRITY_DEPTH_CHECKSUM: _ClassVar[IntegrityDepth]
    INTEGRITY_DEPTH_VALUES: _ClassVar[IntegrityDepth]

class StorageGrouping(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STORAGE_GROUPING_UNSPECIFIED: _ClassVar[StorageGrouping]
    STORAGE_GROUPING_ACCOUNT: _ClassVar[StorageGrouping]
    STORAGE_GROUPING_DATA_TYPE: _ClassVar[StorageGrouping]
    STORAGE_GROUPING_TIER: _ClassVar[StorageGrouping]

class SeasonKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEASON_KIND_UNSPECIFIED: _ClassVar[SeasonKind]
    SEASON_KIND_HOUR_OF_DAY: _ClassVar[SeasonKind]
    SEASON_KIND_DAY_OF_WEEK: _ClassVar[SeasonKind]
    SEASON_KIND_MONTH_OF_YEAR: _ClassVar[SeasonKind]
RECORD_FORMAT_UNSPECIFIED: RecordFormat
RECORD_FORMAT_RECORDS: RecordFormat
RECORD_FORMAT_COLUMNS: RecordFormat
RECORD_FORMAT_ARROW: RecordFormat
ANALYSIS_KIND_UNSPECIFIED: AnalysisKind
ANALYSIS_KIND_ROWS: AnalysisKind
ANALYSIS_KIND_WINDOWS: AnalysisKind
ANALYSIS_KIND_SEASONS: AnalysisKind
ANALYSIS_KIND_BEHAVIOR: AnalysisKind
INTEGRITY_DEPTH_UNSPECIFIED: IntegrityDepth
INTEGRITY_DEPTH_PRESENCE: IntegrityDepth
INTEGRITY_DEPTH_CHECKSUM: IntegrityDepth
INTEGRITY_DEPTH_VALUES: IntegrityDepth
STORAGE_GROUPING_UNSPECIFIED: StorageGrouping
STORAGE_GROUPING_ACCOUNT: StorageGrouping
STORAGE_GROUPING_DATA_TYPE: StorageGrouping
STORAGE_GROUPING_TIER: StorageGrouping
SEASON_KIND_UNSPECIFIED: SeasonKind
SEASON_KIND_HOUR_OF_DAY: SeasonKind
SEASON_KIND_DAY_OF_WEEK: SeasonKind
SEASON_KIND_MONTH_OF_YEAR: SeasonKind

class PutRecordsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "data_type", "records", "columns", "arrow_stream", "shape", "column_definitions", "request_id", "source")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ARROW_STREAM_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    COLUMN_DEFINITIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    data_type: str
    records: _data_lifecycle_pb2.RecordBatch
    columns: _data_lifecycle_pb2.ColumnBatch
    arrow_stream: bytes
    shape: _data_lifecycle_pb2.DatasetShape
    column_definitions: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.DataColumn]
    request_id: str
    source: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., data_type: _Optional[str] = ..., records: _Optional[_Union[_data_lifecycle_pb2.RecordBatch, _Mapping]] = ..., columns: _Optional[_Union[_data_lifecycle_pb2.ColumnBatch, _Mapping]] = ..., arrow_stream: _Optional[bytes] = ..., shape: _Optional[_Union[_data_lifecycle_pb2.DatasetShape, str]] = ..., column_definitions: _Optional[_Iterable[_Union[_data_lifecycle_pb2.DataColumn, _Mapping]]] = ..., request_id: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class PutRecordsResponse(_message.Message):
    __slots__ = ("dataset", "record_count", "replaced_count", "quality", "replayed")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    REPLACED_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    dataset: _data_lifecycle_pb2.Dataset
    record_count: int
    replaced_count: int
    quality: _data_lifecycle_pb2.DataQuality
    replayed: bool
    def __init__(self, dataset: _Optional[_Union[_data_lifecycle_pb2.Dataset, _Mapping]] = ..., record_count: _Optional[int] = ..., replaced_count: _Optional[int] = ..., quality: _Optional[_Union[_data_lifecycle_pb2.DataQuality, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class QueryRecordsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "data_type", "start_time", "end_time", "columns", "record_count_max", "format", "allow_approximation")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_MAX_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ALLOW_APPROXIMATION_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    data_type: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    columns: _containers.RepeatedScalarFieldContainer[str]
    record_count_max: int
    format: RecordFormat
    allow_approximation: bool
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., data_type: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., columns: _Optional[_Iterable[str]] = ..., record_count_max: _Optional[int] = ..., format: _Optional[_Union[RecordFormat, str]] = ..., allow_approximation: _Optional[bool] = ...) -> None: ...

class QueryRecordsResponse(_message.Message):
    __slots__ = ("header", "records", "columns", "arrow_stream", "totals")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ARROW_STREAM_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    header: RecordsHeader
    records: _data_lifecycle_pb2.RecordBatch
    columns: _data_lifecycle_pb2.ColumnBatch
    arrow_stream: bytes
    totals: RecordsTotals
    def __init__(self, header: _Optional[_Union[RecordsHeader, _Mapping]] = ..., records: _Optional[_Union[_data_lifecycle_pb2.RecordBatch, _Mapping]] = ..., columns: _Optional[_Union[_data_lifecycle_pb2.ColumnBatch, _Mapping]] = ..., arrow_stream: _Optional[bytes] = ..., totals: _Optional[_Union[RecordsTotals, _Mapping]] = ...) -> None: ...

class RecordsHeader(_message.Message):
    __slots__ = ("dataset", "columns", "gaps", "visible_start_time")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    GAPS_FIELD_NUMBER: _ClassVar[int]
    VISIBLE_START_TIME_FIELD_NUMBER: _ClassVar[int]
    dataset: _data_lifecycle_pb2.Dataset
    columns: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.DataColumn]
    gaps: _containers.RepeatedCompositeFieldContainer[RecordsGap]
    visible_start_time: _timestamp_pb2.Timestamp
    def __init__(self, dataset: _Optional[_Union[_data_lifecycle_pb2.Dataset, _Mapping]] = ..., columns: _Optional[_Iterable[_Union[_data_lifecycle_pb2.DataColumn, _Mapping]]] = ..., gaps: _Optional[_Iterable[_Union[RecordsGap, _Mapping]]] = ..., visible_start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RecordsGap(_message.Message):
    __slots__ = ("span", "kind", "max_errors", "explanation")
    class MaxErrorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SPAN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MAX_ERRORS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    span: _period_pb2.Period
    kind: str
    max_errors: _containers.ScalarMap[str, float]
    explanation: str
    def __init__(self, span: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., kind: _Optional[str] = ..., max_errors: _Optional[_Mapping[str, float]] = ..., explanation: _Optional[str] = ...) -> None: ...

class RecordsTotals(_message.Message):
    __slots__ = ("record_count", "segment_count", "read_bytes")
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    record_count: int
    segment_count: int
    read_bytes: int
    def __init__(self, record_count: _Optional[int] = ..., segment_count: _Optional[int] = ..., read_bytes: _Optional[int] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "data_type", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    data_type: str
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., data_type: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.Dataset]
    next_page_token: str
    def __init__(self, datasets: _Optional[_Iterable[_Union[_data_lifecycle_pb2.Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListDataSegmentsRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "state", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    state: _data_lifecycle_pb2.SegmentState
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., state: _Optional[_Union[_data_lifecycle_pb2.SegmentState, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDataSegmentsResponse(_message.Message):
    __slots__ = ("segments", "next_page_token")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.DataSegment]
    next_page_token: str
    def __init__(self, segments: _Optional[_Iterable[_Union[_data_lifecycle_pb2.DataSegment, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ClassifyDataRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "model_key", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_KEY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    model_key: str
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., model_key: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ClassifyDataResponse(_message.Message):
    __slots__ = ("classifications", "next_page_token")
    CLASSIFICATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    classifications: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.DataClassification]
    next_page_token: str
    def __init__(self, classifications: _Optional[_Iterable[_Union[_data_lifecycle_pb2.DataClassification, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SetRetentionPolicyRequest(_message.Message):
    __slots__ = ("tenant_id", "policy", "validate_only", "expected_version", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    policy: _data_lifecycle_pb2.RetentionPolicy
    validate_only: bool
    expected_version: int
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., policy: _Optional[_Union[_data_lifecycle_pb2.RetentionPolicy, _Mapping]] = ..., validate_only: _Optional[bool] = ..., expected_version: _Optional[int] = ..., actor: _Optional[str] = ...) -> None: ...

class SetRetentionPolicyResponse(_message.Message):
    __slots__ = ("policy", "compressible_record_count", "deletable_record_count", "plan_bound_account_count")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    COMPRESSIBLE_RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    DELETABLE_RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    PLAN_BOUND_ACCOUNT_COUNT_FIELD_NUMBER: _ClassVar[int]
    policy: _data_lifecycle_pb2.RetentionPolicy
    compressible_record_count: int
    deletable_record_count: int
    plan_bound_account_count: int
    def __init__(self, policy: _Optional[_Union[_data_lifecycle_pb2.RetentionPolicy, _Mapping]] = ..., compressible_record_count: _Optional[int] = ..., deletable_record_count: _Optional[int] = ..., plan_bound_account_count: _Optional[int] = ...) -> None: ...

class GetRetentionPolicyRequest(_message.Message):
    __slots__ = ("tenant_id", "data_type", "account_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    data_type: str
    account_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., data_type: _Optional[str] = ..., account_id: _Optional[str] = ...) -> None: ...

class GetRetentionPolicyResponse(_message.Message):
    __slots__ = ("policy", "effective_retention_days", "visible_days")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    VISIBLE_DAYS_FIELD_NUMBER: _ClassVar[int]
    policy: _data_lifecycle_pb2.RetentionPolicy
    effective_retention_days: int
    visible_days: int
    def __init__(self, policy: _Optional[_Union[_data_lifecycle_pb2.RetentionPolicy, _Mapping]] = ..., effective_retention_days: _Optional[int] = ..., visible_days: _Optional[int] = ...) -> None: ...

class ListRetentionPoliciesRequest(_message.Message):
    __slots__ = ("tenant_id", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRetentionPoliciesResponse(_message.Message):
    __slots__ = ("policies", "next_page_token")
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.RetentionPolicy]
    next_page_token: str
    def __init__(self, policies: _Optional[_Iterable[_Union[_data_lifecycle_pb2.RetentionPolicy, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateLegalHoldRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "end_time", "reason_text", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    end_time: _timestamp_pb2.Timestamp
    reason_text: str
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason_text: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CreateLegalHoldResponse(_message.Message):
    __slots__ = ("legal_hold", "record_count")
    LEGAL_HOLD_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    legal_hold: _data_lifecycle_pb2.LegalHold
    record_count: int
    def __init__(self, legal_hold: _Optional[_Union[_data_lifecycle_pb2.LegalHold, _Mapping]] = ..., record_count: _Optional[int] = ...) -> None: ...

class ReleaseLegalHoldRequest(_message.Message):
    __slots__ = ("tenant_id", "legal_hold_id", "reason_text", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    LEGAL_HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    legal_hold_id: str
    reason_text: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., legal_hold_id: _Optional[str] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ReleaseLegalHoldResponse(_message.Message):
    __slots__ = ("legal_hold",)
    LEGAL_HOLD_FIELD_NUMBER: _ClassVar[int]
    legal_hold: _data_lifecycle_pb2.LegalHold
    def __init__(self, legal_hold: _Optional[_Union[_data_lifecycle_pb2.LegalHold, _Mapping]] = ...) -> None: ...

class ListLegalHoldsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "include_released", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_RELEASED_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    include_released: bool
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., include_released: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLegalHoldsResponse(_message.Message):
    __slots__ = ("legal_holds", "next_page_token")
    LEGAL_HOLDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    legal_holds: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.LegalHold]
    next_page_token: str
    def __init__(self, legal_holds: _Optional[_Iterable[_Union[_data_lifecycle_pb2.LegalHold, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ScheduleCompressionRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "settings", "schedule_time", "validate_only", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_TIME_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    settings: _data_lifecycle_pb2.CompressionSettings
    schedule_time: _timestamp_pb2.Timestamp
    validate_only: bool
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., settings: _Optional[_Union[_data_lifecycle_pb2.CompressionSettings, _Mapping]] = ..., schedule_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., validate_only: _Optional[bool] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ScheduleCompressionResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class CompressDataRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "settings", "validate_only", "wait", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    settings: _data_lifecycle_pb2.CompressionSettings
    validate_only: bool
    wait: _duration_pb2.Duration
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., settings: _Optional[_Union[_data_lifecycle_pb2.CompressionSettings, _Mapping]] = ..., validate_only: _Optional[bool] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CompressDataResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class DecompressForAnalysisRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "analysis", "columns", "resolution", "format")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    ANALYSIS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    analysis: AnalysisKind
    columns: _containers.RepeatedScalarFieldContainer[str]
    resolution: _duration_pb2.Duration
    format: RecordFormat
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., analysis: _Optional[_Union[AnalysisKind, str]] = ..., columns: _Optional[_Iterable[str]] = ..., resolution: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., format: _Optional[_Union[RecordFormat, str]] = ...) -> None: ...

class DecompressForAnalysisResponse(_message.Message):
    __slots__ = ("header", "records", "columns", "arrow_stream", "document")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ARROW_STREAM_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    header: AnalysisHeader
    records: _data_lifecycle_pb2.RecordBatch
    columns: _data_lifecycle_pb2.ColumnBatch
    arrow_stream: bytes
    document: AnalysisDocument
    def __init__(self, header: _Optional[_Union[AnalysisHeader, _Mapping]] = ..., records: _Optional[_Union[_data_lifecycle_pb2.RecordBatch, _Mapping]] = ..., columns: _Optional[_Union[_data_lifecycle_pb2.ColumnBatch, _Mapping]] = ..., arrow_stream: _Optional[bytes] = ..., document: _Optional[_Union[AnalysisDocument, _Mapping]] = ...) -> None: ...

class AnalysisHeader(_message.Message):
    __slots__ = ("segments", "gaps", "columns")
    class SegmentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _data_lifecycle_pb2.RetrievalInstructions
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_data_lifecycle_pb2.RetrievalInstructions, _Mapping]] = ...) -> None: ...
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    GAPS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.MessageMap[str, _data_lifecycle_pb2.RetrievalInstructions]
    gaps: _containers.RepeatedCompositeFieldContainer[RecordsGap]
    columns: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.DataColumn]
    def __init__(self, segments: _Optional[_Mapping[str, _data_lifecycle_pb2.RetrievalInstructions]] = ..., gaps: _Optional[_Iterable[_Union[RecordsGap, _Mapping]]] = ..., columns: _Optional[_Iterable[_Union[_data_lifecycle_pb2.DataColumn, _Mapping]]] = ...) -> None: ...

class AnalysisDocument(_message.Message):
    __slots__ = ("segment_id", "span", "content")
    SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    segment_id: str
    span: _period_pb2.Period
    content: _struct_pb2.Struct
    def __init__(self, segment_id: _Optional[str] = ..., span: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., content: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class ArchiveDataRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "retention_days", "validate_only", "wait", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    retention_days: int
    validate_only: bool
    wait: _duration_pb2.Duration
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., retention_days: _Optional[int] = ..., validate_only: _Optional[bool] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ArchiveDataResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class RestoreDataRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "target_tier", "stay", "validate_only", "wait", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    TARGET_TIER_FIELD_NUMBER: _ClassVar[int]
    STAY_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    target_tier: _data_lifecycle_pb2.StorageTier
    stay: _duration_pb2.Duration
    validate_only: bool
    wait: _duration_pb2.Duration
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., target_tier: _Optional[_Union[_data_lifecycle_pb2.StorageTier, str]] = ..., stay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., validate_only: _Optional[bool] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class RestoreDataResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class CleanupDataRequest(_message.Message):
    __slots__ = ("tenant_id", "cutoff_time", "data_types", "account_id", "max_importance", "validate_only", "wait", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CUTOFF_TIME_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPES_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    cutoff_time: _timestamp_pb2.Timestamp
    data_types: _containers.RepeatedScalarFieldContainer[str]
    account_id: str
    max_importance: _data_lifecycle_pb2.DataImportance
    validate_only: bool
    wait: _duration_pb2.Duration
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., cutoff_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., data_types: _Optional[_Iterable[str]] = ..., account_id: _Optional[str] = ..., max_importance: _Optional[_Union[_data_lifecycle_pb2.DataImportance, str]] = ..., validate_only: _Optional[bool] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CleanupDataResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class OptimizeStorageRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "target_reduction_ratio", "plan_id", "min_value_retained", "validate_only", "wait", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    TARGET_REDUCTION_RATIO_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_VALUE_RETAINED_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    target_reduction_ratio: float
    plan_id: str
    min_value_retained: float
    validate_only: bool
    wait: _duration_pb2.Duration
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., target_reduction_ratio: _Optional[float] = ..., plan_id: _Optional[str] = ..., min_value_retained: _Optional[float] = ..., validate_only: _Optional[bool] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class OptimizeStorageResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class ValidateIntegrityRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "depth", "validate_only", "wait", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    depth: IntegrityDepth
    validate_only: bool
    wait: _duration_pb2.Duration
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., depth: _Optional[_Union[IntegrityDepth, str]] = ..., validate_only: _Optional[bool] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ValidateIntegrityResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class GetStorageMetricsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "data_type", "group_by", "history_days", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    HISTORY_DAYS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    data_type: str
    group_by: _containers.RepeatedScalarFieldContainer[StorageGrouping]
    history_days: int
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., data_type: _Optional[str] = ..., group_by: _Optional[_Iterable[_Union[StorageGrouping, str]]] = ..., history_days: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class GetStorageMetricsResponse(_message.Message):
    __slots__ = ("rows", "next_page_token", "total_bytes", "compression_savings_bytes", "deletion_savings_bytes", "projected_growth_bytes", "cost", "opportunities", "history", "projection")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_SAVINGS_BYTES_FIELD_NUMBER: _ClassVar[int]
    DELETION_SAVINGS_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_GROWTH_BYTES_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    OPPORTUNITIES_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    PROJECTION_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[StorageRow]
    next_page_token: str
    total_bytes: int
    compression_savings_bytes: int
    deletion_savings_bytes: int
    projected_growth_bytes: int
    cost: StorageCost
    opportunities: _containers.RepeatedCompositeFieldContainer[StorageOpportunity]
    history: _containers.RepeatedCompositeFieldContainer[StoragePoint]
    projection: _containers.RepeatedCompositeFieldContainer[StoragePoint]
    def __init__(self, rows: _Optional[_Iterable[_Union[StorageRow, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_bytes: _Optional[int] = ..., compression_savings_bytes: _Optional[int] = ..., deletion_savings_bytes: _Optional[int] = ..., projected_growth_bytes: _Optional[int] = ..., cost: _Optional[_Union[StorageCost, _Mapping]] = ..., opportunities: _Optional[_Iterable[_Union[StorageOpportunity, _Mapping]]] = ..., history: _Optional[_Iterable[_Union[StoragePoint, _Mapping]]] = ..., projection: _Optional[_Iterable[_Union[StoragePoint, _Mapping]]] = ...) -> None: ...

class StorageRow(_message.Message):
    __slots__ = ("account_id", "data_type", "tier", "record_count", "stored_bytes", "original_bytes", "quality_score", "access_count")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUALITY_SCORE_FIELD_NUMBER: _ClassVar[int]
    ACCESS_COUNT_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    data_type: str
    tier: _data_lifecycle_pb2.StorageTier
    record_count: int
    stored_bytes: int
    original_bytes: int
    quality_score: float
    access_count: int
    def __init__(self, account_id: _Optional[str] = ..., data_type: _Optional[str] = ..., tier: _Optional[_Union[_data_lifecycle_pb2.StorageTier, str]] = ..., record_count: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., original_bytes: _Optional[int] = ..., quality_score: _Optional[float] = ..., access_count: _Optional[int] = ...) -> None: ...

class StorageCost(_message.Message):
    __slots__ = ("total", "by_tier", "without_lifecycle")
    class ByTierEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _money_pb2.Money
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_money_pb2.Money, _Mapping]] = ...) -> None: ...
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    BY_TIER_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_LIFECYCLE_FIELD_NUMBER: _ClassVar[int]
    total: _money_pb2.Money
    by_tier: _containers.MessageMap[str, _money_pb2.Money]
    without_lifecycle: _money_pb2.Money
    def __init__(self, total: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., by_tier: _Optional[_Mapping[str, _money_pb2.Money]] = ..., without_lifecycle: _Optional[_Union[_money_pb2.Money, _Mapping]] = ...) -> None: ...

class StorageOpportunity(_message.Message):
    __slots__ = ("action", "data_type", "saved_bytes", "saved_cost", "value_lost", "explanation")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SAVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SAVED_COST_FIELD_NUMBER: _ClassVar[int]
    VALUE_LOST_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    action: _data_lifecycle_pb2.StorageOptimization
    data_type: str
    saved_bytes: int
    saved_cost: _money_pb2.Money
    value_lost: float
    explanation: str
    def __init__(self, action: _Optional[_Union[_data_lifecycle_pb2.StorageOptimization, str]] = ..., data_type: _Optional[str] = ..., saved_bytes: _Optional[int] = ..., saved_cost: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., value_lost: _Optional[float] = ..., explanation: _Optional[str] = ...) -> None: ...

class StoragePoint(_message.Message):
    __slots__ = ("day_time", "hot_bytes", "warm_bytes", "cold_bytes")
    DAY_TIME_FIELD_NUMBER: _ClassVar[int]
    HOT_BYTES_FIELD_NUMBER: _ClassVar[int]
    WARM_BYTES_FIELD_NUMBER: _ClassVar[int]
    COLD_BYTES_FIELD_NUMBER: _ClassVar[int]
    day_time: _timestamp_pb2.Timestamp
    hot_bytes: int
    warm_bytes: int
    cold_bytes: int
    def __init__(self, day_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., hot_bytes: _Optional[int] = ..., warm_bytes: _Optional[int] = ..., cold_bytes: _Optional[int] = ...) -> None: ...

class AssessDataValueRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "model_key", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_KEY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    model_key: str
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., model_key: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class AssessDataValueResponse(_message.Message):
    __slots__ = ("scores", "next_page_token")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[DataValueScore]
    next_page_token: str
    def __init__(self, scores: _Optional[_Iterable[_Union[DataValueScore, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DataValueScore(_message.Message):
    __slots__ = ("segment_id", "dataset_id", "span", "score", "terms")
    SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    segment_id: str
    dataset_id: str
    span: _period_pb2.Period
    score: float
    terms: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.ScoreTerm]
    def __init__(self, segment_id: _Optional[str] = ..., dataset_id: _Optional[str] = ..., span: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., score: _Optional[float] = ..., terms: _Optional[_Iterable[_Union[_data_lifecycle_pb2.ScoreTerm, _Mapping]]] = ...) -> None: ...

class IdentifyCriticalDataRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "model_key", "target_column", "min_accuracy_ratio", "seed")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_KEY_FIELD_NUMBER: _ClassVar[int]
    TARGET_COLUMN_FIELD_NUMBER: _ClassVar[int]
    MIN_ACCURACY_RATIO_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    model_key: str
    target_column: str
    min_accuracy_ratio: float
    seed: int
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., model_key: _Optional[str] = ..., target_column: _Optional[str] = ..., min_accuracy_ratio: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class IdentifyCriticalDataResponse(_message.Message):
    __slots__ = ("segments", "segment_count", "record_count", "accuracy_full", "accuracy_critical", "explanation")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FULL_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_CRITICAL_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[DataValueScore]
    segment_count: int
    record_count: int
    accuracy_full: float
    accuracy_critical: float
    explanation: str
    def __init__(self, segments: _Optional[_Iterable[_Union[DataValueScore, _Mapping]]] = ..., segment_count: _Optional[int] = ..., record_count: _Optional[int] = ..., accuracy_full: _Optional[float] = ..., accuracy_critical: _Optional[float] = ..., explanation: _Optional[str] = ...) -> None: ...

class SelectRepresentativeSamplesRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "sample_count", "seasons", "seed")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SEASONS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    sample_count: int
    seasons: _containers.RepeatedScalarFieldContainer[SeasonKind]
    seed: int
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., sample_count: _Optional[int] = ..., seasons: _Optional[_Iterable[_Union[SeasonKind, str]]] = ..., seed: _Optional[int] = ...) -> None: ...

class SelectRepresentativeSamplesResponse(_message.Message):
    __slots__ = ("samples", "coverage", "sample_count_by_stratum")
    class SampleCountByStratumEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_BY_STRATUM_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[SelectedSample]
    coverage: float
    sample_count_by_stratum: _containers.ScalarMap[str, int]
    def __init__(self, samples: _Optional[_Iterable[_Union[SelectedSample, _Mapping]]] = ..., coverage: _Optional[float] = ..., sample_count_by_stratum: _Optional[_Mapping[str, int]] = ...) -> None: ...

class SelectedSample(_message.Message):
    __slots__ = ("dataset_id", "record", "stratum", "weight")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    STRATUM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    dataset_id: str
    record: _data_lifecycle_pb2.Record
    stratum: str
    weight: float
    def __init__(self, dataset_id: _Optional[str] = ..., record: _Optional[_Union[_data_lifecycle_pb2.Record, _Mapping]] = ..., stratum: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class OptimizeTrainingDatasetRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "model_key", "target_record_count", "target_column", "seed")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_KEY_FIELD_NUMBER: _ClassVar[int]
    TARGET_RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    TARGET_COLUMN_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    model_key: str
    target_record_count: int
    target_column: str
    seed: int
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., model_key: _Optional[str] = ..., target_record_count: _Optional[int] = ..., target_column: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class OptimizeTrainingDatasetResponse(_message.Message):
    __slots__ = ("spans", "record_count", "excluded_record_count", "unconsented_record_count", "coverage", "value_retained", "accuracy_full", "accuracy_optimized")
    SPANS_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNCONSENTED_RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    VALUE_RETAINED_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FULL_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_OPTIMIZED_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[TrainingSpan]
    record_count: int
    excluded_record_count: int
    unconsented_record_count: int
    coverage: float
    value_retained: float
    accuracy_full: float
    accuracy_optimized: float
    def __init__(self, spans: _Optional[_Iterable[_Union[TrainingSpan, _Mapping]]] = ..., record_count: _Optional[int] = ..., excluded_record_count: _Optional[int] = ..., unconsented_record_count: _Optional[int] = ..., coverage: _Optional[float] = ..., value_retained: _Optional[float] = ..., accuracy_full: _Optional[float] = ..., accuracy_optimized: _Optional[float] = ...) -> None: ...

class TrainingSpan(_message.Message):
    __slots__ = ("dataset_id", "span", "stride", "weight", "explanation")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    dataset_id: str
    span: _period_pb2.Period
    stride: int
    weight: float
    explanation: str
    def __init__(self, dataset_id: _Optional[str] = ..., span: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., stride: _Optional[int] = ..., weight: _Optional[float] = ..., explanation: _Optional[str] = ...) -> None: ...

class EvaluateCompressionImpactRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "settings", "target_column", "seed")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    TARGET_COLUMN_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    settings: _data_lifecycle_pb2.CompressionSettings
    target_column: str
    seed: int
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., settings: _Optional[_Union[_data_lifecycle_pb2.CompressionSettings, _Mapping]] = ..., target_column: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class EvaluateCompressionImpactResponse(_message.Message):
    __slots__ = ("columns", "original_bytes", "compressed_bytes", "accuracy_before", "accuracy_after", "value_retained", "record_count")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_BEFORE_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_AFTER_FIELD_NUMBER: _ClassVar[int]
    VALUE_RETAINED_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.ColumnCompression]
    original_bytes: int
    compressed_bytes: int
    accuracy_before: ModelAccuracy
    accuracy_after: ModelAccuracy
    value_retained: float
    record_count: int
    def __init__(self, columns: _Optional[_Iterable[_Union[_data_lifecycle_pb2.ColumnCompression, _Mapping]]] = ..., original_bytes: _Optional[int] = ..., compressed_bytes: _Optional[int] = ..., accuracy_before: _Optional[_Union[ModelAccuracy, _Mapping]] = ..., accuracy_after: _Optional[_Union[ModelAccuracy, _Mapping]] = ..., value_retained: _Optional[float] = ..., record_count: _Optional[int] = ...) -> None: ...

class ModelAccuracy(_message.Message):
    __slots__ = ("metric", "value", "model")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    metric: str
    value: float
    model: str
    def __init__(self, metric: _Optional[str] = ..., value: _Optional[float] = ..., model: _Optional[str] = ...) -> None: ...

class PlanRetentionRequest(_message.Message):
    __slots__ = ("tenant_id", "selection", "storage_limit_bytes", "model_key")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    STORAGE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MODEL_KEY_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    selection: _data_lifecycle_pb2.DataSelection
    storage_limit_bytes: int
    model_key: str
    def __init__(self, tenant_id: _Optional[str] = ..., selection: _Optional[_Union[_data_lifecycle_pb2.DataSelection, _Mapping]] = ..., storage_limit_bytes: _Optional[int] = ..., model_key: _Optional[str] = ...) -> None: ...

class PlanRetentionResponse(_message.Message):
    __slots__ = ("plan_id", "steps", "present_bytes", "planned_bytes", "value_retained", "feasible", "expire_time")
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PRESENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PLANNED_BYTES_FIELD_NUMBER: _ClassVar[int]
    VALUE_RETAINED_FIELD_NUMBER: _ClassVar[int]
    FEASIBLE_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    plan_id: str
    steps: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.OptimizationStep]
    present_bytes: int
    planned_bytes: int
    value_retained: float
    feasible: bool
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, plan_id: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[_data_lifecycle_pb2.OptimizationStep, _Mapping]]] = ..., present_bytes: _Optional[int] = ..., planned_bytes: _Optional[int] = ..., value_retained: _Optional[float] = ..., feasible: _Optional[bool] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UpdatePrioritiesRequest(_message.Message):
    __slots__ = ("tenant_id", "model_key", "accuracy", "importance_by_type", "measure_time", "validate_only", "actor")
    class ImportanceByTypeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    IMPORTANCE_BY_TYPE_FIELD_NUMBER: _ClassVar[int]
    MEASURE_TIME_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    model_key: str
    accuracy: float
    importance_by_type: _containers.ScalarMap[str, float]
    measure_time: _timestamp_pb2.Timestamp
    validate_only: bool
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., model_key: _Optional[str] = ..., accuracy: _Optional[float] = ..., importance_by_type: _Optional[_Mapping[str, float]] = ..., measure_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., validate_only: _Optional[bool] = ..., actor: _Optional[str] = ...) -> None: ...

class UpdatePrioritiesResponse(_message.Message):
    __slots__ = ("weights", "changed_segment_count")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    weights: _containers.RepeatedCompositeFieldContainer[PriorityWeights]
    changed_segment_count: int
    def __init__(self, weights: _Optional[_Iterable[_Union[PriorityWeights, _Mapping]]] = ..., changed_segment_count: _Optional[int] = ...) -> None: ...

class PriorityWeights(_message.Message):
    __slots__ = ("data_type", "weights_before", "weights_after")
    class WeightsBeforeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class WeightsAfterEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_AFTER_FIELD_NUMBER: _ClassVar[int]
    data_type: str
    weights_before: _containers.ScalarMap[str, float]
    weights_after: _containers.ScalarMap[str, float]
    def __init__(self, data_type: _Optional[str] = ..., weights_before: _Optional[_Mapping[str, float]] = ..., weights_after: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ExportAccountDataRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "wait", "exclude_records", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_RECORDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    wait: _duration_pb2.Duration
    exclude_records: bool
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., exclude_records: _Optional[bool] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ExportAccountDataResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class DownloadExportRequest(_message.Message):
    __slots__ = ("tenant_id", "job_id", "offset_bytes")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    job_id: str
    offset_bytes: int
    def __init__(self, tenant_id: _Optional[str] = ..., job_id: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class DownloadExportResponse(_message.Message):
    __slots__ = ("offset_bytes", "content", "total_bytes")
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    offset_bytes: int
    content: bytes
    total_bytes: int
    def __init__(self, offset_bytes: _Optional[int] = ..., content: _Optional[bytes] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class EraseAccountDataRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "validate_only", "force", "wait", "reason_text", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    validate_only: bool
    force: bool
    wait: _duration_pb2.Duration
    reason_text: str
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., validate_only: _Optional[bool] = ..., force: _Optional[bool] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason_text: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class EraseAccountDataResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class GetErasureReceiptRequest(_message.Message):
    __slots__ = ("tenant_id", "receipt_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    receipt_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., receipt_id: _Optional[str] = ...) -> None: ...

class GetErasureReceiptResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: _data_lifecycle_pb2.ErasureReceipt
    def __init__(self, receipt: _Optional[_Union[_data_lifecycle_pb2.ErasureReceipt, _Mapping]] = ...) -> None: ...

class VerifyErasureReceiptRequest(_message.Message):
    __slots__ = ("receipt", "account_id")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    receipt: _data_lifecycle_pb2.ErasureReceipt
    account_id: str
    def __init__(self, receipt: _Optional[_Union[_data_lifecycle_pb2.ErasureReceipt, _Mapping]] = ..., account_id: _Optional[str] = ...) -> None: ...

class VerifyErasureReceiptResponse(_message.Message):
    __slots__ = ("signature_valid", "account_matches", "still_erased", "explanation")
    SIGNATURE_VALID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_MATCHES_FIELD_NUMBER: _ClassVar[int]
    STILL_ERASED_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    signature_valid: bool
    account_matches: bool
    still_erased: bool
    explanation: str
    def __init__(self, signature_valid: _Optional[bool] = ..., account_matches: _Optional[bool] = ..., still_erased: _Optional[bool] = ..., explanation: _Optional[str] = ...) -> None: ...

class RotateDataKeysRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "reencrypt", "validate_only", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    REENCRYPT_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    reencrypt: bool
    validate_only: bool
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., reencrypt: _Optional[bool] = ..., validate_only: _Optional[bool] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class RotateDataKeysResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class GetLifecycleJobRequest(_message.Message):
    __slots__ = ("tenant_id", "job_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    job_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class GetLifecycleJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class ListLifecycleJobsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "kind", "state", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    kind: _data_lifecycle_pb2.LifecycleJobKind
    state: _data_lifecycle_pb2.LifecycleJobState
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., kind: _Optional[_Union[_data_lifecycle_pb2.LifecycleJobKind, str]] = ..., state: _Optional[_Union[_data_lifecycle_pb2.LifecycleJobState, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLifecycleJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[_data_lifecycle_pb2.LifecycleJob]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelLifecycleJobRequest(_message.Message):
    __slots__ = ("tenant_id", "job_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    job_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., job_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CancelLifecycleJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...

class WatchLifecycleJobRequest(_message.Message):
    __slots__ = ("tenant_id", "job_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    job_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class WatchLifecycleJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _data_lifecycle_pb2.LifecycleJob
    def __init__(self, job: _Optional[_Union[_data_lifecycle_pb2.LifecycleJob, _Mapping]] = ...) -> None: ...
