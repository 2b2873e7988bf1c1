from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallygate_server.catalog import CatalogSource
from tallygate_server.catalog_diff import CatalogElement, ChangeKind
from tallygate_server.catalog_files import parse_catalog
from tallygate_server.domain.catalog import Catalog, FeatureKind, Meter, MeterAggregation
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import BillingProvider
from tallygate_server.errors import CatalogConflict, CatalogInvalid, CatalogRevisionMismatch, TenantNotFound
from tallygate_server.storage.engine import connect
from tallygate_server.subscriptions import NewSubscription
from tests.support.catalogs import catalogs as catalog_values
from tests.support.use_cases import EXAMPLE_NAMES, LEKHAK, UseCases, example, use_cases

ANNA = AccountId("anna")
STUDIO = TenantId("writing-studio")


@pytest.fixture
async def world(database_without_tenants: str) -> AsyncIterator[UseCases]:
    async with use_cases(database_without_tenants) as running:
        yield running


def edited(before: str, after: str) -> CatalogSource:
    text = example("lekhak").text
    assert text.count(before) == 1
    return CatalogSource(text.replace(before, after))


def unversioned(catalog: Catalog) -> Catalog:
    return replace(catalog, plans=tuple(replace(plan, version=0) for plan in catalog.plans))


@pytest.mark.parametrize("name", EXAMPLE_NAMES)
async def test_an_applied_example_reads_back_as_its_file(world: UseCases, name: str) -> None:
    wanted = parse_catalog(example(name).text)

    applied = await world.catalogs.apply(example(name), actor="ops")

    assert applied.applied
    assert [tenant.revision for tenant in applied.tenants] == [1] * len(wanted.catalogs)
    for catalog in wanted.catalogs:
        stored, revision = await world.catalogs.get(catalog.settings.tenant_id)
        assert unversioned(stored) == catalog
        assert revision == 1
        assert all(plan.version == 1 for plan in stored.plans)


@pytest.mark.parametrize("name", EXAMPLE_NAMES)
async def test_applying_the_same_file_twice_changes_nothing(world: UseCases, name: str) -> None:
    await world.catalogs.apply(example(name))
    everything = "SELECT * FROM plans ORDER BY plan_key, version"
    before = await world.fetch(everything, tenant_id=name)

    again = await world.catalogs.apply(example(name))

    assert not again.applied
    assert again.changes == []
    assert again.revision == 1
    assert before
    assert await world.fetch(everything, tenant_id=name) == before
    revisions = await world.fetch("SELECT revision FROM catalog_revisions", tenant_id=name)
    assert revisions == [{"revision": 1}]


async def test_a_changed_plan_gets_a_new_version_and_live_subscriptions_keep_theirs(world: UseCases) -> None:
    await world.catalogs.apply(example("lekhak"))
    created = await world.subscriptions.create(
        LEKHAK, ANNA, NewSubscription(plan_key=PlanKey("pro"), provider=BillingProvider.MANUAL)
    )

    applied = await world.catalogs.apply(edited("limit: 1000,", "limit: 2000,"))

    (change,) = applied.changes
    assert change.kind is ChangeKind.CHANGED
    assert change.element is CatalogElement.ALLOWANCE
    assert change.subject == "plan pro"
    assert change.path == "plans.pro.allowances.text_rewrite.limit"
    assert (change.before, change.after) == (1000, 2000)
    assert change.description == (
        "plan pro: text_rewrite limit 1000 -> 2000; new subscriptions only, as version 2; "
        "1 live subscription keeps version 1"
    )
    assert not change.restrictive
    assert (applied.revision, applied.affected_accounts, applied.affected_subscriptions) == (2, 1, 1)
    versions = await world.catalogs.plan_rows(LEKHAK, plan_key="pro", all_versions=True)
    assert [row.plan.version for row in versions] == [2, 1]
    kept = await world.subscriptions.get(LEKHAK, created.subscription.subscription_id)
    assert kept.subscription.plan_version == 1


async def test_validate_only_shows_the_same_differences_and_writes_nothing(world: UseCases) -> None:
    source = edited("limit: 1000,", "limit: 500,")
    dry_new = await world.catalogs.apply(example("lekhak"), validate_only=True)
    assert await world.fetch("SELECT * FROM tenants") == []
    assert not dry_new.applied
    assert dry_new.revision == 0
    await world.catalogs.apply(example("lekhak"))

    dry = await world.catalogs.apply(source, validate_only=True)

    assert not dry.applied
    assert dry.revision == 1
    assert dry.changes[0].restrictive
    assert (await world.catalogs.get(LEKHAK))[1] == 1
    assert dry.changes == (await world.catalogs.apply(source)).changes


