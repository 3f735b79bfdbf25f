"""Batches over very many days say how far they have come: each piece of theirs is a commit (services.pieces)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("came_to", sa.Date()))


def downgrade() -> None:
    op.drop_column("batches", "came_to")
