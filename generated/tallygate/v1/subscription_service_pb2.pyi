import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tallygate.v1 import catalog_pb2 as _catalog_pb2
from tallygate.v1 import subscription_pb2 as _subscription_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChangeTiming(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANGE_TIMING_UNSPECIFIED: _ClassVar[ChangeTiming]
    CHANGE_TIMING_NOW: _ClassVar[ChangeTiming]
    CHANGE_TIMING_PERIOD_END: _ClassVar[ChangeTiming]
    CHANGE_TIMING_AT_TIME: _ClassVar[ChangeTiming]
CHANGE_TIMING_UNSPECIFIED: ChangeTiming
CHANGE_TIMING_NOW: ChangeTiming
CHANGE_TIMING_PERIOD_END: ChangeTiming
CHANGE_TIMING_AT_TIME: ChangeTiming

class CreateSubscriptionRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "plan_key", "interval", "billing_provider", "payment_method_id", "quantity", "trial_days", "request_id", "currency_code", "start_time", "end_time", "metadata", "actor", "promotion_code")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    BILLING_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_METHOD_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    TRIAL_DAYS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_CODE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_CODE_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    plan_key: str
    interval: _catalog_pb2.BillingInterval
    billing_provider: _subscription_pb2.BillingProvider
    payment_method_id: str
    quantity: int
    trial_days: int
    request_id: str
    currency_code: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    metadata: _containers.ScalarMap[str, str]
    actor: str
    promotion_code: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., plan_key: _Optional[str] = ..., interval: _Optional[_Union[_catalog_pb2.BillingInterval, str]] = ..., billing_provider: _Optional[_Union[_subscription_pb2.BillingProvider, str]] = ..., payment_method_id: _Optional[str] = ..., quantity: _Optional[int] = ..., trial_days: _Optional[int] = ..., request_id: _Optional[str] = ..., currency_code: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., actor: _Optional[str] = ..., promotion_code: _Optional[str] = ...) -> None: ...

class CreateSubscriptionResponse(_message.Message):
    __slots__ = ("subscription", "revision", "replayed", "payment_client_secret", "hosted_invoice_url")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    HOSTED_INVOICE_URL_FIELD_NUMBER: _ClassVar[int]
    subscription: _subscription_pb2.Subscription
    revision: int
    replayed: bool
    payment_client_secret: str
    hosted_invoice_url: str
    def __init__(self, subscription: _Optional[_Union[_subscription_pb2.Subscription, _Mapping]] = ..., revision: _Optional[int] = ..., replayed: _Optional[bool] = ..., payment_client_secret: _Optional[str] = ..., hosted_invoice_url: _Optional[str] = ...) -> None: ...

class GetSubscriptionRequest(_message.Message):
    __slots__ = ("tenant_id", "subscription_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subscription_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., subscription_id: _Optional[str] = ...) -> None: ...

class GetSubscriptionResponse(_message.Message):
    __slots__ = ("subscription",)
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    subscription: _subscription_pb2.Subscription
    def __init__(self, subscription: _Optional[_Union[_subscription_pb2.Subscription, _Mapping]] = ...) -> None: ...

class ListSubscriptionsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "states", "plan_key", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    states: _containers.RepeatedScalarFieldContainer[_subscription_pb2.SubscriptionState]
    plan_key: str
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_subscription_pb2.SubscriptionState, str]]] = ..., plan_key: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSubscriptionsResponse(_message.Message):
    __slots__ = ("subscriptions", "next_page_token")
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    subscriptions: _containers.RepeatedCompositeFieldContainer[_subscription_pb2.Subscription]
    next_page_token: str
    def __init__(self, subscriptions: _Optional[_Iterable[_Union[_subscription_pb2.Subscription, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ChangePlanRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "subscription_id", "plan_key", "interval", "quantity", "timing", "effective_time", "billing_provider", "payment_method_id", "preview_time", "request_id", "reason_text", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    BILLING_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_METHOD_ID_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_TIME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    subscription_id: str
    plan_key: str
    interval: _catalog_pb2.BillingInterval
    quantity: int
    timing: ChangeTiming
    effective_time: _timestamp_pb2.Timestamp
    billing_provider: _subscription_pb2.BillingProvider
    payment_method_id: str
    preview_time: _timestamp_pb2.Timestamp
    request_id: str
    reason_text: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., plan_key: _Optional[str] = ..., interval: _Optional[_Union[_catalog_pb2.BillingInterval, str]] = ..., quantity: _Optional[int] = ..., timing: _Optional[_Union[ChangeTiming, str]] = ..., effective_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., billing_provider: _Optional[_Union[_subscription_pb2.BillingProvider, str]] = ..., payment_method_id: _Optional[str] = ..., preview_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ChangePlanResponse(_message.Message):
    __slots__ = ("subscription", "revision", "replayed", "payment_client_secret")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    subscription: _subscription_pb2.Subscription
    revision: int
    replayed: bool
    payment_client_secret: str
    def __init__(self, subscription: _Optional[_Union[_subscription_pb2.Subscription, _Mapping]] = ..., revision: _Optional[int] = ..., replayed: _Optional[bool] = ..., payment_client_secret: _Optional[str] = ...) -> None: ...

class CancelSubscriptionRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "subscription_id", "timing", "effective_time", "reason_text", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    subscription_id: str
    timing: ChangeTiming
    effective_time: _timestamp_pb2.Timestamp
    reason_text: str
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., timing: _Optional[_Union[ChangeTiming, str]] = ..., effective_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason_text: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CancelSubscriptionResponse(_message.Message):
    __slots__ = ("subscription", "revision", "replayed")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    subscription: _subscription_pb2.Subscription
    revision: int
    replayed: bool
    def __init__(self, subscription: _Optional[_Union[_subscription_pb2.Subscription, _Mapping]] = ..., revision: _Optional[int] = ..., replayed: _Optional[bool] = ...) -> None: ...

class ResumeSubscriptionRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "subscription_id", "request_id", "reason_text", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    subscription_id: str
    request_id: str
    reason_text: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., request_id: _Optional[str] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ResumeSubscriptionResponse(_message.Message):
    __slots__ = ("subscription", "revision", "replayed")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    subscription: _subscription_pb2.Subscription
    revision: int
    replayed: bool
    def __init__(self, subscription: _Optional[_Union[_subscription_pb2.Subscription, _Mapping]] = ..., revision: _Optional[int] = ..., replayed: _Optional[bool] = ...) -> None: ...
