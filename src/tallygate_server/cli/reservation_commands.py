"""Commands about reservations: reserve, commit, release, extend, list."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tallygate_server.cli.client_commands import dimensions_of
from tallygate_server.cli.explanations import EXIT_NO, CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Account, Feature, Json, Target, Tenant, with_client
from tallygate_server.cli.output import limit_text, print_facts, print_message, print_table, time_text

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from tallygate.v1 import reservation_pb2, usage_service_pb2

PANEL: Final = "Call a running server"
TTL_DEFAULT: Final = "10m"
SHOWN_DEFAULT: Final = 20

_TTL: Final = re.compile(r"(\d{1,6})(s|m|h)?")
_SECONDS: Final = {None: 1, "s": 1, "m": 60, "h": 3_600}


class Overrun(StrEnum):
    """What happens when more was consumed than was reserved and is left."""

    REJECT = "reject"
    OVERDRAW = "overdraw"


class State(StrEnum):
    """Where a reservation is in its life."""

    HELD = "held"
    COMMITTED = "committed"
    RELEASED = "released"
    EXPIRED = "expired"


ReservationId = Annotated[str, typer.Argument(metavar="RESERVATION", help="Id of the reservation.")]
Ttl = Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long to hold it, such as 90s, 10m or 2h.")]
OverrunOption = Annotated[
    Overrun | None, typer.Option("--overrun", help="What happens when more was consumed than is left.")
]
Dimension = Annotated[
    list[str] | None,
    typer.Option("--dimension", "-d", metavar="NAME=VALUE", help="What usage can be grouped by; repeatable."),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(no_args_is_help=True, help="Hold quantity of a limit while the cost of the work is not known.")
    group.command("reserve")(reserve)
    group.command("commit")(commit)
    group.command("release")(release)
    group.command("extend")(extend)
    group.command("list")(show)
    app.add_typer(group, name="reservation", rich_help_panel=PANEL)


def reserve(
    tenant: Tenant,
    account: Account,
    feature: Feature,
    *,
    quantity: Annotated[int | None, typer.Option("--quantity", "-q", help="Units to hold; 1 when absent.")] = None,
    ttl: Ttl = TTL_DEFAULT,
    request_id: Annotated[str, typer.Option("--request-id", help="Makes a retry safe: the same id is done once.")] = "",
    dimension: Dimension = None,
    overrun: OverrunOption = None,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Take quantity from a limit for a while. Exit code 1 when there is no room, and nothing is held."""
    from tallygate.v1 import access_pb2, usage_service_pb2

    request = usage_service_pb2.ReserveRequest(
        tenant_id=tenant,
        account_id=account,
        feature_key=feature,
        quantity=quantity,
        ttl=_duration(ttl),
        request_id=request_id,
        dimensions=dict(dimensions_of(dimension or [])),
        overrun_policy=_policy(overrun),
    )
    response = with_client(target, lambda client: client.call(client.usage.Reserve, request))
    allowed = response.decision == access_pb2.DECISION_ALLOWED
    if as_json:
        print_message(response)
    elif allowed:
        again = ", as it was answered before" if response.replayed else ""
        typer.echo(f"reserved {response.reservation.quantity:,}{again}")
        _print_reservation(response.reservation)
        print_facts([("limit", _standing(response))])
    else:
        typer.echo(f"denied ({_reason(response.reason)}), nothing is held")
        print_facts([("limit", _standing(response)), ("more at", response.upgrade_url)])
    if not allowed:
        raise typer.Exit(EXIT_NO)


