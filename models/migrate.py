"""Migrations: the database is brought to this code's revision, a revision a transaction, and no work waits for it.

Guarantees: a revision appears whole or not at all, and whoever is interrupted goes on where that stopped. One process
migrates at a time. A lock that others hold is waited for a second at most and then again later, so whoever comes after
us waits no longer. Alembic is configured here, so that it works from any directory and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, delete, insert, select, text
from sqlalchemy.exc import OperationalError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_not_result,
    stop_after_delay,
    wait_fixed,
    wait_random,
)

from core.errors import NightshiftError
from engine.strategies import strategies
from models import revisions
from models.partitions import is_partition
from models.revisions import current_revision, head_revision, refuse_newer
from models.tables import Strategy

# Any constant of our own: it keeps two processes from migrating at the same time.
MIGRATION_LOCK = 0x4E53_4D49_4752
_LOCK_NOT_AVAILABLE, _DEADLOCK = "55P03", "40P01"
_LOOK_SECONDS = 0.2

Tell = Callable[[str], None]


def _include_name(name: str | None, kind: str, _parents: object) -> bool:
    return not (kind == "table" and name is not None and is_partition(name))


# How models and database are compared; the test that they agree uses the same.
AUTOGENERATE: dict[str, Any] = {
    "compare_type": True,
    "compare_server_default": True,
    "include_name": _include_name,
}


@dataclass(frozen=True, slots=True)
class Step:
    """A revision that the database does not have yet; `title` is the first line of its migration."""

    revision: str
    title: str


@dataclass(frozen=True, slots=True)
class Patience:
    """How a migration behaves beside the work of others.

    Attributes:
        lock: a lock is waited for so long, and so long does whoever wants it after us.
        pause: between two attempts, and up to twice as long: the work goes on meanwhile.
        wait: so long in all for the locks of a revision, for another migration, or for a night.
        night_first: a night that runs is waited for.
    """

    lock: timedelta = timedelta(seconds=1)
    pause: timedelta = timedelta(seconds=3)
    wait: timedelta = timedelta(minutes=5)
    night_first: bool = False


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, on `connection`; without one it can only read the scripts."""
    config = Config()
    # Config interpolates %, which a directory's name may contain.
    config.set_main_option("script_location", str(revisions.SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def steps_after(revision: str | None) -> list[Step]:
    """What lies between a database at `revision` and this code, in order.

    Raises:
        DatabaseVersionError: this code does not know that revision.
    """
    refuse_newer(revision)
    scripts = ScriptDirectory.from_config(alembic_config())
    found = scripts.iterate_revisions("head", revision or "base")
    return [Step(script.revision, script.doc.strip().splitlines()[0] if script.doc else "") for script in found][::-1]


def migrate(engine: Engine, *, patience: Patience | None = None, tell: Tell = lambda _: None) -> tuple[str | None, str]:
    """Bring the database to the head revision and `strategies` to the registry; (revision before, revision after).

    `tell` hears in one line each what is done and what is waited for.

    Raises:
        DatabaseVersionError: the database is newer than this code.
        NightshiftError: what was waited for did not end; each revision that was told of before is in place.
    """
    patience = patience or Patience()
    with engine.connect() as connection, _alone(connection, patience, tell):
        before = current_revision(connection)
        connection.commit()
        for step in steps_after(before):
            if patience.night_first:
                _wait_for_night(connection, patience, tell)
            tell(f"{step.revision}: {step.title}")
            config = alembic_config(connection)
            _patiently(connection, partial(command.upgrade, config, step.revision), step.revision, patience, tell)
        _patiently(connection, partial(_replace_strategies, connection), "the list of strategies", patience, tell)
    return before, head_revision()


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the database back to `revision`. With 'base', everything in it is dropped."""
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        command.downgrade(alembic_config(connection), revision)


@contextmanager
def _alone(connection: Connection, patience: Patience, tell: Tell) -> Iterator[None]:
    """Nobody else migrates this database during the block.

    The lock is asked for again and again: a statement that waits for it would hold a snapshot, and an index that the
    other one builds concurrently would wait for that.
    """

    def ours() -> bool:
        taken = bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}).scalar())
        connection.commit()
        return taken

    _until(ours, patience, tell, "another process migrates the database", "another process still migrates the database")
    try:
        connection.execute(text(f"SET lock_timeout = {round(patience.lock.total_seconds() * 1000)}"))
        connection.commit()
        yield
    finally:
        # The lock and the timeout belong to the session, which would otherwise go back to the pool with them.
        connection.invalidate()


def _wait_for_night(connection: Connection, patience: Patience, tell: Tell) -> None:
    def none() -> bool:
        known = connection.execute(text("SELECT to_regclass('runs') IS NOT NULL")).scalar_one()
        runs = known and connection.execute(_NIGHT_RUNS).scalar_one()
        connection.commit()
        return not runs

    _until(none, patience, tell, "a night is running", "a night is still running; --now migrates beside it")


_NIGHT_RUNS = text("SELECT EXISTS (SELECT FROM runs WHERE kind = 'nightly' AND status = 'running')")


def _until(condition: Callable[[], bool], patience: Patience, tell: Tell, what: str, failure: str) -> None:
    """Wait until `condition`; tell once that `what` is waited for; NightshiftError with `failure` in the end."""

    def say(state: RetryCallState) -> None:
        if state.attempt_number == 1:
            tell(f"{what}: waiting, {_minutes(patience.wait)} at most")

    def give_up(_: RetryCallState) -> NoReturn:
        raise NightshiftError(f"{failure} (waited {_minutes(patience.wait)})")

    Retrying(
        retry=retry_if_not_result(bool),
        stop=stop_after_delay(patience.wait),
        wait=wait_fixed(_LOOK_SECONDS),
        before_sleep=say,
        retry_error_callback=give_up,
    )(condition)


def _patiently(connection: Connection, once: Callable[[], None], what: str, patience: Patience, tell: Tell) -> None:
    """`once` and commit; again later where others hold a lock that it wants."""

    def attempt() -> None:
        try:
            once()
            connection.commit()
        finally:
            connection.rollback()

    def say(_: RetryCallState) -> None:
        tell(f"{what}: others hold its locks, so they go first; again in some seconds")

    def give_up(_: RetryCallState) -> NoReturn:
        raise NightshiftError(
            f"{what}: others held its locks for {_minutes(patience.wait)} (a long query, a backup?);"
            " what came before it is in place: run `nightshift db migrate` again"
        )

    Retrying(
        retry=retry_if_exception(_gave_way),
        stop=stop_after_delay(patience.wait),
        wait=wait_fixed(patience.pause) + wait_random(0, patience.pause),
        before_sleep=say,
        retry_error_callback=give_up,
    )(attempt)


def _gave_way(error: BaseException) -> bool:
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, OperationalError) else None
    return state in (_LOCK_NOT_AVAILABLE, _DEADLOCK)


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:g} min"


def _replace_strategies(connection: Connection) -> None:
    columns = (Strategy.code, Strategy.name, Strategy.param_names)
    rows = [
        {"code": strategy.code, "name": strategy.name, "param_names": list(strategy.Parameters.model_fields)}
        for strategy in strategies().values()
    ]
    present = [dict(row) for row in connection.execute(select(*columns)).mappings()]
    if sorted(present, key=_code) == sorted(rows, key=_code):
        return
    # Deleting first lets two strategies swap names, which the unique name would forbid to an update in place.
    connection.execute(delete(Strategy))
    connection.execute(insert(Strategy), rows)


def _code(row: dict[Any, Any]) -> int:
    return int(row["code"])
