"""Consents: for each purpose the statement of the newest time counts, and every statement is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tallygate_server.domain.identifier import AccountId
from tallygate_server.errors import AccountNotFound, InvalidRequest, RequestIdReused
from tallygate_server.privacy.consents import Consents, NewConsent
from tests.support.clock import DEFAULT_START
from tests.support.use_cases import LEKHAK, UseCases, example, use_cases

ANN = AccountId("ann")
TRAINING = "ai_training"
DAY = timedelta(days=1)


@pytest.fixture
async def cases(database_without_tenants: str) -> AsyncIterator[UseCases]:
    async with use_cases(database_without_tenants) as made:
        await made.catalogs.apply(example("lekhak"))
        await made.accounts.identify(LEKHAK, [], account_id=ANN)
        yield made


@pytest.fixture
def consents(cases: UseCases) -> Consents:
    return Consents(cases.database, tenants=cases.tenants, accounts=cases.accounts, clock=cases.clock)


def given(*, granted: bool = True, days_ago: float = 0, purpose: str = TRAINING, ends_after: int = 0) -> NewConsent:
    time = DEFAULT_START - days_ago * DAY
    return NewConsent(
        purpose=purpose,
        granted=granted,
        consent_time=time,
        expire_time=time + ends_after * DAY if ends_after else None,
    )


async def test_the_statement_of_the_newest_time_counts(cases: UseCases, consents: Consents) -> None:
    assert not await consents.has_consent(LEKHAK, ANN, TRAINING)
    await consents.record(LEKHAK, ANN, given(days_ago=5))
    assert await consents.has_consent(LEKHAK, ANN, TRAINING)
    await consents.record(LEKHAK, ANN, given(granted=False, days_ago=3))

    late = await consents.record(LEKHAK, ANN, given(days_ago=4))
    other = await consents.record(LEKHAK, ANN, given(purpose="marketing", days_ago=2))

    assert not await consents.has_consent(LEKHAK, ANN, TRAINING)
    assert await consents.has_consent(LEKHAK, ANN, TRAINING, DEFAULT_START - 4 * DAY)
    history = await consents.list(LEKHAK, ANN, purpose=TRAINING, limit=10)
    assert [(consent.granted, consent.consent_time) for consent in history] == [
        (False, DEFAULT_START - 3 * DAY),
        (True, late.consent_time),
        (True, DEFAULT_START - 5 * DAY),
    ]
    current = await consents.list(LEKHAK, ANN, current_only=True, limit=10)
    assert current == [other, history[0]]
    audited = await cases.fetch("SELECT subject FROM audit_entries WHERE action = 'data.consent_recorded'")
    assert [row["subject"] for row in audited] == ["account:ann"] * 4


async def test_of_one_time_the_later_recorded_counts(consents: Consents) -> None:
    await consents.record(LEKHAK, ANN, given())
    refusal = await consents.record(LEKHAK, ANN, given(granted=False))

    assert not await consents.has_consent(LEKHAK, ANN, TRAINING)
    assert await consents.list(LEKHAK, ANN, current_only=True, limit=10) == [refusal]


async def test_an_expired_statement_gives_nothing_and_wakes_no_older_one(cases: UseCases, consents: Consents) -> None:
    await consents.record(LEKHAK, ANN, given(days_ago=2))
    await consents.record(LEKHAK, ANN, given(days_ago=1, ends_after=2))
    assert await consents.has_consent(LEKHAK, ANN, TRAINING)

    cases.clock.advance(DAY - timedelta(microseconds=1))
    assert await consents.has_consent(LEKHAK, ANN, TRAINING)
    cases.clock.advance(timedelta(microseconds=1))

    assert not await consents.has_consent(LEKHAK, ANN, TRAINING)
    assert await consents.list(LEKHAK, ANN, current_only=True, limit=10) == []
    with pytest.raises(InvalidRequest, match="expire_time"):
        await consents.record(
            LEKHAK,
            ANN,
            NewConsent(purpose=TRAINING, granted=True, consent_time=DEFAULT_START, expire_time=DEFAULT_START),
        )


async def test_a_statement_of_a_time_to_come_waits_for_it(cases: UseCases, consents: Consents) -> None:
    await consents.record(LEKHAK, ANN, given(days_ago=-1))

    assert not await consents.has_consent(LEKHAK, ANN, TRAINING)
    cases.clock.advance(DAY)
    assert await consents.has_consent(LEKHAK, ANN, TRAINING)


async def test_a_retry_records_nothing_twice(cases: UseCases, consents: Consents) -> None:
    wanted = NewConsent(purpose=TRAINING, granted=True)
    first = await consents.record(LEKHAK, ANN, wanted, request_id="r1")
    cases.clock.advance(DAY)

    assert await consents.record(LEKHAK, ANN, wanted, request_id="r1") == first
    with pytest.raises(RequestIdReused):
        await consents.record(LEKHAK, ANN, NewConsent(purpose=TRAINING, granted=False), request_id="r1")
    assert await consents.list(LEKHAK, ANN, limit=10) == [first]


async def test_pages_go_on_where_they_ended(consents: Consents) -> None:
    for days in (3, 1, 2, 1):
        await consents.record(LEKHAK, ANN, given(days_ago=days))

    whole = await consents.list(LEKHAK, ANN, limit=10)
    last = whole[1]
    rest = await consents.list(LEKHAK, ANN, before=(last.consent_time, last.sequence), limit=10)

    assert [consent.consent_time for consent in whole] == [DEFAULT_START - days * DAY for days in (1, 1, 2, 3)]
    assert rest == whole[2:]
    with pytest.raises(AccountNotFound):
        await consents.list(LEKHAK, AccountId("nobody"), limit=10)
