"""The only builder of Redis keys.

Everything of one account shares the hash tag `{tenant/account}`, so that a script may touch it all on a
cluster. A counter's key names its period: nothing is ever reset, and a late expiry can only waste memory.
"""

from __future__ import annotations

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.period import Period

SERVERS = "tg:servers"
"""Set of the ids of server processes that may have holds."""


def account(tenant_id: TenantId, account_id: AccountId) -> str:
    """Return the key of the account's hash: `rev`, its revision (empty while changing), and `src`, its sources."""
    return f"tg:{{{tenant_id}/{account_id}}}"


def counter(account_key: str, feature_key: str, period: Period) -> str:
    """Return the key of a counter's hash: `c` committed, `v` version, `h` held, `h:<batch>` one batch's hold."""
    return f"{account_key}:{feature_key}:{period.kind.value}:{int(period.start.timestamp() * 1000)}"


def holds(server_id: str) -> str:
    """Return the key of the hash in which a server registers its batches of holds."""
    return f"tg:holds:{server_id}"
