"""Judging one event: what it counts on, or why it is refused. Nothing here awaits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tallygate_server.domain.ai_cost import NO_COST, AiCost, cost_at, price_at
from tallygate_server.domain.catalog import Feature, FeatureKind, Meter
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.meters import PropertyUnreadable, Reading, readings
from tallygate_server.domain.period import Period
from tallygate_server.domain.usage_event import UsageEvent, out_of_range, still_counts
from tallygate_server.errors import (
    AccountDeleted,
    AccountNotFound,
    EventPropertyInvalid,
    EventTimeOutOfRange,
    ModelPriceNotFound,
    TallygateError,
)
from tallygate_server.hot_accounts import HotAccount, HotFeature
from tallygate_server.recording.results import RecordOutcome, RecordResult, refused
from tallygate_server.storage.ledger import CounterKey
from tallygate_server.storage.usage_events import EventName, NewEvent, RecordedBefore
from tallygate_server.tenants import Tenant


@dataclass(slots=True, kw_only=True)
class Count:
    """What an event adds to one counter."""

    meter_key: str
    property_path: str
    """Where the meter reads the quantity; empty for a count."""
    key: CounterKey
    feature: HotFeature
    period: Period
    quantity: int
    dimensions: dict[str, str]
    entry_id: int


@dataclass(slots=True, kw_only=True)
class Recordable:
    """An event that is to be recorded, on its way into the database."""

    path: str
    """Where it stands in the request: `events[3]`."""
    event: UsageEvent
    fingerprint: int
    event_key: int
    happened: datetime
    account: HotAccount
    readings: list[Reading]
    cost: AiCost
    row: NewEvent
    """As it is written; made here, so that no counter is locked meanwhile."""
    counts: list[Count] = field(default_factory=list)
    result: RecordResult | None = None
    """Once it is known."""
    known: RecordedBefore | None = None
    """What somebody else recorded under its name meanwhile."""

    @property
    def name(self) -> EventName:
        """What makes it unique in its tenant."""
        return EventName(self.event.source, self.event.event_id)

    def recorded(self, outcome: RecordOutcome = RecordOutcome.RECORDED) -> RecordResult:
        """Return what is told of it once it is recorded."""
        return RecordResult(outcome=outcome, meter_keys=tuple(each.meter_key for each in self.readings), cost=self.cost)

    def refuse(self, error: TallygateError) -> None:
        """Let it end here."""
        self.result = refused(error)


class Judge:
    """Judges the events of one call by the tenant's catalog, at one instant."""

    def __init__(self, tenant: Tenant, *, now: datetime, now_ms: int, next_entry_id: Callable[[], int]) -> None:
        """Take meters, prices and settings from the tenant; `next_entry_id` numbers events and entries."""
        self._tenant = tenant
        self.now = now
        self._now_ms = now_ms
        self._next_entry_id = next_entry_id
        self._periods: dict[tuple[AccountId, str], Period] = {}
        self._meters: dict[str, list[Meter]] = {}
        for meter in tenant.meters.values():
            self._meters.setdefault(meter.event_type, []).append(meter)
        # Those no longer in the catalog too: older plan versions may still give them.
        self._limited = _limited_features({**tenant.retired_features, **tenant.features}, tenant.meters)

    def judge(self, path: str, event: UsageEvent, account: HotAccount | None, *, fingerprint: int) -> Recordable:
        """Return what the event counts on; raise why it is refused."""
        happened = event.time or self.now
        problem = out_of_range(happened, self.now)
        if problem:
            raise EventTimeOutOfRange(event.event_id, happened.isoformat(), problem, field=f"{path}.time")
        if account is None:
            raise AccountNotFound(event.account_id, field=f"{path}.subject")
        # One that is suspended may do nothing more; what it has done is recorded all the same.
        if account.sources.state is AccountState.DELETED:
            raise AccountDeleted(event.account_id, field=f"{path}.subject")
        cost = self._cost(path, event, happened)
        try:
            found = readings(self._meters.get(event.type, ()), event, cost)
        except PropertyUnreadable as error:
            raise _property_invalid(path, event, error.meter_key, error.property_path, str(error)) from None
        event_key = self._next_entry_id()
        return Recordable(
            path=path,
            event=event,
            fingerprint=fingerprint,
            event_key=event_key,
            happened=happened,
            account=account,
            readings=found,
            cost=cost,
            row=_row(event, event_key, happened, found, cost),
            counts=[count for reading in found for count in self._counts(path, event, account, reading, happened)],
        )

    def _cost(self, path: str, event: UsageEvent, happened: datetime) -> AiCost:
        """Return what the event cost; nothing where the tenant has no price of the model at all."""
        if event.ai is None:
            return NO_COST
        prices = self._tenant.model_prices.get(event.ai.model_key)
        if not prices:
            return NO_COST
        price = price_at(prices, happened)
        if price is None:
            raise ModelPriceNotFound(event.ai.model_key, happened.isoformat(), field=f"{path}.ai.model_key")
        return cost_at(event.ai, price)

    def _counts(
        self, path: str, event: UsageEvent, account: HotAccount, reading: Reading, happened: datetime
    ) -> list[Count]:
        limited = self._limited.get(reading.meter_key)
        if not limited:
            return []
        meter = self._tenant.meters[reading.meter_key]
        assert isinstance(reading.value, int)
        if reading.value < 0:
            why = f"{meter.value_property} is below 0, and limits hang on the meter: ReverseUsage takes usage back"
            raise _property_invalid(path, event, meter.key, meter.value_property, why)
        counts = []
        for feature_key in limited:
            feature = account.feature(feature_key, self._now_ms)
            if feature is None or not feature.metered or reading.value == 0:
                continue
            period = self._period(account, feature, happened)
            if not still_counts(period.end, self.now, self._tenant.settings.late_event_window):
                assert period.end is not None
                why = (
                    f"is too late: the period of {feature_key!r} in which it would count ended at"
                    f" {period.end.isoformat()}"
                )
                raise EventTimeOutOfRange(event.event_id, happened.isoformat(), why, field=f"{path}.time")
            sources = account.sources
            key = CounterKey(sources.tenant_id, sources.account_id, feature_key, period.kind.value, period.start)
            counts.append(
                Count(
                    meter_key=meter.key,
                    property_path=meter.value_property,
                    key=key,
                    feature=feature,
                    period=period,
                    quantity=reading.value,
                    dimensions=reading.dimensions,
                    entry_id=self._next_entry_id(),
                )
            )
        return counts

    def _period(self, account: HotAccount, feature: HotFeature, happened: datetime) -> Period:
        """Return the feature's period at the time; the events of one call mostly share it."""
        place = (account.sources.account_id, feature.entitlement.feature_key)
        period = self._periods.get(place)
        if period is None or happened not in period:
            period = self._periods[place] = account.period_at(feature, happened)
        return period


