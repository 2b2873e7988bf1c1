import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tallygate.v1 import catalog_pb2 as _catalog_pb2
from tallygate.v1 import money_pb2 as _money_pb2
from tallygate.v1 import period_pb2 as _period_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubscriptionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUBSCRIPTION_STATE_UNSPECIFIED: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_INCOMPLETE: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_INCOMPLETE_EXPIRED: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_TRIALING: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_ACTIVE: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_PAST_DUE: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_UNPAID: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_PAUSED: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_CANCELED: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_EXPIRED: _ClassVar[SubscriptionState]

class BillingProvider(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BILLING_PROVIDER_UNSPECIFIED: _ClassVar[BillingProvider]
    BILLING_PROVIDER_STRIPE: _ClassVar[BillingProvider]
    BILLING_PROVIDER_MANUAL: _ClassVar[BillingProvider]

class ScheduledChangeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCHEDULED_CHANGE_KIND_UNSPECIFIED: _ClassVar[ScheduledChangeKind]
    SCHEDULED_CHANGE_KIND_PLAN: _ClassVar[ScheduledChangeKind]
    SCHEDULED_CHANGE_KIND_CANCELLATION: _ClassVar[ScheduledChangeKind]
    SCHEDULED_CHANGE_KIND_PAUSE: _ClassVar[ScheduledChangeKind]
    SCHEDULED_CHANGE_KIND_RESUMPTION: _ClassVar[ScheduledChangeKind]
SUBSCRIPTION_STATE_UNSPECIFIED: SubscriptionState
SUBSCRIPTION_STATE_INCOMPLETE: SubscriptionState
SUBSCRIPTION_STATE_INCOMPLETE_EXPIRED: SubscriptionState
SUBSCRIPTION_STATE_TRIALING: SubscriptionState
SUBSCRIPTION_STATE_ACTIVE: SubscriptionState
SUBSCRIPTION_STATE_PAST_DUE: SubscriptionState
SUBSCRIPTION_STATE_UNPAID: SubscriptionState
SUBSCRIPTION_STATE_PAUSED: SubscriptionState
SUBSCRIPTION_STATE_CANCELED: SubscriptionState
SUBSCRIPTION_STATE_EXPIRED: SubscriptionState
BILLING_PROVIDER_UNSPECIFIED: BillingProvider
BILLING_PROVIDER_STRIPE: BillingProvider
BILLING_PROVIDER_MANUAL: BillingProvider
SCHEDULED_CHANGE_KIND_UNSPECIFIED: ScheduledChangeKind
SCHEDULED_CHANGE_KIND_PLAN: ScheduledChangeKind
SCHEDULED_CHANGE_KIND_CANCELLATION: ScheduledChangeKind
SCHEDULED_CHANGE_KIND_PAUSE: ScheduledChangeKind
SCHEDULED_CHANGE_KIND_RESUMPTION: ScheduledChangeKind

class Subscription(_message.Message):
    __slots__ = ("subscription_id", "tenant_id", "account_id", "plan_key", "plan_version", "state", "interval", "interval_count", "price", "quantity", "billing_provider", "provider_subscription_id", "provider_customer_id", "provider_price_id", "start_time", "billing_anchor_time", "current_period", "trial_period", "cancel_at_period_end", "cancel_request_time", "end_time", "grace_end_time", "pause_period", "scheduled_change", "metadata", "create_time", "update_time")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    PLAN_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    BILLING_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_PRICE_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    BILLING_ANCHOR_TIME_FIELD_NUMBER: _ClassVar[int]
    CURRENT_PERIOD_FIELD_NUMBER: _ClassVar[int]
    TRIAL_PERIOD_FIELD_NUMBER: _ClassVar[int]
    CANCEL_AT_PERIOD_END_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUEST_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    GRACE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAUSE_PERIOD_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_CHANGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    subscription_id: str
    tenant_id: str
    account_id: str
    plan_key: str
    plan_version: int
    state: SubscriptionState
    interval: _catalog_pb2.BillingInterval
    interval_count: int
    price: _money_pb2.Money
    quantity: int
    billing_provider: BillingProvider
    provider_subscription_id: str
    provider_customer_id: str
    provider_price_id: str
    start_time: _timestamp_pb2.Timestamp
    billing_anchor_time: _timestamp_pb2.Timestamp
    current_period: _period_pb2.Period
    trial_period: _period_pb2.Period
    cancel_at_period_end: bool
    cancel_request_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    grace_end_time: _timestamp_pb2.Timestamp
    pause_period: _period_pb2.Period
    scheduled_change: ScheduledChange
    metadata: _containers.ScalarMap[str, str]
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, subscription_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., plan_key: _Optional[str] = ..., plan_version: _Optional[int] = ..., state: _Optional[_Union[SubscriptionState, str]] = ..., interval: _Optional[_Union[_catalog_pb2.BillingInterval, str]] = ..., interval_count: _Optional[int] = ..., price: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., quantity: _Optional[int] = ..., billing_provider: _Optional[_Union[BillingProvider, str]] = ..., provider_subscription_id: _Optional[str] = ..., provider_customer_id: _Optional[str] = ..., provider_price_id: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., billing_anchor_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., current_period: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., trial_period: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., cancel_at_period_end: _Optional[bool] = ..., cancel_request_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., grace_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pause_period: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., scheduled_change: _Optional[_Union[ScheduledChange, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ScheduledChange(_message.Message):
    __slots__ = ("scheduled_change_id", "kind", "plan_key", "interval", "quantity", "effective_time", "provider_schedule_id", "create_time", "actor")
    SCHEDULED_CHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_SCHEDULE_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    scheduled_change_id: str
    kind: ScheduledChangeKind
    plan_key: str
    interval: _catalog_pb2.BillingInterval
    quantity: int
    effective_time: _timestamp_pb2.Timestamp
    provider_schedule_id: str
    create_time: _timestamp_pb2.Timestamp
    actor: str
    def __init__(self, scheduled_change_id: _Optional[str] = ..., kind: _Optional[_Union[ScheduledChangeKind, str]] = ..., plan_key: _Optional[str] = ..., interval: _Optional[_Union[_catalog_pb2.BillingInterval, str]] = ..., quantity: _Optional[int] = ..., effective_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., provider_schedule_id: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ...) -> None: ...

class SubscriptionChange(_message.Message):
    __slots__ = ("change_id", "subscription_id", "cause", "state_before", "state_after", "plan_key_before", "plan_key_after", "difference_json", "reason_text", "actor", "webhook_event_id", "change_time", "revision")
    CHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    STATE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    STATE_AFTER_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_BEFORE_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_AFTER_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_JSON_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    change_id: str
    subscription_id: str
    cause: str
    state_before: SubscriptionState
    state_after: SubscriptionState
    plan_key_before: str
    plan_key_after: str
    difference_json: str
    reason_text: str
    actor: str
    webhook_event_id: str
    change_time: _timestamp_pb2.Timestamp
    revision: int
    def __init__(self, change_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., cause: _Optional[str] = ..., state_before: _Optional[_Union[SubscriptionState, str]] = ..., state_after: _Optional[_Union[SubscriptionState, str]] = ..., plan_key_before: _Optional[str] = ..., plan_key_after: _Optional[str] = ..., difference_json: _Optional[str] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ..., webhook_event_id: _Optional[str] = ..., change_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...
