from buf.validate import validate_pb2 as _validate_pb2
from tallygate.v1 import access_pb2 as _access_pb2
from tallygate.v1 import catalog_pb2 as _catalog_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CatalogChangeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CATALOG_CHANGE_KIND_UNSPECIFIED: _ClassVar[CatalogChangeKind]
    CATALOG_CHANGE_KIND_ADDED: _ClassVar[CatalogChangeKind]
    CATALOG_CHANGE_KIND_CHANGED: _ClassVar[CatalogChangeKind]
    CATALOG_CHANGE_KIND_REMOVED: _ClassVar[CatalogChangeKind]

class CatalogElement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CATALOG_ELEMENT_UNSPECIFIED: _ClassVar[CatalogElement]
    CATALOG_ELEMENT_TENANT: _ClassVar[CatalogElement]
    CATALOG_ELEMENT_FEATURE: _ClassVar[CatalogElement]
    CATALOG_ELEMENT_METER: _ClassVar[CatalogElement]
    CATALOG_ELEMENT_PLAN: _ClassVar[CatalogElement]
    CATALOG_ELEMENT_PRICE: _ClassVar[CatalogElement]
    CATALOG_ELEMENT_ALLOWANCE: _ClassVar[CatalogElement]
    CATALOG_ELEMENT_MODEL_PRICE: _ClassVar[CatalogElement]
CATALOG_CHANGE_KIND_UNSPECIFIED: CatalogChangeKind
CATALOG_CHANGE_KIND_ADDED: CatalogChangeKind
CATALOG_CHANGE_KIND_CHANGED: CatalogChangeKind
CATALOG_CHANGE_KIND_REMOVED: CatalogChangeKind
CATALOG_ELEMENT_UNSPECIFIED: CatalogElement
CATALOG_ELEMENT_TENANT: CatalogElement
CATALOG_ELEMENT_FEATURE: CatalogElement
CATALOG_ELEMENT_METER: CatalogElement
CATALOG_ELEMENT_PLAN: CatalogElement
CATALOG_ELEMENT_PRICE: CatalogElement
CATALOG_ELEMENT_ALLOWANCE: CatalogElement
CATALOG_ELEMENT_MODEL_PRICE: CatalogElement

class ApplyCatalogRequest(_message.Message):
    __slots__ = ("tenant_id", "yaml", "catalog", "validate_only", "actor", "expected_revision", "migrate_subscriptions")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    YAML_FIELD_NUMBER: _ClassVar[int]
    CATALOG_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    MIGRATE_SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    yaml: str
    catalog: _catalog_pb2.Catalog
    validate_only: bool
    actor: str
    expected_revision: int
    migrate_subscriptions: bool
    def __init__(self, tenant_id: _Optional[str] = ..., yaml: _Optional[str] = ..., catalog: _Optional[_Union[_catalog_pb2.Catalog, _Mapping]] = ..., validate_only: _Optional[bool] = ..., actor: _Optional[str] = ..., expected_revision: _Optional[int] = ..., migrate_subscriptions: _Optional[bool] = ...) -> None: ...

class ApplyCatalogResponse(_message.Message):
    __slots__ = ("changes", "affected_account_count", "affected_subscription_count", "catalog_revision", "applied", "tenant_id")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    AFFECTED_ACCOUNT_COUNT_FIELD_NUMBER: _ClassVar[int]
    AFFECTED_SUBSCRIPTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    CATALOG_REVISION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[CatalogChange]
    affected_account_count: int
    affected_subscription_count: int
    catalog_revision: int
    applied: bool
    tenant_id: str
    def __init__(self, changes: _Optional[_Iterable[_Union[CatalogChange, _Mapping]]] = ..., affected_account_count: _Optional[int] = ..., affected_subscription_count: _Optional[int] = ..., catalog_revision: _Optional[int] = ..., applied: _Optional[bool] = ..., tenant_id: _Optional[str] = ...) -> None: ...

class CatalogChange(_message.Message):
    __slots__ = ("tenant_id", "kind", "element", "key", "path", "before_json", "after_json", "affected_account_count", "affected_subscription_count", "restrictive")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BEFORE_JSON_FIELD_NUMBER: _ClassVar[int]
    AFTER_JSON_FIELD_NUMBER: _ClassVar[int]
    AFFECTED_ACCOUNT_COUNT_FIELD_NUMBER: _ClassVar[int]
    AFFECTED_SUBSCRIPTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    RESTRICTIVE_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    kind: CatalogChangeKind
    element: CatalogElement
    key: str
    path: str
    before_json: str
    after_json: str
    affected_account_count: int
    affected_subscription_count: int
    restrictive: bool
    def __init__(self, tenant_id: _Optional[str] = ..., kind: _Optional[_Union[CatalogChangeKind, str]] = ..., element: _Optional[_Union[CatalogElement, str]] = ..., key: _Optional[str] = ..., path: _Optional[str] = ..., before_json: _Optional[str] = ..., after_json: _Optional[str] = ..., affected_account_count: _Optional[int] = ..., affected_subscription_count: _Optional[int] = ..., restrictive: _Optional[bool] = ...) -> None: ...

class GetCatalogRequest(_message.Message):
    __slots__ = ("tenant_id", "revision")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    revision: int
    def __init__(self, tenant_id: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class GetCatalogResponse(_message.Message):
    __slots__ = ("catalog", "yaml")
    CATALOG_FIELD_NUMBER: _ClassVar[int]
    YAML_FIELD_NUMBER: _ClassVar[int]
    catalog: _catalog_pb2.Catalog
    yaml: str
    def __init__(self, catalog: _Optional[_Union[_catalog_pb2.Catalog, _Mapping]] = ..., yaml: _Optional[str] = ...) -> None: ...

class ListPlansRequest(_message.Message):
    __slots__ = ("tenant_id", "plan_key", "all_versions", "include_retired", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    ALL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_RETIRED_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    plan_key: str
    all_versions: bool
    include_retired: bool
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., plan_key: _Optional[str] = ..., all_versions: _Optional[bool] = ..., include_retired: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPlansResponse(_message.Message):
    __slots__ = ("plans", "next_page_token")
    PLANS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    plans: _containers.RepeatedCompositeFieldContainer[_catalog_pb2.Plan]
    next_page_token: str
    def __init__(self, plans: _Optional[_Iterable[_Union[_catalog_pb2.Plan, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListFeaturesRequest(_message.Message):
    __slots__ = ("tenant_id", "plan_key", "kind", "include_retired", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_RETIRED_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    plan_key: str
    kind: _access_pb2.FeatureKind
    include_retired: bool
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., plan_key: _Optional[str] = ..., kind: _Optional[_Union[_access_pb2.FeatureKind, str]] = ..., include_retired: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListFeaturesResponse(_message.Message):
    __slots__ = ("features", "next_page_token")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedCompositeFieldContainer[_catalog_pb2.Feature]
    next_page_token: str
    def __init__(self, features: _Optional[_Iterable[_Union[_catalog_pb2.Feature, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListMetersRequest(_message.Message):
    __slots__ = ("tenant_id", "include_retired", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_RETIRED_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    include_retired: bool
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., include_retired: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListMetersResponse(_message.Message):
    __slots__ = ("meters", "next_page_token")
    METERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    meters: _containers.RepeatedCompositeFieldContainer[_catalog_pb2.Meter]
    next_page_token: str
    def __init__(self, meters: _Optional[_Iterable[_Union[_catalog_pb2.Meter, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
