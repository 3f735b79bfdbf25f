"""A night with trouble from the database itself: of three batches one is done, one fails, one is retried and done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from core.database import make_engine
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, change, rows, sample_world
from tests.support.polling import wait_until
from workers.embedded import ServerUrls

BATCH_USERS = 20
CANARY = "hunter2-canary"
# A trigger's error carries what it likes: here a secret, and the row of a user in further lines.
_TROUBLE = f"""
CREATE SEQUENCE hiccups;
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.seq = 1 THEN
        RAISE EXCEPTION 'permission denied for postgresql://nightshift:{CANARY}@db/n'
            USING ERRCODE = '42501', DETAIL = 'Key (user_id)=(4711) of Erika Mustermann';
    ELSIF NEW.seq = 2 AND nextval('hiccups') = 1 THEN
        RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER trouble BEFORE UPDATE ON batches FOR EACH ROW WHEN (NEW.status = 'done') EXECUTE FUNCTION trouble();
"""


@contextmanager
def troubled_world(servers: ServerUrls, name: str) -> Iterator[tuple[Engine, str]]:
    """A database with prices and three batches' users, and its URL. The night is the last of the samples."""
    with new_database(servers.database_url, name) as url:
        engine = make_engine(url)
        try:
            sample_world(engine, 3 * BATCH_USERS, start=LAST_SAMPLE_DAY, spread_days=0)
            change(engine, _TROUBLE)
            yield engine, url
        finally:
            engine.dispose()


def settled(engine: Engine) -> dict[int, str]:
    """Wait until each batch has ended as it should; the batches' labels in Flower, by their place."""
    wait_until(
        lambda: rows(engine, "SELECT status FROM batches ORDER BY seq") == [("done",), ("failed",), ("done",)],
        seconds=60,
        what="the end of the night",
    )
    found = rows(engine, "SELECT seq, run_id, user_lo, user_hi FROM batches")
    return {seq: f"run {run} · {LAST_SAMPLE_DAY} · users {lo}–{hi - 1}" for seq, run, lo, hi in found}
