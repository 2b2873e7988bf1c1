"""Look at the ports we want to listen on before anything is started, and name who holds them."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Final

import psutil

from tallygate_server.setup_error import SetupError

LISTEN_BACKLOG: Final = 128


class PortError(SetupError):
    """We cannot listen on an address."""


def check_port_free(host: str, port: int, *, setting: str) -> None:
    """Raise PortError unless we could listen on the address now; `setting` is the variable that chooses it."""
    bind(host, port, setting=setting).close()


def bind(host: str, port: int, *, setting: str) -> socket.socket:
    """Return a socket bound to the address (port 0: a free one), not yet listening; raise PortError."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    choose = f"set {setting} to a free port (0 picks one)"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise PortError(
            f"{host} is not an address: {error.strerror}.", f"Set {setting.replace('PORT', 'HOST')}, to 127.0.0.1 say."
        ) from error
    bound = socket.socket(family, kind, protocol)
    # Connections of an earlier run may linger; a server that still listens is refused all the same.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(place)
        # Only listening tells for sure: two sockets may be bound to one address as long as none listens.
        bound.listen(LISTEN_BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            holder = _holder(port)
            raise PortError(
                f"{address} is taken by {holder or 'another program'}.", f"Stop that one, or {choose}."
            ) from error
        if error.errno == errno.EACCES:
            raise PortError(
                f"This user may not listen on {address}.", f"Ports below 1024 need a privilege: {choose}."
            ) from error
        raise PortError(
            f"This machine cannot listen on {address}: {error.strerror}.",
            f"Set {setting.replace('PORT', 'HOST')} to one of its own addresses.",
        ) from error
    return bound


def _holder(port: int) -> str | None:
    """Describe the process that listens on a port, if we are allowed to see it."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid is not None:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return None
