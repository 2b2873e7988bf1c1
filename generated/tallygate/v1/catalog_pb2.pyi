import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tallygate.v1 import access_pb2 as _access_pb2
from tallygate.v1 import money_pb2 as _money_pb2
from tallygate.v1 import period_pb2 as _period_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BillingInterval(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BILLING_INTERVAL_UNSPECIFIED: _ClassVar[BillingInterval]
    BILLING_INTERVAL_DAY: _ClassVar[BillingInterval]
    BILLING_INTERVAL_WEEK: _ClassVar[BillingInterval]
    BILLING_INTERVAL_MONTH: _ClassVar[BillingInterval]
    BILLING_INTERVAL_YEAR: _ClassVar[BillingInterval]

class Enforcement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENFORCEMENT_UNSPECIFIED: _ClassVar[Enforcement]
    ENFORCEMENT_HARD: _ClassVar[Enforcement]
    ENFORCEMENT_SOFT: _ClassVar[Enforcement]

class OverrunPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERRUN_POLICY_UNSPECIFIED: _ClassVar[OverrunPolicy]
    OVERRUN_POLICY_REJECT: _ClassVar[OverrunPolicy]
    OVERRUN_POLICY_OVERDRAW: _ClassVar[OverrunPolicy]

class MeterAggregation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METER_AGGREGATION_UNSPECIFIED: _ClassVar[MeterAggregation]
    METER_AGGREGATION_SUM: _ClassVar[MeterAggregation]
    METER_AGGREGATION_COUNT: _ClassVar[MeterAggregation]
    METER_AGGREGATION_MAX: _ClassVar[MeterAggregation]
    METER_AGGREGATION_MIN: _ClassVar[MeterAggregation]
    METER_AGGREGATION_AVERAGE: _ClassVar[MeterAggregation]
    METER_AGGREGATION_UNIQUE: _ClassVar[MeterAggregation]
    METER_AGGREGATION_LATEST: _ClassVar[MeterAggregation]
BILLING_INTERVAL_UNSPECIFIED: BillingInterval
BILLING_INTERVAL_DAY: BillingInterval
BILLING_INTERVAL_WEEK: BillingInterval
BILLING_INTERVAL_MONTH: BillingInterval
BILLING_INTERVAL_YEAR: BillingInterval
ENFORCEMENT_UNSPECIFIED: Enforcement
ENFORCEMENT_HARD: Enforcement
ENFORCEMENT_SOFT: Enforcement
OVERRUN_POLICY_UNSPECIFIED: OverrunPolicy
OVERRUN_POLICY_REJECT: OverrunPolicy
OVERRUN_POLICY_OVERDRAW: OverrunPolicy
METER_AGGREGATION_UNSPECIFIED: MeterAggregation
METER_AGGREGATION_SUM: MeterAggregation
METER_AGGREGATION_COUNT: MeterAggregation
METER_AGGREGATION_MAX: MeterAggregation
METER_AGGREGATION_MIN: MeterAggregation
METER_AGGREGATION_AVERAGE: MeterAggregation
METER_AGGREGATION_UNIQUE: MeterAggregation
METER_AGGREGATION_LATEST: MeterAggregation

class Catalog(_message.Message):
    __slots__ = ("tenant", "features", "plans", "meters", "model_prices", "children", "revision", "apply_time")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    METERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_PRICES_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    APPLY_TIME_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    plans: _containers.RepeatedCompositeFieldContainer[Plan]
    meters: _containers.RepeatedCompositeFieldContainer[Meter]
    model_prices: _containers.RepeatedCompositeFieldContainer[ModelPrice]
    children: _containers.RepeatedCompositeFieldContainer[Catalog]
    revision: int
    apply_time: _timestamp_pb2.Timestamp
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ..., features: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ..., plans: _Optional[_Iterable[_Union[Plan, _Mapping]]] = ..., meters: _Optional[_Iterable[_Union[Meter, _Mapping]]] = ..., model_prices: _Optional[_Iterable[_Union[ModelPrice, _Mapping]]] = ..., children: _Optional[_Iterable[_Union[Catalog, _Mapping]]] = ..., revision: _Optional[int] = ..., apply_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Tenant(_message.Message):
    __slots__ = ("tenant_id", "display_name", "parent_tenant_id", "default_plan_key", "auto_provision", "upgrade_url_template", "default_currency_code", "default_time_zone", "default_failure_mode", "default_grace_days", "closed_period_corrections", "late_event_window", "usage_retention_days", "inherit_features", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    PARENT_TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    AUTO_PROVISION_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_URL_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_CURRENCY_CODE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_GRACE_DAYS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_PERIOD_CORRECTIONS_FIELD_NUMBER: _ClassVar[int]
    LATE_EVENT_WINDOW_FIELD_NUMBER: _ClassVar[int]
    USAGE_RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    INHERIT_FEATURES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    display_name: str
    parent_tenant_id: str
    default_plan_key: str
    auto_provision: bool
    upgrade_url_template: str
    default_currency_code: str
    default_time_zone: str
    default_failure_mode: _access_pb2.FailureMode
    default_grace_days: int
    closed_period_corrections: bool
    late_event_window: _duration_pb2.Duration
    usage_retention_days: int
    inherit_features: bool
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, tenant_id: _Optional[str] = ..., display_name: _Optional[str] = ..., parent_tenant_id: _Optional[str] = ..., default_plan_key: _Optional[str] = ..., auto_provision: _Optional[bool] = ..., upgrade_url_template: _Optional[str] = ..., default_currency_code: _Optional[str] = ..., default_time_zone: _Optional[str] = ..., default_failure_mode: _Optional[_Union[_access_pb2.FailureMode, str]] = ..., default_grace_days: _Optional[int] = ..., closed_period_corrections: _Optional[bool] = ..., late_event_window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., usage_retention_days: _Optional[int] = ..., inherit_features: _Optional[bool] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("key", "kind", "display_name", "description", "unit", "failure_mode", "meter_key", "retired", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
    METER_KEY_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    key: str
    kind: _access_pb2.FeatureKind
    display_name: str
    description: str
    unit: str
    failure_mode: _access_pb2.FailureMode
    meter_key: str
    retired: bool
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, key: _Optional[str] = ..., kind: _Optional[_Union[_access_pb2.FeatureKind, str]] = ..., display_name: _Optional[str] = ..., description: _Optional[str] = ..., unit: _Optional[str] = ..., failure_mode: _Optional[_Union[_access_pb2.FailureMode, str]] = ..., meter_key: _Optional[str] = ..., retired: _Optional[bool] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("key", "version", "display_name", "description", "rank", "prices", "allowances", "grace_days", "trial_days", "retired", "create_time", "subscription_count", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    PRICES_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCES_FIELD_NUMBER: _ClassVar[int]
    GRACE_DAYS_FIELD_NUMBER: _ClassVar[int]
    TRIAL_DAYS_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    key: str
    version: int
    display_name: str
    description: str
    rank: int
    prices: _containers.RepeatedCompositeFieldContainer[Price]
    allowances: _containers.RepeatedCompositeFieldContainer[Allowance]
    grace_days: int
    trial_days: int
    retired: bool
    create_time: _timestamp_pb2.Timestamp
    subscription_count: int
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, key: _Optional[str] = ..., version: _Optional[int] = ..., display_name: _Optional[str] = ..., description: _Optional[str] = ..., rank: _Optional[int] = ..., prices: _Optional[_Iterable[_Union[Price, _Mapping]]] = ..., allowances: _Optional[_Iterable[_Union[Allowance, _Mapping]]] = ..., grace_days: _Optional[int] = ..., trial_days: _Optional[int] = ..., retired: _Optional[bool] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., subscription_count: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Price(_message.Message):
    __slots__ = ("interval", "interval_count", "amount", "stripe_price_id", "retired")
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    STRIPE_PRICE_ID_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    interval: BillingInterval
    interval_count: int
    amount: _money_pb2.Money
    stripe_price_id: str
    retired: bool
    def __init__(self, interval: _Optional[_Union[BillingInterval, str]] = ..., interval_count: _Optional[int] = ..., amount: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., stripe_price_id: _Optional[str] = ..., retired: _Optional[bool] = ...) -> None: ...

class Allowance(_message.Message):
    __slots__ = ("feature_key", "enabled", "config_value", "limit", "grace_days", "failure_mode")
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    GRACE_DAYS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
    feature_key: str
    enabled: bool
    config_value: _struct_pb2.Value
    limit: Limit
    grace_days: int
    failure_mode: _access_pb2.FailureMode
    def __init__(self, feature_key: _Optional[str] = ..., enabled: _Optional[bool] = ..., config_value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., limit: _Optional[_Union[Limit, _Mapping]] = ..., grace_days: _Optional[int] = ..., failure_mode: _Optional[_Union[_access_pb2.FailureMode, str]] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("quantity", "period", "anchor", "enforcement", "thresholds", "rollover", "trial_quantity", "overrun_policy")
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    ENFORCEMENT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    ROLLOVER_FIELD_NUMBER: _ClassVar[int]
    TRIAL_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    OVERRUN_POLICY_FIELD_NUMBER: _ClassVar[int]
    quantity: int
    period: _period_pb2.PeriodKind
    anchor: _period_pb2.PeriodAnchor
    enforcement: Enforcement
    thresholds: _containers.RepeatedCompositeFieldContainer[Threshold]
    rollover: Rollover
    trial_quantity: int
    overrun_policy: OverrunPolicy
    def __init__(self, quantity: _Optional[int] = ..., period: _Optional[_Union[_period_pb2.PeriodKind, str]] = ..., anchor: _Optional[_Union[_period_pb2.PeriodAnchor, str]] = ..., enforcement: _Optional[_Union[Enforcement, str]] = ..., thresholds: _Optional[_Iterable[_Union[Threshold, _Mapping]]] = ..., rollover: _Optional[_Union[Rollover, _Mapping]] = ..., trial_quantity: _Optional[int] = ..., overrun_policy: _Optional[_Union[OverrunPolicy, str]] = ...) -> None: ...

class Threshold(_message.Message):
    __slots__ = ("percent", "quantity")
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    percent: int
    quantity: int
    def __init__(self, percent: _Optional[int] = ..., quantity: _Optional[int] = ...) -> None: ...

class Rollover(_message.Message):
    __slots__ = ("min_quantity", "max_quantity")
    MIN_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    MAX_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    min_quantity: int
    max_quantity: int
    def __init__(self, min_quantity: _Optional[int] = ..., max_quantity: _Optional[int] = ...) -> None: ...

class Meter(_message.Message):
    __slots__ = ("key", "display_name", "description", "event_type", "aggregation", "value_property", "scale", "group_by", "filters", "retired")
    class GroupByEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    VALUE_PROPERTY_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    key: str
    display_name: str
    description: str
    event_type: str
    aggregation: MeterAggregation
    value_property: str
    scale: int
    group_by: _containers.ScalarMap[str, str]
    filters: _containers.RepeatedCompositeFieldContainer[DimensionFilter]
    retired: bool
    def __init__(self, key: _Optional[str] = ..., display_name: _Optional[str] = ..., description: _Optional[str] = ..., event_type: _Optional[str] = ..., aggregation: _Optional[_Union[MeterAggregation, str]] = ..., value_property: _Optional[str] = ..., scale: _Optional[int] = ..., group_by: _Optional[_Mapping[str, str]] = ..., filters: _Optional[_Iterable[_Union[DimensionFilter, _Mapping]]] = ..., retired: _Optional[bool] = ...) -> None: ...

class DimensionFilter(_message.Message):
    __slots__ = ("dimension", "values")
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    dimension: str
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, dimension: _Optional[str] = ..., values: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelPrice(_message.Message):
    __slots__ = ("model_key", "currency_code", "input_micros_per_million", "output_micros_per_million", "cached_input_micros_per_million", "start_time", "end_time")
    MODEL_KEY_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_CODE_FIELD_NUMBER: _ClassVar[int]
    INPUT_MICROS_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MICROS_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_MICROS_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    model_key: str
    currency_code: str
    input_micros_per_million: int
    output_micros_per_million: int
    cached_input_micros_per_million: int
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, model_key: _Optional[str] = ..., currency_code: _Optional[str] = ..., input_micros_per_million: _Optional[int] = ..., output_micros_per_million: _Optional[int] = ..., cached_input_micros_per_million: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
