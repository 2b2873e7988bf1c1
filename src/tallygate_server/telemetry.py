"""Every metric, defined once, and the set-up of logging.

Metrics on the path of a call are plain integers in dictionaries, at about 0.1 us an update, and become Prometheus
samples only when somebody scrapes. One process has one registry: servers that share a process share it.

No label ever holds a tenant, an account or anything else a caller can invent: the number of series is bounded by the
code alone.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, Literal

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from structlog.typing import EventDict, WrappedLogger

from tallygate_server.domain.call import CheckAnswer, IncrementAnswer
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.entitlement import Reason
from tallygate_server.errors import TallygateError

MetricFamily = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

CALL_SECONDS: Final = (
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
"""Upper bounds of duration buckets: fine below ten milliseconds, where this service lives."""

BILLING_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)

JOB_SECONDS: Final = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0)

LIFECYCLE_JOB_SECONDS: Final = (0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0)

WEBHOOK_LAG_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 21_600.0)

COMMIT_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

BillingOutcome = Literal["done", "refused", "unavailable", "not_tried", "invalid", "canceled", "broken"]
"""How a call of the billing provider ended; `invalid`: its answer is not understood, `broken`: a defect of ours."""

METRICS_CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class Counts:
    """A counter with labels."""

    kind: ClassVar = "counter"
    __slots__ = ("_values", "description", "labels", "name")

    def __init__(self, name: str, description: str, *labels: str) -> None:
        """Define the metric; `_total` is appended to the name when it is shown."""
        self.name = name
        self.description = description
        self.labels = labels
        self._values: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def add(self, *labels: str, count: int = 1) -> None:
        """Count under the label values, given in the order of the definition."""
        self._values[labels] = self._values.get(labels, 0) + count

    def value(self, *labels: str) -> int:
        """Return what was counted under the label values."""
        return self._values.get(labels, 0)

    def family(self) -> MetricFamily:
        """Return the metric in Prometheus' terms."""
        family = CounterMetricFamily(self.name, self.description, labels=self.labels)
        for labels, value in list(self._values.items()):
            family.add_metric(labels, value)
        return family


class Tally(Counts):
    """A counter for the hot path: counts under raw keys, which become label values only when scraped."""

    __slots__ = ("_describe", "_raw")

    def __init__(self, name: str, description: str, *labels: str, describe: Callable[[Any], tuple[str, ...]]) -> None:
        """Define the metric; `describe` turns a key into label values."""
        super().__init__(name, description, *labels)
        self._describe = describe
        self._raw: defaultdict[Any, int] = defaultdict(int)

    def count_key(self, key: Any, count: int = 1) -> None:
        """Count under a key."""
        self._raw[key] += count

    def value(self, *labels: str) -> int:
        """Return what was counted under the label values."""
        return sum(count for key, count in self._raw.items() if self._describe(key) == labels)

    def family(self) -> MetricFamily:
        """Return the metric in Prometheus' terms."""
        self._values = {}
        for key, count in list(self._raw.items()):
            self.add(*self._describe(key), count=count)
        return super().family()


def _describe_check(key: tuple[FeatureKind | None, Reason]) -> tuple[str, ...]:
    kind, reason = key
    return (
        kind.value if kind is not None else "unknown",
        "allowed" if reason.allows else "denied",
        reason.name.lower(),
    )


def _describe_increment(key: Reason | str) -> tuple[str, ...]:
    return (key.name.lower() if isinstance(key, Reason) else key,)


