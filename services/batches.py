"""A batch from its message to its commit.

Guarantees: whoever works on a batch holds its lease, a session lock, so that a second delivery of the message finds it
taken or done; rows, counters and the status `done` appear in one commit, which succeeds only while the claim is the
newest; a worker that dies leaves a batch that is `running` without a lease, which the reconciler publishes again.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from functools import partial

from psycopg.rows import class_row
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from core import tracing
from core.clock import day_from_number
from core.database import session_scope
from core.errors import ComesAgainError, NightFirstError, PublishError, StaleClaimError
from core.log import get_logger, log_context, mask_secrets
from core.settings import Settings
from models.partitions import ensure_month_partitions
from services.advance import BatchWork, Totals, advance_users
from services.completion import finish_runs, may_end
from services.giving_way import GiveWay
from services.locks import Connection, lock_granules, lock_granules_of_run, try_lock_batch, unlock_batch
from services.market_data import MarketCache
from services.partitions import ensure_days
from services.poison import REASON_ERROR, REASON_WORKER_LOST, Suspect, allowed_attempts, divide
from services.publishing import Publisher
from services.quarantine import quarantine
from services.relay import publish_adhoc, publish_planned
from services.replacing import Scope, clear_for_prices
from services.retention_days import kept_days
from services.retry import Decision, Retry, decide_retry
from services.sessions import leased_session, usable_session

log = get_logger(__name__)

_MAX_DETAIL = 500
# How long a worker that lost its session looks for another: a restart of PostgreSQL takes less.
_RECONNECT_SECONDS = 10.0


class Outcome(StrEnum):
    """What became of one delivery of a batch's message."""

    DONE = "done"
    TAKEN = "taken"
    NOT_DUE = "not_due"
    RETRIED = "retried"
    DIVIDED = "divided"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """The outcome, and what was written if it is DONE; `commit_seconds`: how long that took to be committed.

    `detail`: if it is not DONE, why; one line without secrets.
    """

    outcome: Outcome
    users: int = 0
    rows: int = 0
    trades: int = 0
    quarantined: int = 0
    commit_seconds: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch as it was claimed. `attempts` is the fence: a later claim has a higher one."""

    id: int
    run_id: int
    kind: str
    first_day: date
    day: date
    user_lo: int
    user_hi: int
    users: int
    attempts: int
    parent_id: int | None
    scoped: bool
    exhausted: bool


@dataclass(slots=True)
class BatchWorker:
    """What a worker process needs for any batch; made once in each process."""

    engine: Engine
    settings: Settings
    publish: Publisher
    clock: Callable[[], datetime]
    name: str
    markets: MarketCache

    def advance(self, batch_id: int) -> BatchOutcome:
        """Do the batch unless it is done, taken or not due; never raises for a duplicate."""
        with tracing.span("batch", batch=batch_id):
            outcome = self._advance(batch_id)
            tracing.annotate(outcome=outcome.outcome.value)
            return outcome

    def _advance(self, batch_id: int) -> BatchOutcome:
        with leased_session(self.engine) as connection:
            if not try_lock_batch(connection, batch_id):
                log.info("batch is taken", batch=batch_id)
                return BatchOutcome(Outcome.TAKEN)
            try:
                claim = _claim(connection, batch_id, self.name, self.clock(), self.settings.max_attempts)
                if claim is None:
                    log.info("batch is done, cancelled or not due", batch=batch_id)
                    return BatchOutcome(Outcome.NOT_DUE)
                tracing.annotate(run=claim.run_id, attempt=claim.attempts, users=claim.users, worker=self.name)
                with log_context(run=claim.run_id, batch=claim.id, attempt=claim.attempts, worker=self.name):
                    if claim.exhausted:
                        detail = f"the worker died or hung {claim.attempts} times on this batch"
                        outcome = self._divide(connection, claim, REASON_WORKER_LOST, detail)
                    else:
                        outcome = self._attempt(connection, claim)
            finally:
                if not connection.closed:
                    unlock_batch(connection, batch_id)
            over = connection.closed or may_end(connection, claim.run_id)
        ended = finish_runs(self.engine, now=self.clock()) if over else []
        with tracing.detached():
            if ended or outcome.outcome is Outcome.DIVIDED:
                in_flight = self.settings.reprocess_in_flight
                publish_planned(self.engine, self.publish, now=self.clock(), in_flight=in_flight)
            elif claim.kind != "nightly":
                self._publish_next()
        return outcome

    def _publish_next(self) -> None:
        """A batch of ad-hoc work that has ended makes room for another."""
        try:
            publish_adhoc(self.engine, self.publish, now=self.clock(), in_flight=self.settings.reprocess_in_flight)
        except PublishError as error:
            log.warning("nothing was published: the next tick does it", error=str(error))

    def _attempt(self, connection: Connection, claim: Claim) -> BatchOutcome:
        started = time.perf_counter()
        try:
            totals = self._work(connection, claim, started)
        except Exception as error:  # noqa: BLE001 (any error of the work is decided upon here; none may lose the batch)
            return self._recover(connection, claim, error, started)
        except BaseException as ending:
            # The process was told to stop: the batch is another's, its attempt is not counted, and we go.
            self._recover(connection, claim, ending, started)
            raise
        stages = {stage: round(seconds, 6) for stage, seconds in totals.seconds.items()}
        log.info(
            "batch done", day=claim.day, users=claim.users, rows=totals.rows, trades=totals.trades,
            quarantined=len(totals.faults), seconds=round(time.perf_counter() - started, 4), stages=stages,
        )  # fmt: skip
        faults = len(totals.faults)
        return BatchOutcome(Outcome.DONE, claim.users, totals.rows, totals.trades, faults, totals.seconds["commit"])

    def _work(self, connection: Connection, claim: Claim, started: float) -> Totals:
        users = (claim.user_lo, claim.user_hi)
        scope = Scope(claim.run_id, users) if claim.scoped else None
        with connection.transaction():
            if scope is None:
                lock_granules(connection, *users, exclusive=claim.kind != "nightly")
            else:
                lock_granules_of_run(connection, claim.run_id, *users)
                clear_for_prices(connection, scope, self.clock())
            totals = advance_users(
                connection,
                BatchWork(users, claim.first_day, claim.day, scope),
                lambda days: self.markets.get(connection, claim.run_id, days),
                partial(self._make_partitions, started),
                (lambda: None) if scope is None else GiveWay(connection),
            )
            quarantine(connection, totals.faults, run_id=claim.run_id, batch_id=claim.id, now=self.clock())
            _reach(connection, claim, totals)
            _complete(connection, claim, totals, self.clock())
            written = time.perf_counter()
        committed = time.perf_counter()
        totals.seconds["commit"] = committed - written
        tracing.stage("commit", written, committed)
        return totals

    def _make_partitions(self, started: float, first: date, last: date) -> None:
        def told(made: int, missing: int) -> None:
            # Those of twelve years take minutes. An attempt always makes one, so this ends.
            if 0 < made < missing and time.perf_counter() - started > self.settings.soft_time_limit / 2:
                raise ComesAgainError(f"{made:,} of {missing:,} partitions are made")

        days = [date.fromordinal(number) for number in range(first.toordinal(), last.toordinal() + 1)]
        with session_scope(self.engine) as session:
            kept = kept_days(session)
        # One by one: an attempt leaves them to the next, and a night that wants one meanwhile waits for one.
        ensure_days(self.engine, [day for day in days if day in kept], told=told)
        with self.engine.begin() as connection:
            ensure_month_partitions(connection, "trades", days)

    def _recover(self, connection: Connection, claim: Claim, error: BaseException, started: float) -> BatchOutcome:
        retry = decide_retry(error, claim.attempts)
        detail = mask_secrets(f"{type(error).__name__}: {error}".strip().splitlines()[0])[:_MAX_DETAIL]
        seconds = round(time.perf_counter() - started, 4)
        if isinstance(error, NightFirstError):
            log.info("batch given back: a night is waiting", seconds=seconds)
        elif isinstance(error, ComesAgainError):
            log.info("batch given back: its time is up", prepared=detail, seconds=seconds)
        elif isinstance(error, Exception):
            log.error("batch attempt failed", decision=retry.decision, error=detail, seconds=seconds, exc_info=error)
            tracing.failed(detail)
        else:
            log.warning("batch given back: told to stop", seconds=seconds)
        if retry.decision is Decision.FORGET:
            return BatchOutcome(Outcome.NOT_DUE, detail=detail)
        patience = _RECONNECT_SECONDS if isinstance(error, Exception) else 0
        try:
            with usable_session(self.engine, connection, patience) as session:
                return self._settle(session, claim, retry, detail, as_meant=isinstance(error, ComesAgainError))
        except OperationalError:
            log.warning("batch not given back: the database is away; the reconciler will find it")
            return BatchOutcome(Outcome.NOT_DUE, detail="the database is away")

    def _settle(
        self, connection: Connection, claim: Claim, retry: Retry, detail: str, *, as_meant: bool
    ) -> BatchOutcome:
        allowed = allowed_attempts(planned=claim.parent_id is None, users=claim.users, settings=self.settings)
        suspected = retry.decision is Decision.SUSPECT
        if retry.decision is Decision.DIVIDE or (suspected and claim.attempts >= allowed):
            return self._divide(connection, claim, REASON_ERROR, detail)
        failed = retry.decision is Decision.FAIL
        # Up to half as long again, so that batches that failed together do not come back together.
        delay = retry.delay * (1 + random.random() / 2)  # noqa: S311 - no secret depends on it
        values = {
            "status": "failed" if failed else "planned",
            "error": detail,
            "not_before": self.clock() + delay if delay else None,
            "finished_at": self.clock() if failed else None,
            "refund": 1 if retry.decision is Decision.RETRY else 0,
            # Nobody is told of a message that had to be sent again.
            "unpublished": int(as_meant),
            "id": claim.id,
            "attempts": claim.attempts,
        }
        found = connection.execute(_GIVE_BACK, values).rowcount
        if not found and retry.decision is Decision.RETRY:
            found = connection.execute(_REFUND, values).rowcount
        if not found:
            connection.execute(_TAKE_BACK, values)
        return BatchOutcome(Outcome.FAILED if failed else Outcome.RETRIED, detail=detail)

    def _divide(self, connection: Connection, claim: Claim, reason: str, detail: str) -> BatchOutcome:
        suspect = Suspect(claim.id, claim.run_id, claim.day, claim.user_lo, claim.user_hi, claim.attempts)
        status = divide(connection, suspect, reason=reason, detail=detail, now=self.clock(), settings=self.settings)
        log.warning("batch divided", status=status, reason=reason, users=claim.users)
        outcomes = {"split": Outcome.DIVIDED, "failed": Outcome.FAILED, "done": Outcome.DONE}
        quarantined = 1 if status == "done" else 0
        return BatchOutcome(outcomes.get(status, Outcome.NOT_DUE), quarantined=quarantined, detail=detail)


# An exhausted batch is not claimed again: it comes back with `exhausted` set and its attempts as they were.
#
# The commit does not wait for the disk, which would be a fortieth of a night. What can be lost by that is the claim
# alone, if PostgreSQL dies in the next moments: then the batch is as it was before, and `_TAKE_BACK` finds it.
_CLAIM = """
WITH hurry AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)), candidate AS (
    SELECT b.id, b.attempts >= CASE WHEN b.parent_id IS NULL OR b.users = 1 THEN %(allowed)s ELSE 1 END AS exhausted
    FROM hurry CROSS JOIN batches b JOIN runs r ON r.id = b.run_id
    WHERE b.id = %(id)s AND b.status IN ('planned', 'queued', 'running')
      AND r.status = 'running' AND NOT r.cancel_requested AND NOT r.paused
    FOR UPDATE OF b
)
UPDATE batches b
SET status = 'running', attempts = b.attempts + CASE WHEN c.exhausted THEN 0 ELSE 1 END, worker = %(worker)s,
    started_at = %(now)s
