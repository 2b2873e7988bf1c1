import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tallygate.v1 import billing_pb2 as _billing_pb2
from tallygate.v1 import catalog_pb2 as _catalog_pb2
from tallygate.v1 import money_pb2 as _money_pb2
from tallygate.v1 import period_pb2 as _period_pb2
from tallygate.v1 import subscription_pb2 as _subscription_pb2
from tallygate.v1 import webhook_pb2 as _webhook_pb2
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

class PlanChangeDirection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLAN_CHANGE_DIRECTION_UNSPECIFIED: _ClassVar[PlanChangeDirection]
    PLAN_CHANGE_DIRECTION_UPGRADE: _ClassVar[PlanChangeDirection]
    PLAN_CHANGE_DIRECTION_DOWNGRADE: _ClassVar[PlanChangeDirection]
    PLAN_CHANGE_DIRECTION_LATERAL: _ClassVar[PlanChangeDirection]
CHANGE_TIMING_UNSPECIFIED: ChangeTiming
CHANGE_TIMING_NOW: ChangeTiming
CHANGE_TIMING_PERIOD_END: ChangeTiming
CHANGE_TIMING_AT_TIME: ChangeTiming
PLAN_CHANGE_DIRECTION_UNSPECIFIED: PlanChangeDirection
PLAN_CHANGE_DIRECTION_UPGRADE: PlanChangeDirection
PLAN_CHANGE_DIRECTION_DOWNGRADE: PlanChangeDirection
PLAN_CHANGE_DIRECTION_LATERAL: PlanChangeDirection

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

class PauseSubscriptionRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "subscription_id", "timing", "effective_time", "resume_time", "reason_text", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    RESUME_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    subscription_id: str
    timing: ChangeTiming
    effective_time: _timestamp_pb2.Timestamp
    resume_time: _timestamp_pb2.Timestamp
    reason_text: str
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., timing: _Optional[_Union[ChangeTiming, str]] = ..., effective_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., resume_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason_text: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class PauseSubscriptionResponse(_message.Message):
    __slots__ = ("subscription", "revision", "replayed")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    subscription: _subscription_pb2.Subscription
    revision: int
    replayed: bool
    def __init__(self, subscription: _Optional[_Union[_subscription_pb2.Subscription, _Mapping]] = ..., revision: _Optional[int] = ..., replayed: _Optional[bool] = ...) -> None: ...

class CancelScheduledChangeRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "subscription_id", "scheduled_change_id", "reason_text", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_CHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    subscription_id: str
    scheduled_change_id: str
    reason_text: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., scheduled_change_id: _Optional[str] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CancelScheduledChangeResponse(_message.Message):
    __slots__ = ("subscription", "revision")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    subscription: _subscription_pb2.Subscription
    revision: int
    def __init__(self, subscription: _Optional[_Union[_subscription_pb2.Subscription, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class PreviewPlanChangeRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "subscription_id", "plan_key", "interval", "quantity", "timing", "effective_time")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    subscription_id: str
    plan_key: str
    interval: _catalog_pb2.BillingInterval
    quantity: int
    timing: ChangeTiming
    effective_time: _timestamp_pb2.Timestamp
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., plan_key: _Optional[str] = ..., interval: _Optional[_Union[_catalog_pb2.BillingInterval, str]] = ..., quantity: _Optional[int] = ..., timing: _Optional[_Union[ChangeTiming, str]] = ..., effective_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PreviewPlanChangeResponse(_message.Message):
    __slots__ = ("direction", "effective_time", "present_price", "new_price", "due_now", "next_invoice", "proration_lines", "exceeded_limits", "lost_feature_keys", "gained_feature_keys", "preview_time")
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    PRESENT_PRICE_FIELD_NUMBER: _ClassVar[int]
    NEW_PRICE_FIELD_NUMBER: _ClassVar[int]
    DUE_NOW_FIELD_NUMBER: _ClassVar[int]
    NEXT_INVOICE_FIELD_NUMBER: _ClassVar[int]
    PRORATION_LINES_FIELD_NUMBER: _ClassVar[int]
    EXCEEDED_LIMITS_FIELD_NUMBER: _ClassVar[int]
    LOST_FEATURE_KEYS_FIELD_NUMBER: _ClassVar[int]
    GAINED_FEATURE_KEYS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_TIME_FIELD_NUMBER: _ClassVar[int]
    direction: PlanChangeDirection
    effective_time: _timestamp_pb2.Timestamp
    present_price: _money_pb2.Money
    new_price: _money_pb2.Money
    due_now: _money_pb2.Money
    next_invoice: _money_pb2.Money
    proration_lines: _containers.RepeatedCompositeFieldContainer[ProrationLine]
    exceeded_limits: _containers.RepeatedCompositeFieldContainer[ExceededLimit]
    lost_feature_keys: _containers.RepeatedScalarFieldContainer[str]
    gained_feature_keys: _containers.RepeatedScalarFieldContainer[str]
    preview_time: _timestamp_pb2.Timestamp
    def __init__(self, direction: _Optional[_Union[PlanChangeDirection, str]] = ..., effective_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., present_price: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., new_price: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., due_now: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., next_invoice: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., proration_lines: _Optional[_Iterable[_Union[ProrationLine, _Mapping]]] = ..., exceeded_limits: _Optional[_Iterable[_Union[ExceededLimit, _Mapping]]] = ..., lost_feature_keys: _Optional[_Iterable[str]] = ..., gained_feature_keys: _Optional[_Iterable[str]] = ..., preview_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ProrationLine(_message.Message):
    __slots__ = ("description", "amount", "period")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    description: str
    amount: _money_pb2.Money
    period: _period_pb2.Period
    def __init__(self, description: _Optional[str] = ..., amount: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., period: _Optional[_Union[_period_pb2.Period, _Mapping]] = ...) -> None: ...

class ExceededLimit(_message.Message):
    __slots__ = ("feature_key", "used_quantity", "limit_quantity", "excess_quantity")
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    USED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    EXCESS_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    feature_key: str
    used_quantity: int
    limit_quantity: int
    excess_quantity: int
    def __init__(self, feature_key: _Optional[str] = ..., used_quantity: _Optional[int] = ..., limit_quantity: _Optional[int] = ..., excess_quantity: _Optional[int] = ...) -> None: ...

class ListSubscriptionChangesRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "subscription_id", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    subscription_id: str
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSubscriptionChangesResponse(_message.Message):
    __slots__ = ("changes", "next_page_token")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[_subscription_pb2.SubscriptionChange]
    next_page_token: str
    def __init__(self, changes: _Optional[_Iterable[_Union[_subscription_pb2.SubscriptionChange, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateCheckoutSessionRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "plan_key", "interval", "quantity", "success_url", "cancel_url", "trial_days", "promotion_code", "currency_code", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_URL_FIELD_NUMBER: _ClassVar[int]
    CANCEL_URL_FIELD_NUMBER: _ClassVar[int]
    TRIAL_DAYS_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_CODE_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_CODE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    plan_key: str
    interval: _catalog_pb2.BillingInterval
    quantity: int
    success_url: str
    cancel_url: str
    trial_days: int
    promotion_code: str
    currency_code: str
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., plan_key: _Optional[str] = ..., interval: _Optional[_Union[_catalog_pb2.BillingInterval, str]] = ..., quantity: _Optional[int] = ..., success_url: _Optional[str] = ..., cancel_url: _Optional[str] = ..., trial_days: _Optional[int] = ..., promotion_code: _Optional[str] = ..., currency_code: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CreateCheckoutSessionResponse(_message.Message):
    __slots__ = ("url", "provider_session_id", "expire_time", "reused")
    URL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REUSED_FIELD_NUMBER: _ClassVar[int]
    url: str
    provider_session_id: str
    expire_time: _timestamp_pb2.Timestamp
    reused: bool
    def __init__(self, url: _Optional[str] = ..., provider_session_id: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reused: _Optional[bool] = ...) -> None: ...

class CreatePortalSessionRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "return_url")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    RETURN_URL_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    return_url: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., return_url: _Optional[str] = ...) -> None: ...

class CreatePortalSessionResponse(_message.Message):
    __slots__ = ("url",)
    URL_FIELD_NUMBER: _ClassVar[int]
    url: str
    def __init__(self, url: _Optional[str] = ...) -> None: ...

class ListCustomersRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCustomersResponse(_message.Message):
    __slots__ = ("customers", "next_page_token")
    CUSTOMERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    customers: _containers.RepeatedCompositeFieldContainer[_billing_pb2.Customer]
    next_page_token: str
    def __init__(self, customers: _Optional[_Iterable[_Union[_billing_pb2.Customer, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateCustomerRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "billing_provider", "email", "name", "default_payment_method_id", "tax_ids", "address", "metadata", "request_id", "actor")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    BILLING_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PAYMENT_METHOD_ID_FIELD_NUMBER: _ClassVar[int]
    TAX_IDS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    billing_provider: _subscription_pb2.BillingProvider
    email: str
    name: str
    default_payment_method_id: str
    tax_ids: _containers.RepeatedCompositeFieldContainer[_billing_pb2.TaxId]
    address: _billing_pb2.PostalAddress
    metadata: _containers.ScalarMap[str, str]
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., billing_provider: _Optional[_Union[_subscription_pb2.BillingProvider, str]] = ..., email: _Optional[str] = ..., name: _Optional[str] = ..., default_payment_method_id: _Optional[str] = ..., tax_ids: _Optional[_Iterable[_Union[_billing_pb2.TaxId, _Mapping]]] = ..., address: _Optional[_Union[_billing_pb2.PostalAddress, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class UpdateCustomerResponse(_message.Message):
    __slots__ = ("customer",)
    CUSTOMER_FIELD_NUMBER: _ClassVar[int]
    customer: _billing_pb2.Customer
    def __init__(self, customer: _Optional[_Union[_billing_pb2.Customer, _Mapping]] = ...) -> None: ...

class ListPaymentsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "subscription_id", "state", "start_time", "end_time", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    subscription_id: str
    state: _billing_pb2.PaymentState
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., state: _Optional[_Union[_billing_pb2.PaymentState, str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPaymentsResponse(_message.Message):
    __slots__ = ("payments", "next_page_token")
    PAYMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    payments: _containers.RepeatedCompositeFieldContainer[_billing_pb2.Payment]
    next_page_token: str
    def __init__(self, payments: _Optional[_Iterable[_Union[_billing_pb2.Payment, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListInvoicesRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "subscription_id", "state", "start_time", "end_time", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    subscription_id: str
    state: _billing_pb2.InvoiceState
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., state: _Optional[_Union[_billing_pb2.InvoiceState, str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListInvoicesResponse(_message.Message):
    __slots__ = ("invoices", "next_page_token")
    INVOICES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    invoices: _containers.RepeatedCompositeFieldContainer[_billing_pb2.Invoice]
    next_page_token: str
    def __init__(self, invoices: _Optional[_Iterable[_Union[_billing_pb2.Invoice, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class IngestWebhookRequest(_message.Message):
    __slots__ = ("tenant_id", "source", "payload", "headers")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    source: _webhook_pb2.WebhookSource
    payload: bytes
    headers: _containers.ScalarMap[str, str]
    def __init__(self, tenant_id: _Optional[str] = ..., source: _Optional[_Union[_webhook_pb2.WebhookSource, str]] = ..., payload: _Optional[bytes] = ..., headers: _Optional[_Mapping[str, str]] = ...) -> None: ...

class IngestWebhookResponse(_message.Message):
    __slots__ = ("event_id", "event_type", "duplicate", "known")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    event_type: str
    duplicate: bool
    known: bool
    def __init__(self, event_id: _Optional[str] = ..., event_type: _Optional[str] = ..., duplicate: _Optional[bool] = ..., known: _Optional[bool] = ...) -> None: ...

class ReconcileSubscriptionsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "changed_after_time", "validate_only", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AFTER_TIME_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    changed_after_time: _timestamp_pb2.Timestamp
    validate_only: bool
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., changed_after_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., validate_only: _Optional[bool] = ..., actor: _Optional[str] = ...) -> None: ...

class ReconcileSubscriptionsResponse(_message.Message):
    __slots__ = ("examined_count", "differences", "difference_count", "repaired_count")
    EXAMINED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_COUNT_FIELD_NUMBER: _ClassVar[int]
    examined_count: int
    differences: _containers.RepeatedCompositeFieldContainer[SubscriptionDifference]
    difference_count: int
    repaired_count: int
    def __init__(self, examined_count: _Optional[int] = ..., differences: _Optional[_Iterable[_Union[SubscriptionDifference, _Mapping]]] = ..., difference_count: _Optional[int] = ..., repaired_count: _Optional[int] = ...) -> None: ...

class SubscriptionDifference(_message.Message):
    __slots__ = ("account_id", "subscription_id", "provider_subscription_id", "field", "value_json", "provider_value_json", "repaired")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    subscription_id: str
    provider_subscription_id: str
    field: str
    value_json: str
    provider_value_json: str
    repaired: bool
    def __init__(self, account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., provider_subscription_id: _Optional[str] = ..., field: _Optional[str] = ..., value_json: _Optional[str] = ..., provider_value_json: _Optional[str] = ..., repaired: _Optional[bool] = ...) -> None: ...
