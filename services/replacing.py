"""Days that are done again, all of a batch or none: they are taken back in the transaction that writes them anew.

A batch of a scoped run deletes what its simulations have from their first day on, and starts from the close before it.
A run is scoped if `run_simulations` names its simulations; nobody between them is read, locked or touched.

In whatever order things happen, the days come out right. The batch holds the granules of its users alone; batches of
nights share them, and both until they commit. So of any two batches of a user, one comes wholly before the other:

- **A night's batch before it**: the night went on from a state that is about to be replaced. Each simulation is brought
  through the newest night, found under the lock, so the days of that night are replaced as well.
- **A night's batch after it** reads the new state. A simulation is not brought past the day before a night whose batch
  is still to come: the night does its days itself, and reports them.
- **A close was corrected meanwhile.** Whoever works asks behind his locks for the version of the closes, which the
  correction raises as it commits (services.market_data). A batch that reads the old version, of a night or of another
  correction, holds its granules from before that commit until its own; batches of this correction are published after
  that commit, so they come after it and replace what it wrote. One that reads the new version goes by the new closes.
- **Two corrections of a simulation**: whichever of their batches comes last goes by the closes of both, as both have
  committed by then, and starts from a day that no other close has changed, or that the other has done by both.
- **Quarantine**: whether prices suffice is found out anew, under the lock, so that an entry which a night made by the
  old closes is taken back too. Whoever is in quarantine for another reason has the days that he has replaced, and no
  more. A whole user in quarantine breaks batches and is left out; `retry_quarantined` owes him the days.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from core.clock import EPOCH, day_from_number, day_number
from engine.advance import Reason
from models.column_reader import read_groups
from models.portfolio_frame import (
    GATHERED_SIMULATIONS,
    STATE_COLUMNS,
    Frame,
    frame_of,
    gathered_states,
    place_states,
    state_layout,
)
from services.copying import copy_out
from services.locks import Connection
from services.portfolio_io import GATHER_BY_HASH, Timed, newest_row
from services.retention_days import KeptDays
from services.revisions import Trail, take_days

# Takes some hundredths of a second.
_ROWS_AT_ONCE = 10_000
_OF_PRICES = (Reason.NO_CLOSE, Reason.OVERFLOW)


@dataclass(frozen=True, slots=True)
class Scope:
    """The simulations of a run among the users `[lo, hi)`."""

    run: int
    users: tuple[int, int]

    def sql(self) -> str:
        """The condition on `run_simulations k`; in the text, as COPY takes no parameters: these are integers."""
        lo, hi = self.users
        return f"k.run_id = {int(self.run)} AND k.user_id >= {int(lo)} AND k.user_id < {int(hi)}"


@dataclass(frozen=True, slots=True)
class _Spans:
    """n simulations, ascending by id: from which day number their days are replaced, and through which."""

    users: NDArray[np.int64]
    simulations: NDArray[np.int64]
    first: NDArray[np.int32]
    until: NDArray[np.int32]

    def at(self, simulations: NDArray[np.int64]) -> NDArray[np.intp]:
        """The positions of simulations that are all among them."""
        return np.searchsorted(self.simulations, simulations)


def clear_for_prices(connection: Connection, scope: Scope, now: datetime) -> None:
    """Take simulations out of quarantine that are there for want of a usable price on a day to be done again."""
    connection.execute(_CLEAR % scope.sql(), {"now": now, "reasons": [str(reason) for reason in _OF_PRICES]})


def take_back(
    connection: Connection,
    scope: Scope,
    last_day: date,
    timed: Timed,
    between_days: Callable[[], None],
    kept: KeptDays,
) -> tuple[Frame, NDArray[np.int32], Trail]:
    """Delete the days of the scope from each simulation's first day on, and read what to start from.

    The users' granules must be locked exclusively, until the transaction ends. `between_days` is called now and then
    while days are deleted. Of days that are not `kept`, only rows of the archive count.

    Returns:
        The simulations at their state before, and int32 (n,), the day number through which to bring each: that of the
        newest night, `last_day` at least, but no further than nights still to come leave to it, or its newest day if
        that is later; and the trail, which knows the deleted days.
    """
    with timed("read"):
        connection.execute(GATHER_BY_HASH)
        spans = _spans(connection, scope, last_day)
    frame = _at_start(connection, scope, spans, timed)
    trail = Trail(spans.users, spans.simulations)
    if len(spans.simulations):
        with timed("read"):
            messages = [copy_out(connection, query) for query in _state_queries(scope, frame, spans)]
        with timed("decode"):
            for rows in messages:
                place_states(frame, read_groups(rows, STATE_COLUMNS, keys=1))
        _place_older(connection, frame, spans, timed)
        with timed("write"):
            _delete(connection, scope, spans, (trail, kept), between_days)
    return frame, spans.until[spans.at(frame.simulations.simulation_id)], trail


def _at_start(connection: Connection, scope: Scope, spans: _Spans, timed: Timed) -> Frame:
    through = day_from_number(int(spans.until.max(initial=0)))
    # OFFSET 0 keeps the look-up a look-up: without it, the planner may read everybody between these simulations.
    query = (
        f"SELECT {GATHERED_SIMULATIONS} FROM run_simulations k, LATERAL ("  # noqa: S608 (integers and dates)
        "SELECT * FROM simulations s WHERE s.user_id = k.user_id AND s.id = k.simulation_id"
        f" AND s.start_day <= '{through}' OFFSET 0) AS s WHERE {scope.sql()} GROUP BY 1, 2"
    )
    with timed("read"):
        messages = copy_out(connection, query)
    with timed("decode"):
        frame = frame_of(messages)
        frame.keep(np.isin(frame.simulations.simulation_id, spans.simulations))
    return frame


def _spans(connection: Connection, scope: Scope, last_day: date) -> _Spans:
    """The simulations of the scope that are to be done again; those of whole users in quarantine are left out."""
    rows = connection.execute(_SPANS % scope.sql()).fetchall()
    users, simulations, first, out = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    until, newest = _through(connection, scope, users, last_day)
    spans = _Spans(users, simulations, first.astype(np.int32), until)
    if len(until) and until.min() < newest:
        since = day_from_number(int(until.min()) + 1)
        later = connection.execute(_LATER % (scope.sql(), *scope.users, since)).fetchall()
        ids, days = np.array(later, dtype=np.int64).reshape(-1, 2).T
        known = np.isin(ids, simulations)
        places = spans.at(ids[known])
        until[places] = np.maximum(until[places], days[known])
    if out.any():
        _through_their_own(connection, spans, out != 0)
    kept = until >= spans.first
    return spans if kept.all() else _Spans(users[kept], simulations[kept], spans.first[kept], until[kept])


def _through(
    connection: Connection, scope: Scope, users: NDArray[np.int64], last_day: date
) -> tuple[NDArray[np.int32], int]:
    """int32 (n,), how far nights leave it to us to bring the simulations of these users; and the newest night's day.

    A night's batch that is not done is still to come, all of it: it would hold the granules that we hold.
    """
    rows = np.array(connection.execute(_NIGHTS % scope.users).fetchall(), dtype=np.int64)
    newest = max(int(rows[0, 0]), day_number(last_day))
    until = np.full(len(users), newest, dtype=np.int32)
    for _, lo, hi, begins in rows[rows[:, 3] >= 0].tolist():
        among = (users >= lo) & (users < hi)
        until[among] = np.minimum(until[among], begins - 1)
    return until, newest


def _through_their_own(connection: Connection, spans: _Spans, out: NDArray[np.bool_]) -> None:
    """Set `until` of those who are `out` to the newest day that they have; of who has none to be replaced, to -1."""
    since = day_from_number(int(spans.first[out].min()))
    values = (spans.users[out].tolist(), spans.simulations[out].tolist(), since)
    newest = np.array(connection.execute(_NEWEST, values).fetchall(), dtype=np.int64).reshape(-1, 2).T
    spans.until[out] = -1
    spans.until[spans.at(newest[0])] = newest[1]


def _state_queries(scope: Scope, frame: Frame, spans: _Spans) -> list[str]:
    """The rows of the day before each first day; whoever begins on his first day has none."""
    first = spans.first[spans.at(frame.simulations.simulation_id)]
    begun = first > frame.simulations.start_day
    return [
        f"SELECT {day - 1}, {gathered_states('p.')} FROM run_simulations k"  # noqa: S608 (as above)
        " JOIN portfolio_days p ON p.user_id = k.user_id AND p.simulation_id = k.simulation_id"
        f" WHERE {scope.sql()} AND k.first_day = '{day_from_number(day)}' AND p.day = '{day_from_number(day - 1)}'"
        f" AND p.user_id >= {scope.users[0]} AND p.user_id < {scope.users[1]} GROUP BY {state_layout('p.')}"
        for day in np.unique(first[begun]).tolist()
    ]


def _place_older(connection: Connection, frame: Frame, spans: _Spans, timed: Timed) -> None:
    """Whoever was left out for a while before his first day starts from the newest row that he has before it."""
    ids = frame.simulations.simulation_id
    first = spans.first[spans.at(ids)]
    behind = np.flatnonzero((frame.state_day < first - 1) & (frame.simulations.start_day < first))
    if not len(behind):
        return
    keys = zip(frame.simulations.user_id[behind].tolist(), ids[behind].tolist(), first[behind].tolist(), strict=True)
    values = ", ".join(f"({user}::bigint, {ours}::bigint, DATE '{day_from_number(day)}')" for user, ours, day in keys)
    query = (
        f"SELECT p.day - DATE '{EPOCH}', {gathered_states('p.')} FROM (VALUES {values}) AS k (user_id, id, first_day),"  # noqa: S608
        f" LATERAL ({newest_row('d.day < k.first_day')}) AS p"
        f" GROUP BY 1, {state_layout('p.')}"
    )
    with timed("read"):
        messages = copy_out(connection, query)
    with timed("decode"):
        place_states(frame, read_groups(messages, STATE_COLUMNS, keys=1))


def _delete(
    connection: Connection,
    scope: Scope,
    spans: _Spans,
    record: tuple[Trail, KeptDays],
    between_days: Callable[[], None],
) -> None:
    trail, kept = record
    first, last = int(spans.first.min()), int(spans.until.max())
    some = max(_ROWS_AT_ONCE // len(spans.simulations), 1)
    for begin in range(first, last + 1, some):
        days = day_from_number(begin), day_from_number(min(begin + some - 1, last))
        delete = _DELETE % ("portfolio_days", scope.sql(), *scope.users, *days)
        take_days(connection, delete, trail, lambda day: day in kept)
        between_days()
    days = day_from_number(first), day_from_number(last)
    delete = _DELETE % ("portfolio_archive", scope.sql(), *scope.users, *days)
    take_days(connection, delete, trail, lambda day: day not in kept)
    connection.execute(_DELETE % ("trades", scope.sql(), *scope.users, *days))


# With the days and users in the text, the planner leaves other partitions alone, and chooses by how many the scope has.
_SPANS = f"""
SELECT k.user_id, k.simulation_id, k.first_day - DATE '{EPOCH}', (EXISTS (
    SELECT FROM quarantine q
    WHERE q.user_id = k.user_id AND q.simulation_id = k.simulation_id AND q.cleared_at IS NULL
))::int
FROM run_simulations k
WHERE %s AND NOT EXISTS (
    SELECT FROM quarantine q WHERE q.user_id = k.user_id AND q.simulation_id IS NULL AND q.cleared_at IS NULL
)
ORDER BY k.simulation_id
"""  # noqa: S608 (a constant)
# One look, so that no night is planned between its parts. Without a night to come, the other columns are -1.
_NIGHTS = f"""
SELECT coalesce(newest - DATE '{EPOCH}', -1), coalesce(user_lo, -1), coalesce(user_hi, -1),
    coalesce(first_day - DATE '{EPOCH}', -1)
