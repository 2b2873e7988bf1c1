"""Customers: who pays for an account at the billing provider. An account has one; Tallygate never makes a second."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Final

from tallygate_server.billing.not_configured import connected
from tallygate_server.billing.observed import ObservedCustomer, PostalAddress
from tallygate_server.billing.operations import Operation, Operations, Work
from tallygate_server.billing.ports import Order
from tallygate_server.billing.provider import CustomerDetails, PaymentProvider
from tallygate_server.clock import Clock
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.subscription import BillingProvider
from tallygate_server.errors import (
    AccountDeleted,
    AccountNotFound,
    CustomerNotFound,
    InvalidRequest,
    PaymentRefused,
)
from tallygate_server.storage import accounts as account_rows
from tallygate_server.storage import billing as rows
from tallygate_server.storage.accounts import Account
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.billing import CustomerRow
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.mapping import Json
from tallygate_server.tenants import TenantDirectory
from tallygate_server.unique_ids import id_of

ATTRIBUTE_PREFIX: Final = "tallygate_"
"""Of metadata keys that tell whose an object of the provider is; callers see and set all others."""
METADATA_PAIRS_MAX: Final = 40
METADATA_KEY_LENGTH_MAX: Final = 40
METADATA_VALUE_LENGTH_MAX: Final = 500
"""What the provider takes, less a few pairs for attributes of ours."""
CLOCK_SKEW_MAX: Final = timedelta(minutes=5)
"""How far the provider's clock may be from ours when something is looked for by the time of its making."""

_SUBJECT: Final = BillingProvider.STRIPE.value


class Customers:
    """Makes, changes and finds customers."""

    def __init__(
        self,
        database: Database,
        operations: Operations,
        *,
        provider: PaymentProvider | None,
        tenants: TenantDirectory,
        clock: Clock,
    ) -> None:
        """Keep customers in the database as the provider has them (None: no provider is connected)."""
        self._database = database
        self._operations = operations
        self._provider = provider
        self._tenants = tenants
        self._clock = clock

    async def find(self, tenant_id: TenantId, account_id: AccountId) -> CustomerRow:
        """Return the account's customer; raise CustomerNotFound."""
        row = await self._stored(tenant_id, account_id)
        if row is None:
            raise CustomerNotFound(account_id)
        return row

    async def ensure(self, tenant_id: TenantId, account_id: AccountId, *, actor: str) -> CustomerRow:
        """Return the account's customer, made with the account's name and address where there is none (any more).

        Raises AccountNotFound, AccountDeleted, OperationInProgress, BillingProviderUnavailable, PaymentRefused.
        """
        provider = connected(self._provider)
        row = await self._stored(tenant_id, account_id)
        if row is not None:
            observed = await provider.customer(row.provider_customer_id)
            if observed is not None and not observed.deleted:
                return row
            # Whoever deleted it there did not tell us (yet).
            async with self._database.tenant_transaction(tenant_id) as connection:
                await rows.write_customer(
                    connection, tenant_id, replace(row, deleted=True, update_time=self._clock.now())
                )

        async def prepare() -> Json:
            async with self._database.tenant_transaction(tenant_id) as connection:
                account = await _account(connection, tenant_id, account_id)
            return {"email": account.email, "name": account.display_name}

        order = Order(
            tenant_id=tenant_id,
            account_id=account_id,
            actor=actor,
            reason="",
            request_id="",
            fingerprint=_fingerprint("create_customer", {}),
        )
        work = Work(
            kind="create_customer",
            subject=_SUBJECT,
            prepare=prepare,
            look=self._look_for_new,
            act=self._create,
            remember=_remember,
            recall=lambda result: self._recall(tenant_id, account_id, result),
            store=lambda connection, made: self._store(connection, tenant_id, made, actor, "customer.create"),
        )
        made, _ = await self._operations.carry_out(order, work)
        return made

    async def update(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        details: CustomerDetails,
        *,
        billing_provider: BillingProvider | None = None,
        request_id: str = "",
        actor: str = "",
    ) -> CustomerRow:
        """Change the account's customer, who is made where there is none, there and here.

        Raises as `ensure`, TenantNotFound, RequestIdReused, InvalidRequest.
        """
        if billing_provider not in (None, BillingProvider.STRIPE):
            raise InvalidRequest.of("billing_provider", "only Stripe keeps customers")
        _check_metadata(details.metadata)
        await self._tenants.get(tenant_id)
        provider = connected(self._provider)
        content = _details_to_json(details)
        order = Order(
            tenant_id=tenant_id,
            account_id=account_id,
            actor=actor,
            reason="",
            request_id=request_id,
            fingerprint=_fingerprint("update_customer", content),
        )

        async def prepare() -> Json:
            customer = await self.ensure(tenant_id, account_id, actor=actor)
            return {
                "customer_id": customer.customer_id,
                "provider_customer_id": customer.provider_customer_id,
                "details": content,
            }

        async def change(operation: Operation) -> CustomerRow:
            prepared = operation.prepared
            observed = await provider.update_customer(
                prepared["provider_customer_id"], _details_from_json(prepared["details"]), operation_id=operation.key
            )
            return self._row(observed, account_id, prepared["customer_id"])

        work = Work(
            kind="update_customer",
            subject=_SUBJECT,
            prepare=prepare,
            # The same details twice are the same as once.
            look=_nothing,
            act=change,
            remember=_remember,
            recall=lambda result: self._recall(tenant_id, account_id, result),
            store=lambda connection, changed: self._store(connection, tenant_id, changed, actor, "customer.update"),
        )
        changed, _ = await self._operations.carry_out(order, work)
        return changed

    async def _stored(self, tenant_id: TenantId, account_id: AccountId) -> CustomerRow | None:
        async with self._database.tenant_transaction(tenant_id) as connection:
            found = await rows.read_customers_of(connection, tenant_id, account_id)
        return next((row for row in found if not row.deleted), None)

    async def _look_for_new(self, operation: Operation) -> CustomerRow | None:
        row = await self._stored(operation.tenant_id, operation.account_id)
        if row is not None:
            return row
        found = await connected(self._provider).find_customer(
            operation.tenant_id,
            operation.account_id,
            created_since=operation.row.create_time - CLOCK_SKEW_MAX,
        )
        return None if found is None or found.deleted else self._row(found, operation.account_id)

    async def _create(self, operation: Operation) -> CustomerRow:
        # Another call may have been done since this one looked.
        row = await self._stored(operation.tenant_id, operation.account_id)
        if row is not None:
            return row
        prepared = operation.prepared
        details = CustomerDetails(email=prepared["email"] or None, name=prepared["name"] or None)
        observed = await connected(self._provider).create_customer(
            operation.tenant_id, operation.account_id, details, operation_id=operation.key
        )
        if observed.deleted:
            raise PaymentRefused(
                "the customer was deleted at Stripe while it was made",
                billing_provider="stripe",
                provider_code="resource_missing",
            )
        return self._row(observed, operation.account_id)

    async def _recall(self, tenant_id: TenantId, account_id: AccountId, result: Json) -> CustomerRow | None:
        row = await self._stored(tenant_id, account_id)
        return row if row is not None and row.provider_customer_id == result["provider_customer_id"] else None

    async def _store(
        self, connection: Connection, tenant_id: TenantId, row: CustomerRow, actor: str, action: str
    ) -> None:
        await rows.write_customer(connection, tenant_id, row)
        await add_audit_entry(
            connection,
            tenant_id,
            actor=actor,
            action=action,
            subject=f"customer:{row.customer_id}",
            detail={"account_id": row.account_id, "provider_customer_id": row.provider_customer_id},
        )

    def _row(self, observed: ObservedCustomer, account_id: AccountId, customer_id: str = "") -> CustomerRow:
        now = self._clock.now()
        made = observed.create_time or now
        return CustomerRow(
            customer_id=customer_id or id_of("cus", made, observed.customer_id),
            account_id=account_id,
            provider_customer_id=observed.customer_id,
            email=observed.email,
            name=observed.name,
            default_payment_method_id=observed.default_payment_method_id,
            currency=observed.currency,
            tax_ids=observed.tax_ids,
            address=observed.address,
            metadata=free_metadata(observed.metadata),
            deleted=observed.deleted,
            create_time=made,
            update_time=now,
        )


