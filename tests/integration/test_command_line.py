"""The command line as a person uses it, against a server in this process."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.config import Settings
from tests.support.tallygate_process import ROOT, running, serving_process, tallygate

LEKHAK = ROOT / "examples" / "catalogs" / "lekhak.yaml"

Say = Callable[..., Awaitable[Result]]


@pytest.fixture
async def server(fresh_database: str, fresh_redis: str) -> AsyncIterator[str]:
    """Serve with the example catalogs; the address."""
    settings = Settings.model_validate(
        {
            "database_url": fresh_database,
            "redis_url": fresh_redis,
            "grpc_port": 0,
            "ops_port": 0,
            "run_workers": False,
            "drain_delay_ms": 0,
        }
    )
    async with App.open(settings, catalogs_dir=LEKHAK.parent) as app:
        yield f"127.0.0.1:{app.grpc_port}"


@pytest.fixture
def say(server: str) -> Say:
    """Run a command against the server, in a thread: commands have a loop of their own."""

    async def say(*arguments: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, command_line, list(arguments), env={"TALLYGATE_TARGET": server}
        )

    return say


async def test_ten_uses_are_allowed_and_the_eleventh_is_denied_with_a_way_to_buy_more(say: Say) -> None:
    for used in range(1, 11):
        allowed = await say("increment", "lekhak", "new-user", "text_rewrite")
        assert allowed.exit_code == 0
        assert f"{used} of 10 used, {10 - used} left" in allowed.stdout
        assert ("threshold crossed" in allowed.stdout) == (used in {8, 10})

    denied = await say("increment", "lekhak", "new-user", "text_rewrite")

    assert denied.exit_code == 1
    assert denied.stdout.startswith("denied (exhausted)")
    assert "https://lekhak.ai/upgrade?user_id=new-user" in denied.stdout
    assert "00:00:00 UTC" in denied.stdout


async def test_a_check_counts_nothing_and_says_where_the_account_stands(say: Say) -> None:
    first = await say("check", "lekhak", "somebody", "text_rewrite")
    second = await say("check", "lekhak", "somebody", "text_rewrite", "--quantity", "11")

    assert (first.exit_code, second.exit_code) == (0, 1)
    assert "0 of 10 used, 10 left" in first.stdout
    assert "denied (exhausted)" in second.stdout


async def test_answers_come_as_json_under_the_names_of_the_contract(say: Say) -> None:
    counted = await say(
        "increment", "lekhak", "a", "text_rewrite", "-q", "2", "--request-id", "r1", "-d", "model=x", "--json"
    )
    checked = await say("check", "lekhak", "a", "text_rewrite", "--json")
    entries = await say("usage", "lekhak", "a", "--entries", "--json")
    quota = await say("usage", "lekhak", "a", "text_rewrite", "--json")

    assert json.loads(counted.stdout)["decision"] == "DECISION_ALLOWED"
    assert json.loads(checked.stdout)["used_quantity"] == "2"
    (entry,) = json.loads(entries.stdout)["entries"]
    assert (entry["request_id"], entry["quantity"], entry["dimensions"]) == ("r1", "2", {"model": "x"})
    assert entry["entry_id"] == json.loads(counted.stdout)["entry_id"]
    assert json.loads(quota.stdout)["quota"]["used_quantity"] == "2"


async def test_a_repeated_request_is_told_apart(say: Say) -> None:
    await say("increment", "lekhak", "a", "text_rewrite", "--request-id", "r1")

    again = await say("increment", "lekhak", "a", "text_rewrite", "--request-id", "r1")

    assert again.exit_code == 0
    assert "nothing more was counted" in again.stdout
    assert "1 of 10 used" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "lekhak", "a b", "text_rewrite"), "account_id: "),
        (("check", "nobody", "a", "text_rewrite"), "tenant_id: there is no tenant 'nobody' (TENANT_NOT_FOUND)"),
        (("increment", "lekhak", "a", "text_rewrite", "-q", "0"), "quantity: "),
        (("increment", "lekhak", "a", "grammar_check"), "(FEATURE_NOT_METERED)"),
        (("increment", "lekhak", "a", "text_rewrite", "-d", "model"), "--dimension model: write it as NAME=VALUE"),
        (("account", "show", "lekhak", "nobody"), "(ACCOUNT_NOT_FOUND)"),
        (("catalog", "show", "nobody"), "(TENANT_NOT_FOUND)"),
        (("catalog", "apply", "nowhere.yaml"), "nowhere.yaml: No such file or directory"),
        (("replay", "nowhere.csv"), "nowhere.csv: cannot be read: No such file"),
    ],
)
async def test_what_is_wrong_is_one_sentence(say: Say, arguments: tuple[str, ...], words: str) -> None:
    told = await say(*arguments)

    assert told.exit_code == 2
    assert told.stderr.startswith("tallygate: ")
    assert told.stderr.count("\n") == 1
    assert words in told.stderr
    assert told.stdout == ""


async def test_errors_come_as_json_where_answers_do(say: Say) -> None:
    told = await say("check", "lekhak", "a b", "text_rewrite", "--json")

    error = json.loads(told.stderr)["error"]
    assert (told.exit_code, error["code"], error["reason"]) == (2, "INVALID_ARGUMENT", "VALIDATION_FAILED")
    assert list(error["fields"]) == ["account_id"]


async def test_a_catalog_is_applied_compared_and_shown(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "lekhak.yaml"
    file.write_text(LEKHAK.read_text().replace("{limit: 10, period: day", "{limit: 5, period: day"))
    await say("check", "lekhak", "a", "text_rewrite")

    unchanged = await say("catalog", "diff", str(LEKHAK))
    different = await say("catalog", "diff", str(file))
    tried = await say("catalog", "apply", str(file), "--validate-only")
    still = await say("catalog", "diff", str(LEKHAK))
    applied = await say("catalog", "apply", str(file))
    again = await say("catalog", "apply", str(file))
    shown = await say("catalog", "show", "lekhak")

    assert (unchanged.exit_code, different.exit_code, still.exit_code) == (0, 1, 0)
    assert "nothing differs" in unchanged.stdout
    assert "plans.free.allowances.text_rewrite" in different.stdout
    assert "Nothing was changed" in tried.stdout
    assert "is now at revision 2" in applied.stdout
    assert "nothing differs (revision 2)" in again.stdout
    (tmp_path / "shown.yaml").write_text(shown.stdout)
    assert (await say("catalog", "diff", str(tmp_path / "shown.yaml"))).exit_code == 0


async def test_every_mistake_of_a_catalog_is_named_with_its_line(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("tenant: Bad Id\nfeatures:\n  x: {kind: sum}\n")

    told = await say("catalog", "apply", str(file))

    assert told.exit_code == 2
    assert "line 1" in told.stderr
    assert "line 3" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("content", [b"\xff\xfe", b" \n", b"#" * (1_048_576 + 1)])
async def test_a_file_that_cannot_be_a_catalog_is_not_sent(say: Say, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "odd.yaml"
    file.write_bytes(content)

    told = await say("catalog", "apply", str(file))

    assert told.exit_code == 2
    assert told.stderr.startswith(f"tallygate: {file}: ")


async def test_an_account_is_shown_with_subscriptions_and_quota(say: Say) -> None:
    await say("increment", "lekhak", "a", "text_rewrite")

    shown = await say("account", "show", "lekhak", "a")
    as_json = await say("account", "show", "lekhak", "a", "--json")

    assert "lekhak/a" in shown.stdout
    assert "free" in shown.stdout
    assert "text_rewrite" in shown.stdout
    parts = json.loads(as_json.stdout)
    assert parts["account"]["state"] == "ACCOUNT_STATE_ACTIVE"
    assert parts["subscriptions"][0]["plan_key"] == "free"
    assert parts["quotas"][0]["used_quantity"] == "1"


async def test_without_a_server_the_way_to_one_is_told() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        # Bound, so that nobody else gets it, and not listened on.
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        told = await tallygate("check", "a", "b", "c", "--target", address)

    assert told.code == 2
    assert f"no Tallygate server answers at {address}" in told.errors
    assert told.errors.count("\n") == 1


async def test_help_and_version_need_no_server() -> None:
    helped, version, nothing = await asyncio.gather(tallygate("--help"), tallygate("--version"), tallygate("fly"))

    assert helped.code == 0
    for command in ("serve", "migrate", "worker", "catalog", "account", "check", "increment", "usage", "doctor",
                    "replay", "bench"):  # fmt: skip
        assert command in helped.output
    assert (version.code, version.output.split()[0]) == (0, "tallygate")
    assert nothing.code == 2


async def test_serve_uses_the_given_stores_and_stops_on_ctrl_c(fresh_database: str, fresh_redis: str) -> None:
    settings = {"TALLYGATE_DATABASE_URL": fresh_database, "TALLYGATE_REDIS_URL": fresh_redis}
    async with serving_process("--port", "0", settings=settings) as server:
        answered = await tallygate("check", "nobody", "a", "b", "--target", server.address)
        code = await server.interrupt()

    assert server.announced["embedded"] is False
    assert "TENANT_NOT_FOUND" in answered.errors
    assert code == 0


async def test_serve_tells_what_to_try(fresh_database: str, fresh_redis: str) -> None:
    settings = {"TALLYGATE_DATABASE_URL": fresh_database, "TALLYGATE_REDIS_URL": fresh_redis}
    lines = []
    async with running("serve", "--port", "0", "--ops-port", "0", settings=settings) as (process, output):
        async for line in output:
            lines.append(line.decode().rstrip("\n"))
            if lines[-1].startswith("Ctrl-C"):
                break
        process.send_signal(signal.SIGTERM)
        code = await process.wait()

    address = lines[0].split()[4]
    call = """-d '{"tenant_id": "lekhak", "account_id": "alice", "feature_key": "text_rewrite"}'"""
    assert code == 0
    assert [line for line in lines if "grpcurl -plaintext" in line] == [
        f"  grpcurl -plaintext {address} list",
        f"  grpcurl -plaintext {call} {address} tallygate.v1.EntitlementService/CheckAccess",
        f"  grpcurl -plaintext {call} {address} tallygate.v1.UsageService/Increment",
    ]


async def test_a_worker_runs_the_jobs_without_serving(fresh_database: str, fresh_redis: str) -> None:
    settings = {"TALLYGATE_DATABASE_URL": fresh_database, "TALLYGATE_REDIS_URL": fresh_redis}
    async with running("worker", "--json", settings=settings) as (process, output):
        announced = json.loads(await output.readline())
        process.send_signal(signal.SIGINT)
        code = await process.wait()

    assert (announced["event"], code) == ("working", 0)
    assert "sweep_holds" in announced["jobs"]


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_a_taken_port_is_one_sentence(transport: str, fresh_database: str, fresh_redis: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = await tallygate(
            *("serve", "--port", str(port), "--ops-port", "0", "--transport", transport),
            settings={"TALLYGATE_DATABASE_URL": fresh_database, "TALLYGATE_REDIS_URL": fresh_redis},
        )

    assert told.code == 2
    assert f"127.0.0.1:{port} is " in told.errors
    assert told.errors.count("\n") == 1


async def test_a_database_without_a_schema_is_one_sentence(empty_database: str, fresh_redis: str) -> None:
    settings = {"TALLYGATE_DATABASE_URL": empty_database, "TALLYGATE_REDIS_URL": fresh_redis}
    told = await tallygate("serve", "--port", "0", "--ops-port", "0", settings=settings)

    assert told.code == 2
    assert "tallygate migrate" in told.errors
    assert told.errors.count("\n") == 1


async def test_migrate_brings_a_database_up_to_date_once(empty_database: str) -> None:
    settings = {"TALLYGATE_DATABASE_URL": empty_database, "TALLYGATE_REDIS_URL": "redis://127.0.0.1:1"}

    first = await tallygate("migrate", "--json", settings=settings)
    second = await tallygate("migrate", settings=settings)

    assert json.loads(first.output)["changed"] is True
    assert second.output.startswith("the schema is up to date")


async def test_wrong_settings_are_named_all_at_once() -> None:
    told = await tallygate("serve", settings={"TALLYGATE_GRPC_PORT": "x", "TALLYGATE_TRANSPORTT": "native"})

    assert told.code == 2
    assert "TALLYGATE_GRPC_PORT" in told.errors
    assert "TALLYGATE_TRANSPORTT" in told.errors
    assert "Traceback" not in told.errors


async def test_an_embedded_server_serves_the_examples_and_guards_its_directory(reachable_dir: Path) -> None:
    data_dir = reachable_dir / "embedded-by-serve"
    settings = {"TALLYGATE_DATA_DIR": str(data_dir)}
    async with serving_process("--port", "0", settings=settings) as server:
        counted = await tallygate("increment", "lekhak", "a", "text_rewrite", "--target", server.address)
        second = await tallygate("serve", "--port", "0", "--ops-port", "0", settings=settings)
        await server.kill()
    # What a kill leaves behind is in nobody's way, and the data is there again.
    async with serving_process("--port", "0", settings=settings) as server:
        found = await tallygate("usage", "lekhak", "a", "--target", server.address, "--json")
        code = await server.interrupt()

    assert counted.code == 0
    assert second.code == 2
    assert "is in use by another Tallygate" in second.errors
    assert second.errors.count("\n") == 1
    assert json.loads(found.output)["quotas"][0]["used_quantity"] == "1"
    assert code == 0


async def test_a_half_made_data_directory_is_one_sentence_with_a_way_out(reachable_dir: Path) -> None:
    data_dir = reachable_dir / "half-made"
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "base").mkdir()
    data_dir.chmod(0o711)

    told = await tallygate("serve", "--port", "0", "--ops-port", "0", settings={"TALLYGATE_DATA_DIR": str(data_dir)})

    assert told.code == 2
    assert str(data_dir) in told.errors
    assert told.errors.count("\n") == 1


async def test_the_doctor_tells_what_is_wrong(fresh_database: str) -> None:
    settings = {"TALLYGATE_DATABASE_URL": fresh_database, "TALLYGATE_REDIS_URL": "redis://127.0.0.1:1",
                "TALLYGATE_GRPC_PORT": "0", "TALLYGATE_OPS_PORT": "0"}  # fmt: skip

    told = await tallygate("doctor", "--json", settings=settings)
    shown = await tallygate("doctor", settings=settings)

    wrong = [finding for finding in json.loads(told.output) if not finding["ok"]]
    assert (told.code, shown.code) == (1, 1)
    assert [finding["name"] for finding in wrong] == ["redis"]
    assert "wrong" in shown.output
    assert wrong[0]["way_out"] in " ".join(shown.output.split())


async def test_a_reservation_is_made_listed_extended_and_committed(say: Say) -> None:
    made = await say(
        "reservation", "reserve", "lekhak", "a", "text_rewrite", "-q", "6", "--ttl", "5m", "--request-id", "r1"
    )
    again = await say(
        "reservation", "reserve", "lekhak", "a", "text_rewrite", "-q", "6", "--ttl", "5m", "--request-id", "r1"
    )
    denied = await say("reservation", "reserve", "lekhak", "a", "text_rewrite", "-q", "5")
    listed = await say("reservation", "list", "lekhak", "a", "--state", "held", "--json")
    [reservation] = json.loads(listed.stdout)["reservations"]
    reservation_id = reservation["reservation_id"]
    extended = await say("reservation", "extend", "lekhak", "a", reservation_id, "--ttl", "1h")
    refused = await say("reservation", "commit", "lekhak", "a", reservation_id, "-q", "11")
    counted = await say("reservation", "commit", "lekhak", "a", reservation_id, "-q", "4", "-d", "model=x")
    table = await say("reservation", "list", "lekhak", "a")

    assert made.exit_code == 0
    assert made.stdout.startswith("reserved 6")
    assert reservation_id in made.stdout
    assert "0 used and 6 held of 10, 4 left" in made.stdout
    assert "as it was answered before" in again.stdout
    assert denied.exit_code == 1
    assert "denied (exhausted), nothing is held" in denied.stdout
    assert "https://lekhak.ai/upgrade?user_id=a" in denied.stdout
    assert "held until " in extended.stdout
    assert refused.exit_code == 1
    assert "the reservation stays as it was" in refused.stdout
    assert counted.exit_code == 0
    assert counted.stdout.startswith("counted 4 (returned)")
    assert "4 used and 0 held of 10, 6 left" in counted.stdout
    assert "committed" in table.stdout


async def test_a_reservation_is_released(say: Say) -> None:
    made = await say("reservation", "reserve", "lekhak", "a", "text_rewrite", "-q", "6", "--json")
    reservation_id = json.loads(made.stdout)["reservation"]["reservation_id"]

    released = await say("reservation", "release", "lekhak", "a", reservation_id)
    late = await say("reservation", "commit", "lekhak", "a", reservation_id)
    nobody = await say("reservation", "list", "lekhak", "nobody")

    assert released.stdout.startswith("released 6, 10 left")
    assert late.exit_code == 2
    assert "is released (RESERVATION_CLOSED)" in late.output
    assert nobody.stdout == "No reservations.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reserve", "lekhak", "a", "text_rewrite", "--ttl", "soon"), "--ttl soon: write it as 90s, 10m or 2h"),
        (("reserve", "lekhak", "a", "text_rewrite", "--ttl", "25h"), "ttl: "),
        (("reserve", "lekhak", "a", "grammar_check"), "(FEATURE_NOT_METERED)"),
        (("commit", "lekhak", "a", "rsv_none"), "(RESERVATION_NOT_FOUND)"),
    ],
)
async def test_what_is_wrong_with_a_reservation_is_one_sentence(
    say: Say, arguments: tuple[str, ...], words: str
) -> None:
    told = await say("reservation", *arguments)

    assert told.exit_code == 2
    assert words in told.output
