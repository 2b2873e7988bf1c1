"""Converts selections, compression settings and lengths of time."""

from __future__ import annotations

from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration

from tallygate.v1 import data_lifecycle_pb2 as wire
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import (
    CompressionForm,
    CompressionSettings,
    DataSelection,
    StorageTier,
)
from tallygate_server.errors import FieldViolation, InvalidRequest
from tallygate_server.transport import convert

_DEFAULTS = CompressionSettings()


def from_api_selection(selection: wire.DataSelection, field: str = "selection") -> DataSelection:
    """Convert what data is chosen; what is not set chooses everything. Raises InvalidRequest."""
    for place, tier in enumerate(selection.tiers):
        if tier == wire.STORAGE_TIER_UNSPECIFIED:
            raise InvalidRequest.of(f"{field}.tiers[{place}]", "must be a tier")

    def time(name: str) -> datetime | None:
        return convert.from_api_time(getattr(selection, name), f"{field}.{name}") if selection.HasField(name) else None

    return DataSelection(
        account_id=AccountId(selection.account_id) if selection.account_id else None,
        data_types=tuple(selection.data_types),
        dataset_ids=tuple(selection.dataset_ids),
        start_time=time("start_time"),
        end_time=time("end_time"),
        tiers=tuple(StorageTier(tier) for tier in selection.tiers),
    )


def to_api_selection(selection: DataSelection) -> wire.DataSelection:
    """Convert back what data is chosen."""
    return wire.DataSelection(
        account_id=selection.account_id or "",
        data_types=selection.data_types,
        dataset_ids=selection.dataset_ids,
        start_time=convert.to_api_instant(selection.start_time) if selection.start_time else None,
        end_time=convert.to_api_instant(selection.end_time) if selection.end_time else None,
        tiers=[wire.StorageTier.Name(tier) for tier in selection.tiers],
    )


def from_api_settings(settings: wire.CompressionSettings, field: str = "settings") -> CompressionSettings:
    """Convert how data is compressed; raises InvalidRequest for zones that do not ascend."""
    for column, bounds in settings.zones.items():
        if list(bounds.values) != sorted(set(bounds.values)):
            path = f"{field}.zones[{column}].values"
            raise InvalidRequest([FieldViolation(path, "must ascend, each value once", "zones.ascending")])
    return CompressionSettings(
        form=CompressionForm(settings.form) if settings.form else _DEFAULTS.form,
        level=settings.level or _DEFAULTS.level,
        window=from_api_duration(settings.window) if settings.HasField("window") else _DEFAULTS.window,
        zones={column: tuple(bounds.values) for column, bounds in settings.zones.items()},
        max_error_ratio=(
            settings.max_error_ratio if settings.HasField("max_error_ratio") else _DEFAULTS.max_error_ratio
        ),
        column_error_ratios=dict(settings.column_error_ratios),
        seasonal=settings.seasonal,
        session_gap=(
            from_api_duration(settings.session_gap) if settings.HasField("session_gap") else _DEFAULTS.session_gap
        ),
        action_column=settings.action_column,
    )


def to_api_settings(settings: CompressionSettings) -> wire.CompressionSettings:
    """Convert back how data is compressed."""
    return wire.CompressionSettings(
        form=wire.CompressionForm.Name(settings.form),
        level=settings.level,
        window=to_api_duration(settings.window),
        zones={column: wire.ZoneBounds(values=bounds) for column, bounds in settings.zones.items()},
        max_error_ratio=settings.max_error_ratio,
        column_error_ratios=dict(settings.column_error_ratios),
        seasonal=settings.seasonal,
        session_gap=to_api_duration(settings.session_gap),
        action_column=settings.action_column,
    )


def from_api_duration(duration: Duration) -> timedelta:
    """Convert a length of time, to the microsecond."""
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000)


def to_api_duration(duration: timedelta) -> Duration:
    """Convert back a length of time."""
    message = Duration()
    message.FromTimedelta(duration)
    return message
