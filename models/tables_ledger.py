"""Who owns what, and what each night appended: users, simulations, portfolio days, trades, the leaderboard.

`portfolio_days` and `trades` are appended and never updated. Their parents have no key, because a key of a partitioned
table must contain the day: each partition has its own (models.partitions), and there the database guarantees one row
for each simulation and day. The rows of both name users and simulations without a foreign key: a million checks a night
would cost more than the night, and the only writer copies the ids out of `simulations`.
"""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import (
    DDL,
    CheckConstraint,
    Computed,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    event,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Amount, Base, Big, BigArray, IntArray, Small, TextArray


def _flat(*columns: str) -> str:
    """The SQL condition that arrays have one dimension and no NULL in them, as the binary codec demands."""
    return " AND ".join(f"coalesce(array_ndims({c}), 1) = 1 AND array_position({c}, NULL) IS NULL" for c in columns)


_FRAME = "simulation_frame(user_id, id, strategy, start_day, initial_cash, params, asset_ids, weights_ppm)"
_FRAME_FUNCTION = """
CREATE FUNCTION simulation_frame(
    user_id bigint, id bigint, strategy smallint, start_day date, initial_cash bigint,
    params bigint[], asset_ids integer[], weights_ppm integer[]
) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN int8send(user_id) || int8send(id) || int2send(strategy) || date_send(start_day) || int8send(initial_cash)
    || substring(array_send(params) FROM 21) || substring(array_send(asset_ids) FROM 21)
    || substring(array_send(weights_ppm) FROM 21)
"""
event.listen(Base.metadata, "before_create", DDL(_FRAME_FUNCTION))  # type: ignore[no-untyped-call]  # theirs


class User(Base):
    """Owns simulations. Batches are ranges of user ids."""

    __tablename__ = "users"
    __table_args__ = (
        Index("ix_users_id_live", "id", postgresql_where=text("live")),
        Index("ix_users_id_notify", "id", postgresql_where=text("notify")),
    )

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None]
    notify: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # Marked to the latest prices after each window (services.live_marks).
    live: Mapped[bool] = mapped_column(server_default=text("false"))


class Strategy(Base):
    """The engine's registry, copied by `db migrate`, so that views can name strategies and parameters."""

    __tablename__ = "strategies"

    code: Mapped[Small] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(unique=True)
    param_names: Mapped[TextArray]


class Simulation(Base):
    """A paper portfolio. `strategy` has no foreign key: an unknown one is quarantined by the night, not refused."""

    __tablename__ = "simulations"
    __table_args__ = (
        # With the start day in it, planning cuts a million users into batches without a look at the table.
        Index("ix_simulations_user_id_id", "user_id", "id", unique=True, postgresql_include=["start_day"]),
        CheckConstraint("start_day >= DATE '2000-01-01'", name="start_day"),
        CheckConstraint("initial_cash >= 0", name="initial_cash"),
        CheckConstraint("cardinality(asset_ids) = cardinality(weights_ppm)", name="slots"),
        CheckConstraint(_flat("params", "asset_ids", "weights_ppm"), name="arrays"),
    )

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    user_id: Mapped[Big] = mapped_column(ForeignKey("users.id"))
    strategy: Mapped[Small]
    start_day: Mapped[date]
    initial_cash: Mapped[Amount]
    params: Mapped[BigArray]
    asset_ids: Mapped[IntArray]
    weights_ppm: Mapped[IntArray]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # What a night reads instead of the columns above (models.portfolio_frame).
    frame: Mapped[bytes] = mapped_column(LargeBinary, Computed(_FRAME, persisted=True), deferred=True)


class PortfolioDay(Base):
    """The state of one simulation at the close of one day. The order of the columns leaves no padding but the last."""

    __tablename__ = "portfolio_days"

    day: Mapped[date] = mapped_column()
    nights: Mapped[int]
    user_id: Mapped[Big] = mapped_column()
    simulation_id: Mapped[Big] = mapped_column()
    cash: Mapped[Amount]
    equity: Mapped[Amount]
    peak: Mapped[Amount]
    return_mean: Mapped[float]
    return_m2: Mapped[float]
    max_drawdown: Mapped[float]
    asset_ids: Mapped[IntArray]
    quantities: Mapped[BigArray]
    cost_basis: Mapped[BigArray]
    state: Mapped[BigArray]

    __table_args__ = {"postgresql_partition_by": "RANGE (day)"}  # noqa: RUF012 - SQLAlchemy's declaration
    __mapper_args__ = {"primary_key": [day, user_id, simulation_id]}  # noqa: RUF012 - SQLAlchemy's declaration


class Trade(Base):
    """One fill. `quantity` > 0 bought, < 0 sold; `price`, `notional` and `fee` are never negative."""

    __tablename__ = "trades"

    day: Mapped[date] = mapped_column()
    asset_id: Mapped[int] = mapped_column()
    user_id: Mapped[Big] = mapped_column()
    simulation_id: Mapped[Big] = mapped_column()
    quantity: Mapped[Amount]
    price: Mapped[Amount]
    notional: Mapped[Amount]
    fee: Mapped[Amount]
    realised: Mapped[Amount]

    __table_args__ = {"postgresql_partition_by": "RANGE (day)"}  # noqa: RUF012 - SQLAlchemy's declaration
    __mapper_args__ = {"primary_key": [day, user_id, simulation_id, asset_id]}  # noqa: RUF012 - SQLAlchemy's declaration


class LeaderboardEntry(Base):
    """One of the best simulations of a day, written when its run is finished. `return_ppm` is since the start."""

    __tablename__ = "leaderboard_entries"

    day: Mapped[date] = mapped_column(primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    user_id: Mapped[Big]
    simulation_id: Mapped[Big]
    equity: Mapped[Amount]
    return_ppm: Mapped[Big]
