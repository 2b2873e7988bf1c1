"""Where webhooks may be sent to: whoever registers an endpoint must not reach into the network that we run in.

A name is looked up for every attempt, and the connection goes to the very address that was looked at: a name that
changes its mind in between leads nowhere else.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

URL_LENGTH_MAX: Final = 1_009
LOOKUP_SECONDS_MAX: Final = 5.0
_PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = IPv6Network("64:ff9b::/96")

IpAddress = IPv4Address | IPv6Address


class AddressNotAllowed(Exception):
    """Nothing is sent there; the message says why and is safe to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """What an endpoint's URL says, taken apart."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query."""

    @property
    def authority(self) -> str:
        """Host, and the port where it is not the usual one: as the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def url_at(self, address: IpAddress) -> str:
        """Return the URL with the address in place of the name."""
        host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
        return f"{self.scheme}://{host}:{self.port}{self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRules:
    """What the settings allow."""

    private_networks: bool = False
    plain_http: bool = False

    def destination_of(self, url: str) -> Destination:
        """Take the URL apart; raise AddressNotAllowed for one that nothing is sent to, whatever it resolves to."""
        if len(url) > URL_LENGTH_MAX:
            raise AddressNotAllowed(f"has more than {URL_LENGTH_MAX} characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise AddressNotAllowed("is no URL") from None
        if parts.scheme not in _PORTS or not parts.hostname:
            raise AddressNotAllowed("must begin with https:// and name a host")
        if parts.scheme != "https" and not self.plain_http:
            raise AddressNotAllowed("must begin with https://")
        if parts.username is not None or parts.password is not None:
            raise AddressNotAllowed("must have no user name and no password")
        if parts.fragment:
            raise AddressNotAllowed("must have no fragment")
        if port == 0:
            raise AddressNotAllowed("must name a port from 1 to 65535")
        try:
            host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode()
        except UnicodeError:
            raise AddressNotAllowed("names a host that cannot be") from None
        literal = _literal(host)
        if literal is not None:
            self.check(literal)
        return Destination(
            scheme=parts.scheme,
            host=host,
            port=port or _PORTS[parts.scheme],
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        )

    def check(self, address: IpAddress) -> None:
        """Return if webhooks may go to the address; else raise AddressNotAllowed."""
        if not self.private_networks and not is_public(address):
            raise AddressNotAllowed("leads into a private network")


class Resolver:
    """Looks names up, in threads of its own: a name server that is slow holds up nobody else."""

    def __init__(self, rules: AddressRules, *, threads: int) -> None:
        """Give only addresses that the rules allow."""
        self._rules = rules
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="webhook-lookup")

    def close(self) -> None:
        """Look up no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def address_of(self, destination: Destination) -> IpAddress:
        """Return an allowed address of the host; raises AddressNotAllowed, and OSError for a name that is not known."""
        literal = _literal(destination.host)
        if literal is not None:
            self._rules.check(literal)
            return literal
        addresses = await self.addresses_of(destination)
        for address in addresses:
            if self._rules.private_networks or is_public(address):
                return address
        raise AddressNotAllowed("leads into a private network")

    async def addresses_of(self, destination: Destination) -> list[IpAddress]:
        """Return every address of the host, those of version 4 first; raises OSError, also for none in time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOOKUP_SECONDS_MAX):
                found = await loop.run_in_executor(self._threads, _look_up, destination.host, destination.port)
        except UnicodeError as error:
            raise OSError("no such name") from error
        addresses = [ip_address(sockaddr[0].partition("%")[0]) for *_, sockaddr in found]
        return sorted(dict.fromkeys(addresses), key=lambda address: address.version)


def is_public(address: IpAddress) -> bool:
    """Tell whether the address belongs to the public Internet, also inside whatever wraps it."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _look_up(host: str, port: int) -> list[tuple[object, object, object, object, tuple[str, ...]]]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]  # Of these families.


def _literal(host: str) -> IpAddress | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None
