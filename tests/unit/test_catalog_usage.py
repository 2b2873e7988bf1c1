"""What catalogs say of measured usage: meters, prices of models, rollovers, trials, overruns, settings."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings

from tallygate.v1 import access_pb2, catalog_pb2, catalog_service_pb2
from tallygate_server.catalog_diff import (
    CatalogElement,
    ChangeKind,
    PresentCatalog,
    PresentPlan,
    catalog_changes,
    plan_digest,
)
from tallygate_server.catalog_files import parse_catalog
from tallygate_server.catalog_rules import CatalogSet, catalog_set_breaches
from tallygate_server.domain.catalog import (
    Allowance,
    BillingInterval,
    Catalog,
    FailureMode,
    Feature,
    FeatureKind,
    LimitMode,
    Meter,
    MeterAggregation,
    MeterFilter,
    ModelPrice,
    OverrunPolicy,
    Plan,
    Price,
    Rollover,
    TenantSettings,
)
from tallygate_server.domain.entitlement import resolve
from tallygate_server.domain.identifier import FeatureKey, PlanKey
from tallygate_server.domain.limits import LIMIT_MAX, LIMIT_UNLIMITED
from tallygate_server.domain.period import PeriodKind
from tallygate_server.domain.subscription import SubscriptionState
from tallygate_server.errors import CatalogInvalid
from tallygate_server.storage.mapping import allowance_from_json, allowance_to_json
from tallygate_server.transport.catalog_convert import from_api_catalog_source, to_api_catalog
from tests.support.builders import DAY, NOW, a_counter, a_subscription, an_account
from tests.support.catalogs import catalogs as catalog_values
from tests.support.use_cases import example

PREAMBLE = "tenant: shop\ncurrency: USD\nfeatures: {calls: counter, seats: gauge, flag: boolean}\n"
CREATED = datetime(2026, 7, 1, tzinfo=UTC)


TOO_FEW_DAYS = "too few: 0 to keep raw usage for ever, or at least 40, as answers to repeated requests rest on it"


def mistakes(text: str) -> list[str]:
    with pytest.raises(CatalogInvalid) as caught:
        parse_catalog(text)
    return [f"{violation.field}: {violation.description}" for violation in caught.value.violations]


def meter(text: str) -> Meter:
    (found,) = parse_catalog(f"tenant: shop\nmeters:\n  m: {text}\n").root.meters
    return found


def allowance(text: str, feature: str = "calls") -> Allowance:
    (found,) = (
        parse_catalog(f"{PREAMBLE}plans:\n  pro:\n    allowances: {{{feature}: {text}}}\n").root.plans[0].allowances
    )
    return found


def prices(text: str) -> tuple[ModelPrice, ...]:
    return parse_catalog(f"tenant: shop\ncurrency: USD\nmodel_prices:\n  m: {text}\n").root.model_prices


# --- Files ------------------------------------------------------------------------------------------------


def test_the_example_says_everything_that_usage_is_measured_and_limited_by() -> None:
    catalog = parse_catalog(example("writing-studio").text).root

    assert catalog.settings.default_time_zone == "Europe/Berlin"
    assert catalog.settings.late_event_window == timedelta(days=3)
    assert catalog.settings.closed_period_corrections
    assert catalog.settings.usage_retention_days == 400
    assert catalog.features_by_key["ai_cost"].meter_key == "ai_cost"
    assert catalog.meters_by_key["ai_cost"].value_property == "ai.cost_nanos"
    assert catalog.meters_by_key["chat_messages"] == Meter(
        key="chat_messages",
        name="Chat messages of people",
        event_type="com.writing-studio.ai.request",
        aggregation=MeterAggregation.COUNT,
        group_by=(("caller", "caller.kind"), ("operation", "ai.operation")),
        filters=(
            MeterFilter(dimension="caller", values=("guest", "person")),
            MeterFilter(dimension="operation", values=("chat",)),
        ),
    )
    tokens = catalog.plans_by_key["writer"].allowances[0]
    assert tokens.rollover == Rollover(min_quantity=1_000, max_quantity=500_000)
    assert tokens.overrun_policy is OverrunPolicy.OVERDRAW
    assert (tokens.limit_quantity, tokens.trial_limit_quantity) == (1_000_000, 100_000)
    assert (tokens.thresholds_percent, tokens.thresholds_absolute) == ((50, 80, 100), (900_000,))
    large = [price for price in catalog.model_prices if price.model_key == "quill-large"]
    assert [(price.start_time, price.end_time) for price in large] == [(None, CREATED), (CREATED, None)]
    assert [price.input_micros_per_million for price in large] == [5_000_000, 2_500_000]


def test_a_list_of_dimensions_reads_the_properties_of_the_same_names() -> None:
    assert meter("{event_type: e, aggregation: count, group_by: [region, model]}").group_by == (
        ("model", "model"),
        ("region", "region"),
    )


@pytest.mark.parametrize("aggregation", MeterAggregation)
def test_every_aggregation_can_be_written(aggregation: MeterAggregation) -> None:
    written = meter(f"{{event_type: e, aggregation: {aggregation.value}, value_property: v}}")

    assert written.aggregation is aggregation


def test_a_filter_keeps_one_value_or_several() -> None:
    written = meter("{event_type: e, aggregation: count, group_by: [a, b], filters: {b: [y, x, x], a: 1}}")

    assert written.filters == (
        MeterFilter(dimension="a", values=("1",)),
        MeterFilter(dimension="b", values=("x", "y")),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", Rollover()),
        ("{min: 5}", Rollover(min_quantity=5)),
        ("{max: 7}", Rollover(max_quantity=7)),
        ("{min: 7, max: 7}", Rollover(min_quantity=7, max_quantity=7)),
        ("off", None),
    ],
)
def test_a_rollover_is_everything_a_part_or_nothing(text: str, expected: Rollover | None) -> None:
    assert allowance(f"{{limit: 10, period: month, rollover: {text}}}").rollover == expected


def test_a_rollover_of_everything_can_be_written_as_json() -> None:
    catalogs = parse_catalog(
        '{"tenant": "acme", "features": {"calls": "counter"},'
        ' "plans": {"p": {"allowances": {"calls": {"limit": 5, "period": "month", "rollover": "all"}}}}}'
    )

    assert catalogs.root.plans[0].allowances[0].rollover == Rollover()


def test_a_trial_may_have_another_limit_also_none_at_all() -> None:
    assert allowance("{limit: 10, period: day, trial_limit: 0}").trial_limit_quantity == 0
    assert allowance("{limit: 10, trial_limit: unlimited}", "seats").trial_limit_quantity == LIMIT_UNLIMITED
    assert allowance("{limit: 10, period: day}").trial_limit_quantity is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("3d", 259_200), ("36h", 129_600), ("90m", 5_400), ("1s", 1), ("0s", 0), ("35d", 3_024_000)]
)
def test_how_late_an_event_may_be_is_a_number_with_its_unit(text: str, seconds: int) -> None:
    window = parse_catalog(f"tenant: shop\nlate_event_window: {text}\n").root.settings.late_event_window

    assert window == timedelta(seconds=seconds)


def test_features_and_plans_that_say_nothing_take_the_tenants_word() -> None:
    catalog = parse_catalog(
        "tenant: shop\nfailure_mode: open\ngrace_days: 3\n"
        "features: {a: boolean, b: {kind: boolean}, c: {kind: boolean, failure_mode: closed}}\n"
        "plans: {p: {}, q: {grace_days: 14}}\n"
    ).root

    assert [feature.failure_mode for feature in catalog.features] == [
        FailureMode.OPEN,
        FailureMode.OPEN,
        FailureMode.CLOSED,
    ]
    assert [plan.grace_days for plan in catalog.plans] == [3, 14]


def test_prices_of_a_model_may_stand_in_any_order() -> None:
    first, second = prices("[{input: 1, output: 2, start: 2026-07-01}, {input: 3, output: 4}]")

    assert (first.start_time, first.input_micros_per_million) == (None, 3_000_000)
    assert (second.start_time, second.input_micros_per_million) == (CREATED, 1_000_000)
    assert second.cached_input_micros_per_million is None


@pytest.mark.parametrize(
    "text", ["2026-07-01", "2026-07-01T02:00:00+02:00", "2026-07-01 00:00:00Z", "2026-06-30t23:00:00.000-01:00"]
)
def test_a_price_begins_on_a_day_or_at_an_instant(text: str) -> None:
    assert prices(f"{{input: 1, output: 2, start: {text}}}")[0].start_time == CREATED


@pytest.mark.parametrize(
    ("text", "micros"), [("0", 0), ("0.000001", 1), ("0.15", 150_000), ("1000000", 10**12), ("2.50", 2_500_000)]
)
def test_prices_of_models_are_exact(text: str, micros: int) -> None:
    assert prices(f"{{input: {text}, output: 0}}")[0].input_micros_per_million == micros


def test_a_store_inherits_the_meters_that_its_features_hang_on() -> None:
    catalogs = parse_catalog(
        "tenant: shop\nfeatures: {calls: {kind: counter, meter: calls}}\n"
        "meters: {calls: {event_type: e, aggregation: count}, other: {event_type: e, aggregation: count}}\n"
        "stores:\n- {tenant: a, inherit_features: true}\n- {tenant: b, inherit_features: false}\n"
        "- {tenant: c, inherit_features: true, meters: {calls: {event_type: own, aggregation: count}}}\n"
    )

    assert [[meter.key for meter in store.meters] for store in catalogs.stores] == [["calls"], [], ["calls"]]
    assert catalogs.stores[2].meters[0].event_type == "own"


# --- What is refused, where -------------------------------------------------------------------------------

METER = "tenant: shop\nmeters:\n  m:\n    event_type: e\n    aggregation: sum\n    value_property: v\n    "
PRICE = "tenant: shop\nmodel_prices:\n  m:\n    "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (METER + "scale: 10", "meters.m.scale: line 7, column 12: 10 is not between 0 and 9"),
        (METER + "scale: -1", "meters.m.scale: line 7, column 12: -1 is not between 0 and 9"),
        (
            METER + "group_by: {a: x..y}",
            "meters.m.group_by.a: line 7, column 16: 'x..y' is not a dotted path of up to 8 names",
        ),
        (METER + "group_by: {A: x}", "meters.m.group_by.A: line 7, column 16: 'A' is not a key"),
        (METER + "group_by: {a: [x]}", "meters.m.group_by.a: line 7, column 19: a dotted path"),
        (METER + "group_by: [[a]]", "meters.m.group_by: line 7, column 16: a dimension is a word, not a list"),
        (METER + "group_by: [a, a]", "meters.m.group_by: line 7, column 15: dimension 'a' is declared twice"),
        (METER + "group_by: x", "meters.m.group_by: line 7, column 15: a list belongs here"),
        (METER + "filters: [a]", "meters.m.filters: line 7, column 14: a mapping by key belongs here"),
        (
            METER + "group_by: [model]\n    filters: {modle: x}",
            "meters.m.filters.modle: line 8, column 15: there is no dimension 'modle' under 'group_by': did",
        ),
        (METER + "group_by: [a]\n    filters: {a: []}", "meters.m.filters.a: line 8, column 15: no value to keep"),
        (
            METER + "group_by: [a]\n    filters: {a: {}}",
            "meters.m.filters.a: line 8, column 18: a value to keep is a text",
        ),
        (
            METER + "group_by: [a]\n    filters: {a: ~}",
            "meters.m.filters.a: line 8, column 18: a value to keep is a text",
        ),
        (
            METER + 'group_by: [a]\n    filters: {a: "x\\ty"}',
            "meters.m.filters.a: line 8, column 15: a value to keep is at most 256 characters",
        ),
        (METER + "unit: x", "meters.m.unit: line 7, column 5: unknown key 'unit'"),
        (
            "tenant: shop\nmeters:\n  m:\n    event_type: e\n",
            "meters.m.aggregation: line 3, column 3: 'aggregation' is missing: one of sum, count, max",
        ),
        (
            "tenant: shop\nmeters:\n  m: {event_type: e, aggregation: total}\n",
            "meters.m.aggregation: line 3, column 35: 'total' is none of sum, count, max, min, average, unique, latest",
        ),
        (
            "tenant: shop\nfeatures:\n  a: {kind: gauge, meter: m}\n",
            "features.a.meter: line 3, column 27: a gauge feature does not count events: only counters hang on a meter",
        ),
        (
            "tenant: a\nfeatures:\n  a: {kind: counter, meter: mm}\nmeters: {m: {event_type: e, aggregation: count}}",
            "features.a.meter: line 3, column 29: there is no meter 'mm' here",
        ),
        (
            (
                "tenant: shop\nfeatures:\n  a: {kind: counter, meter: m}\n"
                "meters: {m: {event_type: e, aggregation: max, value_property: v}}"
            ),
            "features.a.meter: line 3, column 29: 'm' takes the max, which does not add up",
        ),
        (PRICE + "{output: 1, currency: USD}", "model_prices.m.input: line 4, column 5: 'input' is missing"),
        (PRICE + "{input: 1, currency: USD}", "model_prices.m.output: line 4, column 5: 'output' is missing"),
        (PRICE + "{input: 1, output: 1}", "model_prices.m: line 4, column 5: in which currency?"),
        (
            PRICE + "{input: 1, output: 1, currency: USDD}",
            "model_prices.m.currency: line 4, column 37: 'USDD' is not an ISO 4217 code such as USD",
        ),
        (
            PRICE + "{input: 0.1234567, output: 1, currency: USD}",
            "model_prices.m.input: line 4, column 13: '0.1234567' is too precise: at most 6 decimal places",
        ),
        (
            PRICE + "{input: -1, output: 1, currency: USD}",
            "model_prices.m.input: line 4, column 13: what a million tokens cost is an amount like 0.15, not '-1'",
        ),
        (
            PRICE + "{input: 1, output: 1000000.000001, currency: USD}",
            "model_prices.m.output: line 4, column 24: a million tokens cost between 0 and 1000000 USD",
        ),
        (
            PRICE + "{input: 1, output: 1, currency: USD, start: 2026-02-30}",
            "model_prices.m.start: line 4, column 49: a day like 2026-01-31",
        ),
        (
            PRICE + '{input: 1, output: 1, currency: USD, start: "2026-02-03T10:00:00"}',
            "model_prices.m.start: line 4, column 49: a day like 2026-01-31, or an instant with offset",
        ),
        (
            PRICE + "{input: 1, output: 1, currency: USD, end: 2100-01-01}",
            "model_prices.m.end: line 4, column 47: prices begin and end between 2000 and 2099",
        ),
        (
            PRICE + "{input: 1, output: 1, currency: USD, start: 1999-12-31}",
            "model_prices.m.start: line 4, column 49: prices begin and end between 2000 and 2099",
        ),
        (
            PRICE + "{input: 1, output: 1, currency: USD, start: 2026-02-02, end: 2026-02-02}",
            "model_prices.m.end: line 4, column 66: the end is not after the start",
        ),
        (
            PRICE + "- {input: 1, output: 1, currency: USD, start: 2026-02-01}\n"
            "    - {input: 1, output: 1, currency: USD, start: 2026-01-01, end: 2026-02-02}",
            (
                "model_prices.m.1: line 4, column 7: two prices of 'm' at once: the one since 2026-01-01 "
                "until 2026-02-02 and the one since 2026-02-01"
            ),
        ),
        (
            PRICE + "- {input: 1, output: 1, currency: USD}\n    - {input: 1, output: 1, currency: USD}",
            "model_prices.m.1: line 5, column 7: two prices of 'm' at once: the one since ever and the one since ever",
        ),
        (
            PRICE + "3.5",
            "model_prices.m: line 4, column 5: a mapping with input, output, cached_input, ... belongs here",
        ),
        (
            "tenant: shop\nmodel_prices: {a b: {input: 1, output: 1, currency: USD}}",
            "model_prices.a b: line 2, column 16: 'a b' is not the key of a model",
        ),
        ("tenant: shop\ntime_zone: Europe/Belin", "time_zone: line 2, column 12: 'Europe/Belin' is no IANA time zone"),
        ("tenant: shop\nlate_event_window: 3", "late_event_window: line 2, column 20: a number with its unit, like 3d"),
        (
            "tenant: shop\nlate_event_window: 3024001s",
            "late_event_window: line 2, column 20: between 0 seconds and 35 days",
        ),
        ("tenant: shop\ngrace_days: 91", "grace_days: line 2, column 13: 91 is not between 0 and 90"),
        ("tenant: shop\nfailure_mode: maybe", "failure_mode: line 2, column 15: 'maybe' is none of closed, open"),
        (
            "tenant: shop\nclosed_period_corrections: 1",
            "closed_period_corrections: line 2, column 28: true or false belongs here",
        ),
        (
            "tenant: shop\nusage_retention_days: 36501",
            "usage_retention_days: line 2, column 23: 36501 is not between 0 and 36500",
        ),
        (
            "tenant: shop\nusage_retention_days: 39",
            f"usage_retention_days: line 2, column 23: 39 is {TOO_FEW_DAYS}",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_field_and_line(text: str, expected: str) -> None:
    found = mistakes(text)

    assert len(found) == 1
    assert found[0].startswith(expected), found[0]


@pytest.mark.parametrize(
    ("feature", "text", "field", "reason"),
    [
        ("calls", "{limit: 1, period: day, rollover: some}", "rollover", "a rollover is all, off, or a mapping"),
        ("calls", "{limit: 1, period: day, rollover: {least: 1}}", "rollover.least", "unknown key 'least'"),
        ("calls", "{limit: 1, period: day, rollover: {min: -1}}", "rollover.min", "-1 is not between 0 and"),
        ("calls", f"{{limit: 1, period: day, rollover: {{max: {LIMIT_MAX + 1}}}}}", "rollover.max", "is not between"),
        ("calls", "{limit: 1, period: day, rollover: {min: 2, max: 1}}", "rollover.max", "1 is less than min"),
        ("calls", "{limit: 1, period: lifetime, rollover: all}", "rollover", "a lifetime has no next period"),
        ("calls", "{limit: unlimited, period: day, rollover: all}", "rollover", "nothing is left to roll over"),
        ("seats", "{limit: 1, rollover: all}", "rollover", "a gauge feature has no rollover"),
        ("calls", "{limit: 1, period: day, trial_limit: -2}", "trial_limit", "is no limit: 0 or more"),
        ("calls", f"{{limit: 1, period: day, trial_limit: {LIMIT_MAX + 1}}}", "trial_limit", "is not between -1 and"),
        ("flag", "{trial_limit: 1}", "trial_limit", "a boolean feature has no trial_limit"),
        ("calls", "{limit: 1, period: day, overrun: overdrive}", "overrun", "did you mean 'overdraw'?"),
        ("flag", "{overrun: reject}", "overrun", "a boolean feature has no overrun"),
    ],
)
def test_a_wrong_allowance_is_refused_with_field_and_line(feature: str, text: str, field: str, reason: str) -> None:
    found = mistakes(f"{PREAMBLE}plans:\n  pro:\n    rank: 1\n    allowances:\n      {feature}: {text}\n")

    assert len(found) == 1
    assert found[0].startswith(f"plans.pro.allowances.{feature}.{field}: line 8, column "), found[0]
    assert reason in found[0]


@pytest.mark.parametrize(
    ("make", "most", "thing"),
    [
        (lambda n: {"filters": "{" + ", ".join(f"d{i}: x" for i in range(n)) + "}"}, 16, "filters"),
        (lambda n: {"filters": "{d0: [" + ", ".join(f"v{i}" for i in range(n)) + "]}"}, 100, "values to keep"),
    ],
)
def test_a_meter_has_a_number_of_filters_and_values_at_most(make: Any, most: int, thing: str) -> None:
    def text(count: int) -> str:
        dimensions = ", ".join(f"d{i}" for i in range(16))
        extra = make(count)
        return (
            f"tenant: shop\nmeters:\n  m: {{event_type: e, aggregation: count, group_by: [{dimensions}],"
            f" filters: {extra['filters']}}}\n"
        )

    parse_catalog(text(most))
    found = mistakes(text(most + 1))

    assert any(f"at most {most} {thing}, here are {most + 1}" in mistake for mistake in found)


def test_a_meter_has_a_number_of_dimensions_at_most() -> None:
    def text(count: int) -> str:
        dimensions = ", ".join(f"d{i}: p.q" for i in range(count))
        return f"tenant: shop\nmeters:\n  m: {{event_type: e, aggregation: count, group_by: {{{dimensions}}}}}\n"

    parse_catalog(text(16))

    assert "at most 16 dimensions, here are 17" in mistakes(text(17))[0]


def test_a_catalog_has_a_number_of_prices_at_most() -> None:
    price = ModelPrice(model_key="m", currency_code="USD", input_micros_per_million=1, output_micros_per_million=1)

    def breaches(count: int) -> list[str]:
        catalog = Catalog(
            settings=TenantSettings(tenant_id=parse_catalog("tenant: shop").root.settings.tenant_id),
            model_prices=tuple(replace(price, model_key=f"m{index}") for index in range(count)),
        )
        return [breach.description for breach in catalog_set_breaches(CatalogSet(root=catalog))]

    assert breaches(1_000) == []
    assert breaches(1_001) == ["at most 1000 prices of models, here are 1001"]


# --- Messages ---------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(catalog=catalog_values())
def test_a_catalog_survives_the_wire(catalog: Catalog) -> None:
    message = to_api_catalog(catalog, revision=3)
    sent = catalog_pb2.Catalog.FromString(message.SerializeToString())

    read = from_api_catalog_source(catalog_service_pb2.ApplyCatalogRequest(catalog=sent))

    assert isinstance(read, CatalogSet)
    assert read.root == catalog


def message_with(**tenant: Any) -> catalog_pb2.Catalog:
    return catalog_pb2.Catalog(tenant=catalog_pb2.Tenant(tenant_id="shop", **tenant))


def read_message(message: catalog_pb2.Catalog) -> CatalogSet:
    read = from_api_catalog_source(catalog_service_pb2.ApplyCatalogRequest(catalog=message))
    assert isinstance(read, CatalogSet)
    return read


def test_absent_settings_of_a_message_say_the_same_as_a_files() -> None:
    assert read_message(message_with()) == parse_catalog("tenant: shop")


def test_a_store_in_a_message_inherits_features_and_the_meters_they_hang_on() -> None:
    message = message_with(default_currency_code="EUR")
    message.features.add(key="calls", kind=access_pb2.FEATURE_KIND_COUNTER, meter_key="calls")
    message.meters.add(key="calls", event_type="e", aggregation=catalog_pb2.METER_AGGREGATION_COUNT)
    child = message.children.add(tenant=catalog_pb2.Tenant(tenant_id="store", inherit_features=True))
    plan = child.plans.add(key="p")
    plan.allowances.add(feature_key="calls", limit=catalog_pb2.Limit(quantity=3))
    price = plan.prices.add(interval=catalog_pb2.BILLING_INTERVAL_MONTH)
    price.amount.minor_units = 100

    catalogs = read_message(message)

    assert catalog_set_breaches(catalogs) == []
    (store,) = catalogs.stores
    assert [feature.key for feature in store.features] == ["calls"]
    assert [meter.key for meter in store.meters] == ["calls"]
    assert store.plans[0].prices[0].currency == "EUR"


def test_a_message_that_cannot_be_kept_exactly_is_refused_by_name() -> None:
    message = message_with(late_event_window=Duration(seconds=1, nanos=1), inherit_features=True)
    message.model_prices.add(model_key="m", currency_code="USD", start_time=Timestamp(seconds=-(10**12)))

    with pytest.raises(CatalogInvalid) as caught:
        read_message(message)

    assert [violation.field for violation in caught.value.violations] == [
        "catalog.tenant.inherit_features",
        "catalog.tenant.late_event_window",
        "catalog.model_prices[0].start_time",
    ]


# --- Storage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "allowance",
    [
        a_counter(10, rollover=Rollover(min_quantity=1, max_quantity=2)),
        a_counter(10, rollover=Rollover()),
        a_counter(10, overrun_policy=OverrunPolicy.OVERDRAW),
        a_counter(10, trial_limit_quantity=0),
        a_counter(10, trial_limit_quantity=LIMIT_UNLIMITED, limit_mode=LimitMode.SOFT),
        a_counter(10, grace_days=5),
    ],
)
def test_what_plan_versions_keep_reads_back(allowance: Allowance) -> None:
    assert allowance_from_json(allowance_to_json(allowance)) == allowance


def test_what_the_first_releases_kept_is_still_read_and_written() -> None:
    kept = {
        "feature": "words",
        "kind": "counter",
        "enabled": True,
        "limit": 10,
        "mode": "hard",
        "percent": [80],
        "absolute": [],
        "period": PeriodKind.DAY.value,
        "anchor": "utc",
    }

    read = allowance_from_json(kept)

    assert read == a_counter(10, thresholds_percent=(80,))
    assert allowance_to_json(read) == kept


# --- Differences ------------------------------------------------------------------------------------------


def a_plan(allowance: Allowance) -> Plan:
    price = Price(interval=BillingInterval.MONTH, amount_minor=100, currency="USD")
    return Plan(key=PlanKey("pro"), version=1, prices=(price,), allowances=(allowance,))


def differences(before: Catalog, after: Catalog) -> list[tuple[CatalogElement, ChangeKind, str, bool]]:
    present = PresentCatalog(
        settings=before.settings,
        revision=1,
        features=dict(before.features_by_key),
        retired_features={},
        plans={
            plan.key: PresentPlan(
                plan=plan, digest=plan_digest(plan), retired=False, live_by_version={1: 2}, accounts=2
            )
            for plan in before.plans
        },
        meters=dict(before.meters_by_key),
        retired_meters={},
        model_prices=before.model_prices,
    )
    return [
        (change.element, change.kind, change.path, change.restrictive) for change in catalog_changes(present, after)
    ]


def a_catalog(allowance: Allowance) -> Catalog:
    catalog = parse_catalog("tenant: shop").root
    feature = Feature(key=FeatureKey("words"), kind=FeatureKind.COUNTER)
    return replace(catalog, features=(feature,), plans=(a_plan(allowance),))


@pytest.mark.parametrize(
    ("before", "after", "key", "restrictive"),
    [
        ({}, {"rollover": Rollover()}, "rollover", False),
        ({"rollover": Rollover()}, {}, "rollover", True),
        ({"rollover": Rollover(min_quantity=1)}, {"rollover": Rollover(min_quantity=2)}, "rollover.min", False),
        ({}, {"overrun_policy": OverrunPolicy.OVERDRAW}, "overrun", False),
        ({"overrun_policy": OverrunPolicy.OVERDRAW}, {}, "overrun", True),
        ({}, {"trial_limit_quantity": 9}, "trial_limit", True),
        ({}, {"trial_limit_quantity": 10}, "trial_limit", False),
        ({"trial_limit_quantity": LIMIT_UNLIMITED}, {}, "trial_limit", True),
    ],
)
def test_a_changed_allowance_is_named(
    before: dict[str, Any], after: dict[str, Any], key: str, *, restrictive: bool
) -> None:
    found = differences(a_catalog(a_counter(10, **before)), a_catalog(a_counter(10, **after)))

    assert found == [(CatalogElement.ALLOWANCE, ChangeKind.CHANGED, f"plans.pro.allowances.words.{key}", restrictive)]


def test_less_in_a_longer_period_is_compared_by_time() -> None:
    found = differences(
        a_catalog(a_counter(10, period=PeriodKind.DAY)), a_catalog(a_counter(310, period=PeriodKind.MONTH))
    )

    assert [restrictive for *_, restrictive in found] == [False, False]


def test_the_digest_of_a_plan_that_says_nothing_new_is_that_of_the_first_releases() -> None:
    # Computed by the first release: a plan that did not change gets no new version.
    assert plan_digest(a_plan(a_counter(10))) == DIGEST_OF_THE_FIRST_RELEASE


DIGEST_OF_THE_FIRST_RELEASE = "e1457f2e5379e0f1d73a60fb2d6381dbcd356f5050ffacb1182fde18257e6b04"


def test_every_setting_meter_and_price_that_differs_is_named() -> None:
    before = parse_catalog(
        "tenant: shop\nfeatures: {a: counter}\nmeters: {m: {event_type: e, aggregation: count}}\n"
        "model_prices: {x: {input: 1, output: 1, currency: USD}, y: {input: 1, output: 1, currency: USD}}\n"
    ).root
    after = parse_catalog(
        "tenant: shop\ntime_zone: Europe/Berlin\nlate_event_window: 0s\nfeatures: {a: {kind: counter, meter: m}}\n"
        "meters: {m: {event_type: e, aggregation: count, group_by: {b: c}, filters: {b: [z]}, name: M, scale: 1}}\n"
        "model_prices: {x: {input: 2, output: 1, currency: USD}, z: {input: 1, output: 1, currency: USD}}\n"
    ).root
    changed, added, removed = ChangeKind.CHANGED, ChangeKind.ADDED, ChangeKind.REMOVED

    assert {(element, kind, path) for element, kind, path, _ in differences(before, after)} == {
        (CatalogElement.TENANT, changed, "time_zone"),
        (CatalogElement.TENANT, changed, "late_event_window"),
        (CatalogElement.FEATURE, changed, "features.a.meter"),
        (CatalogElement.METER, changed, "meters.m.name"),
        (CatalogElement.METER, changed, "meters.m.scale"),
        (CatalogElement.METER, changed, "meters.m.group_by"),
        (CatalogElement.METER, changed, "meters.m.filters.b"),
        (CatalogElement.MODEL_PRICE, changed, "model_prices.x"),
        (CatalogElement.MODEL_PRICE, removed, "model_prices.y"),
        (CatalogElement.MODEL_PRICE, added, "model_prices.z"),
    }
    assert differences(after, after) == []


# --- What a trial's limit does ----------------------------------------------------------------------------


def test_a_trial_has_its_own_limit_until_it_ends() -> None:
    trial = a_subscription(
        a_counter(1_000, trial_limit_quantity=10), state=SubscriptionState.TRIALING, trial_end_time=NOW + DAY
    )
    account = an_account(trial)

    during = resolve(account, NOW)
    after = resolve(account, NOW + DAY)

    assert during.entitlements["words"].limit_quantity == 10
    assert during.expire_time == NOW + DAY
    assert after.entitlements["words"].limit_quantity == 1_000


def test_a_paid_subscription_is_more_generous_than_the_trial_of_a_larger_plan() -> None:
    trial = a_subscription(
        a_counter(1_000, trial_limit_quantity=10),
        state=SubscriptionState.TRIALING,
        trial_end_time=NOW + DAY,
        rank=9,
    )
    paid = a_subscription(a_counter(50), subscription_id="s2", plan="basic")

    entitlement = resolve(an_account(trial, paid), NOW).entitlements["words"]

    assert (entitlement.limit_quantity, entitlement.plan_key) == (50, "basic")
