"""Subscription schedules: phases that take effect when the clock passes them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from stripe import params

from tallygate_local_stripe import billing, invoices, subscriptions
from tallygate_local_stripe.errors import missing_parameter, refuse_unsupported, refused
from tallygate_local_stripe.objects import JsonObject, build, merge_metadata
from tallygate_local_stripe.periods import step
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.subscription_creation import create_subscription
from tallygate_local_stripe.subscriptions import ENDED, items_of, period_end
from tallygate_local_stripe.world import World

routes = Routes()

PHASES_MAX: Final = 10
_UNSUPPORTED_OF_PHASE: Final = (
    "add_invoice_items",
    "billing_thresholds",
    "default_tax_rates",
    "discounts",
    "transfer_data",
    "trial",
    "trial_end",
)


@routes("POST", "/v1/subscription_schedules", params.SubscriptionScheduleCreateParams)
def create(call: Call) -> JsonObject:
    """Create a schedule: around a subscription that runs, or for one that is to start."""
    world = call.world
    refuse_unsupported(call.params, ("pause_schedules",))
    if "from_subscription" in call.params:
        return _create_around(call)
    if "phases" not in call.params:
        raise missing_parameter("phases")
    customer = world.store.get("customer", call.get("customer") or "", param="customer")
    now = world.now(customer)
    start = call.get("start_date", now)
    start = now if start == "now" else start
    schedule = _new(world, customer, call)
    schedule["phases"] = _phases(world, customer["currency"] or "", call.get("phases"), start=start, now=now)
    world.emit("subscription_schedule.created", schedule)
    _arm(world, schedule)
    if start <= now:
        _start(world, schedule)
    return schedule


def _create_around(call: Call) -> JsonObject:
    world = call.world
    if set(call.params) - {"from_subscription", "metadata", "expand"}:
        raise refused("You cannot set other parameters if `from_subscription` is set.", param="from_subscription")
    subscription = world.store.get("subscription", call.get("from_subscription"), param="from_subscription")
    if subscription["status"] in ENDED:
        raise refused(f"You cannot migrate a subscription that is {subscription['status']}.", param="from_subscription")
    if subscription["schedule"] is not None:
        raise refused(
            f"You cannot migrate a subscription that is already attached to a schedule: {subscription['schedule']}",
            param="from_subscription",
        )
    schedule = _new(world, world.store.get("customer", subscription["customer"]), call)
    begin = min(item["current_period_start"] for item in items_of(subscription))
    end = period_end(subscription)
    entries = [
        {"price": item["price"]["id"], "quantity": item["quantity"], "metadata": item["metadata"]}
        for item in items_of(subscription)
    ]
    phase = {"items": entries, "start_date": begin, "end_date": end}
    schedule["phases"] = _phases(world, subscription["currency"], [phase], start=begin, now=begin)
    schedule |= {
        "status": "active",
        "subscription": subscription["id"],
        "current_phase": {"start_date": begin, "end_date": end},
    }
    with world.updating(subscriptions.UPDATED, subscription):
        subscription["schedule"] = schedule["id"]
    world.emit("subscription_schedule.created", schedule)
    _arm(world, schedule)
    return schedule


def _new(world: World, customer: JsonObject, call: Call) -> JsonObject:
    return world.store.add(
        "subscription_schedule",
        billing_mode={"type": "flexible", "flexible": {"proration_discounts": "included"}},
        created=world.now(customer),
        customer=customer["id"],
        default_settings={
            "billing_cycle_anchor": "automatic",
            "collection_method": "charge_automatically",
            "invoice_settings": {"issuer": {"type": "self"}},
        },
        end_behavior=call.get("end_behavior", "release"),
        metadata=merge_metadata({}, call.get("metadata")),
        status="not_started",
        test_clock=customer["test_clock"],
    )


def _phases(world: World, currency: str, given: list[JsonObject], *, start: int, now: int) -> list[JsonObject]:
    """Return phases one after the other.

    Raises:
        StripeError: they overlap, leave a gap, or have a price that cannot be subscribed to.

    """
    if not 0 < len(given) <= PHASES_MAX:
        raise refused(f"A schedule has 1 to {PHASES_MAX} phases.", param="phases")
    phases: list[JsonObject] = []
    for position, entry in enumerate(given):
        where = f"phases[{position}]"
        refuse_unsupported(entry, _UNSUPPORTED_OF_PHASE, where=where)
        begin = phases[-1]["end_date"] if phases else start
        asked = _moment(entry.get("start_date"), now)
        if asked is not None and asked != begin:
            if phases or asked > begin:
                raise refused("Phases must follow one another without a gap.", param=f"{where}[start_date]")
            begin = asked
        items = [_phase_item(world, currency, item, f"{where}[items][{n}]") for n, item in enumerate(entry["items"])]
        end = _end_of_phase(world, entry, items, begin=begin, now=now)
        if end <= begin:
            raise refused("The end of a phase must be after its start.", param=f"{where}[end_date]")
        phases.append(
            {
                "currency": world.store.get("price", items[0]["price"])["currency"],
                "start_date": begin,
                "end_date": end,
                "items": items,
                "metadata": merge_metadata({}, entry.get("metadata")),
                "proration_behavior": entry.get("proration_behavior", "create_prorations"),
                "trial_end": None,
                "collection_method": entry.get("collection_method"),
                "default_payment_method": entry.get("default_payment_method"),
                "description": entry.get("description"),
            }
        )
    return list(build("subscription_schedule", _minimal(phases))["phases"])


def _minimal(phases: list[JsonObject]) -> JsonObject:
    """Return just enough of a schedule to have its phases completed to the pinned version's shape."""
    return {
        "billing_mode": {"type": "flexible"},
        "created": 0,
        "customer": "",
        "default_settings": {"billing_cycle_anchor": "automatic", "invoice_settings": {"issuer": {"type": "self"}}},
        "end_behavior": "release",
        "status": "not_started",
        "phases": phases,
    }


