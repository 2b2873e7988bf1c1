"""`tallygate replay`: drive a trace of LLM calls through a running server and compare notes afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.explanations import EXIT_NO, CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target
from tallygate_server.cli.output import console, limit_text, print_facts, print_json, print_table

if TYPE_CHECKING:
    from tallygate_server.trace_agreement import Told
    from tallygate_server.trace_file import Trace
    from tallygate_server.trace_replay import Report, Run, StateFile

ACCOUNTS_DEFAULT: Final = 50
CONCURRENCY_DEFAULT: Final = 64
GIVE_UP_AFTER_S: Final = 60.0
FINDINGS_MAX: Final = 20
FASTEST: Final = 1e9

_PERIODS: Final = ("hour", "day", "week", "month", "year", "lifetime")
_ACKS: Final = ("committed", "accepted")


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("replay", rich_help_panel="Prove and measure")(replay)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pace:
    concurrency: int
    speed: float | None
    give_up_after_s: float


def replay(
    trace_file: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE.csv", help="One LLM call a row, under a header: timestamp, context tokens, generated tokens."
        ),
    ],
    *,
    accounts: Annotated[
        int, typer.Option(min=1, max=100_000, help="Accounts that the calls are spread over, always alike.")
    ] = ACCOUNTS_DEFAULT,
    seed: Annotated[int, typer.Option(help="Another number spreads the calls differently.")] = 1,
    speed: Annotated[
        str, typer.Option(metavar="full|recorded|FACTOR", help="As fast as possible, as recorded, or a multiple of it.")
    ] = "full",
    concurrency: Annotated[int, typer.Option(min=1, max=2_000, help="Calls at a time.")] = CONCURRENCY_DEFAULT,
    tenant: Annotated[
        str, typer.Option(help="Tenant to replay against. The default one is made here, with a plan of its own.")
    ] = "replay",
    feature: Annotated[str, typer.Option(help="Counter to count tokens on.")] = "llm_tokens",
    limit: Annotated[
        int | None,
        typer.Option(
            min=-1, help="Tokens per account and period, -1 for unlimited. Default: so that some calls are denied."
        ),
    ] = None,
    period: Annotated[str, typer.Option(metavar="|".join(_PERIODS), help="Period of the limit.")] = "month",
    ack: Annotated[str, typer.Option(metavar="|".join(_ACKS), help="When the server answers.")] = "committed",
    reserve: Annotated[
        int | None,
        typer.Option(
            "--reserve",
            min=0,
            metavar="TOKENS",
            help="Reserve the context and so many tokens more before each call, then commit what it really took.",
        ),
    ] = None,
    run_id: Annotated[
        str, typer.Option("--run-id", help="Name of the run. The same name again counts nothing twice.")
    ] = "",
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what the client is told to this file.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Go on with the run whose --state file this is.")
    ] = None,
    give_up_after: Annotated[
        float, typer.Option(min=0.0, help="Seconds to keep trying while the server is away.")
    ] = GIVE_UP_AFTER_S,
    time_column: Annotated[str, typer.Option(help="Name of the column, if it is an unusual one.")] = "",
    context_column: Annotated[str, typer.Option(help="Name of the column, if it is an unusual one.")] = "",
    generated_column: Annotated[str, typer.Option(help="Name of the column, if it is an unusual one.")] = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Replay a trace of LLM calls and prove that client, counters and ledger agree. Exit code 1 when they do not.

    Every call counts its context and generated tokens on the account that its row number leads to; with --reserve it
    reserves first, as one whose cost is not known yet, and commits afterwards. A call that the
    server may not have answered is made again under the same request id, also after a crash of either side: resume
    with --resume and the state file, or start again with the same --run-id.
    """
    from tallygate_server.trace_file import read_trace
    from tallygate_server.trace_replay import StateFile as File

    pace = _Pace(concurrency=concurrency, speed=_speed(speed), give_up_after_s=give_up_after)
    trace = read_trace(
        trace_file, time_column=time_column, context_column=context_column, generated_column=generated_column
    )
    with contextlib.ExitStack() as stack:
        told: dict[int, Told] = {}
        file: StateFile | None = None
        if resume is not None:
            if state is not None:
                raise CommandError("--resume goes on writing to its own file; leave --state out")
            file, run, told = File.resume(resume, trace)
        else:
            run = _new_run(
                trace, accounts=accounts, seed=seed, tenant=tenant, feature=feature, limit=limit, period=period,
                ack=ack, run_id=run_id, reserve=reserve,
            )  # fmt: skip
            file = None if state is None else File.create(state, run)
        if file is not None:
            stack.enter_context(file)
        if not as_json:
            _print_start(trace, run, target, resumed=len(told))
        report = asyncio.run(_replay(target, trace, run, pace, told=told, file=file, quiet=as_json))
    if as_json:
        print_json(report.as_json())
    else:
        _print_report(report)
    if report.disagreements:
        raise typer.Exit(EXIT_NO)


def _speed(text: str) -> float | None:
    if text == "full":
        return None
    if text == "recorded":
        return 1.0
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0.0 < factor <= FASTEST:
        raise CommandError(f"--speed {text}: say full, recorded, or a factor above 0, such as 10")
    return factor


