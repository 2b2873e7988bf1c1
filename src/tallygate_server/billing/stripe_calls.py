"""How Stripe is called: every call is bounded, counted, and repeated safely.

Three rings around each method of the gateway:

1. The library tries again what was not answered, a few times, with growing pauses and the same idempotency key.
2. `write` gets past an answer that Stripe has stored: a failure is replayed under the same key for a day, also one that
   came after the effect. So after a stored failure it looks whether the thing is there, and goes on with another key
   only if it is not.
3. `guarded` bounds the whole time, and a circuit breaker stops asking somebody who does not answer.
"""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx
import stripe
import structlog

from tallygate_server.billing.circuit_breaker import CircuitBreaker
from tallygate_server.billing.stripe_errors import is_absence, is_conflict, problem_of, refusal, translated, unavailable
from tallygate_server.billing.stripe_objects import Fields, JsonObject, StripeObjectInvalid
from tallygate_server.clock import Clock
from tallygate_server.config import is_loopback_host
from tallygate_server.errors import BillingProviderUnavailable, PaymentRefused
from tallygate_server.telemetry import BillingOutcome, metrics

_LOG = structlog.get_logger(__name__)

API_VERSION: Final = "2026-10-28.endive"
"""The version whose shapes `stripe_objects` reads; webhook endpoints should have the same."""

KEYS_MAX: Final = 3
"""Idempotency keys that one step may use up, each after a stored failure that left nothing behind."""

KEY_LENGTH_MAX: Final = 255

PAGE_SIZE: Final = 100

PAGES_MAX: Final = 10_000
"""A million objects: a list that goes on beyond this repeats itself."""

CONNECTIONS_MAX: Final = 50

FIRST_ERROR: Final = 400
BAD_GATEWAY: Final = 502

_FOREIGN: Final = b'{"error": {"type": "api_error"}}'
"""Stands for an answer that is not Stripe's."""

P = ParamSpec("P")
R = TypeVar("R")

_statuses: ContextVar[list[int] | None] = ContextVar("stripe_statuses", default=None)
"""HTTP statuses that the tries of the request under way were answered with."""


class StripeHttp(stripe.HTTPClient):
    """Carries the library's requests over httpx; asynchronous only."""

    name = "httpx"

    def __init__(self, *, timeout_ms: int, api_base: str) -> None:
        """Bound each try; the environment's proxy is for the world outside, never for this machine."""
        super().__init__()
        self._timeout_seconds = timeout_ms / 1_000
        verify: ssl.SSLContext | bool = False
        if api_base.startswith("https:"):
            verify = ssl.create_default_context(cafile=stripe.ca_bundle_path)
        self._client = httpx.AsyncClient(
            verify=verify,
            timeout=self._timeout_seconds,
            trust_env=not is_loopback_host(urlsplit(api_base).hostname or ""),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
        )

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Send one try."""
        try:
            # httpx bounds each read; this bounds an answer that drips.
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._client.request(method, url, headers=dict(headers), content=post_data)
        except (httpx.HTTPError, TimeoutError) as error:
            raise stripe.APIConnectionError(  # type: ignore[no-untyped-call]  # The library left it bare.
                type(error).__name__, should_retry=True
            ) from error
        content, status = response.content, response.status_code
        if not _is_stripes(content, status):
            # A proxy's page, say. The library trips over some of these, and would take a foreign 404 for an absence.
            content, status = _FOREIGN, max(status, BAD_GATEWAY)
        statuses = _statuses.get()
        if statuses is not None:
            statuses.append(status)
        return content, status, response.headers

    def sleep_async(self, secs: float) -> Awaitable[None]:
        """Wait between two tries."""
        return asyncio.sleep(secs)

    async def close_async(self) -> None:
        """Close the connections."""
        await self._client.aclose()


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write."""

    data: JsonObject
    fresh: bool
    """False for an answer that Stripe had stored: what it shows may have changed since."""


class HasCalls(Protocol):
    """Whose methods `guarded` may wrap."""

    _calls: StripeCalls


