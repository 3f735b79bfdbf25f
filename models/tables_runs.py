"""The work itself: runs, their batches, what was quarantined, and when beat was last alive.

Runs and batches are the truth about the work and the outbox of its messages: a message carries a batch id only. That a
day is planned once is a constraint here, not a check in code. `quarantine` names runs, batches, users and simulations
without foreign keys, so that it outlives them.
"""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Amount, Base, Big, Json, Small, TickSum, one_of

RUN_KINDS = ("nightly", "reprocess")
RUN_STATUSES = ("planned", "running", "done", "failed", "cancelled", "missed")
RUN_UNFINISHED = ("planned", "running")
BATCH_STATUSES = ("planned", "queued", "running", "done", "split", "failed", "cancelled")
BATCH_UNFINISHED = ("planned", "queued", "running")


class Run(Base):
    """One request to bring a scope of users up to `day`. Its totals are NULL until it is finished."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("uq_runs_kind_day_nightly", "kind", "day", unique=True, postgresql_where=text("kind = 'nightly'")),
        Index("ix_runs_status_unfinished", "status", postgresql_where=text(one_of("status", RUN_UNFINISHED))),
        CheckConstraint(one_of("kind", RUN_KINDS), name="kind"),
        CheckConstraint(one_of("status", RUN_STATUSES), name="status"),
        CheckConstraint("first_day <= day", name="days"),
    )

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    kind: Mapped[str]
    first_day: Mapped[date]
    day: Mapped[date]
    status: Mapped[str]
    scope: Mapped[Json]
    reason: Mapped[str | None]
    requested_by: Mapped[str]
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    batch_users: Mapped[int]
    users: Mapped[Big] = mapped_column(server_default=text("0"))
    simulations: Mapped[Big | None]
    rows: Mapped[Big | None]
    trades: Mapped[Big | None]
    quarantined: Mapped[Big | None]
    total_equity: Mapped[TickSum | None]
    total_fees: Mapped[TickSum | None]
    digest: Mapped[Big | None]
    error: Mapped[str | None]
    paused: Mapped[bool] = mapped_column(server_default=text("false"))
    # Of a request from elsewhere: the same key twice is the same request.
    request_key: Mapped[str | None] = mapped_column(unique=True)
    # What its batches came to, once they are gone (services.retention_runs).
    summary: Mapped[Json | None]


class Batch(Base):
    """Users `[user_lo, user_hi)` of one run: the unit of work, of retry and of commit.

    No foreign key on `parent_id`: it would need an index of its own for a run's batches to be deleted in linear time.
    """

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("run_id", "seq"),
        Index("ix_batches_run_id_unfinished", "run_id", postgresql_where=text(one_of("status", BATCH_UNFINISHED))),
        Index(
            "ix_batches_status_queued_at_unfinished",
            "status",
            "queued_at",
            postgresql_where=text(one_of("status", BATCH_UNFINISHED)),
        ),
        CheckConstraint(one_of("status", BATCH_STATUSES), name="status"),
        CheckConstraint("user_lo < user_hi", name="users"),
    )

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[Big] = mapped_column(ForeignKey("runs.id"))
    seq: Mapped[int]
    parent_id: Mapped[Big | None]
    user_lo: Mapped[Big]
    user_hi: Mapped[Big]
    users: Mapped[int]
    status: Mapped[str]
    attempts: Mapped[Small] = mapped_column(server_default=text("0"))
    publications: Mapped[Small] = mapped_column(server_default=text("0"))
    not_before: Mapped[datetime | None]
    queued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    worker: Mapped[str | None]
    error: Mapped[str | None]
    simulations: Mapped[int | None]
    rows: Mapped[int | None]
    trades: Mapped[int | None]
    quarantined: Mapped[int | None]
    total_equity: Mapped[TickSum | None]
    total_fees: Mapped[TickSum | None]
    digest: Mapped[Big | None]
    top: Mapped[Json | None]
    timings: Mapped[Json | None]


class RunSimulation(Base):
    """A simulation whose days a run does again, from `first_day` on. A run without any is one of all simulations.

    No foreign key on `run_id`: the only writer has just made the run, and a million checks take five seconds.
    """

    __tablename__ = "run_simulations"

    run_id: Mapped[Big] = mapped_column(primary_key=True, autoincrement=False)
    user_id: Mapped[Big] = mapped_column(primary_key=True)
    simulation_id: Mapped[Big] = mapped_column(primary_key=True)
    first_day: Mapped[date]


class PortfolioRevision(Base):
    """What a run changed of a simulation: the first day whose equity is another, and the last day's old and new one.

    An equity is NULL where there was no row, or is none any more.
    """

    __tablename__ = "portfolio_revisions"
    __table_args__ = (Index("ix_portfolio_revisions_simulation_id", "simulation_id"),)

    run_id: Mapped[Big] = mapped_column(primary_key=True, autoincrement=False)
    user_id: Mapped[Big]
    simulation_id: Mapped[Big] = mapped_column(primary_key=True, autoincrement=False)
    first_changed_day: Mapped[date]
    last_day: Mapped[date]
    old_equity: Mapped[Amount | None]
    new_equity: Mapped[Amount | None]


class Quarantine(Base):
    """A simulation (or, without one, a whole user) that the nights leave out until it is cleared."""

    __tablename__ = "quarantine"
    __table_args__ = (
        Index(
            "uq_quarantine_user_id_simulation_id_active",
            "user_id",
            "simulation_id",
            unique=True,
            postgresql_where=text("cleared_at IS NULL"),
            # A whole user is one entry too, though its simulation_id is NULL.
            postgresql_nulls_not_distinct=True,
        ),
        Index("ix_quarantine_id_active", "id", postgresql_where=text("cleared_at IS NULL")),
    )

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    user_id: Mapped[Big]
    simulation_id: Mapped[Big | None]
    day: Mapped[date]
    reason: Mapped[str]
    detail: Mapped[str]
    run_id: Mapped[Big | None]
    batch_id: Mapped[Big | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    cleared_at: Mapped[datetime | None]


class BeatTick(Base):
    """A schedule's heartbeat: one row for each, overwritten by every run of it.

    `put_back:lost` and `put_back:abandoned` are the reconciler's: `runs` counts the batches that it ever put back.
    """

    __tablename__ = "beat_ticks"

    name: Mapped[str] = mapped_column(primary_key=True)
    last_run_at: Mapped[datetime]
    last_result: Mapped[str | None]
    last_error: Mapped[str | None]
    runs: Mapped[Big] = mapped_column(server_default=text("0"))