class Distribution:
    """A histogram with labels."""

    kind: ClassVar = "histogram"
    __slots__ = ("_series", "bounds", "description", "labels", "name")

    def __init__(self, name: str, description: str, *labels: str, bounds: tuple[float, ...]) -> None:
        """Define the metric; one more bucket takes what exceeds the last bound."""
        self.name = name
        self.description = description
        self.labels = labels
        self.bounds = bounds
        self._series: dict[tuple[str, ...], list[float]] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Add one value under the label values."""
        series = self._series.get(labels)
        if series is None:
            # Buckets, not cumulated, the last one open-ended; then the sum.
            series = self._series[labels] = [0] * (len(self.bounds) + 2)
        series[bisect_left(self.bounds, value)] += 1
        series[-1] += value

    def count(self, *labels: str) -> int:
        """Return how many values were added under the label values."""
        return int(sum(self._series.get(labels, [0])[:-1]))

    def family(self) -> MetricFamily:
        """Return the metric in Prometheus' terms."""
        family = HistogramMetricFamily(self.name, self.description, labels=self.labels)
        for labels, series in list(self._series.items()):
            buckets: list[tuple[str, float]] = []
            total = 0.0
            for bound, count in zip((*self.bounds, float("inf")), series[:-1], strict=True):
                total += count
                buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
            family.add_metric(labels, buckets, sum_value=series[-1])
        return family


class Level:
    """A gauge that is read where the value lives, at the moment of the scrape."""

    kind: ClassVar = "gauge"
    __slots__ = ("_read", "description", "labels", "name")

    def __init__(self, name: str, description: str, *labels: str) -> None:
        """Define the metric; it is absent until somebody says how to read it."""
        self.name = name
        self.description = description
        self.labels = labels
        self._read: Callable[[], float | Mapping[tuple[str, ...], float]] | None = None

    def read_with(self, read: Callable[[], float | Mapping[tuple[str, ...], float]] | None) -> None:
        """Set (None: unset) the function that returns the value, or the values by label values."""
        self._read = read

    def family(self) -> MetricFamily:
        """Return the metric in Prometheus' terms."""
        family = GaugeMetricFamily(self.name, self.description, labels=self.labels)
        if self._read is not None:
            value = self._read()
            for labels, number in value.items() if isinstance(value, Mapping) else [((), value)]:
                family.add_metric(labels, number)
        return family


