"""SQL of what the billing provider reports: whose its objects are, customers, invoices, payments, reconciliations.

The functions on top ask across tenants and run as the intake (`DatabaseRole.INTAKE`); all others run in the caller's
transaction, which sees one tenant's rows. Each object of the provider is one row, whoever reports it and how often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final

from sqlalchemy import Row, Select, Table, select, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.billing.observed import PostalAddress
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    BillingProvider,
    ScheduledChange,
    SubscriptionState,
)
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.subscriptions import SubscriptionRow, read_subscription
from tallygate_server.storage.tables import (
    account_identities,
    billing_operations,
    checkout_sessions,
    customers,
    invoices,
    payments,
    reconciliations,
    scheduled_changes,
    subscription_history,
    subscriptions,
    tenants,
)

STRIPE: Final = BillingProvider.STRIPE.value

_FIXED: Final = frozenset({"account_id", "create_time", "payment_id", "provider_invoice_id", "provider_payment_id"})
"""What never changes of an invoice or a payment once it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose an object of the provider is."""

    tenant_id: TenantId
    account_id: AccountId
    subscription_id: str = ""
    """The subscription here; empty where a customer was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSubscription:
    """A subscription of ours that the provider collects money for, in few words."""

    tenant_id: TenantId
    account_id: AccountId
    subscription_id: str
    provider_subscription_id: str
    state: SubscriptionState


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerRow:
    """A customer as stored."""

    customer_id: str
    account_id: AccountId
    provider_customer_id: str
    email: str = ""
    name: str = ""
    default_payment_method_id: str = ""
    currency: str = ""
    tax_ids: tuple[tuple[str, str], ...] = ()
    """Pairs of type and value."""
    address: PostalAddress | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted: bool = False
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceRow:
    """An invoice as stored; amounts in the currency's minor unit."""

    invoice_id: str
    account_id: AccountId
    subscription_id: str
    """Empty where it bills none of ours."""
    provider_invoice_id: str
    state: str
    number: str
    currency: str
    due_minor: int
    paid_minor: int
    tax_minor: int
    period_start_time: datetime | None
    period_end_time: datetime | None
    due_time: datetime | None
    attempt_count: int
    next_attempt_time: datetime | None
    hosted_url: str
    create_time: datetime
    paid_time: datetime | None
    update_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRow:
    """A payment as stored; amounts in the currency's minor unit."""

    payment_id: str
    account_id: AccountId
    subscription_id: str
    """Empty where it paid for none of ours."""
    invoice_id: str
    """The invoice here; empty where it paid none of ours."""
    provider_payment_id: str
    state: str
    currency: str
    amount_minor: int
    refunded_minor: int
    description: str
    failure_code: str
    disputed: bool
    fraud_warning: bool
    metadata: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime
    update_time: datetime


# --- Across tenants: as the intake ----------------------------------------------------------------------


async def owner_of_subscription(connection: Connection, provider_subscription_id: str) -> Owner | None:
    """Return whose the provider's subscription is, of whichever tenant; None where there is no row of it."""
    rows = await connection.execute(
        select(subscriptions.c.tenant_id, subscriptions.c.account_id, subscriptions.c.subscription_id).where(
            subscriptions.c.provider == STRIPE, subscriptions.c.provider_subscription_id == provider_subscription_id
        )
    )
    row = rows.one_or_none()
    if row is None:
        return None
    return Owner(
        tenant_id=TenantId(row.tenant_id), account_id=AccountId(row.account_id), subscription_id=row.subscription_id
    )


async def owner_of_customer(connection: Connection, provider_customer_id: str) -> Owner | None:
    """Return whose the provider's customer is: by its row, an identity `stripe:cus_...`, or what it has bought."""
    asked = (
        select(customers.c.tenant_id, customers.c.account_id).where(
            customers.c.provider == STRIPE, customers.c.provider_customer_id == provider_customer_id
        ),
        select(account_identities.c.tenant_id, account_identities.c.account_id).where(
            account_identities.c.provider == STRIPE, account_identities.c.external_id == provider_customer_id
        ),
        select(subscriptions.c.tenant_id, subscriptions.c.account_id).where(
            subscriptions.c.provider == STRIPE, subscriptions.c.provider_customer_id == provider_customer_id
        ),
    )
    for statement in asked:
        found = (await connection.execute(statement.distinct().limit(2))).all()
        if len(found) == 1:
            return Owner(tenant_id=TenantId(found[0].tenant_id), account_id=AccountId(found[0].account_id))
        if found:
            # Of two accounts that both say it is theirs, none is believed.
            return None
    return None


