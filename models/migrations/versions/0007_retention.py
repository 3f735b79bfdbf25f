"""Retention: which days are kept, what stands for what is gone, and when autovacuum looks at the busy tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# By default a fifth of a table has to be dead before autovacuum comes. A table that is a queue would by then be read
# over and over for the few rows at its end; these are cleaned by number of rows instead.
_BUSY = ("batches", "run_simulations", "outbox", "price_windows", "price_chunks", "beat_ticks", "latest_prices")
_SETTINGS = {
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_threshold": "500",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
}


def upgrade() -> None:
    op.create_table(
        "retention",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("daily_from", sa.Date(), nullable=True),
        sa.Column("summaries", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name="pk_retention"),
        sa.CheckConstraint("singleton", name=op.f("ck_retention_singleton")),
    )
    op.execute("INSERT INTO retention DEFAULT VALUES")
    op.create_table("portfolio_archive", *_portfolio_columns(), _key("portfolio_archive"))
    op.create_table(
        "partition_drops",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("planned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_partition_drops"),
    )
    _create_batch_totals()
    op.add_column("runs", sa.Column("summary", postgresql.JSONB(), nullable=True))
    settings = ", ".join(f"{name} = {value}" for name, value in _SETTINGS.items())
    for table in _BUSY:
        op.execute(f"ALTER TABLE {table} SET ({settings})")


def _portfolio_columns() -> list[sa.Column[Any]]:
    bigs = postgresql.ARRAY(sa.BigInteger())
    columns: list[tuple[str, sa.types.TypeEngine[Any]]] = [
        ("day", sa.Date()),
        ("nights", sa.Integer()),
        *((name, sa.BigInteger()) for name in ("user_id", "simulation_id", "cash", "equity", "peak")),
        *((name, sa.Double()) for name in ("return_mean", "return_m2", "max_drawdown")),
        ("asset_ids", postgresql.ARRAY(sa.Integer())),
        *((name, bigs) for name in ("quantities", "cost_basis", "state")),
    ]
    return [sa.Column(name, kind, nullable=False) for name, kind in columns]


def _key(table: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint("user_id", "simulation_id", "day", name=f"pk_{table}")


def _create_batch_totals() -> None:
    big, bigs = sa.BigInteger(), postgresql.ARRAY(sa.BigInteger())
    op.create_table(
        "batch_totals",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("kind", "status")),
        *(
            sa.Column(name, big, nullable=False)
            for name in ("batches", "attempts", "publications", "republications", "users")
        ),
        sa.Column("durations", bigs, nullable=False),
        *(sa.Column(name, big, nullable=False) for name in ("durations_count", "durations_micros")),
        sa.Column("waits", bigs, nullable=False),
        *(sa.Column(name, big, nullable=False) for name in ("waits_count", "waits_micros")),
        sa.Column("stages", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "status", name="pk_batch_totals"),
    )


def downgrade() -> None:
    for table in _BUSY:
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(_SETTINGS)})")
    op.drop_column("runs", "summary")
    for table in ("batch_totals", "partition_drops", "portfolio_archive", "retention"):
        op.drop_table(table)
