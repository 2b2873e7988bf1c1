import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from tallygate.v1 import period_pb2 as _period_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DatasetShape(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATASET_SHAPE_UNSPECIFIED: _ClassVar[DatasetShape]
    DATASET_SHAPE_TIME_SERIES: _ClassVar[DatasetShape]
    DATASET_SHAPE_DOCUMENTS: _ClassVar[DatasetShape]

class ColumnType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLUMN_TYPE_UNSPECIFIED: _ClassVar[ColumnType]
    COLUMN_TYPE_INT64: _ClassVar[ColumnType]
    COLUMN_TYPE_DOUBLE: _ClassVar[ColumnType]
    COLUMN_TYPE_STRING: _ClassVar[ColumnType]
    COLUMN_TYPE_BOOL: _ClassVar[ColumnType]
    COLUMN_TYPE_TIMESTAMP: _ClassVar[ColumnType]

class StorageTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STORAGE_TIER_UNSPECIFIED: _ClassVar[StorageTier]
    STORAGE_TIER_HOT: _ClassVar[StorageTier]
    STORAGE_TIER_WARM: _ClassVar[StorageTier]
    STORAGE_TIER_COLD: _ClassVar[StorageTier]

class CompressionForm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPRESSION_FORM_UNSPECIFIED: _ClassVar[CompressionForm]
    COMPRESSION_FORM_NONE: _ClassVar[CompressionForm]
    COMPRESSION_FORM_LOSSLESS: _ClassVar[CompressionForm]
    COMPRESSION_FORM_SUMMARY: _ClassVar[CompressionForm]
    COMPRESSION_FORM_BEHAVIORAL: _ClassVar[CompressionForm]
    COMPRESSION_FORM_STATISTICAL: _ClassVar[CompressionForm]

class DataImportance(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_IMPORTANCE_UNSPECIFIED: _ClassVar[DataImportance]
    DATA_IMPORTANCE_LOW: _ClassVar[DataImportance]
    DATA_IMPORTANCE_MEDIUM: _ClassVar[DataImportance]
    DATA_IMPORTANCE_HIGH: _ClassVar[DataImportance]
    DATA_IMPORTANCE_CRITICAL: _ClassVar[DataImportance]

class StorageOptimization(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STORAGE_OPTIMIZATION_UNSPECIFIED: _ClassVar[StorageOptimization]
    STORAGE_OPTIMIZATION_NONE: _ClassVar[StorageOptimization]
    STORAGE_OPTIMIZATION_COMPRESS: _ClassVar[StorageOptimization]
    STORAGE_OPTIMIZATION_SUMMARIZE: _ClassVar[StorageOptimization]
    STORAGE_OPTIMIZATION_DELETE: _ClassVar[StorageOptimization]

class SegmentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEGMENT_STATE_UNSPECIFIED: _ClassVar[SegmentState]
    SEGMENT_STATE_LIVE: _ClassVar[SegmentState]
    SEGMENT_STATE_REPLACED: _ClassVar[SegmentState]
    SEGMENT_STATE_QUARANTINED: _ClassVar[SegmentState]
    SEGMENT_STATE_DELETED: _ClassVar[SegmentState]

class LifecycleJobKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIFECYCLE_JOB_KIND_UNSPECIFIED: _ClassVar[LifecycleJobKind]
    LIFECYCLE_JOB_KIND_COMPRESSION: _ClassVar[LifecycleJobKind]
    LIFECYCLE_JOB_KIND_ARCHIVE: _ClassVar[LifecycleJobKind]
    LIFECYCLE_JOB_KIND_RESTORE: _ClassVar[LifecycleJobKind]
    LIFECYCLE_JOB_KIND_CLEANUP: _ClassVar[LifecycleJobKind]
    LIFECYCLE_JOB_KIND_OPTIMIZATION: _ClassVar[LifecycleJobKind]
    LIFECYCLE_JOB_KIND_INTEGRITY: _ClassVar[LifecycleJobKind]
    LIFECYCLE_JOB_KIND_EXPORT: _ClassVar[LifecycleJobKind]
    LIFECYCLE_JOB_KIND_ERASURE: _ClassVar[LifecycleJobKind]
    LIFECYCLE_JOB_KIND_KEY_ROTATION: _ClassVar[LifecycleJobKind]

class LifecycleJobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIFECYCLE_JOB_STATE_UNSPECIFIED: _ClassVar[LifecycleJobState]
    LIFECYCLE_JOB_STATE_PENDING: _ClassVar[LifecycleJobState]
    LIFECYCLE_JOB_STATE_RUNNING: _ClassVar[LifecycleJobState]
    LIFECYCLE_JOB_STATE_SUCCEEDED: _ClassVar[LifecycleJobState]
    LIFECYCLE_JOB_STATE_FAILED: _ClassVar[LifecycleJobState]
    LIFECYCLE_JOB_STATE_CANCELED: _ClassVar[LifecycleJobState]

class IntegrityFindingKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INTEGRITY_FINDING_KIND_UNSPECIFIED: _ClassVar[IntegrityFindingKind]
    INTEGRITY_FINDING_KIND_CHECKSUM_MISMATCH: _ClassVar[IntegrityFindingKind]
    INTEGRITY_FINDING_KIND_MISSING: _ClassVar[IntegrityFindingKind]
    INTEGRITY_FINDING_KIND_COUNT_MISMATCH: _ClassVar[IntegrityFindingKind]
    INTEGRITY_FINDING_KIND_VALUE_MISMATCH: _ClassVar[IntegrityFindingKind]
    INTEGRITY_FINDING_KIND_UNREADABLE: _ClassVar[IntegrityFindingKind]
    INTEGRITY_FINDING_KIND_ORPHAN: _ClassVar[IntegrityFindingKind]
    INTEGRITY_FINDING_KIND_COVERAGE: _ClassVar[IntegrityFindingKind]

class ErasureMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERASURE_METHOD_UNSPECIFIED: _ClassVar[ErasureMethod]
    ERASURE_METHOD_DELETED: _ClassVar[ErasureMethod]
    ERASURE_METHOD_KEY_DESTROYED: _ClassVar[ErasureMethod]
    ERASURE_METHOD_ANONYMIZED: _ClassVar[ErasureMethod]
DATASET_SHAPE_UNSPECIFIED: DatasetShape
DATASET_SHAPE_TIME_SERIES: DatasetShape
DATASET_SHAPE_DOCUMENTS: DatasetShape
COLUMN_TYPE_UNSPECIFIED: ColumnType
COLUMN_TYPE_INT64: ColumnType
COLUMN_TYPE_DOUBLE: ColumnType
COLUMN_TYPE_STRING: ColumnType
COLUMN_TYPE_BOOL: ColumnType
COLUMN_TYPE_TIMESTAMP: ColumnType
STORAGE_TIER_UNSPECIFIED: StorageTier
STORAGE_TIER_HOT: StorageTier
STORAGE_TIER_WARM: StorageTier
STORAGE_TIER_COLD: StorageTier
COMPRESSION_FORM_UNSPECIFIED: CompressionForm
COMPRESSION_FORM_NONE: CompressionForm
COMPRESSION_FORM_LOSSLESS: CompressionForm
COMPRESSION_FORM_SUMMARY: CompressionForm
COMPRESSION_FORM_BEHAVIORAL: CompressionForm
COMPRESSION_FORM_STATISTICAL: CompressionForm
DATA_IMPORTANCE_UNSPECIFIED: DataImportance
DATA_IMPORTANCE_LOW: DataImportance
DATA_IMPORTANCE_MEDIUM: DataImportance
DATA_IMPORTANCE_HIGH: DataImportance
DATA_IMPORTANCE_CRITICAL: DataImportance
STORAGE_OPTIMIZATION_UNSPECIFIED: StorageOptimization
STORAGE_OPTIMIZATION_NONE: StorageOptimization
STORAGE_OPTIMIZATION_COMPRESS: StorageOptimization
STORAGE_OPTIMIZATION_SUMMARIZE: StorageOptimization
STORAGE_OPTIMIZATION_DELETE: StorageOptimization
SEGMENT_STATE_UNSPECIFIED: SegmentState
SEGMENT_STATE_LIVE: SegmentState
SEGMENT_STATE_REPLACED: SegmentState
SEGMENT_STATE_QUARANTINED: SegmentState
SEGMENT_STATE_DELETED: SegmentState
LIFECYCLE_JOB_KIND_UNSPECIFIED: LifecycleJobKind
LIFECYCLE_JOB_KIND_COMPRESSION: LifecycleJobKind
LIFECYCLE_JOB_KIND_ARCHIVE: LifecycleJobKind
LIFECYCLE_JOB_KIND_RESTORE: LifecycleJobKind
LIFECYCLE_JOB_KIND_CLEANUP: LifecycleJobKind
LIFECYCLE_JOB_KIND_OPTIMIZATION: LifecycleJobKind
LIFECYCLE_JOB_KIND_INTEGRITY: LifecycleJobKind
LIFECYCLE_JOB_KIND_EXPORT: LifecycleJobKind
LIFECYCLE_JOB_KIND_ERASURE: LifecycleJobKind
LIFECYCLE_JOB_KIND_KEY_ROTATION: LifecycleJobKind
LIFECYCLE_JOB_STATE_UNSPECIFIED: LifecycleJobState
LIFECYCLE_JOB_STATE_PENDING: LifecycleJobState
LIFECYCLE_JOB_STATE_RUNNING: LifecycleJobState
LIFECYCLE_JOB_STATE_SUCCEEDED: LifecycleJobState
LIFECYCLE_JOB_STATE_FAILED: LifecycleJobState
LIFECYCLE_JOB_STATE_CANCELED: LifecycleJobState
INTEGRITY_FINDING_KIND_UNSPECIFIED: IntegrityFindingKind
INTEGRITY_FINDING_KIND_CHECKSUM_MISMATCH: IntegrityFindingKind
INTEGRITY_FINDING_KIND_MISSING: IntegrityFindingKind
INTEGRITY_FINDING_KIND_COUNT_MISMATCH: IntegrityFindingKind
INTEGRITY_FINDING_KIND_VALUE_MISMATCH: IntegrityFindingKind
INTEGRITY_FINDING_KIND_UNREADABLE: IntegrityFindingKind
INTEGRITY_FINDING_KIND_ORPHAN: IntegrityFindingKind
INTEGRITY_FINDING_KIND_COVERAGE: IntegrityFindingKind
ERASURE_METHOD_UNSPECIFIED: ErasureMethod
ERASURE_METHOD_DELETED: ErasureMethod
ERASURE_METHOD_KEY_DESTROYED: ErasureMethod
ERASURE_METHOD_ANONYMIZED: ErasureMethod

class Dataset(_message.Message):
    __slots__ = ("dataset_id", "tenant_id", "account_id", "data_type", "shape", "columns", "record_count", "span", "tiers", "quality_score", "create_time", "update_time", "access_time")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    QUALITY_SCORE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TIME_FIELD_NUMBER: _ClassVar[int]
    dataset_id: str
    tenant_id: str
    account_id: str
    data_type: str
    shape: DatasetShape
    columns: _containers.RepeatedCompositeFieldContainer[DataColumn]
    record_count: int
    span: _period_pb2.Period
    tiers: _containers.RepeatedCompositeFieldContainer[TierUsage]
    quality_score: float
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    access_time: _timestamp_pb2.Timestamp
    def __init__(self, dataset_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., data_type: _Optional[str] = ..., shape: _Optional[_Union[DatasetShape, str]] = ..., columns: _Optional[_Iterable[_Union[DataColumn, _Mapping]]] = ..., record_count: _Optional[int] = ..., span: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., tiers: _Optional[_Iterable[_Union[TierUsage, _Mapping]]] = ..., quality_score: _Optional[float] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., access_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DataColumn(_message.Message):
    __slots__ = ("name", "type", "unit", "min_valid", "max_valid", "nullable")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    MIN_VALID_FIELD_NUMBER: _ClassVar[int]
    MAX_VALID_FIELD_NUMBER: _ClassVar[int]
    NULLABLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: ColumnType
    unit: str
    min_valid: float
    max_valid: float
    nullable: bool
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[ColumnType, str]] = ..., unit: _Optional[str] = ..., min_valid: _Optional[float] = ..., max_valid: _Optional[float] = ..., nullable: _Optional[bool] = ...) -> None: ...

class TierUsage(_message.Message):
    __slots__ = ("tier", "record_count", "stored_bytes", "original_bytes", "segment_count")
    TIER_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    tier: StorageTier
    record_count: int
    stored_bytes: int
    original_bytes: int
    segment_count: int
    def __init__(self, tier: _Optional[_Union[StorageTier, str]] = ..., record_count: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., original_bytes: _Optional[int] = ..., segment_count: _Optional[int] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("time", "values", "record_id")
    TIME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    values: _struct_pb2.Struct
    record_id: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., values: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., record_id: _Optional[str] = ...) -> None: ...

class RecordBatch(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[Record]
    def __init__(self, records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ...) -> None: ...

class ColumnBatch(_message.Message):
    __slots__ = ("time_micros", "columns")
    TIME_MICROS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    time_micros: _containers.RepeatedScalarFieldContainer[int]
    columns: _containers.RepeatedCompositeFieldContainer[ColumnValues]
    def __init__(self, time_micros: _Optional[_Iterable[int]] = ..., columns: _Optional[_Iterable[_Union[ColumnValues, _Mapping]]] = ...) -> None: ...

class ColumnValues(_message.Message):
    __slots__ = ("name", "int64_values", "double_values", "string_values", "bool_values", "null_positions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INT64_VALUES_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUES_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUES_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUES_FIELD_NUMBER: _ClassVar[int]
    NULL_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    int64_values: Int64Values
    double_values: DoubleValues
    string_values: StringValues
    bool_values: BoolValues
    null_positions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., int64_values: _Optional[_Union[Int64Values, _Mapping]] = ..., double_values: _Optional[_Union[DoubleValues, _Mapping]] = ..., string_values: _Optional[_Union[StringValues, _Mapping]] = ..., bool_values: _Optional[_Union[BoolValues, _Mapping]] = ..., null_positions: _Optional[_Iterable[int]] = ...) -> None: ...

class Int64Values(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class DoubleValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class StringValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class BoolValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, values: _Optional[_Iterable[bool]] = ...) -> None: ...

class DataQuality(_message.Message):
    __slots__ = ("score", "terms", "findings")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    score: float
    terms: _containers.RepeatedCompositeFieldContainer[ScoreTerm]
    findings: _containers.RepeatedCompositeFieldContainer[QualityFinding]
    def __init__(self, score: _Optional[float] = ..., terms: _Optional[_Iterable[_Union[ScoreTerm, _Mapping]]] = ..., findings: _Optional[_Iterable[_Union[QualityFinding, _Mapping]]] = ...) -> None: ...

class ScoreTerm(_message.Message):
    __slots__ = ("name", "value", "weight", "explanation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    weight: float
    explanation: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., weight: _Optional[float] = ..., explanation: _Optional[str] = ...) -> None: ...

class QualityFinding(_message.Message):
    __slots__ = ("kind", "column", "count", "first_time", "explanation")
    KIND_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    kind: str
    column: str
    count: int
    first_time: _timestamp_pb2.Timestamp
    explanation: str
    def __init__(self, kind: _Optional[str] = ..., column: _Optional[str] = ..., count: _Optional[int] = ..., first_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., explanation: _Optional[str] = ...) -> None: ...

class DataSelection(_message.Message):
    __slots__ = ("account_id", "data_types", "dataset_ids", "start_time", "end_time", "tiers")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPES_FIELD_NUMBER: _ClassVar[int]
    DATASET_IDS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    data_types: _containers.RepeatedScalarFieldContainer[str]
    dataset_ids: _containers.RepeatedScalarFieldContainer[str]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    tiers: _containers.RepeatedScalarFieldContainer[StorageTier]
    def __init__(self, account_id: _Optional[str] = ..., data_types: _Optional[_Iterable[str]] = ..., dataset_ids: _Optional[_Iterable[str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., tiers: _Optional[_Iterable[_Union[StorageTier, str]]] = ...) -> None: ...

class DataSegment(_message.Message):
    __slots__ = ("segment_id", "dataset_id", "account_id", "data_type", "tier", "form", "span", "record_count", "stored_bytes", "original_bytes", "checksum_sha256", "state", "encrypted", "codecs", "create_time", "retention_end_time")
    class CodecsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_SHA256_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    RETENTION_END_TIME_FIELD_NUMBER: _ClassVar[int]
    segment_id: str
    dataset_id: str
    account_id: str
    data_type: str
    tier: StorageTier
    form: CompressionForm
    span: _period_pb2.Period
    record_count: int
    stored_bytes: int
    original_bytes: int
    checksum_sha256: str
    state: SegmentState
    encrypted: bool
    codecs: _containers.ScalarMap[str, str]
    create_time: _timestamp_pb2.Timestamp
    retention_end_time: _timestamp_pb2.Timestamp
    def __init__(self, segment_id: _Optional[str] = ..., dataset_id: _Optional[str] = ..., account_id: _Optional[str] = ..., data_type: _Optional[str] = ..., tier: _Optional[_Union[StorageTier, str]] = ..., form: _Optional[_Union[CompressionForm, str]] = ..., span: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., record_count: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., original_bytes: _Optional[int] = ..., checksum_sha256: _Optional[str] = ..., state: _Optional[_Union[SegmentState, str]] = ..., encrypted: _Optional[bool] = ..., codecs: _Optional[_Mapping[str, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., retention_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DataClassification(_message.Message):
    __slots__ = ("segment_id", "dataset_id", "data_type", "span", "importance", "retention_days", "compression_eligible", "training_value", "storage_optimization", "access_time", "access_count", "quality_score", "terms", "explanation")
    SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_ELIGIBLE_FIELD_NUMBER: _ClassVar[int]
    TRAINING_VALUE_FIELD_NUMBER: _ClassVar[int]
    STORAGE_OPTIMIZATION_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TIME_FIELD_NUMBER: _ClassVar[int]
    ACCESS_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_SCORE_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    segment_id: str
    dataset_id: str
    data_type: str
    span: _period_pb2.Period
    importance: DataImportance
    retention_days: int
    compression_eligible: bool
    training_value: float
    storage_optimization: StorageOptimization
    access_time: _timestamp_pb2.Timestamp
    access_count: int
    quality_score: float
    terms: _containers.RepeatedCompositeFieldContainer[ScoreTerm]
    explanation: str
    def __init__(self, segment_id: _Optional[str] = ..., dataset_id: _Optional[str] = ..., data_type: _Optional[str] = ..., span: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., importance: _Optional[_Union[DataImportance, str]] = ..., retention_days: _Optional[int] = ..., compression_eligible: _Optional[bool] = ..., training_value: _Optional[float] = ..., storage_optimization: _Optional[_Union[StorageOptimization, str]] = ..., access_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., access_count: _Optional[int] = ..., quality_score: _Optional[float] = ..., terms: _Optional[_Iterable[_Union[ScoreTerm, _Mapping]]] = ..., explanation: _Optional[str] = ...) -> None: ...

class RetentionPolicy(_message.Message):
    __slots__ = ("tenant_id", "data_type", "critical_retention_days", "standard_retention_days", "compression_threshold_days", "deletion_threshold_days", "ai_value_threshold", "quality_threshold", "hot_days", "warm_days", "compression", "exceptions", "importance_rules", "training_purpose", "version", "update_time", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    STANDARD_RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_THRESHOLD_DAYS_FIELD_NUMBER: _ClassVar[int]
    DELETION_THRESHOLD_DAYS_FIELD_NUMBER: _ClassVar[int]
    AI_VALUE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    QUALITY_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    HOT_DAYS_FIELD_NUMBER: _ClassVar[int]
    WARM_DAYS_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    EXCEPTIONS_FIELD_NUMBER: _ClassVar[int]
    IMPORTANCE_RULES_FIELD_NUMBER: _ClassVar[int]
    TRAINING_PURPOSE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    data_type: str
    critical_retention_days: int
    standard_retention_days: int
    compression_threshold_days: int
    deletion_threshold_days: int
    ai_value_threshold: float
    quality_threshold: float
    hot_days: int
    warm_days: int
    compression: CompressionSettings
    exceptions: _containers.RepeatedCompositeFieldContainer[RetentionException]
    importance_rules: _containers.RepeatedCompositeFieldContainer[ImportanceRule]
    training_purpose: str
    version: int
    update_time: _timestamp_pb2.Timestamp
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., data_type: _Optional[str] = ..., critical_retention_days: _Optional[int] = ..., standard_retention_days: _Optional[int] = ..., compression_threshold_days: _Optional[int] = ..., deletion_threshold_days: _Optional[int] = ..., ai_value_threshold: _Optional[float] = ..., quality_threshold: _Optional[float] = ..., hot_days: _Optional[int] = ..., warm_days: _Optional[int] = ..., compression: _Optional[_Union[CompressionSettings, _Mapping]] = ..., exceptions: _Optional[_Iterable[_Union[RetentionException, _Mapping]]] = ..., importance_rules: _Optional[_Iterable[_Union[ImportanceRule, _Mapping]]] = ..., training_purpose: _Optional[str] = ..., version: _Optional[int] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ...) -> None: ...

class RetentionException(_message.Message):
    __slots__ = ("account_id", "start_time", "end_time", "retention_days", "reason_text", "expire_time")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    retention_days: int
    reason_text: str
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, account_id: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., retention_days: _Optional[int] = ..., reason_text: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ImportanceRule(_message.Message):
    __slots__ = ("name", "column", "min_value", "max_value", "min_training_value", "importance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    MIN_VALUE_FIELD_NUMBER: _ClassVar[int]
    MAX_VALUE_FIELD_NUMBER: _ClassVar[int]
    MIN_TRAINING_VALUE_FIELD_NUMBER: _ClassVar[int]
    IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    column: str
    min_value: float
    max_value: float
    min_training_value: float
    importance: DataImportance
    def __init__(self, name: _Optional[str] = ..., column: _Optional[str] = ..., min_value: _Optional[float] = ..., max_value: _Optional[float] = ..., min_training_value: _Optional[float] = ..., importance: _Optional[_Union[DataImportance, str]] = ...) -> None: ...

class LegalHold(_message.Message):
    __slots__ = ("legal_hold_id", "tenant_id", "selection", "reason_text", "actor", "create_time", "end_time", "release_time")
    LEGAL_HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    RELEASE_TIME_FIELD_NUMBER: _ClassVar[int]
    legal_hold_id: str
    tenant_id: str
    selection: DataSelection
    reason_text: str
    actor: str
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    release_time: _timestamp_pb2.Timestamp
    def __init__(self, legal_hold_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., selection: _Optional[_Union[DataSelection, _Mapping]] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., release_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CompressionSettings(_message.Message):
    __slots__ = ("form", "level", "window", "zones", "max_error_ratio", "column_error_ratios", "seasonal", "session_gap", "action_column")
    class ZonesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ZoneBounds
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ZoneBounds, _Mapping]] = ...) -> None: ...
    class ColumnErrorRatiosEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    FORM_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_RATIO_FIELD_NUMBER: _ClassVar[int]
    COLUMN_ERROR_RATIOS_FIELD_NUMBER: _ClassVar[int]
    SEASONAL_FIELD_NUMBER: _ClassVar[int]
    SESSION_GAP_FIELD_NUMBER: _ClassVar[int]
    ACTION_COLUMN_FIELD_NUMBER: _ClassVar[int]
    form: CompressionForm
    level: int
    window: _duration_pb2.Duration
    zones: _containers.MessageMap[str, ZoneBounds]
    max_error_ratio: float
    column_error_ratios: _containers.ScalarMap[str, float]
    seasonal: bool
    session_gap: _duration_pb2.Duration
    action_column: str
    def __init__(self, form: _Optional[_Union[CompressionForm, str]] = ..., level: _Optional[int] = ..., window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., zones: _Optional[_Mapping[str, ZoneBounds]] = ..., max_error_ratio: _Optional[float] = ..., column_error_ratios: _Optional[_Mapping[str, float]] = ..., seasonal: _Optional[bool] = ..., session_gap: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., action_column: _Optional[str] = ...) -> None: ...

class ZoneBounds(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class CompressionResult(_message.Message):
    __slots__ = ("original_segment_id", "segment_id", "form", "compress_time", "original_bytes", "compressed_bytes", "compression_ratio", "value_retained", "record_count", "columns", "summary_metrics", "retrieval")
    ORIGINAL_SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    COMPRESS_TIME_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_RATIO_FIELD_NUMBER: _ClassVar[int]
    VALUE_RETAINED_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_METRICS_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_FIELD_NUMBER: _ClassVar[int]
    original_segment_id: str
    segment_id: str
    form: CompressionForm
    compress_time: _timestamp_pb2.Timestamp
    original_bytes: int
    compressed_bytes: int
    compression_ratio: float
    value_retained: float
    record_count: int
    columns: _containers.RepeatedCompositeFieldContainer[ColumnCompression]
    summary_metrics: _struct_pb2.Struct
    retrieval: RetrievalInstructions
    def __init__(self, original_segment_id: _Optional[str] = ..., segment_id: _Optional[str] = ..., form: _Optional[_Union[CompressionForm, str]] = ..., compress_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., original_bytes: _Optional[int] = ..., compressed_bytes: _Optional[int] = ..., compression_ratio: _Optional[float] = ..., value_retained: _Optional[float] = ..., record_count: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[ColumnCompression, _Mapping]]] = ..., summary_metrics: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., retrieval: _Optional[_Union[RetrievalInstructions, _Mapping]] = ...) -> None: ...

class ColumnCompression(_message.Message):
    __slots__ = ("column", "codec", "original_bytes", "compressed_bytes", "max_error", "root_mean_square_error")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_FIELD_NUMBER: _ClassVar[int]
    ROOT_MEAN_SQUARE_ERROR_FIELD_NUMBER: _ClassVar[int]
    column: str
    codec: str
    original_bytes: int
    compressed_bytes: int
    max_error: float
    root_mean_square_error: float
    def __init__(self, column: _Optional[str] = ..., codec: _Optional[str] = ..., original_bytes: _Optional[int] = ..., compressed_bytes: _Optional[int] = ..., max_error: _Optional[float] = ..., root_mean_square_error: _Optional[float] = ...) -> None: ...

class RetrievalInstructions(_message.Message):
    __slots__ = ("tier", "retrieval_time", "exact", "available_analyses", "limitation")
    TIER_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_TIME_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_ANALYSES_FIELD_NUMBER: _ClassVar[int]
    LIMITATION_FIELD_NUMBER: _ClassVar[int]
    tier: StorageTier
    retrieval_time: _duration_pb2.Duration
    exact: bool
    available_analyses: _containers.RepeatedScalarFieldContainer[str]
    limitation: str
    def __init__(self, tier: _Optional[_Union[StorageTier, str]] = ..., retrieval_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., exact: _Optional[bool] = ..., available_analyses: _Optional[_Iterable[str]] = ..., limitation: _Optional[str] = ...) -> None: ...

class LifecycleJob(_message.Message):
    __slots__ = ("job_id", "tenant_id", "account_id", "kind", "state", "validate_only", "progress", "error", "compression", "move", "cleanup", "optimization", "integrity", "export", "erasure", "key_rotation", "actor", "request_id", "attempt_count", "schedule_time", "create_time", "start_time", "end_time")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    CLEANUP_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZATION_FIELD_NUMBER: _ClassVar[int]
    INTEGRITY_FIELD_NUMBER: _ClassVar[int]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    ERASURE_FIELD_NUMBER: _ClassVar[int]
    KEY_ROTATION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    tenant_id: str
    account_id: str
    kind: LifecycleJobKind
    state: LifecycleJobState
    validate_only: bool
    progress: JobProgress
    error: _status_pb2.Status
    compression: CompressionReport
    move: MoveReport
    cleanup: CleanupReport
    optimization: OptimizationReport
    integrity: IntegrityReport
    export: ExportReport
    erasure: ErasureReport
    key_rotation: KeyRotationReport
    actor: str
    request_id: str
    attempt_count: int
    schedule_time: _timestamp_pb2.Timestamp
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, job_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., kind: _Optional[_Union[LifecycleJobKind, str]] = ..., state: _Optional[_Union[LifecycleJobState, str]] = ..., validate_only: _Optional[bool] = ..., progress: _Optional[_Union[JobProgress, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., compression: _Optional[_Union[CompressionReport, _Mapping]] = ..., move: _Optional[_Union[MoveReport, _Mapping]] = ..., cleanup: _Optional[_Union[CleanupReport, _Mapping]] = ..., optimization: _Optional[_Union[OptimizationReport, _Mapping]] = ..., integrity: _Optional[_Union[IntegrityReport, _Mapping]] = ..., export: _Optional[_Union[ExportReport, _Mapping]] = ..., erasure: _Optional[_Union[ErasureReport, _Mapping]] = ..., key_rotation: _Optional[_Union[KeyRotationReport, _Mapping]] = ..., actor: _Optional[str] = ..., request_id: _Optional[str] = ..., attempt_count: _Optional[int] = ..., schedule_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class JobProgress(_message.Message):
    __slots__ = ("done_count", "total_count", "read_bytes", "written_bytes", "phase", "estimated_end_time")
    DONE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_END_TIME_FIELD_NUMBER: _ClassVar[int]
    done_count: int
    total_count: int
    read_bytes: int
    written_bytes: int
    phase: str
    estimated_end_time: _timestamp_pb2.Timestamp
    def __init__(self, done_count: _Optional[int] = ..., total_count: _Optional[int] = ..., read_bytes: _Optional[int] = ..., written_bytes: _Optional[int] = ..., phase: _Optional[str] = ..., estimated_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CompressionReport(_message.Message):
    __slots__ = ("segment_count", "record_count", "original_bytes", "compressed_bytes", "value_retained", "results", "skipped")
    SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_BYTES_FIELD_NUMBER: _ClassVar[int]
    VALUE_RETAINED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    segment_count: int
    record_count: int
    original_bytes: int
    compressed_bytes: int
    value_retained: float
    results: _containers.RepeatedCompositeFieldContainer[CompressionResult]
    skipped: _containers.RepeatedCompositeFieldContainer[SkippedSegment]
    def __init__(self, segment_count: _Optional[int] = ..., record_count: _Optional[int] = ..., original_bytes: _Optional[int] = ..., compressed_bytes: _Optional[int] = ..., value_retained: _Optional[float] = ..., results: _Optional[_Iterable[_Union[CompressionResult, _Mapping]]] = ..., skipped: _Optional[_Iterable[_Union[SkippedSegment, _Mapping]]] = ...) -> None: ...

class SkippedSegment(_message.Message):
    __slots__ = ("segment_id", "kind", "explanation", "possible_time")
    SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    POSSIBLE_TIME_FIELD_NUMBER: _ClassVar[int]
    segment_id: str
    kind: str
    explanation: str
    possible_time: _timestamp_pb2.Timestamp
    def __init__(self, segment_id: _Optional[str] = ..., kind: _Optional[str] = ..., explanation: _Optional[str] = ..., possible_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class MoveReport(_message.Message):
    __slots__ = ("segment_count", "record_count", "source_bytes", "target_bytes", "target_tier", "segments", "skipped", "retention_end_time")
    SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TARGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    TARGET_TIER_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    RETENTION_END_TIME_FIELD_NUMBER: _ClassVar[int]
    segment_count: int
    record_count: int
    source_bytes: int
    target_bytes: int
    target_tier: StorageTier
    segments: _containers.RepeatedCompositeFieldContainer[DataSegment]
    skipped: _containers.RepeatedCompositeFieldContainer[SkippedSegment]
    retention_end_time: _timestamp_pb2.Timestamp
    def __init__(self, segment_count: _Optional[int] = ..., record_count: _Optional[int] = ..., source_bytes: _Optional[int] = ..., target_bytes: _Optional[int] = ..., target_tier: _Optional[_Union[StorageTier, str]] = ..., segments: _Optional[_Iterable[_Union[DataSegment, _Mapping]]] = ..., skipped: _Optional[_Iterable[_Union[SkippedSegment, _Mapping]]] = ..., retention_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CleanupReport(_message.Message):
    __slots__ = ("segment_count", "record_count", "freed_bytes", "record_count_by_type", "sample", "skipped")
    class RecordCountByTypeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_BY_TYPE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    segment_count: int
    record_count: int
    freed_bytes: int
    record_count_by_type: _containers.ScalarMap[str, int]
    sample: _containers.RepeatedCompositeFieldContainer[DataClassification]
    skipped: _containers.RepeatedCompositeFieldContainer[SkippedSegment]
    def __init__(self, segment_count: _Optional[int] = ..., record_count: _Optional[int] = ..., freed_bytes: _Optional[int] = ..., record_count_by_type: _Optional[_Mapping[str, int]] = ..., sample: _Optional[_Iterable[_Union[DataClassification, _Mapping]]] = ..., skipped: _Optional[_Iterable[_Union[SkippedSegment, _Mapping]]] = ...) -> None: ...

class OptimizationReport(_message.Message):
    __slots__ = ("plan_id", "original_bytes", "optimized_bytes", "reduction_ratio", "target_reached", "steps", "value_retained")
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZED_BYTES_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_RATIO_FIELD_NUMBER: _ClassVar[int]
    TARGET_REACHED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    VALUE_RETAINED_FIELD_NUMBER: _ClassVar[int]
    plan_id: str
    original_bytes: int
    optimized_bytes: int
    reduction_ratio: float
    target_reached: bool
    steps: _containers.RepeatedCompositeFieldContainer[OptimizationStep]
    value_retained: float
    def __init__(self, plan_id: _Optional[str] = ..., original_bytes: _Optional[int] = ..., optimized_bytes: _Optional[int] = ..., reduction_ratio: _Optional[float] = ..., target_reached: _Optional[bool] = ..., steps: _Optional[_Iterable[_Union[OptimizationStep, _Mapping]]] = ..., value_retained: _Optional[float] = ...) -> None: ...

class OptimizationStep(_message.Message):
    __slots__ = ("segment_id", "action", "saved_bytes", "value_lost", "explanation", "done")
    SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SAVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    VALUE_LOST_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    segment_id: str
    action: StorageOptimization
    saved_bytes: int
    value_lost: float
    explanation: str
    done: bool
    def __init__(self, segment_id: _Optional[str] = ..., action: _Optional[_Union[StorageOptimization, str]] = ..., saved_bytes: _Optional[int] = ..., value_lost: _Optional[float] = ..., explanation: _Optional[str] = ..., done: _Optional[bool] = ...) -> None: ...

class IntegrityReport(_message.Message):
    __slots__ = ("segment_count", "record_count", "read_bytes", "findings", "finding_count")
    SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    FINDING_COUNT_FIELD_NUMBER: _ClassVar[int]
    segment_count: int
    record_count: int
    read_bytes: int
    findings: _containers.RepeatedCompositeFieldContainer[IntegrityFinding]
    finding_count: int
    def __init__(self, segment_count: _Optional[int] = ..., record_count: _Optional[int] = ..., read_bytes: _Optional[int] = ..., findings: _Optional[_Iterable[_Union[IntegrityFinding, _Mapping]]] = ..., finding_count: _Optional[int] = ...) -> None: ...

class IntegrityFinding(_message.Message):
    __slots__ = ("segment_id", "dataset_id", "kind", "expected", "actual", "quarantined")
    SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    segment_id: str
    dataset_id: str
    kind: IntegrityFindingKind
    expected: str
    actual: str
    quarantined: bool
    def __init__(self, segment_id: _Optional[str] = ..., dataset_id: _Optional[str] = ..., kind: _Optional[_Union[IntegrityFindingKind, str]] = ..., expected: _Optional[str] = ..., actual: _Optional[str] = ..., quarantined: _Optional[bool] = ...) -> None: ...

class ExportReport(_message.Message):
    __slots__ = ("archive_bytes", "checksum_sha256", "file_count", "record_count_by_type", "expire_time")
    class RecordCountByTypeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ARCHIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_SHA256_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_BY_TYPE_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    archive_bytes: int
    checksum_sha256: str
    file_count: int
    record_count_by_type: _containers.ScalarMap[str, int]
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, archive_bytes: _Optional[int] = ..., checksum_sha256: _Optional[str] = ..., file_count: _Optional[int] = ..., record_count_by_type: _Optional[_Mapping[str, int]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ErasureReport(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: ErasureReceipt
    def __init__(self, receipt: _Optional[_Union[ErasureReceipt, _Mapping]] = ...) -> None: ...

class ErasureReceipt(_message.Message):
    __slots__ = ("receipt_id", "tenant_id", "account_digest", "digest_salt", "removed", "kept", "refused", "destroyed_key_ids", "erase_time", "actor", "signature", "signing_key_id")
    RECEIPT_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_SALT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DESTROYED_KEY_IDS_FIELD_NUMBER: _ClassVar[int]
    ERASE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SIGNING_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    receipt_id: str
    tenant_id: str
    account_digest: str
    digest_salt: str
    removed: _containers.RepeatedCompositeFieldContainer[ErasedItem]
    kept: _containers.RepeatedCompositeFieldContainer[KeptItem]
    refused: _containers.RepeatedCompositeFieldContainer[KeptItem]
    destroyed_key_ids: _containers.RepeatedScalarFieldContainer[str]
    erase_time: _timestamp_pb2.Timestamp
    actor: str
    signature: bytes
    signing_key_id: str
    def __init__(self, receipt_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., account_digest: _Optional[str] = ..., digest_salt: _Optional[str] = ..., removed: _Optional[_Iterable[_Union[ErasedItem, _Mapping]]] = ..., kept: _Optional[_Iterable[_Union[KeptItem, _Mapping]]] = ..., refused: _Optional[_Iterable[_Union[KeptItem, _Mapping]]] = ..., destroyed_key_ids: _Optional[_Iterable[str]] = ..., erase_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ..., signature: _Optional[bytes] = ..., signing_key_id: _Optional[str] = ...) -> None: ...

class ErasedItem(_message.Message):
    __slots__ = ("kind", "tier", "record_count", "segment_count", "bytes", "method")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    kind: str
    tier: StorageTier
    record_count: int
    segment_count: int
    bytes: int
    method: ErasureMethod
    def __init__(self, kind: _Optional[str] = ..., tier: _Optional[_Union[StorageTier, str]] = ..., record_count: _Optional[int] = ..., segment_count: _Optional[int] = ..., bytes: _Optional[int] = ..., method: _Optional[_Union[ErasureMethod, str]] = ...) -> None: ...

class KeptItem(_message.Message):
    __slots__ = ("kind", "record_count", "reason_text", "end_time", "anonymized")
    KIND_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ANONYMIZED_FIELD_NUMBER: _ClassVar[int]
    kind: str
    record_count: int
    reason_text: str
    end_time: _timestamp_pb2.Timestamp
    anonymized: bool
    def __init__(self, kind: _Optional[str] = ..., record_count: _Optional[int] = ..., reason_text: _Optional[str] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., anonymized: _Optional[bool] = ...) -> None: ...

class KeyRotationReport(_message.Message):
    __slots__ = ("wrapped_key_count", "segment_count")
    WRAPPED_KEY_COUNT_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    wrapped_key_count: int
    segment_count: int
    def __init__(self, wrapped_key_count: _Optional[int] = ..., segment_count: _Optional[int] = ...) -> None: ...
