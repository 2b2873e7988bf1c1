"""How long tests run: short, or as long as it takes to be surer still (`TALLYGATE_LONG=1`, `make proof`)."""

from __future__ import annotations

import os
from typing import Final

LONG: Final = bool(os.environ.get("TALLYGATE_LONG"))
