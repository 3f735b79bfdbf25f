"""Reprocessing: pausing, keys of requests, what changed by it, and the version of the closes that nights have used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("runs", sa.Column("request_key", sa.Text(), nullable=True))
    op.create_unique_constraint("uq_runs_request_key", "runs", ["request_key"])
    op.create_table(
        "portfolio_revisions",
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("run_id", "user_id", "simulation_id")),
        sa.Column("first_changed_day", sa.Date(), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in ("old_equity", "new_equity")),
        sa.PrimaryKeyConstraint("run_id", "simulation_id", name="pk_portfolio_revisions"),
    )
    op.create_index("ix_portfolio_revisions_simulation_id", "portfolio_revisions", ["simulation_id"])
    op.create_table(
        "closes_version",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name="pk_closes_version"),
        sa.CheckConstraint("singleton", name=op.f("ck_closes_version_singleton")),
    )
    op.execute("INSERT INTO closes_version DEFAULT VALUES")


def downgrade() -> None:
    op.drop_table("closes_version")
    op.drop_table("portfolio_revisions")
    op.drop_constraint("uq_runs_request_key", "runs")
    op.drop_column("runs", "request_key")
    op.drop_column("runs", "paused")
