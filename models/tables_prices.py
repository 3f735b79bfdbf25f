"""What assets cost: the assets, a close a day, ticks in between, and who corrected what."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import (
    DDL,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    UniqueConstraint,
    event,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Amount, Base, Big, Volume, one_of

CLOSE_KINDS = ("tick", "candle", "import", "correction")
"""What a close comes from, the weakest first: a day's last tick, the provider's daily candle, a file, a person."""


class Asset(Base):
    """Something with a price. Ids start at 1: the engine's arrays are padded with 0."""

    __tablename__ = "assets"

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    symbol: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # On which days its market trades: schedules.markets.
    calendar: Mapped[str] = mapped_column(server_default=text("'24/7'"))


class Close(Base):
    """An asset's last price of a day. The key begins with the day: a night reads a range of days of all assets."""

    __tablename__ = "closes"
    __table_args__ = (
        Index("ix_closes_asset_id_day", "asset_id", "day"),
        CheckConstraint("close > 0", name="close"),
        CheckConstraint(one_of("kind", CLOSE_KINDS), name="kind"),
    )

    day: Mapped[date] = mapped_column(primary_key=True)
    asset_id: Mapped[int] = mapped_column(ForeignKey("assets.id"), primary_key=True, autoincrement=False)
    close: Mapped[Amount]
    open: Mapped[Amount | None]
    high: Mapped[Amount | None]
    low: Mapped[Amount | None]
    volume: Mapped[Volume | None]
    source: Mapped[str]
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now())
    kind: Mapped[str] = mapped_column(server_default=text("'import'"))
    # The moment of the tick that it comes from; NULL for the other kinds, which stand for the end of the day.
    as_of: Mapped[datetime | None]


# The key begins with the asset: a day of one asset is read in 0.5 ms, whatever its ticks' moments. With (ts, asset_id)
# a window of 10,000 assets is written in 80 ms instead of 130, its log is 2 MB instead of 65 behind a checkpoint, and
# a tick takes 17 bytes less; but only a source with one moment for all assets lets PostgreSQL skip through such a key
# (0.9 ms). Where each asset has a moment of its own, it reads the day of all of them: 100 ms for one asset, 19 s for
# the statistics of a hundred, which take 15 ms now.
class ClosesVersion(Base):
    """One row: a number that grows with every change of a close that nights have used."""

    __tablename__ = "closes_version"
    __table_args__ = (CheckConstraint("singleton", name="singleton"),)

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    version: Mapped[Big] = mapped_column(server_default=text("0"))


# Whoever changes closes by hand, in SQL, raises the version by it. Ours say in their transaction that they see to it
# themselves (services.corrections): the ticks of today leave every worker's market as it is.
_RAISE_VERSION = """
CREATE FUNCTION raise_closes_version() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE closes_version SET version = version + 1;
    RETURN NULL;
END
$$
"""
_BY_HAND = """
CREATE TRIGGER closes_changed_by_hand
AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON closes
FOR EACH STATEMENT WHEN (current_setting('nightshift.closes_planned', true) IS DISTINCT FROM 'on')
EXECUTE FUNCTION raise_closes_version()
"""
for _statement in (_RAISE_VERSION, _BY_HAND):
    event.listen(Base.metadata, "after_create", DDL(_statement))  # type: ignore[no-untyped-call]  # theirs


class PriceTick(Base):
    """A price at a moment. No foreign key: attaching a new month would lock `assets` against writers."""

    __tablename__ = "price_ticks"

    asset_id: Mapped[int] = mapped_column()
    ts: Mapped[datetime] = mapped_column()
    price: Mapped[Amount]
    source: Mapped[str]

    __table_args__ = (UniqueConstraint("asset_id", "ts"), {"postgresql_partition_by": "RANGE (ts)"})
    __mapper_args__ = {"primary_key": [asset_id, ts]}  # noqa: RUF012 - SQLAlchemy's declaration


class PriceCorrection(Base):
    """A close that was changed after it was first recorded: what it was, what it became, who asked, why."""

    __tablename__ = "price_corrections"
    __table_args__ = (Index("ix_price_corrections_asset_id_day", "asset_id", "day"),)

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    asset_id: Mapped[int] = mapped_column(ForeignKey("assets.id"))
    day: Mapped[date]
    old_close: Mapped[Amount | None]
    new_close: Mapped[Amount]
    reason: Mapped[str]
    requested_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # The reprocessing that it made necessary; no foreign key, so that it outlives the run.
    run_id: Mapped[Big | None]
