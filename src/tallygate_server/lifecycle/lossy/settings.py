"""How data is compressed with loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from itertools import pairwise
from typing import Final

from tallygate_server.domain.lifecycle import CompressionForm, CompressionSettings
from tallygate_server.lifecycle.lossy.failures import LossySettingsInvalid


class LossyForm(Enum):
    """A form that does not give back every value; the values are stored."""

    SUMMARY = "summary"
    BEHAVIORAL = "behavioral"
    PIECEWISE = "piecewise"
    SEASONAL = "seasonal"


LEVEL_DEFAULT: Final = 5
LEVEL_MAX: Final = 9
MAX_ERROR_RATIO_DEFAULT: Final = 0.01
WINDOW_DEFAULT: Final = timedelta(hours=1)
WINDOW_MIN: Final = timedelta(seconds=1)
WINDOW_MAX: Final = timedelta(days=366)
SESSION_GAP_DEFAULT: Final = timedelta(minutes=30)
SESSION_GAP_MIN: Final = timedelta(seconds=1)
SESSION_GAP_MAX: Final = timedelta(days=7)
ZONE_BOUNDS_MAX: Final = 50
"""Of one column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossySettings:
    """What is wanted. Raises LossySettingsInvalid when it contradicts itself."""

    form: LossyForm
    level: int = LEVEL_DEFAULT
    """Effort, 1 (fast) to 9 (small)."""
    window: timedelta = WINDOW_DEFAULT
    """Summary: length of a window."""
    zones: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Summary: bounds of zones, ascending, by column."""
    max_error_ratio: float = MAX_ERROR_RATIO_DEFAULT
    """Piecewise: largest error of any point, as a share of the column's range."""
    column_error_ratios: Mapping[str, float] = field(default_factory=dict)
    """Piecewise: another largest error for single columns."""
    session_gap: timedelta = SESSION_GAP_DEFAULT
    """Behavioral: silence that ends a session."""
    action_column: str = ""
    """Behavioral: column, or field of a document, that names the action; empty: the only column of texts."""

    def __post_init__(self) -> None:
        """Check every bound."""
        if not 1 <= self.level <= LEVEL_MAX:
            raise LossySettingsInvalid("level", f"must be 1 to {LEVEL_MAX}")
        if not WINDOW_MIN <= self.window <= WINDOW_MAX:
            raise LossySettingsInvalid("window", "must be a second to 366 days")
        if not SESSION_GAP_MIN <= self.session_gap <= SESSION_GAP_MAX:
            raise LossySettingsInvalid("session_gap", "must be a second to seven days")
        for name, ratio in [("", self.max_error_ratio), *self.column_error_ratios.items()]:
            if not 0 <= ratio <= 1:
                raise LossySettingsInvalid(
                    f"column_error_ratios[{name}]" if name else "max_error_ratio", "must be 0 to 1"
                )
        for name, bounds in self.zones.items():
            if len(bounds) > ZONE_BOUNDS_MAX:
                raise LossySettingsInvalid(f"zones[{name}]", f"must have at most {ZONE_BOUNDS_MAX} bounds")
            if not all(map(math.isfinite, bounds)) or any(low >= high for low, high in pairwise(bounds)):
                raise LossySettingsInvalid(f"zones[{name}]", "must be finite and ascending")

    def error_ratio(self, column: str) -> float:
        """Return the largest error of a column, as a share of its range."""
        return self.column_error_ratios.get(column, self.max_error_ratio)


def lossy_settings(settings: CompressionSettings) -> LossySettings:
    """Return the settings of a lossy form. Raises LossySettingsInvalid."""
    if settings.form is CompressionForm.SUMMARY:
        form = LossyForm.SUMMARY
    elif settings.form is CompressionForm.BEHAVIORAL:
        form = LossyForm.BEHAVIORAL
    elif settings.form is CompressionForm.STATISTICAL:
        form = LossyForm.SEASONAL if settings.seasonal else LossyForm.PIECEWISE
    else:
        raise LossySettingsInvalid("form", "must be one that loses something")
    return LossySettings(
        form=form,
        level=settings.level,
        window=settings.window,
        zones=settings.zones,
        max_error_ratio=settings.max_error_ratio,
        column_error_ratios=settings.column_error_ratios,
        session_gap=settings.session_gap,
        action_column=settings.action_column,
    )
