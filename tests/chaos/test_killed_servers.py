"""Servers are killed at random moments under load: what was answered is counted once, and no hold is left behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tallygate_server.domain.call import IncrementAnswer
from tests.support.acme import an_increment, assert_redis_agrees, fetch, outcome_of, services
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.long_run import LONG

pytestmark = pytest.mark.chaos

KILLS = 200 if LONG else 10
ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Journal:
    """What the callers of the killed servers know."""

    called: dict[str, tuple[bool, str, int, str]] = field(default_factory=dict)
    """Label -> with a request id, feature, quantity, account."""
    answered: dict[str, tuple[bool, int, int]] = field(default_factory=dict)
    """Label -> allowed, used quantity, entry id."""
    failed: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, paths: list[Path]) -> Journal:
        """Read the journals of several processes."""
        journal = cls()
        for path in paths:
            for line in path.read_text().splitlines():
                match line.split(" "):
                    case ["called", label, with_id, feature_key, quantity, account_id]:
                        journal.called[label] = (with_id == "1", feature_key, int(quantity), account_id)
                    case ["answered", label, is_allowed, used_quantity, entry_id]:
                        journal.answered[label] = (is_allowed == "1", int(used_quantity), int(entry_id))
                    case ["failed", label, _]:
                        journal.failed.add(label)
        return journal

    @property
    def in_doubt(self) -> set[str]:
        """Calls whose caller never heard."""
        return self.called.keys() - self.answered.keys()


class Workers:
    """Processes that serve callers."""

    def __init__(self, database_url: str, redis_url: str, directory: Path) -> None:
        self._addresses = (database_url, redis_url)
        self._directory = directory
        self._running: dict[int, tuple[subprocess.Popen[bytes], Path]] = {}
        self.journals: list[Path] = []

    def start(self) -> int:
        """Start one and return its number."""
        number = len(self.journals)
        path = self._directory / f"journal-{number}"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crash_worker", *self._addresses, str(path), f"w{number}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.DEVNULL,
        )
        self.journals.append(path)
        self._running[number] = (process, path)
        return number

    async def wait_for_answers(self, number: int, count: int) -> None:
        """Wait until the callers of one have heard so many answers."""
        process, path = self._running[number]

        def heard() -> bool:
            assert process.poll() is None, "a worker died by itself"
            return path.exists() and path.read_bytes().count(b"answered ") >= count

        await eventually(heard)

    def kill(self, number: int) -> None:
        """Kill one, as power loss would."""
        process, _ = self._running.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def kill_all(self) -> None:
        """Kill all that are left."""
        for number in list(self._running):
            self.kill(number)


@pytest.fixture
def workers(acme_database: str, fresh_redis: str, tmp_path: Path) -> Iterator[Workers]:
    running = Workers(acme_database, fresh_redis, tmp_path)
    yield running
    running.kill_all()


async def kill_at_random(workers: Workers, kills: int, seed: int) -> None:
    """Keep two servers under load; kill one of them after the other, each after some number of answers."""
    chance = random.Random(seed)
    first, second = workers.start(), workers.start()
    for n in range(kills):
        await workers.wait_for_answers(first, chance.randrange(1, 400))
        # Somewhere within the next few commits.
        await asyncio.sleep(chance.random() * 0.01)
        workers.kill(first)
        first, second = second, workers.start() if n < kills - 2 else second
    workers.kill_all()


@pytest.mark.timeout(600 if KILLS == 10 else 3_000)
async def test_what_was_answered_is_counted_once_and_no_hold_stays(
    workers: Workers, acme_database: str, fresh_redis: str
) -> None:
    await kill_at_random(workers, KILLS, seed=20_261_120)
    journal = Journal.read(workers.journals)
    rows = await fetch(acme_database, "SELECT *, dimensions->>'label' AS label FROM usage_entries")
    entries: dict[str, list[Any]] = {}
    for row in rows:
        entries.setdefault(row["label"], []).append(row)

    assert len(journal.answered) > 100 * KILLS // 10
    assert journal.in_doubt, "no kill met a call in flight"
    assert entries.keys() <= journal.called.keys()
    assert not [label for label, found in entries.items() if len(found) > 1]
    for label, (is_allowed, used_quantity, entry_id) in journal.answered.items():
        found = entries.get(label, [])
        assert len(found) == int(is_allowed), f"{label} was answered {is_allowed}, the ledger has {found}"
        if found:
            assert (found[0]["used_after"], found[0]["entry_id"]) == (used_quantity, entry_id)

    # Every hold of a dead server has run out by now.
    clock = FrozenClock(datetime.now(UTC) + timedelta(seconds=30))
    async with services(acme_database, fresh_redis, clock=clock) as [service]:
        await eventually(lambda: swept_clean(service))
        called = [journal.called[label] for label in journal.in_doubt]
        in_doubt = {(account_id, feature_key) for _, feature_key, _, account_id in called}
        await assert_redis_agrees(service, acme_database, in_doubt=in_doubt)
        for label in journal.in_doubt:
            with_id, feature_key, quantity, account_id = journal.called[label]
            if with_id:
                increment = an_increment(
                    feature_key, quantity, account_id=account_id, request_id=label, dimensions={"label": label}
                )
                again = await outcome_of(service, increment)
                assert isinstance(again, IncrementAnswer)
                if label in entries:
                    assert again.replayed
                    assert again.used_quantity == entries[label][0]["used_after"]


async def swept_clean(service: Any) -> bool:
    """Sweep until nothing is left to sweep."""
    await service.sweeper.sweep()
    registries: list[bytes] = await service.redis.execute("KEYS", "tg:holds:*")
    return not registries
