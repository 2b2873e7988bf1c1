"""The kinds of calls that are measured, and the accounts that they are made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from tallygate.v1 import entitlement_service_pb2, usage_service_pb2
from tallygate_server.bench import empty_call
from tallygate_server.bench.stand import TransportKind
from tallygate_server.domain.limits import LIMIT_MAX

TENANT: Final = "bench"
COUNTER: Final = "tokens"
SWITCH: Final = "reports"
BATCH_ITEMS: Final = 100
BATCH_STREAMS: Final = 2
SPREAD_ACCOUNTS: Final = 8

CATALOG: Final = f"""\
tenant: {TENANT}
name: Benchmark
default_plan: bench
auto_provision: true
features:
  {COUNTER}: {{kind: counter, name: Tokens, unit: token}}
  {SWITCH}: {{kind: boolean, name: Reports}}
plans:
  bench:
    name: Bench
    allowances:
      {COUNTER}: {{limit: {LIMIT_MAX}, period: month, anchor: utc, thresholds: [80%, 100%]}}
      {SWITCH}: on
"""
"""The limit is checked at every call and never reached."""

CHECK_PATH: Final = "/tallygate.v1.EntitlementService/CheckAccess"
INCREMENT_PATH: Final = "/tallygate.v1.UsageService/Increment"
BATCH_PATH: Final = "/tallygate.v1.UsageService/BatchIncrement"

Kind = Literal["empty", "check_counter", "check_boolean", "committed", "accepted", "batch"]

TITLES: Final[dict[Kind, str]] = {
    "empty": "empty call",
    "check_counter": "CheckAccess, counter",
    "check_boolean": "CheckAccess, boolean",
    "committed": "Increment COMMITTED",
    "accepted": "Increment ACCEPTED",
    "batch": f"BatchIncrement, {BATCH_ITEMS} items",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How many connections and calls at a time, the same for all kinds of calls that are compared."""

    name: Literal["one account", "8 accounts"]
    processes: int
    connections: int
    """Of each process."""
    streams: int
    """Calls at a time on each connection."""


ONE: Final = Load(name="one account", processes=1, connections=4, streams=16)
SPREAD: Final = Load(name="8 accounts", processes=SPREAD_ACCOUNTS, connections=1, streams=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of call on one transport under one load."""

    transport: TransportKind
    kind: Kind
    load: Load

    @property
    def title(self) -> str:
        """Name for people."""
        return TITLES[self.kind]

    @property
    def path(self) -> str:
        """Full name of the method."""
        if self.kind == "empty":
            return empty_call.PATH
        if self.kind in {"check_counter", "check_boolean"}:
            return CHECK_PATH
        return BATCH_PATH if self.kind == "batch" else INCREMENT_PATH

    @property
    def streams(self) -> int:
        """Calls at a time on each connection: batches bring their own crowd."""
        return BATCH_STREAMS if self.kind == "batch" else self.load.streams

    @property
    def in_flight(self) -> int:
        """Calls at a time on all connections of all processes."""
        return self.load.processes * self.load.connections * self.streams

    @property
    def items_per_call(self) -> int:
        """Answers that one call brings."""
        return BATCH_ITEMS if self.kind == "batch" else 1

    @property
    def counted_per_call(self) -> int:
        """Lines that one call adds to the ledger."""
        if self.kind == "batch":
            return BATCH_ITEMS
        return 1 if self.kind in {"committed", "accepted"} else 0

    @property
    def accounts(self) -> list[str]:
        """Accounts that the calls are for, one for each process."""
        return [f"{self.transport}-{self.load.processes}-{index}" for index in range(self.load.processes)]

    @property
    def counted_accounts(self) -> list[str]:
        """Accounts whose counters the calls move."""
        if self.kind == "batch":
            return [f"{self.transport}-batch-{index}" for index in range(SPREAD_ACCOUNTS)]
        return self.accounts if self.counted_per_call else []

    @property
    def accounts_key(self) -> tuple[str, ...]:
        """The same accounts as a key; kinds of calls may share them."""
        return tuple(self.counted_accounts)

    @property
    def requests(self) -> list[Message]:
        """One request for each process; it repeats that one."""
        return [self._request(account) for account in self.accounts]

    @property
    def response_type(self) -> type[Message]:
        """What comes back."""
        if self.kind == "empty":
            return Empty
        if self.path == CHECK_PATH:
            return entitlement_service_pb2.CheckAccessResponse
        if self.kind == "batch":
            return usage_service_pb2.BatchIncrementResponse
        return usage_service_pb2.IncrementResponse

    def _request(self, account_id: str) -> Message:
        if self.kind in {"check_counter", "check_boolean"}:
            return entitlement_service_pb2.CheckAccessRequest(
                tenant_id=TENANT,
                account_id=account_id,
                feature_key=COUNTER if self.kind == "check_counter" else SWITCH,
            )
        if self.kind == "batch":
            # Without request ids, as below: h2load repeats one body, and each repetition must count.
            return usage_service_pb2.BatchIncrementRequest(
                increments=[
                    usage_service_pb2.IncrementRequest(
                        tenant_id=TENANT,
                        account_id=self.counted_accounts[index % SPREAD_ACCOUNTS],
                        feature_key=COUNTER,
                    )
                    for index in range(BATCH_ITEMS)
                ]
            )
        return usage_service_pb2.IncrementRequest(
            tenant_id=TENANT,
            account_id=account_id,
            feature_key=COUNTER,
            ack=usage_service_pb2.ACK_MODE_ACCEPTED
            if self.kind == "accepted"
            else usage_service_pb2.ACK_MODE_COMMITTED,
        )


def scenarios(*, spread: bool) -> list[Scenario]:
    """Return everything that is measured, each load's empty call first."""
    kinds: tuple[Kind, ...] = ("empty", "check_counter", "check_boolean", "committed", "accepted", "batch")
    spread_kinds: tuple[Kind, ...] = ("empty", "check_counter", "committed", "accepted")
    transports: tuple[TransportKind, ...] = ("native", "grpcio")
    found = [
        Scenario(transport=transport, kind=kind, load=ONE)
        # Side by side for the ratio across transports.
        for kind in kinds
        for transport in transports
    ]
    if spread:
        found += [
            Scenario(transport=transport, kind=kind, load=SPREAD) for kind in spread_kinds for transport in transports
        ]
    return found
