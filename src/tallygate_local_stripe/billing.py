"""What periods cost: lines for periods, and prorations for changes. Nothing here is stored or announced."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

from tallygate_local_stripe.errors import missing_parameter, refuse_unsupported, refused
from tallygate_local_stripe.invoices import Line
from tallygate_local_stripe.objects import JsonObject, build, merge_metadata
from tallygate_local_stripe.periods import cycle, day_name, share
from tallygate_local_stripe.world import World

ITEMS_MAX: Final = 20
UNSUPPORTED_OF_ITEM: Final = ("billing_thresholds", "discounts", "plan", "price_data", "tax_rates")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a change of items would make of a subscription."""

    items: list[JsonObject]
    anchor: int
    lines: list[Line]
    # A change of the billing cycle is invoiced at once, whatever the proration behaviour.
    starts_cycle: bool


def new_item(world: World, subscription: JsonObject, given: JsonObject, *, where: str) -> JsonObject:
    """Build an item without a period.

    Raises:
        StripeError: it has no price, or one that cannot be subscribed to.

    """
    if not given.get("price"):
        raise missing_parameter(f"{where}[price]")
    return build(
        "subscription_item",
        {
            "subscription": subscription["id"],
            "price": _price(world, subscription, given["price"], where=where),
            "quantity": given.get("quantity", 1),
            "metadata": merge_metadata({}, given.get("metadata")),
            "created": world.now(subscription),
            "current_period_start": 0,
            "current_period_end": 0,
            "tax_rates": [],
        },
    )


def _price(world: World, subscription: JsonObject, price_id: str, *, where: str) -> JsonObject:
    price = world.store.get("price", price_id, param=f"{where}[price]")
    if price["recurring"] is None:
        raise refused("The price specified is set to `type=one_time` but this field only accepts recurring prices.")
    if not price["active"]:
        raise refused("The price specified is inactive. This field only accepts active prices.", param=where)
    if subscription["currency"] not in ("", price["currency"]):
        raise refused(f"You cannot combine currencies on a single customer: {price['currency']}.", param=where)
    return deepcopy(price)


def amount_of(item: JsonObject) -> int:
    """Return what one period of an item costs."""
    return int(item["price"]["unit_amount"] * item["quantity"])


def total_of(items: Iterable[JsonObject]) -> int:
    """Return what one period of all items costs."""
    return sum(map(amount_of, items))


def rhythm(item: JsonObject) -> tuple[str, int]:
    """Return an item's interval and how many of it make a period."""
    return item["price"]["recurring"]["interval"], item["price"]["recurring"]["interval_count"]


def set_period(item: JsonObject, anchor: int, start: int) -> None:
    """Let an item's period start here and end at the next boundary of its cycle."""
    item["current_period_start"] = start
    item["current_period_end"] = cycle(anchor, *rhythm(item), start)[1]


def period_line(world: World, item: JsonObject, anchor: int) -> Line:
    """Return the line for the current period of an item; a first period cut short by the anchor costs its share."""
    start, end = item["current_period_start"], item["current_period_end"]
    whole_start, whole_end = cycle(anchor, *rhythm(item), start)
    amount = share(amount_of(item), part_seconds=end - start, whole_seconds=whole_end - whole_start)
    interval, count = rhythm(item)
    every = interval if count == 1 else f"{count} {interval}s"
    price = item["price"]["unit_amount"]
    text = f"{item['quantity']} × {_product_name(world, item)} (at {price / 100:.2f} / {every})"  # noqa: RUF001 - As Stripe prints it.
    return _line(item, amount=amount, description=text, start=start, end=end, proration=False)


def trial_line(world: World, item: JsonObject) -> Line:
    """Return the line of a trial, which costs nothing."""
    start, end = item["current_period_start"], item["current_period_end"]
    text = f"Trial period for {_product_name(world, item)}"
    return _line(item, amount=0, description=text, start=start, end=end, proration=False)


def unused_time(world: World, item: JsonObject, at: int) -> Line:
    """Return what is given back for the rest of an item's period."""
    text = f"Unused time on {_counted(world, item)} after {day_name(at)}"
    return _line(
        item, amount=-_rest(item, at), description=text, start=at, end=item["current_period_end"], proration=True
    )


def remaining_time(world: World, item: JsonObject, at: int) -> Line:
    """Return what the rest of the period costs."""
    text = f"Remaining time on {_counted(world, item)} after {day_name(at)}"
    return _line(
        item, amount=_rest(item, at), description=text, start=at, end=item["current_period_end"], proration=True
    )


def _rest(item: JsonObject, at: int) -> int:
    """Return the price of what is left of an item's period, to the second."""
    start, end = item["current_period_start"], item["current_period_end"]
    return share(amount_of(item), part_seconds=max(0, end - max(at, start)), whole_seconds=end - start)


def _line(item: JsonObject, *, amount: int, description: str, start: int, end: int, proration: bool) -> Line:
    return Line(
        amount=amount,
        description=description,
        start=start,
        end=end,
        price=item["price"],
        quantity=item["quantity"],
        subscription=item["subscription"],
        subscription_item=item["id"],
        proration=proration,
    )


def _product_name(world: World, item: JsonObject) -> str:
    name: str = world.store.get("product", item["price"]["product"])["name"]
    return name