def commit(
    tenant: Tenant,
    account: Account,
    reservation: ReservationId,
    *,
    quantity: Annotated[
        int | None, typer.Option("--quantity", "-q", help="Units really consumed; as reserved when absent.")
    ] = None,
    dimension: Dimension = None,
    overrun: OverrunOption = None,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Count what was really consumed and give the rest back. Exit code 1 when the surplus is refused."""
    from tallygate.v1 import access_pb2, usage_service_pb2

    request = usage_service_pb2.CommitReservationRequest(
        tenant_id=tenant,
        account_id=account,
        reservation_id=reservation,
        quantity=quantity,
        dimensions=dict(dimensions_of(dimension or [])),
        overrun_policy=_policy(overrun),
    )
    response = with_client(target, lambda client: client.call(client.usage.CommitReservation, request))
    allowed = response.decision == access_pb2.DECISION_ALLOWED
    if as_json:
        print_message(response)
    elif allowed:
        again = ", as it was answered before" if response.replayed else ""
        late = ", late" if response.late else ""
        typer.echo(f"counted {response.committed_quantity:,} ({_settlement(response.settlement)}){late}{again}")
        print_facts(
            [
                ("entry", response.entry_id),
                ("limit", _standing(response)),
                ("overdrawn", f"{response.overdrawn_quantity:,}" if response.overdrawn_quantity else ""),
                ("threshold crossed", f"{response.threshold_percent} %" if response.threshold_percent else ""),
            ]
        )
    else:
        typer.echo(f"denied ({_reason(response.reason)}), nothing was counted; the reservation stays as it was")
        print_facts([("limit", _standing(response))])
    if not allowed:
        raise typer.Exit(EXIT_NO)


def release(
    tenant: Tenant,
    account: Account,
    reservation: ReservationId,
    *,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Give a reservation back without counting anything."""
    from tallygate.v1 import usage_service_pb2

    request = usage_service_pb2.ReleaseReservationRequest(
        tenant_id=tenant, account_id=account, reservation_id=reservation
    )
    response = with_client(target, lambda client: client.call(client.usage.ReleaseReservation, request))
    if as_json:
        print_message(response)
        return
    left = limit_text(response.remaining_quantity)
    typer.echo(f"released {response.reservation.quantity:,}, {left} left")


def extend(
    tenant: Tenant,
    account: Account,
    reservation: ReservationId,
    *,
    ttl: Ttl = TTL_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Hold a reservation for so long from now on."""
    from tallygate.v1 import usage_service_pb2

    request = usage_service_pb2.ExtendReservationRequest(
        tenant_id=tenant, account_id=account, reservation_id=reservation, ttl=_duration(ttl)
    )
    response = with_client(target, lambda client: client.call(client.usage.ExtendReservation, request))
    if as_json:
        print_message(response)
    else:
        typer.echo(f"held until {time_text(response.reservation.expire_time)}")


def show(
    tenant: Tenant,
    account: Account,
    *,
    feature: Annotated[str, typer.Option("--feature", metavar="FEATURE", help="Only this feature.")] = "",
    state: Annotated[State | None, typer.Option("--state", help="Only reservations in this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="Most to show.")] = SHOWN_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List an account's reservations, newest first."""
    from tallygate.v1 import usage_service_pb2

    request = usage_service_pb2.ListReservationsRequest(
        tenant_id=tenant,
        account_id=account,
        feature_key=feature,
        state=f"RESERVATION_STATE_{state.name if state is not None else 'UNSPECIFIED'}",
        page_size=limit,
    )
    page = with_client(target, lambda client: client.call(client.usage.ListReservations, request))
    if as_json:
        print_message(page)
        return
    if not page.reservations:
        typer.echo("No reservations.")
        return
    print_table(
        ("reservation", "feature", "state", "reserved", "counted", "made", "expires", "closed"),
        [
            (
                each.reservation_id,
                each.feature_key,
                _state(each.state),
                f"{each.quantity:,}",
                f"{each.committed_quantity:,}" if each.committed_quantity else "",
                time_text(each.create_time),
                time_text(each.expire_time),
                time_text(each.close_time),
            )
            for each in page.reservations
        ],
        numeric=("reserved", "counted"),
    )
    if page.next_page_token:
        typer.echo(f"There are more than {limit}.")


def _print_reservation(reservation: reservation_pb2.Reservation) -> None:
    print_facts(
        [
            ("reservation", reservation.reservation_id),
            ("held until", time_text(reservation.expire_time)),
        ]
    )


def _standing(response: usage_service_pb2.ReserveResponse | usage_service_pb2.CommitReservationResponse) -> str:
    used, held = f"{response.used_quantity:,} used", f"{response.held_quantity:,} held"
    if response.limit_quantity == -1:
        return f"{used}, {held}, unlimited"
    return f"{used} and {held} of {response.limit_quantity:,}, {response.remaining_quantity:,} left"


def _duration(text: str) -> Duration:
    from google.protobuf.duration_pb2 import Duration

    match = _TTL.fullmatch(text.strip())
    if match is None:
        raise CommandError(f"--ttl {text}: write it as 90s, 10m or 2h")
    return Duration(seconds=int(match[1]) * _SECONDS[match[2]])


def _policy(overrun: Overrun | None) -> str:
    return f"OVERRUN_POLICY_{overrun.name if overrun is not None else 'UNSPECIFIED'}"


def _reason(reason: int) -> str:
    from tallygate.v1 import access_pb2

    return access_pb2.DecisionReason.Name(reason).removeprefix("DECISION_REASON_").lower().replace("_", " ")


def _settlement(settlement: int) -> str:
    from tallygate.v1 import usage_service_pb2

    name = usage_service_pb2.ReservationSettlement.Name(settlement)
    return name.removeprefix("RESERVATION_SETTLEMENT_").lower().replace("_", " ")


def _state(state: int) -> str:
    from tallygate.v1 import reservation_pb2

    return reservation_pb2.ReservationState.Name(state).removeprefix("RESERVATION_STATE_").lower()
