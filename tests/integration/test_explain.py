"""ExplainAccess says what CheckAccess says, and of the past what it said then."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tallygate_server.accounts import AccountUpdate
from tallygate_server.catalog import CatalogSource
from tallygate_server.corrections.calls import Reversal
from tallygate_server.domain.call import Check, CheckAnswer
from tallygate_server.domain.catalog import Rollover
from tallygate_server.domain.entitlement import LimitOverride, Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, PlanKey, TenantId
from tallygate_server.domain.period import PeriodKind
from tallygate_server.domain.subscription import BillingProvider
from tallygate_server.errors import InvalidRequest, TallygateError, TenantNotFound
from tallygate_server.explain import Explanation
from tallygate_server.grants import FeatureOverride, GrantState, NewGrant
from tallygate_server.grants.rules import AskedKind
from tallygate_server.reservations.calls import Commit, Release, Reserve
from tallygate_server.service import Service
from tallygate_server.subscriptions import ChangeTiming, NewSubscription
from tests.support.acme import an_increment, outcome_of, services
from tests.support.clock import FrozenClock
from tests.support.long_run import LONG

CLUB = TenantId("club")
ANNA, BERT, NOBODY = AccountId("anna"), AccountId("bert"), AccountId("nobody")
START = datetime(2026, 3, 27, 12, 0, 0, 250_750, tzinfo=UTC)
SEEDS = range(40) if LONG else range(3)
STEPS = 45

CATALOG = """
tenant: club
default_plan: free
auto_provision: {provision}
currency: USD
upgrade_url: https://club.example/upgrade?account={{account_id}}&feature={{feature_key}}
features: {{words: counter, pages: counter, export: boolean, seats: gauge, history: config{more}}}
plans:
  free:
    rank: 0
    allowances:
      words: {{limit: 10, period: day, thresholds: [50%, 7]}}
      pages: {{limit: 3, period: hour, mode: soft}}
      export: off
      history: 30
  basic:
    rank: 10
    grace_days: 3
    prices: {{month: 5, year: 50}}
    allowances:
      words: {{limit: 100, period: month, anchor: billing, thresholds: [10%, 80%]}}
      seats: 2
      export: on
      history: 60
  pro:
    rank: 20
    trial_days: 2
    prices: {{month: 10, year: 100}}
    allowances:
      words: {{limit: unlimited, period: month}}
      pages: {{limit: 1000, period: day, anchor: account_timezone}}
      seats: 5
      export: on
      history: unlimited
