"""Takes webhooks in: genuine ones once, quickly, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeGuard

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId, is_tenant_id
from tallygate_server.errors import InvalidRequest, SignatureInvalid, TenantNotFound, WebhookSourceNotConfigured
from tallygate_server.storage import webhook_events as rows
from tallygate_server.storage.engine import Database
from tallygate_server.storage.webhook_events import EventKey, NewEvent
from tallygate_server.telemetry import metrics
from tallygate_server.tenants import Tenant
from tallygate_server.webhooks import signatures
from tallygate_server.webhooks.events import EventHandler, WebhookSource
from tallygate_server.webhooks.json_body import BODY_BYTES_MAX, parse_body
from tallygate_server.webhooks.signatures import Freshness, Headers, Rule, refusal

log = structlog.get_logger(__name__)

EVENT_TYPE_LENGTH_MAX: Final = 128
API_VERSION_LENGTH_MAX: Final = 64
VERSIONS_LOGGED_MAX: Final = 100
REFUSAL_LOG_SECONDS: Final = 60.0
"""A refusal is logged once in this time for each source and rule; every one is counted."""

SECRET_SETTINGS: Final[Mapping[WebhookSource, str]] = {
    source: f"TALLYGATE_{source.name}_WEBHOOK_SECRET" for source in WebhookSource
}

_EVENT_ID = re.compile(r"[!-~]{1,255}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_YEAR_MIN: Final = 2000
_YEAR_END: Final = 2100
_MILLISECONDS: Final = 1_000


class Tenants(Protocol):
    """Knows who is a tenant."""

    async def get(self, tenant_id: TenantId) -> Tenant:
        """Return the tenant; raise TenantNotFound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was taken in."""

    event_id: str
    event_type: str
    duplicate: bool
    """It was stored before, and is not processed again."""
    known: bool
    """Something follows from its type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What a source says of its event."""

    event_id: str
    event_type: str
    event_time: datetime | None
    api_version: str = ""


class FirstAttempts:
    """Lets answers wait for the first attempt to process what they answer for."""

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self._waiting: defaultdict[EventKey, set[asyncio.Future[None]]] = defaultdict(set)

    @contextlib.contextmanager
    def expected(self, key: EventKey) -> Iterator[asyncio.Future[None]]:
        """Give a future that is done when an attempt at the event ends; wait for it inside the block."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[key].add(future)
        try:
            yield future
        finally:
            waiting = self._waiting[key]
            waiting.discard(future)
            if not waiting:
                del self._waiting[key]

    def ended(self, key: EventKey) -> None:
        """Let go those who wait for the event."""
        for future in self._waiting.get(key, ()):
            if not future.done():
                future.set_result(None)


