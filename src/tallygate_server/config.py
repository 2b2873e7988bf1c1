"""Every setting, its default, its unit and what it is for.

A setting comes from the environment variable `TALLYGATE_<NAME>`. A secret may instead be given as
`TALLYGATE_<NAME>_FILE`, the path of a file that holds it (without its trailing line end), so that it appears in no
process listing. Nothing is read from anywhere else.

`python -m tallygate_server.config --markdown` prints the table for docs/operations.md.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tallygate_server.domain.limits import TENANT_ID_PATTERN
from tallygate_server.domain.money import CURRENCIES
from tallygate_server.webhooks.signatures import svix_key

PREFIX: Final = "TALLYGATE_"
FILE_SUFFIX: Final = "_FILE"

SECRET_BYTES_MAX: Final = 65_536
"""Bound on a secret's file; anything larger is another file by mistake."""

DURATION_MS_MAX: Final = 3_600_000
RETRIEVAL_MS_MAX: Final = 604_800_000
"""A week: longer than any archive of tapes takes."""

_LIVE_KEY: Final = re.compile(r"\s*(?:[a-z]+_live_|live)", re.IGNORECASE)
"""Stripe's keys that move real money: `sk_live_...`, `rk_live_...`."""

_SERVICE_LINK: Final = re.compile(rf"{PREFIX}(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$")
"""Variables that Kubernetes puts into every pod beside a Service called `tallygate`; they are no settings."""


def _database_url(secret: SecretStr) -> SecretStr:
    if urlsplit(secret.get_secret_value()).scheme not in {"postgresql", "postgres"}:
        raise ValueError("must start with postgresql://")
    return secret


def _redis_url(secret: SecretStr) -> SecretStr:
    if urlsplit(secret.get_secret_value()).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("must start with redis://, rediss:// or unix://")
    return secret


def _webhook_secrets(secret: SecretStr) -> SecretStr:
    if not all(several_secrets(secret)):
        raise ValueError("must be secrets separated by commas, none of them empty")
    return secret


def _svix_secrets(secret: SecretStr) -> SecretStr:
    try:
        for each in several_secrets(secret):
            svix_key(each)
    except ValueError:
        raise ValueError("must be whsec_ and base64, or several of these separated by commas") from None
    return secret


def _currency(code: str) -> str:
    if code not in CURRENCIES:
        raise ValueError("must be a code of ISO 4217, such as USD")
    return code


def several_secrets(secret: SecretStr | None) -> tuple[str, ...]:
    """Return the secrets that a setting holds, separated by commas."""
    return tuple(each.strip() for each in secret.get_secret_value().split(",")) if secret is not None else ()


