"""All tables and views of the first release."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

VIEWS = ("user_days", "leaderboard", "trade_history", "portfolio_latest", "portfolio_history", "simulation_settings")
BATCH_UNFINISHED = "status IN ('planned', 'queued', 'running')"


def upgrade() -> None:
    _users_and_assets()
    _simulations()
    _prices()
    _portfolios()
    _runs()
    _batches()
    _around_the_work()
    # Sent as written: the text has % and : of its own.
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0001_views.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    for view in VIEWS:
        op.execute(f"DROP VIEW {view}")
    for table in (
        *("beat_ticks", "outbox", "quarantine", "batches", "runs", "leaderboard_entries", "trades", "portfolio_days"),
        *("price_corrections", "price_ticks", "closes", "simulations", "strategies", "assets", "users"),
    ):
        op.drop_table(table)


def _id(kind: type[sa.Integer] = sa.BigInteger) -> sa.Column[int]:
    return sa.Column("id", kind(), sa.Identity(), nullable=False)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _integer(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=nullable)


def _bigint(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _counter(name: str, kind: type[sa.Integer]) -> sa.Column[int]:
    return sa.Column(name, kind(), server_default=sa.text("0"), nullable=False)


def _date(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.Date(), nullable=False)


def _moment(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _created(name: str = "created_at") -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False)


def _array(name: str, kind: type[sa.Integer | sa.Text]) -> sa.Column[object]:
    return sa.Column(name, sa.ARRAY(kind()), nullable=False)


def _sum(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.Numeric(38, 0), nullable=True)


def _users_and_assets() -> None:
    op.create_table(
        "users",
        _id(),
        _text("name"),
        _text("email", nullable=True),
        _flag("notify"),
        _created(),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
    )
    op.create_table(
        "assets",
        _id(sa.Integer),
        _text("symbol"),
        _text("name", nullable=True),
        _created(),
        sa.PrimaryKeyConstraint("id", name="pk_assets"),
        sa.UniqueConstraint("symbol", name="uq_assets_symbol"),
    )


def _simulations() -> None:
    op.create_table(
        "strategies",
        sa.Column("code", sa.SmallInteger(), autoincrement=False, nullable=False),
        _text("name"),
        _array("param_names", sa.Text),
        sa.PrimaryKeyConstraint("code", name="pk_strategies"),
        sa.UniqueConstraint("name", name="uq_strategies_name"),
    )
    op.create_table(
        "simulations",
        _id(),
        _bigint("user_id"),
        sa.Column("strategy", sa.SmallInteger(), nullable=False),
        _date("start_day"),
        _bigint("initial_cash"),
        _array("params", sa.BigInteger),
        _array("asset_ids", sa.Integer),
        _array("weights_ppm", sa.Integer),
        _created(),
        sa.PrimaryKeyConstraint("id", name="pk_simulations"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_simulations_user_id"),
        sa.CheckConstraint("start_day >= DATE '2000-01-01'", name=op.f("ck_simulations_start_day")),
        sa.CheckConstraint("initial_cash >= 0", name=op.f("ck_simulations_initial_cash")),
        sa.CheckConstraint("cardinality(asset_ids) = cardinality(weights_ppm)", name=op.f("ck_simulations_slots")),
        sa.CheckConstraint(
            "coalesce(array_ndims(params), 1) = 1 AND array_position(params, NULL) IS NULL"
            " AND coalesce(array_ndims(asset_ids), 1) = 1 AND array_position(asset_ids, NULL) IS NULL"
            " AND coalesce(array_ndims(weights_ppm), 1) = 1 AND array_position(weights_ppm, NULL) IS NULL",
            name=op.f("ck_simulations_arrays"),
        ),
    )
    op.create_index(
        "ix_simulations_user_id_id",
        "simulations",
        ["user_id", "id"],
        unique=True,
        postgresql_include=["start_day"],
    )


def _prices() -> None:
    op.create_table(
        "closes",
        _date("day"),
        _integer("asset_id"),
        _bigint("close"),
        _bigint("open", nullable=True),
        _bigint("high", nullable=True),
        _bigint("low", nullable=True),
        sa.Column("volume", sa.Numeric(), nullable=True),
        _text("source"),
        _created("recorded_at"),
        sa.PrimaryKeyConstraint("day", "asset_id", name="pk_closes"),
        sa.ForeignKeyConstraint(["asset_id"], ["assets.id"], name="fk_closes_asset_id"),
        sa.CheckConstraint("close > 0", name=op.f("ck_closes_close")),
    )
    op.create_index("ix_closes_asset_id_day", "closes", ["asset_id", "day"])
    op.create_table(
        "price_ticks",
        _integer("asset_id"),
        _moment("ts", nullable=False),
        _bigint("price"),
        _text("source"),
        sa.UniqueConstraint("asset_id", "ts", name="uq_price_ticks_asset_id_ts"),
        postgresql_partition_by="RANGE (ts)",
    )
    op.create_table(
        "price_corrections",
        _id(),
        _integer("asset_id"),
        _date("day"),
        _bigint("old_close", nullable=True),
        _bigint("new_close"),
        _text("reason"),
        _text("requested_by"),
        _created(),
        sa.PrimaryKeyConstraint("id", name="pk_price_corrections"),
        sa.ForeignKeyConstraint(["asset_id"], ["assets.id"], name="fk_price_corrections_asset_id"),
    )
    op.create_index("ix_price_corrections_asset_id_day", "price_corrections", ["asset_id", "day"])


def _portfolios() -> None:
    op.create_table(
        "portfolio_days",
        _date("day"),
        _integer("nights"),
        *(_bigint(name) for name in ("user_id", "simulation_id", "cash", "equity", "peak")),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("return_mean", "return_m2", "max_drawdown")),
        _array("asset_ids", sa.Integer),
        *(_array(name, sa.BigInteger) for name in ("quantities", "cost_basis", "state")),
        postgresql_partition_by="RANGE (day)",
    )
    op.create_table(
        "trades",
        _date("day"),
        _integer("asset_id"),
        *(_bigint(name) for name in ("user_id", "simulation_id", "quantity", "price", "notional", "fee", "realised")),
        postgresql_partition_by="RANGE (day)",
    )
    op.create_table(
        "leaderboard_entries",
        _date("day"),
        _integer("rank"),
        *(_bigint(name) for name in ("user_id", "simulation_id", "equity", "return_ppm")),
        sa.PrimaryKeyConstraint("day", "rank", name="pk_leaderboard_entries"),
    )


def _runs() -> None:
    op.create_table(
        "runs",
        _id(),
        _text("kind"),
        _date("first_day"),
        _date("day"),
        _text("status"),
        sa.Column("scope", JSONB(), nullable=False),
        _text("reason", nullable=True),
        _text("requested_by"),
        _flag("cancel_requested"),
        _created(),
        _moment("started_at"),
        _moment("finished_at"),
        _integer("batch_users"),
        _counter("users", sa.BigInteger),
        *(_bigint(name, nullable=True) for name in ("simulations", "rows", "trades", "quarantined")),
        _sum("total_equity"),
        _sum("total_fees"),
        _bigint("digest", nullable=True),
        _text("error", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.CheckConstraint("kind IN ('nightly', 'reprocess')", name=op.f("ck_runs_kind")),
        sa.CheckConstraint(
            "status IN ('planned', 'running', 'done', 'failed', 'cancelled', 'missed')", name=op.f("ck_runs_status")
        ),
        sa.CheckConstraint("first_day <= day", name=op.f("ck_runs_days")),
    )
    op.create_index(
        "uq_runs_kind_day_nightly",
        "runs",
        ["kind", "day"],
        unique=True,
        postgresql_where=sa.text("kind = 'nightly'"),
    )
    op.create_index(
        "ix_runs_status_unfinished",
        "runs",
        ["status"],
        postgresql_where=sa.text("status IN ('planned', 'running')"),
    )


def _batches() -> None:
    op.create_table(
        "batches",
        _id(),
        _bigint("run_id"),
        _integer("seq"),
        _bigint("parent_id", nullable=True),
        _bigint("user_lo"),
        _bigint("user_hi"),
        _integer("users"),
        _text("status"),
        _counter("attempts", sa.SmallInteger),
        _counter("publications", sa.SmallInteger),
        *(_moment(name) for name in ("not_before", "queued_at", "started_at", "finished_at")),
        _text("worker", nullable=True),
        _text("error", nullable=True),
        *(_integer(name, nullable=True) for name in ("simulations", "rows", "trades", "quarantined")),
        _sum("total_equity"),
        _sum("total_fees"),
        _bigint("digest", nullable=True),
        sa.Column("top", JSONB(), nullable=True),
        sa.Column("timings", JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
        sa.UniqueConstraint("run_id", "seq", name="uq_batches_run_id_seq"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_batches_run_id"),
        sa.CheckConstraint(
            "status IN ('planned', 'queued', 'running', 'done', 'split', 'failed', 'cancelled')",
            name=op.f("ck_batches_status"),
        ),
        sa.CheckConstraint("user_lo < user_hi", name=op.f("ck_batches_users")),
    )
    unfinished = sa.text(BATCH_UNFINISHED)
    op.create_index("ix_batches_run_id_unfinished", "batches", ["run_id"], postgresql_where=unfinished)
    op.create_index(
        "ix_batches_status_queued_at_unfinished", "batches", ["status", "queued_at"], postgresql_where=unfinished
    )


def _around_the_work() -> None:
    op.create_table(
        "quarantine",
        _id(),
        _bigint("user_id"),
        _bigint("simulation_id", nullable=True),
        _date("day"),
        _text("reason"),
        _text("detail"),
        _bigint("run_id", nullable=True),
        _bigint("batch_id", nullable=True),
        _created(),
        _moment("cleared_at"),
        sa.PrimaryKeyConstraint("id", name="pk_quarantine"),
    )
    op.create_index(
        "uq_quarantine_user_id_simulation_id_active",
        "quarantine",
        ["user_id", "simulation_id"],
        unique=True,
        postgresql_where=sa.text("cleared_at IS NULL"),
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "outbox",
        _id(),
        _text("kind"),
        _text("key"),
        sa.Column("payload", JSONB(), nullable=False),
        _created(),
        _moment("sent_at"),
        _counter("attempts", sa.SmallInteger),
        _moment("not_before"),
        _text("error", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("key", name="uq_outbox_key"),
    )
    op.create_index("ix_outbox_id_unsent", "outbox", ["id"], postgresql_where=sa.text("sent_at IS NULL"))
    op.create_table(
        "beat_ticks",
        _text("name"),
        _moment("last_run_at", nullable=False),
        _text("last_result", nullable=True),
        _text("last_error", nullable=True),
        _counter("runs", sa.BigInteger),
        sa.PrimaryKeyConstraint("name", name="pk_beat_ticks"),
    )
