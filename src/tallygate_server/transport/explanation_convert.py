"""Between explanations and wire messages."""

from __future__ import annotations

from tallygate.v1 import access_pb2, catalog_pb2, entitlement_pb2, entitlement_service_pb2, period_pb2, usage_pb2
from tallygate_server.domain.call import Check
from tallygate_server.domain.entitlement import Grant, GrantKind, LimitOverride
from tallygate_server.domain.explanation import ExplainedSource
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.period import Period, PeriodKind
from tallygate_server.explain import Explanation
from tallygate_server.transport import catalog_convert, convert, grant_convert, subscription_convert

_REASON = convert.DECISION_REASON
_PERIOD_KIND = convert.PERIOD_KIND


def from_api_explained_check(request: entitlement_service_pb2.ExplainAccessRequest) -> Check:
    """Convert the check that is to be explained."""
    return Check(
        TenantId(request.tenant_id),
        AccountId(request.account_id),
        FeatureKey(request.feature_key),
        # As in a check: zero is refused by the rules, so it is an absent field.
        request.quantity or 1,
    )


def to_api_explanation(explanation: Explanation) -> entitlement_service_pb2.ExplainAccessResponse:
    """Convert an explanation."""
    return entitlement_service_pb2.ExplainAccessResponse(
        answer=convert.to_api_check(explanation.answer),
        steps=[
            entitlement_service_pb2.ExplanationStep(
                reason=_REASON[step.reason], decided=step.decided, explanation=step.explanation
            )
            for step in explanation.steps
        ],
        sources=[to_api_source(source) for source in explanation.sources],
        grants=[grant_convert.to_api_grant(view) for view in explanation.grants],
        quota=_to_api_quota(explanation),
        at_time=convert.to_api_instant(explanation.at),
        catalog_revision=explanation.catalog_revision,
        history_complete=explanation.history_complete,
    )


def to_api_source(source: ExplainedSource) -> entitlement_pb2.EntitlementSource:
    """Convert a source of an entitlement."""
    message = entitlement_pb2.EntitlementSource(
        validity=period_pb2.Period(
            start_time=convert.to_api_instant(source.start), end_time=convert.to_api_optional_instant(source.end)
        ),
        effective=source.effective,
        explanation=source.explanation,
    )
    if source.grant is not None:
        message.grant_id = source.grant.grant_id
        message.allowance.CopyFrom(_given_by(source.grant))
    elif source.subscription is not None and source.allowance is not None:
        message.subscription_id = source.subscription.subscription_id
        message.plan_key = source.subscription.plan_key
        message.plan_version = source.subscription.plan_version
        message.subscription_state = subscription_convert.API_STATE[source.subscription.state]
        message.allowance.CopyFrom(catalog_convert.to_api_allowance(source.allowance))
    return message


def to_api_period(period: Period) -> period_pb2.Period | None:
    """Convert a period; None for a lifetime."""
    if period.kind is PeriodKind.LIFETIME:
        return None
    return period_pb2.Period(start_time=convert.to_api_time(period.start), end_time=convert.to_api_time(period.end))


def _given_by(grant: Grant) -> catalog_pb2.Allowance:
    if grant.kind.switch:
        return catalog_pb2.Allowance(feature_key=grant.feature_key, enabled=grant.kind is GrantKind.ENABLE)
    if not grant.feature_kind.metered:
        return catalog_pb2.Allowance(feature_key=grant.feature_key, config_value=convert.to_api_value(grant.value))
    limit = grant.limit or LimitOverride(quantity=grant.quantity)
    return catalog_pb2.Allowance(feature_key=grant.feature_key, limit=grant_convert.to_api_limit(limit))


def _to_api_quota(explanation: Explanation) -> usage_pb2.Quota | None:
    period, answer = explanation.period, explanation.answer
    if period is None or answer.feature_kind is None:
        return None
    return usage_pb2.Quota(
        feature_key=explanation.check.feature_key,
        feature_kind=convert.FEATURE_KIND[answer.feature_kind],
        decision=access_pb2.DECISION_ALLOWED if answer.reason.allows else access_pb2.DECISION_DENIED,
        reason=_REASON[answer.reason],
        limit_quantity=answer.limit_quantity,
        used_quantity=answer.used_quantity,
        held_quantity=answer.held_quantity,
        remaining_quantity=answer.remaining_quantity,
        period_kind=_PERIOD_KIND[period.kind],
        period=to_api_period(period),
        reset_time=convert.to_api_time(answer.reset_time),
        threshold_percent=answer.threshold_percent,
        threshold_quantity=answer.threshold_quantity,
        plan_key=answer.plan_key,
        grace_end_time=convert.to_api_time(answer.grace_end_time),
        unit=explanation.feature.unit if explanation.feature is not None else "",
    )
