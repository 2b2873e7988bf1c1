"""What Redis knows about revisions, kept in memory: a twin for tests of what writes entitlements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tallygate_server.domain.identifier import AccountId, TenantId


class InMemoryRevisionMarks:
    """Satisfies `tallygate_server.entitlement_changes.RevisionMarks`."""

    def __init__(self) -> None:
        self.changing: set[tuple[TenantId, AccountId]] = set()
        """Accounts about which every reader asks Postgres."""
        self.revisions: dict[tuple[TenantId, AccountId], int] = {}
        """Newest published revision of each account."""
        self.published: list[dict[AccountId, int]] = []
        """Everything that was published, in order; 0 is a change that was rolled back."""

    async def mark_changing(self, tenant_id: TenantId, account_ids: Sequence[AccountId]) -> None:
        """Remember that the accounts are changing."""
        self.changing.update((tenant_id, account_id) for account_id in account_ids)

    async def publish(
        self,
        tenant_id: TenantId,
        revisions: Mapping[AccountId, int],
        *,
        may_be_cached: bool = True,  # noqa: ARG002 - all are told alike.
    ) -> None:
        """Remember the revisions, unless newer ones are known, and that the change is over."""
        self.published.append(dict(revisions))
        for account_id, revision in revisions.items():
            key = (tenant_id, account_id)
            self.changing.discard(key)
            self.revisions[key] = max(revision, self.revisions.get(key, 0))
