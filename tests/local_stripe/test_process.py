from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.local_stripe.conftest import DAY, only_item
from tests.support.local_stripe import ROOT, local_stripe


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_announces_itself_in_one_line_and_ends_cleanly(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tallygate_local_stripe",
        "--webhook-url", "http://127.0.0.1:9/", "--webhook-secret", "whsec_a",
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    announced = json.loads(await process.stdout.readline())

    process.send_signal(number)
    async with asyncio.timeout(60):
        rest, errors = await process.communicate()

    assert announced["pid"] == process.pid
    assert announced["url"].startswith("http://127.0.0.1:")
    assert (process.returncode, rest, errors) == (0, b"", b"")


async def test_a_second_start_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    kept = ("--data-file", str(tmp_path / "stripe.json"), "--now", "2027-01-31T00:00:00+00:00")
    async with local_stripe(*kept) as first:
        product = await first.client.v1.products.create_async({"name": "Pro"})
        price = await first.client.v1.prices.create_async(
            {"product": product.id, "currency": "eur", "unit_amount": 500, "recurring": {"interval": "month"}}
        )
        customer = await first.client.v1.customers.create_async(
            {"email": "a@example.com"}, {"idempotency_key": "operation-1"}
        )
        method = await first.client.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
        subscription = await first.client.v1.subscriptions.create_async(
            {"customer": customer.id, "items": [{"price": price.id}], "default_payment_method": method.id}
        )
        await first.advance(DAY)

    async with local_stripe(*kept) as second:
        again = await second.client.v1.customers.create_async(
            {"email": "a@example.com"}, {"idempotency_key": "operation-2"}
        )
        now = await second.now()
        await second.advance(30 * DAY)
        renewed = await second.client.v1.subscriptions.retrieve_async(subscription.id)

    assert again.id != customer.id
    assert now == only_item(subscription).current_period_start + DAY
    assert only_item(renewed).current_period_start == only_item(subscription).current_period_end
