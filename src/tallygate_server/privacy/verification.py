"""Verifies receipts: that they are ours, about whom, and that nothing of the account has been left or come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tallygate_server.counters.connection import RedisCommandError, RedisUnavailable
from tallygate_server.domain.identifier import AccountId
from tallygate_server.errors import CountersUnavailable
from tallygate_server.lifecycle.keys import KeyDestroyed, KeyStore, KeyUnreadable
from tallygate_server.privacy.receipts import ErasureReceipt, Receipts
from tallygate_server.service import Service
from tallygate_server.storage.account_rows import Subject, count_all
from tallygate_server.storage.engine import Database

HELD_TABLES: Final = frozenset(
    {
        "accounts",
        "data_keys",
        "data_payloads",
        "data_record_ids",
        "data_replaced_records",
        "data_segment_reads",
        "data_segments",
        "datasets",
        "legal_holds",
        "stored_objects",
    }
)
"""What may still name the account while something of it is under legal hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Whether a receipt is genuine, and still true."""

    signature_valid: bool
    account_matches: bool = False
    still_erased: bool = False
    explanation: str = ""
    """What is wrong, for people; empty when nothing is."""


class Verifications:
    """Verifies receipts."""

    def __init__(self, database: Database, service: Service, *, keys: KeyStore, receipts: Receipts) -> None:
        """Use a database with the lifecycle's role."""
        self._database = database
        self._service = service
        self._keys = keys
        self._receipts = receipts

    async def verify(self, receipt: ErasureReceipt, *, unchanged: bool, account_id: AccountId | None) -> Verification:
        """Verify a receipt, and look for what is left of the account where it is named.

        `unchanged`: whether the receipt says nothing beside what this one can say. Raises StoreUnavailable,
        CountersUnavailable.
        """
        if not unchanged or not await self._receipts.signature_valid(receipt):
            return Verification(
                signature_valid=False, explanation="the signature is not ours, or the receipt was changed since"
            )
        if account_id is None:
            return Verification(signature_valid=True)
        if not receipt.is_about(account_id):
            return Verification(signature_valid=True, explanation="the receipt is about another account")
        left = await self._left(receipt, account_id)
        return Verification(
            signature_valid=True,
            account_matches=True,
            still_erased=not left,
            explanation="; ".join(left),
        )

    async def _left(self, receipt: ErasureReceipt, account_id: AccountId) -> list[str]:
        """Return what is left of the account, or came back, beside what the receipt says was kept."""
        left = []
        subject = Subject(tenant_id=receipt.tenant_id, account_id=account_id)
        allowed = HELD_TABLES if receipt.refused else frozenset()
        counts = await count_all(self._database, subject)
        left += [f"{count} rows in {name}" for name, count in counts.items() if name not in allowed]
        for key_id in receipt.destroyed_key_ids:
            try:
                await self._keys.read(receipt.tenant_id, key_id)
            except KeyDestroyed:
                continue
            except KeyUnreadable:
                pass
            left.append(f"key {key_id}")
        try:
            keys = await self._service.counters.keys_of(receipt.tenant_id, account_id)
        except (RedisUnavailable, RedisCommandError) as error:
            raise CountersUnavailable("Redis cannot be reached, which may know the account") from error
        if keys:
            left.append(f"{len(keys)} keys in Redis")
        return left