class StripeCalls:
    """The way to Stripe."""

    def __init__(
        self,
        *,
        api_key: str,
        api_base: str,
        clock: Clock,
        timeout_ms: int,
        call_timeout_ms: int,
        retries_max: int,
        breaker_failures_max: int,
        breaker_open_ms: int,
    ) -> None:
        """Set up; nothing is sent before the first call."""
        # The library would write an id of this machine into the home directory, and send it along.
        stripe.enable_telemetry = False
        api_base = api_base.rstrip("/")
        self._clock = clock
        self._call_timeout_seconds = call_timeout_ms / 1_000
        self._http = StripeHttp(timeout_ms=timeout_ms, api_base=api_base)
        self._breaker = CircuitBreaker(failures_max=breaker_failures_max, open_ms=breaker_open_ms)
        self.v1 = stripe.StripeClient(
            api_key,
            stripe_version=API_VERSION,
            base_addresses={"api": api_base},
            http_client=self._http,
            max_network_retries=retries_max,
        ).v1
        metrics.billing_breaker_state.read_with(lambda: self._breaker.state(clock.monotonic_ns()).value)

    async def close(self) -> None:
        """Close the connections."""
        metrics.billing_breaker_state.read_with(None)
        await self._http.close_async()

    # -------------------------------------------------------------- one call

    async def guard(self, method: str, work: Callable[[], Awaitable[R]]) -> R:
        """Do the work within its bounds, and turn what goes wrong into errors of ours."""
        started_ns = self._clock.monotonic_ns()
        if not self._breaker.admit(started_ns):
            metrics.billing_call(method, "not_tried", 0.0)
            raise unavailable("it has not answered for a while")
        outcome: BillingOutcome = "broken"
        try:
            async with asyncio.timeout(self._call_timeout_seconds):
                result = await work()
        except (TimeoutError, stripe.StripeError, PaymentRefused, BillingProviderUnavailable) as error:
            ours = self._ours(method, error)
            outcome = "unavailable" if isinstance(ours, BillingProviderUnavailable) else "refused"
            if ours is error:
                raise
            # Stripe's text must not come along in a logged chain of causes.
            raise ours from None
        except StripeObjectInvalid as error:
            outcome = "invalid"
            _LOG.error("stripe_object_invalid", method=method, kind=error.kind, path=error.path)
            raise
        except asyncio.CancelledError:
            outcome = "canceled"
            raise
        else:
            outcome = "done"
            return result
        finally:
            ended_ns = self._clock.monotonic_ns()
            if outcome == "unavailable":
                self._breaker.failed(ended_ns)
            elif outcome in {"canceled", "broken"}:
                self._breaker.abandoned()
            else:
                self._breaker.answered()
            metrics.billing_call(method, outcome, (ended_ns - started_ns) / 1e9)

    def _ours(self, method: str, error: Exception) -> PaymentRefused | BillingProviderUnavailable:
        if isinstance(error, PaymentRefused | BillingProviderUnavailable):
            return error
        if not isinstance(error, stripe.StripeError):
            _LOG.warning("stripe_timed_out", method=method)
            return unavailable("no answer in time")
        problem = problem_of(error)
        ours = translated(error)
        if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
            # Nothing works until somebody corrects the setting.
            _LOG.error("stripe_key_not_accepted", method=method, code=problem.code, status=problem.status)
        elif isinstance(ours, BillingProviderUnavailable):
            _LOG.warning("stripe_unavailable", method=method, why=type(error).__name__, status=problem.status)
        else:
            _LOG.info("stripe_refused", method=method, code=problem.code, path=problem.parameter)
        return ours

    # -------------------------------------------------------------- one request

    async def read(self, request: Awaitable[stripe.StripeObject]) -> JsonObject:
        """Return the object that a request which changes nothing is answered with."""
        return plain(await request)

    async def read_or_none(self, request: Awaitable[stripe.StripeObject]) -> JsonObject | None:
        """Return the object that a request is answered with; None where Stripe says that there is none."""
        try:
            return plain(await request)
        except stripe.InvalidRequestError as error:
            if is_absence(error):
                return None
            raise

    async def write(
        self,
        key: str,
        send: Callable[[stripe.RequestOptions], Awaitable[stripe.StripeObject]],
        *,
        find: Callable[[], Awaitable[JsonObject | None]],
    ) -> Written:
        """Send a request that changes something, once, however often it takes.

        `find` returns what the request makes, or brings about, if that is so already. It is asked after a failure that
        Stripe has stored under the key, and when Stripe has another request under it: both would be repeated for a
        day. Only if nothing is there the request is sent under another key.
        """
        assert len(key) + 2 <= KEY_LENGTH_MAX
        last: stripe.StripeError | None = None
        for attempt in range(1, KEYS_MAX + 1):
            tried: list[int] = []
            token = _statuses.set(tried)
            try:
                answer = await send({"idempotency_key": key if attempt == 1 else f"{key}:{attempt}"})
            except stripe.StripeError as error:
                if not _is_stored(error, tried):
                    raise
                _LOG.warning("stripe_stored_failure", why=type(error).__name__, attempt=attempt)
                last = error
            else:
                return Written(plain(answer), fresh=not _is_replayed(_headers_of(answer)))
            finally:
                _statuses.reset(token)
            found = await find()
            if found is not None:
                return Written(found, fresh=True)
        if isinstance(last, stripe.IdempotencyError):
            # A defect of ours: one operation with several contents. Another try would meet it again.
            raise refusal("idempotency_error")
        raise unavailable("it keeps failing")

    async def pages(
        self,
        fetch: Callable[[Any], Awaitable[stripe.StripeObject]],
        wanted: Mapping[str, object],
        *,
        pages_max: int = PAGES_MAX,
    ) -> AsyncIterator[JsonObject]:
        """Yield the objects of a list, page by page; `fetch` is given the parameters of one page."""
        paging: dict[str, object] = {"limit": PAGE_SIZE}
        for _ in range(pages_max):
            page = Fields(plain(await fetch({**wanted, **paging})), kind="list", object_id="list")
            items = page.each("data")
            for item in items:
                yield item.data
            if not items or not page.flag("has_more"):
                return
            paging["starting_after"] = items[-1].text("id")
        _LOG.warning("stripe_list_cut", calls=pages_max)


