"""How a night is cut into batches: by count, without a gap, no larger than a worker's memory likes; and who waits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from core.database import session_scope
from services.closes import CandleClose, write_candles
from services.planning import plan_nights
from services.seeding import seed
from tests.support.nights import FIRST_NIGHT, LAST_SAMPLE_DAY, NOW, Night, change, import_samples, rows, settings
from tests.support.polling import wait_until


def batches(engine: Engine) -> list[tuple[int, int, int]]:
    """Users from, users to, how many; in their order."""
    return [
        (lo, hi, users) for lo, hi, users in rows(engine, "SELECT user_lo, user_hi, users FROM batches ORDER BY seq")
    ]


@pytest.mark.parametrize("size", [1, 7, 49, 50, 1000])
def test_batches_hold_so_many_owners_and_meet_without_a_gap(engine: Engine, size: int) -> None:
    """Ids are sparse, some users own nothing, some have not begun, and one of the last owns two simulations."""
    import_samples(engine)
    seed(engine, users=100, start=FIRST_NIGHT, spread_days=0)
    change(engine, "DELETE FROM simulations WHERE user_id BETWEEN 20 AND 59")
    change(engine, "UPDATE simulations SET start_day = '2030-01-01' WHERE user_id IN (1, 70, 100)")
    change(engine, "UPDATE simulations SET user_id = 99 WHERE user_id = 98")
    owners = [
        user
        for (user,) in rows(
            engine, "SELECT DISTINCT user_id FROM simulations WHERE start_day < '2030-01-01' ORDER BY 1"
        )
    ]
    Night(engine, settings(size)).plan(LAST_SAMPLE_DAY)

    cut = batches(engine)
    assert [lo for lo, _, _ in cut] == owners[::size]
    assert [hi for _, hi, _ in cut] == [*owners[::size][1:], owners[-1] + 1]
    assert [users for _, _, users in cut] == [
        len(owners[start : start + size]) for start in range(0, len(owners), size)
    ]
    assert rows(engine, "SELECT users FROM runs") == [(len(owners),)]


@pytest.mark.parametrize(("each", "expected"), [(1, 5), (4, 20), (100, 40)])
def test_of_users_with_many_simulations_fewer_go_into_a_batch(engine: Engine, each: int, expected: int) -> None:
    import_samples(engine)
    seed(engine, users=40, simulations_per_user=each, start=FIRST_NIGHT, spread_days=0)
    Night(engine, settings(8)).plan(LAST_SAMPLE_DAY)
    assert len(batches(engine)) == expected
    assert sum(users for _, _, users in batches(engine)) == 40


def test_who_changes_closes_by_hand_and_goes_to_lunch_keeps_no_night_from_being_planned(fresh: Engine) -> None:
    night = Night(fresh, settings())
    night.plan(LAST_SAMPLE_DAY - timedelta(days=1))
    late = CandleClose(1, LAST_SAMPLE_DAY - timedelta(days=1), 777)
    change(fresh, "UPDATE closes SET kind = 'tick' WHERE asset_id = 1")

    def correct() -> int:
        with session_scope(fresh) as session:
            return write_candles(session, [late], source="binance", now=NOW, settings=night.settings).written

    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
    with fresh.connect() as by_hand, ThreadPoolExecutor(1) as thread:
        by_hand.execute(text("UPDATE closes SET close = close + 1 WHERE asset_id = 2"))
        corrected = thread.submit(correct)
        try:
            wait_until(lambda: rows(fresh, waits), what="the correction waits for what is done by hand")
            with session_scope(fresh) as session:
                session.execute(text("SET LOCAL lock_timeout = '2s'"))
                planned = plan_nights(
                    session, through=LAST_SAMPLE_DAY, now=NOW, settings=night.settings, requested_by="test"
                )
        finally:
            by_hand.rollback()
        assert corrected.result() == 1
    assert len(planned) == 1
