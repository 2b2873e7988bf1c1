"""SubscriptionService: converts, calls, converts."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from tallygate.v1 import subscription_service_pb2
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.transport import (
    billing_convert,
    convert,
    paging,
    purchase_convert,
    subscription_convert,
    webhook_convert,
)
from tallygate_server.transport.use_cases import (
    BillingRecordsUse,
    CheckoutUse,
    CustomerUse,
    Now,
    PlanChangePreviewUse,
    ReconcilerUse,
    SubscriptionUse,
    WebhookIntakeUse,
)

SERVICE: Final[ServiceDescriptor] = subscription_service_pb2.DESCRIPTOR.services_by_name["SubscriptionService"]

_Context = aio.ServicerContext[Any, Any]


class SubscriptionServicer:
    """Manages what accounts have bought."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE

    def __init__(
        self,
        subscriptions: SubscriptionUse,
        now: Now,
        *,
        previews: PlanChangePreviewUse,
        webhooks: WebhookIntakeUse,
        checkout: CheckoutUse,
        customers: CustomerUse,
        records: BillingRecordsUse,
        reconciler: ReconcilerUse,
    ) -> None:
        self._subscriptions = subscriptions
        self._now = now
        self._previews = previews
        self._checkout = checkout
        self._customers = customers
        self._webhooks = webhooks
        self._records = records
        self._reconciler = reconciler

    async def CreateSubscription(
        self, request: subscription_service_pb2.CreateSubscriptionRequest, _context: _Context
    ) -> subscription_service_pb2.CreateSubscriptionResponse:
        """Subscribe an account to a plan."""
        view = await self._subscriptions.create(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            subscription_convert.from_api_new_subscription(request),
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        return subscription_service_pb2.CreateSubscriptionResponse(
            subscription=subscription_convert.to_api_subscription(view),
            revision=view.revision,
            replayed=view.replayed,
            payment_client_secret=view.payment_client_secret,
            hosted_invoice_url=view.hosted_invoice_url,
        )

    async def GetSubscription(
        self, request: subscription_service_pb2.GetSubscriptionRequest, _context: _Context
    ) -> subscription_service_pb2.GetSubscriptionResponse:
        """Return one subscription."""
        view = await self._subscriptions.get(TenantId(request.tenant_id), request.subscription_id)
        return subscription_service_pb2.GetSubscriptionResponse(
            subscription=subscription_convert.to_api_subscription(view)
        )

    async def ListSubscriptions(
        self, request: subscription_service_pb2.ListSubscriptionsRequest, _context: _Context
    ) -> subscription_service_pb2.ListSubscriptionsResponse:
        """List subscriptions, newest first."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        views = await self._subscriptions.list(
            TenantId(request.tenant_id),
            account_id=request.account_id,
            plan_key=request.plan_key,
            states=subscription_convert.from_api_states(request),
            before_subscription_id=paging.page_position(request, now=now),
            limit=size + 1,
        )
        page, more = views[:size], len(views) > size
        last = page[-1].subscription.subscription_id if more else ""
        return subscription_service_pb2.ListSubscriptionsResponse(
            subscriptions=[subscription_convert.to_api_subscription(view) for view in page],
            next_page_token=paging.page_token(request, last, now=now) if more else "",
        )

    async def ChangePlan(
        self, request: subscription_service_pb2.ChangePlanRequest, _context: _Context
    ) -> subscription_service_pb2.ChangePlanResponse:
        """Move a subscription to another plan, interval or number of seats."""
        view = await self._subscriptions.change_plan(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            plan_key=PlanKey(request.plan_key),
            subscription_id=request.subscription_id,
            interval=subscription_convert.from_api_interval(request.interval),
            quantity=convert.optional(request, "quantity"),
            provider=subscription_convert.from_api_provider(request.billing_provider),
            timing=subscription_convert.from_api_timing(request.timing),
            effective_time=convert.from_api_optional_time(request, "effective_time"),
            payment_method_id=request.payment_method_id,
            preview_time=convert.from_api_optional_time(request, "preview_time"),
            request_id=request.request_id,
            actor=convert.actor_of(request),
            reason=request.reason_text,
        )
        return subscription_service_pb2.ChangePlanResponse(
            subscription=subscription_convert.to_api_subscription(view),
            revision=view.revision,
            replayed=view.replayed,
            payment_client_secret=view.payment_client_secret,
        )

    async def CancelSubscription(
        self, request: subscription_service_pb2.CancelSubscriptionRequest, _context: _Context
    ) -> subscription_service_pb2.CancelSubscriptionResponse:
        """Cancel a subscription."""
        view = await self._subscriptions.cancel(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            subscription_id=request.subscription_id,
            timing=subscription_convert.from_api_timing(request.timing),
            effective_time=convert.from_api_optional_time(request, "effective_time"),
            request_id=request.request_id,
            actor=convert.actor_of(request),
            reason=request.reason_text,
        )
        return subscription_service_pb2.CancelSubscriptionResponse(
            subscription=subscription_convert.to_api_subscription(view),
            revision=view.revision,
            replayed=view.replayed,
        )

    async def PauseSubscription(
        self, request: subscription_service_pb2.PauseSubscriptionRequest, _context: _Context
    ) -> subscription_service_pb2.PauseSubscriptionResponse:
        """Pause a subscription."""
        view = await self._subscriptions.pause(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            subscription_id=request.subscription_id,
            timing=subscription_convert.from_api_timing(request.timing),
            effective_time=convert.from_api_optional_time(request, "effective_time"),
            resume_time=convert.from_api_optional_time(request, "resume_time"),
            request_id=request.request_id,
            actor=convert.actor_of(request),
            reason=request.reason_text,
        )
        return subscription_service_pb2.PauseSubscriptionResponse(
            subscription=subscription_convert.to_api_subscription(view),
            revision=view.revision,
            replayed=view.replayed,
        )

    async def ResumeSubscription(
        self, request: subscription_service_pb2.ResumeSubscriptionRequest, _context: _Context
    ) -> subscription_service_pb2.ResumeSubscriptionResponse:
        """Resume a subscription."""
        view = await self._subscriptions.resume(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            subscription_id=request.subscription_id,
            request_id=request.request_id,
            actor=convert.actor_of(request),
            reason=request.reason_text,
        )
        return subscription_service_pb2.ResumeSubscriptionResponse(
            subscription=subscription_convert.to_api_subscription(view),
            revision=view.revision,
            replayed=view.replayed,
        )

    async def CancelScheduledChange(
        self, request: subscription_service_pb2.CancelScheduledChangeRequest, _context: _Context
    ) -> subscription_service_pb2.CancelScheduledChangeResponse:
        """Take back a change that has not taken effect."""
        view = await self._subscriptions.cancel_scheduled_change(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            subscription_id=request.subscription_id,
            scheduled_change_id=request.scheduled_change_id,
            actor=convert.actor_of(request),
            reason=request.reason_text,
        )
        return subscription_service_pb2.CancelScheduledChangeResponse(
            subscription=subscription_convert.to_api_subscription(view), revision=view.revision
        )

    async def PreviewPlanChange(
        self, request: subscription_service_pb2.PreviewPlanChangeRequest, _context: _Context
    ) -> subscription_service_pb2.PreviewPlanChangeResponse:
        """Tell what a change of plan would mean."""
        preview = await self._previews.preview(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            plan_key=PlanKey(request.plan_key),
            subscription_id=request.subscription_id,
            interval=subscription_convert.from_api_interval(request.interval),
            quantity=convert.optional(request, "quantity"),
            timing=subscription_convert.from_api_timing(request.timing),
            effective_time=convert.from_api_optional_time(request, "effective_time"),
        )
        return subscription_convert.to_api_preview(preview)

    async def ListSubscriptionChanges(
        self, request: subscription_service_pb2.ListSubscriptionChangesRequest, _context: _Context
    ) -> subscription_service_pb2.ListSubscriptionChangesResponse:
        """List the history of an account's subscriptions, newest first."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        changes = await self._subscriptions.list_changes(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            subscription_id=request.subscription_id,
            before_change_id=convert.entry_id_of(paging.page_position(request, now=now)),
            limit=size + 1,
        )
        page, more = changes[:size], len(changes) > size
        last = str(page[-1].change_id) if more else ""
        return subscription_service_pb2.ListSubscriptionChangesResponse(
            changes=[subscription_convert.to_api_change(change) for change in page],
            next_page_token=paging.page_token(request, last, now=now) if more else "",
        )

    async def IngestWebhook(
        self, request: subscription_service_pb2.IngestWebhookRequest, _context: _Context
    ) -> subscription_service_pb2.IngestWebhookResponse:
        """Take in a webhook."""
        taken = await self._webhooks.take(
            webhook_convert.from_api_source(request.source),
            request.payload,
            dict(request.headers),
            request.tenant_id,
        )
        return webhook_convert.to_api_taken(taken)

    # ---- buying

    async def CreateCheckoutSession(
        self, request: subscription_service_pb2.CreateCheckoutSessionRequest, _context: _Context
    ) -> subscription_service_pb2.CreateCheckoutSessionResponse:
        """Open a page where a plan is paid for."""
        page = await self._checkout.open_page(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            purchase_convert.from_api_wanted_page(request),
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        return purchase_convert.to_api_page(page)

    async def CreatePortalSession(
        self, request: subscription_service_pb2.CreatePortalSessionRequest, _context: _Context
    ) -> subscription_service_pb2.CreatePortalSessionResponse:
        """Open a page where billing is managed."""
        url = await self._checkout.open_portal(
            TenantId(request.tenant_id), AccountId(request.account_id), return_url=request.return_url
        )
        return subscription_service_pb2.CreatePortalSessionResponse(url=url)

    async def UpdateCustomer(
        self, request: subscription_service_pb2.UpdateCustomerRequest, _context: _Context
    ) -> subscription_service_pb2.UpdateCustomerResponse:
        """Create or change the account's customer."""
        row = await self._customers.update(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            purchase_convert.from_api_details(request),
            billing_provider=subscription_convert.from_api_provider(request.billing_provider),
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        return subscription_service_pb2.UpdateCustomerResponse(
            customer=purchase_convert.to_api_customer(row, TenantId(request.tenant_id))
        )

    # ---- what is on record, and whether it is right

    async def ListCustomers(
        self, request: subscription_service_pb2.ListCustomersRequest, _context: _Context
    ) -> subscription_service_pb2.ListCustomersResponse:
        """List customers at billing providers, newest first."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        tenant_id = TenantId(request.tenant_id)
        rows = await self._records.customers(
            tenant_id,
            account_id=request.account_id,
            before_customer_id=paging.page_position(request, now=now),
            limit=size + 1,
        )
        page, more = rows[:size], len(rows) > size
        return subscription_service_pb2.ListCustomersResponse(
            customers=[purchase_convert.to_api_customer(row, tenant_id) for row in page],
            next_page_token=paging.page_token(request, page[-1].customer_id, now=now) if more else "",
        )

    async def ListInvoices(
        self, request: subscription_service_pb2.ListInvoicesRequest, _context: _Context
    ) -> subscription_service_pb2.ListInvoicesResponse:
        """List invoices, newest first."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        tenant_id = TenantId(request.tenant_id)
        rows = await self._records.invoices(
            tenant_id,
            account_id=request.account_id,
            subscription_id=request.subscription_id,
            state=billing_convert.from_api_invoice_state(request.state),
            start_time=convert.from_api_optional_time(request, "start_time"),
            end_time=convert.from_api_optional_time(request, "end_time"),
            before_invoice_id=paging.page_position(request, now=now),
            limit=size + 1,
        )
        page, more = rows[:size], len(rows) > size
        return subscription_service_pb2.ListInvoicesResponse(
            invoices=[billing_convert.to_api_invoice(row, tenant_id) for row in page],
            next_page_token=paging.page_token(request, page[-1].invoice_id, now=now) if more else "",
        )

    async def ListPayments(
        self, request: subscription_service_pb2.ListPaymentsRequest, _context: _Context
    ) -> subscription_service_pb2.ListPaymentsResponse:
        """List payments, newest first."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        tenant_id = TenantId(request.tenant_id)
        rows = await self._records.payments(
            tenant_id,
            account_id=request.account_id,
            subscription_id=request.subscription_id,
            state=billing_convert.from_api_payment_state(request.state),
            start_time=convert.from_api_optional_time(request, "start_time"),
            end_time=convert.from_api_optional_time(request, "end_time"),
            before_payment_id=paging.page_position(request, now=now),
            limit=size + 1,
        )
        page, more = rows[:size], len(rows) > size
        return subscription_service_pb2.ListPaymentsResponse(
            payments=[billing_convert.to_api_payment(row, tenant_id) for row in page],
            next_page_token=paging.page_token(request, page[-1].payment_id, now=now) if more else "",
        )

    async def ReconcileSubscriptions(
        self, request: subscription_service_pb2.ReconcileSubscriptionsRequest, _context: _Context
    ) -> subscription_service_pb2.ReconcileSubscriptionsResponse:
        """Compare subscriptions with the billing provider, and repair what differs."""
        found = await self._reconciler.run(
            TenantId(request.tenant_id),
            account_id=request.account_id,
            changed_after=convert.from_api_optional_time(request, "changed_after_time"),
            validate_only=request.validate_only,
            actor=convert.actor_of(request),
        )
        return billing_convert.to_api_reconciliation(found)