Port = Annotated[int, Field(ge=0, le=65_535)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Milliseconds = Annotated[int, Field(ge=1, le=DURATION_MS_MAX)]
MillisecondsOrNone = Annotated[int, Field(ge=0, le=DURATION_MS_MAX)]
Days = Annotated[int, Field(ge=1, le=3_650)]
RetrievalMilliseconds = Annotated[int, Field(ge=0, le=RETRIEVAL_MS_MAX)]
StoragePrice = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=20, decimal_places=12)]
Currency = Annotated[str, AfterValidator(_currency)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
WebhookSecrets = Annotated[SecretStr, AfterValidator(_webhook_secrets)]
SvixSecrets = Annotated[SecretStr, AfterValidator(_svix_secrets)]
TenantIdText = Annotated[str, Field(pattern=TENANT_ID_PATTERN)]


class SettingsError(Exception):
    """Name every setting that is wrong, one line each, so that one correction suffices."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        """Keep the problems, each of which starts with the variable's name."""
        super().__init__("\n".join(problems))
        self.problems = problems


class _EnvironmentWithFiles(PydanticBaseSettingsSource):
    """Read variables and, for secrets, the files that `_FILE` variables point to."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of one setting, None where it is not given."""
        name = variable_name(field_name)
        direct, file = os.environ.get(name), os.environ.get(name + FILE_SUFFIX)
        # An empty variable counts as absent, as templates of deployments tend to leave them.
        if file and is_secret(field):
            if direct:
                raise SettingsError((f"{name}: given twice, also as {name}{FILE_SUFFIX}; remove one",))
            return _read_secret(name, Path(file)), field_name, False
        return direct or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return all settings that are given."""
        values: dict[str, Any] = {}
        problems: list[str] = []
        for field_name, field in self.settings_cls.model_fields.items():
            try:
                value, _, _ = self.get_field_value(field, field_name)
            except SettingsError as error:
                problems.extend(error.problems)
            else:
                if value is not None:
                    values[field_name] = value
        if problems:
            raise SettingsError(tuple(problems))
        return values


class Settings(BaseSettings):
    """All settings of a Tallygate process; immutable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True)

    # ---- stores
    database_url: DatabaseUrl | None = Field(
        default=None, description="Postgres 15 or newer, as the owner of the tables. Empty: start the embedded one."
    )
    redis_url: RedisUrl | None = Field(
        default=None, description="Redis 6.2 or newer, or Valkey. Empty: start the embedded one."
    )
    data_dir: Path = Field(
        default=Path(".tallygate"), description="Directory of the embedded servers; made when missing."
    )
    auto_migrate: bool | None = Field(
        default=None,
        description="Migrate the database at start. Empty: only the embedded one; elsewhere run `tallygate migrate`.",
    )

    # ---- listeners
    transport: Literal["native", "grpcio"] = Field(
        default="native", description="gRPC server: `native` is the fast one, `grpcio` is the one with TLS."
    )
    grpc_host: str = Field(default="127.0.0.1", min_length=1, description="Address the gRPC server listens on.")
    grpc_port: Port = Field(default=50_051, description="Port of the gRPC server; 0 picks a free one.")
    ops_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address the HTTP server for metrics and health listens on."
    )
    ops_port: Port = Field(default=50_052, description="Port of that HTTP server; 0 picks a free one.")
    tls_cert_file: Path | None = Field(default=None, description="PEM certificate chain; needs transport grpcio.")
    tls_key_file: Path | None = Field(default=None, description="PEM private key of the certificate.")
    tls_client_ca_file: Path | None = Field(
        default=None, description="PEM authorities; when given, clients must show a certificate of theirs (mTLS)."
    )
    reflection: bool = Field(default=True, description="Serve gRPC reflection, so that grpcurl needs no proto files.")
    request_timeout_ms: Milliseconds = Field(
        default=5_000, description="Deadline given to a call whose client sets none."
    )
    billing_request_timeout_ms: Milliseconds = Field(
        default=60_000, description="The same for calls that may wait for the billing provider."
    )
    reuse_port: bool = Field(
        default=False, description="Let several server processes of this machine share the gRPC port."
    )
    calls_in_flight_max: Count = Field(
        default=20_000, description="Calls at once beyond which new ones are answered RESOURCE_EXHAUSTED."
    )
    drain_delay_ms: MillisecondsOrNone = Field(
        default=500,
        description="Pause between reporting NOT_SERVING and refusing calls; at least one period of the health probe.",
    )
    drain_grace_ms: MillisecondsOrNone = Field(
        default=10_000, description="Longest wait for calls in flight when stopping."
    )

    # ---- the hot path
    hold_ttl_ms: Milliseconds = Field(
        default=10_000, description="Age at which the sweeper asks the ledger what became of a hold."
    )
    commit_batch_max: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=512, description="Increments written by one group commit."
    )
    commit_queue_max: Count = Field(
        default=10_000, description="Increments waiting for a group commit beyond which new ones are refused."
    )
    commit_timeout_ms: Milliseconds = Field(
        default=2_000, description="Longest wait for Postgres by a group commit; then the outcome is looked up."
    )
    accepted_queue_max: Count = Field(
        default=10_000,
        description="Increments answered as ACCEPTED but not yet written: at most these are lost in a crash.",
    )
    late_commit_window_seconds: Annotated[int, Field(ge=0, le=2_592_000)] = Field(
        default=3_600,
        description="Time after a reservation has expired in which its commit still counts, if the limit allows it.",
    )
    redis_timeout_ms: Milliseconds = Field(
        default=500, description="Longest wait for Redis; then Postgres decides alone."
    )
    snapshot_cache_max: Count = Field(default=50_000, description="Accounts kept in the process's snapshot cache.")
    request_retention_days: Annotated[int, Field(ge=1, le=35)] = Field(
        default=35, description="How long a request id is remembered; at most the 35 days promised to callers."
    )

    # ---- background work
    run_workers: bool = Field(
        default=True, description="Run jobs inside the server process; otherwise run `tallygate worker` somewhere."
    )
    sweep_interval_ms: Milliseconds = Field(default=2_000, description="Pause between two looks for overdue holds.")
    rollup_interval_ms: Milliseconds = Field(
        default=2_000, description="Pause between two looks for usage that is not in the rollups yet."
    )
    reconcile_interval_ms: Milliseconds = Field(
        default=300_000,
        description="Pause between two looks for what changed at Stripe without a webhook; once a day at everything.",
    )
    ledger_months_ahead: Annotated[int, Field(ge=1, le=24)] = Field(
        default=12, description="Monthly ledger partitions made ahead of time."
    )

    # ---- billing
    stripe_api_key: SecretStr | None = Field(default=None, description="Secret key of the Stripe account.")
    stripe_api_base: str = Field(
        default="https://api.stripe.com",
        min_length=1,
        description="Address of the Stripe API; another one in tests only. Live keys go nowhere without TLS.",
    )
    stripe_timeout_ms: Milliseconds = Field(default=8_000, description="Longest wait for one answer of Stripe.")
    stripe_call_timeout_ms: Milliseconds = Field(
        default=25_000, description="Longest wait for Stripe in all: for every request and try of one change."
    )
    stripe_retries_max: Annotated[int, Field(ge=0, le=10)] = Field(
        default=2, description="Times that a request to Stripe is tried again, with growing pauses."
    )
    stripe_breaker_failures_max: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=5, description="Calls of Stripe without an answer, in a row, after which calls fail at once."
    )
    stripe_breaker_open_ms: Milliseconds = Field(
        default=10_000, description="How long they fail at once, until one tries again."
    )

    # ---- webhooks
    stripe_webhook_secret: WebhookSecrets | None = Field(
        default=None,
        description="Signing secret of the Stripe webhook endpoint: one, or several separated by commas while one is"
        " replaced.",
    )
    clerk_webhook_secret: SvixSecrets | None = Field(
        default=None, description="Signing secret of the Clerk webhook endpoint, as above: `whsec_` and base64."
    )
    clerk_tenant_id: TenantIdText | None = Field(
        default=None, description="Tenant of Clerk users whose webhooks name none."
    )
    ayrshare_webhook_secret: WebhookSecrets | None = Field(
        default=None, description="Secret that Ayrshare signs its webhooks with, as above."
    )
    webhook_tolerance_seconds: Annotated[int, Field(ge=1, le=3_600)] = Field(
        default=300, description="How far the time of a webhook may be from ours, either way, before it is refused."
    )
    webhook_answer_wait_ms: Annotated[int, Field(ge=0, le=5_000)] = Field(
        default=200, description="Longest wait of a webhook's answer for the first attempt to process it."
    )
    webhook_attempts_max: Annotated[int, Field(ge=1, le=100)] = Field(
        default=12, description="Attempts to process a webhook before it is left to an administrator."
    )
    webhook_concurrency: Annotated[int, Field(ge=1, le=100)] = Field(
        default=4, description="Webhooks that one process works on at a time."
    )

    # ---- grants
    grant_notice_days: Annotated[int, Field(ge=1, le=90)] = Field(
        default=7, description="Days before a grant expires at which `grant.expiring` announces it."
    )

    # ---- events for tenants
    delivery_private_networks: bool = Field(
        default=False,
        description="Let events be sent to endpoints inside private networks and on this machine. Whoever may create an"
        " endpoint can then reach what this server can.",
    )
    delivery_plain_http: bool = Field(
        default=False,
        description="Let events be sent to `http://` endpoints, where everybody on the way can read them.",
    )
    delivery_concurrency: Annotated[int, Field(ge=2, le=1_000)] = Field(
        default=32, description="Events that one process sends to endpoints at a time."
    )

    # ---- data lifecycle
    object_store_url: str = Field(
        default="",
        description="Where archived data lies: `file:///directory` or `s3://bucket/prefix` (credentials and endpoint"
        " from the usual `AWS_...` variables). Empty: `objects` in the data directory.",
    )
    key_store_url: str = Field(
        default="",
        description="Where the wrapped data keys of accounts lie, as above; apart from the data, and in none of its"
        " backups. Empty: `keys` in the data directory.",
    )
    master_keys: SecretStr | None = Field(
        default=None,
        description="Keys that wrap data keys: `id:` and 32 bytes in base64, or several of these separated by commas;"
        " the first wraps, all open. Empty: one of our own in the data directory.",
    )
    webhook_retention_days: Days = Field(
        default=90,
        description="How long webhooks that are done with stay in Postgres; afterwards they are archived as records of"
        " their account.",
    )
    soft_delete_retention_days: Days = Field(
        default=90,
        description="How long what was deleted, revoked, released or came to its end is kept before it is purged.",
    )
    history_retention_days: Days = Field(
        default=730,
        description="How far back it is told what an account was entitled to; older revisions are purged.",
    )

    lifecycle_jobs_at_once: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2,
        description="Jobs on stored data (compress, archive, export, erase, ...) that a process runs at once.",
    )

    storage_currency: Currency = Field(default="USD", description="Currency of the prices of storage (ISO 4217).")
    hot_price_per_gb: StoragePrice = Field(
        default=Decimal("0.25"), description="Price of a gigabyte (10^9 bytes) in the hot tier for a month."
    )
    warm_price_per_gb: StoragePrice = Field(default=Decimal("0.12"), description="The same in the warm tier.")
    cold_price_per_gb: StoragePrice = Field(default=Decimal("0.023"), description="The same in the cold tier.")
    hot_retrieval_ms: RetrievalMilliseconds = Field(
        default=10, description="How long data of the hot tier takes to be read, as callers are told."
    )
    warm_retrieval_ms: RetrievalMilliseconds = Field(default=50, description="The same for the warm tier.")
    cold_retrieval_ms: RetrievalMilliseconds = Field(default=500, description="The same for the cold tier.")
    retrieval_timeout_ms: int = Field(
        default=30_000, ge=100, le=600_000, description="How long a query waits for one archived segment."
    )

    export_retention_days: Days = Field(
        default=7, description="How long the archive of an account's export can be downloaded; then it is removed."
    )

    # ---- trying it out
    development_clock_url: str | None = Field(
        default=None,
        description="Clock of a local Stripe on this machine, to be followed: to try billing out, never in production.",
    )

    # ---- what it says
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level that is logged."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="`json` for machines, `console` for people; both go to standard error."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic calls by these names.
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments first, then the environment; nothing else."""
        return init_settings, _EnvironmentWithFiles(settings_cls)

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        problems = []
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            problems.append("TALLYGATE_TLS_CERT_FILE and TALLYGATE_TLS_KEY_FILE: give both or neither")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            problems.append("TALLYGATE_TLS_CLIENT_CA_FILE: needs TALLYGATE_TLS_CERT_FILE and TALLYGATE_TLS_KEY_FILE")
        if self.tls_cert_file is not None and self.transport != "grpcio":
            problems.append("TALLYGATE_TLS_CERT_FILE: needs TALLYGATE_TRANSPORT=grpcio")
        if self.hold_ttl_ms <= self.commit_timeout_ms:
            problems.append(
                "TALLYGATE_HOLD_TTL_MS: must exceed TALLYGATE_COMMIT_TIMEOUT_MS, or holds in flight would be swept"
            )
        if self.grpc_port == self.ops_port and self.grpc_port != 0 and self.grpc_host == self.ops_host:
            problems.append("TALLYGATE_OPS_PORT: equals TALLYGATE_GRPC_PORT")
        problems.extend(_problems_of_stripe(self.stripe_api_key, self.stripe_api_base))
        if self.stripe_call_timeout_ms < self.stripe_timeout_ms:
            problems.append("TALLYGATE_STRIPE_CALL_TIMEOUT_MS: must not be less than TALLYGATE_STRIPE_TIMEOUT_MS")
        if self.development_clock_url is not None and not is_loopback_http(self.development_clock_url):
            problems.append("TALLYGATE_DEVELOPMENT_CLOCK_URL: must be http:// on this machine's own address")
        if problems:
            raise SettingsError(tuple(problems))
        return self

    @property
    def migrates_at_start(self) -> bool:
        """Whether this process brings the schema up to date before it serves."""
        return self.database_url is None if self.auto_migrate is None else self.auto_migrate


def load_settings(**overrides: Any) -> Settings:
    """Read the settings, arguments before environment; raise SettingsError with all that is wrong."""
    problems = list(_unknown_variables(os.environ))
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        problems.extend(_describe(problem) for problem in error.errors(include_url=False))
        raise SettingsError(tuple(problems)) from None
    except SettingsError as error:
        raise SettingsError((*problems, *error.problems)) from None
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def is_loopback_http(url: str) -> bool:
    """Whether the address is one that never leaves this machine."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return False
    return is_loopback_host(parts.hostname)


