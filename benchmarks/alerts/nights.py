"""How nights go wrong: held up, refused by the database, full of nonsense, slept through, without closes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

from benchmarks.alerts.locks import granules_held
from benchmarks.alerts.site import Site, to_the_calendar, wait_for
from core.database import session_scope
from models.tables_runs import RUN_UNFINISHED
from services.prices import import_closes
from services.reprocessing import retry_quarantined

_UNFINISHED = f"SELECT 1 FROM runs WHERE status IN {RUN_UNFINISHED}"  # noqa: S608 - our own constant
_STRANGER = 7


@contextmanager
def held_up(site: Site) -> Iterator[None]:
    """A foreign session holds the users of a night that has just begun."""
    wait_for(lambda: not site.scalar(_UNFINISHED), "the end of the night")
    with granules_held(site):
        site.night_at_work()
        yield


@contextmanager
def late(site: Site) -> Iterator[None]:
    """As `held_up`; and afterwards all nights count as done in time, as they would when thirty days have passed."""
    wait_for(lambda: _forgiven(site), "an error budget that is not spent", seconds=300)
    with held_up(site):
        yield
    wait_for(lambda: not site.scalar(_UNFINISHED), "the end of the nights")
    _forgive(site)


def _forgiven(site: Site) -> bool:
    """Whether no night counts as late: others may have left some that end only now."""
    _forgive(site)
    return not any("ErrorBudget" in name for name in site.firing())


def _forgive(site: Site) -> None:
    site.execute(
        "UPDATE runs SET status = 'done', finished_at = created_at WHERE kind = 'nightly' AND finished_at IS NOT NULL"
    )


def refused(users: int) -> Callable[[Site], AbstractContextManager[None]]:
    """The database refuses the rows of the first so many users, as after a deploy that forgot a migration."""

    @contextmanager
    def provoke(site: Site) -> Iterator[None]:
        with _in_the_way(site, "refused_users", users):
            yield

    return provoke


def slowed(seconds: float) -> Callable[[Site], AbstractContextManager[None]]:
    """The database takes so long for each row of a night; measured from the first batch on."""

    @contextmanager
    def provoke(site: Site) -> Iterator[None]:
        wait_for(lambda: not site.scalar(_UNFINISHED), "the end of the night")
        with _in_the_way(site, "seconds", seconds):
            site.night_at_work()
            yield

    return provoke


@contextmanager
def _in_the_way(site: Site, what: str, value: float) -> Iterator[None]:
    site.execute(f"UPDATE in_the_way SET {what} = :value", value=value)  # noqa: S608 - our own columns
    try:
        yield
    finally:
        site.execute(f"UPDATE in_the_way SET {what} = 0")  # noqa: S608


@contextmanager
def malformed(site: Site) -> Iterator[None]:
    """A user's simulations have no parameters, until they are given back and he is done again."""
    kept = site.scalar("SELECT params FROM simulations WHERE user_id = :user LIMIT 1", user=_STRANGER)
    change = "UPDATE simulations SET params = :params WHERE user_id = :user"
    site.execute(change, params=[], user=_STRANGER)
    yield
    site.execute(change, params=kept, user=_STRANGER)
    with session_scope(site.engine) as session:
        # The next tick publishes it.
        retry_quarantined(
            session, reason="parameters given back", requested_by="bench", now=site.now(), settings=site.settings
        )


@contextmanager
def slept_through(site: Site) -> Iterator[None]:
    """Everything was away for longer than NIGHTSHIFT_CATCH_UP_DAYS."""
    to_the_calendar(site, site.last_day - timedelta(days=1))
    yield
    site.execute("UPDATE runs SET created_at = created_at - :day WHERE status = 'missed'", day=timedelta(days=1))


@contextmanager
def without_closes(site: Site) -> Iterator[None]:
    """A night is due, and the closes of its day have not come; in the end they are imported."""
    to_the_calendar(site, site.last_day)
    yield
    with session_scope(site.engine) as session:
        import_closes(session, site.last_closes, now=site.now(), strict=True)
