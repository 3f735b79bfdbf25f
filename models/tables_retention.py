"""What is kept when days, batches and partitions go: how far back every day is there, and what stands for the rest."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import CheckConstraint, PrimaryKeyConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Amount, Base, Big, BigArray, IntArray, Json


class Retention(Base):
    """One row: from which day on every portfolio day is kept, and how often runs were summarised.

    Attributes:
        daily_from: before it, only the last day of each month is kept; NULL: nothing has gone yet. It only grows.
        summaries: grows with each run whose batches went into `batch_totals`.
    """

    __tablename__ = "retention"
    __table_args__ = (CheckConstraint("singleton", name="singleton"),)

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    daily_from: Mapped[date | None]
    summaries: Mapped[Big] = mapped_column(server_default=text("0"))


class ArchivedDay(Base):
    """The newest row of a simulation that was left out, where its day is no longer kept: it goes on from there.

    The columns are those of `portfolio_days`, in the same order.
    """

    __tablename__ = "portfolio_archive"
    __table_args__ = (PrimaryKeyConstraint("user_id", "simulation_id", "day"),)

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


class PartitionDrop(Base):
    """A partition that goes, or went: written before it is detached, so that a table of that name may be dropped.

    Attributes:
        bytes: of the table and its indexes, when it was written down.
        dropped_at: NULL: it is still to be dropped.
    """

    __tablename__ = "partition_drops"

    name: Mapped[str] = mapped_column(primary_key=True)
    parent: Mapped[str]
    bytes: Mapped[Big]
    planned_at: Mapped[datetime]
    dropped_at: Mapped[datetime | None]


class BatchTotal(Base):
    """Sums over batches that are gone, by kind of run and status of the batch: the metrics add them to what is there.

    Attributes:
        durations, waits: how many took at most so long, by `services.metrics_batches.BUCKETS`; of batches that are
            done, of whom `durations_count` and `waits_count` have such a time, `…_micros` in all.
        stages: microseconds by stage.
    """

    __tablename__ = "batch_totals"

    kind: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(primary_key=True)
    batches: Mapped[Big]
    attempts: Mapped[Big]
    publications: Mapped[Big]
    republications: Mapped[Big]
    users: Mapped[Big]
    durations: Mapped[BigArray]
    durations_count: Mapped[Big]
    durations_micros: Mapped[Big]
    waits: Mapped[BigArray]
    waits_count: Mapped[Big]
    waits_micros: Mapped[Big]
    stages: Mapped[Json]
