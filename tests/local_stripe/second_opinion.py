"""Ask localstripe for a second opinion on the local Stripe: the same calls to both, and what they say compared.

`make second-opinion` runs this; it is no part of `make test`. localstripe is under the GPL, so it is no dependency of
ours: it lives in an environment of its own, runs as a process of its own, and is spoken to over HTTP only.
"""

from __future__ import annotations

import asyncio
import calendar
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx
import stripe

# The script is run by its path, so the root of the repository is not on the import path by itself.
ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.local_stripe.known_differences import KNOWN, Known  # noqa: E402 - After the path.
from tests.support.eventually import eventually  # noqa: E402 - As above.
from tests.support.local_stripe import (  # noqa: E402 - As above.
    WEBHOOK_SECRET,
    WebhookSink,
    local_stripe,
    stripe_client,
    webhook_sink,
)

PINNED: Final = "localstripe==1.15.10"
HOME: Final = ROOT / ".second-opinion"
START_TIMEOUT_S: Final = 60
DELIVERY_TIMEOUT_S: Final = 60
# localstripe keeps its state there, wherever it is started; it is told not to read it.
LEFTOVER: Final = Path("/tmp/localstripe.pickle")  # noqa: S108 - Its choice, not ours.
# Its first line says so, with the address of all interfaces.
_ADDRESS: Final = re.compile(r"Running on http://\[::\]:(\d+)")
# Ends the command when standard input closes: also when whoever holds the other end is killed.
UNTIL_STDIN_CLOSES: Final = '"$@" </dev/null & cat >/dev/null; kill -KILL $!; wait'


# ---------------------------------------------------------------- the other one


def installed() -> Path:
    """Make the environment of the pinned localstripe, unless it is there; return its Python."""
    python, marker = HOME / "bin" / "python", HOME / "installed"
    if marker.is_file() and marker.read_text("utf-8") == PINNED:
        return python
    venv.create(HOME, clear=True, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PINNED], check=True)
    marker.write_text(PINNED, "utf-8")
    return python


