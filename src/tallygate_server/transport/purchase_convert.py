"""Between the wire messages of customers and of the provider's pages, and those of the use cases."""

from __future__ import annotations

from tallygate.v1 import billing_pb2, subscription_pb2, subscription_service_pb2
from tallygate_server.billing.checkout import CheckoutPage, WantedPage
from tallygate_server.billing.observed import PostalAddress
from tallygate_server.billing.provider import CustomerDetails
from tallygate_server.domain.identifier import PlanKey, TenantId
from tallygate_server.storage.billing import CustomerRow
from tallygate_server.transport.convert import optional, to_api_instant
from tallygate_server.transport.subscription_convert import from_api_interval


def from_api_wanted_page(request: subscription_service_pb2.CreateCheckoutSessionRequest) -> WantedPage:
    """Convert what a page is to sell."""
    return WantedPage(
        plan_key=PlanKey(request.plan_key),
        interval=from_api_interval(request.interval),
        quantity=request.quantity if request.HasField("quantity") else 1,
        success_url=request.success_url,
        cancel_url=request.cancel_url,
        trial_days=optional(request, "trial_days"),
        promotion_code=request.promotion_code,
        currency=request.currency_code,
    )


def to_api_page(page: CheckoutPage) -> subscription_service_pb2.CreateCheckoutSessionResponse:
    """Convert a page where a plan is paid for."""
    return subscription_service_pb2.CreateCheckoutSessionResponse(
        url=page.url,
        provider_session_id=page.provider_session_id,
        expire_time=to_api_instant(page.expire_time),
        reused=page.reused,
    )


def from_api_details(request: subscription_service_pb2.UpdateCustomerRequest) -> CustomerDetails:
    """Convert what is to change of a customer; absent fields stay None."""
    return CustomerDetails(
        email=optional(request, "email"),
        name=optional(request, "name"),
        default_payment_method_id=optional(request, "default_payment_method_id"),
        tax_ids=tuple((tax_id.type, tax_id.value) for tax_id in request.tax_ids) or None,
        address=_from_api_address(request.address) if request.HasField("address") else None,
        metadata=dict(request.metadata),
    )


def to_api_customer(row: CustomerRow, tenant_id: TenantId) -> billing_pb2.Customer:
    """Convert a customer."""
    return billing_pb2.Customer(
        customer_id=row.customer_id,
        tenant_id=tenant_id,
        account_id=row.account_id,
        billing_provider=subscription_pb2.BILLING_PROVIDER_STRIPE,
        provider_customer_id=row.provider_customer_id,
        email=row.email,
        name=row.name,
        default_payment_method_id=row.default_payment_method_id,
        currency_code=row.currency,
        tax_ids=[billing_pb2.TaxId(type=kind, value=value) for kind, value in row.tax_ids],
        address=_to_api_address(row.address) if row.address is not None else None,
        metadata=dict(row.metadata),
        deleted=row.deleted,
        create_time=to_api_instant(row.create_time),
        update_time=to_api_instant(row.update_time),
    )


def _from_api_address(address: billing_pb2.PostalAddress) -> PostalAddress:
    return PostalAddress(
        line1=address.line1,
        line2=address.line2,
        city=address.city,
        state=address.state,
        postal_code=address.postal_code,
        country_code=address.country_code,
    )


def _to_api_address(address: PostalAddress) -> billing_pb2.PostalAddress:
    return billing_pb2.PostalAddress(
        line1=address.line1,
        line2=address.line2,
        city=address.city,
        state=address.state,
        postal_code=address.postal_code,
        country_code=address.country_code,
    )
