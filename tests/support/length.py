"""How long tests run: short, or as long as it takes to be surer still (`LONG_TESTS=1`, as `make proof` sets it)."""

from __future__ import annotations

import os
from typing import Final

LONG: Final = bool(os.environ.get("LONG_TESTS"))
