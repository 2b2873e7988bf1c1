"""AccountService: converts, calls, converts."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from tallygate.v1 import account_service_pb2, subscription_pb2
from tallygate_server.domain.call import Check
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.limits import SUBSCRIPTIONS_PER_ACCOUNT_MAX
from tallygate_server.domain.subscription import LIVE_STATES
from tallygate_server.transport import account_convert, convert, paging
from tallygate_server.transport.subscription_convert import API_STATE
from tallygate_server.transport.use_cases import (
    AccessChecks,
    AccountUse,
    ConsentUse,
    Now,
    SubscriptionUse,
    TenantUse,
    UsageQueries,
)

SERVICE: Final[ServiceDescriptor] = account_service_pb2.DESCRIPTOR.services_by_name["AccountService"]

_Context = aio.ServicerContext[Any, Any]


class AccountServicer:
    """Finds, creates and changes accounts."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE

    def __init__(
        self,
        accounts: AccountUse,
        usage: UsageQueries,
        tenants: TenantUse,
        now: Now,
        *,
        checks: AccessChecks,
        subscriptions: SubscriptionUse,
        consents: ConsentUse,
    ) -> None:
        self._accounts = accounts
        self._usage = usage
        self._tenants = tenants
        self._now = now
        self._checks = checks
        self._subscriptions = subscriptions
        self._consents = consents

    async def IdentifyAccount(
        self, request: account_service_pb2.IdentifyAccountRequest, _context: _Context
    ) -> account_service_pb2.IdentifyAccountResponse:
        """Find an account by any identity, or create it; return it with its quota and plan."""
        convert.refuse_unless(not request.locale, "IdentifyAccount with a locale")
        tenant_id = TenantId(request.tenant_id)
        account, created = await self._accounts.identify(
            tenant_id,
            account_convert.from_api_identities([request.identity, *request.additional_identities]),
            account_id=request.account_id,
            email=request.email,
            display_name=request.display_name,
            time_zone=request.time_zone,
            preferences=convert.from_api_struct(request.preferences),
            metadata=dict(request.metadata),
            actor=convert.ACTOR_DEFAULT,
        )
        account_id = account.account_id
        tenant = await self._tenants.get(tenant_id)
        quota = await self._usage.quota(tenant_id, account_id)
        live = await self._subscriptions.list(
            tenant_id,
            account_id=account_id,
            states=sorted(LIVE_STATES, key=lambda state: state.value),
            limit=SUBSCRIPTIONS_PER_ACCOUNT_MAX,
        )
        leading = account_convert.leading(live)
        access = None
        if request.feature_key:
            feature_key = FeatureKey(request.feature_key)
            access = convert.to_api_check(await self._checks.check(Check(tenant_id, account_id, feature_key)))
        return account_service_pb2.IdentifyAccountResponse(
            account=account_convert.to_api_account(account),
            created=created,
            quotas=[convert.to_api_quota(usage) for usage in quota.usages],
            upgrade_url=tenant.settings.upgrade_link(account_id, request.feature_key),
            plan_key=quota.plan_key,
            subscription_state=(
                subscription_pb2.SUBSCRIPTION_STATE_UNSPECIFIED
                if leading is None
                else API_STATE[leading.subscription.state]
            ),
            access=access,
            revision=max(account.revision, quota.revision),
        )

    async def GetAccount(
        self, request: account_service_pb2.GetAccountRequest, _context: _Context
    ) -> account_service_pb2.GetAccountResponse:
        """Return one account, by id or identity."""
        tenant_id = TenantId(request.tenant_id)
        if request.WhichOneof("lookup") == "identity":
            account = await self._accounts.find(tenant_id, account_convert.from_api_identity(request.identity))
        else:
            account = await self._accounts.get(tenant_id, AccountId(request.account_id))
        return account_service_pb2.GetAccountResponse(account=account_convert.to_api_account(account))

    async def UpdateAccount(
        self, request: account_service_pb2.UpdateAccountRequest, _context: _Context
    ) -> account_service_pb2.UpdateAccountResponse:
        """Change an account's details and identities."""
        convert.refuse_unless(not request.HasField("email_verified"), "UpdateAccount of email_verified")
        convert.refuse_unless(not request.HasField("locale"), "UpdateAccount of the locale")
        account = await self._accounts.update(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            account_convert.from_api_update(request),
            actor=convert.actor_of(request),
        )
        return account_service_pb2.UpdateAccountResponse(account=account_convert.to_api_account(account))

    async def ListAccounts(
        self, request: account_service_pb2.ListAccountsRequest, _context: _Context
    ) -> account_service_pb2.ListAccountsResponse:
        """List accounts by id."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        accounts = await self._accounts.list(
            TenantId(request.tenant_id),
            state=account_convert.from_api_state(request.state),
            plan_key=request.plan_key,
            account_id_prefix=request.account_id_prefix,
            after_account_id=paging.page_position(request, now=now),
            limit=size + 1,
        )
        page, more = accounts[:size], len(accounts) > size
        return account_service_pb2.ListAccountsResponse(
            accounts=[account_convert.to_api_account(account) for account in page],
            next_page_token=paging.page_token(request, page[-1].account_id, now=now) if more else "",
        )

    async def SuspendAccount(
        self, request: account_service_pb2.SuspendAccountRequest, _context: _Context
    ) -> account_service_pb2.SuspendAccountResponse:
        """Suspend an account."""
        account = await self._accounts.suspend(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            suspend=True,
            reason=request.reason_text,
            actor=convert.actor_of(request),
        )
        return account_service_pb2.SuspendAccountResponse(account=account_convert.to_api_account(account))

    async def ReinstateAccount(
        self, request: account_service_pb2.ReinstateAccountRequest, _context: _Context
    ) -> account_service_pb2.ReinstateAccountResponse:
        """Lift an account's suspension."""
        account = await self._accounts.suspend(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            suspend=False,
            reason=request.reason_text,
            actor=convert.actor_of(request),
        )
        return account_service_pb2.ReinstateAccountResponse(account=account_convert.to_api_account(account))

    async def RecordConsent(
        self, request: account_service_pb2.RecordConsentRequest, _context: _Context
    ) -> account_service_pb2.RecordConsentResponse:
        """Record a consent, or its withdrawal."""
        consent = await self._consents.record(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            account_convert.from_api_consent(request),
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        return account_service_pb2.RecordConsentResponse(consent=account_convert.to_api_consent(consent))

    async def ListConsents(
        self, request: account_service_pb2.ListConsentsRequest, _context: _Context
    ) -> account_service_pb2.ListConsentsResponse:
        """List consents, newest first."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        consents = await self._consents.list(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            purpose=request.purpose,
            current_only=request.current_only,
            before=account_convert.from_consent_position(paging.page_position(request, now=now)),
            limit=size + 1,
        )
        page, more = consents[:size], len(consents) > size
        return account_service_pb2.ListConsentsResponse(
            consents=[account_convert.to_api_consent(consent) for consent in page],
            next_page_token=(
                paging.page_token(request, account_convert.consent_position(page[-1]), now=now) if more else ""
            ),
        )