def guarded(
    method: Callable[Concatenate[Any, P], Awaitable[R]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """Wrap a method of the gateway into `StripeCalls.guard`; its name is its label."""
    name: str = method.__name__

    @functools.wraps(method)
    async def wrapped(self: HasCalls, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._calls.guard(name, lambda: method(self, *args, **kwargs))

    return wrapped


def plain(answer: object) -> JsonObject:
    """Return an answer's JSON object."""
    if not isinstance(answer, stripe.StripeObject):
        raise StripeObjectInvalid("answer", "?", "(itself)", "is no object")
    return answer.to_dict()


def _is_stripes(content: bytes, status: int) -> bool:
    """Tell whether an answer is a JSON object, and an error one that says what is wrong."""
    try:
        body = json.loads(content)
    except ValueError:
        return False
    if not isinstance(body, dict):
        return False
    return status < FIRST_ERROR or isinstance(body.get("error"), dict)


def _is_stored(error: stripe.StripeError, tried: list[int]) -> bool:
    """Tell whether Stripe would give the same answer to the same key for a day.

    A second 500 to the same key is taken for a stored one too: proxies may drop the header that says so.
    """
    if isinstance(error, stripe.IdempotencyError):
        # A request that is still under way under the key (a conflict) may yet have its effect: another key would have
        # it twice.
        return not is_conflict(error)
    if error.http_status != 500:  # noqa: PLR2004 - Others come from before the request was carried out.
        return False
    return _is_replayed(error.headers) or tried.count(500) > 1


def _is_replayed(headers: object) -> bool:
    if not isinstance(headers, Mapping):
        return False
    return any(
        str(name).lower() == "idempotent-replayed" and str(value).lower() == "true" for name, value in headers.items()
    )


def _headers_of(answer: stripe.StripeObject) -> object:
    response = answer.last_response
    return response.headers if response is not None else None