def _phase_item(world: World, currency: str, given: JsonObject, where: str) -> JsonObject:
    refuse_unsupported(given, billing.UNSUPPORTED_OF_ITEM, where=where)
    probe = {"id": "", "currency": currency}
    item = billing.new_item(world, probe, given, where=where)
    return {
        "price": item["price"]["id"],
        "plan": item["price"]["id"],
        "quantity": item["quantity"],
        "metadata": item["metadata"],
        "discounts": [],
        "tax_rates": [],
    }


def _end_of_phase(world: World, entry: JsonObject, items: list[JsonObject], *, begin: int, now: int) -> int:
    asked = _moment(entry.get("end_date"), now)
    if asked is not None:
        return asked
    recurring = world.store.get("price", items[0]["price"])["recurring"]
    length = {"interval_count": 1, **(entry.get("duration") or recurring)}
    return step(begin, length["interval"], length["interval_count"])


def _moment(given: Any, now: int) -> int | None:
    return now if given == "now" else given


def _arm(world: World, schedule: JsonObject) -> None:
    for phase in schedule["phases"]:
        for moment in (phase["start_date"], phase["end_date"]):
            if moment > world.now(schedule):
                world.later(schedule, moment, "schedule.phase")


def _start(world: World, schedule: JsonObject) -> None:
    phase = schedule["phases"][0]
    given: JsonObject = {
        "customer": schedule["customer"],
        "items": [{"price": item["price"], "quantity": item["quantity"]} for item in phase["items"]],
        "metadata": phase["metadata"],
        "off_session": True,
        "payment_behavior": "default_incomplete",
    }
    subscription = create_subscription(world, given)
    subscription["schedule"] = schedule["id"]
    invoice = world.store.get("invoice", subscription["latest_invoice"])
    subscriptions.collect_first(world, subscription, invoice, on_session=False)
    with world.updating("subscription_schedule.updated", schedule):
        schedule |= {
            "status": "active",
            "subscription": subscription["id"],
            "current_phase": {"start_date": phase["start_date"], "end_date": phase["end_date"]},
        }


