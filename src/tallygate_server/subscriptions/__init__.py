"""Subscriptions: what accounts have bought, from the first day to the last."""

from __future__ import annotations

from tallygate_server.subscriptions.decisions import PlanChangeDirection, billing_period, state_at
from tallygate_server.subscriptions.steps import start_default_subscription
from tallygate_server.subscriptions.use_cases import Provisioner, Subscriptions
from tallygate_server.subscriptions.views import SubscriptionChangeView, SubscriptionView
from tallygate_server.subscriptions.wishes import ChangeTiming, NewSubscription, PlanMove

__all__ = [
    "ChangeTiming",
    "NewSubscription",
    "PlanChangeDirection",
    "PlanMove",
    "Provisioner",
    "SubscriptionChangeView",
    "SubscriptionView",
    "Subscriptions",
    "billing_period",
    "start_default_subscription",
    "state_at",
]
