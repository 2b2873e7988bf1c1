"""${message}

Works with the previous release serving: expand, backfill and contract are separate releases.
"""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Apply."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Undo, or say why that cannot be."""
    ${downgrades if downgrades else "pass"}