def free_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata without attributes of ours."""
    return {key: value for key, value in metadata.items() if not key.startswith(ATTRIBUTE_PREFIX)}


async def _nothing(_operation: Operation) -> None:
    return None


async def _account(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> Account:
    account = await account_rows.read_account(connection, tenant_id, account_id)
    if account is None:
        raise AccountNotFound(account_id)
    if account.state is AccountState.DELETED:
        raise AccountDeleted(account_id)
    return account


def _remember(row: CustomerRow) -> Json:
    return {"provider_customer_id": row.provider_customer_id}


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > METADATA_PAIRS_MAX:
        raise InvalidRequest.of("metadata", f"at most {METADATA_PAIRS_MAX} pairs")
    for key, value in metadata.items():
        field = f"metadata[{key[:METADATA_KEY_LENGTH_MAX]}]"
        if key.startswith(ATTRIBUTE_PREFIX):
            raise InvalidRequest.of(field, f"keys that begin with {ATTRIBUTE_PREFIX} are Tallygate's own")
        if len(key) > METADATA_KEY_LENGTH_MAX or len(value) > METADATA_VALUE_LENGTH_MAX:
            raise InvalidRequest.of(
                field, f"at most {METADATA_KEY_LENGTH_MAX} in a key, {METADATA_VALUE_LENGTH_MAX} in a value"
            )


def _details_to_json(details: CustomerDetails) -> Json:
    return {
        "email": details.email,
        "name": details.name,
        "default_payment_method_id": details.default_payment_method_id,
        "tax_ids": None if details.tax_ids is None else [list(pair) for pair in details.tax_ids],
        "address": None if details.address is None else asdict(details.address),
        "metadata": dict(details.metadata),
    }


def _details_from_json(details: Json) -> CustomerDetails:
    return CustomerDetails(
        email=details["email"],
        name=details["name"],
        default_payment_method_id=details["default_payment_method_id"],
        tax_ids=None if details["tax_ids"] is None else tuple((pair[0], pair[1]) for pair in details["tax_ids"]),
        address=None if details["address"] is None else PostalAddress(**details["address"]),
        metadata=details["metadata"],
    )


def _fingerprint(method: str, content: Json) -> str:
    return hashlib.sha256(f"{method} {json.dumps(content, sort_keys=True)}".encode()).hexdigest()