"""
FEATURES = ("words", "pages", "export", "seats", "history", "extra", "nonsense")


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(START)


@pytest.fixture
async def service(fresh_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[Service]:
    async with services(fresh_database, fresh_redis, clock=clock) as (running,):
        await apply(running)
        clock.advance(timedelta(hours=1))
        yield running


async def apply(service: Service, *, provision: str = "true", more: str = "") -> None:
    await service.catalogs.apply(CatalogSource(CATALOG.format(provision=provision, more=more)))
    # Denials show no link while the server has yet to read the new catalog.
    await service.tenants.get(CLUB)


def a_check(feature_key: str, account_id: AccountId = ANNA, quantity: int = 1) -> Check:
    return Check(CLUB, account_id, FeatureKey(feature_key), quantity)


def assert_explains(explanation: Explanation, answer: CheckAnswer) -> None:
    """Check that the answer is the one that is explained, and that one rule decided it, the last one."""
    assert explanation.answer == answer
    assert [step.decided for step in explanation.steps] == [False] * (len(explanation.steps) - 1) + [True]
    assert explanation.steps[-1].reason is answer.reason
    assert all(step.explanation for step in explanation.steps)
    assert explanation.history_complete
    assert all(source.effective is not bool(source.explanation) for source in explanation.sources)
    if answer.reason.allows:
        first = explanation.sources[0]
        assert first.effective
        if first.subscription is not None:
            assert first.subscription.plan_key == answer.plan_key


class Life:
    """A random sequence of everything that may happen to two accounts."""

    def __init__(self, service: Service, clock: FrozenClock, seed: int) -> None:
        self.service = service
        self.clock = clock
        self.chance = random.Random(seed)
        self.remembered: list[tuple[datetime, Check, CheckAnswer]] = []
        self.happened: set[str] = set()
        self.reserved: list[tuple[AccountId, str]] = []

    async def go_on(self) -> None:
        """Let one thing happen, then check at some later instants."""
        chance = self.chance
        await self.happen(chance.choice((ANNA, ANNA, BERT)))
        for _ in range(chance.randint(1, 3)):
            self.clock.advance(
                chance.choice(
                    (
                        timedelta(milliseconds=chance.randint(1, 900)),
                        timedelta(minutes=chance.randint(1, 90)),
                        timedelta(microseconds=chance.randint(1_000, 5_000_000_000)),
                        timedelta(hours=chance.randint(1, 60)),
                    )
                )
            )
            for _ in range(chance.randint(1, 4)):
                check = a_check(chance.choice(FEATURES), chance.choice((ANNA, BERT)), chance.choice((1, 1, 3, 20)))
                self.remembered.append((self.clock.now(), check, await self.service.checker.check(check)))
        self.clock.advance(timedelta(milliseconds=1))

    def a_grant(self) -> NewGrant:
        """Make up an extra."""
        chance, now = self.chance, self.clock.now()
        feature_key = FeatureKey(chance.choice(("words", "words", "pages", "seats", "history")))
        override = feature_key == "history" or chance.random() < 0.3
        what: dict[str, Any]
        if feature_key == "history":
            what = {"config_value": chance.randint(1, 99)}
        elif override:
            what = {"limit": LimitOverride(quantity=chance.randint(0, 30))}
        else:
            what = {"credit_quantity": chance.randint(1, 15)}
            if feature_key == "words":
                what["recurrence"] = chance.choice((None, PeriodKind.DAY))
                what["rollover"] = chance.choice((None, Rollover(max_quantity=9))) if what["recurrence"] else None
        kind = AskedKind.OVERRIDE if override else chance.choice((AskedKind.BONUS, AskedKind.PURCHASE))
        return NewGrant(
            feature_key=feature_key,
            kind=kind,
            priority=chance.choice((0, 0, 5)),
            start_time=chance.choice((None, now + timedelta(hours=20))),
            expire_time=chance.choice((None, now + timedelta(hours=60))),
            reason="test",
            **what,
        )

    async def happen(self, account_id: AccountId) -> None:
        """Let one thing happen to an account, or be refused."""
        what = self.chance.choice(
            (
                *(self.count, self.count, self.count, self.count, self.buy, self.move, self.cancel, self.pause),
                *(self.resume, self.suspend, self.travel, self.write_down, self.change_catalog, self.grant, self.grant),
                *(self.revoke, self.switch, self.reserve, self.reserve, self.settle, self.settle, self.reverse),
            )
        )
        try:
            await what(account_id)
        except (TallygateError, IndexError):
            # Refused, or nothing is there to choose from.
            return
        self.happened.add(what.__name__)

    async def a_subscription(self, account_id: AccountId) -> str:
        """Choose one of the account's."""
        views = await self.service.subscriptions.list(CLUB, account_id=account_id, states=(), limit=50)
        return self.chance.choice(views).subscription.subscription_id

    def a_timing(self) -> ChangeTiming | None:
        """Choose when a change takes effect."""
        return self.chance.choice((ChangeTiming.NOW, ChangeTiming.PERIOD_END, None))

    async def count(self, account_id: AccountId) -> None:
        """Count, or give back."""
        feature = self.chance.choice(("words", "words", "pages", "seats"))
        quantity = self.chance.choice((1, 2, 5, -1 if feature == "seats" else 1))
        await outcome_of(self.service, an_increment(feature, quantity, account_id=account_id, tenant_id=CLUB))

    async def buy(self, account_id: AccountId) -> None:
        """Buy a plan."""
        plan = PlanKey(self.chance.choice(("basic", "pro")))
        new = NewSubscription(plan_key=plan, provider=BillingProvider.MANUAL)
        await self.service.subscriptions.create(CLUB, account_id, new)

    async def move(self, account_id: AccountId) -> None:
        """Change a plan, now or later."""
        await self.service.subscriptions.change_plan(
            CLUB,
            account_id,
            plan_key=PlanKey(self.chance.choice(("free", "basic", "pro"))),
            subscription_id=await self.a_subscription(account_id),
            provider=BillingProvider.MANUAL,
            timing=self.a_timing(),
        )

    async def cancel(self, account_id: AccountId) -> None:
        """Cancel a subscription, now or later."""
        subscription_id = await self.a_subscription(account_id)
        await self.service.subscriptions.cancel(
            CLUB, account_id, subscription_id=subscription_id, timing=self.a_timing()
        )

    async def pause(self, account_id: AccountId) -> None:
        """Pause a subscription for some hours."""
        until = self.clock.now() + timedelta(hours=self.chance.randint(1, 50))
        subscription_id = await self.a_subscription(account_id)
        await self.service.subscriptions.pause(
            CLUB, account_id, subscription_id=subscription_id, timing=self.a_timing(), resume_time=until
        )

    async def resume(self, account_id: AccountId) -> None:
        """End a pause, or take a cancellation back."""
        subscription_id = await self.a_subscription(account_id)
        await self.service.subscriptions.resume(CLUB, account_id, subscription_id=subscription_id)

    async def suspend(self, account_id: AccountId) -> None:
        """Suspend an account, or lift that."""
        await self.service.accounts.suspend(CLUB, account_id, suspend=self.chance.random() < 0.4)

    async def travel(self, account_id: AccountId) -> None:
        """Move to another time zone."""
        zone = self.chance.choice(("UTC", "Asia/Tokyo", "Europe/Berlin"))
        await self.service.accounts.update(CLUB, account_id, AccountUpdate(time_zone=zone))

    async def write_down(self, _account_id: AccountId) -> None:
        """Write down what has happened to subscriptions by itself."""
        await self.service.due_subscriptions.write_down()

    async def change_catalog(self, _account_id: AccountId) -> None:
        """Let a feature come or go."""
        await apply(self.service, more=", extra: boolean" if self.chance.random() < 0.5 else "")

    async def grant(self, account_id: AccountId) -> None:
        """Give an extra."""
        await self.service.grants.create(CLUB, account_id, self.a_grant())

    async def revoke(self, account_id: AccountId) -> None:
        """Take an extra back."""
        page = await self.service.grants.page(CLUB, account_id=account_id, state=GrantState.ACTIVE, limit=50)
        grant_id = self.chance.choice(page.grants).grant.grant_id
        await self.service.grants.revoke(CLUB, account_id, grant_id, reason="test")

    async def switch(self, account_id: AccountId) -> None:
        """Switch a feature on or off, or take that back."""
        await self.service.grants.override(
            CLUB,
            account_id,
            FeatureKey(self.chance.choice(FEATURES[:5])),
            self.chance.choice(tuple(FeatureOverride)),
            grace_days=self.chance.choice((0, 1)),
            reason="test",
        )

    async def reserve(self, account_id: AccountId) -> None:
        """Reserve something."""
        wish = Reserve(
            tenant_id=CLUB,
            account_id=account_id,
            feature_key=FeatureKey(self.chance.choice(("words", "words", "seats"))),
            quantity=self.chance.choice((1, 2, 4)),
            ttl=self.chance.choice((timedelta(minutes=30), timedelta(hours=20))),
        )
        made = (await self.service.reservations.reserve(wish)).reservation
        if made is not None:
            self.reserved.append((account_id, made.reservation_id))

    async def settle(self, _account_id: AccountId) -> None:
        """Commit or release a reservation."""
        owner, reservation_id = self.chance.choice(self.reserved)
        if self.chance.random() < 0.5:
            await self.service.reservations.release(
                Release(tenant_id=CLUB, account_id=owner, reservation_id=reservation_id)
            )
            return
        quantity = self.chance.choice((None, 1, 3))
        await self.service.reservations.commit(
            Commit(tenant_id=CLUB, account_id=owner, reservation_id=reservation_id, quantity=quantity)
        )

    async def reverse(self, account_id: AccountId) -> None:
        """Take a unit of a line of the ledger back."""
        entries = await self.service.usage.entries(CLUB, account_id, limit=20)
        entry = self.chance.choice([each for each in entries if each.quantity > 0])
        await self.service.corrections.reverse(
            Reversal(
                tenant_id=CLUB,
                account_id=account_id,
                entry_id=str(entry.entry_id),
                quantity=1,
                reason_text="test",
                actor="test",
            )
        )


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_was_answered_at_every_instant_is_explained_afterwards(
    service: Service, clock: FrozenClock, seed: int
) -> None:
    life = Life(service, clock, seed)
    for _ in range(STEPS):
        await life.go_on()
    clock.advance(timedelta(days=40))

    for at, check, answer in life.remembered:
        explanation = await service.explainer.explain(check, at)
        assert_explains(explanation, answer)
    assert len({answer.reason for _, _, answer in life.remembered}) >= 5
    assert len(life.happened) >= 6


