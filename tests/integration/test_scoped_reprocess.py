"""A scoped run beside faults and the quarantine: only its simulations, all of a batch or nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import Engine

from core.database import make_engine, session_scope
from services import batches
from services.batches import Outcome
from services.locks import GRANULE_USERS, lock_granules_of_run
from services.reprocessing import retry_quarantined
from tests.support.corrections import (
    ASSET,
    LAST,
    MIDDLE,
    OWNERS,
    PRICE,
    assert_same,
    close_of,
    contents,
    correct,
    finish,
    stored,
)
from tests.support.database import execute, new_database
from tests.support.nights import FIRST_NIGHT, Night, change, rows, scalar, settings
from workers.embedded import ServerUrls

BEFORE_LAST = LAST - timedelta(days=1)
QUARANTINE = (
    "INSERT INTO quarantine (user_id, simulation_id, day, reason, detail)"
    " VALUES (:user, :simulation, :day, :reason, '')"
)


@pytest.fixture
def night(fresh: Engine) -> Night:
    """Whose close of one asset is corrected after nights used it."""
    return Night(fresh, settings(100))


@pytest.fixture
def done(after_week: Engine) -> Night:
    """Whose nights have all used the close that is corrected."""
    return Night(after_week, settings(100))


@pytest.fixture
def right(servers: ServerUrls, world: str, request: pytest.FixtureRequest) -> Iterator[Night]:
    """Whose closes are right from the start."""
    name = f"right_{abs(hash(request.node.nodeid)) % 10**9}"
    with new_database(servers.database_url, name, template=world) as url:
        engine = make_engine(url)
        night = Night(engine, settings(5000))
        correct(night, ASSET, MIDDLE, PRICE)
        yield night
        engine.dispose()


def one_owner(night: Night, number: int = 5) -> tuple[int, int]:
    """A user and his simulation that has the asset and began in the first night."""
    found = rows(
        night.engine, OWNERS + " ORDER BY id OFFSET :number LIMIT 1", asset=ASSET, day=FIRST_NIGHT, number=number
    )
    user = scalar(night.engine, "SELECT user_id FROM simulations WHERE id = :id", id=found[0][0])
    return user, found[0][0]


def owners(night: Night) -> list[int]:
    """The simulations that have the asset, by user."""
    return [owner for (owner,) in rows(night.engine, OWNERS + " ORDER BY user_id, id", asset=ASSET, day=LAST)]


def retry(night: Night) -> int | None:
    """Plan what is in quarantine again, and work."""
    with session_scope(night.engine) as session:
        run = retry_quarantined(session, reason="mended", requested_by="tester", now=night.now, settings=night.settings)
    finish(night)
    return run


def test_a_worker_that_dies_in_the_middle_leaves_the_old_days(
    done: Night, right_week: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = contents(done.engine)
    correct(done, ASSET, MIDDLE, PRICE)
    done.publish()
    with monkeypatch.context() as patch:
        patch.setattr(batches, "_complete", _die)
        for message in list(done.queue.messages):
            with pytest.raises(SystemExit):
                done.worker.advance(message.batch_id)
    assert contents(done.engine) == old
    # Who was told to stop gives the batch back, for a little later.
    done.now += timedelta(minutes=1)
    finish(done)
    assert_same(done.engine, right_week)


def _die(*_: object) -> None:
    raise SystemExit


def test_nobody_between_the_simulations_is_read(done: Night, right_week: Engine) -> None:
    """Of a neighbour whose rows do not fit him, whoever reads them would make an entry in quarantine."""
    change(
        done.engine, "UPDATE simulations SET asset_ids = asset_ids[2:] || 2, weights_ppm = weights_ppm"
        " WHERE NOT :asset = ANY (asset_ids)", asset=ASSET,
    )  # fmt: skip
    others = stored(done.engine, ASSET)
    correct(done, ASSET, MIDDLE, PRICE)
    finish(done)
    assert_same(done.engine, right_week)
    assert stored(done.engine, ASSET) == others


def test_only_the_granules_of_the_scope_are_locked(night: Night) -> None:
    night.run(MIDDLE)
    run = correct(night, ASSET, MIDDLE, PRICE).run
    change(night.engine, "DELETE FROM run_simulations WHERE run_id = :run", run=run)
    scope = "INSERT INTO run_simulations VALUES (:run, :user, :user, :day)"
    for user in (1, 2, 5_000_000, 10_000_000):
        change(night.engine, scope, run=run, user=user, day=MIDDLE)
    url = night.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        lock_granules_of_run(connection, run or 0, 1, 6_000_000)
        held = connection.execute(
            "SELECT objid, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1"
        ).fetchall()
    assert held == [(0, "ExclusiveLock"), (5_000_000 // GRANULE_USERS, "ExclusiveLock")]


def test_who_breaks_his_batch_stands_alone_and_is_done_again_when_he_is_mended(done: Night, right_week: Engine) -> None:
    user, _ = one_owner(done)
    url = done.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    table = f"portfolio_days_{LAST:%Y%m%d}"
    execute(url, f"ALTER TABLE {table} ADD CONSTRAINT no CHECK (user_id <> {user}) NOT VALID")
    old = rows(done.engine, "SELECT * FROM portfolio_days WHERE user_id = :user", user=user)
    run = correct(done, ASSET, MIDDLE, PRICE).run
    done.now += timedelta(minutes=1)
    finish(done)
    assert rows(done.engine, "SELECT user_id, simulation_id, reason, run_id FROM quarantine") == [
        (user, None, "error", run)
    ]
    halves = "SELECT sum(half.users) FROM batches half WHERE half.parent_id = b.id"
    split = f"SELECT count(*), bool_and(b.users = ({halves})) FROM batches b WHERE b.status = 'split'"
    ((count, whole),) = rows(done.engine, split)
    assert count > 3
    assert whole is True
    assert rows(done.engine, "SELECT * FROM portfolio_days WHERE user_id = :user", user=user) == old
    others = "SELECT * FROM portfolio_days WHERE user_id <> :user ORDER BY day, user_id, simulation_id"
    assert rows(done.engine, others, user=user) == rows(right_week, others, user=user)

    execute(url, f"ALTER TABLE {table} DROP CONSTRAINT no")
    retry(done)
    assert_same(done.engine, right_week)


def test_whoever_is_in_quarantine_has_the_days_that_he_has_replaced_and_no_more(night: Night, right: Night) -> None:
    user, simulation = one_owner(night)
    for world in (night, right):
        world.run(MIDDLE + timedelta(days=1), each=True)
        day = MIDDLE + timedelta(days=2)
        change(world.engine, QUARANTINE, user=user, simulation=simulation, day=day, reason="malformed")
        world.run(LAST, each=True)
    correct(night, ASSET, MIDDLE, PRICE)
    finish(night)
    assert_same(night.engine, right.engine)
    newest = "SELECT max(day) FROM portfolio_days WHERE simulation_id = :simulation"
    assert scalar(night.engine, newest, simulation=simulation) == MIDDLE + timedelta(days=1)


def test_a_whole_user_in_quarantine_has_the_correction_when_he_comes_back(night: Night, right_week: Engine) -> None:
    user, _ = one_owner(night)
    night.run(MIDDLE + timedelta(days=1), each=True)
    day = MIDDLE + timedelta(days=2)
    change(night.engine, QUARANTINE.replace(":simulation", "NULL"), user=user, day=day, reason="error")
    change(night.engine, "UPDATE quarantine SET created_at = :now", now=night.now)
    night.run(LAST, each=True)
    correct(night, ASSET, MIDDLE, PRICE)
    finish(night)
    retry(night)
    assert_same(night.engine, right_week)


def test_who_loses_his_close_again_keeps_no_day_of_it(done: Night) -> None:
    change(
        done.engine, "DELETE FROM closes WHERE asset_id = :asset AND day > :day AND day <> :last", asset=ASSET,
        day=MIDDLE - timedelta(days=7), last=LAST,
    )  # fmt: skip
    before = stored(done.engine, ASSET)
    correct(done, ASSET, LAST, close_of(done.engine, ASSET, LAST) * 2)
    change(done.engine, "UPDATE closes SET day = :to WHERE asset_id = :asset AND day = :last", asset=ASSET, last=LAST,
           to=LAST + timedelta(days=1))  # fmt: skip
    finish(done)
    found = rows(done.engine, "SELECT simulation_id, day, reason FROM quarantine ORDER BY simulation_id")
    assert found == [(owner, LAST, "no_close") for owner in sorted(owners(done))]
    newest = "SELECT DISTINCT max(day) FROM portfolio_days WHERE simulation_id = ANY(:owners) AND day >= :day"
    assert rows(done.engine, newest, owners=owners(done), day=BEFORE_LAST) == [(BEFORE_LAST,)]
    assert stored(done.engine, ASSET) == before


def test_a_batch_of_a_scoped_run_is_done_once(night: Night) -> None:
    night.run(LAST)
    correct(night, ASSET, MIDDLE, PRICE)
    night.publish()
    messages = list(night.queue.messages)
    assert {night.worker.advance(message.batch_id).outcome for message in messages} == {Outcome.DONE}
    assert {night.worker.advance(message.batch_id).outcome for message in messages} == {Outcome.NOT_DUE}