@asynccontextmanager
async def second_stripe(python: Path) -> AsyncIterator[str]:
    """Run localstripe on a free port (of all addresses: it has no option for that) and end it for sure."""
    was_there = LEFTOVER.exists()
    log = HOME / "localstripe.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", UNTIL_STDIN_CLOSES, "sh",
            str(python), "-u", "-m", "localstripe", "--from-scratch", "--port", "0",
            # It counts months in local time.
            env={"PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC"},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = (await process.stdout.readline()).decode()
            port = int(_ADDRESS.findall(line)[0])
        except (TimeoutError, IndexError):
            sys.exit(f"localstripe did not start; see {log}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        await process.wait()
        if not was_there:
            LEFTOVER.unlink(missing_ok=True)


# ---------------------------------------------------------------- what is asked


@dataclass(slots=True, kw_only=True)
class Stand:
    """One of the two, what it is called differently there, and what was found out."""

    # Any: the one client speaks to an API version that localstripe does not have.
    client: Any
    url: str
    sink: WebhookSink
    # What a subscription's item buys: our prices, or the plans that came before them.
    sold_as: str
    # A card that is declined when it is attached.
    declined_card: str
    # A card whose charge the bank must ask about.
    authenticated_card: dict[str, Any] | None
    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, fact: str, value: Any) -> None:
        """Keep a fact."""
        assert fact not in self.facts, fact
        self.facts[fact] = value

    async def answer(self, fact: str, call: Awaitable[Any]) -> Any:
        """Keep how a call is answered: HTTP status, error type and code; return what it gave, if anything."""
        found, status = None, 200
        inner: dict[str, Any] = {}
        try:
            found = await call
        except stripe.StripeError as error:
            status = error.http_status or 0
            inner = error.json_body.get("error", {}) if isinstance(error.json_body, dict) else {}
        self.note(f"{fact}: status", status)
        self.note(f"{fact}: type", inner.get("type"))
        self.note(f"{fact}: code", inner.get("code"))
        return found

    async def has(self, what: str, call: Awaitable[Any]) -> None:
        """Keep whether there is such an endpoint."""
        try:
            await call
        except stripe.StripeError as error:
            if error.http_status != HTTPStatus.NOT_FOUND:
                raise
            self.note(f"has {what}", value=False)
        else:
            self.note(f"has {what}", value=True)

    async def product_price(self, product: str, amount: int, interval: str) -> str:
        """Put something up for sale."""
        if self.sold_as == "price":
            given = {"unit_amount": amount, "recurring": {"interval": interval}}
            return str((await self.client.v1.prices.create_async({"product": product, "currency": "usd", **given})).id)
        given = {"amount": amount, "interval": interval}
        return str((await self.client.v1.plans.create_async({"product": product, "currency": "usd", **given})).id)

    async def customer(self, card: str | None = "pm_card_visa") -> str:
        """Make a customer who pays with this card."""
        identity = str((await self.client.v1.customers.create_async({"email": "buyer@example.com"})).id)
        if card is not None:
            await self.pay_with(identity, card)
        return identity

    async def pay_with(self, customer: str, card: str) -> str:
        """Attach a card and make it the default; return its id."""
        method = await self.client.v1.payment_methods.attach_async(card, {"customer": customer})
        settings = {"default_payment_method": method.id}
        await self.client.v1.customers.update_async(customer, {"invoice_settings": settings})
        return str(method.id)

    async def subscribe(self, customer: str, price: str, **more: Any) -> Any:
        """Subscribe a customer."""
        return await self.client.v1.subscriptions.create_async(
            {"customer": customer, "items": [{self.sold_as: price}], **more}
        )

    async def invoices(self, customer: str) -> list[Any]:
        """Return a customer's invoices, as listed."""
        return list((await self.client.v1.invoices.list_async({"customer": customer})).data)

    async def charges(self, customer: str) -> list[Any]:
        """Return a customer's charges, as listed."""
        return list((await self.client.v1.charges.list_async({"customer": customer})).data)


async def ask_about_customers(stand: Stand) -> None:
    """Create, change, list and delete customers."""
    customers = stand.client.v1.customers
    address = {"line1": "1 High Street", "city": "Berlin", "country": "DE"}
    created = await customers.create_async(
        {"email": "ada@example.com", "name": "Ada", "address": address, "metadata": {"a": "1", "b": "2"}}
    )
    stand.note("customer: object", created.object)
    stand.note("customer: livemode", created.livemode)
    stand.note("customer: email, name", [created.email, created.name])
    stand.note("customer: city, country", [created.address["city"], created.address["country"]])
    stand.note("customer: metadata", _plain(created.metadata))
    stand.note("customer: default payment method at first", created.invoice_settings["default_payment_method"])
    changed = await customers.update_async(created.id, {"metadata": {"b": "3", "c": "4"}})
    stand.note("customer: metadata is merged", _plain(changed.metadata))
    stand.note("customer: what is not given stays", [changed.email, changed.name])
    changed = await customers.update_async(created.id, {"metadata": {"a": ""}})
    stand.note("customer: an empty value removes a metadata key", _plain(changed.metadata))
    changed = await customers.update_async(created.id, {"name": ""})
    stand.note("customer: an empty value removes a field", changed.name)
    await customers.create_async({"email": "bob@example.com"})
    await customers.create_async({"email": "bob@example.com"})
    found = await customers.list_async({"email": "bob@example.com"})
    stand.note("customer: found by email", len(found.data))
    page = await customers.list_async({"limit": 2})
    stand.note("customer: a page of two, and more", [len(page.data), page.has_more])
    rest = await customers.list_async({"limit": 2, "starting_after": page.data[-1].id})
    stand.note("customer: the page after", [len(rest.data), rest.has_more])
    listed = [entry.id for entry in (await customers.list_async()).data]
    stand.note("customer: listed newest first", listed[-1] == created.id)
    gone = await customers.delete_async(created.id)
    stand.note("customer: deleted", [gone.id == created.id, gone.deleted])
    again = await stand.answer("customer: retrieved when deleted", customers.retrieve_async(created.id))
    stand.note("customer: deleted flag when retrieved", again.deleted if again is not None else None)
    await stand.answer("customer: changed when deleted", customers.update_async(created.id, {"name": "Eve"}))
    listed = [entry.id for entry in (await customers.list_async()).data]
    stand.note("customer: listed when deleted", created.id in listed)
    await stand.answer("customer: missing", customers.retrieve_async("cus_missing"))
    await stand.answer("customer: unknown parameter", customers.create_async({"colour": "blue"}))
    same = [(await customers.create_async({}, {"idempotency_key": "once"})).id for _ in range(2)]
    stand.note("customer: one idempotency key makes one", same[0] == same[1])
    async with stripe_client(stand.url) as other:
        call = other.v1.customers.list_async(options={"api_key": "nonsense"})
        await stand.answer("a key that is none", call)


