import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tallygate.v1 import account_pb2 as _account_pb2
from tallygate.v1 import catalog_pb2 as _catalog_pb2
from tallygate.v1 import money_pb2 as _money_pb2
from tallygate.v1 import period_pb2 as _period_pb2
from tallygate.v1 import usage_pb2 as _usage_pb2
from tallygate.v1 import webhook_pb2 as _webhook_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HealthState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEALTH_STATE_UNSPECIFIED: _ClassVar[HealthState]
    HEALTH_STATE_HEALTHY: _ClassVar[HealthState]
    HEALTH_STATE_DEGRADED: _ClassVar[HealthState]
    HEALTH_STATE_DOWN: _ClassVar[HealthState]
    HEALTH_STATE_ABSENT: _ClassVar[HealthState]

class JobRunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_RUN_STATE_UNSPECIFIED: _ClassVar[JobRunState]
    JOB_RUN_STATE_RUNNING: _ClassVar[JobRunState]
    JOB_RUN_STATE_SUCCEEDED: _ClassVar[JobRunState]
    JOB_RUN_STATE_FAILED: _ClassVar[JobRunState]
    JOB_RUN_STATE_LOST: _ClassVar[JobRunState]

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_INFO: _ClassVar[Severity]
    SEVERITY_WARNING: _ClassVar[Severity]
    SEVERITY_ERROR: _ClassVar[Severity]
    SEVERITY_CRITICAL: _ClassVar[Severity]

class AlertState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALERT_STATE_UNSPECIFIED: _ClassVar[AlertState]
    ALERT_STATE_OPEN: _ClassVar[AlertState]
    ALERT_STATE_ACKNOWLEDGED: _ClassVar[AlertState]
    ALERT_STATE_RESOLVED: _ClassVar[AlertState]

class IncidentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INCIDENT_STATE_UNSPECIFIED: _ClassVar[IncidentState]
    INCIDENT_STATE_OPEN: _ClassVar[IncidentState]
    INCIDENT_STATE_INVESTIGATING: _ClassVar[IncidentState]
    INCIDENT_STATE_MITIGATED: _ClassVar[IncidentState]
    INCIDENT_STATE_RESOLVED: _ClassVar[IncidentState]

class ReportKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPORT_KIND_UNSPECIFIED: _ClassVar[ReportKind]
    REPORT_KIND_ACCOUNTS: _ClassVar[ReportKind]
    REPORT_KIND_SUBSCRIPTIONS: _ClassVar[ReportKind]
    REPORT_KIND_REVENUE: _ClassVar[ReportKind]
    REPORT_KIND_USAGE: _ClassVar[ReportKind]
    REPORT_KIND_OPERATION: _ClassVar[ReportKind]

class AccountProblemKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACCOUNT_PROBLEM_KIND_UNSPECIFIED: _ClassVar[AccountProblemKind]
    ACCOUNT_PROBLEM_KIND_PAYMENT_OVERDUE: _ClassVar[AccountProblemKind]
    ACCOUNT_PROBLEM_KIND_FREQUENT_DENIALS: _ClassVar[AccountProblemKind]
    ACCOUNT_PROBLEM_KIND_OVERDRAWN: _ClassVar[AccountProblemKind]
    ACCOUNT_PROBLEM_KIND_DRIFT: _ClassVar[AccountProblemKind]
    ACCOUNT_PROBLEM_KIND_DISPUTE: _ClassVar[AccountProblemKind]
    ACCOUNT_PROBLEM_KIND_UNUSUAL_USAGE: _ClassVar[AccountProblemKind]

