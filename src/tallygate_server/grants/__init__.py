"""Extras of single accounts: credits, overrides and switches."""

from __future__ import annotations

from tallygate_server.grants.rules import NewGrant
from tallygate_server.grants.use_cases import FeatureOverride, Grants
from tallygate_server.grants.views import GrantPage, GrantState, GrantView, OverrideView

__all__ = ["FeatureOverride", "GrantPage", "GrantState", "GrantView", "Grants", "NewGrant", "OverrideView"]
