"""Every bound that Tallygate imposes on what callers send, as named constants.

Proto validation rules repeat these numbers where callers read them; a test keeps the two equal.
"""

from __future__ import annotations

from typing import Final

TENANT_ID_LENGTH_MAX: Final = 63
ACCOUNT_ID_LENGTH_MAX: Final = 128
KEY_LENGTH_MAX: Final = 64
REQUEST_ID_LENGTH_MAX: Final = 128

TENANT_ID_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
# No braces: the account id stands inside a Redis hash tag.
ACCOUNT_ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:@+=/|~-]{0,127}$"
KEY_PATTERN: Final = r"^[a-z][a-z0-9_.-]{0,63}$"
REQUEST_ID_PATTERN: Final = r"^[!-~]{1,128}$"

QUANTITY_MAX: Final = 1_000_000_000_000
"""Largest quantity of one call; a counter overflows int64 only after nine million such calls."""

LIMIT_UNLIMITED: Final = -1
LIMIT_MAX: Final = 1_000_000_000_000_000

BATCH_ITEMS_MAX: Final = 1_000
DIMENSIONS_MAX: Final = 32
DIMENSION_KEY_LENGTH_MAX: Final = 64
DIMENSION_VALUE_LENGTH_MAX: Final = 256

EVENT_AGE_SECONDS_MAX: Final = 35 * 86_400
EVENT_AHEAD_SECONDS_MAX: Final = 5 * 60
EVENT_DATA_BYTES_MAX: Final = 65_536
"""Of a usage event's data, as JSON."""
LATE_EVENT_WINDOW_SECONDS_DEFAULT: Final = 86_400
"""How long after its end a period still takes events, where the tenant does not say."""

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 1_000

THRESHOLDS_PER_ALLOWANCE_MAX: Final = 10
PLANS_PER_CATALOG_MAX: Final = 500
FEATURES_PER_CATALOG_MAX: Final = 500
IDENTITIES_PER_ACCOUNT_MAX: Final = 50
SUBSCRIPTIONS_PER_ACCOUNT_MAX: Final = 100
GRANTS_PER_ACCOUNT_MAX: Final = 1_000
GRACE_DAYS_DEFAULT: Final = 14
GRACE_DAYS_MAX: Final = 90
CATALOG_BYTES_MAX: Final = 1_048_576

QUERY_ROWS_MAX: Final = 100_000
"""Rows of one QueryUsage, on all pages together."""
QUERY_WINDOWS_MAX: Final = 200_000
"""Windows between the first and the last usage; those without usage are no rows, but somebody has to lay them out."""
USAGE_RETENTION_DAYS_MIN: Final = 40
"""Answers to repeated requests, late events and corrections rest on 35 days of raw usage."""
