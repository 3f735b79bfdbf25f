"""Backups: what became of each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "backups",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verify_seconds", sa.Double(), nullable=True),
        sa.Column("verify_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_backups"),
        sa.CheckConstraint("state IN ('running', 'done', 'failed', 'removed')", name=op.f("ck_backups_state")),
    )
    op.create_index("uq_backups_place_name", "backups", ["place", "name"], unique=True)
    op.create_index("ix_backups_started_at", "backups", ["started_at"])


def downgrade() -> None:
    op.drop_table("backups")
