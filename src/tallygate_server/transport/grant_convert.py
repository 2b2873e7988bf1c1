"""Between the wire messages of grants and those of the use case."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from tallygate.v1 import catalog_pb2, entitlement_pb2, entitlement_service_pb2, period_pb2
from tallygate_server.domain.catalog import FeatureKind, LimitMode
from tallygate_server.domain.entitlement import Grant, GrantKind, LimitOverride
from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.errors import FieldViolation, InvalidRequest, PageTokenInvalid
from tallygate_server.grants import FeatureOverride, GrantState, GrantView, NewGrant, OverrideView
from tallygate_server.grants.rules import AskedKind
from tallygate_server.transport.catalog_convert import (
    ANCHORS,
    API_ANCHOR,
    API_ENFORCEMENT,
    API_OVERRUN_POLICY,
    API_PERIOD,
    OVERRUN_POLICIES,
    PERIODS,
    from_api_rollover,
    to_api_rollover,
)
from tallygate_server.transport.convert import (
    api_enum,
    domain_enum,
    from_api_optional_time,
    from_api_value,
    to_api_check,
    to_api_instant,
    to_api_optional_instant,
    to_api_value,
)

_KINDS: Final = domain_enum(AskedKind, entitlement_pb2.GrantKind, "GRANT_KIND")
_STATES: Final = domain_enum(GrantState, entitlement_pb2.GrantState, "GRANT_STATE")
_API_STATE: Final = api_enum(GrantState, entitlement_pb2.GrantState, "GRANT_STATE")
_OVERRIDES: Final = domain_enum(FeatureOverride, entitlement_service_pb2.FeatureOverride, "FEATURE_OVERRIDE")
_STORED_KINDS: Final = {
    AskedKind.BONUS: (GrantKind.BONUS,),
    AskedKind.PURCHASE: (GrantKind.PURCHASE,),
    AskedKind.OVERRIDE: (GrantKind.OVERRIDE,),
    AskedKind.SWITCH: (GrantKind.ENABLE, GrantKind.DISABLE),
}
_API_ASKED_KIND: Final = api_enum(AskedKind, entitlement_pb2.GrantKind, "GRANT_KIND")
_API_KIND: Final = {stored: _API_ASKED_KIND[kind] for kind, several in _STORED_KINDS.items() for stored in several}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def from_api_grant(request: entitlement_service_pb2.CreateGrantRequest) -> NewGrant:
    """Convert what is asked for."""
    gift = request.WhichOneof("gift")
    return NewGrant(
        feature_key=FeatureKey(request.feature_key),
        kind=_KINDS[request.kind],
        enabled=request.enabled if gift == "enabled" else None,
        config_value=from_api_value(request.config_value) if gift == "config_value" else None,
        credit_quantity=request.credit_quantity if gift == "credit_quantity" else None,
        limit=_limit(request.limit) if gift == "limit" else None,
        priority=request.priority,
        start_time=from_api_optional_time(request, "start_time"),
        expire_time=from_api_optional_time(request, "expire_time"),
        recurrence=PERIODS.get(request.recurrence),
        rollover=from_api_rollover(request.rollover) if request.HasField("rollover") else None,
        reason=request.reason_text,
        metadata=dict(request.metadata),
    )


def from_api_override(request: entitlement_service_pb2.SetFeatureOverrideRequest) -> FeatureOverride:
    """Convert what to do with a feature."""
    return _OVERRIDES[request.override]


def from_api_kinds(request: entitlement_service_pb2.ListGrantsRequest) -> tuple[GrantKind, ...]:
    """Convert the kinds that are wanted; none means all."""
    asked = _KINDS.get(request.kind)
    return _STORED_KINDS[asked] if asked is not None else ()


def from_api_state(request: entitlement_service_pb2.ListGrantsRequest) -> GrantState | None:
    """Convert the state that is wanted; None means all."""
    return _STATES.get(request.state)


def position_text(position: tuple[datetime, str]) -> str:
    """Return where a page begins as text, for its token."""
    create_time, grant_id = position
    return f"{(create_time - _EPOCH) // _MICROSECOND}/{grant_id}"


def position_of(text: str) -> tuple[datetime, str] | None:
    """Return what `position_text` wrote; None for the first page."""
    if not text:
        return None
    micros, _, grant_id = text.partition("/")
    if not micros.lstrip("-").isdigit():
        raise PageTokenInvalid([FieldViolation("page_token", "was not made by this call")])
    return _EPOCH + int(micros) * _MICROSECOND, grant_id


def to_api_grant(view: GrantView) -> entitlement_pb2.Grant:
    """Convert a grant."""
    grant, row = view.grant, view.row
    message = entitlement_pb2.Grant(
        grant_id=grant.grant_id,
        tenant_id=view.tenant_id,
        account_id=row.account_id,
        feature_key=grant.feature_key,
        kind=_API_KIND[grant.kind],
        priority=grant.priority,
        start_time=to_api_instant(grant.start_time),
        expire_time=to_api_optional_instant(grant.expire_time),
        recurrence=API_PERIOD[grant.recurrence] if grant.recurrence is not None else None,
        rollover=to_api_rollover(grant.rollover),
        grace_end_time=to_api_optional_instant(grant.grace_end_time) if _in_grace(view) else None,
        used_quantity=view.used_quantity,
        remaining_quantity=view.remaining_quantity,
        state=_API_STATE[view.state],
        reason_text=row.reason,
        actor=row.actor,
        metadata=row.metadata,
        create_time=to_api_instant(grant.create_time),
        revoke_time=to_api_optional_instant(grant.revoke_time),
        revoke_reason=row.revoke_reason,
    )
    _set_gift(message, grant)
    return message


def to_api_override(view: OverrideView) -> entitlement_service_pb2.SetFeatureOverrideResponse:
    """Convert a switch and its effect."""
    return entitlement_service_pb2.SetFeatureOverrideResponse(
        grant=to_api_grant(view.grant) if view.grant is not None else None,
        answer=to_api_check(view.answer),
        revision=view.revision,
        replayed=view.replayed,
    )


def _in_grace(view: GrantView) -> bool:
    grace_end = view.grant.grace_end_time
    return grace_end is not None and view.now < grace_end


def _set_gift(message: entitlement_pb2.Grant, grant: Grant) -> None:
    if grant.kind.switch:
        message.enabled = grant.kind is GrantKind.ENABLE
    elif grant.kind.credit:
        message.credit_quantity = grant.quantity
    elif grant.feature_kind is FeatureKind.CONFIG:
        message.config_value.CopyFrom(to_api_value(grant.value))
    else:
        message.limit.CopyFrom(to_api_limit(grant.limit or LimitOverride(quantity=grant.quantity)))


def _limit(message: catalog_pb2.Limit) -> LimitOverride:
    """Convert a limit; what it leaves unset stays as the plan has it, but for the enforcement, which is hard."""
    if message.HasField("trial_quantity"):
        raise InvalidRequest.of("limit.trial_quantity", "a grant knows of no trial; leave it out")
    percents = tuple(each.percent for each in message.thresholds if each.WhichOneof("point") == "percent")
    quantities = tuple(each.quantity for each in message.thresholds if each.WhichOneof("point") == "quantity")
    given = bool(message.thresholds)
    soft = message.enforcement == catalog_pb2.ENFORCEMENT_SOFT
    return LimitOverride(
        quantity=message.quantity,
        mode=LimitMode.SOFT if soft else LimitMode.HARD,
        period_kind=PERIODS.get(message.period),
        period_anchor=ANCHORS.get(message.anchor),
        thresholds_percent=percents if given else None,
        thresholds_absolute=quantities if given else None,
        rollover=from_api_rollover(message.rollover) if message.HasField("rollover") else None,
        overrun_policy=OVERRUN_POLICIES.get(message.overrun_policy),
    )


def to_api_limit(limit: LimitOverride) -> catalog_pb2.Limit:
    """Convert a limit in place of the plan's."""
    thresholds = [catalog_pb2.Threshold(percent=percent) for percent in limit.thresholds_percent or ()]
    thresholds += [catalog_pb2.Threshold(quantity=quantity) for quantity in limit.thresholds_absolute or ()]
    return catalog_pb2.Limit(
        quantity=limit.quantity,
        period=API_PERIOD[limit.period_kind] if limit.period_kind is not None else period_pb2.PERIOD_KIND_UNSPECIFIED,
        anchor=API_ANCHOR[limit.period_anchor] if limit.period_anchor is not None else None,
        enforcement=API_ENFORCEMENT[limit.mode] if limit.mode is not None else None,
        thresholds=thresholds,
        rollover=to_api_rollover(limit.rollover),
        overrun_policy=API_OVERRUN_POLICY[limit.overrun_policy] if limit.overrun_policy is not None else None,
    )
