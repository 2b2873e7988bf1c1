"""What callers hear where no billing provider is connected."""

from __future__ import annotations

from typing import Final

from tallygate_server.billing.provider import PaymentProvider
from tallygate_server.errors import BillingProviderNotConfigured

STRIPE_SETTING: Final = "TALLYGATE_STRIPE_API_KEY"


def connected(provider: PaymentProvider | None) -> PaymentProvider:
    """Return the provider; raise BillingProviderNotConfigured where there is none."""
    if provider is None:
        raise BillingProviderNotConfigured(
            f"this server has no connection to Stripe; set {STRIPE_SETTING}",
            billing_provider="BILLING_PROVIDER_STRIPE",
            setting=STRIPE_SETTING,
        )
    return provider
