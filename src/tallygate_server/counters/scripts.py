"""Lua scripts: loaded from files, called by their hash."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from tallygate_server.counters.connection import OnReply, RedisCommandError, RedisConnection, Reply
from tallygate_server.telemetry import metrics


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file, which is one verb."""

    name: str
    source: str
    sha: str


def _load(name: str) -> Script:
    source = files("tallygate_server.counters.lua").joinpath(f"{name}.lua").read_text("utf-8")
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


HOLD = _load("hold")
SETTLE = _load("settle")
READ = _load("read")
READ_SOURCES = _load("read_sources")
STORE_SOURCES = _load("store_sources")
MARK_CHANGING = _load("mark_changing")
PUBLISH_REVISION = _load("publish_revision")
FORGET = _load("forget")
FORGET_SERVER = _load("forget_server")
ALL = (HOLD, SETTLE, READ, READ_SOURCES, STORE_SOURCES, MARK_CHANGING, PUBLISH_REVISION, FORGET, FORGET_SERVER)

Argument = str | bytes | int


def call_soon(
    connection: RedisConnection,
    script: Script,
    keys: Sequence[str],
    arguments: Sequence[Argument],
    on_reply: OnReply,
) -> None:
    """Run a script with this tick's commands; a server that has lost the script is given it again."""
    sent = time.perf_counter()

    def on_first_reply(reply: Reply | Exception) -> None:
        metrics.redis(script.name, time.perf_counter() - sent)
        if isinstance(reply, RedisCommandError) and str(reply).startswith("NOSCRIPT"):
            connection.send(("EVAL", script.source, len(keys), *keys, *arguments), on_reply)
        else:
            on_reply(reply)

    connection.send(("EVALSHA", script.sha, len(keys), *keys, *arguments), on_first_reply)


async def call(
    connection: RedisConnection, script: Script, keys: Sequence[str], arguments: Sequence[Argument]
) -> Reply:
    """Run a script and return its reply.

    Raises RedisUnavailable or RedisCommandError.
    """
    try:
        return await connection.execute("EVALSHA", script.sha, len(keys), *keys, *arguments)
    except RedisCommandError as error:
        if not str(error).startswith("NOSCRIPT"):
            raise
        return await connection.execute("EVAL", script.source, len(keys), *keys, *arguments)
