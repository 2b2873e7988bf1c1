"""Between the wire messages of invoices, payments and reconciliations, and those of the use cases."""

from __future__ import annotations

import json
from typing import Final

from tallygate.v1 import billing_pb2, money_pb2, period_pb2, subscription_pb2, subscription_service_pb2
from tallygate_server.billing.observed import PaymentOutcome
from tallygate_server.billing.reconcile import Reconciliation, SubscriptionDifference
from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.billing import InvoiceRow, PaymentRow
from tallygate_server.transport.convert import api_enum, domain_enum, to_api_instant, to_api_optional_instant

_PAYMENT_STATES: Final = domain_enum(PaymentOutcome, billing_pb2.PaymentState, "PAYMENT_STATE")
_API_PAYMENT_STATE: Final = api_enum(PaymentOutcome, billing_pb2.PaymentState, "PAYMENT_STATE")
_API_INVOICE_STATE: Final[dict[str, billing_pb2.InvoiceState]] = {
    "draft": billing_pb2.INVOICE_STATE_DRAFT,
    "open": billing_pb2.INVOICE_STATE_OPEN,
    "paid": billing_pb2.INVOICE_STATE_PAID,
    "void": billing_pb2.INVOICE_STATE_VOID,
    "uncollectible": billing_pb2.INVOICE_STATE_UNCOLLECTIBLE,
}
_INVOICE_STATES: Final = {number: state for state, number in _API_INVOICE_STATE.items()}


def from_api_payment_state(state: int) -> str:
    """Convert a filter; empty for any state."""
    found = _PAYMENT_STATES.get(state)
    return "" if found is None else found.value


def from_api_invoice_state(state: billing_pb2.InvoiceState) -> str:
    """Convert a filter; empty for any state."""
    return _INVOICE_STATES.get(state, "")


def to_api_payment(row: PaymentRow, tenant_id: TenantId) -> billing_pb2.Payment:
    """Convert a payment."""
    return billing_pb2.Payment(
        payment_id=row.payment_id,
        tenant_id=tenant_id,
        account_id=row.account_id,
        subscription_id=row.subscription_id,
        invoice_id=row.invoice_id,
        state=_API_PAYMENT_STATE[PaymentOutcome(row.state)],
        amount=_money(row.amount_minor, row.currency),
        refunded_amount=_money(row.refunded_minor, row.currency),
        description=row.description,
        failure_code=row.failure_code,
        disputed=row.disputed,
        fraud_warning=row.fraud_warning,
        billing_provider=subscription_pb2.BILLING_PROVIDER_STRIPE,
        provider_payment_id=row.provider_payment_id,
        metadata=dict(row.metadata),
        create_time=to_api_instant(row.create_time),
        update_time=to_api_instant(row.update_time),
    )


def to_api_invoice(row: InvoiceRow, tenant_id: TenantId) -> billing_pb2.Invoice:
    """Convert an invoice."""
    return billing_pb2.Invoice(
        invoice_id=row.invoice_id,
        tenant_id=tenant_id,
        account_id=row.account_id,
        subscription_id=row.subscription_id,
        state=_API_INVOICE_STATE[row.state],
        number=row.number,
        due_amount=_money(row.due_minor, row.currency),
        paid_amount=_money(row.paid_minor, row.currency),
        tax_amount=_money(row.tax_minor, row.currency),
        period=(
            None
            if row.period_start_time is None
            else period_pb2.Period(
                start_time=to_api_instant(row.period_start_time),
                end_time=to_api_optional_instant(row.period_end_time),
            )
        ),
        due_time=to_api_optional_instant(row.due_time),
        attempt_count=row.attempt_count,
        next_attempt_time=to_api_optional_instant(row.next_attempt_time),
        hosted_url=row.hosted_url,
        billing_provider=subscription_pb2.BILLING_PROVIDER_STRIPE,
        provider_invoice_id=row.provider_invoice_id,
        create_time=to_api_instant(row.create_time),
        paid_time=to_api_optional_instant(row.paid_time),
        update_time=to_api_instant(row.update_time),
    )


def to_api_reconciliation(found: Reconciliation) -> subscription_service_pb2.ReconcileSubscriptionsResponse:
    """Convert what a reconciliation has found and done."""
    return subscription_service_pb2.ReconcileSubscriptionsResponse(
        examined_count=found.examined_count,
        differences=[_difference(each) for each in found.differences],
        difference_count=found.difference_count,
        repaired_count=found.repaired_count,
    )


def _difference(difference: SubscriptionDifference) -> subscription_service_pb2.SubscriptionDifference:
    return subscription_service_pb2.SubscriptionDifference(
        account_id=difference.account_id,
        subscription_id=difference.subscription_id,
        provider_subscription_id=difference.provider_subscription_id,
        field=difference.field,
        value_json=json.dumps(difference.here),
        provider_value_json=json.dumps(difference.there),
        repaired=difference.repaired,
    )


def _money(amount_minor: int, currency: str) -> money_pb2.Money:
    return money_pb2.Money(minor_units=amount_minor, currency_code=currency)
