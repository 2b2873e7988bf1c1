from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.counters import keys
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.limits import ACCOUNT_ID_PATTERN, KEY_PATTERN, TENANT_ID_PATTERN
from tallygate_server.domain.period import LIFETIME, Period, PeriodAnchor, PeriodKind, period_at
from tallygate_server.storage.ledger import CounterKey
from tallygate_server.workers.hold_sweeper import ledger_key

tenant_ids = st.from_regex(TENANT_ID_PATTERN, fullmatch=True).map(TenantId)
account_ids = st.from_regex(ACCOUNT_ID_PATTERN, fullmatch=True).map(AccountId)
feature_keys = st.from_regex(KEY_PATTERN, fullmatch=True).map(FeatureKey)
instants = st.datetimes(
    datetime(1960, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone.
    datetime(2200, 1, 1),  # noqa: DTZ001 - as above.
    timezones=st.just(UTC),
)


@given(tenant_ids, account_ids, feature_keys, st.sampled_from(PeriodKind), instants)
def test_the_ledger_key_of_a_counter_key_is_the_counters_own(
    tenant_id: TenantId, account_id: AccountId, feature_key: FeatureKey, kind: PeriodKind, start: datetime
) -> None:
    """Down to the microsecond: a sweeper that asks the ledger about another period would find nothing there."""
    period = Period(kind, start, start + timedelta(hours=1))

    key = keys.counter(keys.account(keys.namespace("0123456789ab", 7), tenant_id, account_id), feature_key, period)

    assert ledger_key(key) == CounterKey(tenant_id, account_id, feature_key, kind.value, start)


@given(
    st.sampled_from(PeriodKind),
    st.sampled_from(PeriodAnchor),
    instants,
    instants,
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia"]),
)
def test_every_period_that_is_ever_computed_comes_back(
    kind: PeriodKind, anchor: PeriodAnchor, at: datetime, billing_anchor: datetime, zone: str
) -> None:
    period = period_at(kind, anchor, at, billing_anchor=billing_anchor, time_zone=ZoneInfo(zone))

    parts = keys.parse_counter(keys.counter("tg:{t/a}", "f", period))

    assert (parts.period_kind, parts.period_start) == (kind.value, period.start)


def test_periods_of_one_microsecond_apart_have_keys_of_their_own() -> None:
    start = datetime(2026, 3, 15, 12, 0, 0, 1, tzinfo=UTC)
    later = start + timedelta(microseconds=1)

    assert keys.counter("tg:{t/a}", "f", Period(PeriodKind.DAY, start, None)) != keys.counter(
        "tg:{t/a}", "f", Period(PeriodKind.DAY, later, None)
    )


def test_the_zone_in_which_a_start_is_given_does_not_matter() -> None:
    start = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
    elsewhere = start.astimezone(timezone(timedelta(hours=5, minutes=45)))

    assert keys.counter("k", "f", Period(PeriodKind.DAY, start, None)) == keys.counter(
        "k", "f", Period(PeriodKind.DAY, elsewhere, None)
    )


def test_a_lifetime_comes_back_as_one() -> None:
    assert ledger_key(keys.counter("tg:{t/a}", "f", LIFETIME)).period_start == LIFETIME.start
