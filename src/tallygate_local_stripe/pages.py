"""The two pages a customer sees: checkout and billing portal. Plain forms, no scripts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from tallygate_local_stripe import checkout, portal
from tallygate_local_stripe.errors import StripeError
from tallygate_local_stripe.form import parse
from tallygate_local_stripe.objects import JsonObject
from tallygate_local_stripe.subscriptions import ENDED, items_of
from tallygate_local_stripe.world import World

_STYLE = (
    "body{font:16px/1.5 system-ui;max-width:34rem;margin:3rem auto;padding:0 1rem;color:#1a1f36}"
    "button{font:inherit;padding:.5rem 1rem;margin:.25rem .25rem .25rem 0}"
    "form{display:inline}table{width:100%}td:last-child{text-align:right}.problem{color:#b3093c}"
)


def _page(title: str, *parts: str, status: int = 200) -> HTMLResponse:
    body = "\n".join(parts)
    document = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1>{body}<p><small>Local Stripe: no money moves.</small></p></html>"
    )
    return HTMLResponse(document, status_code=status)


def _button(label: str, **fields: str) -> str:
    hidden = "".join(f"<input type='hidden' name='{name}' value='{escape(value)}'>" for name, value in fields.items())
    return f"<form method='post'>{hidden}<button>{escape(label)}</button></form>"


def _money(amount: int, currency: str) -> str:
    return f"{amount / 100:.2f} {currency.upper()}"


def _goods(items: Iterable[JsonObject]) -> str:
    rows = "".join(
        f"<tr><td>{item['quantity']} × {escape(item['description'])}</td>"  # noqa: RUF001 - The sign for "times".
        f"<td>{_money(item['amount_total'], item['currency'])}</td></tr>"
        for item in items
    )
    return f"<table>{rows}</table>"


class Pages:
    """The pages of one local Stripe."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/", self.home),
            Route("/c/pay/{id}", self.checkout, methods=["GET", "POST"]),
            Route("/p/session/{id}", self.portal, methods=["GET", "POST"]),
        ]

    async def home(self, _request: Request) -> Response:
        """Say what this is."""
        rows = "".join(f"<tr><td>{kind}</td><td>{n}</td></tr>" for kind, n in self._world.store.counts().items())
        return _page("Local Stripe", f"<table>{rows}</table>")

    async def checkout(self, request: Request) -> Response:
        """Show a session, and do what its buttons say."""
        problem = ""
        session: JsonObject = {}
        try:
            session = self._world.store.get("checkout.session", request.path_params["id"])
            if request.method == "POST":
                form = parse((await request.body()).decode())
                session = checkout.complete(self._world, session["id"], outcome=form.get("outcome", "paid"))
        except StripeError as error:
            if error.status != 402:  # noqa: PLR2004 - Stripe's status for a refused card.
                return _page("Checkout", f"<p class='problem'>{escape(error.message)}</p>", status=error.status)
            problem = f"<p class='problem'>{escape(error.message)}</p>"
        if session["status"] == "complete":
            target = (session["success_url"] or "/").replace("{CHECKOUT_SESSION_ID}", session["id"])
            return RedirectResponse(target, status_code=303)
        if session["status"] == "expired":
            return _page("Checkout", "<p>This session has expired.</p>", status=410)
        total = _money(session["amount_total"], session["currency"])
        back = f"<p><a href='{escape(session['cancel_url'])}'>Back</a></p>" if session["cancel_url"] else ""
        return _page(
            "Checkout",
            _goods(session["_line_items"]),
            f"<p>Due today: <b>{total}</b></p>",
            problem,
            _button(f"Pay {total}", outcome="paid"),
            _button("Be declined", outcome="declined"),
            _button("Pay later (asynchronous)", outcome="async_pending"),
            back,
        )

    async def portal(self, request: Request) -> Response:
        """Show a customer's subscriptions, and do what the buttons say."""
        problem = ""
        try:
            session = self._world.store.get("billing_portal.session", request.path_params["id"])
            if request.method == "POST":
                form = parse((await request.body()).decode())
                portal.act(
                    self._world,
                    session["id"],
                    action=form.get("action", ""),
                    subscription_id=form.get("subscription", ""),
                    choice=form.get("choice"),
                )
        except StripeError as error:
            if error.code == "resource_missing":
                return _page("Billing portal", f"<p class='problem'>{escape(error.message)}</p>", status=error.status)
            problem = f"<p class='problem'>{escape(error.message)}</p>"
        session = self._world.store.get("billing_portal.session", request.path_params["id"])
        owned = self._world.store.all("subscription", lambda entry: entry["customer"] == session["customer"])
        parts = [self._subscription(entry) for entry in owned if entry["status"] not in ENDED]
        back = f"<p><a href='{escape(session['return_url'])}'>Back</a></p>" if session["return_url"] else ""
        return _page("Billing portal", problem, *parts, back)

    def _subscription(self, subscription: JsonObject) -> str:
        item = items_of(subscription)[0]
        name = self._world.store.get("product", item["price"]["product"])["name"]
        identity = subscription["id"]
        ending = subscription["cancel_at_period_end"]
        keep = _button("Keep it", action="resume", subscription=identity)
        stop = _button("Cancel at period end", action="cancel", subscription=identity)
        others = [
            _button(
                f"Switch to {_money(price['unit_amount'], price['currency'])} / {price['recurring']['interval']}",
                action="switch",
                subscription=identity,
                choice=price["id"],
            )
            for price in self._world.store.all(
                "price", lambda entry: entry["recurring"] is not None and entry["active"]
            )
            if price["id"] != item["price"]["id"] and price["currency"] == subscription["currency"]
        ]
        cards = [
            _button(label, action="card", subscription=identity, choice=choice)
            for label, choice in (("A good card", "pm_card_visa"), ("A card that fails", "pm_card_chargeCustomerFail"))
        ]
        state = escape(subscription["status"])
        return f"<h2>{escape(name)}</h2><p>{state}</p>{keep if ending else stop}{''.join(others)}<br>{''.join(cards)}"
