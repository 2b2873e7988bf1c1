"""`python -m tallygate_local_stripe`: serve until SIGTERM or SIGINT, after one line of JSON that says where."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from tallygate_local_stripe.app import LocalStripe, Settings
from tallygate_local_stripe.control import moment

GRACE_SECONDS = 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tallygate_local_stripe", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--data-file", type=Path, help="keep the state in this file across starts")
    parser.add_argument("--webhook-url", help="deliver all events there")
    parser.add_argument("--webhook-secret", help="sign them with this secret")
    parser.add_argument("--now", help="let the clock stand still at this ISO time until it is moved")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input closes, too")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    stripe = LocalStripe(
        Settings(
            frozen_at=moment(arguments.now) if arguments.now else None,
            data_file=arguments.data_file,
            webhook_url=arguments.webhook_url,
            webhook_secret=arguments.webhook_secret,
        )
    )
    family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    try:
        listener = socket.create_server((arguments.host, arguments.port), family=family)
    except OSError as error:
        sys.exit(f"Cannot listen at {arguments.host}:{arguments.port}: {error.strerror}")
    # Inherited by every connection; without it an answer's head and body are 40 ms apart.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    stripe.world.url = f"http://{shown}:{port}"
    config = uvicorn.Config(
        stripe.app, log_level="critical", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS, lifespan="on"
    )
    server = _Server(config, announcement={"url": stripe.world.url, "pid": os.getpid()})
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    if arguments.until_stdin_closes:
        # Whoever started us has ended, of whatever.
        threading.Thread(target=_wait_for_end_of_input, args=(loop, server.stop), daemon=True).start()
    await server.serve(sockets=[listener])


def _wait_for_end_of_input(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    sys.stdin.buffer.read()
    # The loop may have closed meanwhile: then there is nothing left to stop.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(stop)


class _Server(uvicorn.Server):
    """A server that ends with exit code 0 when it is told to: uvicorn's own would raise the signal again."""

    def __init__(self, config: uvicorn.Config, announcement: dict[str, str | int]) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so: whoever reads the line can connect at once."""
        await super().startup(sockets)
        sys.stdout.write(json.dumps(self._announcement) + "\n")
        sys.stdout.flush()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    def stop(self) -> None:
        """End after the requests in hand."""
        self.should_exit = True


def main() -> None:
    """Serve until told to stop."""
    asyncio.run(_serve(_arguments()))


if __name__ == "__main__":
    main()
