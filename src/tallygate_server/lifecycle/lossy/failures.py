"""What can go wrong with lossy forms, as types that carry facts."""

from __future__ import annotations


class LossySettingsInvalid(Exception):
    """The settings contradict themselves or the data."""

    def __init__(self, field: str, description: str, *, column: str = "") -> None:
        """Name the field of the settings, say what is wrong with it, and which column it is about, if any."""
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description
        self.column = column


class LossyPayloadDamaged(Exception):
    """The bytes are not what was encoded."""


class AnalysisUnavailable(Exception):
    """A form does not hold what is asked of it."""

    def __init__(self, analysis: str, limitation: str) -> None:
        """Name what was asked for, and say why it cannot be given."""
        super().__init__(f"{analysis}: {limitation}")
        self.analysis = analysis
        self.limitation = limitation