class Metrics(Collector):
    """All that Tallygate counts. Attributes are the metrics; methods translate from what happened."""

    def __init__(self) -> None:  # noqa: PLR0915 - one for each metric.
        """Define every metric."""
        # ---- calls, under the names that every gRPC dashboard knows
        self.calls_handled = Counts(
            "grpc_server_handled", "RPCs completed, by code.", "grpc_type", "grpc_service", "grpc_method", "grpc_code"
        )
        self.call_seconds = Distribution(
            "grpc_server_handling_seconds",
            "Time from the decoded request to the encoded answer.",
            "grpc_type",
            "grpc_service",
            "grpc_method",
            bounds=CALL_SECONDS,
        )
        # ---- decisions
        self.checks = Tally(
            "tallygate_check", "Checks answered.", "feature_kind", "decision", "reason", describe=_describe_check
        )
        self.check_errors = Counts("tallygate_check_error", "Checks that ended in an error.", "reason")
        self.stale_checks = Counts("tallygate_check_stale", "Checks answered while Postgres was away.")
        self.increments = Tally(
            "tallygate_increment",
            "Increments answered: the reason of the decision, `replayed`, or `error_` and the error's reason.",
            "result",
            describe=_describe_increment,
        )
        self.increments_committed = Counts(
            "tallygate_increment_committed",
            "Increments written to the ledger; an accepted one counts when it is written.",
        )
        self.reservations = Counts(
            "tallygate_reservation",
            "Calls on reservations answered: `allowed` or `denied`, `replayed`, or `error_` and the error's reason.",
            "action",
            "result",
        )
        self.reservations_expired = Counts(
            "tallygate_reservation_expired", "Reservations that were neither committed nor released in time."
        )
        self.accepted_refusals = Counts(
            "tallygate_accepted_refused", "Increments that were answered as ACCEPTED and that Postgres then refused."
        )
        self.denials_unrecorded = Counts(
            "tallygate_denial_unrecorded", "Denials without a request id that were dropped from the denial log."
        )
        self.usage_events = Counts(
            "tallygate_usage_event", "Usage events: `recorded`, `duplicate` or `refused`.", "outcome"
        )
        # ---- the hot path
        self.fallbacks = Counts(
            "tallygate_fallback", "Calls that left the fast path, by the path they took instead.", "path"
        )
        self.redis_seconds = Distribution(
            "tallygate_redis_seconds", "Round trip of one Redis batch.", "op", bounds=CALL_SECONDS
        )
        self.commit_seconds = Distribution(
            "tallygate_commit_seconds", "Duration of one group commit.", "path", bounds=CALL_SECONDS
        )
        self.commit_rows = Distribution(
            "tallygate_commit_rows", "Increments in one group commit.", "path", bounds=COMMIT_ROWS
        )
        self.account_loads = Counts(
            "tallygate_account_load", "Accounts loaded into the process, by where from.", "source"
        )
        self.holds_swept = Counts("tallygate_holds_swept", "Overdue holds that the sweeper ended.")
        self.commit_queue_depth = Level("tallygate_commit_queue_depth", "Increments waiting for a group commit.")
        self.calls_in_flight = Level("tallygate_calls_in_flight", "Increments between hold and answer.")
        self.snapshot_cache_size = Level("tallygate_snapshot_cache_size", "Accounts in the process's snapshot cache.")
        self.component_up = Level(
            "tallygate_component_up", "1 when the component answers, 0 when it does not.", "component"
        )
        # ---- billing
        self.subscription_syncs = Counts(
            "tallygate_subscription_sync",
            "Subscriptions of the billing provider looked at, by what became of them.",
            "outcome",
        )
        self.payments = Counts(
            "tallygate_payment",
            "Payments at the billing provider, by what became of them: `succeeded`, `failed`, `refunded`, `disputed`,"
            " `fraud_warning`.",
            "outcome",
        )
        self.reconciled = Counts(
            "tallygate_reconcile_difference",
            "Differences between the billing provider and us that a reconciliation found, by field.",
            "field",
            "outcome",
        )
        self.billing_operations = Counts(
            "tallygate_billing_operation",
            "Operations at the billing provider, by what became of an attempt; `left_pending` waits for a retry.",
            "kind",
            "outcome",
        )
        self.billing_calls = Counts(
            "tallygate_billing_provider_call",
            "Calls of the billing provider's methods; `not_tried` while the circuit is open.",
            "method",
            "outcome",
        )
        self.billing_seconds = Distribution(
            "tallygate_billing_provider_seconds",
            "Duration of a billing provider's method, with all its requests and tries.",
            "method",
            bounds=BILLING_SECONDS,
        )
        self.billing_breaker_state = Level(
            "tallygate_billing_provider_breaker_state",
            "Circuit breaker of the billing provider: 0 closed, 1 half-open, 2 open.",
        )
        # ---- webhooks
        self.webhooks_received = Counts(
            "tallygate_webhook_received",
            "Genuine webhooks: `stored`, `ignored` for a type that nothing follows from, or `duplicate`.",
            "source",
            "outcome",
        )
        self.webhooks_refused = Counts(
            "tallygate_webhook_refused",
            "Webhooks that were not stored, by the rule of the signature that they break, else `payload` or `tenant`.",
            "source",
            "rule",
        )
        self.webhooks_processed = Counts(
            "tallygate_webhook_processed",
            "Attempts to process a webhook that ended: `processed`, `ignored`, `retrying` or `dead`.",
            "source",
            "outcome",
        )
        self.webhook_lag_seconds = Distribution(
            "tallygate_webhook_lag_seconds",
            "Time from a webhook's first receipt until it is processed.",
            "source",
            bounds=WEBHOOK_LAG_SECONDS,
        )
        self.webhook_version_mismatches = Counts(
            "tallygate_webhook_version_mismatch",
            "Webhooks written in another version of the source's interface than this release is built for.",
            "source",
        )
        self.webhook_backlog = Level(
            "tallygate_webhook_backlog",
            "Webhooks that wait (`pending`), are to be attempted again (`retrying`), or failed too often (`dead`).",
            "state",
        )
        # ---- rollups
        self.rollup_rows = Counts(
            "tallygate_rollup_rows",
            "What went into rollups: `entries` of the ledger, or readings and costs of recorded `events`.",
            "source",
        )
        # ---- events for tenants
        self.events_published = Counts(
            "tallygate_event_published",
            "Events published, by type; `internal` for those that tenants are not told.",
            "type",
        )
        self.event_lag_seconds = Level(
            "tallygate_event_lag_seconds", "Age of the oldest event that waits to be published, as last looked at."
        )
        self.entitlement_watchers = Level(
            "tallygate_entitlement_watchers", "Watches of accounts' entitlements that are open."
        )
        self.event_watchers = Level("tallygate_event_watchers", "Watches of events that are open.")
        self.deliveries = Counts(
            "tallygate_event_delivery",
            "Attempts to deliver an event to an endpoint that ended: `delivered`, `retrying` or `failed`.",
            "outcome",
        )
        self.deliveries_pending = Level(
            "tallygate_event_delivery_pending", "Deliveries that wait for an endpoint, as last counted."
        )
        self.deliveries_under_way = Level(
            "tallygate_event_delivery_under_way", "Attempts to deliver that are under way."
        )
        self.endpoints_disabled = Counts(
            "tallygate_event_endpoint_disabled", "Endpoints that were disabled because deliveries failed."
        )
        # ---- running it
        self.jobs = Counts("tallygate_job_runs", "Runs of background jobs.", "job", "outcome")
        self.job_seconds = Distribution(
            "tallygate_job_seconds", "Duration of a background job's run.", "job", bounds=JOB_SECONDS
        )
        self.lifecycle_jobs = Counts(
            "tallygate_lifecycle_job_runs", "Attempts of jobs on stored data that ended.", "kind", "outcome"
        )
        self.lifecycle_job_seconds = Distribution(
            "tallygate_lifecycle_job_seconds",
            "Duration of an attempt of a job on stored data.",
            "kind",
            bounds=LIFECYCLE_JOB_SECONDS,
        )
        self.stored_bytes = Level("tallygate_stored_bytes", "Bytes of stored data, of all tenants.", "tier")
        self.stored_records = Level("tallygate_stored_records", "Records of stored data, of all tenants.", "tier")
        self.storage_cost = Level(
            "tallygate_storage_cost",
            "What stored data costs in a month at the prices in the settings, in the currency's major unit.",
            "tier",
            "currency",
        )
        self.retrieval_seconds = Level(
            "tallygate_retrieval_seconds", "How long data of a tier takes to be read, as the settings say.", "tier"
        )
        self.segments_quarantined = Level(
            "tallygate_segments_quarantined", "Damaged segments that wait for a decision, of all tenants."
        )
        self.own_data_moved = Counts(
            "tallygate_own_data", "What keeping our own data small moved, removed or left where it was.", "step", "what"
        )
        self.embedded_restarts = Counts(
            "tallygate_embedded_restarts", "Restarts of an embedded server that died.", "server"
        )
        self.build_info = Level("tallygate_build_info", "1, labelled with what is running.", "version", "transport")
        self._streaming_methods: set[str] = set()
        self._call_labels: dict[tuple[str, str], tuple[str, str, str, str]] = {}

    # -------------------------------------------------------------- what happened

    def call(self, method: str, code: str, seconds: float, /) -> None:
        """Count a finished RPC: full method name (`/package.Service/Method`), gRPC code name, duration."""
        labels = self._call_labels.get((method, code))
        if labels is None:
            service, _, name = method.removeprefix("/").partition("/")
            grpc_type = "server_stream" if method in self._streaming_methods else "unary"
            # As bounded as methods and codes are.
            labels = self._call_labels[method, code] = (grpc_type, service, name, code)
        self.calls_handled.add(*labels)
        self.call_seconds.observe(seconds, *labels[:3])

    def declare_streaming(self, methods: Iterable[str]) -> None:
        """Name the RPCs that answer with a stream, so that they are labelled as such."""
        self._streaming_methods.update(methods)

    def check(self, outcome: CheckAnswer | TallygateError, checks: int = 1) -> None:
        """Count checks that got this answer or error."""
        if isinstance(outcome, TallygateError):
            self.check_errors.add(outcome.reason.lower(), count=checks)
            return
        self.checks.count_key((outcome.feature_kind, outcome.reason), checks)
        if outcome.stale:
            self.stale_checks.add(count=checks)

    def increment(self, outcome: IncrementAnswer | TallygateError) -> None:
        """Count an increment's answer or error."""
        if isinstance(outcome, TallygateError):
            self.increments.count_key(f"error_{outcome.reason.lower()}")
        elif outcome.replayed:
            self.increments.count_key("replayed")
        else:
            self.increments.count_key(outcome.reason)

    def commit(self, path: Literal["fast", "exact"], rows: int, seconds: float) -> None:
        """Count one group commit."""
        self.increments_committed.add(count=rows)
        self.commit_rows.observe(rows, path)
        self.commit_seconds.observe(seconds, path)

    def reservation(self, action: str, result: str) -> None:
        """Count the answer of a call on a reservation."""
        self.reservations.add(action, result)

    def reservation_batch(self, calls: int, seconds: float) -> None:
        """Count one transaction of reservations."""
        self.commit_rows.observe(calls, "reservations")
        self.commit_seconds.observe(seconds, "reservations")

    def reservation_expired(self, count: int) -> None:
        """Count reservations that ended by themselves."""
        self.reservations_expired.add(count=count)

    def fallback(self, path: str, count: int = 1) -> None:
        """Count calls that left the fast path."""
        self.fallbacks.add(path, count=count)

    def denial_unrecorded(self) -> None:
        """Count a denial that was dropped from the denial log."""
        self.denials_unrecorded.add()

    def accepted_refused(self) -> None:
        """Count an accepted increment that Postgres refused."""
        self.accepted_refusals.add()

    def redis(self, operation: str, seconds: float) -> None:
        """Count one Redis round trip."""
        self.redis_seconds.observe(seconds, operation)

    def account_load(self, source: Literal["redis", "postgres"], count: int = 1) -> None:
        """Count accounts loaded into the process."""
        self.account_loads.add(source, count=count)

    def hold_swept(self, count: int = 1) -> None:
        """Count overdue holds that the sweeper ended."""
        self.holds_swept.add(count=count)

    def rolled_up(self, source: str, rows: int) -> None:
        """Count rows that went into rollups."""
        self.rollup_rows.add(source, count=rows)

    def job(self, name: str, outcome: Literal["succeeded", "failed", "skipped"], seconds: float) -> None:
        """Count one run of a background job."""
        self.jobs.add(name, outcome)
        self.job_seconds.observe(seconds, name)

    def lifecycle_job(self, kind: str, outcome: str, seconds: float) -> None:
        """Count one attempt of a job on stored data: how it ended, and how long it took."""
        self.lifecycle_jobs.add(kind, outcome)
        self.lifecycle_job_seconds.observe(seconds, kind)

    def own_data(self, step: str, counts: Mapping[str, int]) -> None:
        """Count what a step on our own data did."""
        for what, count in counts.items():
            self.own_data_moved.add(step, what, count=count)

    def billing_call(self, method: str, outcome: BillingOutcome, seconds: float) -> None:
        """Count one call of a method of the billing provider's."""
        self.billing_calls.add(method, outcome)
        if outcome != "not_tried":
            self.billing_seconds.observe(seconds, method)

    def embedded_restart(self, server: Literal["postgres", "redis"]) -> None:
        """Count a restart of an embedded server."""
        self.embedded_restarts.add(server)

    def webhook_received(self, source: str, outcome: Literal["stored", "ignored", "duplicate"]) -> None:
        """Count a genuine webhook."""
        self.webhooks_received.add(source, outcome)

    def webhook_refused(self, source: str, rule: str) -> None:
        """Count a webhook that was not stored."""
        self.webhooks_refused.add(source, rule)

    def webhook_processed(self, source: str, outcome: str) -> None:
        """Count an attempt that ended, by the state that it left the webhook in."""
        self.webhooks_processed.add(source, outcome)

    def webhook_lag(self, source: str, seconds: float) -> None:
        """Add the time from receipt until processed."""
        self.webhook_lag_seconds.observe(seconds, source)

    def webhook_version_mismatch(self, source: str) -> None:
        """Count a webhook of another version."""
        self.webhook_version_mismatches.add(source)

    def event_published(self, public_type: str | None) -> None:
        """Count an event that was published; its type is one of a table of ours, None for internal ones."""
        self.events_published.add(public_type or "internal")

    def delivery(self, outcome: str) -> None:
        """Count an attempt to deliver that ended."""
        self.deliveries.add(outcome)

    def endpoint_disabled(self) -> None:
        """Count an endpoint that was disabled because deliveries failed."""
        self.endpoints_disabled.add()

    # -------------------------------------------------------------- what a scrape sees

    def definitions(self) -> Iterator[Counts | Distribution | Level]:
        """Go through all metrics, in the order of their definition."""
        for value in vars(self).values():
            if isinstance(value, Counts | Distribution | Level):
                yield value

    def collect(self) -> Iterator[MetricFamily]:
        """Yield every metric as it stands."""
        for definition in self.definitions():
            yield definition.family()


