"""Whatever is written into the outbox has a type that tenants know, or is left out on purpose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tallygate_server.billing.recorder import payment_happenings
from tallygate_server.domain.event_types import PUBLIC_EVENTS, PUBLIC_TYPES, wants
from tallygate_server.webhooks.ayrshare import AyrshareEvents

SOURCES = Path(__file__).parents[2] / "src" / "tallygate_server"
_WRITTEN = re.compile(r"""(?:\bemit\(\s*|\bevent_type=|\bevents\.append\(|\bfound\.append\()"([a-z_]+\.[a-z_]+)\"""")


def test_every_type_that_the_code_spells_out_is_public() -> None:
    written = {name for file in SOURCES.rglob("*.py") for name in _WRITTEN.findall(file.read_text("utf-8"))}

    assert {"subscription.scheduled", "grant.created", "catalog.changed", "account.created"} <= written
    assert written <= set(PUBLIC_EVENTS)


@pytest.mark.parametrize("verb", ["created", "canceled", "expired", "paused", "past_due", "resumed", "recovered"])
def test_every_move_of_a_subscription_is_public(verb: str) -> None:
    assert f"subscription.{verb}" in PUBLIC_EVENTS


def test_what_happens_to_payments_and_at_ayrshare_is_public() -> None:
    told = re.findall(r'"([a-z_]+)"', Path(payment_happenings.__code__.co_filename).read_text("utf-8"))
    for name in ("succeeded", "failed", "refunded", "disputed", "fraud_warning"):
        assert name in told
        assert f"payment.{name}" in PUBLIC_EVENTS
    assert {f"ayrshare.{name}" for name in AyrshareEvents.known_types} <= set(PUBLIC_EVENTS)


def test_types_of_the_contract_are_known() -> None:
    contract = (Path(__file__).parents[2] / "protos/tallygate/v1/event_service.proto").read_text("utf-8")
    comment = contract.partition("// Types are ")[2].partition("service EventService")[0]
    named = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", comment))

    assert named == {name for name in PUBLIC_TYPES if not name.startswith("ayrshare.")}


@pytest.mark.parametrize(
    ("event_types", "event_type", "wanted"),
    [
        ((), "usage.exhausted", True),
        (("usage.exhausted",), "usage.exhausted", True),
        (("usage.*",), "usage.exhausted", True),
        (("grant.*", "usage.threshold_crossed"), "usage.exhausted", False),
        (("usag.*",), "usage.exhausted", False),
    ],
)
def test_types_are_wanted_by_name_by_group_or_all(event_types: tuple[str, ...], event_type: str, wanted: bool) -> None:  # noqa: FBT001
    assert wants(event_types, event_type) is wanted
