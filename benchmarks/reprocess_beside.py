"""What a night takes that comes in the middle of a large reprocess, compared with what it takes alone.

Everybody's days are replaced, by nothing else than a request, so that every row is written again as it was. When a
fifth of that is done a night is planned, and measured as it is alone. Nights alone and beside take turns, so that the
machine is the same for both; each has a day of its own, and an old history that is as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from sqlalchemy import text

from benchmarks.figures import spread
from benchmarks.nights import Watched, run_night, wait_until_ended, watched_stack
from benchmarks.row_hashes import contents_of
from benchmarks.site import bench_site, prepare, tidy
from core.clock import utc_now
from core.database import driver_connection, session_scope
from core.errors import NightshiftError
from core.settings import Settings
from services.relay import publish_planned
from services.reprocessing import request
from services.runs import run_view
from services.scopes import ReprocessScope

SHARE = 0.2
"""So much of the reprocess is done when the night begins."""
_POLL_SECONDS = 0.005
_DONE = "SELECT count(*) FILTER (WHERE status = 'done'), count(*) FROM batches WHERE run_id = %s"


def measure_beside(
    *, users: int, days: int, repeats: int, workers: int, settings: Settings, tell: Callable[[str], None]
) -> dict[str, Any]:
    """`repeats` nights of `users` users alone, and as many beside a reprocess of all of them over `days` days.

    Of few users, it may be over before the night is: `nights_beside_throughout` counts those of which it was not.

    Raises:
        NightshiftError: a run did not end well, or the reprocess changed a row.
    """
    with bench_site(settings, workers) as site:
        tell(f"seeding {users:,} users …")
        first = prepare(site, users=users, nights=days + 2 * repeats)
        alone, beside, throughout = [], [], 0
        with watched_stack(site) as watched:
            last = first + timedelta(days=days - 1)
            run_night(watched, last)
            for number in range(1, repeats + 1):
                _tidy(watched)
                alone.append(run_night(watched, last + timedelta(days=1)).total)
                last += timedelta(days=2)
                _tidy(watched)
                before = contents_of(site.engine)
                seconds, all_along = _night_beside(watched, last - timedelta(days=days), last)
                beside.append(seconds)
                throughout += all_along
                tell(f"night {number}: {users:,} users, {alone[-1]:.2f} s alone, {beside[-1]:.2f} s beside a reprocess")
                after = contents_of(site.engine)
                if any(after.get(key) != contents for key, contents in before.items()):
                    raise NightshiftError("a reprocess of right days changed some of them")
    ratio = spread(beside)["median"] / spread(alone)["median"]
    return {
        "night_alone_seconds": spread(alone),
        "night_beside_seconds": spread(beside),
        "night_beside_ratio": round(ratio, 3),
        "nights_beside_throughout": throughout,
    }


def _tidy(watched: Watched) -> None:
    tidy(watched.site.engine, "portfolio_days, trades, runs, batches, run_simulations, portfolio_revisions")


def _night_beside(watched: Watched, since: date, day: date) -> tuple[float, bool]:
    """Seconds of the night of `day` amid a reprocess of everybody since a day, and whether that went on to its end."""
    engine = watched.site.engine
    with session_scope(engine) as session:
        run = request(
            session, ReprocessScope(everything=True), first_day=since, reason="measured", requested_by="bench",
            now=utc_now(), settings=watched.site.settings,
        ).run  # fmt: skip
    if run is None:
        raise NightshiftError("the request found nothing to do again")
    publish_planned(engine, watched.publish, now=utc_now())
    _wait_for_share(watched, run)
    night = run_night(watched, day)
    with engine.connect() as connection:
        running = connection.scalar(text("SELECT status = 'running' FROM runs WHERE id = :run"), {"run": run})
    wait_until_ended(watched.site, run)
    with session_scope(engine) as session:
        ended = run_view(session, run, utc_now())
    if ended.status != "done" or ended.quarantined:
        raise NightshiftError(f"the reprocess {ended.status}: {ended.error or 'see the log'}")
    return night.total, bool(running)


def _wait_for_share(watched: Watched, run: int) -> None:
    with watched.site.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        session = driver_connection(connection)
        while True:
            done, batches = session.execute(_DONE, (run,)).fetchone() or (1, 1)
            if int(str(done)) >= SHARE * int(str(batches)):
                return
            time.sleep(_POLL_SECONDS)