class DifferencePlace(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIFFERENCE_PLACE_UNSPECIFIED: _ClassVar[DifferencePlace]
    DIFFERENCE_PLACE_COUNTER: _ClassVar[DifferencePlace]
    DIFFERENCE_PLACE_CACHED_COUNTER: _ClassVar[DifferencePlace]
    DIFFERENCE_PLACE_HOLDS: _ClassVar[DifferencePlace]
    DIFFERENCE_PLACE_SNAPSHOT: _ClassVar[DifferencePlace]
    DIFFERENCE_PLACE_SUBSCRIPTION: _ClassVar[DifferencePlace]
    DIFFERENCE_PLACE_ROLLUP: _ClassVar[DifferencePlace]
HEALTH_STATE_UNSPECIFIED: HealthState
HEALTH_STATE_HEALTHY: HealthState
HEALTH_STATE_DEGRADED: HealthState
HEALTH_STATE_DOWN: HealthState
HEALTH_STATE_ABSENT: HealthState
JOB_RUN_STATE_UNSPECIFIED: JobRunState
JOB_RUN_STATE_RUNNING: JobRunState
JOB_RUN_STATE_SUCCEEDED: JobRunState
JOB_RUN_STATE_FAILED: JobRunState
JOB_RUN_STATE_LOST: JobRunState
SEVERITY_UNSPECIFIED: Severity
SEVERITY_INFO: Severity
SEVERITY_WARNING: Severity
SEVERITY_ERROR: Severity
SEVERITY_CRITICAL: Severity
ALERT_STATE_UNSPECIFIED: AlertState
ALERT_STATE_OPEN: AlertState
ALERT_STATE_ACKNOWLEDGED: AlertState
ALERT_STATE_RESOLVED: AlertState
INCIDENT_STATE_UNSPECIFIED: IncidentState
INCIDENT_STATE_OPEN: IncidentState
INCIDENT_STATE_INVESTIGATING: IncidentState
INCIDENT_STATE_MITIGATED: IncidentState
INCIDENT_STATE_RESOLVED: IncidentState
REPORT_KIND_UNSPECIFIED: ReportKind
REPORT_KIND_ACCOUNTS: ReportKind
REPORT_KIND_SUBSCRIPTIONS: ReportKind
REPORT_KIND_REVENUE: ReportKind
REPORT_KIND_USAGE: ReportKind
REPORT_KIND_OPERATION: ReportKind
ACCOUNT_PROBLEM_KIND_UNSPECIFIED: AccountProblemKind
ACCOUNT_PROBLEM_KIND_PAYMENT_OVERDUE: AccountProblemKind
ACCOUNT_PROBLEM_KIND_FREQUENT_DENIALS: AccountProblemKind
ACCOUNT_PROBLEM_KIND_OVERDRAWN: AccountProblemKind
ACCOUNT_PROBLEM_KIND_DRIFT: AccountProblemKind
ACCOUNT_PROBLEM_KIND_DISPUTE: AccountProblemKind
ACCOUNT_PROBLEM_KIND_UNUSUAL_USAGE: AccountProblemKind
DIFFERENCE_PLACE_UNSPECIFIED: DifferencePlace
DIFFERENCE_PLACE_COUNTER: DifferencePlace
DIFFERENCE_PLACE_CACHED_COUNTER: DifferencePlace
DIFFERENCE_PLACE_HOLDS: DifferencePlace
DIFFERENCE_PLACE_SNAPSHOT: DifferencePlace
DIFFERENCE_PLACE_SUBSCRIPTION: DifferencePlace
DIFFERENCE_PLACE_ROLLUP: DifferencePlace

class GetHealthOverviewRequest(_message.Message):
    __slots__ = ("tenant_id",)
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    def __init__(self, tenant_id: _Optional[str] = ...) -> None: ...

class GetHealthOverviewResponse(_message.Message):
    __slots__ = ("state", "components", "server_version", "schema_version", "start_time", "account_count", "live_subscription_count", "recent_call_count", "recent_error_count", "open_alerts", "open_incidents", "failing_job_names", "dead_webhook_event_count")
    STATE_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_COUNT_FIELD_NUMBER: _ClassVar[int]
    LIVE_SUBSCRIPTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    RECENT_CALL_COUNT_FIELD_NUMBER: _ClassVar[int]
    RECENT_ERROR_COUNT_FIELD_NUMBER: _ClassVar[int]
    OPEN_ALERTS_FIELD_NUMBER: _ClassVar[int]
    OPEN_INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    FAILING_JOB_NAMES_FIELD_NUMBER: _ClassVar[int]
    DEAD_WEBHOOK_EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    state: HealthState
    components: _containers.RepeatedCompositeFieldContainer[ComponentHealth]
    server_version: str
    schema_version: str
    start_time: _timestamp_pb2.Timestamp
    account_count: int
    live_subscription_count: int
    recent_call_count: int
    recent_error_count: int
    open_alerts: _containers.RepeatedCompositeFieldContainer[Alert]
    open_incidents: _containers.RepeatedCompositeFieldContainer[Incident]
    failing_job_names: _containers.RepeatedScalarFieldContainer[str]
    dead_webhook_event_count: int
    def __init__(self, state: _Optional[_Union[HealthState, str]] = ..., components: _Optional[_Iterable[_Union[ComponentHealth, _Mapping]]] = ..., server_version: _Optional[str] = ..., schema_version: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., account_count: _Optional[int] = ..., live_subscription_count: _Optional[int] = ..., recent_call_count: _Optional[int] = ..., recent_error_count: _Optional[int] = ..., open_alerts: _Optional[_Iterable[_Union[Alert, _Mapping]]] = ..., open_incidents: _Optional[_Iterable[_Union[Incident, _Mapping]]] = ..., failing_job_names: _Optional[_Iterable[str]] = ..., dead_webhook_event_count: _Optional[int] = ...) -> None: ...

class ComponentHealth(_message.Message):
    __slots__ = ("name", "state", "detail", "latency", "check_time", "change_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    CHECK_TIME_FIELD_NUMBER: _ClassVar[int]
    CHANGE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: HealthState
    detail: str
    latency: _duration_pb2.Duration
    check_time: _timestamp_pb2.Timestamp
    change_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[HealthState, str]] = ..., detail: _Optional[str] = ..., latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., check_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., change_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListTenantsRequest(_message.Message):
    __slots__ = ("tenant_id", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTenantsResponse(_message.Message):
    __slots__ = ("tenants", "next_page_token")
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenants: _containers.RepeatedCompositeFieldContainer[_catalog_pb2.Tenant]
    next_page_token: str
    def __init__(self, tenants: _Optional[_Iterable[_Union[_catalog_pb2.Tenant, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("name", "description", "schedule", "paused", "next_run_time", "last_run")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    NEXT_RUN_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_RUN_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    schedule: str
    paused: bool
    next_run_time: _timestamp_pb2.Timestamp
    last_run: JobRun
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., schedule: _Optional[str] = ..., paused: _Optional[bool] = ..., next_run_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_run: _Optional[_Union[JobRun, _Mapping]] = ...) -> None: ...

class JobRun(_message.Message):
    __slots__ = ("run_id", "job_name", "state", "start_time", "end_time", "examined_count", "changed_count", "failed_count", "findings", "error_text", "runner", "actor")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    EXAMINED_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILED_COUNT_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    ERROR_TEXT_FIELD_NUMBER: _ClassVar[int]
    RUNNER_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    job_name: str
    state: JobRunState
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    examined_count: int
    changed_count: int
    failed_count: int
    findings: _struct_pb2.Struct
    error_text: str
    runner: str
    actor: str
    def __init__(self, run_id: _Optional[str] = ..., job_name: _Optional[str] = ..., state: _Optional[_Union[JobRunState, str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., examined_count: _Optional[int] = ..., changed_count: _Optional[int] = ..., failed_count: _Optional[int] = ..., findings: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., error_text: _Optional[str] = ..., runner: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RunJobRequest(_message.Message):
    __slots__ = ("job_name", "tenant_id", "validate_only", "wait", "actor")
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    job_name: str
    tenant_id: str
    validate_only: bool
    wait: _duration_pb2.Duration
    actor: str
    def __init__(self, job_name: _Optional[str] = ..., tenant_id: _Optional[str] = ..., validate_only: _Optional[bool] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., actor: _Optional[str] = ...) -> None: ...

class RunJobResponse(_message.Message):
    __slots__ = ("run", "joined")
    RUN_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    run: JobRun
    joined: bool
    def __init__(self, run: _Optional[_Union[JobRun, _Mapping]] = ..., joined: _Optional[bool] = ...) -> None: ...

class SetJobScheduleRequest(_message.Message):
    __slots__ = ("job_name", "paused", "reason_text", "actor")
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    job_name: str
    paused: bool
    reason_text: str
    actor: str
    def __init__(self, job_name: _Optional[str] = ..., paused: _Optional[bool] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class SetJobScheduleResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class ListJobRunsRequest(_message.Message):
    __slots__ = ("job_name", "state", "page_size", "page_token")
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    job_name: str
    state: JobRunState
    page_size: int
    page_token: str
    def __init__(self, job_name: _Optional[str] = ..., state: _Optional[_Union[JobRunState, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListJobRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[JobRun]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[JobRun, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetJobRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class GetJobRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: JobRun
    def __init__(self, run: _Optional[_Union[JobRun, _Mapping]] = ...) -> None: ...

class AuditEntry(_message.Message):
    __slots__ = ("audit_entry_id", "tenant_id", "account_id", "actor", "action", "target_kind", "target_id", "reason_text", "difference_json", "error_reason", "request_id", "trace_id", "audit_time")
    AUDIT_ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TARGET_KIND_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    AUDIT_TIME_FIELD_NUMBER: _ClassVar[int]
    audit_entry_id: str
    tenant_id: str
    account_id: str
    actor: str
    action: str
    target_kind: str
    target_id: str
    reason_text: str
    difference_json: str
    error_reason: str
    request_id: str
    trace_id: str
    audit_time: _timestamp_pb2.Timestamp
    def __init__(self, audit_entry_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., actor: _Optional[str] = ..., action: _Optional[str] = ..., target_kind: _Optional[str] = ..., target_id: _Optional[str] = ..., reason_text: _Optional[str] = ..., difference_json: _Optional[str] = ..., error_reason: _Optional[str] = ..., request_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., audit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListAuditEntriesRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "actor", "action_prefix", "target_id", "start_time", "end_time", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ACTION_PREFIX_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    actor: str
    action_prefix: str
    target_id: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., actor: _Optional[str] = ..., action_prefix: _Optional[str] = ..., target_id: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAuditEntriesResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Alert(_message.Message):
    __slots__ = ("alert_id", "tenant_id", "kind", "severity", "state", "summary", "details", "occurrence_count", "first_time", "last_time", "incident_id", "actor", "silence_end_time")
    ALERT_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    OCCURRENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_TIME_FIELD_NUMBER: _ClassVar[int]
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    SILENCE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    alert_id: str
    tenant_id: str
    kind: str
    severity: Severity
    state: AlertState
    summary: str
    details: _struct_pb2.Struct
    occurrence_count: int
    first_time: _timestamp_pb2.Timestamp
    last_time: _timestamp_pb2.Timestamp
    incident_id: str
    actor: str
    silence_end_time: _timestamp_pb2.Timestamp
    def __init__(self, alert_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., kind: _Optional[str] = ..., severity: _Optional[_Union[Severity, str]] = ..., state: _Optional[_Union[AlertState, str]] = ..., summary: _Optional[str] = ..., details: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., occurrence_count: _Optional[int] = ..., first_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., incident_id: _Optional[str] = ..., actor: _Optional[str] = ..., silence_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListAlertsRequest(_message.Message):
    __slots__ = ("tenant_id", "state", "min_severity", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MIN_SEVERITY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    state: AlertState
    min_severity: Severity
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., state: _Optional[_Union[AlertState, str]] = ..., min_severity: _Optional[_Union[Severity, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAlertsResponse(_message.Message):
    __slots__ = ("alerts", "next_page_token")
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    alerts: _containers.RepeatedCompositeFieldContainer[Alert]
    next_page_token: str
    def __init__(self, alerts: _Optional[_Iterable[_Union[Alert, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateAlertRequest(_message.Message):
    __slots__ = ("alert_id", "state", "silence_end_time", "reason_text", "actor")
    ALERT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SILENCE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    alert_id: str
    state: AlertState
    silence_end_time: _timestamp_pb2.Timestamp
    reason_text: str
    actor: str
    def __init__(self, alert_id: _Optional[str] = ..., state: _Optional[_Union[AlertState, str]] = ..., silence_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason_text: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class UpdateAlertResponse(_message.Message):
    __slots__ = ("alert",)
    ALERT_FIELD_NUMBER: _ClassVar[int]
    alert: Alert
    def __init__(self, alert: _Optional[_Union[Alert, _Mapping]] = ...) -> None: ...

class Incident(_message.Message):
    __slots__ = ("incident_id", "tenant_id", "title", "severity", "state", "assignee", "alert_ids", "notes", "create_time", "resolve_time")
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ASSIGNEE_FIELD_NUMBER: _ClassVar[int]
    ALERT_IDS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    RESOLVE_TIME_FIELD_NUMBER: _ClassVar[int]
    incident_id: str
    tenant_id: str
    title: str
    severity: Severity
    state: IncidentState
    assignee: str
    alert_ids: _containers.RepeatedScalarFieldContainer[str]
    notes: _containers.RepeatedCompositeFieldContainer[IncidentNote]
    create_time: _timestamp_pb2.Timestamp
    resolve_time: _timestamp_pb2.Timestamp
    def __init__(self, incident_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., title: _Optional[str] = ..., severity: _Optional[_Union[Severity, str]] = ..., state: _Optional[_Union[IncidentState, str]] = ..., assignee: _Optional[str] = ..., alert_ids: _Optional[_Iterable[str]] = ..., notes: _Optional[_Iterable[_Union[IncidentNote, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., resolve_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class IncidentNote(_message.Message):
    __slots__ = ("text", "actor", "note_time")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    NOTE_TIME_FIELD_NUMBER: _ClassVar[int]
    text: str
    actor: str
    note_time: _timestamp_pb2.Timestamp
    def __init__(self, text: _Optional[str] = ..., actor: _Optional[str] = ..., note_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateIncidentRequest(_message.Message):
    __slots__ = ("tenant_id", "title", "severity", "assignee", "alert_ids", "note", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    ASSIGNEE_FIELD_NUMBER: _ClassVar[int]
    ALERT_IDS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    title: str
    severity: Severity
    assignee: str
    alert_ids: _containers.RepeatedScalarFieldContainer[str]
    note: str
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., title: _Optional[str] = ..., severity: _Optional[_Union[Severity, str]] = ..., assignee: _Optional[str] = ..., alert_ids: _Optional[_Iterable[str]] = ..., note: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CreateIncidentResponse(_message.Message):
    __slots__ = ("incident",)
    INCIDENT_FIELD_NUMBER: _ClassVar[int]
    incident: Incident
    def __init__(self, incident: _Optional[_Union[Incident, _Mapping]] = ...) -> None: ...

class UpdateIncidentRequest(_message.Message):
    __slots__ = ("incident_id", "state", "severity", "assignee", "note", "added_alert_ids", "actor")
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    ASSIGNEE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    ADDED_ALERT_IDS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    incident_id: str
    state: IncidentState
    severity: Severity
    assignee: str
    note: str
    added_alert_ids: _containers.RepeatedScalarFieldContainer[str]
    actor: str
    def __init__(self, incident_id: _Optional[str] = ..., state: _Optional[_Union[IncidentState, str]] = ..., severity: _Optional[_Union[Severity, str]] = ..., assignee: _Optional[str] = ..., note: _Optional[str] = ..., added_alert_ids: _Optional[_Iterable[str]] = ..., actor: _Optional[str] = ...) -> None: ...

class UpdateIncidentResponse(_message.Message):
    __slots__ = ("incident",)
    INCIDENT_FIELD_NUMBER: _ClassVar[int]
    incident: Incident
    def __init__(self, incident: _Optional[_Union[Incident, _Mapping]] = ...) -> None: ...

class ListIncidentsRequest(_message.Message):
    __slots__ = ("tenant_id", "state", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    state: IncidentState
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., state: _Optional[_Union[IncidentState, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListIncidentsResponse(_message.Message):
    __slots__ = ("incidents", "next_page_token")
    INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    incidents: _containers.RepeatedCompositeFieldContainer[Incident]
    next_page_token: str
    def __init__(self, incidents: _Optional[_Iterable[_Union[Incident, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetReportRequest(_message.Message):
    __slots__ = ("tenant_id", "kind", "start_time", "end_time", "window", "time_zone", "by_child_tenant", "by_plan")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    BY_CHILD_TENANT_FIELD_NUMBER: _ClassVar[int]
    BY_PLAN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    kind: ReportKind
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    window: _period_pb2.PeriodKind
    time_zone: str
    by_child_tenant: bool
    by_plan: bool
    def __init__(self, tenant_id: _Optional[str] = ..., kind: _Optional[_Union[ReportKind, str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., window: _Optional[_Union[_period_pb2.PeriodKind, str]] = ..., time_zone: _Optional[str] = ..., by_child_tenant: _Optional[bool] = ..., by_plan: _Optional[bool] = ...) -> None: ...

class GetReportResponse(_message.Message):
    __slots__ = ("rows", "compute_time")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_TIME_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[ReportRow]
    compute_time: _timestamp_pb2.Timestamp
    def __init__(self, rows: _Optional[_Iterable[_Union[ReportRow, _Mapping]]] = ..., compute_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ReportRow(_message.Message):
    __slots__ = ("window", "tenant_id", "plan_key", "metrics")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    window: _period_pb2.Period
    tenant_id: str
    plan_key: str
    metrics: _containers.RepeatedCompositeFieldContainer[ReportMetric]
    def __init__(self, window: _Optional[_Union[_period_pb2.Period, _Mapping]] = ..., tenant_id: _Optional[str] = ..., plan_key: _Optional[str] = ..., metrics: _Optional[_Iterable[_Union[ReportMetric, _Mapping]]] = ...) -> None: ...

class ReportMetric(_message.Message):
    __slots__ = ("name", "quantity", "money", "ratio", "duration")
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    MONEY_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    quantity: int
    money: _money_pb2.Money
    ratio: float
    duration: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., quantity: _Optional[int] = ..., money: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., ratio: _Optional[float] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ListProblemAccountsRequest(_message.Message):
    __slots__ = ("tenant_id", "kind", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    kind: AccountProblemKind
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., kind: _Optional[_Union[AccountProblemKind, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListProblemAccountsResponse(_message.Message):
    __slots__ = ("accounts", "next_page_token")
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    accounts: _containers.RepeatedCompositeFieldContainer[ProblemAccount]
    next_page_token: str
    def __init__(self, accounts: _Optional[_Iterable[_Union[ProblemAccount, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ProblemAccount(_message.Message):
    __slots__ = ("account", "problems")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    account: _account_pb2.Account
    problems: _containers.RepeatedCompositeFieldContainer[AccountProblem]
    def __init__(self, account: _Optional[_Union[_account_pb2.Account, _Mapping]] = ..., problems: _Optional[_Iterable[_Union[AccountProblem, _Mapping]]] = ...) -> None: ...

class AccountProblem(_message.Message):
    __slots__ = ("kind", "severity", "detail", "since_time")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    kind: AccountProblemKind
    severity: Severity
    detail: str
    since_time: _timestamp_pb2.Timestamp
    def __init__(self, kind: _Optional[_Union[AccountProblemKind, str]] = ..., severity: _Optional[_Union[Severity, str]] = ..., detail: _Optional[str] = ..., since_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ValidateEntitlementsRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "repair", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    repair: bool
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., repair: _Optional[bool] = ..., actor: _Optional[str] = ...) -> None: ...

class ValidateEntitlementsResponse(_message.Message):
    __slots__ = ("difference", "progress", "totals")
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    difference: EntitlementDifference
    progress: ValidationProgress
    totals: ValidationTotals
    def __init__(self, difference: _Optional[_Union[EntitlementDifference, _Mapping]] = ..., progress: _Optional[_Union[ValidationProgress, _Mapping]] = ..., totals: _Optional[_Union[ValidationTotals, _Mapping]] = ...) -> None: ...

class EntitlementDifference(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "place", "expected_json", "actual_json", "repaired")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_JSON_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_JSON_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    place: DifferencePlace
    expected_json: str
    actual_json: str
    repaired: bool
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., place: _Optional[_Union[DifferencePlace, str]] = ..., expected_json: _Optional[str] = ..., actual_json: _Optional[str] = ..., repaired: _Optional[bool] = ...) -> None: ...

class ValidationProgress(_message.Message):
    __slots__ = ("account_count", "account_count_total")
    ACCOUNT_COUNT_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_COUNT_TOTAL_FIELD_NUMBER: _ClassVar[int]
    account_count: int
    account_count_total: int
    def __init__(self, account_count: _Optional[int] = ..., account_count_total: _Optional[int] = ...) -> None: ...

class ValidationTotals(_message.Message):
    __slots__ = ("account_count", "counter_count", "entry_count", "difference_count", "repaired_count")
    ACCOUNT_COUNT_FIELD_NUMBER: _ClassVar[int]
    COUNTER_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_COUNT_FIELD_NUMBER: _ClassVar[int]
    account_count: int
    counter_count: int
    entry_count: int
    difference_count: int
    repaired_count: int
    def __init__(self, account_count: _Optional[int] = ..., counter_count: _Optional[int] = ..., entry_count: _Optional[int] = ..., difference_count: _Optional[int] = ..., repaired_count: _Optional[int] = ...) -> None: ...

class CorrectUsageRequest(_message.Message):
    __slots__ = ("tenant_id", "account_id", "feature_key", "quantity", "event_time", "reason_text", "request_id", "actor")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    account_id: str
    feature_key: str
    quantity: int
    event_time: _timestamp_pb2.Timestamp
    reason_text: str
    request_id: str
    actor: str
    def __init__(self, tenant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., feature_key: _Optional[str] = ..., quantity: _Optional[int] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason_text: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CorrectUsageResponse(_message.Message):
    __slots__ = ("entry", "quota", "replayed")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    entry: _usage_pb2.UsageEntry
    quota: _usage_pb2.Quota
    replayed: bool
    def __init__(self, entry: _Optional[_Union[_usage_pb2.UsageEntry, _Mapping]] = ..., quota: _Optional[_Union[_usage_pb2.Quota, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class ListWebhookEventsRequest(_message.Message):
    __slots__ = ("tenant_id", "source", "state", "event_type_prefix", "account_id", "start_time", "end_time", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    source: _webhook_pb2.WebhookSource
    state: _webhook_pb2.WebhookEventState
    event_type_prefix: str
    account_id: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., source: _Optional[_Union[_webhook_pb2.WebhookSource, str]] = ..., state: _Optional[_Union[_webhook_pb2.WebhookEventState, str]] = ..., event_type_prefix: _Optional[str] = ..., account_id: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListWebhookEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_webhook_pb2.WebhookEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[_webhook_pb2.WebhookEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetWebhookEventRequest(_message.Message):
    __slots__ = ("source", "event_id")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    source: _webhook_pb2.WebhookSource
    event_id: str
    def __init__(self, source: _Optional[_Union[_webhook_pb2.WebhookSource, str]] = ..., event_id: _Optional[str] = ...) -> None: ...

class GetWebhookEventResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: _webhook_pb2.WebhookEvent
    def __init__(self, event: _Optional[_Union[_webhook_pb2.WebhookEvent, _Mapping]] = ...) -> None: ...

class ReplayWebhookEventsRequest(_message.Message):
    __slots__ = ("source", "event_ids", "start_time", "end_time", "actor")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_IDS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    source: _webhook_pb2.WebhookSource
    event_ids: _containers.RepeatedScalarFieldContainer[str]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    actor: str
    def __init__(self, source: _Optional[_Union[_webhook_pb2.WebhookSource, str]] = ..., event_ids: _Optional[_Iterable[str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ...) -> None: ...

class ReplayWebhookEventsResponse(_message.Message):
    __slots__ = ("event_count",)
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    event_count: int
    def __init__(self, event_count: _Optional[int] = ...) -> None: ...