metrics = Metrics()
"""The process's metrics."""

_registry = CollectorRegistry(auto_describe=False)
_registry.register(metrics)
# Memory, processor time and open files under the usual `process_` names.
ProcessCollector(registry=_registry)


def render_metrics() -> bytes:
    """Return all metrics in the OpenMetrics text format, whose media type is METRICS_CONTENT_TYPE."""
    text: bytes = generate_latest(_registry)  # type: ignore[no-untyped-call]  # The library left it bare.
    return text


def render_metrics_table() -> str:
    """Return the table of all metrics for the documentation, in Markdown."""
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for definition in metrics.definitions():
        suffix = "_total" if isinstance(definition, Counts) else ""
        labels = ", ".join(f"`{label}`" for label in definition.labels) or "-"
        rows.append(f"| `{definition.name}{suffix}` | {definition.kind} | {labels} | {definition.description} |")
    return "\n".join(rows) + "\n"


# ------------------------------------------------------------------ logging

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]

LOGGED_KEYS: Final = frozenset(
    {
        "account_id", "accounts", "action", "address", "answer", "attempt", "calls", "chunks", "code", "component",
        "counters", "dataset_id", "denials", "differences", "directory", "duration_ms", "epoch", "error", "event",
        "event_id", "exception", "exit_status", "features", "file", "holds", "host", "incident_id", "job", "job_id",
        "kind", "level", "logger", "method", "outcome", "path", "pid", "pids", "plan_key", "plans", "port",
        "reason", "receipt_id", "repaired", "request_id", "restarts", "revision", "role", "rows", "rule", "script",
        "seconds", "segment_id", "server", "server_id", "signal", "source", "stack", "state", "tenant_id",
        "timestamp", "transport", "url", "version", "why",
    }
)  # fmt: skip
"""Keys whose text may appear in a log line; text under any other key is withheld.

A list of what is allowed fails safe where one of what is forbidden would not: a new key shows nothing until somebody
has thought about it here. Numbers and booleans always pass.
"""