class WebhookIntake:
    """Checks, stores once, and answers when the first attempt has ended or taken too long."""

    def __init__(
        self,
        database: Database,
        secrets: Mapping[WebhookSource, Sequence[str]],
        handlers: Mapping[WebhookSource, EventHandler],
        *,
        tenants: Tenants,
        clock: Clock,
        tolerance_seconds: int = 300,
        api_versions: Mapping[WebhookSource, str] | None = None,
        first_attempts: FirstAttempts | None = None,
        answer_wait_ms: int = 200,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Store in the database of the intake; a source without secrets is refused.

        `api_versions` are those that this release is built for. `wake` is called when there is something to process.
        """
        self._database = database
        self._secrets = {source: tuple(several) for source, several in secrets.items() if several}
        self._known_types = {source: handler.known_types for source, handler in handlers.items()}
        self._tenants = tenants
        self._clock = clock
        self._tolerance_seconds = tolerance_seconds
        self._api_versions = dict(api_versions or {})
        self._first_attempts = first_attempts or FirstAttempts()
        self._answer_wait_seconds = answer_wait_ms / 1_000
        self._wake = wake
        self._versions_logged: set[tuple[WebhookSource, str]] = set()
        self._refusals_logged_ns: dict[tuple[WebhookSource, str], int] = {}

    async def take(
        self, source: WebhookSource, payload: bytes, headers: Mapping[str, str], tenant_id: str = ""
    ) -> Taken:
        """Take in a webhook; return when it is stored, and processed if that is quick.

        Raises SignatureInvalid, InvalidRequest, WebhookSourceNotConfigured, TenantNotFound, StoreUnavailable.
        """
        try:
            return await self._take(source, payload, _by_name(headers), tenant_id)
        except SignatureInvalid as error:
            self.note_refusal(source, error.facts["rule"])
            raise
        except InvalidRequest:
            self.note_refusal(source, "payload")
            raise
        except TenantNotFound:
            self.note_refusal(source, "tenant")
            raise
        except WebhookSourceNotConfigured as error:
            log.warning("webhook_source_not_configured", source=source, why=error.facts["setting"])
            metrics.webhook_refused(source.value, "not_configured")
            raise

    def note_refusal(self, source: WebhookSource, rule: str) -> None:
        """Count a webhook that is refused, and log that now and then: nothing of what it says."""
        metrics.webhook_refused(source.value, rule)
        now_ns = self._clock.monotonic_ns()
        logged_ns = self._refusals_logged_ns.get((source, rule))
        if logged_ns is None or now_ns - logged_ns >= REFUSAL_LOG_SECONDS * 1e9:
            # As bounded as sources and rules are.
            self._refusals_logged_ns[source, rule] = now_ns
            log.warning("webhook_refused", source=source, rule=rule)

    async def _take(self, source: WebhookSource, payload: bytes, headers: Headers, tenant_id: str) -> Taken:
        secrets = self._secrets.get(source)
        if secrets is None:
            raise WebhookSourceNotConfigured(source, SECRET_SETTINGS[source])
        if len(payload) > BODY_BYTES_MAX:
            raise InvalidRequest.of("payload", f"at most {BODY_BYTES_MAX} bytes")
        freshness = Freshness(now=self._clock.now(), tolerance_seconds=self._tolerance_seconds)
        # Nothing is read of a body before it is known to be genuine.
        event = _checked(source, payload, headers, secrets, freshness)
        if tenant_id:
            if not is_tenant_id(tenant_id):
                raise InvalidRequest.of("tenant_id", "is not a well-formed tenant id")
            await self._tenants.get(TenantId(tenant_id))
        known_types = self._known_types.get(source)
        # Without anybody who knows the types, events wait for somebody who does.
        known = known_types is None or event.event_type in known_types
        expected_version = self._api_versions.get(source, "")
        mismatch = bool(expected_version and event.api_version and event.api_version != expected_version)
        now = self._clock.now()
        new = NewEvent(
            source=source,
            event_id=event.event_id,
            event_type=event.event_type,
            tenant_id=tenant_id,
            payload=payload,
            event_time=event.event_time,
            receive_time=now,
            api_version=event.api_version,
            api_version_mismatch=mismatch,
            ignored=not known,
        )
        key = (source, event.event_id)
        with self._first_attempts.expected(key) as first_attempt:
            duplicate = await self._store(new)
            if mismatch and not duplicate:
                self._note_mismatch(source, event.api_version)
            if duplicate:
                metrics.webhook_received(source.value, "duplicate")
            elif known:
                metrics.webhook_received(source.value, "stored")
                self._wake()
                if known_types is not None:
                    await asyncio.wait([first_attempt], timeout=self._answer_wait_seconds)
            else:
                metrics.webhook_received(source.value, "ignored")
        return Taken(event_id=event.event_id, event_type=event.event_type, duplicate=duplicate, known=known)

    async def _store(self, event: NewEvent) -> bool:
        """Store the event; return whether it was there before. Raises SignatureInvalid, StoreUnavailable."""
        async with self._database.plain_transaction() as connection:
            stored = await rows.store(connection, event)
            before = stored.payload_before
            # What is raised here takes the count of the delivery back.
            if before is not None and not _same_event(event.source, before, event.payload):
                raise refusal(event.source, Rule.CONTENT_CHANGED)
        return stored.duplicate

    def _note_mismatch(self, source: WebhookSource, version: str) -> None:
        metrics.webhook_version_mismatch(source.value)
        if (source, version) not in self._versions_logged and len(self._versions_logged) < VERSIONS_LOGGED_MAX:
            self._versions_logged.add((source, version))
            log.warning("webhook_version_mismatch", source=source, version=version, why=self._api_versions[source])


def _by_name(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers by lower-case name; one that is given twice is put together, as HTTP has it."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        found[lower] = f"{found[lower]}, {value}" if lower in found else value
    return found


def _checked(
    source: WebhookSource, payload: bytes, headers: Headers, secrets: Sequence[str], freshness: Freshness
) -> _Described:
    """Return what the event says of itself, once it is known to be genuine."""
    if source is WebhookSource.STRIPE:
        signatures.check_stripe(payload, headers, secrets, freshness)
        content = parse_body(payload)
        return _Described(
            event_id=_text(content, "id", _EVENT_ID),
            event_type=_event_type(content, "type"),
            event_time=_time(content.get("created")),
            api_version=_api_version(content.get("api_version")),
        )
    if source is WebhookSource.CLERK:
        message_id = signatures.check_svix(payload, headers, secrets, freshness)
        content = parse_body(payload)
        milliseconds = content.get("timestamp")
        return _Described(
            event_id=message_id,
            event_type=_event_type(content, "type"),
            event_time=_time(milliseconds / _MILLISECONDS if _is_number(milliseconds) else None),
        )
    signatures.check_ayrshare(payload, headers, secrets, freshness)
    content = parse_body(payload)
    return _Described(
        event_id=hashlib.sha256(payload).hexdigest(),
        event_type=_event_type(content, "action"),
        event_time=_time(content.get("created")),
    )


def _text(content: Mapping[str, Any], name: str, form: re.Pattern[str]) -> str:
    value = content.get(name)
    if not isinstance(value, str) or form.fullmatch(value) is None:
        raise InvalidRequest.of("payload", f"has no {name} as its source writes them")
    return value


def _event_type(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= EVENT_TYPE_LENGTH_MAX or _CONTROL.search(value):
        raise InvalidRequest.of("payload", f"has no {name} as its source writes them")
    return value


def _api_version(value: object) -> str:
    """Return the version, cut to what is stored; none of it where it is no text of one line."""
    return value[:API_VERSION_LENGTH_MAX] if isinstance(value, str) and _CONTROL.search(value) is None else ""


def _time(value: object) -> datetime | None:
    """Return an instant given in seconds since 1970 or as ISO text; None for what is none, or not of our time."""
    try:
        if isinstance(value, str):
            instant = datetime.fromisoformat(value)
            instant = instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
        elif _is_number(value):
            instant = datetime.fromtimestamp(value, UTC)
        else:
            return None
        instant = instant.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return instant if _YEAR_MIN <= instant.year < _YEAR_END else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same_event(source: WebhookSource, before: bytes, after: bytes) -> bool:
    """Tell whether two bodies are deliveries of one event."""
    if before == after:
        return True
    first, second = parse_body(before), parse_body(after)
    if source is WebhookSource.STRIPE:
        # How many endpoints still wait for the event is no part of what happened.
        for content in (first, second):
            content.pop("pending_webhooks", None)
        if first.get("api_version") != second.get("api_version"):
            # Two endpoints of different versions are told the same in different words.
            return _stripe_identity(first) == _stripe_identity(second)
    return first == second


def _stripe_identity(content: Mapping[str, Any]) -> tuple[object, ...]:
    data = content.get("data")
    about = data.get("object") if isinstance(data, dict) else None
    object_id = about.get("id") if isinstance(about, dict) else None
    return content.get("type"), content.get("created"), content.get("livemode"), object_id