FROM candidate c, runs r
WHERE b.id = c.id AND r.id = b.run_id
RETURNING b.id, b.run_id, r.kind, r.first_day, r.day, b.user_lo, b.user_hi, b.users, b.attempts, b.parent_id,
    CASE WHEN r.kind = 'nightly' THEN false
        ELSE EXISTS (SELECT FROM run_simulations k WHERE k.run_id = b.run_id) END AS scoped,
    c.exhausted
"""


def _claim(connection: Connection, batch_id: int, worker: str, now: datetime, allowed: int) -> Claim | None:
    """Count the attempt, in a commit of its own: a worker that dies must not look as if it had never tried."""
    values = {"id": batch_id, "worker": worker, "now": now, "allowed": allowed}
    with connection.cursor(row_factory=class_row(Claim)) as cursor:
        return cursor.execute(_CLAIM, values).fetchone()


_GIVE_BACK = """
UPDATE batches
SET status = %(status)s, error = %(error)s, not_before = %(not_before)s, finished_at = %(finished_at)s,
    attempts = attempts - %(refund)s, publications = publications - %(unpublished)s
WHERE id = %(id)s AND status = 'running' AND attempts = %(attempts)s
"""
# While its worker looked for a new session, the reconciler found the batch and counted the attempt.
_REFUND = """
UPDATE batches SET attempts = attempts - 1
WHERE id = %(id)s AND status IN ('planned', 'queued') AND attempts = %(attempts)s
"""
# PostgreSQL died and forgot the claim: the batch waits for a message that is spent.
_TAKE_BACK = """
UPDATE batches SET status = 'planned', not_before = %(not_before)s
WHERE id = %(id)s AND status = 'queued' AND attempts = %(attempts)s - 1
"""

_COMPLETE = """
UPDATE batches
SET status = 'done', finished_at = %(now)s, simulations = %(simulations)s, rows = %(rows)s, trades = %(trades)s,
    quarantined = %(quarantined)s, total_equity = %(equity)s, total_fees = %(fees)s, digest = %(digest)s,
    top = %(top)s, timings = %(timings)s, error = NULL