def _new_run(
    trace: Trace,
    *,
    accounts: int,
    seed: int,
    tenant: str,
    feature: str,
    limit: int | None,
    period: str,
    ack: str,
    run_id: str,
    reserve: int | None,
) -> Run:
    from tallygate_server.trace_replay import OWN_TENANT, RUN_ID_PATTERN, Run, limit_for, new_run_id

    if run_id and not RUN_ID_PATTERN.fullmatch(run_id):
        raise CommandError(f"--run-id {run_id}: up to 32 lower-case letters, digits and hyphens, a hyphen not first")
    if period not in _PERIODS:
        raise CommandError(f"--period {period}: say {', '.join(_PERIODS)}")
    if ack not in _ACKS:
        raise CommandError(f"--ack {ack}: say {' or '.join(_ACKS)}")
    if reserve is not None and ack != "committed":
        raise CommandError(f"--ack {ack}: reservations are committed; leave --ack or --reserve out")
    if limit == 0:
        raise CommandError("--limit 0: would deny every call; say at least 1, or -1 for unlimited")
    makes_tenant = tenant == OWN_TENANT
    if not makes_tenant and limit is not None:
        raise CommandError(f"--limit: the plans of tenant {tenant} set the limit; leave --limit or --tenant out")
    chosen = 0
    if makes_tenant:
        chosen = limit_for(trace, accounts) if limit is None else limit
    return Run(
        run_id=run_id or new_run_id(),
        trace_digest=trace.digest,
        tenant_id=tenant,
        feature_key=feature,
        accounts=accounts,
        seed=seed,
        limit=chosen,
        period=period,  # type: ignore[arg-type]  # Checked above.
        ack=ack,  # type: ignore[arg-type]  # Checked above.
        reserve_margin=reserve,
    )


async def _replay(
    target: str,
    trace: Trace,
    run: Run,
    pace: _Pace,
    *,
    told: dict[int, Told],
    file: StateFile | None,
    quiet: bool,
) -> Report:
    from tallygate_server.client import Client
    from tallygate_server.trace_replay import GaveUp, TraceReplay, report_of

    async with Client(target) as client:
        replaying = TraceReplay(
            client=client,
            trace=trace,
            run=run,
            concurrency=pace.concurrency,
            speed=pace.speed,
            give_up_after_s=pace.give_up_after_s,
            told=told,
            record=None if file is None else file.record,
        )
        try:
            await replaying.prepare()
            with _progress_bar(replaying.countable, len(told), quiet=quiet) as note:
                replaying.progress = note
                await replaying.make_calls()
            disagreements = await replaying.compare()
        except GaveUp as failure:
            way = f"--resume {file.path}" if file is not None else f"--run-id {run.run_id} and the same options"
            raise GaveUp(f"{failure}; go on later with {way}") from None
        return report_of(replaying, disagreements)


@contextlib.contextmanager
def _progress_bar(total: int, done: int, *, quiet: bool) -> Iterator[Any]:
    """Show how far the calls are, with the share that is denied; give the function that notes an answer."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("calls"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[denied]:,} denied"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(err=True),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task("calls", total=total, completed=done, denied=0)
        denied = 0

        def note(answer: Told) -> None:
            nonlocal denied
            denied += not answer.allowed
            progress.update(task, advance=1, denied=denied)

        yield note


def _print_start(trace: Trace, run: Run, target: str, *, resumed: int) -> None:
    print_facts(
        (
            ("trace", f"{trace.path}: {len(trace):,} calls, {trace.tokens:,} tokens"),
            ("server", target),
            ("run", run.run_id + (f", going on after {resumed:,} answers" if resumed else "")),
            ("counts on", f"{run.feature_key} of {run.accounts:,} accounts of tenant {run.tenant_id}"),
            ("reserves", f"context and {run.reserve_margin:,} tokens" if run.reserve_margin is not None else ""),
            ("limit", f"{limit_text(run.limit)} per account and {run.period}" if run.makes_tenant else ""),
        )
    )


def _print_report(report: Report) -> None:
    run = report.run
    rows: list[tuple[str, str]] = [
        ("calls", f"{report.allowed + report.denied:,}"),
        ("  allowed", f"{report.allowed:,}"),
        ("  denied", f"{report.denied:,}"),
    ]
    rows += [(f"    {reason.lower().replace('_', ' ')}", f"{count:,}") for reason, count in report.denials.items()]
    if report.empty:
        rows.append(("rows without tokens, not sent", f"{report.empty:,}"))
    rows += [
        ("tokens counted", f"{report.tokens_allowed:,}"),
        ("tokens denied", f"{report.tokens_denied:,}"),
        ("calls/s", f"{report.calls_per_s:,.0f}"),
        ("p50 ms", f"{report.p50_ms:.2f}"),
        ("p95 ms", f"{report.p95_ms:.2f}"),
        ("p99 ms", f"{report.p99_ms:.2f}"),
        ("longest wait ms", f"{report.longest_wait_ms:,.1f}"),
        ("retries", f"{report.retries:,}"),
    ]
    if report.replayed:
        rows.append(("answers that were given before", f"{report.replayed:,}"))
    if report.resumed:
        rows.append(("answers from the state file", f"{report.resumed:,}"))
    if report.behind_s > 0.1:  # noqa: PLR2004 - below, the clock's own granularity shows.
        rows.append(("behind the recorded times, s", f"{report.behind_s:,.1f}"))
    print_table(("", "replay"), rows, numeric=("replay",))
    if not report.disagreements:
        typer.secho(
            f"Exact agreement over {run.accounts:,} accounts: what the client was told, the counters and the ledger"
            f" ({report.allowed:,} entries, {report.tokens_allowed:,} tokens).",
            fg="green",
        )
        return
    typer.secho(f"{len(report.disagreements):,} disagreements:", fg="red", bold=True)
    for finding in report.disagreements[:FINDINGS_MAX]:
        typer.echo(f"  - {finding}")
    if len(report.disagreements) > FINDINGS_MAX:
        typer.echo(f"  and {len(report.disagreements) - FINDINGS_MAX:,} more; --json lists all")
    if run.ack == "accepted":
        typer.echo("Calls answered as ACCEPTED may be lost when a server crashes, but are never counted twice.")