async def test_the_first_dry_run_differs_as_the_first_application(world: UseCases) -> None:
    dry = await world.catalogs.apply(example("booktalks-buddy"), validate_only=True)

    applied = await world.catalogs.apply(example("booktalks-buddy"))

    assert dry.changes == applied.changes
    assert {change.tenant_id for change in applied.changes} == {
        "booktalks-buddy",
        "booktalks-downtown",
        "booktalks-harbour",
    }


async def test_what_leaves_the_catalog_is_retired_and_comes_back(world: UseCases) -> None:
    await world.catalogs.apply(example("lekhak"))
    small = CatalogSource(
        "tenant: lekhak\ndefault_plan: free\nfeatures: {text_rewrite: counter}\n"
        "plans: {free: {allowances: {text_rewrite: {limit: 10, period: day}}}}\n"
    )

    removed = await world.catalogs.apply(small)
    retired = (await world.tenants.get(LEKHAK)).retired_features

    assert {change.key for change in removed.changes if change.kind is ChangeKind.REMOVED} >= {"pro", "api_access"}
    assert [plan.key for plan in await world.catalogs.plans(LEKHAK)] == ["free"]
    assert [plan.key for plan in await world.catalogs.plans(LEKHAK, include_retired=True)] == [
        "free",
        "pro",
        "unlimited",
    ]
    assert retired["api_access"].kind is FeatureKind.BOOLEAN

    restored = await world.catalogs.apply(example("lekhak"))

    assert "plan pro: on sale again, as version 1" in {change.description for change in restored.changes}
    assert "feature api_access: in the catalog again" in {change.description for change in restored.changes}
    stored, revision = await world.catalogs.get(LEKHAK)
    assert {plan.key: plan.version for plan in stored.plans} == {"free": 3, "pro": 1, "unlimited": 1}
    assert revision == 3


async def test_a_feature_in_use_is_retired_and_pinned_versions_still_give_it(world: UseCases) -> None:
    await world.catalogs.apply(example("lekhak"))
    await world.subscriptions.create(
        LEKHAK, ANNA, NewSubscription(plan_key=PlanKey("pro"), provider=BillingProvider.MANUAL)
    )

    await world.catalogs.apply(CatalogSource("tenant: lekhak\n"))

    (pinned,) = await world.fetch("SELECT allowances FROM plans WHERE plan_key = 'pro' AND version = 1")
    assert "grammar_check" in pinned["allowances"]
    assert await world.fetch("SELECT count(*) FROM features WHERE feature_key = 'grammar_check'") == [{"count": 1}]


@pytest.mark.parametrize("retire_first", [False, True])
async def test_the_kind_of_a_feature_never_changes(world: UseCases, *, retire_first: bool) -> None:
    await world.catalogs.apply(example("lekhak"))
    if retire_first:
        await world.catalogs.apply(CatalogSource("tenant: lekhak\n"))

    with pytest.raises(CatalogConflict, match="choose another key") as caught:
        await world.catalogs.apply(CatalogSource("tenant: lekhak\nfeatures: {api_access: gauge}\n"))

    assert caught.value.facts["path"] == "features.api_access.kind"


async def test_a_product_and_its_stores_change_all_or_none(world: UseCases) -> None:
    await world.catalogs.apply(example("booktalks-buddy"))
    text = example("booktalks-buddy").text
    # Sound by itself, but refused for the last store; the product's own change must not stay.
    bad = text.replace("name: BookTalks Buddy", "name: Renamed").replace(
        "  - tenant: booktalks-harbour\n", "  - tenant: lekhak\n"
    )
    await world.catalogs.apply(example("lekhak"))

    with pytest.raises(CatalogConflict, match="never changes"):
        await world.catalogs.apply(CatalogSource(bad))

    assert (await world.catalogs.get(TenantId("booktalks-buddy")))[0].settings.name == "BookTalks Buddy"


async def test_a_store_can_be_applied_alone_once_its_product_is_there(world: UseCases) -> None:
    store = CatalogSource("tenant: corner-shop\nparent: booktalks-buddy\n")

    with pytest.raises(CatalogConflict, match="apply its catalog first"):
        await world.catalogs.apply(store)
    await world.catalogs.apply(example("booktalks-buddy"))
    await world.catalogs.apply(store)

    assert (await world.tenants.get(TenantId("corner-shop"))).settings.parent_tenant_id == "booktalks-buddy"
    with pytest.raises(CatalogConflict, match="no stores of its own"):
        await world.catalogs.apply(CatalogSource("tenant: kiosk\nparent: corner-shop\n"))


async def test_a_bad_file_changes_nothing_and_says_where(world: UseCases) -> None:
    with pytest.raises(CatalogInvalid) as caught:
        await world.catalogs.apply(edited("limit: 1000, period: month", "limit: 1000, period: moon"))

    (violation,) = caught.value.violations
    assert violation.field == "plans.pro.allowances.text_rewrite.period"
    assert violation.description.startswith("line 39, column 43: ")
    assert await world.fetch("SELECT * FROM tenants") == []