def is_loopback_host(host: str) -> bool:
    """Whether the name or number is one of this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def variable_name(field_name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{field_name.upper()}"


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting may hold a password or key, and may therefore come from a file."""
    return "SecretStr" in str(field.annotation)


def render_settings_table() -> str:
    """Return the table of all settings for the documentation, in Markdown."""
    rows = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    for field_name, field in Settings.model_fields.items():
        name = f"`{variable_name(field_name)}`"
        if is_secret(field):
            name += f" or `{variable_name(field_name)}{FILE_SUFFIX}`"
        default = "" if field.default is None else f"`{_as_text(field.default)}`"
        rows.append(f"| {name} | {default} | {_allowed(field_name)} | {field.description} |")
    return "\n".join(rows) + "\n"


def _problems_of_stripe(api_key: SecretStr | None, api_base: str) -> list[str]:
    """Refuse an address that is none, and one that would carry a live key through the open."""
    name = "TALLYGATE_STRIPE_API_BASE"
    parts = urlsplit(api_base)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        return [f"{name}: must start with https:// or http:// and name a host"]
    if parts.username is not None or parts.query or parts.fragment:
        return [f"{name}: must be an address only"]
    live = api_key is not None and _LIVE_KEY.match(api_key.get_secret_value()) is not None
    if live and parts.scheme != "https" and not is_loopback_host(parts.hostname):
        return [f"{name}: a live key is sent to https:// addresses only"]
    return []


