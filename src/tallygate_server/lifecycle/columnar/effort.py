"""What each level from 1 (fast) to 9 (small) means for the libraries below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEVEL_MIN: Final = 1
LEVEL_MAX: Final = 9
LEVEL_DEFAULT: Final = 5

PCO_LEVEL_MAX: Final = 12
SMALL_ROWS: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard to try."""

    pco: int
    zstd: int
    sample_rows: int
    """Rows on which codecs are tried; all of them where this is 0."""

    thorough: bool
    """Whether to try what rarely wins and costs time: longer memories, and every codec on the whole column."""

    def pco_of(self, rows: int) -> int:
        """Return pcodec's level for a column: in small ones a higher one costs little."""
        return self.pco + 1 if rows <= SMALL_ROWS and self.pco < PCO_LEVEL_MAX else self.pco


EFFORTS: Final = {
    1: Effort(pco=2, zstd=1, sample_rows=256, thorough=False),
    2: Effort(pco=3, zstd=1, sample_rows=256, thorough=False),
    3: Effort(pco=3, zstd=2, sample_rows=512, thorough=False),
    4: Effort(pco=4, zstd=2, sample_rows=512, thorough=False),
    5: Effort(pco=4, zstd=3, sample_rows=512, thorough=False),
    6: Effort(pco=8, zstd=6, sample_rows=2_048, thorough=False),
    7: Effort(pco=8, zstd=9, sample_rows=4_096, thorough=True),
    8: Effort(pco=10, zstd=13, sample_rows=16_384, thorough=True),
    9: Effort(pco=12, zstd=19, sample_rows=0, thorough=True),
}


def effort(level: int) -> Effort:
    """Return what a level means; raises ValueError for a number that is no level."""
    try:
        return EFFORTS[level]
    except KeyError:
        raise ValueError(f"a level is a number from {LEVEL_MIN} to {LEVEL_MAX}, not {level}") from None
