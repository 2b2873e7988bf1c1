"""Between what watchers are told and wire messages."""

from __future__ import annotations

from tallygate.v1 import entitlement_service_pb2 as wire
from tallygate_server.transport import convert
from tallygate_server.transport.use_cases import Now
from tallygate_server.watching.changes import AccountChange, AccountSnapshot
from tallygate_server.watching.watches import WatchUpdate


def to_api_update(update: WatchUpdate, *, now: Now) -> wire.WatchEntitlementsResponse:
    """Convert one message of a watch."""
    if isinstance(update, AccountSnapshot):
        return wire.WatchEntitlementsResponse(
            snapshot=wire.EntitlementSnapshot(
                entitlements=[convert.to_api_entitlement(key, answer) for key, answer in update.entitlements.items()],
                revision=update.revision,
            )
        )
    if isinstance(update, AccountChange):
        return wire.WatchEntitlementsResponse(
            change=wire.EntitlementChange(
                changed_entitlements=[
                    convert.to_api_entitlement(key, answer) for key, answer in update.changed.items()
                ],
                removed_feature_keys=update.removed,
                cause=update.cause,
                revision=update.revision,
                change_time=convert.to_api_instant(update.change_time),
            )
        )
    return wire.WatchEntitlementsResponse(
        heartbeat=wire.WatchHeartbeat(server_time=convert.to_api_instant(now()), revision=update.revision)
    )