async def test_a_catalog_value_obeys_the_same_rules_as_a_file(world: UseCases) -> None:
    catalog = parse_catalog(example("lekhak").text).root
    broken = replace(catalog, settings=replace(catalog.settings, default_plan_key=PlanKey("fre")))

    with pytest.raises(CatalogInvalid, match="did you mean 'free'"):
        await world.catalogs.apply(broken)
    applied = await world.catalogs.apply(catalog)

    assert applied.applied


async def test_an_editor_who_looked_at_an_older_revision_is_refused(world: UseCases) -> None:
    await world.catalogs.apply(example("lekhak"), expected_revision=0)

    with pytest.raises(CatalogRevisionMismatch):
        await world.catalogs.apply(edited("limit: 1000,", "limit: 2000,"), expected_revision=0)


async def test_a_catalog_about_another_tenant_is_refused(world: UseCases) -> None:
    with pytest.raises(CatalogInvalid, match="about 'lekhak', not about 'other'"):
        await world.catalogs.apply(example("lekhak"), tenant_id="other")


async def test_the_order_of_a_file_is_no_change_of_the_catalog_but_is_kept(world: UseCases) -> None:
    catalog = parse_catalog(example("lekhak").text).root
    await world.catalogs.apply(catalog)
    turned = replace(catalog, features=catalog.features[::-1])

    applied = await world.catalogs.apply(turned)

    assert not applied.applied
    assert unversioned((await world.catalogs.get(LEKHAK))[0]) == turned


async def test_concurrent_applications_of_one_file_make_one_revision(world: UseCases) -> None:
    outcomes = await asyncio.gather(*(world.catalogs.apply(example("booktalks-buddy")) for _ in range(4)))

    assert sorted(outcome.applied for outcome in outcomes) == [False, False, False, True]
    assert {outcome.revision for outcome in outcomes} == {1}


async def test_every_effective_application_leaves_source_actor_audit_and_event(world: UseCases) -> None:
    await world.catalogs.apply(example("lekhak"), actor="ops@example")
    await world.catalogs.apply(edited("limit: 1000,", "limit: 2000,"), actor="ops@example")

    revisions = await world.fetch("SELECT revision, source, actor FROM catalog_revisions ORDER BY revision")
    assert [row["revision"] for row in revisions] == [1, 2]
    assert revisions[0]["source"] == example("lekhak").text
    assert revisions[1]["actor"] == "ops@example"
    audit = await world.fetch("SELECT action, subject, actor FROM audit_entries")
    assert audit == [{"action": "catalog.apply", "subject": "tenant:lekhak", "actor": "ops@example"}] * 2
    events = await world.fetch("SELECT type FROM outbox_events")
    assert events == [{"type": "catalog.changed"}] * 2


async def test_unknown_tenants_are_named(world: UseCases) -> None:
    with pytest.raises(TenantNotFound, match="'nobody'"):
        await world.catalogs.get(TenantId("nobody"))
    with pytest.raises(TenantNotFound):
        await world.catalogs.plans(TenantId("nobody"))
    with pytest.raises(TenantNotFound):
        await world.tenants.get(TenantId("nobody"))


async def test_the_directory_sees_an_application_of_its_own_server_at_once(world: UseCases) -> None:
    await world.catalogs.apply(example("lekhak"))
    await world.tenants.get(LEKHAK)
    await world.catalogs.apply(edited("name: Lekhak AI", "name: Lekhak"))

    assert world.tenants.cached(LEKHAK) is None
    assert (await world.tenants.get(LEKHAK)).settings.name == "Lekhak"


async def test_the_directory_asks_again_after_five_seconds(world: UseCases, database_without_tenants: str) -> None:
    await world.catalogs.apply(example("lekhak"))
    async with use_cases(database_without_tenants, world.clock) as other:
        await other.tenants.get(LEKHAK)
        await world.catalogs.apply(edited("name: Lekhak AI", "name: Lekhak"))

        cached = other.tenants.cached(LEKHAK)
        assert cached is not None
        assert cached.settings.name == "Lekhak AI"
        world.clock.advance(dt.timedelta(seconds=5))
        assert other.tenants.cached(LEKHAK) is None
        last = other.tenants.last_known(LEKHAK)
        assert last is not None
        assert last.settings.name == "Lekhak AI"
        assert (await other.tenants.get(LEKHAK)).settings.name == "Lekhak"


