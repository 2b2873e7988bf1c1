"""Products, prices, coupons and promotion codes."""

from __future__ import annotations

from stripe import params

from tallygate_local_stripe.errors import missing_parameter, refused
from tallygate_local_stripe.objects import JsonObject, merge_metadata
from tallygate_local_stripe.periods import percent_of, step
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.world import World

routes = Routes()


@routes("POST", "/v1/products", params.ProductCreateParams)
def create_product(call: Call) -> JsonObject:
    """Create a product, under a chosen id if one is given."""
    world = call.world
    if call.get("id") in world.store.tables.get("product", {}):
        raise refused(f"Product already exists: {call.get('id')}", code="resource_already_exists", param="id")
    given = {name: call.get(name) for name in ("id", "description", "url", "unit_label") if call.get(name) is not None}
    product = world.store.add(
        "product",
        name=call.get("name"),
        active=call.get("active", True),
        type=call.get("type", "service"),
        created=world.now(),
        updated=world.now(),
        metadata=merge_metadata({}, call.get("metadata")),
        **given,
    )
    if "default_price_data" in call.params:
        price = _new_price(world, product, call.get("default_price_data"))
        product["default_price"] = price["id"]
    world.emit("product.created", product)
    return product


@routes("GET", "/v1/products", params.ProductListParams)
def list_products(call: Call) -> JsonObject:
    """List products, or those with the given ids."""
    wanted = call.get("ids")
    found = call.world.store.all("product", lambda entry: wanted is None or entry["id"] in wanted)
    return call.page(list(found), ignoring=frozenset({"ids"}))


@routes("GET", "/v1/products/{id}", params.ProductRetrieveParams)
def retrieve_product(call: Call) -> JsonObject:
    """Return a product."""
    return call.world.store.get("product", call.id)


@routes("POST", "/v1/products/{id}", params.ProductUpdateParams)
def update_product(call: Call) -> JsonObject:
    """Change a product."""
    product = call.world.store.get("product", call.id)
    with call.world.updating("product.updated", product):
        for name in ("active", "name", "description", "default_price", "url", "unit_label"):
            if name in call.params:
                product[name] = call.get(name) if call.get(name) != "" else None
        product["metadata"] = merge_metadata(product["metadata"], call.get("metadata"))
    return product


def _new_price(world: World, product: JsonObject, given: JsonObject) -> JsonObject:
    amount = given.get("unit_amount")
    if amount is None and "unit_amount_decimal" in given:
        amount = round(given["unit_amount_decimal"])
    if amount is None:
        raise missing_parameter("unit_amount")
    recurring = given.get("recurring")
    if recurring is not None:
        recurring = {"interval_count": 1, "usage_type": "licensed", **recurring}
        if recurring["usage_type"] != "licensed":
            raise refused("The local Stripe knows licensed prices only.", param="recurring[usage_type]")
    return world.store.add(
        "price",
        product=product["id"],
        currency=given["currency"].lower(),
        unit_amount=amount,
        unit_amount_decimal=str(amount),
        recurring=recurring,
        type="recurring" if recurring else "one_time",
        billing_scheme="per_unit",
        active=given.get("active", True),
        nickname=given.get("nickname"),
        tax_behavior=given.get("tax_behavior", "unspecified"),
        metadata=merge_metadata({}, given.get("metadata")),
        created=world.now(),
    )


def _claim_lookup_key(world: World, price: JsonObject, given: JsonObject) -> None:
    key = given.get("lookup_key")
    for holder in world.store.all("price", lambda entry: key is not None and entry["lookup_key"] == key):
        if holder is price:
            return
        if not given.get("transfer_lookup_key"):
            raise refused(f"A price (`{holder['id']}`) already uses that lookup key.", param="lookup_key")
        with world.updating("price.updated", holder):
            holder["lookup_key"] = None
    price["lookup_key"] = key


@routes("POST", "/v1/prices", params.PriceCreateParams)
def create_price(call: Call) -> JsonObject:
    """Create a price for a product, or with a new product."""
    world = call.world
    holders = world.store.all("price", lambda entry: entry["lookup_key"] == call.get("lookup_key"))
    if call.get("lookup_key") and not call.get("transfer_lookup_key") and any(holders):
        raise refused("A price already uses that lookup key.", param="lookup_key")
    if "product_data" in call.params:
        data = call.get("product_data")
        product = world.store.add(
            "product",
            name=data["name"],
            active=data.get("active", True),
            type="service",
            created=world.now(),
            updated=world.now(),
            metadata=merge_metadata({}, data.get("metadata")),
        )
    elif "product" in call.params:
        product = world.store.get("product", call.get("product"), param="product")
    else:
        raise missing_parameter("product")
    price = _new_price(world, product, call.params)
    if "lookup_key" in call.params:
        _claim_lookup_key(world, price, call.params)
    world.emit("price.created", price)
    return price