async def ask_about_tax_ids(stand: Stand) -> None:
    """Add and remove tax ids."""
    customers = stand.client.v1.customers
    owner = await stand.customer(card=None)
    german = await customers.tax_ids.create_async(owner, {"type": "eu_vat", "value": "DE123456789"})
    stand.note("tax id: type, value", [german.type, german.value])
    stand.note("tax id: country of eu_vat", german.country)
    stand.note("tax id: belongs to", german.customer == owner)
    stand.note("tax id: verification of DE123456789", german.verification["status"])
    australian = await customers.tax_ids.create_async(owner, {"type": "au_abn", "value": "12345678912"})
    stand.note("tax id: country of au_abn", australian.country)
    for digits in ("111111111", "222222222"):
        created = await customers.tax_ids.create_async(owner, {"type": "eu_vat", "value": f"FR00{digits}"})
        stand.note(f"tax id: verification of {digits}", created.verification["status"])
    stand.note("tax id: listed", len((await customers.tax_ids.list_async(owner)).data))
    gone = await customers.tax_ids.delete_async(owner, german.id)
    stand.note("tax id: deleted", [gone.id == german.id, gone.deleted])
    stand.note("tax id: listed when one is deleted", len((await customers.tax_ids.list_async(owner)).data))
    await stand.answer("tax id: missing", customers.tax_ids.retrieve_async(owner, "txi_missing"))
    await stand.answer(
        "tax id: unknown type", customers.tax_ids.create_async(owner, {"type": "nonsense", "value": "DE123456789"})
    )
    given = {"email": "vat@example.com", "tax_id_data": [{"type": "eu_vat", "value": "DE987654321"}]}
    with_one = await customers.create_async(given)
    stand.note("tax id: given with the customer", len((await customers.tax_ids.list_async(with_one.id)).data))


async def ask_about_products(stand: Stand) -> str:
    """Create, change and list products; return one."""
    products = stand.client.v1.products
    created = await products.create_async({"id": "prod_pro", "name": "Pro", "metadata": {"tier": "2"}})
    stand.note("product: id of one's own", created.id)
    stand.note("product: name, active", [created.name, created.active])
    changed = await products.update_async(created.id, {"name": "Pro 2", "metadata": {"seats": "5"}})
    stand.note("product: changed", [changed.name, _plain(changed.metadata)])
    stand.note("product: retrieved", (await products.retrieve_async(created.id)).name)
    stand.note("product: listed", len((await products.list_async({"active": True})).data))
    await stand.answer("product: same id again", products.create_async({"id": "prod_pro", "name": "Pro"}))
    await stand.answer("product: without a name", products.create_async({}))
    await stand.answer("product: missing", products.retrieve_async("prod_missing"))
    return str(created.id)


