"""Whether the long form of tests was asked for: more kills, more examples, and new ones at every run."""

from __future__ import annotations

import os
from typing import Final

# Read before the tests' own environment is cleaned of our settings.
LONG: Final = bool(os.environ.get("TALLYGATE_LONG"))
