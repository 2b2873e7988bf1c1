"""A server's worth of use cases under load, in a process of its own that a test may kill at any moment.

Run as `python -m tests.support.crash_worker DATABASE_URL REDIS_URL JOURNAL NAME`. The journal gets a line before each
call and a line after each answer; what the process wrote outlives it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
from pathlib import Path

import uvloop

from tallygate_server.clock import SystemClock
from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.identifier import AccountId
from tallygate_server.service import HotPathLimits, Service, open_service
from tests.support.acme import an_increment

CALLERS = 24
FEATURES = ("endless", "words", "devices", "soft", "ten")


async def call_forever(service: Service, journal: int, name: str, caller: int) -> None:
    """Count, one call after the other, with and without request ids."""
    chance = random.Random(f"{name}/{caller}")
    for n in itertools.count():
        label = f"{name}-{caller}-{n}"
        feature_key = chance.choice(FEATURES)
        quantity = chance.choice([1, 2, -1]) if feature_key == "devices" else chance.choice([1, 2, 3])
        account_id = AccountId(f"a{chance.randrange(4)}")
        with_id = chance.random() < 0.6
        increment = an_increment(
            feature_key,
            quantity,
            account_id=account_id,
            request_id=label if with_id else "",
            dimensions={"label": label},
        )
        write(journal, f"called {label} {int(with_id)} {feature_key} {quantity} {account_id}")
        outcome = (await service.meter.increment_many([increment], atomic=n % 17 == 0))[0]
        if isinstance(outcome, IncrementAnswer):
            write(journal, f"answered {label} {int(outcome.reason.allows)} {outcome.used_quantity} {outcome.entry_id}")
        else:
            write(journal, f"failed {label} {type(outcome).__name__}")


def write(journal: int, line: str) -> None:
    """Write a line at once, whole or not at all."""
    os.write(journal, f"{line}\n".encode())


async def main(database_url: str, redis_url: str, path: str, name: str) -> None:
    """Serve callers until killed."""
    journal = os.open(Path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with open_service(
        database_url=database_url, redis_url=redis_url, clock=SystemClock(), limits=HotPathLimits(hold_ttl_ms=1_000)
    ) as service:
        write(journal, f"started {name}")
        await asyncio.gather(*(call_forever(service, journal, name, caller) for caller in range(CALLERS)))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
