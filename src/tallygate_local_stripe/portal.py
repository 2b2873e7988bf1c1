"""The billing portal: configurations, sessions, and what a customer does there."""

from __future__ import annotations

from stripe import params

from tallygate_local_stripe import payment_methods
from tallygate_local_stripe.errors import refused
from tallygate_local_stripe.objects import JsonObject, merge_metadata
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.subscription_changes import update_subscription
from tallygate_local_stripe.subscriptions import items_of
from tallygate_local_stripe.world import World

routes = Routes()

_NOTHING: JsonObject = {}


@routes("POST", "/v1/billing_portal/configurations", params.billing_portal.ConfigurationCreateParams)
def create_configuration(call: Call) -> JsonObject:
    """Create a configuration."""
    return _configure(call.world, call.params, is_default=False)


def _configure(world: World, given: JsonObject, *, is_default: bool) -> JsonObject:
    now = world.now()
    chosen = given.get("features") or {}
    features: JsonObject = {
        "customer_update": {"allowed_updates": ["email", "tax_id"], "enabled": True},
        "invoice_history": {"enabled": True},
        "payment_method_update": {"enabled": True},
        "subscription_cancel": {"enabled": True, "mode": "at_period_end", "proration_behavior": "none"},
        "subscription_pause": {"enabled": False, "duration": {"type": "indefinite"}},
        "subscription_update": {
            "enabled": False,
            "proration_behavior": "create_prorations",
            "schedule_at_period_end": {},
            "trial_update_behavior": "end_trial",
        },
    }
    for name, feature in chosen.items():
        features[name] = features[name] | feature
    return world.store.add(
        "billing_portal.configuration",
        active=True,
        business_profile=given.get("business_profile") or {},
        created=now,
        updated=now,
        default_return_url=given.get("default_return_url") or None,
        features=features,
        is_default=is_default,
        metadata=merge_metadata({}, given.get("metadata")),
        name=given.get("name") or None,
    )


@routes("GET", "/v1/billing_portal/configurations", params.billing_portal.ConfigurationListParams)
def list_configurations(call: Call) -> JsonObject:
    """List configurations."""
    return call.page(list(call.world.store.all("billing_portal.configuration")))


@routes("GET", "/v1/billing_portal/configurations/{id}", params.billing_portal.ConfigurationRetrieveParams)
def retrieve_configuration(call: Call) -> JsonObject:
    """Return a configuration."""
    return call.world.store.get("billing_portal.configuration", call.id)


@routes("POST", "/v1/billing_portal/sessions", params.billing_portal.SessionCreateParams)
def create_session(call: Call) -> JsonObject:
    """Open the portal for a customer."""
    world = call.world
    customer = world.store.get("customer", call.get("customer") or "", param="customer")
    if "configuration" in call.params:
        configuration = world.store.get(
            "billing_portal.configuration", call.get("configuration"), param="configuration"
        )
    else:
        known = world.store.all("billing_portal.configuration", lambda entry: entry["is_default"])
        configuration = next((entry for entry in known), _NOTHING) or _configure(world, {}, is_default=True)
    session = world.store.add(
        "billing_portal.session",
        configuration=configuration["id"],
        created=world.now(customer),
        customer=customer["id"],
        return_url=call.get("return_url") or configuration["default_return_url"],
        url="",
    )
    session["url"] = f"{world.url}/p/session/{session['id']}"
    return session


def act(world: World, session_id: str, *, action: str, subscription_id: str, choice: str | None = None) -> JsonObject:
    """Do what a customer does in the portal.

    The `action` is `cancel` (at period end), `resume` (take that back), `switch` (to the price `choice`) or `card` (pay
    with the test card `choice`).

    Raises:
        StripeError: the subscription is not this customer's, or the change is not possible.

    """
    session = world.store.get("billing_portal.session", session_id)
    subscription = world.store.get("subscription", subscription_id)
    if subscription["customer"] != session["customer"]:
        raise refused("This subscription belongs to another customer.")
    if action in ("cancel", "resume"):
        update_subscription(world, subscription, {"cancel_at_period_end": action == "cancel"})
    elif action == "switch":
        item = items_of(subscription)[0]
        given = {"items": [{"id": item["id"], "price": choice}], "proration_behavior": "always_invoice"}
        update_subscription(world, subscription, given)
    elif action == "card":
        customer = world.store.get("customer", session["customer"])
        method = payment_methods.attach(world, payment_methods.load(world, choice or "pm_card_visa"), customer)
        update_subscription(world, subscription, {"default_payment_method": method["id"]})
    else:
        raise refused(f"Unknown action: {action}.", param="action")
    return subscription
