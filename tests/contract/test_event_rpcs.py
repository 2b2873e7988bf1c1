"""Events, watches and endpoints over the real service, on both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from grpc import aio

from tallygate.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from tallygate.v1 import event_service_pb2 as pb
from tallygate.v1.event_service_pb2_grpc import EventServiceStub
from tallygate_server.app import servicers
from tallygate_server.clock import SystemClock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.events.addresses import AddressRules
from tallygate_server.events.assembly import EventOptions
from tallygate_server.service import Service, open_service
from tallygate_server.transport.server import GrpcServer, TransportKind, build_server
from tests.support.acme import PATIENT
from tests.support.events import verified
from tests.support.eventually import eventually
from tests.support.scripted_http import Reply, ScriptedHttp, scripted_http
from tests.support.transport_servers import Refusal, refusal_of
from tests.support.use_cases import example

KINDS: tuple[TransportKind, ...] = ("native", "grpcio")
LEKHAK = "lekhak"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A served service whose publisher and deliverer work, and stubs for it."""

    service: Service
    server: GrpcServer
    events: Any
    catalogs: Any

    async def identify(self, account_id: str) -> None:
        """Make an account, which is an event."""
        await self.service.accounts.identify(TenantId(LEKHAK), [], account_id=AccountId(account_id))

    async def listed(self, **wanted: Any) -> list[pb.Event]:
        """List events."""
        response = await self.events.ListEvents(pb.ListEventsRequest(tenant_id=LEKHAK, **wanted))
        return list(response.events)


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str) -> AsyncIterator[World]:
    anywhere = EventOptions(addresses=AddressRules(private_networks=True, plain_http=True))
    async with open_service(
        database_url=fresh_database,
        redis_url=fresh_redis,
        clock=SystemClock(),
        limits=PATIENT,
        event_options=anywhere,
    ) as service:
        await service.events.publisher.start()
        await service.events.deliverer.start()
        server = build_server(request.param, servicers(service), observe=lambda *_call: None)
        server.at_drain(service.events.hub.end)
        port = await server.start("127.0.0.1", 0)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            running = World(
                service=service,
                server=server,
                events=EventServiceStub(channel),
                catalogs=catalog_service_pb2_grpc.CatalogServiceStub(channel),
            )
            await running.catalogs.ApplyCatalog(
                catalog_service_pb2.ApplyCatalogRequest(yaml=example("lekhak").text, actor="test")
            )
            yield running
        await server.drain(drain_delay_ms=0, grace_ms=1_000)


@pytest.fixture
async def consumer() -> AsyncIterator[ScriptedHttp]:
    async with scripted_http() as running:
        running.on("POST /hook", Reply(status=204, raw=b""))
        yield running


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as error:
        await call
    return refusal_of(error.value)


async def test_what_happens_is_watched_listed_and_delivered_as_the_same_event(
    world: World, consumer: ScriptedHttp
) -> None:
    created = await world.events.CreateWebhookEndpoint(
        pb.CreateWebhookEndpointRequest(
            tenant_id=LEKHAK, url=f"{consumer.url}/hook", event_types=["account.*"], description="CRM", actor="ann"
        )
    )
    watch = world.events.WatchEvents(
        pb.WatchEventsRequest(tenant_id=LEKHAK, event_types=["account.*"], after_sequence=0)
    )
    await world.identify("ann")

    watched = (await watch.read()).event
    (listed,) = await eventually(lambda: world.listed(event_types=["account.created"]))
    (asked,) = await eventually(lambda: consumer.to("POST /hook"))
    told = verified(asked, created.secret)
    assert watched == listed
    assert (watched.type, watched.account_id, watched.tenant_id) == ("account.created", "ann", LEKHAK)
    assert told["event_id"] == watched.event_id == asked.headers["webhook-id"]
    assert told["data"] == MessageToDict(watched.data)
    assert told["sequence"] == watched.sequence
    revision = (await world.service.accounts.get(TenantId(LEKHAK), AccountId("ann"))).revision
    assert told["revision"] == watched.revision == revision
    deliveries = pb.ListWebhookDeliveriesRequest(tenant_id=LEKHAK, event_id=watched.event_id)

    async def delivered() -> bool:
        (delivery,) = (await world.events.ListWebhookDeliveries(deliveries)).deliveries
        return bool(delivery.state == pb.WEBHOOK_DELIVERY_STATE_DELIVERED)

    assert await eventually(delivered)
    (delivery,) = (await world.events.ListWebhookDeliveries(deliveries)).deliveries
    assert (delivery.endpoint_id, delivery.event_type, delivery.attempt_count, delivery.http_status) == (
        created.endpoint.endpoint_id,
        "account.created",
        1,
        204,
    )
    assert delivery.HasField("end_time")
    assert not delivery.HasField("next_attempt_time")
    watch.cancel()


