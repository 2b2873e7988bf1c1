"""Between the wire messages of accounts and those of the use case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from tallygate.v1 import account_pb2, account_service_pb2
from tallygate_server.accounts import Account, AccountUpdate, Identity
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.privacy.consents import Consent, NewConsent
from tallygate_server.subscriptions import SubscriptionView
from tallygate_server.transport.convert import (
    api_enum,
    domain_enum,
    from_api_struct,
    from_api_time,
    optional,
    to_api_instant,
    to_api_optional_instant,
    to_api_struct,
)

_STATES: Final = domain_enum(AccountState, account_pb2.AccountState, "ACCOUNT_STATE")
_API_STATE: Final = api_enum(AccountState, account_pb2.AccountState, "ACCOUNT_STATE")


def from_api_state(state: int) -> AccountState | None:
    """Convert a state to filter by; None for unset."""
    return _STATES.get(state)


def from_api_identity(identity: account_pb2.Identity) -> Identity:
    """Convert one identity."""
    return Identity(identity.provider, identity.external_id)


def from_api_identities(identities: Iterable[account_pb2.Identity]) -> list[Identity]:
    """Convert several identities."""
    return [from_api_identity(identity) for identity in identities]


def from_api_update(request: account_service_pb2.UpdateAccountRequest) -> AccountUpdate:
    """Convert what is to change; absent fields stay None."""
    return AccountUpdate(
        email=optional(request, "email"),
        display_name=optional(request, "display_name"),
        time_zone=optional(request, "time_zone"),
        preferences=from_api_struct(request.preferences),
        metadata=dict(request.metadata),
        linked_identities=from_api_identities(request.linked_identities),
        unlinked_identities=from_api_identities(request.unlinked_identities),
    )


def to_api_account(account: Account) -> account_pb2.Account:
    """Convert an account."""
    return account_pb2.Account(
        tenant_id=account.tenant_id,
        account_id=account.account_id,
        state=_API_STATE[account.state],
        identities=[
            account_pb2.Identity(provider=identity.provider, external_id=identity.external_id)
            for identity in account.identities
        ],
        email=account.email,
        display_name=account.display_name,
        time_zone=account.time_zone,
        preferences=to_api_struct(account.preferences),
        metadata=account.metadata,
        suspend_reason=account.suspend_reason,
        create_time=to_api_instant(account.create_time),
        update_time=to_api_instant(account.update_time),
        last_seen_time=to_api_optional_instant(account.last_seen_time),
        revision=account.revision,
    )


def leading(views: Sequence[SubscriptionView]) -> SubscriptionView | None:
    """Return the subscription that speaks for the account: the dearest of the live ones, then the newest."""
    return max(views, key=lambda view: (view.price.amount_minor if view.price else 0, view.create_time), default=None)


def from_api_consent(request: account_service_pb2.RecordConsentRequest) -> NewConsent:
    """Convert a statement to record; an absent time stays None."""
    return NewConsent(
        purpose=request.purpose,
        granted=request.granted,
        policy_version=request.policy_version,
        source=request.source,
        consent_time=(
            from_api_time(request.consent_time, "consent_time") if request.HasField("consent_time") else None
        ),
        expire_time=from_api_time(request.expire_time, "expire_time") if request.HasField("expire_time") else None,
    )


def to_api_consent(consent: Consent) -> account_pb2.Consent:
    """Convert a statement."""
    return account_pb2.Consent(
        consent_id=consent.consent_id,
        account_id=consent.account_id,
        purpose=consent.purpose,
        granted=consent.granted,
        policy_version=consent.policy_version,
        source=consent.source,
        consent_time=to_api_instant(consent.consent_time),
        expire_time=to_api_optional_instant(consent.expire_time),
        actor=consent.actor,
    )


def consent_position(consent: Consent) -> str:
    """Return where the page after this statement begins."""
    return f"{consent.sequence} {consent.consent_time.isoformat()}"


def from_consent_position(position: str) -> tuple[datetime, int] | None:
    """Return what `consent_position` wrote; None for the first page."""
    if not position:
        return None
    sequence, _, time = position.partition(" ")
    return datetime.fromisoformat(time), int(sequence)