async def ask_about_payment_methods(stand: Stand) -> None:
    """Attach, list and detach cards."""
    methods, customers = stand.client.v1.payment_methods, stand.client.v1.customers
    owner, other = await stand.customer(card=None), await stand.customer(card=None)
    visa = await methods.attach_async("pm_card_visa", {"customer": owner})
    stand.note("card: type, brand, last4", [visa.type, visa.card["brand"], visa.card["last4"]])
    stand.note("card: an id of its own", visa.id != "pm_card_visa" and visa.id.startswith("pm_"))
    stand.note("card: attached", visa.customer == owner)
    stand.note("card: retrieved", (await methods.retrieve_async(visa.id)).customer == owner)
    stand.note("card: listed", len((await methods.list_async({"customer": owner, "type": "card"})).data))
    before = await customers.retrieve_async(owner)
    stand.note("card: attaching makes no default", before.invoice_settings["default_payment_method"])
    changed = await customers.update_async(owner, {"invoice_settings": {"default_payment_method": visa.id}})
    stand.note("card: made the default", changed.invoice_settings["default_payment_method"] == visa.id)
    call = methods.attach_async(stand.declined_card, {"customer": owner})
    await stand.answer("card: declined when attached", call)
    stand.note("card: listed when declined", len((await methods.list_async({"customer": owner, "type": "card"})).data))
    await stand.answer("card: attached to nobody", methods.attach_async("pm_card_visa", {"customer": "cus_missing"}))
    await stand.answer("card: attached without a customer", methods.attach_async("pm_card_visa", {}))
    await stand.answer("card: attached to another too", methods.attach_async(visa.id, {"customer": other}))
    await stand.answer("card: missing", methods.retrieve_async("pm_missing"))
    third = await methods.attach_async("pm_card_visa", {"customer": other})
    await customers.update_async(other, {"invoice_settings": {"default_payment_method": third.id}})
    loose = await methods.detach_async(third.id)
    stand.note("card: detached", loose.customer)
    after = await customers.retrieve_async(other)
    kept = after.invoice_settings["default_payment_method"]
    stand.note("card: default when detached", "none" if kept is None else "the detached one")


