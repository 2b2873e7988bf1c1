"""The doctor finds what is wrong with a set-up and names the way out."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from tallygate_server import config, doctor
from tallygate_server.doctor import Finding, examine
from tallygate_server.embedded import EmbeddedServers, data_directory, programs
from tallygate_server.ops_http import OpsServer
from tests.support.clock import FrozenClock


@pytest.fixture
def data_dir(reachable_dir: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give a new set-up whose ports are free and whose data directory does not exist yet."""
    for name in list(os.environ):
        if name.startswith(config.PREFIX):
            monkeypatch.delenv(name)
    directory = reachable_dir / request.node.name.replace("[", "-").rstrip("]")
    monkeypatch.setenv("TALLYGATE_DATA_DIR", str(directory))
    monkeypatch.setenv("TALLYGATE_GRPC_PORT", "0")
    monkeypatch.setenv("TALLYGATE_OPS_PORT", "0")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def connected(data_dir: Path, fresh_database: str, fresh_redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the set-up at a migrated database and an empty Redis that run already."""
    monkeypatch.setenv("TALLYGATE_DATABASE_URL", fresh_database)
    monkeypatch.setenv("TALLYGATE_REDIS_URL", fresh_redis)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def wrong(findings: list[Finding]) -> dict[str, Finding]:
    """Return the findings that are not well, each of which must name a way out."""
    found = {finding.name: finding for finding in findings if not finding.ok}
    assert all(finding.way_out for finding in found.values())
    return found


async def test_a_new_set_up_is_well_and_stays_untouched(data_dir: Path) -> None:
    findings = await examine()

    assert wrong(findings) == {}
    assert not data_dir.exists()
    assert set(by_name(findings)) >= {
        "python", "generated code", "settings", "transport", "grpc port", "ops port", "embedded programs",
        "data directory", "database", "clock", "migrations", "redis",
    }  # fmt: skip


async def test_a_connected_set_up_is_well(connected: None) -> None:
    findings = await examine()

    assert wrong(findings) == {}
    assert {"roles", "migrations"} <= set(by_name(findings))
    assert "data directory" not in by_name(findings)


async def test_an_embedded_database_that_exists_is_started_for_the_look_and_stopped(data_dir: Path) -> None:
    async with EmbeddedServers.start(data_dir=data_dir):
        pass

    findings = await examine()

    assert wrong(findings) == {}
    assert "the next start" in by_name(findings)["migrations"].sentence
    assert data_directory.lock_holder(data_dir) is None


async def test_a_running_set_up_is_asked_where_it_is(data_dir: Path) -> None:
    async with EmbeddedServers.start(data_dir=data_dir) as servers:
        findings = await examine()

        assert wrong(findings) == {}
        assert f"process {os.getpid()}" in by_name(findings)["data directory"].sentence
        assert data_directory.addresses(data_dir) == (servers.database_url, servers.redis_url)


async def test_wrong_settings_are_all_listed_and_end_the_examination(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYGATE_GRPC_PORT", "x")
    monkeypatch.setenv("TALLYGATE_LOG_LEVEL", "loud")

    findings = await examine()

    sentences = [finding.sentence for finding in findings if not finding.ok]
    assert len(sentences) == 2
    assert sentences[0].startswith("TALLYGATE_GRPC_PORT")
    assert sentences[1].startswith("TALLYGATE_LOG_LEVEL")


async def test_a_taken_port_is_found(connected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("TALLYGATE_GRPC_PORT", str(other.getsockname()[1]))

        findings = await examine()

    assert set(wrong(findings)) == {"grpc port"}


async def test_a_port_taken_by_a_tallygate_that_serves_is_well(
    connected: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with OpsServer.start(host="127.0.0.1", port=0, read_components=list) as server:
        monkeypatch.setenv("TALLYGATE_OPS_PORT", str(server.port))

        findings = await examine()

    assert wrong(findings) == {}
    assert "serves here already" in by_name(findings)["ops port"].sentence


async def test_missing_programs_are_found(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "POSTGRES_MAJOR", 99)

    assert set(wrong(await examine())) == {"embedded programs"}


async def test_a_full_disk_is_found(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_BYTES_MIN", 1 << 60)

    assert set(wrong(await examine())) == {"data directory"}


async def test_a_file_in_place_of_the_data_directory_is_found(data_dir: Path) -> None:
    data_dir.write_text("a file")
    try:
        assert set(wrong(await examine())) == {"data directory"}
    finally:
        data_dir.unlink()


async def test_a_damaged_embedded_database_is_found(data_dir: Path) -> None:
    async with EmbeddedServers.start(data_dir=data_dir, with_redis=False):
        pass
    (data_dir / "postgres" / "PG_VERSION").write_text("17\n")

    assert set(wrong(await examine())) == {"embedded servers"}


async def test_a_database_that_does_not_answer_is_found(connected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYGATE_DATABASE_URL", "postgresql://nobody:hunter2@/db?host=/nonexistent")

    found = wrong(await examine())

    assert set(found) == {"database"}
    assert "hunter2" not in found["database"].sentence


async def test_a_database_without_our_schema_is_found(
    connected: None, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYGATE_DATABASE_URL", empty_database)

    found = wrong(await examine())

    assert set(found) == {"migrations"}
    assert "tallygate migrate" in found["migrations"].way_out


async def test_a_database_that_may_lose_confirmed_increments_is_found(connected: None, fresh_database: str) -> None:
    connection = await asyncpg.connect(fresh_database)
    try:
        name = urlsplit(fresh_database).path.removeprefix("/")
        await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    finally:
        await connection.close()

    assert "synchronous_commit" in wrong(await examine())["database"].sentence


async def test_clocks_that_differ_are_found(connected: None) -> None:
    found = wrong(await examine(FrozenClock(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))))

    assert set(found) == {"clock"}


async def test_a_redis_that_does_not_answer_is_found(connected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYGATE_REDIS_URL", "unix:///nonexistent/redis.sock")

    assert set(wrong(await examine())) == {"redis"}


async def test_a_certificate_that_cannot_be_read_is_found(connected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYGATE_TRANSPORT", "grpcio")
    monkeypatch.setenv("TALLYGATE_TLS_CERT_FILE", "/nonexistent/cert.pem")
    monkeypatch.setenv("TALLYGATE_TLS_KEY_FILE", "/nonexistent/key.pem")

    assert set(wrong(await examine())) == {"tls"}
