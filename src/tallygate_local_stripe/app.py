"""The application: authentication, idempotency, faults, the endpoints, and the work in the background."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tallygate_local_stripe import (
    catalog,
    checkout,
    customers,
    invoice_previews,
    invoices,
    parameters,
    payment_methods,
    payments,
    portal,
    routing,
    schedules,
    subscription_requests,
    subscriptions,
    test_clocks,
    webhooks,
)
from tallygate_local_stripe.control import Control
from tallygate_local_stripe.errors import StripeError
from tallygate_local_stripe.faults import Fault, Faults
from tallygate_local_stripe.form import parse
from tallygate_local_stripe.idempotency import IdempotencyKeys
from tallygate_local_stripe.objects import JsonObject
from tallygate_local_stripe.pages import Pages
from tallygate_local_stripe.store import read_file, write_file
from tallygate_local_stripe.webhooks import Sender
from tallygate_local_stripe.world import API_VERSION, BillingSettings, World

_log = logging.getLogger("tallygate_local_stripe")

BODY_BYTES_MAX: Final = 1 << 20
TICK_SECONDS: Final = 1.0

_FAMILIES: Final = (
    customers.routes,
    catalog.routes,
    payment_methods.routes,
    payments.routes,
    invoices.routes,
    invoice_previews.routes,
    subscription_requests.routes,
    schedules.routes,
    checkout.routes,
    portal.routes,
    test_clocks.routes,
    webhooks.routes,
)
# Literal paths win over those with names, as /v1/invoices/create_preview over /v1/invoices/{id}.
_ROUTES: Final = sorted(
    (route for family in _FAMILIES for route in family.routes), key=lambda route: route.template.count("{")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one local Stripe is started."""

    # Unix seconds at which the clock of everything stands still; None lets it run.
    frozen_at: int | None = None
    data_file: Path | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = None