async def test_what_is_answered_now_is_explained(service: Service, clock: FrozenClock) -> None:
    for feature_key in FEATURES:
        for account_id in (ANNA, BERT):
            check = a_check(feature_key, account_id, 11)

            answer = await service.checker.check(check)

            assert_explains(await service.explainer.explain(check), answer)
    assert (await service.explainer.explain(a_check("words"))).at == clock.now()


async def test_numbers_and_sources_stand_in_the_steps(service: Service, clock: FrozenClock) -> None:
    await outcome_of(service, an_increment("words", 9, account_id=ANNA, tenant_id=CLUB))

    explanation = await service.explainer.explain(a_check("words", quantity=2))

    assert [step.reason for step in explanation.steps][-2:] == [Reason.BELOW_ZERO, Reason.EXHAUSTED]
    assert explanation.steps[-1].explanation == (
        "9 used + 0 held + 2 wanted = 11, more than the limit of 10 until 2026-03-28 00:00:00 UTC"
    )
    (source,) = explanation.sources
    assert source.effective
    assert source.subscription is not None
    assert (source.subscription.plan_key, source.start, source.end) == ("free", START + timedelta(hours=1), None)
    assert explanation.period is not None
    assert explanation.period.end == datetime(2026, 3, 28, tzinfo=UTC)
    assert explanation.catalog_revision == 1


