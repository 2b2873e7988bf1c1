"""Between the wire messages of privacy and those of the use cases."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from google.protobuf.json_format import ParseDict

from tallygate.v1 import data_lifecycle_pb2 as wire
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import StorageTier
from tallygate_server.privacy.receipts import ErasedItem, ErasureMethod, ErasureReceipt, KeptItem
from tallygate_server.transport import convert

_TIERS: Final = {int(tier): tier for tier in StorageTier}
_METHODS: Final = {int(method): method for method in ErasureMethod}


def to_api_receipt(document: Mapping[str, Any]) -> wire.ErasureReceipt:
    """Convert a receipt's document."""
    return ParseDict(dict(document), wire.ErasureReceipt())


def from_api_receipt(receipt: wire.ErasureReceipt) -> tuple[ErasureReceipt, bool]:
    """Convert a receipt; return it and whether nothing got lost: what we cannot say, we have not signed."""
    converted = ErasureReceipt(
        receipt_id=receipt.receipt_id,
        tenant_id=TenantId(receipt.tenant_id),
        account_digest=receipt.account_digest,
        digest_salt=receipt.digest_salt,
        removed=tuple(_erased(item) for item in receipt.removed),
        kept=tuple(_kept(item) for item in receipt.kept),
        refused=tuple(_kept(item) for item in receipt.refused),
        destroyed_key_ids=tuple(receipt.destroyed_key_ids),
        erase_time=convert.from_api_time(receipt.erase_time, "receipt.erase_time"),
        actor=receipt.actor,
        signing_key_id=receipt.signing_key_id,
        signature=receipt.signature,
    )
    again = to_api_receipt(converted.to_document())
    return converted, again.SerializeToString(deterministic=True) == receipt.SerializeToString(deterministic=True)


def _erased(item: wire.ErasedItem) -> ErasedItem:
    return ErasedItem(
        kind=item.kind,
        tier=_TIERS.get(item.tier),
        record_count=item.record_count,
        segment_count=item.segment_count,
        bytes=item.bytes,
        method=_METHODS.get(item.method, ErasureMethod.DELETED),
    )


def _kept(item: wire.KeptItem) -> KeptItem:
    return KeptItem(
        kind=item.kind,
        record_count=item.record_count,
        reason_text=item.reason_text,
        end_time=_time(item),
        anonymized=item.anonymized,
    )


def _time(item: wire.KeptItem) -> datetime | None:
    return convert.from_api_time(item.end_time, "end_time") if item.HasField("end_time") else None
