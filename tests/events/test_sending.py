"""Webhooks leave for the public Internet only, and no answer hurts."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tallygate_server.domain.identifier import TenantId
from tallygate_server.events import addresses, sending
from tallygate_server.events.addresses import URL_LENGTH_MAX, AddressNotAllowed, AddressRules, is_public
from tallygate_server.events.contents import (
    SAFE_INTEGER_MAX,
    event_id_number,
    event_id_text,
    safe_json,
)
from tallygate_server.events.sending import RESPONSE_BYTES_MAX, Sender, Sent
from tallygate_server.storage.outbox import OutboxEvent
from tests.support.events import ANYWHERE
from tests.support.scripted_http import HANG_UP, SILENCE, Reply, ScriptedHttp, scripted_http
from tests.support.tls_material import CERTIFICATE, PRIVATE_KEY

SECRET = "whsec_bG9jYWw="
EVENT = OutboxEvent(
    event_id=7,
    tenant_id=TenantId("acme"),
    account_id="ann",
    event_type="usage.exhausted",
    sequence=3,
    revision=2,
    create_time=datetime(2026, 3, 15, 12, tzinfo=UTC),
    payload={"note": "für alle"},
)


@pytest.fixture
async def consumer() -> AsyncIterator[ScriptedHttp]:
    async with scripted_http() as running:
        yield running


@asynccontextmanager
async def a_sender(rules: AddressRules = ANYWHERE, **options: Any) -> AsyncIterator[Sender]:
    sender = Sender(rules, concurrency=4, **options)
    try:
        yield sender
    finally:
        await sender.close()


async def sent(url: str, rules: AddressRules = ANYWHERE, **options: Any) -> Sent:
    async with a_sender(rules, **options) as sender:
        return await sender.send(EVENT, url=url, secrets=(SECRET,), now=datetime.now(UTC))


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_every_success_is_one(consumer: ScriptedHttp, status: int) -> None:
    consumer.on("POST /hook", Reply(status=status, raw=b""))

    assert await sent(f"{consumer.url}/hook") == Sent(http_status=status)


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 410, 429, 500, 503])
async def test_everything_else_is_none_and_nobody_is_sent_elsewhere(consumer: ScriptedHttp, status: int) -> None:
    consumer.on("POST /hook", Reply(status=status, headers={"location": f"{consumer.url}/elsewhere"}))

    assert await sent(f"{consumer.url}/hook") == Sent(http_status=status, error=f"answered with status {status}")
    assert [asked.path for asked in consumer.asked] == ["/hook"]


async def test_silence_ends_after_a_while(consumer: ScriptedHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "ATTEMPT_SECONDS_MAX", 0.2)
    consumer.on("POST /hook", SILENCE)

    assert (await sent(f"{consumer.url}/hook")).error == "no answer within 0.2 seconds"


async def test_a_broken_connection_and_a_closed_port_are_told(consumer: ScriptedHttp) -> None:
    consumer.on("POST /hook", HANG_UP)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))

        for url in (f"{consumer.url}/hook", f"http://127.0.0.1:{closed.getsockname()[1]}/"):
            assert (await sent(url)).error.startswith("the connection failed: ")


async def test_an_endless_answer_is_not_read() -> None:
    written = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
                written += 65_536
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert await sent(url) == Sent(http_status=200)

    # What the sockets buffer, and no more.
    assert written < RESPONSE_BYTES_MAX + 32 * 1_048_576


async def test_the_certificate_must_be_that_of_the_name(tmp_path: Path) -> None:
    """Although the connection goes to an address."""
    (tmp_path / "certificate").write_bytes(CERTIFICATE)
    (tmp_path / "key").write_bytes(PRIVATE_KEY)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    names: list[str | None] = []
    served.sni_callback = lambda _socket, name, _context: names.append(name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    trusting = ssl.create_default_context(cadata=CERTIFICATE.decode())
    # The loop tells its exception handler of handshakes that the client breaks off.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    try:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=served)
        async with server:
            port = server.sockets[0].getsockname()[1]
            assert await sent(f"https://localhost:{port}/", tls=trusting) == Sent(http_status=204)
            assert names == ["localhost"]
            untrusted = await sent(f"https://localhost:{port}/")
            assert untrusted.error == "the connection failed: ConnectError"
    finally:
        asyncio.get_running_loop().set_exception_handler(None)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.2.1",
        "192.168.1.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:10.0.0.1",
        "2002:a00:1::",
        "64:ff9b::a00:1",
        "fc00::1",
        "fe80::1",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_an_address_of_a_private_network_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com/", "must begin with https://"),
        ("https://user:pass@example.com/", "must have no user name and no password"),
        ("https://example.com/#part", "must have no fragment"),
        ("https://127.0.0.1/", "leads into a private network"),
        ("https://[::1]:8443/", "leads into a private network"),
        ("https://169.254.169.254/latest", "leads into a private network"),
        ("https://localhost/", "leads into a private network"),
        ("https://example.com:0/", "must name a port from 1 to 65535"),
        ("https://example.com:99999/", "is no URL"),
        ("https:///path", "must begin with https:// and name a host"),
        ("https://example.com/" + "x" * URL_LENGTH_MAX, f"has more than {URL_LENGTH_MAX} characters"),
    ],
)
async def test_what_is_not_allowed_is_refused_at_once(url: str, said: str) -> None:
    async with a_sender(AddressRules()) as sender:
        with pytest.raises(AddressNotAllowed, match=said.replace("[", r"\[")):
            await sender.check(url)


async def test_numbers_that_are_addresses_in_disguise_lead_nowhere_private() -> None:
    """As the system reads them when it looks them up."""
    for host in ("2130706433", "0x7f000001", "127.1"):
        assert (await sent(f"https://{host}/", AddressRules())).error in {
            "the address leads into a private network",
            "the name of the host is not known",
        }


async def test_a_name_is_looked_up_anew_and_the_connection_goes_where_was_looked(
    consumer: ScriptedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere at every look leads nowhere private."""
    consumer.on("POST /hook", Reply(status=200))
    looks: list[str] = []

    def look_up(host: str, port: int) -> Any:
        looks.append(host)
        address = "8.8.8.8" if len(looks) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(addresses, "_look_up", look_up)
    rules = AddressRules(plain_http=True)
    async with a_sender(rules) as sender:
        url = f"http://rebinding.invalid:{consumer.port}/hook"
        await sender.check(url)
        refused = await sender.send(EVENT, url=url, secrets=(SECRET,), now=datetime.now(UTC))
    assert refused.error == "the address leads into a private network"
    assert consumer.asked == []

    looks[:] = []
    monkeypatch.setattr(
        addresses, "_look_up", lambda _host, port: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    )
    assert await sent(url) == Sent(http_status=200)
    assert consumer.asked[0].headers["host"] == f"rebinding.invalid:{consumer.port}"


async def test_a_name_that_is_not_known_may_be_registered_and_is_told_at_the_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look_up(_host: str, _port: int) -> Any:
        raise socket.gaierror

    monkeypatch.setattr(addresses, "_look_up", look_up)
    async with a_sender(AddressRules()) as sender:
        await sender.check("https://not-yet.invalid/")

    assert (await sent("https://not-yet.invalid/")).error == "the name of the host is not known"


@pytest.mark.parametrize("number", [0, 1, 2**63 - 1])
def test_ids_of_events_are_read_as_they_are_written(number: int) -> None:
    assert event_id_number(event_id_text(number)) == number


@pytest.mark.parametrize("text", ["", "7", "evt_", "evt_-1", "evt_07", "evt_1x", "evt_9223372036854775808", "evt_²"])
def test_what_is_no_id_of_an_event_is_none(text: str) -> None:
    assert event_id_number(text) is None


def test_integers_that_a_double_cannot_hold_become_text() -> None:
    big = SAFE_INTEGER_MAX + 1
    assert safe_json({"a": [SAFE_INTEGER_MAX, big, -big, True, 0.5, None]}) == {
        "a": [SAFE_INTEGER_MAX, str(big), str(-big), True, 0.5, None]
    }
