"""The peers' tables as SQLAlchemy classes: Nightshift's columns and keys, with ticks as the integers that they are.

Each peer has `portfolio_days` and `trades` of its own in a schema of its own, partitioned and with keys as Nightshift's
are; users, simulations and prices it shares with Nightshift, whose schema comes second in its search path.
"""

from __future__ import annotations

from datetime import date

from sqlalchemy import ARRAY, BigInteger, Date, Double, Engine, Integer, SmallInteger, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from core.database import sqlalchemy_url
from models.base import Big, BigArray, IntArray, Small


class PeerBase(DeclarativeBase):
    """Apart from Nightshift's own metadata, which migrations compare with the database."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own declaration of this attribute is not a ClassVar
        int: Integer(),
        Big: BigInteger(),
        Small: SmallInteger(),
        float: Double(),
        date: Date(),
        BigArray: ARRAY(BigInteger()),
        IntArray: ARRAY(Integer()),
    }


class Simulation(PeerBase):
    """A paper portfolio, as far as a night needs it."""

    __tablename__ = "simulations"

    id: Mapped[Big] = mapped_column(primary_key=True)
    user_id: Mapped[Big]
    strategy: Mapped[Small]
    start_day: Mapped[date]
    initial_cash: Mapped[Big]
    params: Mapped[BigArray]
    asset_ids: Mapped[IntArray]
    weights_ppm: Mapped[IntArray]


class PortfolioDay(PeerBase):
    """The state of one simulation at the close of one day."""

    __tablename__ = "portfolio_days"

    day: Mapped[date] = mapped_column(primary_key=True)
    user_id: Mapped[Big] = mapped_column(primary_key=True)
    simulation_id: Mapped[Big] = mapped_column(primary_key=True)
    nights: Mapped[int]
    cash: Mapped[Big]
    equity: Mapped[Big]
    peak: Mapped[Big]
    return_mean: Mapped[float]
    return_m2: Mapped[float]
    max_drawdown: Mapped[float]
    asset_ids: Mapped[IntArray]
    quantities: Mapped[BigArray]
    cost_basis: Mapped[BigArray]
    state: Mapped[BigArray]


class Trade(PeerBase):
    """One fill."""

    __tablename__ = "trades"

    day: Mapped[date] = mapped_column(primary_key=True)
    user_id: Mapped[Big] = mapped_column(primary_key=True)
    simulation_id: Mapped[Big] = mapped_column(primary_key=True)
    asset_id: Mapped[int] = mapped_column(primary_key=True)
    quantity: Mapped[Big]
    price: Mapped[Big]
    notional: Mapped[Big]
    fee: Mapped[Big]
    realised: Mapped[Big]


class Close(PeerBase):
    """An asset's last price of a day."""

    __tablename__ = "closes"

    day: Mapped[date] = mapped_column(primary_key=True)
    asset_id: Mapped[int] = mapped_column(primary_key=True)
    close: Mapped[Big]


def make_peer_engine(url: str, schema: str) -> Engine:
    """An engine that finds a peer's tables in `schema` and everything else in Nightshift's."""
    options = f"-c search_path={schema},public -c TimeZone=UTC"
    return create_engine(sqlalchemy_url(url), pool_size=1, connect_args={"options": options})
