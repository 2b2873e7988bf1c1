from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallygate_server.catalog_files import (
    DEPTH_MAX,
    VIOLATIONS_MAX,
    PlacedViolation,
    catalog_to_json,
    catalog_to_yaml,
    parse_catalog,
)
from tallygate_server.catalog_rules import CatalogSet, catalog_set_breaches
from tallygate_server.domain.catalog import (
    Allowance,
    BillingInterval,
    Catalog,
    FailureMode,
    FeatureKind,
    LimitMode,
    Meter,
    MeterAggregation,
    Price,
)
from tallygate_server.domain.limits import CATALOG_BYTES_MAX, LIMIT_MAX, LIMIT_UNLIMITED, PLANS_PER_CATALOG_MAX
from tallygate_server.domain.period import PeriodAnchor, PeriodKind
from tallygate_server.errors import CatalogInvalid
from tests.support.catalogs import catalog_sets
from tests.support.use_cases import EXAMPLE_NAMES, example

FEATURES = """
tenant: shop
currency: USD
features: {flag: boolean, days: config, calls: counter, seats: gauge}
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(CatalogInvalid) as caught:
        parse_catalog(text)
    return [f"{violation.field}: {violation.description}" for violation in caught.value.violations]


def plan(body: str, *, indent: int = 4) -> str:
    """Put the lines of a plan into a file; they begin on line 8."""
    lines = "\n".join(" " * indent + line for line in body.splitlines())
    return f"{FEATURES}plans:\n  pro:\n    rank: 0\n{lines}\n"


def allowance(text: str, feature: str = "calls") -> Allowance:
    (found,) = parse_catalog(plan(f"allowances: {{{feature}: {text}}}")).root.plans[0].allowances
    return found


def refusals(text: str, feature: str = "calls") -> list[str]:
    return mistakes(plan(f"allowances: {{{feature}: {text}}}"))


def catalog_of(name: str) -> Catalog:
    return parse_catalog(example(name).text).root


# --- The examples say what the sources say ----------------------------------------------------------------


def test_lekhak_sells_what_its_source_says() -> None:
    catalog = catalog_of("lekhak")
    free, pro, unlimited = catalog.plans
    rewriting = {str(plan.key): plan.allowances[0] for plan in catalog.plans}

    assert catalog.settings.auto_provision
    assert catalog.settings.default_plan_key == "free"
    assert catalog.settings.upgrade_url == "https://lekhak.ai/upgrade?user_id={account_id}"
    assert not free.priced
    assert free.prices == ()
    assert {price.interval: price.amount_minor for price in pro.prices} == {
        BillingInterval.MONTH: 999,
        BillingInterval.YEAR: 9999,
    }
    assert {price.interval: price.amount_minor for price in unlimited.prices} == {
        BillingInterval.MONTH: 1999,
        BillingInterval.YEAR: 19999,
    }
    day = rewriting["free"]
    assert (day.limit_quantity, day.period_kind, day.period_anchor) == (10, PeriodKind.DAY, PeriodAnchor.UTC)
    assert day.thresholds_percent == (80, 100)
    month = rewriting["pro"]
    assert (month.limit_quantity, month.period_kind, month.period_anchor) == (
        1000,
        PeriodKind.MONTH,
        PeriodAnchor.BILLING,
    )
    assert rewriting["unlimited"].limit_quantity == LIMIT_UNLIMITED
    switches = {str(plan.key): {str(each.feature_key) for each in plan.allowances[1:]} for plan in catalog.plans}
    assert switches["free"] == set()
    assert switches["pro"] == {"grammar_check", "tone_adjustment", "priority_support"}
    assert switches["unlimited"] == switches["pro"] | {
        "api_access",
        "custom_integrations",
        "premium_support",
        "early_access",
    }


def test_training_analyzer_sells_what_its_source_says() -> None:
    catalog = catalog_of("training-analyzer")
    free, pro = ({str(each.feature_key): each for each in plan.allowances} for plan in catalog.plans)

    assert not catalog.settings.auto_provision
    assert {
        key: (free[key].limit_quantity, free[key].period_kind) for key in ("ai_analysis", "ai_chat", "ai_workouts")
    } == {
        "ai_analysis": (5, PeriodKind.MONTH),
        "ai_chat": (10, PeriodKind.DAY),
        "ai_workouts": (3, PeriodKind.MONTH),
    }
    assert free["ai_training_plans"].kind is FeatureKind.GAUGE
    assert free["ai_training_plans"].limit_quantity == 1
    assert free["history_days"].value == 180
    assert not free["data_export"].enabled
    assert not free["priority_sync"].enabled
    assert [price.amount_minor for price in catalog.plans[1].prices] == [999]
    assert all(each.enabled for each in pro.values())
    assert {each.limit_quantity for each in pro.values() if each.kind.metered} == {LIMIT_UNLIMITED}
    assert pro["history_days"].value == LIMIT_UNLIMITED
    assert set(pro) == set(free) == set(catalog.features_by_key)


def test_technically_fit_sells_what_its_source_names() -> None:
    catalog = catalog_of("technically-fit")
    kinds = {str(feature.key): feature.kind for feature in catalog.features}

    assert [plan.key for plan in catalog.plans] == ["free", "premium"]
    assert [price.interval for price in catalog.plans[1].prices] == [BillingInterval.MONTH, BillingInterval.YEAR]
    assert {key for key, kind in kinds.items() if kind is FeatureKind.BOOLEAN} == {
        "device_integration",
        "rir_predictions",
        "realtime_adaptations",
        "advanced_analytics",
        "priority_support",
        "data_retention_extended",
    }
    assert kinds["device_connections"] is FeatureKind.GAUGE
    assert kinds["data_retention_days"] is FeatureKind.CONFIG
    for sold in catalog.plans:
        counters = [each for each in sold.allowances if each.kind is FeatureKind.COUNTER]
        assert {each.feature_key for each in counters} == {"ai_predictions", "advanced_reports"}
        assert {each.period_kind for each in counters} == {PeriodKind.MONTH}


def test_booktalks_buddy_has_two_stores_that_sell_their_own_plans() -> None:
    catalogs = parse_catalog(example("booktalks-buddy").text)

    assert [store.settings.tenant_id for store in catalogs.stores] == ["booktalks-downtown", "booktalks-harbour"]
    assert {store.settings.parent_tenant_id for store in catalogs.stores} == {"booktalks-buddy"}
    sold = [{plan.key for plan in catalog.plans} for catalog in catalogs.catalogs]
    assert all(not a & b for index, a in enumerate(sold) for b in sold[index + 1 :])
    assert [catalog.settings.default_plan_key for catalog in catalogs.catalogs] == ["reader", "visitor", "guest"]
    assert [catalog.settings.auto_provision for catalog in catalogs.catalogs] == [False, True, False]


# --- Reading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"), [(kind.name.lower(), kind) for kind in PeriodKind] + [('"day"', PeriodKind.DAY)]
)
def test_every_period_can_be_written(text: str, kind: PeriodKind) -> None:
    assert allowance(f"{{limit: 3, period: {text}}}").period_kind is kind


@pytest.mark.parametrize("anchor", PeriodAnchor)
def test_every_anchor_can_be_written(anchor: PeriodAnchor) -> None:
    assert allowance(f"{{limit: 3, period: day, anchor: {anchor.value}}}").period_anchor is anchor


def test_limits_are_hard_unless_they_say_soft() -> None:
    assert allowance("{limit: 3, period: day}").limit_mode is LimitMode.HARD
    assert allowance("{limit: 3, period: day, mode: soft}").limit_mode is LimitMode.SOFT


@pytest.mark.parametrize("text", ["-1", "unlimited", '"unlimited"'])
def test_unlimited_has_two_spellings(text: str) -> None:
    assert allowance(f"{{limit: {text}, period: day}}").limit_quantity == LIMIT_UNLIMITED


def test_thresholds_are_percentages_or_quantities() -> None:
    found = allowance("{limit: 3, period: day, thresholds: [80%, '100 %', 7, 1000%]}")

    assert found.thresholds_percent == (80, 100, 1000)
    assert found.thresholds_absolute == (7,)


@pytest.mark.parametrize("text", ["off", "false", "{enabled: false}"])
@pytest.mark.parametrize("feature", ["flag", "calls", "seats"])
def test_every_kind_but_config_can_be_switched_off_in_a_word(feature: str, text: str) -> None:
    assert not allowance(text, feature).enabled


@pytest.mark.parametrize("text", ["on", "true", "{enabled: true}", "{}"])
def test_a_boolean_feature_is_switched_on(text: str) -> None:
    assert allowance(text, "flag").enabled


def test_a_gauge_needs_only_its_limit() -> None:
    assert allowance("3", "seats") == allowance("{limit: 3}", "seats")
    assert allowance("unlimited", "seats").limit_quantity == LIMIT_UNLIMITED


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("180", 180),
        ("-1.5", -1.5),
        ("true", True),
        ("unlimited", -1),
        ('"unlimited"', "unlimited"),
        ('"on"', "on"),
        ("plain words", "plain words"),
        ("[1, {a: null}]", [1, {"a": None}]),
        ("{value: {unit: day}}", {"unit": "day"}),
        ("{value: false}", False),
    ],
)
def test_config_values_are_any_json(text: str, value: object) -> None:
    assert allowance(text, "days").value == value


def test_a_config_feature_is_taken_away_by_enabled_false() -> None:
    assert not allowance("{enabled: false}", "days").enabled


@pytest.mark.parametrize(
    ("price", "minor", "currency"),
    [
        ("9.99", 999, "USD"),
        ('"9.99"', 999, "USD"),
        ("9.9", 990, "USD"),
        ("9", 900, "USD"),
        ("{amount: 980, currency: JPY}", 980, "JPY"),
        ("{amount: 1.234, currency: KWD}", 1234, "KWD"),
        ("0.07", 7, "USD"),
        # As a float this would be 1.1499999999999999 x 100.
        ("1.15", 115, "USD"),
        ("10000000000.00", 10**12, "USD"),
    ],
)
def test_amounts_are_exact(price: str, minor: int, currency: str) -> None:
    (found,) = parse_catalog(plan(f"prices: {{month: {price}}}")).root.plans[0].prices

    assert found == Price(interval=BillingInterval.MONTH, amount_minor=minor, currency=currency)


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ("9.999", "too precise: amounts in USD have 2 decimal places"),
        ("{amount: 9.5, currency: JPY}", "amounts in JPY have no decimal places"),
        ("1e3", "is not an amount"),
        ("-1", "is not an amount"),
        ("1_000", "is not an amount"),
        ("'1,50'", "is not an amount"),
        ("free", "is not an amount"),
        ("10000000000.01", "above the largest amount, 10000000000.00"),
        ("0.00", "a price of nothing: leave it out"),
        ("{amount: 5, currency: usd}", "did you mean 'USD'"),
        ("{currency: USD}", "'amount' is missing"),
        ("[9.99]", "a price is an amount like 9.99"),
        ("{amount: 5, stripe_price_id: 12}", "not the id of a price at Stripe"),
    ],
)
def test_an_amount_that_is_not_exact_is_refused(price: str, reason: str) -> None:
    (mistake,) = mistakes(plan(f"prices: {{month: {price}}}"))

    assert mistake.startswith("plans.pro.prices.month")
    assert reason in mistake


def test_a_price_needs_a_currency() -> None:
    text = plan("prices: {month: 5}").replace("currency: USD\n", "")

    (mistake,) = mistakes(text)

    assert "in which currency?" in mistake


def test_plans_rank_by_their_place_unless_they_say_otherwise() -> None:
    catalog = parse_catalog("tenant: shop\nplans: {a: {}, b: {rank: 7}, c: {}}\n").root

    assert [plan.rank for plan in catalog.plans] == [0, 7, 2]


def test_failure_mode_and_meters_are_read() -> None:
    catalog = parse_catalog(
        "tenant: shop\nfeatures: {calls: {kind: counter, failure_mode: open}}\n"
        "meters: {tokens: {event_type: llm.call, aggregation: sum, value_property: usage.tokens, group_by: [model]}}\n"
    ).root

    assert catalog.features[0].failure_mode is FailureMode.OPEN
    assert catalog.meters == (
        Meter(
            key="tokens",
            event_type="llm.call",
            aggregation=MeterAggregation.SUM,
            value_property="usage.tokens",
            group_by=(("model", "model"),),
        ),
    )


def test_json_is_read_as_well() -> None:
    text = json.dumps(catalog_to_json(parse_catalog(example("booktalks-buddy").text)), indent=1)

    assert parse_catalog(text) == parse_catalog(example("booktalks-buddy").text)


# --- Refusing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "feature", "reason"),
    [
        ("{limit: -2, period: day}", "calls", "-2 is no limit: 0 or more, or -1 for unlimited"),
        ("{limit: 1.5, period: day}", "calls", "a limit is a whole number"),
        ("{limit: '5', period: day}", "calls", "a limit is a whole number"),
        (f"{{limit: {LIMIT_MAX + 1}, period: day}}", "calls", f"is not between -1 and {LIMIT_MAX}"),
        ("{period: day}", "calls", "'limit' is missing"),
        ("{limit: 5}", "calls", "'period' is missing: one of hour, day"),
        ("{limit: 5, period: daily}", "calls", "did you mean 'day'"),
        ("{limit: 5, period: day, anchor: billling}", "calls", "did you mean 'billing'"),
        ("{limit: 5, period: day, mode: lenient}", "calls", "is none of hard, soft"),
        ("{limit: 5, period: lifetime, anchor: billing}", "calls", "a lifetime has no anchor"),
        ("{limit: 5, perod: day, period: day}", "calls", "unknown key 'perod': did you mean 'period'"),
        ("10", "calls", "like {limit: 10, period: day}"),
        ("on", "calls", "like {limit: 10, period: day}"),
        ("{enabled: false, limit: 5, period: day}", "calls", "an allowance that is off says nothing else"),
        ("{limit: 5, period: day, thresholds: [0%]}", "calls", "0% is not between 1% and 1000%"),
        ("{limit: 5, period: day, thresholds: [1001%]}", "calls", "1001% is not between 1% and 1000%"),
        ("{limit: 5, period: day, thresholds: [0]}", "calls", "0 is not between 1 and"),
        ("{limit: 5, period: day, thresholds: [80%, 50%]}", "calls", "write 50% before 80%"),
        ("{limit: 5, period: day, thresholds: [3, 3]}", "calls", "3 stands here twice"),
        ("{limit: 5, period: day, thresholds: 80%}", "calls", "a list belongs here"),
        ("{limit: 5, period: day, thresholds: [a]}", "calls", "a threshold is a percentage like 80%"),
        (f"{{limit: 5, period: day, thresholds: {list(range(1, 12))}}}", "calls", "at most 10 thresholds"),
        ("{limit: 5, period: month}", "seats", "a gauge never resets, so it has no period"),
        ("{limit: 5, anchor: utc}", "seats", "a gauge feature has no anchor"),
        ("{limit: 5}", "flag", "a boolean feature has no limit"),
        ("maybe", "flag", "its allowance is on or off"),
        ("yes", "flag", "its allowance is on or off"),
        ('"true"', "flag", "its allowance is on or off"),
        ("", "days", "a config feature needs a value"),
        ("on", "days", "quote it"),
        (".inf", "days", "not a finite number"),
        ("1e16", "days", "numbers go up to"),
        (str(2**53), "days", "numbers go up to"),
        (f"{{value: {'[' * 9}{']' * 9}}}", "days", "nested more than 8 levels deep"),
        (f"{{value: {'x' * 5000}}}", "days", "at most 4096 bytes"),
        ("{limit: 5}", "days", "a config feature has no limit"),
    ],
)
def test_a_wrong_allowance_is_refused_with_its_reason(text: str, feature: str, reason: str) -> None:
    found = refusals(text, feature)

    assert any(reason in mistake for mistake in found)
    assert all(mistake.startswith(f"plans.pro.allowances.{feature}") for mistake in found)
    assert all(": line 8, column " in mistake for mistake in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "catalog: line 1, column 1: the file is empty"),
        ("- tenant: a", "catalog: line 1, column 1: a catalog begins with 'tenant: ...'; this is a list"),
        ("lekhak", "catalog: line 1, column 1: a catalog begins with 'tenant: ...'; this is 'lekhak'"),
        ("name: x", "tenant: line 1, column 1: 'tenant' is missing: name the tenant"),
        ("tenant: a\nfeatures: [", "catalog: line 2, column 12: not YAML"),
        ("tenant: a\n\tname: b", "catalog: line 2, column 1: not YAML"),
        ("tenant: a\nname: \x07", "catalog: line 2, column 7: not YAML"),
        ("tenant: &x a\nname: *x", "catalog: line 1, column 9: anchors and aliases are not part"),
        ("tenant: !!str a", "catalog: line 1, column 9: tags are not part"),
        ("tenant: a\n---\ntenant: b", "catalog: line 2, column 1: a second document"),
        ("tenant: a\n? [x]\n: y", "catalog: line 2, column 3: a key is a word"),
        ("tenant: a\nname: x\nname: y", "catalog: line 3, column 1: 'name' stands here twice; the first is on line 2"),
        ("tenant: A b", "tenant: line 1, column 9: 'A b' is not a tenant id"),
        ("tenant: a\nparent: a", "parent: line 2, column 9: a tenant is not its own parent"),
        ("tenant: a\ndefault_plan: x", "default_plan: line 2, column 15: there is no plan 'x' here"),
        ("tenant: a\nauto_provision: on", "auto_provision: line 2, column 17: accounts cannot be provisioned"),
        ("tenant: a\nauto_provision: maybe", "auto_provision: line 2, column 17: true or false belongs here"),
        ("tenant: a\nupgrade_url: example.com", "upgrade_url: line 2, column 14: not a link"),
        ("tenant: a\nupgrade_url: //evil.example", "upgrade_url: line 2, column 14: not a link"),
        ("tenant: a\nupgrade_url: /x?{user}", "upgrade_url: line 2, column 14: unknown placeholder {user}"),
        ("tenant: a\nupgrade_url: '/x?{account_id'", "upgrade_url: line 2, column 14: a brace without its partner"),
        ("tenant: a\nfeatures: {X: counter}", "features.X: line 2, column 12: 'X' is not a key"),
        ("tenant: a\nfeatures: {x: }", "features.x: line 2, column 14: '' is none of boolean, config"),
        ("tenant: a\nfeatures: {x: {}}", "features.x.kind: line 2, column 12: 'kind' is missing"),
        ("tenant: a\nfeatures: {x: {kind: config, unit: y}}", "features.x.unit: line 2, column 36: a config feature"),
        ("tenant: a\nfeatures: []", "features: line 2, column 11: a mapping by key belongs here, not a list"),
        ("tenant: a\nplans: {x: {trial_days: 3}}", "plans.x.trial_days: line 2, column 25: the plan costs nothing"),
        ("tenant: a\nplans: {x: {grace_days: 91}}", "plans.x.grace_days: line 2, column 25: 91 is not between"),
        ("tenant: a\nplans: {x: {rank: -1}}", "plans.x.rank: line 2, column 19: -1 is not between"),
        ("tenant: a\nplans: {x: {rank: high}}", "plans.x.rank: line 2, column 19: a whole number belongs here"),
        (
            "tenant: a\nplans: {x: {allowances: {y: on}}}",
            "plans.x.allowances.y: line 2, column 26: there is no feature",
        ),
        ("tenant: a\nmeters: {x: {event_type: a b, aggregation: count}}", "meters.x.event_type: line 2, column 26:"),
        ("tenant: a\nmeters: {x: {event_type: y, aggregation: sum}}", "meters.x.value_property: line 2, column 10:"),
        ("tenant: a\nmeters: {x: {event_type: y, aggregation: mean}}", "meters.x.aggregation: line 2, column 42:"),
        (
            "tenant: a\nstores: [{tenant: b}, {tenant: b}]",
            "stores.1.tenant: line 2, column 32: tenant 'b' is declared twice",
        ),
        ("tenant: a\nstores: [{tenant: b, parent: a}]", "stores.0.parent: line 2, column 22: the product that lists"),
        ("tenant: a\nstores: [{tenant: b, stores: []}]", "stores.0.stores: line 2, column 22: a store has no stores"),
        ("tenant: a\nparent: p\nstores: [{tenant: b}]", "stores: line 3, column 9: a store has no stores"),
        ("tenant: a\ninherit_features: true", "inherit_features: line 2, column 1: unknown key 'inherit_features'"),
    ],
)
def test_a_wrong_file_is_refused_with_path_line_and_reason(text: str, expected: str) -> None:
    (mistake,) = mistakes(text)

    assert mistake.startswith(expected)


def test_every_mistake_of_a_file_is_named_at_once_in_its_order() -> None:
    found = mistakes(
        plan(
            "nam: x\n"
            "trial_days: 3\n"
            "prices: {month: 9.999}\n"
            "allowances:\n"
            "  flags: on\n"
            "  calls: {limit: 1, period: dya}\n"
            "  seats: {limit: many}"
        ).replace("flag: boolean", "flag: bool")
    )

    assert [mistake.split(":")[0] for mistake in found] == [
        "features.flag",
        "plans.pro.nam",
        "plans.pro.prices.month",
        "plans.pro.allowances.flags",
        "plans.pro.allowances.calls.period",
        "plans.pro.allowances.seats.limit",
    ]


def test_the_first_place_is_a_fact_of_the_error() -> None:
    with pytest.raises(CatalogInvalid) as caught:
        parse_catalog("tenant: a\nnam: b\n")

    assert caught.value.facts == {"line": "2", "column": "1"}
    (violation,) = caught.value.violations
    assert isinstance(violation, PlacedViolation)
    assert (violation.line, violation.column) == (2, 1)


def test_a_priced_default_plan_is_never_provisioned_by_itself() -> None:
    (mistake,) = mistakes(plan("prices: {month: 1}") + "default_plan: pro\nauto_provision: true\n")

    assert "nobody is put on a priced plan by a first call" in mistake


def test_a_priced_default_plan_is_fine_where_accounts_are_not_provisioned() -> None:
    assert parse_catalog(plan("prices: {month: 1}") + "default_plan: pro\n").root.settings.default_plan_key == "pro"


def test_an_inherited_feature_is_not_declared_again() -> None:
    (mistake,) = mistakes(
        "tenant: a\nfeatures: {x: boolean}\n"
        "stores:\n  - tenant: b\n    inherit_features: true\n    features: {x: boolean}\n"
    )

    assert mistake.startswith("stores.0.features.x: line 6, column 16: inherited from the product already")


def test_a_file_has_a_size_at_most() -> None:
    fitting = "tenant: a\n#".ljust(CATALOG_BYTES_MAX, "x")

    assert parse_catalog(fitting).root.settings.tenant_id == "a"
    assert f"at most {CATALOG_BYTES_MAX} bytes" in mistakes(fitting + "x")[0]


def test_a_catalog_has_a_number_of_plans_at_most() -> None:
    def plans(count: int) -> str:
        return "tenant: a\nplans:\n" + "".join(f"  p{number}: {{}}\n" for number in range(count))

    assert len(parse_catalog(plans(PLANS_PER_CATALOG_MAX)).root.plans) == PLANS_PER_CATALOG_MAX
    assert f"at most {PLANS_PER_CATALOG_MAX} plans" in mistakes(plans(PLANS_PER_CATALOG_MAX + 1))[0]


def test_a_hopeless_file_gets_a_bounded_answer() -> None:
    found = mistakes("tenant: a\n" + "".join(f"x{number}: 1\n" for number in range(500)))

    assert len(found) == VIOLATIONS_MAX + 1
    assert found[-1] == "catalog: and 400 more"


@pytest.mark.parametrize("opening", ["[", "{", "- ", "{a: "])
def test_deep_nesting_is_refused_before_it_costs_anything(opening: str) -> None:
    (mistake,) = mistakes("tenant: " + opening * 100_000 if opening != "- " else opening * 100_000)

    assert f"nested more than {DEPTH_MAX} levels deep" in mistake


def test_names_with_control_characters_are_refused() -> None:
    assert "control character" in mistakes('tenant: a\nname: "x\\ay"')[0]
    assert "control character" in mistakes('tenant: a\nname: "x\\ny"')[0]


def test_half_a_character_is_refused_in_words_that_can_be_sent() -> None:
    found = mistakes('tenant: a\nname: "\\ud83d"\nfeatures: {"\\ud83d": boolean}')

    assert len(found) == 2
    assert all(mistake.encode() for mistake in found)


def test_an_escaped_pair_is_one_character() -> None:
    assert parse_catalog('{"tenant": "a", "name": "\\ud83d\\ude00"}').root.settings.name == "\U0001f600"


# --- Properties -------------------------------------------------------------------------------------------


@given(catalogs=catalog_sets())
@settings(max_examples=100, deadline=None)
def test_what_is_written_reads_back_to_the_same_value(catalogs: CatalogSet) -> None:
    assert catalog_set_breaches(catalogs) == []

    assert parse_catalog(catalog_to_yaml(catalogs)) == catalogs
    assert parse_catalog(json.dumps(catalog_to_json(catalogs))) == catalogs


@pytest.mark.parametrize("name", EXAMPLE_NAMES)
def test_an_example_survives_being_written(name: str) -> None:
    catalogs = parse_catalog(example(name).text)

    assert parse_catalog(catalog_to_yaml(catalogs)) == catalogs


@given(name=st.sampled_from(EXAMPLE_NAMES), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_read_or_refused_but_never_breaks_the_reader(name: str, data: st.DataObject) -> None:
    text = example(name).text
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    damage = data.draw(
        st.text(max_size=6) | st.sampled_from(["{", "]", "- ", ": ", "\n", "&a ", "*a", "!!x ", "%", "'"])
    )

    with suppress(CatalogInvalid):
        parse_catalog(text[:start] + damage + text[end:])


@given(text=st.text(max_size=60) | st.text("{}[]:,-?&*!|>'\"%@#\n\t ab1", max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_the_reader(text: str) -> None:
    with suppress(CatalogInvalid):
        parse_catalog(text)
