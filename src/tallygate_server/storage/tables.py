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
        postgresql_where=text("state NOT IN ('incomplete_expired', 'canceled', 'expired')"),
    ),
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