def _read_secret(name: str, file: Path) -> str:
    try:
        content = file.read_bytes()[: SECRET_BYTES_MAX + 1]
    except OSError as error:
        raise SettingsError((f"{name}{FILE_SUFFIX}: cannot read {file}: {error.strerror}",)) from None
    if not content.strip() or len(content) > SECRET_BYTES_MAX:
        raise SettingsError((f"{name}{FILE_SUFFIX}: {file} is empty or larger than {SECRET_BYTES_MAX} bytes",))
    return content.decode(errors="replace").rstrip("\r\n")


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Name variables with our prefix that mean nothing: most are misspelt, and would be ignored silently."""
    known = {variable_name(field_name) for field_name in Settings.model_fields}
    known |= {variable_name(name) + FILE_SUFFIX for name, field in Settings.model_fields.items() if is_secret(field)}
    # The command line reads the server's address from this one.
    known.add(f"{PREFIX}TARGET")
    return [
        f"{name}: there is no such setting"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known and not _SERVICE_LINK.match(name)
    ]


def _describe(problem: Mapping[str, Any]) -> str:
    """Say what is wrong with one setting, without repeating a value that may be secret."""
    name = variable_name(str(problem["loc"][0])) if problem["loc"] else PREFIX + "*"
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    message = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{name}: {message}"


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _allowed(field_name: str) -> str:
    """Describe a setting's values in a few words, from its own type."""
    schema = TypeAdapter(Settings).json_schema()["properties"][field_name]
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    option = options[0]
    if "enum" in option:
        return ", ".join(f"`{value}`" for value in option["enum"])
    if option.get("type") == "integer":
        return f"{option['minimum']} to {option['maximum']}"
    if option.get("type") == "boolean":
        return "`true`, `false`"
    return {"path": "path", "password": "secret"}.get(option.get("format", ""), "text")


if __name__ == "__main__":
    if sys.argv[1:] != ["--markdown"]:
        sys.exit("usage: python -m tallygate_server.config --markdown")
    sys.stdout.write(render_settings_table())