async def every_tenant(connection: Connection) -> list[TenantId]:
    """Return the ids of all tenants."""
    rows = await connection.execute(select(tenants.c.tenant_id).order_by(tenants.c.tenant_id))
    return [TenantId(row.tenant_id) for row in rows]


async def subscriptions_at_provider(
    connection: Connection,
    *,
    tenant_id: str = "",
    account_id: str = "",
    after_provider_subscription_id: str = "",
    limit: int,
) -> list[ProviderSubscription]:
    """Return live subscriptions that the provider collects money for, by its ids, from after the given one."""
    columns = subscriptions.c
    statement = select(
        columns.tenant_id, columns.account_id, columns.subscription_id, columns.provider_subscription_id, columns.state
    ).where(
        columns.provider == STRIPE,
        columns.provider_subscription_id > after_provider_subscription_id,
        columns.state.in_([state.value for state in LIVE_STATES]),
    )
    if tenant_id:
        statement = statement.where(columns.tenant_id == tenant_id)
    if account_id:
        statement = statement.where(columns.account_id == account_id)
    rows = await connection.execute(statement.order_by(columns.provider_subscription_id).limit(limit))
    return [
        ProviderSubscription(
            tenant_id=TenantId(row.tenant_id),
            account_id=AccountId(row.account_id),
            subscription_id=row.subscription_id,
            provider_subscription_id=row.provider_subscription_id,
            state=SubscriptionState(row.state),
        )
        for row in rows
    ]


async def live_subscriptions_of_customer(connection: Connection, provider_customer_id: str, *, limit: int) -> list[str]:
    """Return the provider's ids of live subscriptions that the customer pays for."""
    rows = await connection.execute(
        select(subscriptions.c.provider_subscription_id)
        .where(
            subscriptions.c.provider == STRIPE,
            subscriptions.c.provider_customer_id == provider_customer_id,
            subscriptions.c.provider_subscription_id.is_not(None),
            subscriptions.c.state.in_([state.value for state in LIVE_STATES]),
        )
        .order_by(subscriptions.c.provider_subscription_id)
        .limit(limit)
    )
    return [row.provider_subscription_id for row in rows]


# --- Subscriptions --------------------------------------------------------------------------------------


async def read_by_provider_id(
    connection: Connection, tenant_id: TenantId, provider_subscription_id: str
) -> SubscriptionRow | None:
    """Return the tenant's row of the provider's subscription, or None."""
    rows = await connection.execute(
        select(subscriptions.c.subscription_id).where(
            subscriptions.c.tenant_id == tenant_id,
            subscriptions.c.provider == STRIPE,
            subscriptions.c.provider_subscription_id == provider_subscription_id,
        )
    )
    subscription_id = rows.scalar_one_or_none()
    return None if subscription_id is None else await read_subscription(connection, tenant_id, subscription_id)


async def write_provider_columns(connection: Connection, tenant_id: TenantId, row: SubscriptionRow) -> None:
    """Store what belongs to the provider's side of the row, and its metadata."""
    await connection.execute(
        update(subscriptions)
        .where(
            subscriptions.c.tenant_id == tenant_id,
            subscriptions.c.subscription_id == row.subscription.subscription_id,
        )
        .values(
            provider_subscription_id=row.provider_subscription_id or None,
            provider_customer_id=row.provider_customer_id or None,
            provider_price_id=row.provider_price_id or None,
            metadata=row.metadata,
        )
    )


async def has_step_of_request(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str
) -> bool:
    """Tell whether the history knows a step of the request."""
    rows = await connection.execute(
        select(subscription_history.c.history_id)
        .where(
            subscription_history.c.tenant_id == tenant_id,
            subscription_history.c.account_id == account_id,
            subscription_history.c.after["request"]["id"].astext == request_id,
        )
        .limit(1)
    )
    return rows.first() is not None


async def has_trial_notice(
    connection: Connection, tenant_id: TenantId, subscription_id: str, trial_end_time: datetime | None
) -> bool:
    """Tell whether the end of this trial has been announced."""
    rows = await connection.execute(
        select(subscription_history.c.after).where(
            subscription_history.c.tenant_id == tenant_id,
            subscription_history.c.subscription_id == subscription_id,
            subscription_history.c.action == "trial_will_end",
        )
    )
    wanted = None if trial_end_time is None else trial_end_time.isoformat()
    return any(row.after.get("trial_end_time") == wanted for row in rows)