async def ask_about_subscriptions(stand: Stand, product: str) -> str:
    """Create, change and cancel subscriptions, look at what is paid; return the buyer who canceled."""
    subscriptions = stand.client.v1.subscriptions
    monthly = await stand.product_price(product, 1000, "month")
    dearer = await stand.product_price(product, 2500, "month")
    yearly = await stand.product_price(product, 10000, "year")
    free = await stand.product_price(product, 0, "month")
    buyer = await stand.customer()

    created = await stand.subscribe(buyer, monthly, metadata={"order": "7"})
    item = created["items"].data[0]
    stand.note("subscription: status when paid", created.status)
    stand.note("subscription: metadata", _plain(created.metadata))
    stand.note("subscription: belongs to", created.customer == buyer)
    stand.note("subscription: items, quantity", [len(created["items"].data), item.quantity])
    stand.note("subscription: amount, currency, interval", _offer(item))
    stand.note("subscription: cancel at period end", created.cancel_at_period_end)
    stand.note("subscription: ended", created.ended_at)
    stand.note("subscription: period of a month", _period(created))
    stand.note("subscription: the period is of", "the item" if "current_period_end" in item else "the subscription")
    [invoice] = await stand.invoices(buyer)
    stand.note("invoice: the first", created.latest_invoice == invoice.id)
    stand.note("invoice: status", invoice.status)
    stand.note("invoice: total, due, paid", [invoice.total, invoice.amount_due, invoice.amount_paid])
    stand.note("invoice: remaining", _given(invoice, "amount_remaining"))
    stand.note("invoice: currency, lines", [invoice.currency, len(invoice.lines.data)])
    stand.note("invoice: amount of its line", invoice.lines.data[0].amount)
    stand.note("invoice: belongs to", invoice.customer == buyer)
    stand.note("invoice: billing reason", invoice.billing_reason)
    stand.note("invoice: subscription is named at the top", "subscription" in invoice)
    [charge] = await stand.charges(buyer)
    stand.note("charge: status, paid, captured", [charge.status, charge.paid, charge.captured])
    stand.note("charge: amount, currency, refunded", [charge.amount, charge.currency, charge.amount_refunded])
    await stand.answer("invoice: paid again", stand.client.v1.invoices.pay_async(invoice.id))
    await stand.answer("invoice: missing", stand.client.v1.invoices.retrieve_async("in_missing"))
    preview = await stand.client.v1.invoices.create_preview_async({"customer": buyer, "subscription": created.id})
    stand.note("invoice preview: of the renewal", [preview.total, preview.currency])
    stand.note("invoice preview: is not kept", len(await stand.invoices(buyer)))

    changed = await subscriptions.update_async(created.id, {"metadata": {"seat": "a"}})
    stand.note("subscription: metadata is merged", _plain(changed.metadata))
    changed = await subscriptions.update_async(created.id, {"cancel_at_period_end": True})
    stand.note("subscription: to end, status", [changed.cancel_at_period_end, changed.status])
    changed = await subscriptions.update_async(created.id, {"cancel_at_period_end": False})
    stand.note("subscription: not to end", [changed.cancel_at_period_end, changed.status])
    changed = await subscriptions.update_async(created.id, {"items": [{"id": item.id, "quantity": 3}]})
    stand.note("subscription: quantity changed", [entry.quantity for entry in changed["items"].data])
    stand.note("subscription: a quantity is not invoiced at once", len(await stand.invoices(buyer)))

    upgrader = await stand.customer()
    upgraded = await stand.subscribe(upgrader, monthly)
    only = {"id": upgraded["items"].data[0].id, stand.sold_as: dearer}
    changed = await subscriptions.update_async(upgraded.id, {"items": [only]})
    stand.note("subscription: upgraded to", [_offer(entry) for entry in changed["items"].data])
    stand.note("subscription: status when upgraded", changed.status)
    stand.note("subscription: item keeps its id", changed["items"].data[0].id == only["id"])
    stand.note("subscription: an upgrade is not invoiced at once", len(await stand.invoices(upgrader)))
    stand.note("subscription: nor charged", len(await stand.charges(upgrader)))

    longer = await stand.customer()
    lengthened = await stand.subscribe(longer, monthly)
    only = {"id": lengthened["items"].data[0].id, stand.sold_as: yearly}
    changed = await subscriptions.update_async(lengthened.id, {"items": [only]})
    stand.note("subscription: period of a year", _period(changed))
    stand.note("subscription: invoices when made yearly", len(await stand.invoices(longer)))
    totals = sorted(entry.total for entry in await stand.invoices(longer))
    stand.note("subscription: totals when made yearly", totals)
    stand.note("subscription: paid when made yearly", sorted(entry.amount for entry in await stand.charges(longer)))

    ended = await subscriptions.cancel_async(created.id)
    stand.note("subscription: canceled", [ended.status, ended.ended_at is not None])
    stand.note("subscription: canceled_at", "set" if ended.canceled_at is not None else "not set")
    for status in (None, "canceled", "all", "active"):
        given = {"customer": buyer} | ({} if status is None else {"status": status})
        listed = await subscriptions.list_async(given)
        stand.note(f"subscription: listed when canceled, status {status}", len(listed.data))
    await stand.answer("subscription: canceled again", subscriptions.cancel_async(created.id))
    await stand.answer("subscription: missing", subscriptions.retrieve_async("sub_missing"))

    giver = await stand.customer(card=None)
    given_away = await stand.subscribe(giver, free)
    stand.note("subscription: free without a card", given_away.status)
    [invoice] = await stand.invoices(giver)
    stand.note("invoice: of nothing", [invoice.status, invoice.total])
    stand.note("charge: of nothing", len(await stand.charges(giver)))

    tryer = await stand.customer()
    tried = await stand.subscribe(tryer, monthly, trial_period_days=14)
    stand.note("subscription: status in trial", tried.status)
    stand.note("charge: in trial", len(await stand.charges(tryer)))
    stand.note("invoice: in trial", len(await stand.invoices(tryer)))

    await _ask_about_what_is_refused(stand, buyer, monthly)
    return buyer