@routes("GET", "/v1/prices", params.PriceListParams)
def list_prices(call: Call) -> JsonObject:
    """List prices, by lookup keys, product, kind and so on."""
    keys, recurring = call.get("lookup_keys"), call.get("recurring") or {}

    def wanted(price: JsonObject) -> bool:
        interval = (price["recurring"] or {}).get("interval")
        return (keys is None or price["lookup_key"] in keys) and recurring.get("interval") in (None, interval)

    return call.page(list(call.world.store.all("price", wanted)), ignoring=frozenset({"lookup_keys", "recurring"}))


@routes("GET", "/v1/prices/{id}", params.PriceRetrieveParams)
def retrieve_price(call: Call) -> JsonObject:
    """Return a price."""
    return call.world.store.get("price", call.id)


@routes("POST", "/v1/prices/{id}", params.PriceUpdateParams)
def update_price(call: Call) -> JsonObject:
    """Change what is changeable of a price; its amount is not."""
    price = call.world.store.get("price", call.id)
    with call.world.updating("price.updated", price):
        for name in ("active", "nickname", "tax_behavior"):
            if name in call.params:
                price[name] = call.get(name)
        if "lookup_key" in call.params:
            _claim_lookup_key(call.world, price, call.params)
        price["metadata"] = merge_metadata(price["metadata"], call.get("metadata"))
    return price


@routes("POST", "/v1/coupons", params.CouponCreateParams)
def create_coupon(call: Call) -> JsonObject:
    """Create a coupon: a percentage or an amount off."""
    world, given = call.world, call.params
    if ("percent_off" in given) == ("amount_off" in given):
        raise refused("Must pass either amount_off or percent_off.", param="percent_off")
    if "amount_off" in given and "currency" not in given:
        raise missing_parameter("currency")
    if given.get("id") in world.store.tables.get("coupon", {}):
        raise refused("Coupon already exists.", code="resource_already_exists", param="id")
    fields = {name: given[name] for name in ("id", "name", "redeem_by", "max_redemptions") if name in given}
    return world.store.add(
        "coupon",
        created=world.now(),
        duration=given.get("duration", "once"),
        duration_in_months=given.get("duration_in_months"),
        percent_off=given.get("percent_off"),
        amount_off=given.get("amount_off"),
        currency=given.get("currency"),
        metadata=merge_metadata({}, given.get("metadata")),
        valid=True,
        **fields,
    )


@routes("GET", "/v1/coupons", params.CouponListParams)
def list_coupons(call: Call) -> JsonObject:
    """List coupons."""
    return call.page(list(call.world.store.all("coupon")))


@routes("GET", "/v1/coupons/{id}", params.CouponRetrieveParams)
def retrieve_coupon(call: Call) -> JsonObject:
    """Return a coupon."""
    return call.world.store.get("coupon", call.id)


@routes("DELETE", "/v1/coupons/{id}")
def delete_coupon(call: Call) -> JsonObject:
    """Delete a coupon; discounts made from it stay."""
    call.world.store.remove("coupon", call.id)
    return {"id": call.id, "object": "coupon", "deleted": True}


@routes("POST", "/v1/promotion_codes", params.PromotionCodeCreateParams)
def create_promotion_code(call: Call) -> JsonObject:
    """Create a code that customers can type for a coupon."""
    world, given = call.world, call.params
    coupon = world.store.get("coupon", given["promotion"].get("coupon", ""), param="promotion[coupon]")
    code = given.get("code")
    taken = world.store.all("promotion_code", lambda entry: entry["active"] and entry["code"] == code)
    if code is not None and any(taken):
        raise refused(f"An active promotion code with `code: {code}` already exists.", param="code")
    promotion_code = world.store.add(
        "promotion_code",
        code=code or "",
        promotion={"type": "coupon", "coupon": coupon["id"]},
        active=given.get("active", True),
        customer=given.get("customer"),
        expires_at=given.get("expires_at"),
        max_redemptions=given.get("max_redemptions"),
        metadata=merge_metadata({}, given.get("metadata")),
        created=world.now(),
    )
    promotion_code["code"] = code or promotion_code["id"][-8:].upper()
    return promotion_code