async def test_many_who_ask_at_once_share_one_read(world: UseCases) -> None:
    await world.catalogs.apply(example("lekhak"))

    found = await asyncio.gather(*(world.tenants.get(LEKHAK) for _ in range(20)))

    assert len({id(tenant) for tenant in found}) == 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_whatever_is_applied_reads_back_and_applies_twice_without_effect(
    world: UseCases, data: st.DataObject
) -> None:
    catalog = data.draw(catalog_values())
    tenant_id = catalog.settings.tenant_id
    try:
        await world.catalogs.apply(catalog)
    except CatalogConflict:
        # An earlier example made a feature of this key with another kind, or another parent.
        return

    stored, revision = await world.catalogs.get(tenant_id)
    again = await world.catalogs.apply(catalog)

    assert not again.applied
    assert again.revision == revision
    ordered = sorted(catalog.plans, key=lambda plan: (plan.rank, plan.key))
    assert unversioned(stored).plans == tuple(ordered)
    assert stored.features == catalog.features
    assert set(stored.meters) == set(catalog.meters)
    assert stored.model_prices == catalog.model_prices
    assert stored.settings == catalog.settings


async def test_a_directory_that_is_closed_leaves_nobody_in_the_database(world: UseCases) -> None:
    await world.catalogs.apply(example("lekhak"))
    world.tenants.forget(LEKHAK)
    # Who asked has gone away, and the question goes on without him.
    asking = asyncio.create_task(world.tenants.get(LEKHAK))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    await world.tenants.close()

    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    assert "TenantDirectory.refresh" not in names


async def test_the_directory_knows_meters_and_prices_of_models(world: UseCases) -> None:
    await world.catalogs.apply(example("writing-studio"))

    tenant = await world.tenants.get(STUDIO)

    assert tenant.settings.late_event_window == dt.timedelta(days=3)
    assert tenant.features["ai_cost"].meter_key == "ai_cost"
    assert set(tenant.meters) == {"ai_cost", "ai_tokens_used", "chat_messages", "slowest_answer", "active_authors"}
    assert {key: len(prices) for key, prices in tenant.model_prices.items()} == {"quill-large": 2, "quill-small": 1}
    assert [price.start_time for price in tenant.model_prices["quill-large"]] == [
        None,
        dt.datetime(2026, 7, 1, tzinfo=dt.UTC),
    ]


async def test_prices_of_models_are_replaced_and_a_meter_that_is_left_out_is_retired(world: UseCases) -> None:
    await world.catalogs.apply(example("writing-studio"))
    text = example("writing-studio").text
    before, after = text.index("  slowest_answer:"), text.index("  active_authors:")
    shorter = text[:before] + text[after:]
    cheaper = shorter.replace("quill-small: {input: 0.15", "quill-tiny: {input: 0.05")

    applied = await world.catalogs.apply(CatalogSource(cheaper))

    assert [(change.kind, change.path) for change in applied.changes] == [
        (ChangeKind.REMOVED, "meters.slowest_answer"),
        (ChangeKind.ADDED, "model_prices.quill-tiny"),
        (ChangeKind.REMOVED, "model_prices.quill-small"),
    ]
    tenant = await world.tenants.get(STUDIO)
    assert set(tenant.model_prices) == {"quill-large", "quill-tiny"}
    assert "slowest_answer" not in tenant.meters
    retired = [row.meter.key for row in await world.catalogs.meter_rows(STUDIO, include_retired=True) if row.retired]
    assert retired == ["slowest_answer"]


async def test_what_the_release_before_stored_is_read(world: UseCases) -> None:
    await world.catalogs.apply(example("lekhak"))
    connection = await connect(world.url)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', 'lekhak', false)")
        await connection.execute("UPDATE tenants SET settings = '{}'")
        await connection.execute(
            "UPDATE meters SET definition = $1 WHERE meter_key = 'input_characters'",
            '{"event_type": "e", "aggregation": "sum", "value_property": "v", "group_by": ["b", "a"]}',
        )
    finally:
        await connection.close()

    stored, _ = await world.catalogs.get(LEKHAK)

    assert stored.settings.late_event_window is None
    assert not stored.settings.closed_period_corrections
    assert stored.meters_by_key["input_characters"] == Meter(
        key="input_characters",
        event_type="e",
        aggregation=MeterAggregation.SUM,
        value_property="v",
        group_by=(("a", "a"), ("b", "b")),
    )


async def test_a_new_account_lives_in_the_tenants_time_zone_unless_it_says_where(world: UseCases) -> None:
    await world.catalogs.apply(example("writing-studio"))

    assert await world.accounts.provision(STUDIO, ANNA)
    named, _ = await world.accounts.identify(STUDIO, [], account_id="ben", time_zone="Asia/Kathmandu")
    unnamed, _ = await world.accounts.identify(STUDIO, [], account_id="cleo")

    assert (await world.accounts.get(STUDIO, ANNA)).time_zone == "Europe/Berlin"
    assert named.time_zone == "Asia/Kathmandu"
    assert unnamed.time_zone == "Europe/Berlin"
