"""Customers and their tax ids."""

from __future__ import annotations

from stripe import params

from tallygate_local_stripe import payment_methods
from tallygate_local_stripe.errors import refused
from tallygate_local_stripe.objects import JsonObject, listing, merge_metadata
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.world import World

routes = Routes()

_PLAIN_FIELDS = ("address", "business_name", "description", "email", "name", "individual_name", "phone", "shipping")
_ADDRESS_FIELDS = ("city", "country", "line1", "line2", "postal_code", "state")
TAX_IDS_MAX = 5


def create_customer(world: World, given: JsonObject) -> JsonObject:
    """Create a customer from checked parameters."""
    clock = given.get("test_clock")
    if clock is not None:
        world.store.get("test_helpers.test_clock", clock, param="test_clock")
    customer = world.store.add(
        "customer",
        created=world.clocks.now(clock),
        test_clock=clock,
        balance=given.get("balance", 0),
        delinquent=False,
        invoice_settings={},
        next_invoice_sequence=1,
        preferred_locales=given.get("preferred_locales", []),
        tax_exempt=given.get("tax_exempt", "none"),
        metadata={},
    )
    customer["invoice_prefix"] = customer["id"].removeprefix("cus_")[:8].upper()
    _apply(world, customer, given)
    for tax_id in given.get("tax_id_data", []):
        add_tax_id(world, customer, tax_id)
    world.emit("customer.created", customer)
    return customer


def _apply(world: World, customer: JsonObject, given: JsonObject) -> None:
    for name in _PLAIN_FIELDS:
        if name in given:
            customer[name] = given[name] if given[name] != "" else None
    if customer["address"] is not None:
        customer["address"] = {field: customer["address"].get(field) for field in _ADDRESS_FIELDS}
    for name in ("balance", "preferred_locales", "tax_exempt", "invoice_prefix", "next_invoice_sequence"):
        if name in given:
            customer[name] = given[name]
    if "metadata" in given:
        customer["metadata"] = merge_metadata(customer["metadata"], given["metadata"])
    if given.get("payment_method"):
        payment_methods.attach(world, payment_methods.load(world, given["payment_method"]), customer)
    settings = given.get("invoice_settings", {})
    if "default_payment_method" in settings:
        wanted = settings["default_payment_method"] or None
        if wanted is not None:
            wanted = payment_methods.owned(world, wanted, customer, param="invoice_settings[default_payment_method]")
        customer["invoice_settings"]["default_payment_method"] = wanted


def add_tax_id(world: World, customer: JsonObject, given: JsonObject) -> JsonObject:
    """Add a tax id to a customer."""
    if len(tax_ids_of(world, customer)) >= TAX_IDS_MAX:
        raise refused(f"You can add up to {TAX_IDS_MAX} tax IDs to a customer.")
    prefix = given["type"].split("_")[0].upper()
    return world.store.add(
        "tax_id",
        type=given["type"],
        value=given["value"],
        country=None if prefix == "EU" else prefix,
        customer=customer["id"],
        created=world.now(customer),
        owner={"type": "customer", "customer": customer["id"]},
        verification={"status": "verified"},
    )


def tax_ids_of(world: World, customer: JsonObject) -> list[JsonObject]:
    """Return a customer's tax ids, oldest first."""
    return list(world.store.all("tax_id", lambda entry: entry["customer"] == customer["id"]))


def live(world: World, customer_id: str, *, param: str = "customer") -> JsonObject:
    """Return a customer that has not been deleted.

    Raises:
        StripeError: there is none.

    """
    return world.store.get("customer", customer_id, param=param)


@routes("POST", "/v1/customers", params.CustomerCreateParams)
def create(call: Call) -> JsonObject:
    """Create a customer."""
    return create_customer(call.world, call.params)


@routes("GET", "/v1/customers", params.CustomerListParams)
def list_all(call: Call) -> JsonObject:
    """List customers, by email or test clock."""
    wanted = call.get("test_clock")
    found = call.world.store.all("customer", lambda entry: entry["test_clock"] == wanted)
    return call.page(list(found), ignoring=frozenset({"test_clock"}))


@routes("GET", "/v1/customers/{id}", params.CustomerRetrieveParams)
def retrieve(call: Call) -> JsonObject:
    """Return a customer, or what is left of a deleted one."""
    gone = call.world.store.tables.get("deleted_customer", {}).get(call.id)
    return gone or live(call.world, call.id, param="id")


@routes("POST", "/v1/customers/{id}", params.CustomerUpdateParams)
def update(call: Call) -> JsonObject:
    """Change a customer."""
    customer = live(call.world, call.id, param="id")
    with call.world.updating("customer.updated", customer):
        _apply(call.world, customer, call.params)
    return customer


@routes("GET", "/v1/customers/{id}/tax_ids", params.CustomerTaxIdListParams)
def list_tax_ids(call: Call) -> JsonObject:
    """List a customer's tax ids."""
    return call.page(tax_ids_of(call.world, live(call.world, call.id, param="id")))


@routes("POST", "/v1/customers/{id}/tax_ids", params.CustomerTaxIdCreateParams)
def create_tax_id(call: Call) -> JsonObject:
    """Add a tax id."""
    return add_tax_id(call.world, live(call.world, call.id, param="id"), call.params)


@routes("GET", "/v1/customers/{customer}/tax_ids/{id}", params.CustomerTaxIdRetrieveParams)
def retrieve_tax_id(call: Call) -> JsonObject:
    """Return a tax id."""
    return call.world.store.get("tax_id", call.id)


@routes("DELETE", "/v1/customers/{customer}/tax_ids/{id}")
def delete_tax_id(call: Call) -> JsonObject:
    """Remove a tax id."""
    call.world.store.remove("tax_id", call.id)
    return {"id": call.id, "object": "tax_id", "deleted": True}


def include_tax_ids(world: World, customer: JsonObject) -> JsonObject:
    """Return what `expand[]=tax_ids` shows."""
    return listing(f"/v1/customers/{customer['id']}/tax_ids", tax_ids_of(world, customer))
