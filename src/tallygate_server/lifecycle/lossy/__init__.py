"""Forms of data that keep what matters of it in a fraction of the bytes, and measure what they lose.

`codec.py` is the way in; `piecewise.py`, `summary.py`, `behavioral.py` and `seasonal.py` are the forms, `measure.py`
says how a loss is measured, `payload.py` how the bytes are laid out. Pure functions: no I/O, no waiting.
"""

from __future__ import annotations

from tallygate_server.lifecycle.lossy.codec import (
    PATTERNS,
    PROFILE,
    ROWS,
    SESSIONS,
    WINDOWS,
    ColumnLoss,
    Kept,
    KeptPatterns,
    KeptRows,
    LossyResult,
    behavior_of,
    check,
    decode,
    encode,
    patterns_of,
    windows_of,
)
from tallygate_server.lifecycle.lossy.failures import (
    AnalysisUnavailable,
    LossyPayloadDamaged,
    LossySettingsInvalid,
)
from tallygate_server.lifecycle.lossy.settings import LossyForm, LossySettings, lossy_settings
from tallygate_server.lifecycle.lossy.summary import Windows, joined

__all__ = [
    "PATTERNS",
    "PROFILE",
    "ROWS",
    "SESSIONS",
    "WINDOWS",
    "AnalysisUnavailable",
    "ColumnLoss",
    "Kept",
    "KeptPatterns",
    "KeptRows",
    "LossyForm",
    "LossyPayloadDamaged",
    "LossyResult",
    "LossySettings",
    "LossySettingsInvalid",
    "Windows",
    "behavior_of",
    "check",
    "decode",
    "encode",
    "joined",
    "lossy_settings",
    "patterns_of",
    "windows_of",
]
