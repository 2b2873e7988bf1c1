"""Commands about what an account's people may ask for: consents, an export, an erasure, its receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from tallygate_server.cli.options import ACTOR, TARGET_DEFAULT, Account, Json, Target, Tenant, time_of, with_client
from tallygate_server.cli.output import print_facts, print_message, print_table, time_text

if TYPE_CHECKING:
    from tallygate.v1 import account_pb2

SHOWN_MAX: Final = 100

Purpose = Annotated[str, typer.Argument(metavar="PURPOSE", help="What for, such as ai_training or marketing.")]
RequestId = Annotated[str, typer.Option("--request-id", help="Makes a retry safe: the same id is done once.")]


def add_to(account: typer.Typer) -> None:
    """Add these commands to the group of accounts."""
    consent = typer.Typer(no_args_is_help=True, help="Record and list consents.")
    consent.command("record")(consent_record)
    consent.command("list")(consent_list)
    account.add_typer(consent, name="consent")


def consent_record(
    tenant: Tenant,
    account: Account,
    purpose: Purpose,
    *,
    granted: Annotated[bool, typer.Option("--granted/--refused", help="Whether it is given or refused.")],
    policy_version: Annotated[str, typer.Option(help="Version of the text that was shown.")] = "",
    source: Annotated[str, typer.Option(help="Where it was given, such as a form.")] = "",
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="When it was given; now when absent.")] = "",
    end: Annotated[str, typer.Option("--end", metavar="TIME", help="When it ends; never when absent.")] = "",
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Record that an account lets its data be used for a purpose, or does not."""
    from tallygate.v1 import account_service_pb2

    request = account_service_pb2.RecordConsentRequest(
        tenant_id=tenant,
        account_id=account,
        purpose=purpose,
        granted=granted,
        policy_version=policy_version,
        source=source,
        consent_time=time_of("--at", at),
        expire_time=time_of("--end", end),
        actor=ACTOR,
        request_id=request_id,
    )
    response = with_client(target, lambda client: client.call(client.accounts.RecordConsent, request))
    if as_json:
        print_message(response)
        return
    consent = response.consent
    print_facts(
        (
            ("consent", consent.consent_id),
            ("purpose", consent.purpose),
            ("says", _says(consent)),
            ("since", time_text(consent.consent_time)),
            ("until", time_text(consent.expire_time)),
        )
    )


def consent_list(
    tenant: Tenant,
    account: Account,
    *,
    purpose: Annotated[str, typer.Option(help="Only this purpose.")] = "",
    current: Annotated[bool, typer.Option("--current", help="Only what counts now.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List an account's consents, newest first."""
    from tallygate.v1 import account_service_pb2

    request = account_service_pb2.ListConsentsRequest(
        tenant_id=tenant, account_id=account, purpose=purpose, current_only=current, page_size=SHOWN_MAX
    )
    page = with_client(target, lambda client: client.call(client.accounts.ListConsents, request))
    if as_json:
        print_message(page)
    elif page.consents:
        print_table(
            ("purpose", "says", "since", "until", "policy", "source", "recorded by"),
            (
                (
                    consent.purpose,
                    _says(consent),
                    time_text(consent.consent_time),
                    time_text(consent.expire_time),
                    consent.policy_version,
                    consent.source,
                    consent.actor,
                )
                for consent in page.consents
            ),
        )
        if page.next_page_token:
            typer.echo(f"There are more than {SHOWN_MAX}.")
    else:
        typer.echo("No consents.")


def _says(consent: account_pb2.Consent) -> str:
    return "granted" if consent.granted else "refused"
