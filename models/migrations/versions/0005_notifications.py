"""Notifications: which channels have a message, which are given up, who wants mail; and keys of registrations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "outbox",
        sa.Column("delivered", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column("outbox", sa.Column("given_up_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_outbox_due",
        "outbox",
        [sa.text("(kind = 'digest')"), "id"],
        postgresql_where=sa.text("sent_at IS NULL AND given_up_at IS NULL"),
    )
    op.create_index("ix_users_id_notify", "users", ["id"], postgresql_where=sa.text("notify"))
    op.create_table(
        "registrations",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("simulation_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_registrations"),
    )


def downgrade() -> None:
    op.drop_table("registrations")
    op.drop_index("ix_users_id_notify", "users")
    op.drop_index("ix_outbox_due", "outbox")
    op.drop_column("outbox", "given_up_at")
    op.drop_column("outbox", "delivered")