async def _ask_about_what_is_refused(stand: Stand, buyer: str, monthly: str) -> None:
    poor = await stand.customer(card="pm_card_chargeCustomerFail")
    unpaid = await stand.subscribe(poor, monthly)
    stand.note("subscription: status when declined", unpaid.status)
    [invoice] = await stand.invoices(poor)
    stand.note("invoice: when declined", [invoice.status, invoice.total, invoice.amount_paid])
    [charge] = await stand.charges(poor)
    stand.note("charge: when declined", [charge.status, charge.paid, charge.failure_code])
    strict = await stand.customer(card="pm_card_chargeCustomerFail")
    call = stand.subscribe(strict, monthly, payment_behavior="error_if_incomplete")
    await stand.answer("subscription: declined, error_if_incomplete", call)
    listed = await stand.client.v1.subscriptions.list_async({"customer": strict, "status": "all"})
    stand.note("subscription: none is made when declined", len(listed.data))
    stand.note("charge: none is made when declined", len(await stand.charges(strict)))
    careful = await stand.customer(card=None)
    card = "pm_card_authenticationRequired"
    if stand.authenticated_card is not None:
        created = {"type": "card", "card": stand.authenticated_card}
        card = (await stand.client.v1.payment_methods.create_async(created)).id
    await stand.pay_with(careful, card)
    waiting = await stand.subscribe(careful, monthly)
    stand.note("subscription: status when the bank asks", waiting.status)
    listed = (await stand.client.v1.payment_intents.list_async({"limit": 100})).data
    [intent] = [entry for entry in listed if entry.customer == careful]
    stand.note("payment intent: when the bank asks", [intent.status, intent.amount, intent.currency])
    broke = await stand.customer(card=None)
    await stand.answer("subscription: without a card", stand.subscribe(broke, monthly))
    listed = await stand.client.v1.subscriptions.list_async({"customer": broke, "status": "all"})
    stand.note("subscription: none is made without a card", len(listed.data))
    await stand.answer("subscription: of nobody", stand.subscribe("cus_missing", monthly))
    await stand.answer("subscription: to nothing", stand.subscribe(buyer, "price_missing"))
    await stand.answer("subscription: without items", stand.client.v1.subscriptions.create_async({"customer": buyer}))


async def ask_about_refunds(stand: Stand, product: str) -> None:
    """Give money back."""
    refunds = stand.client.v1.refunds
    buyer = await stand.customer()
    await stand.subscribe(buyer, await stand.product_price(product, 5000, "month"))
    [charge] = await stand.charges(buyer)
    part = await refunds.create_async({"charge": charge.id, "amount": 2000, "metadata": {"why": "late"}})
    stand.note("refund: of a part", [part.object, part.amount, part.currency, part.status])
    stand.note("refund: metadata", _plain(part.metadata))
    stand.note("refund: names its charge", part.charge == charge.id)
    charge = await stand.client.v1.charges.retrieve_async(charge.id)
    stand.note("charge: refunded in part", [charge.amount_refunded, charge.refunded])
    rest = await refunds.create_async({"payment_intent": charge.payment_intent})
    stand.note("refund: of the rest", [rest.amount, rest.status])
    charge = await stand.client.v1.charges.retrieve_async(charge.id)
    stand.note("charge: refunded", [charge.amount_refunded, charge.refunded])
    stand.note("refund: listed", len((await refunds.list_async({"charge": charge.id})).data))
    await stand.answer("refund: of more than there is", refunds.create_async({"charge": charge.id, "amount": 1}))
    await stand.answer("refund: of a missing charge", refunds.create_async({"charge": "ch_missing"}))
    await stand.answer("refund: of nothing", refunds.create_async({}))
    poor = await stand.customer(card="pm_card_chargeCustomerFail")
    await stand.subscribe(poor, await stand.product_price(product, 700, "month"))
    [failed] = await stand.charges(poor)
    await stand.answer("refund: of a failed charge", refunds.create_async({"charge": failed.id}))


