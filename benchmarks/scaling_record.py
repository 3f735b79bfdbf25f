"""`python -m benchmarks.scaling_record`: record how long the batches of real nights and a real reprocess take.

On servers of its own, with two real workers; into scaling_nights.json, which `nightshift bench scaling` goes by.
"""

from __future__ import annotations

import json
import sys
from datetime import date, timedelta

from sqlalchemy import Engine, text

from benchmarks.nights import Watched, run_night, wait_until_ended, watched_stack
from benchmarks.scaling import RECORDED
from benchmarks.site import bench_site, prepare
from core.clock import utc_now
from core.database import session_scope
from core.settings import get_settings
from services.relay import publish_planned
from services.reprocessing import request
from services.scopes import ReprocessScope

USERS, DAYS, NIGHTS, WORKERS = 100_000, 30, 5, 2
_SECONDS = text(
    "SELECT round(extract(epoch FROM finished_at - started_at), 4)::float FROM batches"
    " WHERE run_id = ANY(:runs) AND status = 'done' ORDER BY run_id, seq"
)


def record() -> dict[str, object]:
    """The seconds of each batch: of the last five of thirty nights, and of all thirty done again.

    Raises:
        NightshiftError: a night did not end well.
    """
    with bench_site(get_settings(), WORKERS) as site:
        first = prepare(site, users=USERS, nights=DAYS)
        with watched_stack(site) as watched:
            run_night(watched, first + timedelta(days=DAYS - NIGHTS - 1))
            nights = [run_night(watched, first + timedelta(days=DAYS - back)).run_id for back in range(NIGHTS, 0, -1)]
            again = _again(watched, first)
        return {
            "users": USERS, "days": DAYS, "workers": WORKERS, "batch_users": site.settings.batch_users,
            "nightly_seconds": _seconds(site.engine, nights), "reprocess_seconds": _seconds(site.engine, [again]),
        }  # fmt: skip


def _again(watched: Watched, first: date) -> int:
    site = watched.site
    with session_scope(site.engine) as session:
        asked = request(
            session, ReprocessScope(everything=True), first_day=first, reason="recorded", requested_by="bench",
            now=utc_now(), settings=site.settings,
        )  # fmt: skip
    assert asked.run is not None  # noqa: S101 - there are nights
    publish_planned(site.engine, watched.publish, now=utc_now())
    wait_until_ended(site, asked.run)
    return asked.run


def _seconds(engine: Engine, runs: list[int]) -> list[float]:
    with engine.connect() as connection:
        return [float(seconds) for seconds in connection.execute(_SECONDS, {"runs": runs}).scalars()]


if __name__ == "__main__":
    found = record()
    RECORDED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"{RECORDED.name}: {found['users']} users\n")