WITHHELD: Final = "[withheld]"

_SECRETS: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+]*://)[^/@\s]*@"
    r"|\b(?:sk|rk|pk)_(?:live|test)_\w+"
    r"|\bwhsec_\w+"
    r"|\bBearer\s+\S+",
    re.IGNORECASE,
)


def mask_secrets(text: str) -> str:
    """Replace credentials in addresses, Stripe keys, webhook secrets and bearer tokens inside a text."""
    return _SECRETS.sub(lambda match: f"{match['scheme']}[secret]@" if match["scheme"] else "[secret]", text)


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep what may be shown: allowed keys, without secrets, and with account ids that only name themselves."""
    for key, value in event.items():
        if isinstance(value, bool | int | float) or value is None:
            continue
        if key not in LOGGED_KEYS and not key.startswith("_"):
            event[key] = WITHHELD
        elif key == "account_id":
            # Callers choose account ids, and some choose e-mail addresses.
            event[key] = hashlib.blake2b(str(value).encode(), digest_size=6).hexdigest()
        elif isinstance(value, str):
            event[key] = mask_secrets(value)
        elif isinstance(value, BaseException):
            event[key] = mask_secrets(repr(value))
    return event


def configure_logging(*, level: LogLevel, log_format: LogFormat) -> None:
    """Send our log and that of the libraries to standard error, one line an event, in one format."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    renderer = (
        structlog.processors.JSONRenderer(default=str)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, _redact, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries talk too much below this.
    root.setLevel(max(number, logging.WARNING))