# --- What is planned at the provider --------------------------------------------------------------------


async def subscription_of_schedule(connection: Connection, provider_schedule_id: str) -> str:
    """Return the provider's subscription that the schedule was last seen with; as the intake; empty for none."""
    rows = await connection.execute(
        select(subscriptions.c.provider_subscription_id)
        .join(
            scheduled_changes,
            (scheduled_changes.c.tenant_id == subscriptions.c.tenant_id)
            & (scheduled_changes.c.subscription_id == subscriptions.c.subscription_id),
        )
        .where(scheduled_changes.c.provider_schedule_id == provider_schedule_id)
        .limit(1)
    )
    return rows.scalar_one_or_none() or ""


async def write_pending_change(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, change: ScheduledChange, *, at: datetime
) -> None:
    """Add the change, or store it as it now is."""
    values = {
        "kind": change.kind.value,
        "effective_time": change.effective_time,
        "plan_key": change.plan_key,
        "plan_version": change.plan_version,
        "interval": change.interval.value if change.interval is not None else None,
        "quantity": change.quantity,
        "provider": change.provider.value if change.provider is not None else None,
        "resume_time": change.resume_time,
        "provider_schedule_id": change.provider_schedule_id or None,
        "update_time": at,
    }
    await connection.execute(
        insert(scheduled_changes)
        .values(
            tenant_id=tenant_id,
            scheduled_change_id=change.scheduled_change_id,
            subscription_id=change.subscription_id,
            account_id=account_id,
            state="pending",
            actor=change.actor,
            reason=change.reason,
            create_time=change.create_time,
            **values,
        )
        .on_conflict_do_update(index_elements=["tenant_id", "scheduled_change_id"], set_=values)
    )


# --- Customers ------------------------------------------------------------------------------------------


async def read_customer(connection: Connection, tenant_id: TenantId, provider_customer_id: str) -> CustomerRow | None:
    """Return the tenant's row of the provider's customer, or None."""
    rows = await connection.execute(
        select(customers).where(
            customers.c.tenant_id == tenant_id,
            customers.c.provider == STRIPE,
            customers.c.provider_customer_id == provider_customer_id,
        )
    )
    row = rows.one_or_none()
    return None if row is None else _customer(row)


