"""What an operator sets for webhooks is taken as meant, or refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from tallygate_server.app import webhook_options
from tallygate_server.config import SettingsError, load_settings
from tallygate_server.webhooks.events import WebhookSource
from tests.support.webhooks import SVIX_SECRET


def test_without_secrets_no_source_is_served() -> None:
    assert not any(webhook_options(load_settings()).secrets.values())


def test_a_secret_may_be_several_while_one_is_replaced() -> None:
    settings = load_settings(
        stripe_webhook_secret="whsec_local_new, whsec_local_old",
        clerk_webhook_secret=f"{SVIX_SECRET},{SVIX_SECRET}",
        ayrshare_webhook_secret="local",
        clerk_tenant_id="acme",
        webhook_attempts_max=3,
    )

    options = webhook_options(settings)

    assert options.secrets == {
        WebhookSource.STRIPE: ("whsec_local_new", "whsec_local_old"),
        WebhookSource.CLERK: (SVIX_SECRET, SVIX_SECRET),
        WebhookSource.AYRSHARE: ("local",),
    }
    assert (options.clerk_tenant_id, options.attempts.count_max) == ("acme", 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stripe_webhook_secret", ""),
        ("stripe_webhook_secret", "whsec_local,"),
        ("stripe_webhook_secret", ",whsec_local"),
        ("stripe_webhook_secret", "whsec_local, ,whsec_other"),
        ("clerk_webhook_secret", "whsec_not-base64"),
        ("clerk_webhook_secret", f"{SVIX_SECRET},"),
        ("clerk_tenant_id", "No Tenant"),
        ("webhook_tolerance_seconds", 0),
        ("webhook_tolerance_seconds", 3_601),
        ("webhook_answer_wait_ms", -1),
        ("webhook_attempts_max", 0),
        ("webhook_concurrency", 0),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name_and_not_repeated(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(**{name: value})

    assert f"TALLYGATE_{name.upper()}" in str(refused.value)
    assert "whsec_local" not in str(refused.value)
