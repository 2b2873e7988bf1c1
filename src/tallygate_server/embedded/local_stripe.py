"""Runs the local Stripe beside a server: for trying billing out on one machine, without an account or a network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from tallygate_server.embedded.errors import EmbeddedError

API_KEY: Final = "sk_test_local"
WEBHOOK_SECRET: Final = "whsec_local"  # noqa: S105 - it guards nothing: whoever reaches this Stripe is on this machine.
START_TIMEOUT_SECONDS: Final = 60.0
STOP_TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStripe:
    """A running local Stripe."""

    url: str

    @property
    def clock_url(self) -> str:
        """Address of its clock."""
        return f"{self.url}/_local/clock"

    async def deliver_to(self, webhook_url: str) -> None:
        """Have all webhooks delivered to the address, and nowhere else; raise EmbeddedError if it does not listen."""
        authorization = {"authorization": f"Bearer {API_KEY}"}
        try:
            async with httpx.AsyncClient(base_url=self.url, headers=authorization) as client:
                # What an earlier run left behind, perhaps with another port.
                endpoints = (await client.get("/v1/webhook_endpoints", params={"limit": 100})).raise_for_status().json()
                for endpoint in endpoints["data"]:
                    (await client.delete(f"/v1/webhook_endpoints/{endpoint['id']}")).raise_for_status()
                wanted = {"url": webhook_url, "secret": WEBHOOK_SECRET}
                (await client.post("/_local/webhook_endpoints", json=wanted)).raise_for_status()
        except httpx.HTTPError as error:
            raise EmbeddedError(f"The local Stripe does not answer ({error!r}).", "Start again.") from error


@contextlib.asynccontextmanager
async def running_local_stripe(*, port: int, data_file: Path) -> AsyncIterator[LocalStripe]:
    """Start a local Stripe (port 0: any free one) and stop it at the end; its state is kept in the file.

    It ends with us whatever happens to us: it lives until its standard input closes. Raises EmbeddedError.
    """
    data_file.parent.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tallygate_local_stripe", "--until-stdin-closes"),
        *("--port", str(port), "--data-file", str(data_file)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # Away from our terminal: a Ctrl-C reaches us alone, and our workers may still need it while we drain.
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        yield LocalStripe(url=await _announced_url(process, port))
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _announced_url(process: asyncio.subprocess.Process, port: int) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise EmbeddedError("The local Stripe did not start in time.", "Start again.") from error
    if not line:
        raise EmbeddedError(
            f"The local Stripe did not start; its port may be taken ({port}).",
            "Choose another one with --local-stripe-port.",
        )
    url: str = json.loads(line)["url"]
    return url