async def read_customers_of(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> list[CustomerRow]:
    """Return the account's customers, deleted ones too, oldest first."""
    rows = await connection.execute(
        select(customers)
        .where(customers.c.tenant_id == tenant_id, customers.c.account_id == account_id)
        .order_by(customers.c.create_time, customers.c.customer_id)
    )
    return [_customer(row) for row in rows]


async def write_customer(connection: Connection, tenant_id: TenantId, row: CustomerRow) -> None:
    """Add the customer, or store it as it now is; one that is another account's stays that account's."""
    changing = {
        "email": row.email,
        "name": row.name,
        "default_payment_method_id": row.default_payment_method_id,
        "currency": row.currency,
        "tax_ids": [list(pair) for pair in row.tax_ids],
        "address": None if row.address is None else asdict(row.address),
        "metadata": dict(row.metadata),
        "deleted": row.deleted,
        "update_time": row.update_time,
    }
    await connection.execute(
        insert(customers)
        .values(
            tenant_id=tenant_id,
            customer_id=row.customer_id,
            account_id=row.account_id,
            provider=STRIPE,
            provider_customer_id=row.provider_customer_id,
            create_time=row.create_time,
            **changing,
        )
        .on_conflict_do_update(
            index_elements=["provider", "provider_customer_id"],
            set_=changing,
            where=customers.c.tenant_id == tenant_id,
        )
    )


async def page_of_customers(
    connection: Connection, tenant_id: TenantId, *, account_id: str, before_customer_id: str, limit: int
) -> list[CustomerRow]:
    """Return customers, newest first, from before the given one (empty: from the newest)."""
    statement = _page(
        customers, "customer_id", tenant_id, account_id=account_id, before_key=before_customer_id, limit=limit
    )
    return [_customer(row) for row in await connection.execute(statement)]


# --- Invoices -------------------------------------------------------------------------------------------


async def read_invoice(connection: Connection, tenant_id: TenantId, provider_invoice_id: str) -> InvoiceRow | None:
    """Return the tenant's row of the provider's invoice, or None."""
    rows = await connection.execute(
        select(invoices).where(
            invoices.c.tenant_id == tenant_id,
            invoices.c.provider == STRIPE,
            invoices.c.provider_invoice_id == provider_invoice_id,
        )
    )
    row = rows.one_or_none()
    return None if row is None else _invoice(row)


async def write_invoice(connection: Connection, tenant_id: TenantId, row: InvoiceRow) -> None:
    """Add the invoice, or store it as it now is."""
    values = {name: getattr(row, name) for name in InvoiceRow.__dataclass_fields__}
    values["subscription_id"] = row.subscription_id or None
    await connection.execute(
        insert(invoices)
        .values(tenant_id=tenant_id, provider=STRIPE, **values)
        .on_conflict_do_update(
            index_elements=["provider", "provider_invoice_id"],
            set_={name: value for name, value in values.items() if name not in _FIXED | {"invoice_id"}},
            where=invoices.c.tenant_id == tenant_id,
        )
    )


async def page_of_invoices(
    connection: Connection,
    tenant_id: TenantId,
    *,
    account_id: str,
    subscription_id: str,
    state: str,
    start_time: datetime | None,
    end_time: datetime | None,
    before_invoice_id: str,
    limit: int,
) -> list[InvoiceRow]:
    """Return invoices, newest first, from before the given one. Empty filters admit everything."""
    statement = _page(
        invoices, "invoice_id", tenant_id, account_id=account_id, before_key=before_invoice_id, limit=limit
    )
    statement = _filtered(
        statement, invoices, subscription_id=subscription_id, state=state, start_time=start_time, end_time=end_time
    )
    return [_invoice(row) for row in await connection.execute(statement)]


# --- Payments -------------------------------------------------------------------------------------------


async def read_payment(connection: Connection, tenant_id: TenantId, provider_payment_id: str) -> PaymentRow | None:
    """Return the tenant's row of the provider's payment, or None."""
    rows = await connection.execute(
        select(payments).where(
            payments.c.tenant_id == tenant_id,
            payments.c.provider == STRIPE,
            payments.c.provider_payment_id == provider_payment_id,
        )
    )
    row = rows.one_or_none()
    return None if row is None else _payment(row)


async def write_payment(connection: Connection, tenant_id: TenantId, row: PaymentRow) -> None:
    """Add the payment, or store it as it now is."""
    values = {name: getattr(row, name) for name in PaymentRow.__dataclass_fields__}
    values["subscription_id"] = row.subscription_id or None
    values["invoice_id"] = row.invoice_id or None
    values["metadata"] = dict(row.metadata)
    await connection.execute(
        insert(payments)
        .values(tenant_id=tenant_id, provider=STRIPE, **values)
        .on_conflict_do_update(
            index_elements=["provider", "provider_payment_id"],
            set_={name: value for name, value in values.items() if name not in _FIXED},
            where=payments.c.tenant_id == tenant_id,
        )
    )


async def page_of_payments(
    connection: Connection,
    tenant_id: TenantId,
    *,
    account_id: str,
    subscription_id: str,
    state: str,
    start_time: datetime | None,
    end_time: datetime | None,
    before_payment_id: str,
    limit: int,
) -> list[PaymentRow]:
    """Return payments, newest first, from before the given one. Empty filters admit everything."""
    statement = _page(
        payments, "payment_id", tenant_id, account_id=account_id, before_key=before_payment_id, limit=limit
    )
    statement = _filtered(
        statement, payments, subscription_id=subscription_id, state=state, start_time=start_time, end_time=end_time
    )
    return [_payment(row) for row in await connection.execute(statement)]


# --- Reconciliations ------------------------------------------------------------------------------------


class Reconciled(Enum):
    """What a reconciliation has looked at; the values are those of rows."""

    CHANGED = STRIPE
    """What changed at the provider."""
    EVERYTHING = f"{STRIPE}:all"
    """Whatever there is, here and there."""


async def read_reconciled_until(
    connection: Connection, tenant_id: TenantId, what: Reconciled = Reconciled.CHANGED
) -> datetime | None:
    """Return until when the tenant's subscriptions are known to be right; None: nobody has looked yet."""
    rows = await connection.execute(
        select(reconciliations.c.changed_until_time).where(
            reconciliations.c.tenant_id == tenant_id, reconciliations.c.provider == what.value
        )
    )
    found: datetime | None = rows.scalar_one_or_none()
    return found


async def write_reconciled_until(
    connection: Connection,
    tenant_id: TenantId,
    until: datetime,
    *,
    at: datetime,
    what: Reconciled = Reconciled.CHANGED,
) -> None:
    """Store until when the tenant's subscriptions are known to be right; it never steps back."""
    await connection.execute(
        insert(reconciliations)
        .values(tenant_id=tenant_id, provider=what.value, changed_until_time=until, update_time=at)
        .on_conflict_do_update(
            index_elements=["tenant_id", "provider"],
            set_={"changed_until_time": until, "update_time": at},
            where=reconciliations.c.changed_until_time < until,
        )
    )


async def open_checkout_sessions(
    connection: Connection, tenant_id: TenantId, *, account_id: str = "", expired_by: datetime | None = None, limit: int
) -> list[str]:
    """Return the provider's ids of pages that are open as far as is known here, oldest first.

    With a time only those that should be closed by then.
    """
    columns = checkout_sessions.c
    statement = select(columns.provider_session_id).where(columns.tenant_id == tenant_id, columns.state == "open")
    if account_id:
        statement = statement.where(columns.account_id == account_id)
    if expired_by is not None:
        statement = statement.where(columns.expire_time <= expired_by)
    rows = await connection.execute(statement.order_by(columns.create_time).limit(limit))
    return [row.provider_session_id for row in rows]


async def accounts_with_pending_operations(
    connection: Connection, tenant_id: TenantId, *, account_id: str = "", begun_by: datetime, limit: int
) -> list[AccountId]:
    """Return accounts for which something was begun at the provider by then, and nobody knows what became of it."""
    columns = billing_operations.c
    statement = select(columns.account_id).where(
        columns.tenant_id == tenant_id, columns.state == "pending", columns.create_time <= begun_by
    )
    if account_id:
        statement = statement.where(columns.account_id == account_id)
    rows = await connection.execute(statement.distinct().order_by(columns.account_id).limit(limit))
    return [AccountId(row.account_id) for row in rows]


async def payments_known_of(connection: Connection, tenant_id: TenantId, invoice_id: str) -> bool:
    """Tell whether a payment of the invoice is on record."""
    rows = await connection.execute(
        select(payments.c.payment_id)
        .where(payments.c.tenant_id == tenant_id, payments.c.invoice_id == invoice_id)
        .limit(1)
    )
    return rows.first() is not None


# --- Rows -----------------------------------------------------------------------------------------------


def _page(
    table: Table, key: str, tenant_id: TenantId, *, account_id: str, before_key: str, limit: int
) -> Select[tuple[Any, ...]]:
    # Ids begin with the instant of their making, so they are in its order.
    statement = select(table).where(table.c.tenant_id == tenant_id)
    if account_id:
        statement = statement.where(table.c.account_id == account_id)
    if before_key:
        statement = statement.where(table.c[key] < before_key)
    return statement.order_by(table.c[key].desc()).limit(limit)


def _filtered(
    statement: Select[tuple[Any, ...]],
    table: Table,
    *,
    subscription_id: str,
    state: str,
    start_time: datetime | None,
    end_time: datetime | None,
) -> Select[tuple[Any, ...]]:
    if subscription_id:
        statement = statement.where(table.c.subscription_id == subscription_id)
    if state:
        statement = statement.where(table.c.state == state)
    if start_time is not None:
        statement = statement.where(table.c.create_time >= start_time)
    if end_time is not None:
        statement = statement.where(table.c.create_time < end_time)
    return statement


def _customer(row: Row[Any]) -> CustomerRow:
    return CustomerRow(
        customer_id=row.customer_id,
        account_id=AccountId(row.account_id),
        provider_customer_id=row.provider_customer_id,
        email=row.email,
        name=row.name,
        default_payment_method_id=row.default_payment_method_id,
        currency=row.currency,
        tax_ids=tuple((pair[0], pair[1]) for pair in row.tax_ids),
        address=None if row.address is None else PostalAddress(**row.address),
        metadata=row.metadata,
        deleted=row.deleted,
        create_time=row.create_time,
        update_time=row.update_time,
    )


def _invoice(row: Row[Any]) -> InvoiceRow:
    values: dict[str, Any] = {name: getattr(row, name) for name in InvoiceRow.__dataclass_fields__}
    values["subscription_id"] = row.subscription_id or ""
    return InvoiceRow(**values)


def _payment(row: Row[Any]) -> PaymentRow:
    values: dict[str, Any] = {name: getattr(row, name) for name in PaymentRow.__dataclass_fields__}
    values["subscription_id"] = row.subscription_id or ""
    values["invoice_id"] = row.invoice_id or ""
    return PaymentRow(**values)