FROM (SELECT max(day) AS newest FROM runs WHERE kind = 'nightly' AND status <> 'missed') AS nights
LEFT JOIN (
    SELECT b.user_lo, b.user_hi, r.first_day FROM runs r JOIN batches b ON b.run_id = r.id
    WHERE r.kind = 'nightly' AND r.status IN ('planned', 'running') AND b.status IN ('planned', 'queued', 'running')
      AND b.user_hi > %d AND b.user_lo < %d
) AS to_come ON true
"""  # noqa: S608 (a constant)
_LATER = f"""
SELECT p.simulation_id, max(p.day) - DATE '{EPOCH}'
FROM run_simulations k JOIN portfolio_days p ON p.user_id = k.user_id AND p.simulation_id = k.simulation_id
WHERE %s AND p.user_id >= %d AND p.user_id < %d AND p.day >= '%s' GROUP BY 1
"""  # noqa: S608 (a constant)
_NEWEST = f"""
SELECT k.simulation_id, max(p.day) - DATE '{EPOCH}'
FROM unnest(%s::bigint[], %s::bigint[]) AS k (user_id, simulation_id)
CROSS JOIN LATERAL (
    SELECT day FROM portfolio_days d WHERE d.user_id = k.user_id AND d.simulation_id = k.simulation_id
    UNION ALL
    SELECT day FROM portfolio_archive a WHERE a.user_id = k.user_id AND a.simulation_id = k.simulation_id
) AS p
WHERE p.day >= %s GROUP BY 1
"""  # noqa: S608 (a constant)
_DELETE = """
DELETE FROM %s p USING run_simulations k
WHERE %s AND p.user_id = k.user_id AND p.simulation_id = k.simulation_id AND p.user_id >= %d AND p.user_id < %d
  AND p.day >= k.first_day AND p.day BETWEEN '%s' AND '%s'
  AND NOT EXISTS (
      SELECT FROM quarantine q WHERE q.user_id = k.user_id AND q.simulation_id IS NULL AND q.cleared_at IS NULL
  )
"""
_CLEAR = """
UPDATE quarantine q SET cleared_at = %%(now)s
FROM run_simulations k
WHERE %s AND q.user_id = k.user_id AND q.simulation_id = k.simulation_id AND q.cleared_at IS NULL
  AND q.day >= k.first_day AND q.reason = ANY(%%(reasons)s)
"""
