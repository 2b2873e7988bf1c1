"""An HTTP server on a free port of the loopback that answers as the test says, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request."""

    method: str
    path: str
    form: dict[str, str]
    """Parameters of the query and of the body."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes = b""
    """As it came in."""

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return self.headers.get("idempotency-key", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server says."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    """Instead of the body as JSON."""


SILENCE: Final = Reply(status=-1)
"""Never answers."""

HANG_UP: Final = Reply(status=-2)
"""Closes the connection instead of answering."""

Script = Reply | Callable[[Asked], Reply]


class ScriptedHttp:
    """Routes by method and path; what is not scripted is answered with 404."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.port = 0
        self._scripts: dict[tuple[str, str], list[Script]] = {}
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def on(self, route: str, *scripts: Script | Mapping[str, Any]) -> None:
        """Answer `METHOD /path` with the scripts in turn; the last one stays."""
        method, path = route.split(" ")
        self._scripts[method, path] = [
            script if isinstance(script, Reply) or callable(script) else Reply(body=script) for script in scripts
        ]

    def to(self, route: str) -> list[Asked]:
        """Return what was asked of a route."""
        method, path = route.split(" ")
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while asked := await _read(reader):
                self.asked.append(asked)
                reply = self._reply(asked)
                if reply is SILENCE:
                    await asyncio.Event().wait()
                if reply is HANG_UP:
                    return
                writer.write(_encoded(reply))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # The client went away, or the test is over.
            return
        finally:
            self._connections.discard(task)
            writer.close()

    async def stop(self) -> None:
        """End what still hangs."""
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _reply(self, asked: Asked) -> Reply:
        scripts = self._scripts.get((asked.method, asked.path))
        if not scripts:
            return Reply(status=404, body=stripe_error("invalid_request_error", code="resource_missing"))
        script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        return script if isinstance(script, Reply) else script(asked)


def stripe_error(kind: str, *, code: str = "", param: str = "", **more: str) -> dict[str, Any]:
    """Return the body of an error as Stripe words it."""
    said = {"type": kind, "code": code, "param": param, "message": "text that stays inside", **more}
    return {"error": {name: value for name, value in said.items() if value}}


@contextlib.asynccontextmanager
async def scripted_http() -> AsyncIterator[ScriptedHttp]:
    """Serve for the length of the block."""
    scripted = ScriptedHttp()
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.port = server.sockets[0].getsockname()[1]
    try:
        yield scripted
    finally:
        server.close()
        await scripted.stop()
        await server.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    request_line, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = request_line.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    form = dict(parse_qsl(f"{parts.query}&{body.decode()}", keep_blank_values=True))
    return Asked(method=method, path=parts.path, form=form, headers=headers, body=body)


def _encoded(reply: Reply) -> bytes:
    body = reply.raw if reply.raw is not None else json.dumps(reply.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **reply.headers}
    lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