class _Hang(Response):
    """Never answer; end when the client gives up."""

    async def __call__(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue


class _Cut(Response):
    """Promise an answer and close the connection in the middle of it."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


class LocalStripe:
    """One local Stripe: its state and the ASGI application that serves it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.world = World(frozen_at=settings.frozen_at)
        self._keys = IdempotencyKeys()
        self._faults = Faults()
        self._sender = Sender(self.world)
        self._written_revision = 0
        for install in (subscriptions.install, invoices.install, schedules.install, checkout.install):
            install(self.world)
        self.world.includes["customer", "tax_ids"] = customers.include_tax_ids
        self.world.includes["charge", "refunds"] = payments.include_refunds
        self.world.on_event = self._sender.take
        self.world.after_answer = _soon
        self._restore()
        self._register_endpoint()
        control = Control(self.world, self._sender, self._faults, self.reset)
        pages = Pages(self.world)
        api = Route("/{path:path}", self._api, methods=["GET", "POST", "DELETE"])
        self.app = Starlette(routes=[*control.routes(), *pages.routes(), api], lifespan=self._lifespan)

    def reset(self) -> None:
        """Forget all objects, keys, faults and deliveries; the endpoint given at the start stays."""
        self.world.store.clear()
        self.world.settings = BillingSettings()
        self.world.clocks.clear_work()
        self._keys.clear()
        self._faults.clear()
        self._sender.reset()
        self._register_endpoint()

    def _register_endpoint(self) -> None:
        """Register the endpoint of the command line in place of an earlier start's, whose port is gone."""
        for endpoint in self.world.store.all("webhook_endpoint", lambda entry: "_of_this_start" in entry):
            self.world.store.remove("webhook_endpoint", endpoint["id"])
        if self._settings.webhook_url is not None:
            given = {"url": self._settings.webhook_url, "enabled_events": ["*"], "api_version": API_VERSION}
            endpoint = webhooks.add_endpoint(self.world, given, secret=self._settings.webhook_secret)
            endpoint["_of_this_start"] = True

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._sender.run()), asyncio.create_task(self._tick())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._write()

    async def _tick(self) -> None:
        """Do what time brings, also while nobody asks."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.world.clocks.catch_up()
            self._write()

    async def _api(self, request: Request) -> Response:
        request_id = f"req_{secrets.token_hex(7)}"
        method, path = request.method, request.url.path
        try:
            _authenticate(request)
            self.world.clocks.catch_up()
            given = parse(await _text(request) if method == "POST" else request.url.query)
            key = request.headers.get("idempotency-key") if method == "POST" else None
            return await self._serve(_Exchange(method=method, path=path, given=given, key=key, id=request_id))
        except StripeError as error:
            return _answer(request_id, error.status, error.body(request_id))

    async def _serve(self, exchange: _Exchange) -> Response:
        route, names = _find(exchange.method, exchange.path)
        fault = self._faults.take(exchange.method, exchange.path)
        early = await _fault_before(fault, exchange)
        if early is not None:
            if fault is not None and fault.saved and exchange.key is not None:
                self._begin(exchange)
                self._keys.save(exchange.key, status=early.status_code, body=_outage(exchange.id).body(exchange.id))
            return early
        params = parameters.read(route.shape, exchange.given)
        if exchange.key is not None:
            saved = self._begin(exchange)
            if saved is not None:
                return saved
        status, body = await self._execute(exchange, route, names, params, fault)
        if fault is not None and fault.kind in ("timeout_after", "cut_after"):
            return _Hang() if fault.kind == "timeout_after" else _Cut()
        return _answer(exchange.id, status, body, key=exchange.key)

    def _begin(self, exchange: _Exchange) -> Response | None:
        assert exchange.key is not None
        now = self.world.clocks.now(None)
        saved = self._keys.begin(exchange.key, path=exchange.path, params=exchange.given, now=now)
        if saved is None or saved.body is None:
            return None
        return _answer(exchange.id, saved.status, saved.body, key=exchange.key, replayed=True)

    async def _execute(
        self, exchange: _Exchange, route: routing.Route, names: dict[str, str], params: JsonObject, fault: Fault | None
    ) -> tuple[int, JsonObject]:
        """Run the endpoint and save its answer under the key; what validation refuses leaves the key unused."""
        if fault is not None and fault.kind == "slow_ms":
            await self._faults.slow_down(fault)
        self.world.request = {"id": exchange.id, "idempotency_key": exchange.key}
        keeps = True
        try:
            call = routing.Call(world=self.world, path=exchange.path, names=names, params=params)
            status, body = 200, self.world.render(route.handler(call), params.get("expand"))
        except StripeError as error:
            status, body = error.status, error.body(exchange.id)
            keeps = error.kind != "invalid_request_error"
        except Exception:  # noqa: BLE001 - A mistake of ours is an outage of Stripe to the caller, and is logged.
            _log.exception("The local Stripe failed at %s %s", exchange.method, exchange.path)
            status, body = 500, _outage(exchange.id).body(exchange.id)
        finally:
            self.world.request = {"id": None, "idempotency_key": None}
        if fault is not None and fault.kind == "error_after":
            status, body, keeps = 500, _outage(exchange.id).body(exchange.id), True
        if exchange.key is not None and keeps:
            self._keys.save(exchange.key, status=status, body=body)
        elif exchange.key is not None:
            self._keys.forget(exchange.key)
        return status, body

    def _state(self) -> JsonObject:
        return {
            "api_version": API_VERSION,
            "tables": self.world.store.tables,
            "clocks": self.world.clocks.state(),
            "settings": asdict(self.world.settings),
            "idempotency_keys": self._keys.state(),
        }

    def _write(self) -> None:
        if self._settings.data_file is not None and self._written_revision != self.world.store.revision:
            self._written_revision = self.world.store.revision
            write_file(self._settings.data_file, self._state())

    def _restore(self) -> None:
        state = read_file(self._settings.data_file) if self._settings.data_file is not None else None
        if state is None or state["api_version"] != API_VERSION:
            return
        self.world.store.tables = state["tables"]
        self.world.clocks.restore(**state["clocks"])
        self.world.settings = BillingSettings(**state["settings"])
        self._keys.restore(state["idempotency_keys"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchange:
    method: str
    path: str
    given: dict[str, Any]
    key: str | None
    id: str


def _soon(work: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(work)


async def _text(request: Request) -> str:
    body = await request.body()
    if len(body) > BODY_BYTES_MAX:
        raise StripeError("Request body is too large.", status=413)
    return body.decode()


def _authenticate(request: Request) -> None:
    """Accept any secret or restricted key of test mode, and the pinned version only.

    Raises:
        StripeError: there is no such key, or another version is asked for.

    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme == "Basic":
        # The key as user name, as `curl -u` sends it.
        with contextlib.suppress(binascii.Error):
            key = base64.b64decode(key).decode(errors="replace").partition(":")[0]
    if not key:
        raise StripeError("You did not provide an API key.", status=401)
    if not key.startswith(("sk_test_", "rk_test_")):
        raise StripeError(f"Invalid API Key provided: {key[:8]}****", status=401)
    version = request.headers.get("stripe-version", API_VERSION)
    if version != API_VERSION:
        raise StripeError(f"The local Stripe speaks version {API_VERSION} only, not {version}.")


def _find(method: str, path: str) -> tuple[routing.Route, dict[str, str]]:
    for route in _ROUTES:
        names = route.match(method, path)
        if names is not None:
            return route, names
    raise StripeError(f"Unrecognized request URL ({method}: {path}).", status=404)


def _outage(request_id: str) -> StripeError:
    message = f"An unknown error occurred (request {request_id})."
    return StripeError(message, status=500, kind="api_error")


async def _fault_before(fault: Fault | None, exchange: _Exchange) -> Response | None:
    """Return what a fault answers in place of the endpoint, if it strikes before the effect."""
    if fault is None:
        return None
    if fault.kind == "error_500":
        return _answer(exchange.id, 500, _outage(exchange.id).body(exchange.id))
    if fault.kind == "rate_limit_429":
        error = StripeError("Too many requests made to the API too quickly.", status=429, code="rate_limit")
        return _answer(exchange.id, 429, error.body(exchange.id), retry="true")
    if fault.kind == "timeout_before":
        return _Hang()
    return _Cut() if fault.kind == "cut_before" else None


def _answer(
    request_id: str,
    status: int,
    body: JsonObject,
    *,
    key: str | None = None,
    replayed: bool = False,
    retry: str | None = None,
) -> Response:
    headers = {"Request-Id": request_id, "Stripe-Version": API_VERSION}
    if key is not None:
        headers["Idempotency-Key"] = key
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if retry is None and (replayed or (key is not None and status >= 500)):  # noqa: PLR2004 - HTTP's server errors.
        # The same key would only bring the same answer again.
        retry = "false"
    if retry is not None:
        headers["Stripe-Should-Retry"] = retry
    return JSONResponse(body, status_code=status, headers=headers)