async def test_an_endpoint_goes_through_its_life(world: World, consumer: ScriptedHttp) -> None:
    # Before there is an endpoint that it would be sent to.
    (event,) = await eventually(lambda: world.listed(event_types=["catalog.applied"]))
    request = pb.CreateWebhookEndpointRequest(tenant_id=LEKHAK, url=f"{consumer.url}/hook", request_id="r-1")
    created = await world.events.CreateWebhookEndpoint(request)
    again = await world.events.CreateWebhookEndpoint(request)
    assert again == created
    named: dict[str, Any] = {"tenant_id": LEKHAK, "endpoint_id": created.endpoint.endpoint_id}

    updated = await world.events.UpdateWebhookEndpoint(
        pb.UpdateWebhookEndpointRequest(
            **named, event_types=pb.WebhookEventTypes(values=["subscription.*"]), disabled=True, actor="ann"
        )
    )
    assert updated.endpoint.disabled
    assert updated.endpoint.disable_reason == "disabled by ann"
    assert list(updated.endpoint.event_types) == ["subscription.*"]
    updated = await world.events.UpdateWebhookEndpoint(
        pb.UpdateWebhookEndpointRequest(**named, event_types=pb.WebhookEventTypes(), disabled=False)
    )
    assert not updated.endpoint.disabled
    assert not updated.endpoint.event_types
    rotated = await world.events.RotateWebhookSecret(pb.RotateWebhookSecretRequest(**named))
    assert rotated.secret.startswith("whsec_")
    assert rotated.secret != created.secret
    listed = (await world.events.ListWebhookEndpoints(pb.ListWebhookEndpointsRequest(tenant_id=LEKHAK))).endpoints
    assert [endpoint.endpoint_id for endpoint in listed] == [created.endpoint.endpoint_id]
    replayed = await world.events.ReplayWebhookDeliveries(
        pb.ReplayWebhookDeliveriesRequest(**named, event_ids=[event.event_id])
    )
    assert replayed.delivery_count == 1
    (asked,) = await eventually(lambda: consumer.to("POST /hook"))
    assert verified(asked, created.secret) == verified(asked, rotated.secret)
    await world.events.DeleteWebhookEndpoint(pb.DeleteWebhookEndpointRequest(**named))
    gone = await refused(world.events.DeleteWebhookEndpoint(pb.DeleteWebhookEndpointRequest(**named)))
    assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_pages_of_events_are_newest_first_without_gap_or_double(world: World) -> None:
    for number in range(7):
        await world.identify(f"a-{number}")

    async def all_there() -> bool:
        return len(await world.listed(event_types=["account.created"])) == 7

    await eventually(all_there)
    found: list[pb.Event] = []
    token = ""
    while True:
        response = await world.events.ListEvents(
            pb.ListEventsRequest(tenant_id=LEKHAK, event_types=["account.created"], page_size=3, page_token=token)
        )
        found += response.events
        token = response.next_page_token
        if not token:
            break

    assert [event.account_id for event in found] == [f"a-{number}" for number in reversed(range(7))]
    sequences = [event.sequence for event in found]
    assert sequences == sorted(set(sequences), reverse=True)


async def test_a_watch_is_resumed_where_it_ended(world: World) -> None:
    first = world.events.WatchEvents(pb.WatchEventsRequest(tenant_id=LEKHAK, after_sequence=0))
    begun = (await first.read()).event
    first.cancel()
    await world.identify("ann")

    second = world.events.WatchEvents(pb.WatchEventsRequest(tenant_id=LEKHAK, after_sequence=begun.sequence))
    assert (await second.read()).event.sequence > begun.sequence
    second.cancel()


async def test_a_drain_ends_a_watch_with_unavailable(world: World) -> None:
    watch = world.events.WatchEvents(pb.WatchEventsRequest(tenant_id=LEKHAK))
    reading = asyncio.ensure_future(watch.read())
    await eventually(lambda: world.service.events.hub.watcher_count == 1)
    await world.server.drain(drain_delay_ms=0, grace_ms=5_000)

    ended = await refused(reading)
    assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "https://user@example.com/"}, "url"),
        ({"event_types": ["nonsense"]}, "event_types[0]"),
        ({"event_types": ["usage.exhuasted"]}, "event_types[0]"),
        ({"tenant_id": "No"}, "tenant_id"),
    ],
)
async def test_a_wrong_endpoint_is_refused_by_its_field(world: World, changes: dict[str, Any], field: str) -> None:
    fields: dict[str, Any] = {"tenant_id": LEKHAK, "url": "https://192.0.2.1/hook", **changes}

    refusal = await refused(world.events.CreateWebhookEndpoint(pb.CreateWebhookEndpointRequest(**fields)))

    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_what_is_not_there_is_said(world: World) -> None:
    unknown = await refused(world.events.ListEvents(pb.ListEventsRequest(tenant_id="nobody")))
    assert unknown.reason == "TENANT_NOT_FOUND"
    watch = world.events.WatchEvents(pb.WatchEventsRequest(tenant_id="nobody"))
    assert (await refused(watch.read())).reason == "TENANT_NOT_FOUND"
    far = world.events.WatchEvents(pb.WatchEventsRequest(tenant_id=LEKHAK, after_sequence=10**12))
    lost = await refused(far.read())
    assert (lost.code, lost.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_POINT_LOST")