WHERE id = %(id)s AND status = 'running' AND attempts = %(attempts)s
"""


# Before the batch's own row: whoever orders something of a run locks the run first.
_REACH = "UPDATE runs SET day = %(day)s WHERE id = %(run)s AND day < %(day)s"


def _reach(connection: Connection, claim: Claim, totals: Totals) -> None:
    """Have the run say through which day it went, where nights that ended since it was planned were taken along."""
    reached = day_from_number(totals.last)
    if reached > claim.day:
        connection.execute(_REACH, {"run": claim.run_id, "day": reached})


def _complete(connection: Connection, claim: Claim, totals: Totals, now: datetime) -> None:
    """Mark the batch done in the transaction that wrote its rows; refuse if the claim is not the newest any more."""
    values = {
        "id": claim.id,
        "attempts": claim.attempts,
        "now": now,
        "simulations": totals.simulations,
        "rows": totals.rows,
        "trades": totals.trades,
        "quarantined": len(totals.faults),
        "equity": totals.equity,
        "fees": totals.fees,
        "digest": signed(totals.digest),
        "top": json.dumps(totals.top),
        "timings": json.dumps({stage: round(seconds, 6) for stage, seconds in totals.seconds.items()}),
    }
    if connection.execute(_COMPLETE, values).rowcount != 1:
        raise StaleClaimError(f"batch {claim.id} was claimed, split or cancelled by somebody else meanwhile")


def signed(digest: int) -> int:
    """A digest as PostgreSQL's signed bigint."""
    return digest - 2**64 if digest >= 2**63 else digest