@routes("GET", "/v1/promotion_codes", params.PromotionCodeListParams)
def list_promotion_codes(call: Call) -> JsonObject:
    """List promotion codes, by code for one."""
    coupon = call.get("coupon")
    found = call.world.store.all(
        "promotion_code", lambda entry: coupon is None or entry["promotion"]["coupon"] == coupon
    )
    return call.page(list(found), ignoring=frozenset({"coupon"}))


@routes("GET", "/v1/promotion_codes/{id}", params.PromotionCodeRetrieveParams)
def retrieve_promotion_code(call: Call) -> JsonObject:
    """Return a promotion code."""
    return call.world.store.get("promotion_code", call.id)


@routes("POST", "/v1/promotion_codes/{id}", params.PromotionCodeUpdateParams)
def update_promotion_code(call: Call) -> JsonObject:
    """Switch a promotion code on or off."""
    promotion_code = call.world.store.get("promotion_code", call.id)
    promotion_code["active"] = call.get("active", promotion_code["active"])
    promotion_code["metadata"] = merge_metadata(promotion_code["metadata"], call.get("metadata"))
    return promotion_code


def redeem(world: World, given: object, subject: JsonObject, *, param: str = "discounts") -> list[str]:
    """Make discounts from `discounts` parameters, for a customer, subscription or session.

    Raises:
        StripeError: a coupon or code is unknown, switched off, expired or used up.

    """
    discounts = []
    for entry in given if isinstance(given, list) else []:
        if "discount" in entry:
            discounts.append(world.store.get("discount", entry["discount"], param=param)["id"])
            continue
        promotion_code = None
        coupon_id = entry.get("coupon")
        if "promotion_code" in entry:
            promotion_code = world.store.get("promotion_code", entry["promotion_code"], param=param)
            coupon_id = promotion_code["promotion"]["coupon"]
            if not promotion_code["active"] or _used_up(world, promotion_code, "expires_at"):
                raise refused("This promotion code is invalid.", code="promotion_code_invalid", param=param)
            promotion_code["times_redeemed"] += 1
        coupon = world.store.get("coupon", coupon_id or "", param=param)
        if not coupon["valid"] or _used_up(world, coupon, "redeem_by"):
            raise refused("Coupon expired.", code="coupon_expired", param=param)
        coupon["times_redeemed"] += 1
        discounts.append(_discount(world, coupon, promotion_code, subject)["id"])
    return discounts


def discount_on(world: World, given: list[JsonObject], amount: int) -> int:
    """Return what these discounts, all of which must exist, would take off an amount; nothing is redeemed."""
    left = amount
    for entry in given:
        coupon_id = entry.get("coupon")
        if "promotion_code" in entry:
            code = world.store.get("promotion_code", entry["promotion_code"], param="discounts")
            coupon_id = code["promotion"]["coupon"]
        left -= min(left, amount_off(world.store.get("coupon", coupon_id or "", param="discounts"), left))
    return amount - left


def amount_off(coupon: JsonObject, amount: int) -> int:
    """Return what a coupon takes off an amount, which may be more than there is."""
    off: int | None = coupon["amount_off"]
    return off if off is not None else percent_of(amount, coupon["percent_off"])


def _used_up(world: World, offer: JsonObject, until: str) -> bool:
    used = offer["max_redemptions"] is not None and offer["times_redeemed"] >= offer["max_redemptions"]
    return used or (offer[until] is not None and world.now() > offer[until])


def _discount(world: World, coupon: JsonObject, promotion_code: JsonObject | None, subject: JsonObject) -> JsonObject:
    from_now = world.now(subject)
    end = None
    if coupon["duration"] == "repeating":
        end = step(from_now, "month", coupon["duration_in_months"])
    return world.store.add(
        "discount",
        source={"type": "coupon", "coupon": coupon["id"]},
        promotion_code=promotion_code["id"] if promotion_code else None,
        customer=subject.get("customer"),
        subscription=subject["id"] if subject["object"] == "subscription" else None,
        start=from_now,
        end=end,
        _coupon=dict(coupon),
        _used=False,
    )
