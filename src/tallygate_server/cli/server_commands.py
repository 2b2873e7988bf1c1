"""Commands that run the service here: serve, migrate, worker, doctor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.explanations import EXIT_NO
from tallygate_server.cli.options import Json
from tallygate_server.cli.output import console, print_json, print_table

if TYPE_CHECKING:
    from grpc import aio

    from tallygate_server.app import App
    from tallygate_server.config import Settings
    from tallygate_server.embedded.local_stripe import LocalStripe

LOCAL_STRIPE_PORT: Final = 50_053
CATALOGS_DIR: Final = Path("examples") / "catalogs"

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Directory of the embedded servers; TALLYGATE_DATA_DIR otherwise.", metavar="DIR"),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    panel = "Run the service"
    app.command("serve", rich_help_panel=panel)(serve)
    app.command("migrate", rich_help_panel=panel)(migrate)
    app.command("worker", rich_help_panel=panel)(worker)
    app.command("doctor", rich_help_panel=panel)(doctor)


def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on; TALLYGATE_GRPC_HOST otherwise.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of gRPC, 0 for a free one.", min=0, max=65_535)] = None,
    ops_port: Annotated[
        int | None, typer.Option(help="Port of metrics and health, 0 for a free one.", min=0, max=65_535)
    ] = None,
    transport: Annotated[str | None, typer.Option(help="native or grpcio; TALLYGATE_TRANSPORT otherwise.")] = None,
    data_dir: DataDir = None,
    catalogs: Annotated[
        Path | None,
        typer.Option(
            help="Apply the catalogs of this directory for tenants that are not there yet. Default, with the"
            " embedded database: the examples.",
            metavar="DIR",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    no_catalogs: Annotated[bool, typer.Option("--no-catalogs", help="Apply no catalogs.")] = False,
    with_local_stripe: Annotated[
        bool,
        typer.Option(
            "--with-local-stripe",
            help="Start a local Stripe too and follow its clock: to try billing out, without an account or a network.",
        ),
    ] = False,
    local_stripe_port: Annotated[
        int, typer.Option(help="Port of the local Stripe, 0 for a free one.", min=0, max=65_535)
    ] = LOCAL_STRIPE_PORT,
    as_json: Json = False,
    empty_call: Annotated[bool, typer.Option("--empty-call", hidden=True, help="For the benchmark.")] = False,
) -> None:
    """Serve gRPC, with metrics and health over HTTP, until Ctrl-C.

    Without TALLYGATE_DATABASE_URL and TALLYGATE_REDIS_URL a private PostgreSQL and Valkey are started too.
    """
    settings = _settings(grpc_host=host, grpc_port=port, ops_port=ops_port, transport=transport, data_dir=data_dir)
    if no_catalogs:
        catalogs = None
    elif catalogs is None and settings.database_url is None:
        catalogs = example_catalogs_dir()
    extras = _Extras(
        catalogs=catalogs,
        as_json=as_json,
        with_empty_call=empty_call,
        local_stripe_port=local_stripe_port if with_local_stripe else None,
    )
    _run(_serve(settings, extras))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extras:
    """What `serve` does besides what the settings say."""

    catalogs: Path | None
    as_json: bool
    with_empty_call: bool
    local_stripe_port: int | None
    """None: no local Stripe."""


async def _serve(settings: Settings, extras: _Extras) -> None:
    from tallygate_server.app import App

    register_plain: Callable[[aio.Server], None] | None = None
    if extras.with_empty_call:
        from tallygate_server.bench import empty_call

        register_plain = empty_call.register_plain
    async with _stop_signals() as stop:
        serving = False

        async def run() -> None:
            nonlocal serving
            async with (
                _local_stripe(settings, extras.local_stripe_port) as (stripe, own_settings),
                App.open(own_settings, catalogs_dir=extras.catalogs, register_plain=register_plain) as app,
            ):
                if stripe is not None:
                    ops_address = _reachable(settings.ops_host, app.ops_port)
                    await stripe.deliver_to(f"http://{ops_address}/webhooks/stripe")
                serving = True
                _announce(own_settings, app, stripe, as_json=extras.as_json)
                await stop.wait()

        running = asyncio.create_task(run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not serving:
            # A Ctrl-C during a slow start: what was started so far is stopped again. Does nothing after a failure.
            running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@contextlib.asynccontextmanager
async def _local_stripe(settings: Settings, port: int | None) -> AsyncIterator[tuple[LocalStripe | None, Settings]]:
    """Start the local Stripe, unless there is to be none, and give it with settings that lead to it."""
    if port is None:
        yield None, settings
        return
    from tallygate_server.config import load_settings
    from tallygate_server.embedded.local_stripe import API_KEY, WEBHOOK_SECRET, running_local_stripe

    async with running_local_stripe(port=port, data_file=settings.data_dir / "local-stripe.json") as stripe:
        given = settings.model_dump(exclude_unset=True)
        ours = {
            "stripe_api_key": API_KEY,
            "stripe_api_base": stripe.url,
            "stripe_webhook_secret": WEBHOOK_SECRET,
            "development_clock_url": stripe.clock_url,
        }
        yield stripe, load_settings(**(given | ours))


def _announce(settings: Settings, app: App, stripe: LocalStripe | None, *, as_json: bool) -> None:
    """Say where the server listens, and what to try."""
    address = _reachable(settings.grpc_host, app.grpc_port)
    ops_address = _reachable(settings.ops_host, app.ops_port)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "event": "serving",
                    "grpc_address": address,
                    "ops_address": ops_address,
                    "transport": settings.transport,
                    "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0],
                    "embedded": app.stores.embedded is not None,
                    "local_stripe": stripe.url if stripe is not None else None,
                }
            )
        )
        return
    security = "-plaintext" if settings.tls_cert_file is None else f"-cacert {settings.tls_cert_file}"
    call = {"tenant_id": "lekhak", "account_id": "alice", "feature_key": "text_rewrite"}
    out = console()
    out.print(f"Tallygate serves gRPC on {address} ({settings.transport}), metrics and health on http://{ops_address}")
    out.print("Try, with grpcurl:")
    for arguments in (
        f"{address} list",
        f"-d '{json.dumps(call)}' {address} tallygate.v1.EntitlementService/CheckAccess",
        f"-d '{json.dumps(call)}' {address} tallygate.v1.UsageService/Increment",
    ):
        out.print(f"  grpcurl {security} {arguments}", soft_wrap=True, markup=False)
    if stripe is not None:
        out.print(f"A local Stripe answers on {stripe.url}; docs/billing.md has a journey to try.")
    out.print("Ctrl-C stops everything.")


def migrate(*, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Bring the database's schema up to date; safe while the previous release serves."""
    settings = _settings(data_dir=data_dir)

    async def run() -> tuple[str | None, str | None]:
        from tallygate_server.app import open_stores
        from tallygate_server.storage import migrations

        async with open_stores(settings) as stores:
            before, _ = await migrations.current_and_head(stores.database_url)
            await migrations.upgrade(stores.database_url)
            after, _ = await migrations.current_and_head(stores.database_url)
        return before, after

    before, after = asyncio.run(run())
    if as_json:
        print_json({"revision_before": before, "revision": after, "changed": before != after})
    elif before == after:
        typer.echo(f"the schema is up to date (revision {after})")
    else:
        typer.echo(f"the schema was at revision {before or 'none'} and is now at {after}")


