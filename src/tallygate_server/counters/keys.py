"""The only builder of Redis keys.

Everything of one account shares the hash tag `{tenant/account}`, so that a script may touch it all on a
cluster. A counter's key names its period: nothing is ever reset, and a late expiry can only waste memory.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.period import EPOCH, Period

_MICROSECOND: Final = timedelta(microseconds=1)

SERVERS = "tg:servers"
"""Set of the ids of server processes that may have holds."""


def namespace(redis_run: str, epoch: int) -> str:
    """Return the prefix of everything that one run of Redis knows in one epoch.

    A Redis that was restarted, restored or promoted is another run, and an epoch ends when a change could not be
    told to Redis: what was known before is then no longer looked at, and runs out.
    """
    return f"tg:{redis_run[:8]}.{epoch}:"


def account(prefix: str, tenant_id: TenantId, account_id: AccountId) -> str:
    """Return the key of the account's hash.

    Its fields: `rev` revision (empty while changing), `src` sources, `lease` of whoever loads them, `open` number of
    changes under way, `next` newest revision among those that ended meanwhile.
    """
    return f"{prefix}{tag(tenant_id, account_id)}"


def tag(tenant_id: TenantId, account_id: AccountId) -> str:
    """Return the hash tag that every key of the account has."""
    return f"{{{tenant_id}/{account_id}}}"


def every_key_of(tenant_id: TenantId, account_id: AccountId) -> str:
    """Return the pattern of the account's keys in every namespace; ids have no letter that means something in it."""
    return f"tg:*{tag(tenant_id, account_id)}*"


def counter(account_key: str, feature_key: str, period: Period) -> str:
    """Return the key of a counter's hash.

    Its fields: `c` committed, `v` version, `h` everything that is held, `h:<batch>` one batch's hold, and where there
    are reservations `r`, their part of `h`, and `e`, the earliest time at which one expires (ms since 1970).
    """
    # Microseconds, as Postgres has them: billing periods begin at any instant.
    return f"{account_key}:{feature_key}:{period.kind.value}:{(period.start - EPOCH) // _MICROSECOND}"


class CounterParts(NamedTuple):
    """What a counter's key says."""

    tenant_id: TenantId
    account_id: AccountId
    feature_key: str
    period_kind: str
    period_start: datetime


def parse_counter(key: str) -> CounterParts:
    """Return the parts of a key that `counter` built."""
    account_part, rest = key.split("{", 1)[1].split("}:", 1)
    tenant_id, account_id = account_part.split("/", 1)
    feature_key, period_kind, start = rest.rsplit(":", 2)
    return CounterParts(
        TenantId(tenant_id), AccountId(account_id), feature_key, period_kind, EPOCH + int(start) * _MICROSECOND
    )


def holds(server_id: str) -> str:
    """Return the key of the hash in which a server registers its batches of holds."""
    return f"tg:holds:{server_id}"
