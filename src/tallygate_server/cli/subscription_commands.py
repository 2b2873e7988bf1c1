"""Commands about subscriptions: show, create, change, cancel, resume, pause, unschedule, preview, history."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.client_commands import ACTOR
from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Account, Json, Target, Tenant, time_of, with_client
from tallygate_server.cli.output import print_facts, print_message, print_table, time_text

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from tallygate.v1 import money_pb2, subscription_pb2, subscription_service_pb2

STEPS_DEFAULT: Final = 20
SHOWN_MAX: Final = 100
PANEL: Final = "Call a running server"


class Interval(StrEnum):
    """How often is paid."""

    MONTH = "month"
    YEAR = "year"


class Provider(StrEnum):
    """Who collects the money."""

    STRIPE = "stripe"
    MANUAL = "manual"


Plan = Annotated[str, typer.Argument(metavar="PLAN", help="Plan key, such as pro.")]
Subscription = Annotated[
    str, typer.Option("--subscription", "-s", metavar="ID", help="Which one; the only live one when absent.")
]
IntervalOption = Annotated[Interval | None, typer.Option("--interval", "-i", help="Paid by month or by year.")]
ProviderOption = Annotated[Provider | None, typer.Option("--provider", help="Who collects the money.")]
Quantity = Annotated[int | None, typer.Option("--quantity", "-q", help="Seats.")]
PaymentMethod = Annotated[str, typer.Option("--payment-method", metavar="PM", help="Payment method at Stripe.")]
RequestId = Annotated[str, typer.Option("--request-id", help="Makes a retry safe: the same id is done once.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, for the history.")]
Now = Annotated[bool, typer.Option("--now", help="At once.")]
PeriodEnd = Annotated[bool, typer.Option("--period-end", help="At the end of the period that is paid for.")]
At = Annotated[
    str, typer.Option("--at", metavar="TIME", help="At a time, such as 2026-12-01 or 2026-12-01T09:30 (UTC).")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(no_args_is_help=True, help="Show and change what accounts have bought.")
    group.command("show")(show)
    group.command("create")(create)
    group.command("change")(change)
    group.command("preview")(preview)
    group.command("cancel")(cancel)
    group.command("resume")(resume)
    group.command("pause")(pause)
    group.command("unschedule")(unschedule)
    group.command("history")(history)
    app.add_typer(group, name="subscription", rich_help_panel=PANEL)


def show(
    tenant: Tenant,
    account: Account,
    subscription: Annotated[str, typer.Argument(metavar="[ID]", help="Only this one, in full.")] = "",
    *,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show an account's subscriptions, newest first, or one of them in full."""
    from tallygate.v1 import subscription_service_pb2

    if subscription:
        get = subscription_service_pb2.GetSubscriptionRequest(tenant_id=tenant, subscription_id=subscription)
        found = with_client(target, lambda client: client.call(client.subscriptions.GetSubscription, get))
        if found.subscription.account_id != account:
            raise CommandError(f"{subscription}: is not a subscription of account {account}")
        if as_json:
            print_message(found)
        else:
            _print_subscription(found.subscription)
        return
    request = subscription_service_pb2.ListSubscriptionsRequest(
        tenant_id=tenant, account_id=account, page_size=SHOWN_MAX
    )
    page = with_client(target, lambda client: client.call(client.subscriptions.ListSubscriptions, request))
    if as_json:
        print_message(page)
    elif len(page.subscriptions) == 1:
        _print_subscription(page.subscriptions[0])
    elif page.subscriptions:
        _print_subscriptions(list(page.subscriptions))
        if page.next_page_token:
            typer.echo(f"There are more than {SHOWN_MAX}.")
    else:
        typer.echo("No subscriptions.")