def _counted(world: World, item: JsonObject) -> str:
    name = _product_name(world, item)
    return name if item["quantity"] == 1 else f"{item['quantity']} × {name}"  # noqa: RUF001 - As Stripe prints it.


def plan_change(
    world: World,
    subscription: JsonObject,
    given: list[JsonObject],
    *,
    at: int,
    anchor_type: str | None = None,
    prorate: bool = True,
    replace: bool = False,
    where: str = "items",
) -> Plan:
    """Work out what a change of items does to periods and to money, as of a moment.

    `given` are the parameters of the changed items or, with `replace`, of all items that there shall be. Of the
    `anchor_type`, `now` starts a new cycle and `unchanged` keeps the cycle where it would otherwise start anew.

    Raises:
        StripeError: an item or price is unknown or not possible.

    """
    old = {item["id"]: item for item in subscription["items"]["data"]}
    items = _changed_items(world, subscription, given, replace=replace, where=where)
    anchor = subscription["billing_cycle_anchor"]
    if subscription["status"] == "trialing" and anchor_type != "now":
        for item in items:
            if item["current_period_end"] == 0:
                first = next(iter(old.values()))
                item["current_period_start"] = at
                item["current_period_end"] = first["current_period_end"]
        return Plan(items=items, anchor=anchor, lines=[], starts_cycle=False)
    rhythms = {rhythm(item) for item in items}
    starts_paying = total_of(old.values()) == 0 and total_of(items) > 0
    moves = any(item["id"] in old and rhythm(item) != rhythm(old[item["id"]]) for item in items)
    restart_all = (
        anchor_type == "now" or (anchor_type != "unchanged" and starts_paying) or (moves and len(rhythms) == 1)
    )
    new_anchor = at if restart_all else anchor
    lines: list[Line] = []
    kept = {item["id"] for item in items}
    lines += [unused_time(world, item, at) for item in old.values() if item["id"] not in kept]
    starts_cycle = False
    for item in items:
        before = old.get(item["id"])
        if restart_all or (before is not None and rhythm(item) != rhythm(before)):
            lines += [] if before is None else [unused_time(world, before, at)]
            set_period(item, new_anchor if restart_all else at, at)
            lines.append(period_line(world, item, new_anchor if restart_all else at))
            starts_cycle = True
        elif before is None:
            start, end = cycle(anchor, *rhythm(item), at)
            item |= {"current_period_start": start, "current_period_end": end}
            lines.append(remaining_time(world, item, at))
            item["current_period_start"] = at
        elif _identity(item) != _identity(before):
            lines += [unused_time(world, before, at), remaining_time(world, item, at)]
    if not prorate:
        lines = [line for line in lines if not line.proration]
    credit_first = sorted(
        (line for line in lines if line.amount != 0 or not line.proration), key=lambda line: line.amount >= 0
    )
    return Plan(items=items, anchor=new_anchor, lines=credit_first, starts_cycle=starts_cycle)


def _identity(item: JsonObject) -> tuple[str, int]:
    return item["price"]["id"], item["quantity"]


def _changed_items(
    world: World, subscription: JsonObject, given: list[JsonObject], *, replace: bool, where: str
) -> list[JsonObject]:
    items: dict[str, JsonObject] = {item["id"]: deepcopy(item) for item in subscription["items"]["data"]}
    untouched = set(items)
    for position, entry in enumerate(given):
        here = f"{where}[{position}]"
        refuse_unsupported(entry, UNSUPPORTED_OF_ITEM, where=here)
        item = _item_meant(items, untouched, entry, replace=replace, where=here)
        if item is None:
            if entry.get("deleted"):
                raise refused("You must pass the id of the item to delete.", param=here)
            item = new_item(world, subscription, entry, where=here)
            items[item["id"]] = item
        elif entry.get("deleted"):
            del items[item["id"]]
            continue
        else:
            untouched.discard(item["id"])
            if entry.get("price"):
                item["price"] = _price(world, subscription, entry["price"], where=here)
            item["quantity"] = entry.get("quantity", 1 if replace else item["quantity"])
            item["metadata"] = merge_metadata(item["metadata"], entry.get("metadata"))
    if replace:
        for item_id in untouched:
            del items[item_id]
    _check_items(list(items.values()), where=where)
    return list(items.values())


def _item_meant(
    items: dict[str, JsonObject], untouched: set[str], entry: JsonObject, *, replace: bool, where: str
) -> JsonObject | None:
    """Return the item that an entry changes. A schedule names none: it means that of its price, else the next one."""
    if entry.get("id"):
        if entry["id"] not in items:
            raise refused(f"No such subscription item: '{entry['id']}'", code="resource_missing", param=f"{where}[id]")
        return items[entry["id"]]
    if not replace or not untouched:
        return None
    same = [
        item_id for item_id in items if item_id in untouched and items[item_id]["price"]["id"] == entry.get("price")
    ]
    return items[same[0] if same else next(item_id for item_id in items if item_id in untouched)]


def _check_items(items: list[JsonObject], *, where: str) -> None:
    if not 0 < len(items) <= ITEMS_MAX:
        raise refused(f"A subscription must have 1 to {ITEMS_MAX} items.", param=where)
    if len({item["price"]["id"] for item in items}) < len(items):
        raise refused("Cannot add multiple subscription items with the same price.", param=where)
    if len({item["price"]["currency"] for item in items}) > 1:
        raise refused("All prices of a subscription must have the same currency.", param=where)
