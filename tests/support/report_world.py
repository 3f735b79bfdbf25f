"""A small platform with everything that reports tell of: good nights, a retry, a split, quarantines, hostile texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count

from sqlalchemy import Engine

from core.database import make_engine
from services.seeding import seed
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, NOW, Night, change, import_samples, scalar, settings

HOSTILE = (
    "<script>document.title='broken'</script> <img src=x onerror=\"document.title='broken'\">"
    " $\\frac{$ {{ 7*7 }} &amp; '\""
)
USERS = 90
CAUGHT_UP = LAST_SAMPLE_DAY - timedelta(days=4)
# Quarantined from the start, quarantined later, without a night, and one whose user is left out.
BROKEN, LATE, NEW, LEFT_OUT = 11, 12, 13, 14


@contextmanager
def report_world(server_url: str, name: str) -> Iterator[Engine]:
    """A database after five nights, the first of them over many days; the last one has had its troubles."""
    with new_database(server_url, name) as url:
        engine = make_engine(url)
        import_samples(engine)
        seed(engine, users=USERS, seed_number=3, start=LAST_SAMPLE_DAY - timedelta(days=45), spread_days=12)
        change(engine, "UPDATE users SET name = :text WHERE id IN (1, 2, 3)", text=HOSTILE)
        change(engine, "UPDATE assets SET symbol = '<b>A$B$</b>' WHERE symbol = 'AAPL'")
        change(engine, "UPDATE simulations SET asset_ids[1] = 4242 WHERE id = :id", id=BROKEN)
        change(engine, "UPDATE simulations SET start_day = '2023-01-01' WHERE id = :id", id=NEW)
        night = Night(engine, settings(20), name="simulations-1@" + HOSTILE[:20])
        ticks = count()
        night.worker.clock = lambda: NOW + timedelta(milliseconds=40 * next(ticks))
        night.run(CAUGHT_UP)
        change(engine, "UPDATE simulations SET params = '{}' WHERE id = :id", id=LATE)
        change(
            engine,
            "INSERT INTO quarantine (user_id, day, reason, detail)"
            " SELECT user_id, :day, 'error', :text FROM simulations WHERE id = :id",
            day=CAUGHT_UP,
            text=HOSTILE,
            id=LEFT_OUT,
        )
        night.run(LAST_SAMPLE_DAY, each=True)
        _trouble(engine)
        yield engine
        engine.dispose()


def last_run(engine: Engine) -> int:
    """The id of the last night's run."""
    return int(scalar(engine, "SELECT max(id) FROM runs"))


def _trouble(engine: Engine) -> None:
    run = last_run(engine)
    change(
        engine,
        "UPDATE batches SET attempts = 3, publications = 2, error = :text, worker = 'simulations-2' WHERE id ="
        " (SELECT min(id) FROM batches WHERE run_id = :run)",
        run=run,
        text=HOSTILE,
    )
    change(
        engine,
        "INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status, attempts, error, worker, started_at,"
        " finished_at) SELECT run_id, 99, user_lo, user_hi, users, 'split', 1, :text, worker, started_at, finished_at"
        " FROM batches WHERE run_id = :run ORDER BY id DESC LIMIT 1",
        run=run,
        text=HOSTILE,
    )
    change(engine, "UPDATE runs SET requested_by = :text, reason = :text WHERE id = :run", run=run, text=HOSTILE)
