from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_UNSPECIFIED: _ClassVar[Decision]
    DECISION_ALLOWED: _ClassVar[Decision]
    DECISION_DENIED: _ClassVar[Decision]

class DecisionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_REASON_UNSPECIFIED: _ClassVar[DecisionReason]
    DECISION_REASON_OK: _ClassVar[DecisionReason]
    DECISION_REASON_UNLIMITED: _ClassVar[DecisionReason]
    DECISION_REASON_IN_GRACE: _ClassVar[DecisionReason]
    DECISION_REASON_OVERAGE: _ClassVar[DecisionReason]
    DECISION_REASON_UNKNOWN_FEATURE: _ClassVar[DecisionReason]
    DECISION_REASON_ACCOUNT_NOT_FOUND: _ClassVar[DecisionReason]
    DECISION_REASON_ACCOUNT_SUSPENDED: _ClassVar[DecisionReason]
    DECISION_REASON_ACCOUNT_DELETED: _ClassVar[DecisionReason]
    DECISION_REASON_NO_ENTITLEMENT: _ClassVar[DecisionReason]
    DECISION_REASON_FEATURE_DISABLED: _ClassVar[DecisionReason]
    DECISION_REASON_SUBSCRIPTION_INACTIVE: _ClassVar[DecisionReason]
    DECISION_REASON_EXHAUSTED: _ClassVar[DecisionReason]
    DECISION_REASON_ATOMIC_BATCH: _ClassVar[DecisionReason]
    DECISION_REASON_BELOW_ZERO: _ClassVar[DecisionReason]

class FeatureKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_KIND_UNSPECIFIED: _ClassVar[FeatureKind]
    FEATURE_KIND_BOOLEAN: _ClassVar[FeatureKind]
    FEATURE_KIND_CONFIG: _ClassVar[FeatureKind]
    FEATURE_KIND_COUNTER: _ClassVar[FeatureKind]
    FEATURE_KIND_GAUGE: _ClassVar[FeatureKind]

class FailureMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_MODE_UNSPECIFIED: _ClassVar[FailureMode]
    FAILURE_MODE_OPEN: _ClassVar[FailureMode]
    FAILURE_MODE_CLOSED: _ClassVar[FailureMode]
DECISION_UNSPECIFIED: Decision
DECISION_ALLOWED: Decision
DECISION_DENIED: Decision
DECISION_REASON_UNSPECIFIED: DecisionReason
DECISION_REASON_OK: DecisionReason
DECISION_REASON_UNLIMITED: DecisionReason
DECISION_REASON_IN_GRACE: DecisionReason
DECISION_REASON_OVERAGE: DecisionReason
DECISION_REASON_UNKNOWN_FEATURE: DecisionReason
DECISION_REASON_ACCOUNT_NOT_FOUND: DecisionReason
DECISION_REASON_ACCOUNT_SUSPENDED: DecisionReason
DECISION_REASON_ACCOUNT_DELETED: DecisionReason
DECISION_REASON_NO_ENTITLEMENT: DecisionReason
DECISION_REASON_FEATURE_DISABLED: DecisionReason
DECISION_REASON_SUBSCRIPTION_INACTIVE: DecisionReason
DECISION_REASON_EXHAUSTED: DecisionReason
DECISION_REASON_ATOMIC_BATCH: DecisionReason
DECISION_REASON_BELOW_ZERO: DecisionReason
FEATURE_KIND_UNSPECIFIED: FeatureKind
FEATURE_KIND_BOOLEAN: FeatureKind
FEATURE_KIND_CONFIG: FeatureKind
FEATURE_KIND_COUNTER: FeatureKind
FEATURE_KIND_GAUGE: FeatureKind
FAILURE_MODE_UNSPECIFIED: FailureMode
FAILURE_MODE_OPEN: FailureMode
FAILURE_MODE_CLOSED: FailureMode