def create(
    tenant: Tenant,
    account: Account,
    plan: Plan,
    *,
    interval: IntervalOption = None,
    provider: ProviderOption = None,
    quantity: Quantity = None,
    trial_days: Annotated[int | None, typer.Option(help="Days of free trial; as the plan says when absent.")] = None,
    payment_method: PaymentMethod = "",
    promotion_code: Annotated[str, typer.Option("--promotion-code", help="Promotion code at Stripe.")] = "",
    currency: Annotated[str, typer.Option("--currency", help="Currency of the price, such as USD.")] = "",
    end: Annotated[str, typer.Option("--end", metavar="TIME", help="When it expires; it renews when absent.")] = "",
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Subscribe an account to a plan."""
    from tallygate.v1 import subscription_service_pb2

    request = subscription_service_pb2.CreateSubscriptionRequest(
        tenant_id=tenant,
        account_id=account,
        plan_key=plan,
        interval=_interval(interval),
        billing_provider=_provider(provider),
        quantity=quantity,
        trial_days=trial_days,
        payment_method_id=payment_method,
        promotion_code=promotion_code,
        currency_code=currency,
        end_time=time_of("--end", end),
        request_id=request_id,
        actor=ACTOR,
    )
    response = with_client(
        target, lambda client: client.call(client.subscriptions.CreateSubscription, request, timeout_s=30)
    )
    if as_json:
        print_message(response)
        return
    _print_answer(response)
    if response.hosted_invoice_url:
        typer.echo(f"The first invoice can be paid at {response.hosted_invoice_url}")


def change(
    tenant: Tenant,
    account: Account,
    plan: Plan,
    *,
    subscription: Subscription = "",
    interval: IntervalOption = None,
    quantity: Quantity = None,
    provider: ProviderOption = None,
    payment_method: PaymentMethod = "",
    now: Now = False,
    period_end: PeriodEnd = False,
    at: At = "",
    reason: Reason = "",
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Move a subscription to a plan, an interval or a number of seats: up at once, down at the period's end."""
    from tallygate.v1 import subscription_service_pb2

    request = subscription_service_pb2.ChangePlanRequest(
        tenant_id=tenant,
        account_id=account,
        subscription_id=subscription,
        plan_key=plan,
        interval=_interval(interval),
        quantity=quantity,
        billing_provider=_provider(provider),
        payment_method_id=payment_method,
        timing=_timing(now=now, period_end=period_end, at=at),
        effective_time=time_of("--at", at),
        reason_text=reason,
        request_id=request_id,
        actor=ACTOR,
    )
    response = with_client(target, lambda client: client.call(client.subscriptions.ChangePlan, request, timeout_s=30))
    if as_json:
        print_message(response)
    else:
        _print_answer(response)


def preview(
    tenant: Tenant,
    account: Account,
    plan: Plan,
    *,
    subscription: Subscription = "",
    interval: IntervalOption = None,
    quantity: Quantity = None,
    now: Now = False,
    period_end: PeriodEnd = False,
    at: At = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show what a move would mean: price, proration, and limits that present usage would exceed. Changes nothing."""
    from tallygate.v1 import subscription_service_pb2

    request = subscription_service_pb2.PreviewPlanChangeRequest(
        tenant_id=tenant,
        account_id=account,
        subscription_id=subscription,
        plan_key=plan,
        interval=_interval(interval),
        quantity=quantity,
        timing=_timing(now=now, period_end=period_end, at=at),
        effective_time=time_of("--at", at),
    )
    response = with_client(
        target, lambda client: client.call(client.subscriptions.PreviewPlanChange, request, timeout_s=30)
    )
    if as_json:
        print_message(response)
    else:
        _print_preview(response)


def cancel(
    tenant: Tenant,
    account: Account,
    *,
    subscription: Subscription = "",
    now: Now = False,
    period_end: PeriodEnd = False,
    at: At = "",
    reason: Reason = "",
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Cancel a subscription, at the end of the paid period unless told otherwise."""
    from tallygate.v1 import subscription_service_pb2

    request = subscription_service_pb2.CancelSubscriptionRequest(
        tenant_id=tenant,
        account_id=account,
        subscription_id=subscription,
        timing=_timing(now=now, period_end=period_end, at=at),
        effective_time=time_of("--at", at),
        reason_text=reason,
        request_id=request_id,
        actor=ACTOR,
    )
    response = with_client(
        target, lambda client: client.call(client.subscriptions.CancelSubscription, request, timeout_s=30)
    )
    if as_json:
        print_message(response)
    else:
        _print_answer(response)


def resume(
    tenant: Tenant,
    account: Account,
    *,
    subscription: Subscription = "",
    reason: Reason = "",
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Resume a paused subscription, or take back a cancellation that has not taken effect."""
    from tallygate.v1 import subscription_service_pb2

    request = subscription_service_pb2.ResumeSubscriptionRequest(
        tenant_id=tenant,
        account_id=account,
        subscription_id=subscription,
        reason_text=reason,
        request_id=request_id,
        actor=ACTOR,
    )
    response = with_client(
        target, lambda client: client.call(client.subscriptions.ResumeSubscription, request, timeout_s=30)
    )
    if as_json:
        print_message(response)
    else:
        _print_answer(response)


def pause(
    tenant: Tenant,
    account: Account,
    *,
    subscription: Subscription = "",
    now: Now = False,
    period_end: PeriodEnd = False,
    at: At = "",
    resume_at: Annotated[
        str, typer.Option("--resume-at", metavar="TIME", help="When it goes on by itself; when resumed, if absent.")
    ] = "",
    reason: Reason = "",
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Pause a subscription, at the end of the paid period unless told otherwise."""
    from tallygate.v1 import subscription_service_pb2

    request = subscription_service_pb2.PauseSubscriptionRequest(
        tenant_id=tenant,
        account_id=account,
        subscription_id=subscription,
        timing=_timing(now=now, period_end=period_end, at=at),
        effective_time=time_of("--at", at),
        resume_time=time_of("--resume-at", resume_at),
        reason_text=reason,
        request_id=request_id,
        actor=ACTOR,
    )
    response = with_client(
        target, lambda client: client.call(client.subscriptions.PauseSubscription, request, timeout_s=30)
    )
    if as_json:
        print_message(response)
    else:
        _print_answer(response)


def unschedule(
    tenant: Tenant,
    account: Account,
    subscription: Annotated[str, typer.Argument(metavar="ID", help="The subscription.")],
    *,
    reason: Reason = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Take back what is planned for a subscription and has not taken effect."""
    from tallygate.v1 import subscription_service_pb2

    request = subscription_service_pb2.CancelScheduledChangeRequest(
        tenant_id=tenant, account_id=account, subscription_id=subscription, reason_text=reason, actor=ACTOR
    )
    response = with_client(
        target, lambda client: client.call(client.subscriptions.CancelScheduledChange, request, timeout_s=30)
    )
    if as_json:
        print_message(response)
    else:
        _print_answer(response)


def history(
    tenant: Tenant,
    account: Account,
    subscription: Annotated[str, typer.Argument(metavar="[ID]", help="Only this subscription.")] = "",
    *,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000, help="Steps to show.")] = STEPS_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show who changed an account's subscriptions, when and why, newest first."""
    from tallygate.v1 import subscription_pb2, subscription_service_pb2

    request = subscription_service_pb2.ListSubscriptionChangesRequest(
        tenant_id=tenant, account_id=account, subscription_id=subscription, page_size=count
    )
    page = with_client(target, lambda client: client.call(client.subscriptions.ListSubscriptionChanges, request))
    if as_json:
        print_message(page)
        return
    if not page.changes:
        typer.echo("No such steps.")
        return
    print_table(
        ("when", "what", "state", "plan", "who", "why", "subscription"),
        (
            (
                time_text(step.change_time),
                step.cause.replace("_", " "),
                _state(subscription_pb2.SubscriptionState, step.state_after),
                step.plan_key_after,
                _literal(step.actor),
                _literal(step.reason_text),
                step.subscription_id,
            )
            for step in page.changes
        ),
    )
    if page.next_page_token:
        typer.echo("There are more; --count shows up to 1,000.")


# ---------------------------------------------------------------- what is asked


def _interval(interval: Interval | None) -> Any:
    from tallygate.v1 import catalog_pb2

    if interval is None:
        return catalog_pb2.BILLING_INTERVAL_UNSPECIFIED
    return catalog_pb2.BillingInterval.Value(f"BILLING_INTERVAL_{interval.name}")


def _provider(provider: Provider | None) -> Any:
    from tallygate.v1 import subscription_pb2

    if provider is None:
        return subscription_pb2.BILLING_PROVIDER_UNSPECIFIED
    return subscription_pb2.BillingProvider.Value(f"BILLING_PROVIDER_{provider.name}")


def _timing(*, now: bool, period_end: bool, at: str) -> Any:
    from tallygate.v1 import subscription_service_pb2

    chosen = [
        name
        for name, given in (("NOW", now), ("PERIOD_END", period_end), ("AT_TIME", bool(at)))
        if given
    ]  # fmt: skip
    if len(chosen) > 1:
        raise CommandError("--now, --period-end and --at exclude each other")
    return subscription_service_pb2.ChangeTiming.Value(f"CHANGE_TIMING_{chosen[0] if chosen else 'UNSPECIFIED'}")


# ---------------------------------------------------------------- what is shown


def _print_answer(response: Any) -> None:
    _print_subscription(response.subscription)
    print_facts(
        (
            ("revision", response.revision),
            ("replayed", "yes: the first answer again" if getattr(response, "replayed", False) else ""),
            ("to be paid", "yes: the payment is to be finished" if _secret(response) else ""),
        )
    )


def _secret(response: Any) -> str:
    return getattr(response, "payment_client_secret", "")


def _print_subscription(shown: subscription_pb2.Subscription) -> None:
    from tallygate.v1 import catalog_pb2, subscription_pb2

    planned = shown.scheduled_change
    paused = shown.pause_period
    typer.echo(shown.subscription_id)
    print_facts(
        (
            ("plan", f"{shown.plan_key}, version {shown.plan_version}"),
            ("state", _state(subscription_pb2.SubscriptionState, shown.state)),
            ("price", f"{_money(shown.price)} a {_name(catalog_pb2.BillingInterval, shown.interval)}"
             if shown.HasField("price") else "free"),
            ("seats", shown.quantity),
            ("collected by", _name(subscription_pb2.BillingProvider, shown.billing_provider)),
            ("at the provider", shown.provider_subscription_id),
            ("began", time_text(shown.start_time)),
            ("period", _span(shown.current_period.start_time, shown.current_period.end_time)),
            ("trial until", time_text(shown.trial_period.end_time)),
            ("paused", _span(paused.start_time, paused.end_time) if shown.HasField("pause_period") else ""),
            ("grace ends", time_text(shown.grace_end_time)),
            ("ends", time_text(shown.end_time)),
            ("planned", _planned(planned) if shown.HasField("scheduled_change") else ""),
        )
    )  # fmt: skip


def _print_subscriptions(subscriptions: list[subscription_pb2.Subscription]) -> None:
    from tallygate.v1 import subscription_pb2

    print_table(
        ("plan", "state", "seats", "price", "period ends", "planned", "id"),
        (
            (
                item.plan_key,
                _state(subscription_pb2.SubscriptionState, item.state),
                item.quantity,
                _money(item.price) if item.HasField("price") else "free",
                time_text(item.current_period.end_time) or "-",
                _planned(item.scheduled_change) if item.HasField("scheduled_change") else "",
                item.subscription_id,
            )
            for item in subscriptions
        ),
        numeric=("seats", "price"),
    )


def _print_preview(response: subscription_service_pb2.PreviewPlanChangeResponse) -> None:
    from tallygate.v1 import subscription_service_pb2

    direction = subscription_service_pb2.PlanChangeDirection.Name(response.direction)
    typer.echo(f"{direction.removeprefix('PLAN_CHANGE_DIRECTION_').lower()} at {time_text(response.effective_time)}")
    print_facts(
        (
            ("price now", _money(response.present_price) if response.HasField("present_price") else "free"),
            ("price then", _money(response.new_price) if response.HasField("new_price") else "free"),
            ("due now", _money(response.due_now) if response.HasField("due_now") else ""),
            ("next invoice", _money(response.next_invoice) if response.HasField("next_invoice") else ""),
            ("lost", ", ".join(response.lost_feature_keys)),
            ("gained", ", ".join(response.gained_feature_keys)),
        )
    )
    if response.proration_lines:
        print_table(
            ("line", "amount"),
            ((_literal(line.description), _money(line.amount)) for line in response.proration_lines),
            numeric=("amount",),
        )
    if response.exceeded_limits:
        typer.echo("Present usage would exceed:")
        print_table(
            ("feature", "used", "limit", "too much"),
            (
                (item.feature_key, f"{item.used_quantity:,}", f"{item.limit_quantity:,}", f"{item.excess_quantity:,}")
                for item in response.exceeded_limits
            ),
            numeric=("used", "limit", "too much"),
        )


def _planned(change: subscription_pb2.ScheduledChange) -> str:
    from tallygate.v1 import subscription_pb2

    kind = subscription_pb2.ScheduledChangeKind.Name(change.kind).removeprefix("SCHEDULED_CHANGE_KIND_").lower()
    what = f"{change.plan_key}" if change.plan_key else kind
    return f"{what} at {time_text(change.effective_time)}"


def _span(start: Timestamp, end: Timestamp) -> str:
    return f"{time_text(start)} to {time_text(end) or 'any time'}"


def _money(money: money_pb2.Money) -> str:
    from tallygate_server.domain.money import format_amount

    return f"{format_amount(money.minor_units, money.currency_code)} {money.currency_code}"


def _state(states: Any, state: int) -> str:
    return str(states.Name(state)).removeprefix("SUBSCRIPTION_STATE_").lower().replace("_", " ")


def _name(names: Any, value: int) -> str:
    return str(names.Name(value)).rpartition("_")[2].lower() if value else ""


def _literal(text: str) -> str:
    """Return text that is shown as it is, brackets included."""
    return text.replace("[", r"\[")
