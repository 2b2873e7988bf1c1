"""Endpoints under /_local: move time, break things, act as the customer, look inside. Bodies and answers are JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tallygate_local_stripe import checkout, payments, portal, webhooks
from tallygate_local_stripe.errors import StripeError, missing_parameter, unknown_parameter
from tallygate_local_stripe.faults import Fault, Faults
from tallygate_local_stripe.objects import JsonObject
from tallygate_local_stripe.webhooks import Mode, Sender
from tallygate_local_stripe.world import BillingSettings, World

Record = TypeVar("Record", Mode, Fault, BillingSettings)
AFTER_RETRIES: Final = ("cancel", "unpaid", "past_due")


def record(cls: type[Record], body: JsonObject) -> Record:
    """Read a body into a record.

    Raises:
        StripeError: the body has a name that the record does not, or lacks a needed one.

    """
    known = {entry.name for entry in fields(cls)}
    for name in body:
        if name not in known:
            raise unknown_parameter(name)
    try:
        return cls(**body)
    except TypeError as error:
        raise StripeError(f"Missing: {error}") from error


class Control:
    """The control endpoints of one local Stripe."""

    def __init__(self, world: World, sender: Sender, faults: Faults, reset: Callable[[], None]) -> None:
        self._world = world
        self._sender = sender
        self._faults = faults
        self._reset = reset

    def routes(self) -> list[Route]:
        """Return the routes."""
        handlers: list[tuple[str, str, Callable[[Request, JsonObject], Awaitable[Any]]]] = [
            ("GET", "/_local/state", self.state),
            ("POST", "/_local/reset", self.reset),
            ("GET", "/_local/clock", self.clock),
            ("POST", "/_local/clock", self.move_clock),
            ("POST", "/_local/settings", self.settings),
            ("GET", "/_local/faults", self.faults),
            ("POST", "/_local/faults", self.add_fault),
            ("DELETE", "/_local/faults", self.clear_faults),
            ("GET", "/_local/webhooks", self.webhooks),
            ("POST", "/_local/webhooks", self.set_webhooks),
            ("POST", "/_local/webhooks/release", self.release),
            ("POST", "/_local/webhooks/flush", self.flush),
            ("POST", "/_local/webhooks/resend", self.resend),
            ("POST", "/_local/webhook_endpoints", self.add_endpoint),
            ("POST", "/_local/webhook_endpoints/{id}/roll_secret", self.roll_secret),
            ("POST", "/_local/checkout/{id}/complete", self.complete_checkout),
            ("POST", "/_local/checkout/{id}/async", self.settle_checkout),
            ("POST", "/_local/portal/{id}", self.act_in_portal),
            ("POST", "/_local/payment_intents/{id}/authenticate", self.authenticate),
            ("POST", "/_local/charges/{id}/dispute", self.dispute),
            ("POST", "/_local/disputes/{id}/close", self.close_dispute),
            ("POST", "/_local/charges/{id}/fraud_warning", self.fraud_warning),
        ]
        return [Route(path, _endpoint(handler), methods=[method]) for method, path, handler in handlers]

    async def state(self, _request: Request, _body: JsonObject) -> JsonObject:
        """Return how many objects of each kind there are, for "nothing was created twice"."""
        return {"objects": self._world.store.counts(), "now": self._world.clocks.now(None)}

    async def reset(self, _request: Request, _body: JsonObject) -> JsonObject:
        """Forget everything but the endpoints' registration at the start."""
        self._reset()
        return {"reset": True}

    async def clock(self, _request: Request, _body: JsonObject) -> JsonObject:
        """Return the time of all objects without a test clock."""
        clocks = self._world.clocks
        return {"now": clocks.now(None), "ahead_seconds": clocks.ahead_seconds, "frozen": clocks.is_frozen}

    async def move_clock(self, request: Request, body: JsonObject) -> JsonObject:
        """Move the clock of everything by `advance_seconds` or to `now` (seconds or ISO), or set `frozen`."""
        clocks = self._world.clocks
        target = moment(body["now"]) if "now" in body else clocks.now(None) + int(body.get("advance_seconds", 0))
        if target < clocks.now(None):
            raise StripeError("Time goes forward only.", param="now")
        if "frozen" in body:
            clocks.freeze(frozen=bool(body["frozen"]))
        clocks.advance(None, target)
        return await self.clock(request, body)

    async def settings(self, _request: Request, body: JsonObject) -> JsonObject:
        """Change what Stripe's dashboard would: retry days, what follows the last retry, days of notice."""
        changed = record(BillingSettings, asdict(self._world.settings) | body)
        if changed.after_retries not in AFTER_RETRIES:
            raise StripeError(f"after_retries must be one of {', '.join(AFTER_RETRIES)}.", param="after_retries")
        self._world.settings = changed
        return asdict(changed)

    async def add_fault(self, _request: Request, body: JsonObject) -> JsonObject:
        """Have something go wrong at an endpoint."""
        fault = record(Fault, body)
        self._faults.add(fault)
        return asdict(fault)

    async def faults(self, _request: Request, _body: JsonObject) -> JsonObject:
        """Return what still waits to go wrong."""
        return {"faults": [asdict(fault) for fault in self._faults.waiting]}

    async def clear_faults(self, request: Request, body: JsonObject) -> JsonObject:
        """Let nothing go wrong any more, and slow requests go on."""
        self._faults.clear()
        return await self.faults(request, body)

    async def webhooks(self, _request: Request, _body: JsonObject) -> JsonObject:
        """Return what has been delivered and what waits."""
        return self._sender.report()

    async def set_webhooks(self, _request: Request, body: JsonObject) -> JsonObject:
        """Choose what is done to webhooks from now on."""
        self._sender.set_mode(record(Mode, body))
        return self._sender.report()

    async def release(self, _request: Request, _body: JsonObject) -> JsonObject:
        """Let go what is held back or delayed."""
        return {"released": self._sender.release()}

    async def flush(self, _request: Request, _body: JsonObject) -> JsonObject:
        """Deliver all that is due, answer when that is done."""
        return await self._sender.flush()

    async def resend(self, _request: Request, body: JsonObject) -> JsonObject:
        """Send a stored event again, as the button in Stripe's dashboard does."""
        event = self._world.store.get("event", _needed(body, "event"), param="event")
        self._sender.take(event)
        return {"resent": event["id"]}

    async def add_endpoint(self, _request: Request, body: JsonObject) -> JsonObject:
        """Register an endpoint with a secret of your own choice."""
        given = {"url": _needed(body, "url"), "enabled_events": body.get("enabled_events", ["*"])}
        endpoint = webhooks.add_endpoint(
            self._world, given | {"api_version": body.get("api_version")}, secret=body.get("secret")
        )
        return {"id": endpoint["id"], "secret": endpoint["_secrets"][0]}

    async def roll_secret(self, request: Request, body: JsonObject) -> JsonObject:
        """Give an endpoint a new secret; with `expire_old` the old one stops signing."""
        endpoint_id = request.path_params["id"]
        fresh = webhooks.roll_secret(
            self._world, endpoint_id, secret=body.get("secret"), expire_old=bool(body.get("expire_old", False))
        )
        return {"id": endpoint_id, "secret": fresh}

    async def complete_checkout(self, request: Request, body: JsonObject) -> JsonObject:
        """Act as the customer on the checkout page; `outcome` is paid, async_pending or declined."""
        return self._world.render(
            checkout.complete(
                self._world,
                request.path_params["id"],
                payment_method=body.get("payment_method", "pm_card_visa"),
                outcome=body.get("outcome", "paid"),
                email=body.get("email"),
            )
        )

    async def settle_checkout(self, request: Request, body: JsonObject) -> JsonObject:
        """Let an asynchronous payment arrive; `outcome` is succeeded or failed."""
        succeeds = body.get("outcome", "succeeded") == "succeeded"
        return self._world.render(checkout.settle_async(self._world, request.path_params["id"], succeeds=succeeds))

    async def act_in_portal(self, request: Request, body: JsonObject) -> JsonObject:
        """Act as the customer in the billing portal; `action` is cancel, resume, switch or card."""
        return self._world.render(
            portal.act(
                self._world,
                request.path_params["id"],
                action=_needed(body, "action"),
                subscription_id=_needed(body, "subscription"),
                choice=body.get("choice"),
            )
        )

    async def authenticate(self, request: Request, body: JsonObject) -> JsonObject:
        """Act as the customer in the bank's window; `outcome` is succeeded or failed."""
        succeeds = body.get("outcome", "succeeded") == "succeeded"
        return self._world.render(payments.authenticate(self._world, request.path_params["id"], succeeds=succeeds))

    async def dispute(self, request: Request, body: JsonObject) -> JsonObject:
        """Have the cardholder dispute a charge."""
        charge_id, amount = request.path_params["id"], body.get("amount")
        dispute = payments.open_dispute(self._world, charge_id, amount=amount, reason=body.get("reason", "fraudulent"))
        return self._world.render(dispute)

    async def close_dispute(self, request: Request, body: JsonObject) -> JsonObject:
        """Decide a dispute; `status` is won, lost or warning_closed."""
        dispute_id = request.path_params["id"]
        return self._world.render(payments.close_dispute(self._world, dispute_id, status=_needed(body, "status")))

    async def fraud_warning(self, request: Request, body: JsonObject) -> JsonObject:
        """Have the card's network warn of fraud."""
        kind = body.get("fraud_type", "made_with_stolen_card")
        return self._world.render(payments.warn_of_fraud(self._world, request.path_params["id"], fraud_type=kind))


def moment(given: str | int) -> int:
    """Return Unix seconds for Unix seconds or an ISO time with its offset."""
    return given if isinstance(given, int) else int(datetime.fromisoformat(given).timestamp())


def _needed(body: JsonObject, name: str) -> Any:
    if body.get(name) is None:
        raise missing_parameter(name)
    return body[name]


def _endpoint(
    handler: Callable[[Request, JsonObject], Awaitable[Any]],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            body = await request.json() if await request.body() else {}
            return JSONResponse(await handler(request, body))
        except StripeError as error:
            return JSONResponse(error.body("req_local"), status_code=error.status)

    return endpoint
