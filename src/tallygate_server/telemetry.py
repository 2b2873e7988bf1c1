"""Every metric, and the set-up of logging."""

from __future__ import annotations

from prometheus_client import Counter

EMBEDDED_RESTARTS = Counter("tallygate_embedded_restarts", "Restarts of an embedded server that died.", ["server"])
