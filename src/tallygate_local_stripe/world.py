"""What every request works on: objects, clocks, events and settings, as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import stripe

from tallygate_local_stripe.clocks import Clocks
from tallygate_local_stripe.errors import StripeError
from tallygate_local_stripe.objects import JsonObject, owner_of, previous_attributes, public
from tallygate_local_stripe.store import Store

API_VERSION: str = stripe.api_version
EXPAND_DEPTH_MAX = 4

# Fields that exist only when expand[] asks for them: (kind, field) -> how to make the value.
Inclusion = Callable[["World", JsonObject], Any]


@dataclass(slots=True, kw_only=True)
class BillingSettings:
    """What an account sets in Stripe's dashboard."""

    # Days from each failed attempt to the next; after the last one comes `after_retries`.
    retry_days: list[int] = field(default_factory=lambda: [3, 5, 7])
    after_retries: str = "cancel"
    upcoming_days: int = 7
    trial_will_end_days: int = 3
    draft_seconds: int = 3600
    incomplete_expires_seconds: int = 23 * 3600


class SettleIntent(Protocol):
    """Try to collect an intent and do what follows from it."""

    def __call__(self, intent: JsonObject, method: JsonObject, *, on_session: bool) -> str:
        """Return the outcome."""


def _no_settlement(intent: JsonObject, method: JsonObject, *, on_session: bool) -> str:
    raise NotImplementedError


class World:
    """Hold the state of one account in test mode."""

    def __init__(self, *, frozen_at: int | None = None) -> None:
        self.store = Store()
        self.clocks = Clocks(frozen_at=frozen_at)
        self.settings = BillingSettings()
        self.url = "http://local-stripe"
        self.includes: dict[tuple[str, str], Inclusion] = {}
        # Who caused what happens now: an event names its request.
        self.request: JsonObject = {"id": None, "idempotency_key": None}
        # Payments know nothing of invoices, nor invoices of subscriptions; what follows from one for the other is here.
        self.settle_intent: SettleIntent = _no_settlement
        self.on_invoice: Callable[[JsonObject, str], None] = lambda _invoice, _outcome: None
        self.before_period_end: Callable[[JsonObject, int], None] = lambda _subscription, _at: None
        # Work for after the answer to the request in hand; the application says how it is run.
        self.after_answer: Callable[[Callable[[], None]], None] = lambda work: work()
        self.on_event: Callable[[JsonObject], None] = lambda _: None

    def clock_of(self, subject: JsonObject) -> str | None:
        """Return the test clock of an object, or of its customer."""
        clock: str | None = subject.get("test_clock")
        if clock is None:
            customer = self.store.find(owner_of(subject) or "")
            clock = customer["test_clock"] if customer is not None else None
        return clock

    def now(self, subject: JsonObject | None = None) -> int:
        """Return the time that holds for an object."""
        return self.clocks.now(self.clock_of(subject) if subject is not None else None)

    def later(self, subject: JsonObject, moment: int, task: str) -> None:
        """Have a task look at an object at a moment of its clock."""
        self.clocks.at(self.clock_of(subject), moment, task, subject["id"])

    def emit(self, kind: str, subject: JsonObject, *, previous: JsonObject | None = None) -> None:
        """Record an event with the object as it is at this moment, and hand it to the webhooks."""
        data: JsonObject = {"object": public(subject)}
        if previous is not None:
            data["previous_attributes"] = public(previous)
        event = self.store.add(
            "event",
            type=kind,
            created=self.now(subject),
            api_version=API_VERSION,
            pending_webhooks=0,
            request=dict(self.request),
            data={"object": data["object"]},
        )
        event["data"] = data
        self.on_event(event)

    @contextmanager
    def updating(self, kind: str, subject: JsonObject) -> Iterator[None]:
        """Emit an event about what the block changed, if it changed anything that the API shows.

        If the block raises, the object is as it was: a refused request changes nothing.
        """
        before, whole = public(subject), deepcopy(subject)
        try:
            yield
        except BaseException:
            subject.clear()
            subject.update(whole)
            raise
        self.store.revision += 1
        previous = previous_attributes(before, public(subject))
        if previous:
            self.emit(kind, subject, previous=previous)

    def render(self, subject: JsonObject, expand: list[str] | None = None) -> JsonObject:
        """Return an object as the API shows it.

        Raises:
            StripeError: a path of `expand` leads nowhere.

        """
        shown: JsonObject = public(subject)
        for path in expand or []:
            parts = path.split(".")
            if len(parts) > EXPAND_DEPTH_MAX + (parts[0] == "data"):
                raise StripeError(
                    f"You cannot expand more than {EXPAND_DEPTH_MAX} levels of a property.", param="expand"
                )
            self._expand(shown, parts, path)
        return shown

    def _expand(self, subject: Any, parts: list[str], path: str) -> None:
        if isinstance(subject, list):
            for entry in subject:
                self._expand(entry, parts, path)
            return
        if not parts or subject is None:
            return
        name, rest = parts[0], parts[1:]
        include = self.includes.get((subject.get("object", ""), name)) if isinstance(subject, dict) else None
        if include is not None and name not in subject:
            subject[name] = public(include(self, subject))
        if not isinstance(subject, dict) or name not in subject:
            raise StripeError(f"This property cannot be expanded ({path}).", param="expand[0]")
        subject[name] = self._loaded(subject[name])
        self._expand(subject[name], rest, path)

    def _loaded(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._loaded(entry) for entry in value]
        if isinstance(value, str):
            found = self.store.find(value)
            return public(found) if found is not None else value
        return value