def worker(*, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Run the background jobs alone, until Ctrl-C; `serve` runs them too unless TALLYGATE_RUN_WORKERS=false."""
    _run(_work(_settings(data_dir=data_dir), as_json=as_json))


async def _work(settings: Settings, *, as_json: bool) -> None:
    from tallygate_server.app import jobs, lifecycle_options, open_clock, open_migrated_service, open_stores
    from tallygate_server.lifecycle.assembly import open_lifecycle
    from tallygate_server.lifecycle.jobs import LifecycleJobRunner
    from tallygate_server.workers.jobs import JobRunner

    async with (
        _stop_signals() as stop,
        open_stores(settings) as stores,
        open_clock(settings) as clock,
        open_migrated_service(settings, stores, clock) as service,
        open_lifecycle(stores.database_url, service, lifecycle_options(settings), clock=clock) as lifecycle,
    ):
        work = jobs(settings, stores, service, lifecycle)
        runner = JobRunner(stores.database_url, work)
        await runner.start()
        lifecycle_runner = LifecycleJobRunner(lifecycle.jobs, at_once=settings.lifecycle_jobs_at_once)
        await lifecycle_runner.start()
        await service.webhooks.processor.start()
        await service.events.start()
        try:
            names = [job.name for job in work]
            if as_json:
                typer.echo(json.dumps({"event": "working", "jobs": names}))
            else:
                typer.echo(
                    f"Tallygate runs the jobs {', '.join(names)}, works on stored data, processes webhooks, and"
                    " tells tenants what happened."
                    " Ctrl-C stops it."
                )
            await stop.wait()
        finally:
            await service.events.stop()
            await service.webhooks.processor.close()
            await lifecycle_runner.close()
            await runner.close()


def doctor(*, as_json: Json = False) -> None:
    """Look for what is wrong with this set-up; changes nothing. Exit code 1 when something is."""
    from tallygate_server.doctor import examine
    from tallygate_server.telemetry import configure_logging

    # Starting servers for the look is no news.
    configure_logging(level="error", log_format="console")
    findings = asyncio.run(examine())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(
            ("", "what", "finding"),
            (
                (
                    "[green]ok[/green]" if finding.ok else "[red]wrong[/red]",
                    finding.name,
                    f"{finding.sentence} {finding.way_out}".strip().replace("[", r"\["),
                )
                for finding in findings
            ),
        )
    if not all(finding.ok for finding in findings):
        raise typer.Exit(EXIT_NO)


def example_catalogs_dir() -> Path | None:
    """Return the examples of this source tree; None where only the package is installed."""
    source_tree = Path(__file__).parents[3]
    directory = source_tree / CATALOGS_DIR
    return directory if directory.is_dir() else None


def _settings(**overrides: Any) -> Settings:
    """Read the settings, with the options that were given before the environment, and set logging up."""
    from tallygate_server.config import load_settings
    from tallygate_server.telemetry import configure_logging

    settings = load_settings(**{name: value for name, value in overrides.items() if value is not None})
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    return settings


def _run(main: Coroutine[Any, Any, None]) -> None:
    """Run a long-lived command on the fast event loop."""
    import uvloop

    uvloop.run(main)


@contextlib.asynccontextmanager
async def _stop_signals() -> AsyncIterator[asyncio.Event]:
    """Give an event that Ctrl-C and SIGTERM set; a second signal interrupts at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _reachable(host: str, port: int) -> str:
    """Return an address that a client on this machine can use."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound.
        host = "127.0.0.1" if host != "::" else "::1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