async def ask_about_events(stand: Stand, buyer: str) -> None:
    """Look at the events of a customer's life, as listed and as delivered."""
    customers, events = stand.client.v1.customers, stand.client.v1.events
    created = await customers.create_async({"name": "Event"})
    await customers.update_async(created.id, {"name": "Changed"})
    await customers.delete_async(created.id)
    for kind in ("customer.created", "customer.updated", "customer.deleted"):
        found = [
            event for event in (await events.list_async({"type": kind, "limit": 100})).data
            if event.data.object["id"] == created.id
        ]  # fmt: skip
        stand.note(f"event: {kind}", [(event.object, event.data.object["name"]) for event in found])
    listed = (await events.list_async({"type": "customer.deleted"})).data
    one = await events.retrieve_async(listed[0].id)
    stand.note("event: retrieved", [one.id == listed[0].id, one.type])
    stand.note("event: of this API version", one.api_version == stripe.api_version)
    await stand.answer("event: missing", events.retrieve_async("evt_missing"))

    happened: set[str] = set()
    async for event in (await events.list_async({"limit": 100})).auto_paging_iter():
        happened.add(event.id)
    try:
        await eventually(lambda: happened <= _received(stand.sink), DELIVERY_TIMEOUT_S)
    finally:
        stand.note("webhook: events not delivered", len(happened - _received(stand.sink)))
    verified = stand.sink.events()
    stand.note("webhook: all signatures are valid", len(verified) == len(stand.sink.received))
    stand.note("webhook: each event once", len({event.id for event in verified}) == len(verified))
    try:
        stand.sink.events("whsec_wrong")
    except stripe.SignatureVerificationError:
        stand.note("webhook: another secret", "refused")
    mine = [event.type for event in verified if event.data.object["id"] == created.id]
    stand.note("webhook: of the customer", sorted(kind.removeprefix("customer.") for kind in mine))
    about: list[str] = [event.type for event in verified if _given(event.data.object, "customer") == buyer]
    for kind in COUNTED:
        stand.note(f"webhook: of the buyer, {kind}", about.count(kind))


COUNTED: Final = (
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "invoice.created",
    "invoice.paid",
    "invoice.payment_succeeded",
    "invoice.payment_failed",
    "payment_intent.succeeded",
    "charge.succeeded",
)


async def ask_what_else_there_is(stand: Stand, product: str) -> None:
    """Ask for what only one of them has."""
    v1 = stand.client.v1
    price = {"product": product, "currency": "usd"}
    await stand.has("prices", v1.prices.create_async(price | {"unit_amount": 1}))
    await stand.has("plans", v1.plans.create_async(price | {"amount": 1, "interval": "month"}))
    await stand.has("checkout", v1.checkout.sessions.list_async())
    await stand.has("schedules", v1.subscription_schedules.list_async())
    await stand.has("portal", v1.billing_portal.configurations.list_async())
    await stand.has("test clocks", v1.test_helpers.test_clocks.list_async())
    await stand.has("disputes", v1.disputes.list_async())
    await stand.has("invoice payments", v1.invoice_payments.list_async())


async def ask(stand: Stand) -> dict[str, Any]:
    """Ask one of the two all there is to ask."""
    await ask_about_customers(stand)
    await ask_about_tax_ids(stand)
    product = await ask_about_products(stand)
    await ask_about_payment_methods(stand)
    buyer = await ask_about_subscriptions(stand, product)
    await ask_about_refunds(stand, product)
    await ask_about_events(stand, buyer)
    await ask_what_else_there_is(stand, product)
    return stand.facts


def _plain(found: Any) -> dict[str, Any]:
    plain: dict[str, Any] = found.to_dict() if hasattr(found, "to_dict") else dict(found)
    return dict(sorted(plain.items()))


def _given(found: Any, name: str) -> Any:
    # A Stripe object is no dict: it has no `get`.
    return found[name] if name in found else "no such field"  # noqa: SIM401


