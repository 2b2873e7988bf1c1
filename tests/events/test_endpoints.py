"""Endpoints are made, changed, shown and sent to again, by their tenant alone."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import InvalidRequest, NotFound, RequestIdReused, TallygateError, TenantNotFound
from tallygate_server.events.endpoints import (
    ENDPOINTS_PER_TENANT_MAX,
    OLD_SECRET_VALID,
    REPLAY_BATCH_MAX,
    EndpointChange,
)
from tallygate_server.events.sending import Sent
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.storage.webhook_deliveries import DeliveryState
from tests.support.events import ACME, GLOBEX, EventWorld, RecordingSender, verified
from tests.support.scripted_http import Reply, scripted_http

URL = "http://127.0.0.1:9/hook"


async def audited(world: EventWorld) -> list[tuple[str, str, dict[str, object]]]:
    """Return action, actor and detail of what was audited, in order."""
    connection = await connect(world.url, DatabaseRole.READER, **{"tallygate.tenant_id": ACME})
    try:
        rows = await connection.fetch("SELECT action, actor, detail::text FROM audit_entries ORDER BY audit_id")
        return [(row["action"], row["actor"], row["detail"]) for row in rows]
    finally:
        await connection.close()


async def test_a_created_endpoint_is_listed_without_its_secret(world: EventWorld) -> None:
    created = await world.endpoints.create(
        ACME, url=URL, event_types=["usage.*", "usage.*", "grant.created"], description="Billing", actor="ann"
    )

    (listed,) = await world.endpoints.list(ACME, after_endpoint_id="", limit=10)
    assert listed == created.endpoint
    assert listed.event_types == ("usage.*", "grant.created")
    assert created.secret.startswith("whsec_")
    assert created.secret not in repr(created) + repr(listed)
    (entry,) = await audited(world)
    assert entry[:2] == ("endpoint.create", "ann")
    assert created.secret not in str(entry)


async def test_the_same_request_again_creates_nothing_more(world: EventWorld) -> None:
    first = await world.endpoints.create(ACME, url=URL, request_id="r-1", actor="ann")
    again = await world.endpoints.create(ACME, url=URL, request_id="r-1", actor="ann")

    assert again == first
    with pytest.raises(RequestIdReused):
        await world.endpoints.create(ACME, url=f"{URL}/other", request_id="r-1", actor="ann")
    # Who has replaced the secret since knows the new one, and is not shown it again.
    await world.endpoints.rotate_secret(ACME, first.endpoint.endpoint_id, actor="ann")
    late = await world.endpoints.create(ACME, url=URL, request_id="r-1", actor="ann")
    assert (late.endpoint.endpoint_id, late.secret) == (first.endpoint.endpoint_id, "")


async def test_a_tenant_has_as_many_endpoints_as_the_bound(world: EventWorld) -> None:
    for _ in range(ENDPOINTS_PER_TENANT_MAX):
        await world.endpoint(URL)

    with pytest.raises(InvalidRequest):
        await world.endpoint(URL)
    await world.endpoint(URL, tenant_id=GLOBEX)


async def test_a_type_that_there_is_not_is_refused_by_its_place(world: EventWorld) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await world.endpoint(URL, "usage.exhausted", "usage.exhuasted", "nonsense.*")

    assert [violation.field for violation in refused.value.violations] == ["event_types[1]", "event_types[2]"]


async def test_only_what_is_given_is_changed(world: EventWorld) -> None:
    created = await world.endpoints.create(ACME, url=URL, event_types=["usage.*"], description="Billing", actor="ann")
    endpoint_id = created.endpoint.endpoint_id
    world.clock.advance(timedelta(minutes=1))

    changed = await world.endpoints.update(ACME, endpoint_id, EndpointChange(description=""), actor="bob")
    assert (changed.description, changed.event_types, changed.url) == ("", ("usage.*",), URL)
    assert changed.update_time == world.clock.now()
    changed = await world.endpoints.update(ACME, endpoint_id, EndpointChange(event_types=()), actor="bob")
    assert changed.event_types == ()
    changed = await world.endpoints.update(ACME, endpoint_id, EndpointChange(disabled=True), actor="bob")
    assert (changed.disabled, changed.disable_reason) == (True, "disabled by bob")
    same = await world.endpoints.update(ACME, endpoint_id, EndpointChange(), actor="bob")
    assert same == changed
    assert [entry[0] for entry in await audited(world)] == ["endpoint.create"] + ["endpoint.update"] * 3


async def test_endpoints_are_listed_by_id_in_pages(world: EventWorld) -> None:
    made = []
    for _ in range(5):
        world.clock.advance(timedelta(seconds=1))
        made.append((await world.endpoint(URL)).endpoint.endpoint_id)

    first = await world.endpoints.list(ACME, after_endpoint_id="", limit=3)
    rest = await world.endpoints.list(ACME, after_endpoint_id=first[-1].endpoint_id, limit=3)

    assert [endpoint.endpoint_id for endpoint in [*first, *rest]] == sorted(made) == made


async def test_the_endpoint_of_another_tenant_is_not_there(world: EventWorld) -> None:
    endpoint_id = (await world.endpoint(URL)).endpoint.endpoint_id
    attempts = [
        world.endpoints.update(GLOBEX, endpoint_id, EndpointChange(disabled=True), actor="eve"),
        world.endpoints.delete(GLOBEX, endpoint_id, actor="eve"),
        world.endpoints.rotate_secret(GLOBEX, endpoint_id, actor="eve"),
        world.endpoints.replay(GLOBEX, endpoint_id, failed_only=True, actor="eve"),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound):
            await attempt

    assert await world.endpoints.list(GLOBEX, after_endpoint_id="", limit=10) == []
    with pytest.raises(TenantNotFound):
        await world.endpoint(URL, tenant_id=TenantId("nobody"))


async def test_readers_see_endpoints_without_secrets(world: EventWorld) -> None:
    await world.endpoint(URL)
    connection = await connect(world.url, DatabaseRole.READER, **{"tallygate.tenant_id": ACME})
    try:
        assert await connection.fetchval("SELECT url FROM webhook_endpoints") == URL
        for column in ("secret", "old_secret"):
            with pytest.raises(Exception, match="permission denied"):
                await connection.fetchval(f"SELECT {column} FROM webhook_endpoints")
    finally:
        await connection.close()


async def test_for_a_day_events_are_signed_with_the_old_secret_too(world: EventWorld) -> None:
    async with scripted_http() as consumer:
        consumer.on("POST /hook", Reply(status=200))
        created = await world.endpoint(f"{consumer.url}/hook")
        rotated = await world.endpoints.rotate_secret(ACME, created.endpoint.endpoint_id, actor="ann")
        assert rotated.old_secret_expire_time == world.clock.now() + OLD_SECRET_VALID
        assert rotated.secret != created.secret
        await world.publish(1)
        await world.deliverer.run_due()
        (asked,) = consumer.to("POST /hook")

    assert verified(asked, created.secret) == verified(asked, rotated.secret)
    assert asked.headers["webhook-signature"].count("v1,") == 2
    (endpoint,) = await world.endpoints.list(ACME, after_endpoint_id="", limit=1)
    just_before = rotated.old_secret_expire_time - timedelta(microseconds=1)
    assert endpoint.secrets_at(just_before) == (rotated.secret, created.secret)
    assert endpoint.secrets_at(rotated.old_secret_expire_time) == (rotated.secret,)


async def test_deliveries_are_listed_newest_first_and_filtered(world: EventWorld) -> None:
    one = (await world.endpoint(f"{URL}/1")).endpoint.endpoint_id
    two = (await world.endpoint(f"{URL}/2")).endpoint.endpoint_id
    await world.publish(3)
    sender = RecordingSender(lambda _event, url: Sent(http_status=200) if url.endswith("1") else Sent(error="no"))
    await world.another_deliverer(sender).run_due()
    events = await world.events()

    async def listed(
        *, endpoint_id: str = "", event_id: str = "", state: DeliveryState | None = None, before: int | None = None
    ) -> list[tuple[str, int]]:
        found = await world.endpoints.deliveries(
            ACME, endpoint_id=endpoint_id, event_id=event_id, state=state, before_delivery_id=before, limit=10
        )
        assert [row.delivery_id for row in found] == sorted((row.delivery_id for row in found), reverse=True)
        return [(row.endpoint_id, row.event_id) for row in found]

    assert len(await listed()) == 6
    assert await listed(endpoint_id=one) == [(one, event.event_id) for event in reversed(events)]
    assert sorted(await listed(event_id=f"evt_{events[0].event_id}")) == sorted(
        [(one, events[0].event_id), (two, events[0].event_id)]
    )
    assert {endpoint_id for endpoint_id, _ in await listed(state=DeliveryState.DELIVERED)} == {one}
    assert {endpoint_id for endpoint_id, _ in await listed(state=DeliveryState.PENDING)} == {two}
    assert await listed(state=DeliveryState.FAILED) == []
    assert await listed(event_id="nonsense") == []
    last = (await world.deliveries())[0]["delivery_id"]
    assert await listed(before=last) == []
    assert await listed(endpoint_id=one, event_id="evt_99999999999999999999") == []


async def test_named_events_are_sent_again_with_their_first_ids(world: EventWorld) -> None:
    created = await world.endpoint(URL, "usage.exhausted")
    await world.publish(2, "usage.exhausted")
    await world.publish(1, "grant.created")
    sender = RecordingSender()
    deliverer = world.another_deliverer(sender)
    await deliverer.run_due()
    events = [event.event_id for event in await world.events()]
    assert sorted(event_id for _, event_id in sender.sent) == events[:2]

    count = await world.endpoints.replay(
        ACME, created.endpoint.endpoint_id, event_ids=[f"evt_{events[0]}", f"evt_{events[2]}"], actor="ann"
    )

    assert count == 2
    await deliverer.run_due()
    assert sorted(event_id for _, event_id in sender.sent[2:]) == [events[0], events[2]]
    assert (await audited(world))[-1][:2] == ("endpoint.replay", "ann")


async def test_the_events_of_a_time_are_sent_again(world: EventWorld) -> None:
    created = await world.endpoint(URL, "usage.*")
    times = []
    for _ in range(4):
        times.append(world.clock.now())
        await world.publish(1)
        await world.publish(1, "grant.created")
        world.clock.advance(timedelta(hours=1))
    sender = RecordingSender()
    deliverer = world.another_deliverer(sender)
    await deliverer.run_due()
    sender.sent.clear()

    endpoint_id = created.endpoint.endpoint_id
    assert await world.endpoints.replay(ACME, endpoint_id, start_time=times[1], end_time=times[3], actor="ann") == 2
    await deliverer.run_due()
    assert len(sender.sent) == 2
    assert await world.endpoints.replay(ACME, endpoint_id, start_time=times[3], actor="ann") == 1


async def test_only_what_never_arrived_is_sent_again(world: EventWorld) -> None:
    created = await world.endpoint(URL)
    endpoint_id = created.endpoint.endpoint_id
    await world.publish(3)
    events = [event.event_id for event in await world.events()]
    answers = {events[0]: Sent(http_status=200), events[1]: Sent(http_status=410, error="gone")}
    await world.another_deliverer(
        RecordingSender(lambda event, _url: answers.get(event.event_id, Sent(error="no")))
    ).run_due()
    # What happens while an endpoint is disabled is not sent to it, and so has never arrived either.
    await world.publish(1)
    await world.endpoints.update(ACME, endpoint_id, EndpointChange(disabled=False), actor="ann")
    await world.publisher.publish()
    arrived = await world.rows("SELECT event_id FROM webhook_deliveries WHERE state = 'delivered'")
    missed = {event.event_id for event in await world.events()} - {row["event_id"] for row in arrived}

    count = await world.endpoints.replay(ACME, endpoint_id, failed_only=True, actor="ann")

    sender = RecordingSender()
    await world.another_deliverer(sender).run_due()
    assert count == len(missed)
    assert sorted(event_id for _, event_id in sender.sent) == sorted(missed)
    assert await world.endpoints.replay(ACME, endpoint_id, failed_only=True, actor="ann") == 0


@pytest.mark.parametrize("count", [REPLAY_BATCH_MAX, REPLAY_BATCH_MAX + 1])
async def test_many_events_are_sent_again_in_several_batches(world: EventWorld, count: int) -> None:
    async with world.database.tenant_transaction(ACME) as connection:
        for number in range(count):
            await world.add_in(connection, number=number)
    start_time = world.clock.now()
    await world.publisher.publish()
    created = await world.endpoint(URL)

    assert (
        await world.endpoints.replay(
            ACME, created.endpoint.endpoint_id, start_time=start_time, end_time=start_time + timedelta(1), actor="a"
        )
        == count
    )
    assert len(await world.deliveries()) == count


async def test_what_cannot_be_sent_again_is_said(world: EventWorld) -> None:
    endpoint_id = (await world.endpoint(URL)).endpoint.endpoint_id
    await world.publish(1)
    (event,) = await world.events()
    now = world.clock.now()

    async def refused(**wanted: object) -> TallygateError:
        with pytest.raises(TallygateError) as error:
            await world.endpoints.replay(ACME, endpoint_id, actor="ann", **wanted)  # type: ignore[arg-type]
        return error.value

    assert isinstance(await refused(), InvalidRequest)
    assert isinstance(await refused(event_ids=[f"evt_{event.event_id}"], start_time=now), InvalidRequest)
    assert isinstance(await refused(event_ids=["evt_999999999"]), NotFound)
    assert isinstance(await refused(event_ids=["nonsense"]), NotFound)
    assert await world.deliveries() != []
