"""Test clocks: customers whose time is moved by hand."""

from __future__ import annotations

from typing import Final

from stripe import params

from tallygate_local_stripe.errors import refused
from tallygate_local_stripe.objects import JsonObject, owner_of
from tallygate_local_stripe.periods import DAY, step
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.subscriptions import LIVE, items_of
from tallygate_local_stripe.world import World

routes = Routes()

INTERVALS_MAX: Final = 2
LIFETIME_DAYS: Final = 30


@routes("POST", "/v1/test_helpers/test_clocks", params.test_helpers.TestClockCreateParams)
def create(call: Call) -> JsonObject:
    """Create a test clock that stands at a moment."""
    world = call.world
    clock = world.store.add(
        "test_helpers.test_clock",
        created=world.now(),
        deletes_after=world.now() + LIFETIME_DAYS * DAY,
        frozen_time=call.get("frozen_time"),
        name=call.get("name"),
        status="ready",
    )
    world.clocks.add_test_clock(clock["id"], clock["frozen_time"])
    world.emit("test_helpers.test_clock.created", clock)
    return clock


@routes("GET", "/v1/test_helpers/test_clocks", params.test_helpers.TestClockListParams)
def list_all(call: Call) -> JsonObject:
    """List test clocks."""
    return call.page(list(call.world.store.all("test_helpers.test_clock")))


@routes("GET", "/v1/test_helpers/test_clocks/{id}", params.test_helpers.TestClockRetrieveParams)
def retrieve(call: Call) -> JsonObject:
    """Return a test clock."""
    return call.world.store.get("test_helpers.test_clock", call.id)


@routes("POST", "/v1/test_helpers/test_clocks/{id}/advance", params.test_helpers.TestClockAdvanceParams)
def advance(call: Call) -> JsonObject:
    """Start to move a clock; the work is done after the answer, then the clock is ready again."""
    world = call.world
    clock = world.store.get("test_helpers.test_clock", call.id)
    target = call.get("frozen_time")
    if clock["status"] != "ready":
        raise refused("Test clock advancement underway. Please wait for it to finish.", code="test_clock_advancing")
    if target <= clock["frozen_time"]:
        raise refused("A test clock can only be advanced to a later time.", param="frozen_time")
    if target > _latest(world, clock):
        raise refused(
            f"Cannot advance a test clock by more than {INTERVALS_MAX} intervals of its shortest subscription at once.",
            param="frozen_time",
        )
    clock |= {"status": "advancing", "status_details": {"advancing": {"target_frozen_time": target}}}
    world.emit("test_helpers.test_clock.advancing", clock)
    world.after_answer(lambda: finish_advance(world, clock, target))
    return clock


def _latest(world: World, clock: JsonObject) -> int:
    """Return how far a clock may be moved in one step."""
    now = clock["frozen_time"]
    reach = [
        step(now, item["price"]["recurring"]["interval"], INTERVALS_MAX * item["price"]["recurring"]["interval_count"])
        for subscription in world.store.all("subscription", lambda entry: entry["test_clock"] == clock["id"])
        if subscription["status"] in LIVE
        for item in items_of(subscription)
    ]
    return min(reach, default=step(now, "year", INTERVALS_MAX))


def finish_advance(world: World, clock: JsonObject, target: int) -> None:
    """Do all that falls due on the way."""
    world.clocks.advance(clock["id"], target)
    clock |= {"frozen_time": target, "status": "ready", "status_details": {"advancing": None}}
    world.store.revision += 1
    world.emit("test_helpers.test_clock.ready", clock)


@routes("DELETE", "/v1/test_helpers/test_clocks/{id}")
def delete(call: Call) -> JsonObject:
    """Delete a clock with its customers and all that is theirs."""
    world = call.world
    clock = world.store.get("test_helpers.test_clock", call.id)
    owners = {customer["id"] for customer in world.store.all("customer", lambda entry: entry["test_clock"] == call.id)}
    for kind in [kind for kind in world.store.tables if kind not in ("event", "test_helpers.test_clock")]:
        for entry in world.store.all(kind, lambda entry: owner_of(entry) in owners):
            world.store.remove(kind, entry["id"])
    world.store.remove("test_helpers.test_clock", call.id)
    world.emit("test_helpers.test_clock.deleted", clock)
    world.clocks.remove_test_clock(call.id)
    return {"id": call.id, "object": "test_helpers.test_clock", "deleted": True}
