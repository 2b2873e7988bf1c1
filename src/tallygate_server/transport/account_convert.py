"""Between the wire messages of accounts and those of the use case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tallygate.v1 import account_pb2, account_service_pb2
from tallygate_server.accounts import Account, AccountUpdate, Identity
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.subscriptions import SubscriptionView
from tallygate_server.transport.convert import (
    api_enum,
    domain_enum,
    from_api_struct,
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
