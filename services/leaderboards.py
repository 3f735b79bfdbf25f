"""Leaderboards: the best simulations of each day on which a night ended, whoever does that day again later.

Guarantees: the board of a day appears in the transaction that ends its night. The end of a run that changed days brings
the newest board up to date in its own transaction. An older board is right or away: where few simulations changed, some
look-ups make it right; else it is taken away, and the next ticks make it from the table (`make_missing_boards`). That
costs a scan of the day, as a night that everybody was changed in would.

Until such a run ends, boards show what was before it. Boards are written by one at a time, so that a night and a run
that changes its day see each other, whichever ends first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

from sqlalchemy import Engine, Row, text
from sqlalchemy.orm import Session

from core.database import session_scope
from engine.ticks import PPM
from services.advance import LEADERBOARD_SIZE
from services.locks import LEADERBOARD_LOCK
from services.retention_days import kept_sql

# A fifth of a second; to take a board away and to make it anew costs more only with many simulations.
_MOST_LOOKUPS = 20_000
# Of a tick: a board of a million simulations takes about a second.
_SECONDS = 1.0
_MAX = 2**63 - 1


class Leader(NamedTuple):
    """A place on a board; `equity` in ticks, `return_ppm` since the start, rounded down."""

    user_id: int
    simulation_id: int
    equity: int
    return_ppm: int

    @property
    def rank(self) -> tuple[int, int]:
        """Ascending, the best first."""
        return -self.return_ppm, self.simulation_id


def board_of_night(session: Session, run: Row[Any]) -> None:
    """Write the board of a night that ends now: from what its batches say, or from the table if that was changed."""
    _lock(session)
    if session.execute(_CHANGED_MEANWHILE, {"day": run.day, "created_at": run.created_at}).scalar_one():
        _write(session, run.day, _best_of_table(session, run.day))
        return
    tops = session.execute(_TOPS, {"run": run.id}).scalars()
    _write(session, run.day, _best([Leader(*entry) for top in tops for entry in top]))


def boards_of_reprocess(session: Session, run_id: int) -> None:
    """Bring the boards up to date that a run which ends now has changed, or take them away."""
    span = session.execute(_SPAN, {"run": run_id}).one()
    if not span.changed:
        return
    _lock(session)
    newest: date | None = session.execute(_NEWEST).scalar_one()
    days = list(session.execute(_NIGHTS, {"first": span.first, "last": span.last}).scalars())
    few = days[: _MOST_LOOKUPS // span.changed]
    unknown = _revise(session, run_id, few) if few else []
    unknown += days[len(few) :]
    session.execute(_TAKE_AWAY, {"days": unknown})
    if newest in unknown:
        _write(session, newest, _best_of_table(session, newest))


def make_missing_boards(engine: Engine, seconds: float = _SECONDS) -> int:
    """Make boards that were taken away, the newest first, for so long; how many.

    One at least, if there is any to be made. Days that have no rows have no board.
    """
    began, made = time.monotonic(), 0
    with session_scope(engine) as session:
        missing = list(session.execute(_MISSING).scalars())
    for day in missing:
        with session_scope(engine) as session:
            _lock(session)
            best = _best_of_table(session, day)
            _write(session, day, best)
        made += bool(best)
        if made and time.monotonic() - began >= seconds:
            break
    return made


def _lock(session: Session) -> None:
    """Until the transaction ends; what is read afterwards was committed by whoever held it before."""
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LEADERBOARD_LOCK})


def _revise(session: Session, run_id: int, days: Sequence[date]) -> list[date]:
    """Write what these boards are now; the days of which that cannot be told from the simulations that changed.

    Whoever has not changed and is not on a full board is behind its last place. So the new one is known as long as its
    last place is not behind the old one's.
    """
    fresh: dict[date, list[Leader]] = {day: [] for day in days}
    for row in session.execute(text(_ROWS_OF_CHANGED % ", ".join(f"'{day}'" for day in days)), {"run": run_id}):
        fresh[row.day].append(Leader(row.user_id, row.simulation_id, row.equity, _ppm(row.equity, row.initial_cash)))
    since = {row.simulation_id: row.first_changed_day for row in session.execute(_FIRST_CHANGED, {"run": run_id})}
    boards: dict[date, list[Leader]] = {day: [] for day in days}
    for row in session.execute(_BOARDS, {"days": list(days)}):
        boards[row.day].append(Leader(*row[1:]))
    unknown = []
    for day, board in boards.items():
        kept = [leader for leader in board if since.get(leader.simulation_id, date.max) > day]
        best = _best(kept + fresh[day])
        full = len(board) == LEADERBOARD_SIZE
        # Of a board that was taken away, nothing is known.
        if not board or (full and (len(best) < len(board) or best[-1].rank > board[-1].rank)):
            unknown.append(day)
        elif best != board:
            _write(session, day, best)
    return unknown


def _best(leaders: list[Leader]) -> list[Leader]:
    return sorted(leaders, key=lambda leader: leader.rank)[:LEADERBOARD_SIZE]


def _ppm(equity: int, initial_cash: int) -> int:
    """As `services.advance.top_by_return`."""
    return min(equity * PPM // initial_cash, _MAX) - PPM if initial_cash > 0 else -PPM


def _best_of_table(session: Session, day: date) -> list[Leader]:
    return [Leader(*row) for row in session.execute(text(_BEST % f"'{day}'"))]


def _write(session: Session, day: date, leaders: Sequence[Leader]) -> None:
    session.execute(_TAKE_AWAY, {"days": [day]})
    if leaders:
        places = [leader._asdict() | {"day": day, "rank": rank} for rank, leader in enumerate(leaders, start=1)]
        session.execute(_INSERT, places)


_TOPS = text("SELECT top FROM batches WHERE run_id = :run AND top IS NOT NULL")
# An hour more, as the two times come from different clocks; only its runs are looked through.
_CHANGED_MEANWHILE = text(
    """
    SELECT EXISTS (
        SELECT FROM runs r
        WHERE r.kind = 'reprocess' AND (r.finished_at IS NULL OR r.finished_at >= :created_at - interval '1 hour')
          AND EXISTS (SELECT FROM portfolio_revisions v WHERE v.run_id = r.id AND v.last_day >= :day)
    )
    """
)
_SPAN = text(
    "SELECT count(*) AS changed, min(first_changed_day) AS first, max(last_day) AS last"
    " FROM portfolio_revisions WHERE run_id = :run"
)
_NEWEST = text("SELECT max(day) FROM runs WHERE kind = 'nightly' AND status = 'done'")
# The board of a day that is no longer kept stays what it was: there are no rows to make another of.
_NIGHTS = text(
    f"""
    SELECT day FROM runs r
    WHERE kind = 'nightly' AND status = 'done' AND day BETWEEN :first AND :last AND {kept_sql("r.day")}
    ORDER BY day DESC
    """  # noqa: S608 (a constant)
)
_MISSING = text(
    f"""
    SELECT r.day FROM runs r
    WHERE r.kind = 'nightly' AND r.status = 'done' AND {kept_sql("r.day")}
      AND NOT EXISTS (SELECT FROM leaderboard_entries e WHERE e.day = r.day)
    ORDER BY r.day DESC
    """  # noqa: S608 (a constant)
)
_TAKE_AWAY = text("DELETE FROM leaderboard_entries WHERE day = ANY(:days)")
_INSERT = text(
    "INSERT INTO leaderboard_entries (day, rank, user_id, simulation_id, equity, return_ppm)"
    " VALUES (:day, :rank, :user_id, :simulation_id, :equity, :return_ppm)"
)
_BOARDS = text(
    "SELECT day, user_id, simulation_id, equity, return_ppm FROM leaderboard_entries WHERE day = ANY(:days)"
    " ORDER BY day, rank"
)
_FIRST_CHANGED = text("SELECT simulation_id, first_changed_day FROM portfolio_revisions WHERE run_id = :run")
# Days stand in the text, so that other partitions are left alone; OFFSET 0 keeps a look-up a look-up.
_ROWS_OF_CHANGED = """
SELECT p.day, v.user_id, v.simulation_id, p.equity, s.initial_cash
FROM portfolio_revisions v
JOIN simulations s ON s.user_id = v.user_id AND s.id = v.simulation_id
CROSS JOIN LATERAL (
    SELECT d.day, d.equity FROM portfolio_days d
    WHERE d.user_id = v.user_id AND d.simulation_id = v.simulation_id AND d.day IN (%s) AND d.day >= v.first_changed_day
    OFFSET 0
) AS p
WHERE v.run_id = :run
"""
_BEST = f"""
SELECT p.user_id, p.simulation_id, p.equity, CASE
    WHEN s.initial_cash > 0 THEN least(div(p.equity::numeric * {PPM}, s.initial_cash), {_MAX})::bigint - {PPM}
    ELSE -{PPM}
END AS return_ppm
FROM portfolio_days p JOIN simulations s ON s.user_id = p.user_id AND s.id = p.simulation_id
WHERE p.day = %s
ORDER BY return_ppm DESC, p.simulation_id LIMIT {LEADERBOARD_SIZE}
"""  # noqa: S608 (constants)