def advance(world: World, schedule: JsonObject, at: int) -> None:
    """Enter the phase of this moment, or end the schedule after its last."""
    if schedule["status"] == "not_started" and schedule["phases"][0]["start_date"] <= at:
        _start(world, schedule)
    if schedule["status"] != "active" or schedule["current_phase"]["end_date"] > at:
        return
    subscription = world.store.get("subscription", schedule["subscription"])
    following = [phase for phase in schedule["phases"] if phase["end_date"] > at]
    if not following:
        _end(world, schedule, subscription, at)
        return
    with world.updating("subscription_schedule.updated", schedule):
        schedule["current_phase"] = {name: following[0][name] for name in ("start_date", "end_date")}
    _enter(world, subscription, following[0], at, proration_behavior=following[0]["proration_behavior"])


def _enter(world: World, subscription: JsonObject, phase: JsonObject, at: int, *, proration_behavior: str) -> None:
    """Give the subscription the items of a phase; at the end of a period nothing is left to prorate."""
    given = [
        {"price": item["price"], "quantity": item["quantity"], "metadata": item["metadata"]} for item in phase["items"]
    ]
    between_periods = period_end(subscription) <= at
    before = {billing.rhythm(item) for item in items_of(subscription)}
    with world.updating(subscriptions.UPDATED, subscription):
        subscription["metadata"] = merge_metadata(subscription["metadata"], phase["metadata"])
        if phase["default_payment_method"]:
            subscription["default_payment_method"] = phase["default_payment_method"]
        plan = billing.plan_change(
            world,
            subscription,
            given,
            at=at,
            prorate=proration_behavior != "none",
            replace=True,
            anchor_type="unchanged" if between_periods else None,
        )
        if between_periods:
            _switch_between_periods(subscription, plan.items, before, at)
            return
        subscriptions.apply_plan(world, subscription, plan)
        invoices.keep_for_next(world, subscription, [line for line in plan.lines if line.proration])
    if plan.starts_cycle or (proration_behavior == "always_invoice" and plan.lines):
        lines = [line for line in plan.lines if not line.proration]
        invoice = subscriptions.invoice_now(world, subscription, reason="subscription_update", lines=lines)
        subscriptions.collect_first(world, subscription, invoice, on_session=False)


def _switch_between_periods(
    subscription: JsonObject, items: list[JsonObject], before: set[tuple[str, int]], at: int
) -> None:
    """Swap items whose periods have run out; the renewal of this very moment bills the new ones."""
    for item in items:
        item |= {"current_period_start": min(item["current_period_start"], at), "current_period_end": at}
    subscriptions.set_items(subscription, deepcopy(items))
    if {billing.rhythm(item) for item in items} != before:
        subscription["billing_cycle_anchor"] = at


def _end(world: World, schedule: JsonObject, subscription: JsonObject, at: int) -> None:
    if schedule["end_behavior"] == "cancel":
        schedule |= {"status": "completed", "completed_at": at, "current_phase": None}
        subscription["schedule"] = None
        world.emit("subscription_schedule.completed", schedule)
        subscriptions.end(world, subscription, reason="cancellation_requested")
        return
    _release(world, schedule, subscription)


def _release(world: World, schedule: JsonObject, subscription: JsonObject | None) -> None:
    schedule |= {"status": "released", "released_at": world.now(schedule), "current_phase": None}
    if subscription is not None:
        schedule |= {"released_subscription": subscription["id"], "subscription": None}
        with world.updating(subscriptions.UPDATED, subscription):
            subscription["schedule"] = None
    world.emit("subscription_schedule.released", schedule)


@routes("GET", "/v1/subscription_schedules", params.SubscriptionScheduleListParams)
def list_all(call: Call) -> JsonObject:
    """List schedules, by customer."""
    scheduled = call.get("scheduled")
    found = call.world.store.all(
        "subscription_schedule", lambda entry: scheduled is None or (entry["status"] == "not_started") == scheduled
    )
    return call.page(list(found), ignoring=frozenset({"scheduled"}))


