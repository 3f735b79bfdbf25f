"""Whether it runs for years: nights with maintenance in between, and nights beside a thousand partitions.

After so many nights the tables, their indexes, the number of partitions and the time of a night should be what they
were after a hundred. And nothing that is needed may have gone: all that is kept must be as in one run over the same
days of which nothing went.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Any

from sqlalchemy import Engine, text

from benchmarks.figures import spread
from benchmarks.nights import Night, Watched, run_night, wait_until_ended, watched_stack
from benchmarks.site import Site, bench_site, prepare, tidy
from core.clock import utc_now
from core.database import session_scope
from core.settings import Settings
from models.partitions import ensure_day_partitions
from services.digest import digest_of_day
from services.planning import plan_nights
from services.relay import publish_planned
from services.retention import maintain

_LOOKS = 20
Tell = Callable[[str], None]


def measure_years(*, users: int, nights: int, workers: int, settings: Settings, tell: Tell) -> dict[str, Any]:
    """Run so many nights of `users` users, each followed by the maintenance of a day.

    Returns:
        Plain values. `looks`: about twenty times along the way, how many partitions there are, sizes in bytes, and the
        median seconds of the nights and of the maintenance since the look before.
    """
    with bench_site(settings, workers) as site:
        tell(f"seeding {users:,} users …")
        first = prepare(site, users=users, nights=nights)
        days = [first + timedelta(days=number) for number in range(nights)]
        with watched_stack(site) as watched:
            looks = _run_years(watched, days, max(1, nights // _LOOKS), tell)
            kept = _kept_days(site.engine)
            tell(f"comparing the {len(kept)} days that are kept with a run of which nothing goes …")
            found = _digests(site.engine, kept)
            trades = _trades(site.engine)
            _begin_anew(site.engine)
            _run_at_once(watched, days[-1])
            same = found == _digests(site.engine, kept)
            same_trades = trades == _trades(site.engine)
    half = [look for look in looks if look["night"] > nights // 2]
    return {
        "users": users,
        "nights": nights,
        "workers": workers,
        "keep_days": settings.keep_days,
        "partitions_at_the_end": looks[-1]["partitions"],
        "database_bytes_halfway": half[0]["database_bytes"],
        "database_bytes_at_the_end": looks[-1]["database_bytes"],
        "kept_days": len(kept),
        "kept_days_equal": same,
        "trades_equal": same_trades,
        "looks": looks,
    }


def _run_years(watched: Watched, days: Sequence[date], every: int, tell: Tell) -> list[dict[str, Any]]:
    looks: list[dict[str, Any]] = []
    night_seconds, maintenance_seconds, plan_seconds = [], [], []
    for number, day in enumerate(days, start=1):
        night = run_night(watched, day)
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(days=1)
        _date_back(watched.site.engine, night, noon)
        began = time.perf_counter()
        maintain(watched.site.engine, now=noon, settings=watched.site.settings)
        maintenance_seconds.append(time.perf_counter() - began)
        night_seconds.append(night.total)
        plan_seconds.append(night.plan)
        if number % every == 0 or number == len(days):
            looks.append(
                {"night": number}
                | _sizes(watched.site.engine)
                | {
                    "night_seconds": round(median(night_seconds), 4),
                    "plan_seconds": round(median(plan_seconds), 4),
                    "maintenance_seconds": round(median(maintenance_seconds), 4),
                }
            )
            tell(_line(looks[-1]))
            night_seconds, maintenance_seconds, plan_seconds = [], [], []
    return looks


def _line(look: dict[str, Any]) -> str:
    return (
        f"night {look['night']}: {look['partitions']} partitions, {look['database_bytes'] / 2**20:,.0f} MiB,"
        f" a night {look['night_seconds']:.3f} s, maintenance {look['maintenance_seconds']:.3f} s"
    )


def _date_back(engine: Engine, night: Night, noon: datetime) -> None:
    """Have the run have ended on its day: runs grow old by the clock."""
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE runs SET finished_at = :noon WHERE id = :id"), {"noon": noon, "id": night.run_id}
        )


def _sizes(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {name: int(value) for name, value in connection.execute(_SIZES).one()._asdict().items()}


def _kept_days(engine: Engine) -> list[date]:
    """The days that have rows."""
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT DISTINCT day FROM portfolio_days ORDER BY day")).scalars())


def _digests(engine: Engine, days: Sequence[date]) -> list[tuple[str, int]]:
    found = [digest_of_day(engine, day) for day in days]
    return [(digest.digest, digest.rows) for digest in found]


def _trades(engine: Engine) -> tuple[Any, ...]:
    with engine.connect() as connection:
        return tuple(connection.execute(_TRADES).one())


def _begin_anew(engine: Engine) -> None:
    with engine.begin() as connection:
        for statement in _ANEW:
            connection.execute(text(statement))


def _run_at_once(watched: Watched, last: date) -> None:
    site = watched.site
    with session_scope(site.engine) as session:
        (run,) = plan_nights(session, through=last, now=utc_now(), settings=site.settings, requested_by="bench")
    publish_planned(site.engine, watched.publish, now=utc_now())
    wait_until_ended(site, run)


def measure_partitions(*, users: int, nights: int, workers: int, settings: Settings, tell: Tell) -> dict[str, Any]:
    """Run `nights` nights with a hundred partitions of portfolio days, and as many with a thousand.

    Returns:
        Plain values by number of partitions: seconds of a night and of its planning as {"min", "median", "max"}, and
        milliseconds in which PostgreSQL plans the queries that meet them.
    """
    result: dict[str, Any] = {"users": users, "nights": nights, "workers": workers}
    with bench_site(settings, workers) as site:
        tell(f"seeding {users:,} users …")
        first = prepare(site, users=users, nights=2 * nights + 1)
        days = [first + timedelta(days=number) for number in range(2 * nights + 1)]
        with watched_stack(site) as watched:
            run_night(watched, days[0])
            for count, part in ((100, days[1 : nights + 1]), (1000, days[nights + 1 :])):
                _have_partitions(site, count, first)
                measured = []
                for day in part:
                    tidy(site.engine, "runs, batches")
                    measured.append(run_night(watched, day))
                    tell(f"{count} partitions: {measured[-1].total:.2f} s, planned in {measured[-1].plan:.3f} s")
                result[f"{count}_partitions"] = {
                    "night_seconds": spread(night.total for night in measured),
                    "plan_seconds": spread(night.plan for night in measured),
                    "query_planning_ms": _planning(site.engine, part[-1]),
                }
    return result


def _have_partitions(site: Site, count: int, first: date) -> None:
    """Make empty ones of the days before the first, until there are so many."""
    for number in range(1, count + 1):
        with site.engine.begin() as connection:
            if connection.execute(_COUNT).scalar_one() >= count:
                return
            ensure_day_partitions(connection, [first - timedelta(days=number)])


def _planning(engine: Engine, day: date) -> dict[str, float]:
    with engine.connect() as connection:
        return {name: _planned(connection, query.format(day=day)) for name, query in _QUERIES.items()}


def _planned(connection: Any, query: str) -> float:
    times = []
    for _ in range(5):
        (plan,) = connection.execute(text(f"EXPLAIN (SUMMARY, FORMAT JSON) {query}")).scalar_one()
        times.append(float(plan["Planning Time"]))
    return round(median(times), 3)


_COUNT = text("SELECT count(*) FROM pg_inherits WHERE inhparent = 'portfolio_days'::regclass")
_SIZES = text(
    """
    SELECT pg_database_size(current_database()) AS database_bytes,
        count(*) FILTER (WHERE c.relkind = 'r' AND c.relispartition) AS partitions,
        sum(pg_relation_size(c.oid)) FILTER (WHERE c.relkind = 'r' AND c.relname ~ '^portfolio_days_') AS day_bytes,
        sum(pg_relation_size(c.oid)) FILTER (WHERE c.relkind = 'r' AND c.relname ~ '^trades_') AS trades_bytes,
        sum(pg_relation_size(c.oid)) FILTER (WHERE c.relkind = 'i') AS index_bytes,
        sum(pg_total_relation_size(c.oid)) FILTER (WHERE c.relname IN ('runs', 'batches')) AS runs_bytes,
        (SELECT count(*) FROM batches) AS batches
    FROM pg_class c WHERE c.relnamespace IN ('public'::regnamespace, 'pg_toast'::regnamespace)
    """
)
_TRADES = text("SELECT count(*), coalesce(sum(hash_record_extended(t, 0)::numeric), 0) FROM trades t")
_ANEW = (
    "TRUNCATE portfolio_days, portfolio_archive, trades, runs, batches, quarantine, leaderboard_entries",
    "UPDATE retention SET daily_from = NULL",
)
_QUERIES = {
    "states of a batch": "SELECT * FROM portfolio_days WHERE day = '{day}' AND user_id >= 1 AND user_id < 10001",
    "portfolio_latest of a user": "SELECT * FROM portfolio_latest WHERE user_id = 1",
    "newest row of a simulation": "SELECT * FROM portfolio_days WHERE user_id = 1 AND simulation_id = 1"
    " AND day <= '{day}' ORDER BY day DESC LIMIT 1",
}
