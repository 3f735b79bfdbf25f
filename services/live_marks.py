"""The leaderboard and the live users at the latest prices, in Redis: whole marks of one window, the latest wins.

After each window of prices, `mark_live` values the newest leaderboard and the simulations of users who are `live`. A
script, which runs alone in Redis, replaces what is there: an older window that arrives late writes nothing, and of two
markings of one window the later stays. The marks vanish after an hour, so that dead ones do not look alive.

    nightshift:live:window        window and moment of the marking, in ISO 8601, UTC
    nightshift:live:simulations   hash: simulation id -> `SimulationMark.as_json()`
    nightshift:live:leaderboard   hash: live rank -> `LeaderMark.as_json()`
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, Row, text

from core.database import session_scope
from engine.ticks import PPM
from models.ticks import from_ticks
from services.cache_server import Client
from services.live_valuation import Key, Valuation, change_ppm, value_simulations
from services.price_cache import PriceCache

WINDOW_KEY = "nightshift:live:window"
SIMULATIONS_KEY = "nightshift:live:simulations"
LEADERBOARD_KEY = "nightshift:live:leaderboard"
LIFETIME = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SimulationMark:
    """A simulation at the latest prices.

    Attributes:
        equity: units.
        change_ppm: against its equity at the close of `day`, its newest row; None if that was nothing.
        return_ppm: since its start.
        positions, at_close: how many assets it holds, and how many of them have no price since their last close.
        priced_at: the moment of the oldest of its prices; None: it holds nothing.
        window, marked_at: of all marks the same.
    """

    user_id: int
    simulation_id: int
    equity: Decimal
    change_ppm: int | None
    return_ppm: int
    day: date
    positions: int
    at_close: int
    priced_at: datetime | None
    window: datetime
    marked_at: datetime

    def as_json(self) -> dict[str, Any]:
        """With `user` and `simulation` for the ids, the equity as text of eight decimals, moments in ISO 8601."""
        return {
            "user": self.user_id,
            "simulation": self.simulation_id,
            "equity": f"{self.equity:f}",
            "change_ppm": self.change_ppm,
            "return_ppm": self.return_ppm,
            "day": self.day.isoformat(),
            "positions": self.positions,
            "at_close": self.at_close,
            "priced_at": self.priced_at.isoformat() if self.priced_at else None,
            "window": self.window.isoformat(),
            "marked_at": self.marked_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class LeaderMark:
    """A place on the live leaderboard; `closed_rank` is the place at the close of the newest leaderboard's day."""

    rank: int
    closed_rank: int
    mark: SimulationMark

    def as_json(self) -> dict[str, Any]:
        """The mark's, with both ranks."""
        return {"rank": self.rank, "closed_rank": self.closed_rank} | self.mark.as_json()


@dataclass(frozen=True, slots=True)
class Marks:
    """All marks of a window: the leaders by rank, the live simulations by id."""

    window: datetime
    marked_at: datetime
    leaderboard: list[LeaderMark]
    simulations: list[SimulationMark]


def mark_live(engine: Engine, cache: PriceCache, *, window: datetime, now: datetime) -> Marks | None:
    """Mark them for the window that began at `window`; None: a later marking is there already.

    Raises:
        ServerUnreachableError: Redis does not answer; the next window marks anew.
        sqlalchemy.exc.SQLAlchemyError: the database does not.
    """
    stamp = _stamp(window, now)
    with cache.server.firmly() as client:
        there = client.get(WINDOW_KEY)
        if isinstance(there, bytes) and there > stamp:
            return None
        marks = _marks(engine, window, now)
        return marks if _write(client, stamp, marks) else None


def read_marks(cache: PriceCache) -> Marks | None:
    """The marks in Redis; None: nothing was marked within the last hour.

    Raises:
        ServerUnreachableError: Redis does not answer.
    """
    with cache.server.firmly() as client, client.pipeline(transaction=True) as pipeline:
        pipeline.get(WINDOW_KEY)
        pipeline.hvals(LEADERBOARD_KEY)
        pipeline.hvals(SIMULATIONS_KEY)
        stamp, leaders, simulations = pipeline.execute()
    if stamp is None:
        return None
    window, marked_at = (datetime.fromisoformat(moment) for moment in stamp.decode().split())
    return Marks(
        window,
        marked_at,
        sorted((_leader_from(json.loads(value)) for value in leaders), key=lambda leader: leader.rank),
        sorted((_mark_from(json.loads(value)) for value in simulations), key=lambda mark: mark.simulation_id),
    )