@routes("GET", "/v1/subscription_schedules/{id}", params.SubscriptionScheduleRetrieveParams)
def retrieve(call: Call) -> JsonObject:
    """Return a schedule."""
    return call.world.store.get("subscription_schedule", call.id)


@routes("POST", "/v1/subscription_schedules/{id}", params.SubscriptionScheduleUpdateParams)
def update(call: Call) -> JsonObject:
    """Change a schedule; a change of the current phase reaches the subscription at once."""
    world = call.world
    schedule = _open(call, "update")
    now = world.now(schedule)
    phases = None
    if "phases" in call.params:
        current = schedule["current_phase"]
        start = current["start_date"] if current is not None else schedule["phases"][0]["start_date"]
        phases = _phases(world, schedule["phases"][0]["currency"], call.get("phases"), start=start, now=now)
        if current is not None and phases[0]["end_date"] <= now:
            phases = [phase for phase in phases if phase["end_date"] > now]
    before = schedule["phases"]
    with world.updating("subscription_schedule.updated", schedule):
        schedule["end_behavior"] = call.get("end_behavior", schedule["end_behavior"])
        schedule["metadata"] = merge_metadata(schedule["metadata"], call.get("metadata"))
        if phases is not None:
            schedule["phases"] = phases
            if schedule["current_phase"] is not None:
                schedule["current_phase"] = {name: phases[0][name] for name in ("start_date", "end_date")}
            _arm(world, schedule)
    if phases is not None and schedule["status"] == "active" and _items(phases[0]) != _items(before[0]):
        subscription = world.store.get("subscription", schedule["subscription"])
        behaviour = call.get("proration_behavior", phases[0]["proration_behavior"])
        _enter(world, subscription, phases[0], now, proration_behavior=behaviour)
    return schedule


def _items(phase: JsonObject) -> list[tuple[str, int]]:
    return [(item["price"], item["quantity"]) for item in phase["items"]]


@routes("POST", "/v1/subscription_schedules/{id}/release", params.SubscriptionScheduleReleaseParams)
def release(call: Call) -> JsonObject:
    """Let a subscription go on without its schedule."""
    world = call.world
    schedule = _open(call, "release")
    _release(world, schedule, world.store.find(schedule["subscription"] or ""))
    return schedule


@routes("POST", "/v1/subscription_schedules/{id}/cancel", params.SubscriptionScheduleCancelParams)
def cancel(call: Call) -> JsonObject:
    """Cancel a schedule together with its subscription."""
    world = call.world
    schedule = _open(call, "cancel")
    subscription = world.store.find(schedule["subscription"] or "")
    if subscription is not None and subscription["status"] not in ENDED:
        subscriptions.end(world, subscription, reason="cancellation_requested")
    else:
        schedule |= {"status": "canceled", "canceled_at": world.now(schedule), "current_phase": None}
        world.emit("subscription_schedule.canceled", schedule)
    return schedule


def _open(call: Call, verb: str) -> JsonObject:
    schedule = call.world.store.get("subscription_schedule", call.id)
    if schedule["status"] not in ("not_started", "active"):
        raise refused(
            f"You cannot {verb} a subscription schedule that is currently in the `{schedule['status']}` status."
        )
    return schedule


def install(world: World) -> None:
    """Connect schedules to the clock, and let a phase begin before the renewal of the same moment."""

    def due(schedule_id: str, at: int) -> None:
        schedule = world.store.find(schedule_id)
        if schedule is not None:
            advance(world, schedule, at)
            subscription = world.store.find(schedule["subscription"] or schedule["released_subscription"] or "")
            if subscription is not None:
                subscriptions.end_of_period(world, subscription, at)

    def before_period_end(subscription: JsonObject, at: int) -> None:
        schedule = world.store.find(subscription["schedule"] or "")
        if schedule is not None:
            advance(world, schedule, at)

    world.clocks.tasks["schedule.phase"] = due
    world.before_period_end = before_period_end
