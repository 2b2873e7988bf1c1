"""A process that moves, archives, restores and erases until it is killed.

    python -m tests.support.lifecycle_worker DATABASE_URL REDIS_URL DIRECTORY SEED ACCOUNT...

It says `ready` when it begins. The accounts that are named are erased sooner or later, with a request id each.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tallygate_server.clock import SystemClock
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import DataSelection, StorageTier
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.jobs import LifecycleJobRunner
from tallygate_server.privacy.erasure import WantedErasure
from tallygate_server.telemetry import configure_logging
from tests.support.acme import ACME, services
from tests.support.lifecycle import NOON, lifecycles

LEASE: Final = timedelta(seconds=1)
"""Short, as the next process begins a second or two after this one was killed."""
SPAN_SECONDS: Final = 3_000


def a_runner(lifecycle: Lifecycle) -> LifecycleJobRunner:
    """Return a runner that takes over soon after another was killed."""
    return LifecycleJobRunner(lifecycle.jobs, lease=LEASE, heartbeat_seconds=0.2)


async def work(lifecycle: Lifecycle, seed: int, erasable: Sequence[str]) -> None:
    """Do one thing after the other, by chance."""
    chance = random.Random(seed)
    runner = a_runner(lifecycle)
    everything = DataSelection()
    waiting = list(erasable)
    while True:
        begin = chance.randrange(SPAN_SECONDS)
        part = DataSelection(
            start_time=NOON + timedelta(seconds=begin),
            end_time=NOON + timedelta(seconds=begin + chance.randrange(1, SPAN_SECONDS)),
        )
        asked: dict[str, Any] = {"validate_only": False, "actor": "test", "request_id": "", "wait": None}
        step = chance.randrange(6)
        if step == 0:
            await lifecycle.mover.run()
        elif step == 1:
            await lifecycle.tiers.archive(ACME, part, retention_days=0, **asked)
        elif step == 2:
            await lifecycle.tiers.archive(ACME, everything, retention_days=0, **asked)
        elif step == 3:
            tier = chance.choice([StorageTier.HOT, StorageTier.WARM])
            await lifecycle.tiers.restore(ACME, part, target_tier=tier, stay=timedelta(hours=1), **asked)
        elif step == 4:
            await lifecycle.segments.sweep_objects(ACME)
        elif waiting:
            await erase(lifecycle, waiting.pop(0))
        await runner.run_due()


def erasure_id(account_id: str) -> str:
    """Return the request id of an account's erasure: one that names the account would be erased with it."""
    return f"request-{account_id.rpartition('-')[2]}"


async def erase(lifecycle: Lifecycle, account_id: str) -> None:
    """Ask for the erasure of an account, once whoever asks."""
    wanted = WantedErasure(
        tenant_id=ACME,
        account_id=AccountId(account_id),
        reason_text="asked for it",
        force=True,
        request_id=erasure_id(account_id),
        actor="test",
    )
    await lifecycle.privacy.erasures.submit(wanted)


async def main(database_url: str, redis_url: str, directory: str, seed: str, *erasable: str) -> None:
    """Open everything and work."""
    configure_logging(level="error", log_format="console")
    async with (
        services(database_url, redis_url) as [service],
        lifecycles(database_url, service, Path(directory), clock=SystemClock()) as lifecycle,
    ):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await work(lifecycle, int(seed), erasable)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