def overflows(recordable: Recordable, count: Count) -> EventPropertyInvalid:
    """Return the error of an event that would take a counter beyond 64 bits."""
    why = f"the total of {count.key.feature_key!r} would not fit into 64 bits"
    return EventPropertyInvalid(
        recordable.event.event_id, count.meter_key, count.property_path, why, field=recordable.path
    )


def _property_invalid(
    path: str, event: UsageEvent, meter_key: str, property_path: str, why: str
) -> EventPropertyInvalid:
    place = property_path if property_path.startswith("ai.") else f"data.{property_path}"
    return EventPropertyInvalid(event.event_id, meter_key, property_path, why, field=f"{path}.{place}")


def _limited_features(features: Mapping[str, Feature], meters: Mapping[str, Meter]) -> dict[str, list[str]]:
    """Return which features' limits hang on each meter."""
    limited: dict[str, list[str]] = {}
    for feature in features.values():
        meter = meters.get(feature.meter_key)
        if meter is not None and meter.aggregation.additive and feature.kind is FeatureKind.COUNTER:
            limited.setdefault(meter.key, []).append(feature.key)
    return limited


def _row(event: UsageEvent, event_key: int, happened: datetime, found: list[Reading], cost: AiCost) -> NewEvent:
    return NewEvent(
        account_id=event.account_id,
        event_key=event_key,
        source=event.source,
        event_id=event.event_id,
        type=event.type,
        event_time=happened,
        data=json_text(event.data) if event.data is not None else None,
        ai=json_text(event.ai.as_json()) if event.ai is not None else None,
        client=json_text(event.client.as_json()) if event.client is not None else None,
        readings=json_text(
            [{"meter": each.meter_key, "value": each.value, "dimensions": each.dimensions} for each in found]
        ),
        cost_nanos=cost.nanos,
        cost_currency_code=cost.currency_code,
    )


# Made once: `json.dumps` makes one for each call whose options are not the usual ones.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_text(value: Any) -> str:
    """Return the value as compact JSON."""
    return _ENCODER.encode(value)