async def test_a_lapsed_subscription_is_told_with_the_day_on_which_its_grace_ended(
    service: Service, clock: FrozenClock
) -> None:
    await service.checker.check(a_check("words"))
    bought = await service.subscriptions.create(
        CLUB, ANNA, NewSubscription(plan_key=PlanKey("basic"), provider=BillingProvider.MANUAL)
    )
    subscription = bought.subscription
    await service.subscriptions.cancel(
        CLUB, ANNA, subscription_id=subscription.subscription_id, timing=ChangeTiming.NOW
    )
    canceled = clock.now()
    clock.advance(timedelta(days=1))

    seats = await service.explainer.explain(a_check("seats"))
    words = await service.explainer.explain(a_check("words"))

    assert seats.steps[-1].reason is Reason.SUBSCRIPTION_INACTIVE
    assert "canceled on 2026-03-27 13:00:00 UTC" in seats.steps[-1].explanation
    assert [(source.effective, source.explanation) for source in seats.sources] == [
        (False, "canceled on 2026-03-27 13:00:00 UTC")
    ]
    assert [source.effective for source in words.sources] == [True, False]
    assert seats.sources[0].end == canceled


async def test_of_two_plans_the_less_generous_one_is_told_why_it_does_not_count(
    service: Service, clock: FrozenClock
) -> None:
    await service.checker.check(a_check("words"))
    await service.subscriptions.create(
        CLUB, ANNA, NewSubscription(plan_key=PlanKey("pro"), provider=BillingProvider.MANUAL)
    )
    clock.advance(timedelta(seconds=1))

    explanation = await service.explainer.explain(a_check("words"))

    told = [
        (source.subscription.plan_key, source.effective, source.explanation)
        for source in explanation.sources
        if source.subscription is not None
    ]
    assert told == [("pro", True, ""), ("free", False, "a more generous plan applies")]
    assert explanation.answer.reason is Reason.UNLIMITED


async def test_there_was_no_account_before_there_was_one(service: Service, clock: FrozenClock) -> None:
    before = clock.now()
    clock.advance(timedelta(seconds=1))
    await service.checker.check(a_check("words"))
    clock.advance(timedelta(seconds=1))

    explanation = await service.explainer.explain(a_check("words"), before)

    assert explanation.answer.reason is Reason.ACCOUNT_NOT_FOUND
    assert (explanation.sources, explanation.period, explanation.history_complete) == ((), None, True)


async def test_the_catalog_of_that_time_is_named_and_features_come_and_go(service: Service, clock: FrozenClock) -> None:
    await service.checker.check(a_check("words"))
    times = [clock.now()]
    for more in (", extra: boolean", ""):
        clock.advance(timedelta(hours=1))
        await apply(service, more=more)
        times.append(clock.now())
    clock.advance(timedelta(hours=1))

    explanations = [await service.explainer.explain(a_check("extra"), at) for at in times]

    assert [each.catalog_revision for each in explanations] == [1, 2, 3]
    assert [each.answer.reason for each in explanations] == [
        Reason.UNKNOWN_FEATURE,
        Reason.NO_ENTITLEMENT,
        Reason.UNKNOWN_FEATURE,
    ]


async def test_an_unknown_account_and_an_unknown_tenant_are_said_as_in_a_check(service: Service) -> None:
    await apply(service, provision="false")
    check = a_check("words", NOBODY)

    answer = await service.checker.check(check)

    assert answer.reason is Reason.ACCOUNT_NOT_FOUND
    assert_explains(await service.explainer.explain(check), answer)
    with pytest.raises(TenantNotFound):
        await service.explainer.explain(replace(check, tenant_id=TenantId("elsewhere")))


async def test_the_future_is_refused_and_the_present_instant_is_not(service: Service, clock: FrozenClock) -> None:
    answer = await service.checker.check(a_check("words"))

    assert_explains(await service.explainer.explain(a_check("words"), clock.now()), answer)
    with pytest.raises(InvalidRequest, match="at_time"):
        await service.explainer.explain(a_check("words"), clock.now() + timedelta(microseconds=1))