def _offer(item: Any) -> list[Any]:
    if "price" in item:
        return [item.price.unit_amount, item.price.currency, item.price.recurring["interval"]]
    return [item.plan["amount"], item.plan["currency"], item.plan["interval"]]


def _period(subscription: Any) -> str:
    """Say how long the current period is, in calendar months."""
    item = subscription["items"].data[0]
    holder = item if "current_period_end" in item else subscription
    start = datetime.fromtimestamp(holder["current_period_start"], UTC)
    end = datetime.fromtimestamp(holder["current_period_end"], UTC)
    for months in (1, 12):
        index = start.year * 12 + start.month - 1 + months
        year, month = index // 12, index % 12 + 1
        day = min(start.day, calendar.monthrange(year, month)[1])
        if end == start.replace(year=year, month=month, day=day):
            return f"{months} month(s)"
    return str(end - start)


def _received(sink: WebhookSink) -> set[str]:
    return {json.loads(body)["id"] for body, _ in sink.received}


# ---------------------------------------------------------------- what is compared


def compare(ours: dict[str, Any], theirs: dict[str, Any], known: dict[str, Known]) -> tuple[list[str], int]:
    """Return the table's lines and how many differences nobody has explained."""
    lines, unexpected = [], 0
    for fact in dict.fromkeys((*ours, *theirs, *known)):
        mine, other = _shown(ours, fact), _shown(theirs, fact)
        explained = known.get(fact)
        as_known = explained is not None and (mine, other) == (json.dumps(explained.ours), json.dumps(explained.theirs))
        if mine == other and explained is None:
            verdict = "same"
        elif as_known:
            verdict = "differs, known"
        else:
            verdict = "NOT AS KNOWN" if explained is not None else "DIFFERS"
            unexpected += 1
        lines.append(f"{fact:<58} | {mine:<34} | {other:<34} | {verdict}")
        if explained is not None:
            lines.append(f"{'':<58} |   {explained.reason}")
    return lines, unexpected


def _shown(facts: dict[str, Any], fact: str) -> str:
    # What an error has and a success has not is absent there.
    return json.dumps(facts.get(fact))


async def _ask_both(python: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    async with local_stripe() as ours, webhook_sink() as sink:
        await ours.add_endpoint(sink.url)
        first = await ask(
            Stand(
                client=ours.client,
                url=ours.url,
                sink=sink,
                sold_as="price",
                declined_card="pm_card_chargeDeclined",
                authenticated_card=None,
            )
        )
    async with second_stripe(python) as url, webhook_sink() as sink, stripe_client(url) as client:
        async with httpx.AsyncClient(base_url=url) as http:
            registered = {"url": sink.url, "secret": WEBHOOK_SECRET}
            (await http.post("/_config/webhooks/sink", json=registered)).raise_for_status()
        second = await ask(
            Stand(
                client=client,
                url=url,
                sink=sink,
                sold_as="plan",
                declined_card="pm_card_visa_chargeDeclined",
                authenticated_card={"number": "4000002760003184", "exp_month": 12, "exp_year": 2040, "cvc": "123"},
            )
        )
    return first, second


def main() -> None:
    """Compare, print the table, and end with 1 if there is a difference that nobody has explained."""
    if shutil.which("sh") is None:
        sys.exit("This needs a POSIX shell.")
    ours, theirs = asyncio.run(_ask_both(installed()))
    lines, unexpected = compare(ours, theirs, KNOWN)
    head = f"{'fact':<58} | {'ours':<34} | {'localstripe':<34} |"
    same = len(ours.keys() | theirs.keys()) - len(KNOWN) - unexpected
    sys.stdout.write("\n".join([head, "-" * 150, *lines, ""]))
    sys.stdout.write(f"\n{same} facts are the same, {len(KNOWN)} differences are known, {unexpected} are not.\n")
    sys.exit(1 if unexpected else 0)


if __name__ == "__main__":
    main()
