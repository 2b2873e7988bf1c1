"""Every table, as SQLAlchemy Core. Migrations create them; a test holds the two equal.

Each tenant table has `tenant_id` first in its primary key and indexes, so that row-level security is cheap
and the data can be distributed by tenant. Instants are `timestamptz`; money is in minor units.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _tenant_id() -> Column[str]:
    return Column("tenant_id", Text, nullable=False)


def _time(name: str, *, nullable: bool = False, default_now: bool = False) -> Column[object]:
    default = func.now() if default_now else None
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=default)


def _text(name: str, default: str | None = "") -> Column[str]:
    return Column(name, Text, nullable=False, server_default=default)


tenants = Table(
    "tenants",
    metadata,
    _tenant_id(),
    Column("parent_tenant_id", Text, nullable=True),
    _text("name"),
    Column("default_plan_key", Text, nullable=True),
    Column("auto_provision", Boolean, nullable=False, server_default=text("false")),
    _text("upgrade_url"),
    Column("catalog_revision", BigInteger, nullable=False, server_default=text("0")),
    _time("create_time", default_now=True),
    _time("update_time", default_now=True),
    PrimaryKeyConstraint("tenant_id"),
    CheckConstraint("tenant_id <> ''", name="tenant_id_present"),
)

features = Table(
    "features",
    metadata,
    _tenant_id(),
    Column("feature_key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    _text("name"),
    _text("description"),
    _text("unit"),
    _text("failure_mode", "fail_closed"),
    Column("position", Integer, nullable=False, server_default=text("0")),
    _time("create_time", default_now=True),
    _time("retire_time", nullable=True),
    PrimaryKeyConstraint("tenant_id", "feature_key"),
    CheckConstraint("kind IN ('boolean', 'config', 'counter', 'gauge')", name="kind_known"),
)

plans = Table(
    "plans",
    metadata,
    _tenant_id(),
    Column("plan_key", Text, nullable=False),
    Column("version", Integer, nullable=False),
    _text("name"),
    _text("description"),
    Column("rank", Integer, nullable=False, server_default=text("0")),
    Column("grace_days", Integer, nullable=False),
    Column("trial_days", Integer, nullable=False, server_default=text("0")),
    Column("prices", JSONB, nullable=False),
    Column("allowances", JSONB, nullable=False),
    Column(
        "digest", Text, nullable=False, comment="SHA-256 of the version's content: equal content is the same version"
    ),
    _time("create_time", default_now=True),
    _time("retire_time", nullable=True),
    PrimaryKeyConstraint("tenant_id", "plan_key", "version"),
    CheckConstraint("version >= 1", name="version_positive"),
)

meters = Table(
    "meters",
    metadata,
    _tenant_id(),
    Column("meter_key", Text, nullable=False),
    Column("definition", JSONB, nullable=False),
    _time("create_time", default_now=True),
    _time("retire_time", nullable=True),
    PrimaryKeyConstraint("tenant_id", "meter_key"),
)

catalog_revisions = Table(
    "catalog_revisions",
    metadata,
    _tenant_id(),
    Column("revision", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    _text("actor"),
    Column("changes", JSONB, nullable=False),
    _time("create_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "revision"),
)

accounts = Table(
    "accounts",
    metadata,
    _tenant_id(),
    Column("account_id", Text, nullable=False),
    _text("state", "active"),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    _text("time_zone", "UTC"),
    _text("display_name"),
    _text("email"),
    Column("preferences", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _text("suspend_reason"),
    _time("create_time", default_now=True),
    _time("update_time", default_now=True),
    _time("last_seen_time", nullable=True),
    _time("delete_time", nullable=True),
    PrimaryKeyConstraint("tenant_id", "account_id"),
    CheckConstraint("state IN ('active', 'suspended', 'deleted')", name="state_known"),
    CheckConstraint("revision >= 1", name="revision_positive"),
)

account_identities = Table(
    "account_identities",
    metadata,
    _tenant_id(),
    Column("provider", Text, nullable=False),
    Column("external_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    _time("create_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "provider", "external_id"),
    ForeignKeyConstraint(["tenant_id", "account_id"], ["accounts.tenant_id", "accounts.account_id"]),
    Index(None, "tenant_id", "account_id"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    _tenant_id(),
    Column("subscription_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("plan_key", Text, nullable=False),
    Column("plan_version", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("provider", Text, nullable=False, comment="none, stripe or manual"),
    Column("interval", Text, nullable=True, comment="month or year; null for a plan without price"),
    Column("quantity", BigInteger, nullable=False, server_default=text("1")),
    _time("start_time"),
    _time("period_start_time"),
    _time("period_end_time", nullable=True),
    _time("trial_end_time", nullable=True),
    Column("cancel_at_period_end", Boolean, nullable=False, server_default=text("false")),
    _time("canceled_time", nullable=True),
    _time("grace_end_time", nullable=True),
    Column("provider_subscription_id", Text, nullable=True),
    Column("provider_customer_id", Text, nullable=True),
    Column("provider_price_id", Text, nullable=True),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("create_request_id", Text, nullable=True),
    Column("create_fingerprint", Text, nullable=True),
    _time("create_time", default_now=True),
    _time("update_time", default_now=True),
    _time("pause_start_time", nullable=True),
    _time("resume_time", nullable=True),
    PrimaryKeyConstraint("tenant_id", "subscription_id"),
    ForeignKeyConstraint(["tenant_id", "account_id"], ["accounts.tenant_id", "accounts.account_id"]),
    ForeignKeyConstraint(
        ["tenant_id", "plan_key", "plan_version"], ["plans.tenant_id", "plans.plan_key", "plans.version"]
    ),
    CheckConstraint("quantity >= 1", name="quantity_positive"),
    CheckConstraint("period_end_time IS NULL OR period_end_time > period_start_time", name="period_ordered"),
    CheckConstraint(
        "state IN ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'unpaid', 'paused',"
        " 'canceled', 'expired')",
        name="state_known",
    ),
    Index(None, "tenant_id", "account_id"),
    Index(
        "uq_subscriptions_live_price",
        "tenant_id",
        "account_id",
        "plan_key",
        text("coalesce(interval, '')"),
        unique=True,
        # What exists at Stripe is stored as it is, even twice; nothing of ours makes a second one.
        postgresql_where=text("state NOT IN ('incomplete_expired', 'canceled', 'expired') AND provider <> 'stripe'"),
    ),
    Index(
        "uq_subscriptions_provider_subscription",
        "provider",
        "provider_subscription_id",
        unique=True,
        postgresql_where=text("provider_subscription_id IS NOT NULL"),
    ),
    Index(
        "ix_subscriptions_ending",
        "period_end_time",
        postgresql_where=text("cancel_at_period_end AND state NOT IN ('incomplete_expired', 'canceled', 'expired')"),
    ),
    Index("ix_subscriptions_in_trial", "trial_end_time", postgresql_where=text("state = 'trialing'")),
    Index("ix_subscriptions_resuming", "resume_time", postgresql_where=text("state = 'paused'")),
    Index("ix_subscriptions_overdue", "grace_end_time", postgresql_where=text("state = 'past_due'")),
    Index(
        "uq_subscriptions_create_request",
        "tenant_id",
        "account_id",
        "create_request_id",
        unique=True,
        postgresql_where=text("create_request_id IS NOT NULL"),
    ),
)

subscription_history = Table(
    "subscription_history",
    metadata,
    _tenant_id(),
    Column("subscription_id", Text, nullable=False),
    Column("history_id", BigInteger, Identity(always=True), nullable=False),
    Column("account_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("before", JSONB, nullable=True),
    Column("after", JSONB, nullable=False),
    _text("actor"),
    _text("reason"),
    _time("create_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "subscription_id", "history_id"),
    Index(None, "tenant_id", "account_id", "history_id"),
)

grants = Table(
    "grants",
    metadata,
    _tenant_id(),
    Column("account_id", Text, nullable=False),
    Column("grant_id", Text, nullable=False),
    Column("feature_key", Text, nullable=False),
    Column("kind", Text, nullable=False, comment="bonus, override, enable or disable"),
    Column("quantity", BigInteger, nullable=False, server_default=text("0")),
    Column("value", JSONB, nullable=True),
    Column("priority", Integer, nullable=False, server_default=text("100")),
    _time("start_time"),
    _time("expire_time", nullable=True),
    _time("grace_end_time", nullable=True),
    _text("reason"),
    _text("actor"),
    _time("create_time", default_now=True),
    _time("revoke_time", nullable=True),
    PrimaryKeyConstraint("tenant_id", "account_id", "grant_id"),
    ForeignKeyConstraint(["tenant_id", "account_id"], ["accounts.tenant_id", "accounts.account_id"]),
    ForeignKeyConstraint(["tenant_id", "feature_key"], ["features.tenant_id", "features.feature_key"]),
)

usage_counters = Table(
    "usage_counters",
    metadata,
    _tenant_id(),
    Column("account_id", Text, nullable=False),
    Column("feature_key", Text, nullable=False),
    Column("period_kind", Text, nullable=False, comment="PeriodKind value: h, d, w, m, y or l"),
    _time("period_start"),
    _time("period_end", nullable=True),
    Column("used_quantity", BigInteger, nullable=False, comment="equals the sum of the counter's ledger entries"),
    Column("version", BigInteger, nullable=False, comment="rises by one with every change of the row"),
    Column("limit_quantity", BigInteger, nullable=False, comment="limit in force at the last change; -1 for unlimited"),
    _time("update_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "account_id", "feature_key", "period_kind", "period_start"),
    CheckConstraint("used_quantity >= 0", name="used_quantity_not_negative"),
    postgresql_with={"fillfactor": "70"},
)

usage_entries = Table(
    "usage_entries",
    metadata,
    _tenant_id(),
    Column("account_id", Text, nullable=False),
    Column("entry_id", BigInteger, nullable=False, comment="time-ordered: milliseconds, node, sequence"),
    _time("recorded_time"),
    Column("feature_key", Text, nullable=False),
    Column("period_kind", Text, nullable=False),
    _time("period_start"),
    Column("quantity", BigInteger, nullable=False),
    Column("used_after", BigInteger, nullable=False, comment="the counter right after this entry, in commit order"),
    Column("limit_quantity", BigInteger, nullable=False, comment="limit that admitted it; -1 for unlimited"),
    _time("event_time"),
    Column("request_id", Text, nullable=True),
    Column("dimensions", JSONB, nullable=True),
    PrimaryKeyConstraint("tenant_id", "account_id", "entry_id", "recorded_time"),
    postgresql_partition_by="RANGE (recorded_time)",
)

usage_requests = Table(
    "usage_requests",
    metadata,
    _tenant_id(),
    Column("account_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("fingerprint", BigInteger, nullable=False, comment="hash of the request's content"),
    Column("reason", SmallInteger, nullable=False, comment="entitlement.Reason of the first answer"),
    Column("entry_id", BigInteger, nullable=True, comment="null for a denied request"),
    Column("quantity", BigInteger, nullable=False),
    Column("used_quantity", BigInteger, nullable=False),
    Column("limit_quantity", BigInteger, nullable=False),
    Column("thresholds", Text, nullable=False, comment="as in force at the first answer: 80%,100%,500"),
    _time("reset_time", nullable=True),
    Column("plan_key", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    _time("recorded_time"),
    PrimaryKeyConstraint("tenant_id", "account_id", "request_id"),
    Index("ix_usage_requests_recorded_time", "recorded_time", postgresql_using="brin"),
)

usage_denials = Table(
    "usage_denials",
    metadata,
    _tenant_id(),
    Column("account_id", Text, nullable=False),
    Column("entry_id", BigInteger, nullable=False),
    _time("recorded_time"),
    Column("feature_key", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("reason", SmallInteger, nullable=False),
    Column("used_quantity", BigInteger, nullable=False),
    Column("limit_quantity", BigInteger, nullable=False),
    _time("event_time"),
    Column("request_id", Text, nullable=True),
    PrimaryKeyConstraint("tenant_id", "account_id", "entry_id", "recorded_time"),
    postgresql_partition_by="RANGE (recorded_time)",
)

outbox_events = Table(
    "outbox_events",
    metadata,
    _tenant_id(),
    Column("event_id", BigInteger, Identity(always=True), nullable=False),
    Column("type", Text, nullable=False),
    Column("account_id", Text, nullable=False, server_default=""),
    Column("revision", BigInteger, nullable=False, server_default=text("0")),
    Column("payload", JSONB, nullable=False),
    _time("create_time", default_now=True),
    _time("publish_time", nullable=True),
    PrimaryKeyConstraint("tenant_id", "event_id"),
    Index("ix_outbox_events_unpublished", "tenant_id", "event_id", postgresql_where=text("publish_time IS NULL")),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    _tenant_id(),
    Column("audit_id", BigInteger, Identity(always=True), nullable=False),
    _text("actor"),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", JSONB, nullable=False),
    _time("create_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "audit_id"),
    Index(None, "tenant_id", "subject", "audit_id"),
)

scheduled_changes = Table(
    "scheduled_changes",
    metadata,
    _tenant_id(),
    Column("scheduled_change_id", Text, nullable=False),
    Column("subscription_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("kind", Text, nullable=False, comment="plan, cancellation, pause or resumption"),
    Column("state", Text, nullable=False, comment="pending, done, canceled or failed"),
    _time("effective_time"),
    Column("plan_key", Text, nullable=True, comment="afterwards; null where the plan stays"),
    Column("plan_version", Integer, nullable=True),
    Column("interval", Text, nullable=True, comment="afterwards, of a plan with prices"),
    Column("quantity", BigInteger, nullable=True, comment="afterwards; null where it stays"),
    Column("provider", Text, nullable=True, comment="who collects the money afterwards; null where that stays"),
    _time("resume_time", nullable=True),
    Column("provider_schedule_id", Text, nullable=True, comment="schedule at the provider, which carries it out"),
    _text("actor"),
    _text("reason"),
    _text("error", ""),
    _time("create_time", default_now=True),
    _time("update_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "scheduled_change_id"),
    ForeignKeyConstraint(
        ["tenant_id", "subscription_id"], ["subscriptions.tenant_id", "subscriptions.subscription_id"]
    ),
    CheckConstraint("kind IN ('plan', 'cancellation', 'pause', 'resumption')", name="kind_known"),
    CheckConstraint("state IN ('pending', 'done', 'canceled', 'failed')", name="state_known"),
    Index(
        "uq_scheduled_changes_pending",
        "tenant_id",
        "subscription_id",
        unique=True,
        postgresql_where=text("state = 'pending'"),
    ),
    Index("ix_scheduled_changes_due", "effective_time", postgresql_where=text("state = 'pending'")),
)

customers = Table(
    "customers",
    metadata,
    _tenant_id(),
    Column("customer_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("provider_customer_id", Text, nullable=False),
    _text("email"),
    _text("name"),
    _text("default_payment_method_id"),
    _text("currency"),
    Column("tax_ids", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("address", JSONB, nullable=True),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("deleted", Boolean, nullable=False, server_default=text("false")),
    _time("create_time", default_now=True),
    _time("update_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "customer_id"),
    ForeignKeyConstraint(["tenant_id", "account_id"], ["accounts.tenant_id", "accounts.account_id"]),
    Index(None, "tenant_id", "account_id"),
    Index("uq_customers_provider_customer", "provider", "provider_customer_id", unique=True),
)

invoices = Table(
    "invoices",
    metadata,
    _tenant_id(),
    Column("invoice_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("subscription_id", Text, nullable=True),
    Column("provider", Text, nullable=False),
    Column("provider_invoice_id", Text, nullable=False),
    Column("state", Text, nullable=False, comment="draft, open, paid, void or uncollectible"),
    _text("number"),
    Column("currency", Text, nullable=False),
    Column("due_minor", BigInteger, nullable=False),
    Column("paid_minor", BigInteger, nullable=False, server_default=text("0")),
    Column("tax_minor", BigInteger, nullable=False, server_default=text("0")),
    _time("period_start_time", nullable=True),
    _time("period_end_time", nullable=True),
    _time("due_time", nullable=True),
    Column("attempt_count", Integer, nullable=False, server_default=text("0")),
    _time("next_attempt_time", nullable=True),
    _text("hosted_url"),
    _time("create_time"),
    _time("paid_time", nullable=True),
    _time("update_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "invoice_id"),
    ForeignKeyConstraint(["tenant_id", "account_id"], ["accounts.tenant_id", "accounts.account_id"]),
    CheckConstraint("state IN ('draft', 'open', 'paid', 'void', 'uncollectible')", name="state_known"),
    Index(None, "tenant_id", "account_id", "create_time"),
    Index(None, "tenant_id", "create_time"),
    Index("uq_invoices_provider_invoice", "provider", "provider_invoice_id", unique=True),
)

payments = Table(
    "payments",
    metadata,
    _tenant_id(),
    Column("payment_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("subscription_id", Text, nullable=True),
    Column("invoice_id", Text, nullable=True),
    Column("provider", Text, nullable=False),
    Column("provider_payment_id", Text, nullable=False),
    Column("state", Text, nullable=False, comment="pending, succeeded, failed, action_required or refunded"),
    Column("currency", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("refunded_minor", BigInteger, nullable=False, server_default=text("0")),
    _text("description"),
    _text("failure_code"),
    Column("disputed", Boolean, nullable=False, server_default=text("false")),
    Column("fraud_warning", Boolean, nullable=False, server_default=text("false")),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _time("create_time"),
    _time("update_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "payment_id"),
    ForeignKeyConstraint(["tenant_id", "account_id"], ["accounts.tenant_id", "accounts.account_id"]),
    CheckConstraint("state IN ('pending', 'succeeded', 'failed', 'action_required', 'refunded')", name="state_known"),
    Index(None, "tenant_id", "account_id", "create_time"),
    Index(None, "tenant_id", "create_time"),
    Index("uq_payments_provider_payment", "provider", "provider_payment_id", unique=True),
)

checkout_sessions = Table(
    "checkout_sessions",
    metadata,
    _tenant_id(),
    Column("provider_session_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("plan_key", Text, nullable=False),
    Column("interval", Text, nullable=True),
    Column("fingerprint", Text, nullable=False, comment="of what the page sells: another one replaces the page"),
    Column("state", Text, nullable=False, comment="open, complete or expired"),
    Column("url", Text, nullable=False),
    _time("expire_time"),
    _time("create_time", default_now=True),
    _time("update_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "provider_session_id"),
    ForeignKeyConstraint(["tenant_id", "account_id"], ["accounts.tenant_id", "accounts.account_id"]),
    CheckConstraint("state IN ('open', 'complete', 'expired')", name="state_known"),
    Index(
        "uq_checkout_sessions_open",
        "tenant_id",
        "account_id",
        "plan_key",
        unique=True,
        postgresql_where=text("state = 'open'"),
    ),
)

billing_operations = Table(
    "billing_operations",
    metadata,
    _tenant_id(),
    Column("operation_id", Text, nullable=False, comment="idempotency keys at the provider are derived from it"),
    Column("account_id", Text, nullable=False),
    Column("kind", Text, nullable=False, comment="create_subscription, change_plan, create_checkout_session, ..."),
    Column("subject", Text, nullable=False, comment="what it is done to: a plan and interval, or a subscription"),
    Column("request_id", Text, nullable=True),
    Column("fingerprint", Text, nullable=False),
    Column(
        "prepared",
        JSONB,
        nullable=False,
        server_default=text("'{}'::jsonb"),
        comment="what was chosen before the provider was asked, the same at every attempt",
    ),
    Column("state", Text, nullable=False, comment="pending, done or failed"),
    Column("result", JSONB, nullable=True),
    Column(
        "key_number",
        Integer,
        nullable=False,
        server_default=text("1"),
        comment="rises when the provider keeps answering with a failure that it saved",
    ),
    _time("key_time"),
    Column("attempt", Text, nullable=True, comment="who works on it; null while nobody does"),
    _time("attempt_time"),
    _time("create_time", default_now=True),
    _time("update_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "operation_id"),
    CheckConstraint("state IN ('pending', 'done', 'failed')", name="state_known"),
    Index(
        "uq_billing_operations_pending",
        "tenant_id",
        "account_id",
        "kind",
        "subject",
        unique=True,
        postgresql_where=text("state = 'pending'"),
    ),
    Index(
        "uq_billing_operations_request",
        "tenant_id",
        "account_id",
        "request_id",
        unique=True,
        postgresql_where=text("request_id IS NOT NULL"),
    ),
)

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("source", Text, nullable=False, comment="stripe, clerk or ayrshare"),
    Column("event_id", Text, nullable=False),
    Column("sequence", BigInteger, Identity(always=True), nullable=False, comment="order of arrival"),
    Column("event_type", Text, nullable=False),
    Column("tenant_id", Text, nullable=True, comment="null while unknown"),
    Column("account_id", Text, nullable=True),
    Column("state", Text, nullable=False, comment="pending, processed, ignored, retrying or dead"),
    Column("attempt_count", Integer, nullable=False, server_default=text("0")),
    Column("delivery_count", Integer, nullable=False, server_default=text("1")),
    _text("error"),
    _time("next_attempt_time", nullable=True),
    _text("api_version"),
    Column("api_version_mismatch", Boolean, nullable=False, server_default=text("false")),
    Column("payload", LargeBinary, nullable=False),
    _time("event_time", nullable=True),
    _time("receive_time"),
    _time("process_time", nullable=True),
    PrimaryKeyConstraint("source", "event_id"),
    CheckConstraint("source IN ('stripe', 'clerk', 'ayrshare')", name="source_known"),
    CheckConstraint("state IN ('pending', 'processed', 'ignored', 'retrying', 'dead')", name="state_known"),
    Index("uq_webhook_events_sequence", "sequence", unique=True),
    Index(
        "ix_webhook_events_due",
        "next_attempt_time",
        postgresql_where=text("state IN ('pending', 'retrying')"),
    ),
    Index("ix_webhook_events_dead", "sequence", postgresql_where=text("state = 'dead'")),
    Index("ix_webhook_events_account", "tenant_id", "account_id", "sequence"),
)

reconciliations = Table(
    "reconciliations",
    metadata,
    _tenant_id(),
    Column("provider", Text, nullable=False),
    _time("changed_until_time"),
    _time("update_time", default_now=True),
    PrimaryKeyConstraint("tenant_id", "provider"),
)

cache_epochs = Table(
    "cache_epochs",
    metadata,
    Column("single", Boolean, nullable=False),
    Column("epoch", BigInteger, nullable=False, comment="rises when a change could not be told to Redis"),
    Column("begin_time", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    PrimaryKeyConstraint("single"),
    CheckConstraint("single", name="single_row"),
)

job_runs = Table(
    "job_runs",
    metadata,
    Column("job", Text, nullable=False),
    Column("run_id", BigInteger, Identity(always=True), nullable=False),
    _time("start_time"),
    _time("end_time", nullable=True),
    Column("state", Text, nullable=False, comment="running, succeeded or failed"),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    PrimaryKeyConstraint("job", "run_id"),
)

TENANT_TABLES = tuple(table for table in metadata.sorted_tables if "tenant_id" in table.c)
METER_TABLES = (usage_counters, usage_entries, usage_requests, usage_denials)
"""What the group commit's role reaches, across tenants, and nothing else."""
PARTITIONED_TABLES = (usage_entries, usage_denials)