def _stamp(window: datetime, now: datetime) -> bytes:
    """Both moments in one width and one zone, so that stamps compare as text."""
    return " ".join(moment.astimezone(UTC).isoformat(timespec="microseconds") for moment in (window, now)).encode()


# KEYS: the window, then the two hashes. ARGV: stamp, lifetime in seconds, how many fields the first hash has; then
# field, value, field, value …
_REPLACE = """
local there = redis.call('GET', KEYS[1])
if there and there > ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('DEL', KEYS[2], KEYS[3])
local first = 4 + 2 * ARGV[3]
for i = 4, #ARGV, 2 do
    redis.call('HSET', i < first and KEYS[2] or KEYS[3], ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('EXPIRE', KEYS[3], ARGV[2])
return 1
"""


def _write(client: Client, stamp: bytes, marks: Marks) -> bool:
    """Replace all marks; False where a later marking is there already."""
    fields: list[str] = []
    for leader in marks.leaderboard:
        fields += str(leader.rank), _compact(leader.as_json())
    for mark in marks.simulations:
        fields += str(mark.simulation_id), _compact(mark.as_json())
    keys = (WINDOW_KEY, LEADERBOARD_KEY, SIMULATIONS_KEY)
    seconds = int(LIFETIME.total_seconds())
    return bool(client.eval(_REPLACE, len(keys), *keys, stamp, seconds, len(marks.leaderboard), *fields))


def _compact(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


_LEADERS = text(
    """
    SELECT e.user_id, e.simulation_id, s.start_day, s.initial_cash, e.rank
    FROM leaderboard_entries e JOIN simulations s ON s.id = e.simulation_id
    WHERE e.day = (SELECT max(day) FROM leaderboard_entries)
    ORDER BY e.rank
    """
)
_LIVE = text(
    """
    SELECT s.user_id, s.id AS simulation_id, s.start_day, s.initial_cash
    FROM users u JOIN simulations s ON s.user_id = u.id WHERE u.live
    ORDER BY s.id
    """
)


def _marks(engine: Engine, window: datetime, now: datetime) -> Marks:
    with session_scope(engine) as session:
        leaders, live = session.execute(_LEADERS).all(), session.execute(_LIVE).all()
        keys = (Key(row.user_id, row.simulation_id, row.start_day) for row in [*leaders, *live])
        values = value_simulations(session, keys)

    def mark(row: Row[Any]) -> SimulationMark:
        return _mark(values[row.simulation_id], row.initial_cash, window, now)

    placed = [(row.rank, mark(row)) for row in leaders if row.simulation_id in values]
    placed.sort(key=lambda place: (-place[1].return_ppm, place[1].simulation_id))
    return Marks(
        window,
        now,
        [LeaderMark(rank, closed, mark) for rank, (closed, mark) in enumerate(placed, start=1)],
        [mark(row) for row in live if row.simulation_id in values],
    )


def _mark(value: Valuation, initial_cash: int, window: datetime, now: datetime) -> SimulationMark:
    since_start = change_ppm(initial_cash, value.equity)
    return SimulationMark(
        user_id=value.user_id,
        simulation_id=value.simulation_id,
        equity=from_ticks(value.equity),
        change_ppm=change_ppm(value.closed_equity, value.equity),
        # Nothing is the whole of nothing lost, as on the leaderboard.
        return_ppm=-PPM if since_start is None else since_start,
        day=value.day,
        positions=value.positions,
        at_close=value.at_close,
        priced_at=value.priced_at,
        window=window,
        marked_at=now,
    )


def _mark_from(document: dict[str, Any]) -> SimulationMark:
    priced_at = document["priced_at"]
    return SimulationMark(
        user_id=document["user"],
        simulation_id=document["simulation"],
        equity=Decimal(document["equity"]),
        change_ppm=document["change_ppm"],
        return_ppm=document["return_ppm"],
        day=date.fromisoformat(document["day"]),
        positions=document["positions"],
        at_close=document["at_close"],
        priced_at=datetime.fromisoformat(priced_at) if priced_at else None,
        window=datetime.fromisoformat(document["window"]),
        marked_at=datetime.fromisoformat(document["marked_at"]),
    )


def _leader_from(document: dict[str, Any]) -> LeaderMark:
    return LeaderMark(document["rank"], document["closed_rank"], _mark_from(document))
