"""A corrected close changes exactly the simulations it must, and they come out as if it had always been right."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text

from core.database import make_engine, session_scope
from core.errors import UsageError
from engine.strategies import strategies
from models.migrate import migrate
from services.corrections import CloseChange, correct_close, plan_corrections
from services.digest import digest_of_day
from services.prices import import_closes
from services.seeding import seed
from tests.oracle.crypto import FILE as CRYPTO
from tests.oracle.crypto import needs_crypto
from tests.support.corrections import (
    LAST,
    OWNERS,
    assert_same,
    close_of,
    contents,
    correct,
    finish,
    status,
    stored,
)
from tests.support.database import new_database
from tests.support.nights import FIRST_NIGHT, NOW, Night, change, import_samples, rows, scalar, settings
from workers.embedded import ServerUrls

ASSET, OTHER = 1, 2
MIDDLE = FIRST_NIGHT + timedelta(days=3)
BEFORE = FIRST_NIGHT - timedelta(days=1)
IN_QUARANTINE = "SELECT count(*) FROM quarantine WHERE cleared_at IS NULL"


@pytest.fixture
def night(fresh: Engine) -> Night:
    """Whose closes are corrected after nights used them."""
    return Night(fresh, settings(100))


@pytest.fixture
def right(servers: ServerUrls, world: str, request: pytest.FixtureRequest) -> Iterator[Night]:
    """Whose closes are right from the start."""
    name = f"right_{abs(hash(request.node.nodeid)) % 10**9}"
    with new_database(servers.database_url, name, template=world) as url:
        engine = make_engine(url)
        yield Night(engine, settings(5000))
        engine.dispose()


@pytest.mark.parametrize("day", [MIDDLE, LAST, BEFORE], ids=["in the middle", "the last day", "before any start"])
def test_a_corrected_close_changes_exactly_the_simulations_it_must(night: Night, right: Night, day: date) -> None:
    price = close_of(night.engine, ASSET, day) * 3
    assert correct(right, ASSET, day, price).run is None
    right.run(LAST, each=True)
    night.run(LAST, each=True)
    wrong, others = contents(night.engine), stored(night.engine, ASSET)

    correction = correct(night, ASSET, day, price)
    finish(night)

    assert_same(night.engine, right.engine)
    assert stored(night.engine, ASSET) == others
    assert contents(night.engine)["portfolio_days"] != wrong["portfolio_days"]
    owners = {owner for (owner,) in rows(night.engine, OWNERS, asset=ASSET, day=LAST)}
    scope = "SELECT simulation_id FROM run_simulations WHERE run_id = :run"
    assert {owner for (owner,) in rows(night.engine, scope, run=correction.run)} == owners
    assert correction.simulations == len(owners)
    of = "SELECT DISTINCT strategy FROM simulations WHERE id IN (" + scope + ")"
    assert {code for (code,) in rows(night.engine, of, run=correction.run)} == set(strategies())
    # The run tells of them alone.
    told = "SELECT status, simulations, rows, quarantined FROM runs WHERE id = :run"
    ours = sum(row[3] in owners and row[0] >= day for row in contents(night.engine)["portfolio_days"])
    assert rows(night.engine, told, run=correction.run) == [("done", len(owners), ours, 0)]
    night.run(LAST + timedelta(days=1))
    right.run(LAST + timedelta(days=1))
    assert_same(night.engine, right.engine)


@needs_crypto
def test_a_coin_that_rose_by_392_percent_in_a_day_and_was_mistyped(engine: Engine, empty_database: str) -> None:
    """Real closes; somebody had recorded a tenth of what DOGE was worth on 2021-01-28."""
    day, last = date(2021, 1, 28), date(2021, 2, 1)
    right = make_engine(empty_database)
    migrate(right)
    nights = [Night(world, settings(100), now=datetime(2021, 2, 2, tzinfo=UTC)) for world in (right, engine)]
    for night in nights:
        with session_scope(night.engine) as session:
            import_closes(session, CRYPTO, now=NOW)
        seed(night.engine, users=400, seed_number=5, start=day - timedelta(days=4), spread_days=6)
    mistyped = nights[1]
    doge = scalar(engine, "SELECT id FROM assets WHERE symbol LIKE 'DOGE%'")
    price = close_of(engine, doge, day)
    change(engine, "UPDATE closes SET close = close / 10 WHERE asset_id = :asset AND day = :day", asset=doge, day=day)
    for night in nights:
        night.run(last, each=True)
    wrong, others = digest_of_day(engine, last), stored(engine, doge)
    assert wrong != digest_of_day(right, last)
    assert 0 < correct(mistyped, doge, day, price).simulations < 400
    finish(mistyped)
    assert_same(engine, right)
    assert digest_of_day(engine, last) == digest_of_day(right, last)
    assert stored(engine, doge) == others
    right.dispose()


def test_who_corrected_what_and_why_is_on_record(night: Night) -> None:
    night.run(LAST)
    old = close_of(night.engine, ASSET, MIDDLE)
    correction = correct(night, ASSET, MIDDLE, "12.5")
    assert (correction.day, correction.old, str(correction.new)) == (MIDDLE, old, "12.50000000")
    query = "SELECT day, old_close, new_close, reason, requested_by, created_at, run_id FROM price_corrections"
    record = (MIDDLE, int(old.scaleb(8)), 1_250_000_000, "a typo", "tester", night.now, correction.run)
    assert rows(night.engine, query) == [record]
    scope = {"closes": 1, "assets": [correction.symbol], "from": str(MIDDLE)}
    query = "SELECT kind, first_day, day, scope, reason, requested_by FROM runs WHERE id = :run"
    assert rows(night.engine, query, run=correction.run) == [("reprocess", MIDDLE, LAST, scope, "a typo", "tester")]
    kept = "SELECT kind, source FROM closes WHERE asset_id = :asset AND day = :day"
    assert rows(night.engine, kept, asset=ASSET, day=MIDDLE) == [("correction", "correction")]


def test_several_closes_at_once_are_one_run(night: Night, right: Night) -> None:
    changes = []
    for asset, day, factor in ((ASSET, MIDDLE, 2), (OTHER, LAST, 3), (OTHER, MIDDLE - timedelta(days=1), 2)):
        price = close_of(night.engine, asset, day) * factor
        correct(right, asset, day, price)
        changes.append(CloseChange(asset, day, int(price.scaleb(8)) // factor, int(price.scaleb(8))))
    right.run(LAST, each=True)
    night.run(LAST, each=True)
    # What has not changed, or is of a day that is not over, plans nothing.
    extra = [CloseChange(3, MIDDLE, 5, 5), CloseChange(3, night.now.date(), 5, 6)]

    with session_scope(night.engine) as session:
        for asset, day, _, new in changes:
            values = {"new": new, "asset": asset, "day": day}
            session.execute(text("UPDATE closes SET close = :new WHERE asset_id = :asset AND day = :day"), values)
        run = plan_corrections(
            session, changes + extra, reason="sent again", requested_by="binance", now=night.now,
            settings=night.settings,
        )  # fmt: skip
    finish(night)

    assert_same(night.engine, right.engine)
    assert rows(night.engine, "SELECT run_id FROM price_corrections") == [(run,)] * 3
    first = "SELECT min(first_day), max(first_day) FROM run_simulations"
    assert rows(night.engine, first) == [(MIDDLE - timedelta(days=1), LAST)]


def test_one_correction_after_another(night: Night, right: Night) -> None:
    for asset, day in ((ASSET, MIDDLE), (OTHER, MIDDLE), (ASSET, BEFORE)):
        correct(right, asset, day, 7)
    right.run(LAST, each=True)
    night.run(LAST, each=True)
    correct(night, ASSET, MIDDLE, 7)
    correct(night, OTHER, MIDDLE, 7)
    night.publish()
    night.worker.advance(night.queue.messages.pop(0).batch_id)
    # The worker keeps the market of the runs that have begun; the third is done in the middle of them.
    third = correct(night, ASSET, BEFORE, 7)
    night.publish()
    assert status(night, third.run) == "running"
    finish(night)
    assert_same(night.engine, right.engine)


def test_a_late_close_heals_who_lacked_it(night: Night, right: Night) -> None:
    for world in (night, right):
        change(world.engine, "DELETE FROM closes WHERE asset_id = :asset AND day >= :day", asset=ASSET, day=BEFORE)
        change(
            world.engine, "DELETE FROM closes WHERE asset_id = :asset AND day > :day", asset=ASSET,
            day=BEFORE - timedelta(days=8),
        )  # fmt: skip
    correct(right, ASSET, BEFORE, 7)
    right.run(LAST, each=True)
    night.run(LAST, each=True)
    left_out = scalar(night.engine, IN_QUARANTINE)
    assert left_out > 20
    correction = correct(night, ASSET, BEFORE, 7)
    assert correction.old is None
    finish(night)
    # For as long as it is recent enough.
    assert_same(night.engine, right.engine)
    assert rows(night.engine, "SELECT DISTINCT reason FROM quarantine") == [("no_close",)]
    first = "SELECT min(day) FROM quarantine WHERE cleared_at IS NULL"
    assert scalar(night.engine, first) == BEFORE + timedelta(days=6)


def test_an_import_of_what_was_missing_or_wrong_heals_by_itself(night: Night, right: Night) -> None:
    change(night.engine, "DELETE FROM closes WHERE asset_id = :asset", asset=ASSET)
    change(
        night.engine, "UPDATE closes SET close = close * 2 WHERE asset_id = :asset AND day = :day", asset=OTHER,
        day=MIDDLE,
    )  # fmt: skip
    right.run(LAST, each=True)
    night.run(LAST, each=True)
    assert scalar(night.engine, IN_QUARANTINE) > 20
    import_samples(night.engine)
    finish(night)
    assert_same(night.engine, right.engine)


def test_a_persons_word_outlives_imports_and_files_outlive_sources(night: Night, tmp_path: Path) -> None:
    night.run(LAST)
    correct(night, ASSET, MIDDLE, 7)
    ticks = "UPDATE closes SET kind = :kind, as_of = :at WHERE asset_id = :asset AND day = :day"
    change(night.engine, ticks, kind="tick", at=night.now, asset=OTHER, day=MIDDLE)
    symbols = dict(rows(night.engine, "SELECT id, symbol FROM assets WHERE id <= 3"))
    file = tmp_path / "again.csv"
    other = close_of(night.engine, OTHER, MIDDLE)
    lines = [(symbols[ASSET], 9), (symbols[OTHER], other), (symbols[3], 11)]
    file.write_text("symbol,day,close\n" + "".join(f"{symbol},{MIDDLE},{price}\n" for symbol, price in lines))
    with session_scope(night.engine) as session:
        summary = import_closes(session, file, now=night.now, settings=night.settings)
    assert (summary.rows, summary.updated, summary.corrected, summary.unchanged, summary.kept) == (3, 2, 1, 1, 1)
    kinds = "SELECT asset_id, kind, as_of FROM closes WHERE day = :day AND asset_id <= 3 ORDER BY 1"
    assert rows(night.engine, kinds, day=MIDDLE) == [(1, "correction", None), (2, "import", None), (3, "import", None)]
    assert close_of(night.engine, ASSET, MIDDLE) == 7
    assert summary.run is not None
    scope = "SELECT bool_and(3 = ANY (asset_ids)) FROM simulations JOIN run_simulations ON simulation_id = id"
    assert scalar(night.engine, scope + " WHERE run_id = :run", run=summary.run) is True


@pytest.mark.parametrize(("closes_between", "found"), [(250, True), (251, False)])
def test_a_change_before_the_start_counts_as_far_back_as_signals_look(
    night: Night, closes_between: int, found: bool
) -> None:
    night.run(LAST)
    query = "SELECT day FROM closes WHERE asset_id = :asset AND day < :start ORDER BY day DESC OFFSET :back LIMIT 1"
    day = scalar(night.engine, query, asset=ASSET, start=FIRST_NIGHT, back=closes_between)
    change(night.engine, "UPDATE simulations SET start_day = :day WHERE start_day <= :last", day=FIRST_NIGHT, last=LAST)
    assert (correct(night, ASSET, day, 7).run is not None) is found


def test_what_no_night_has_used_plans_nothing(night: Night) -> None:
    assert correct(night, ASSET, MIDDLE, 7).run is None
    night.run(MIDDLE)
    later = correct(night, ASSET, LAST, 7)
    change(night.engine, "INSERT INTO assets (id, symbol) OVERRIDING SYSTEM VALUE VALUES (999, 'NOBODYS')")
    assert (later.run, correct(night, 999, MIDDLE, 7).run) == (None, None)
    assert scalar(night.engine, "SELECT count(*) FROM price_corrections WHERE run_id IS NULL") == 3
    assert scalar(night.engine, "SELECT count(*) FROM runs") == 1
    # And what is of today costs nothing, not even a look.
    statements: list[str] = []
    event.listen(night.engine, "before_cursor_execute", lambda *about: statements.append(about[2]))
    changes = [CloseChange(ASSET, night.now.date(), 5, 6)]
    with session_scope(night.engine) as session:
        plan_corrections(session, changes, reason="", requested_by="", now=night.now, settings=night.settings)
    assert statements == []


@pytest.mark.parametrize(
    ("symbol", "day", "price", "said"),
    [
        ("NO SUCH", MIDDLE, "7", "unknown symbol 'NO SUCH'"),
        ("A\0", MIDDLE, "7", "unknown symbol"),
        (None, date(2022, 12, 29), "7", "the day 2022-12-29 is not over yet"),
        (None, date(1999, 12, 31), "7", "the day 1999-12-31 is before 2000-01-01"),
        (None, MIDDLE, "-7", "the price is negative: '-7'"),
        (None, MIDDLE, "nan", "the price is not finite"),
        (None, MIDDLE, "same", "nothing to do"),
    ],
)
def test_what_cannot_be_meant_is_refused(night: Night, symbol: str | None, day: date, price: str, said: str) -> None:
    name = symbol or scalar(night.engine, "SELECT symbol FROM assets WHERE id = :asset", asset=ASSET)
    price = str(close_of(night.engine, ASSET, MIDDLE)) if price == "same" else price
    with session_scope(night.engine) as session, pytest.raises(UsageError, match=said):
        correct_close(session, name, day, price, reason="", requested_by="", now=night.now, settings=night.settings)
    assert scalar(night.engine, "SELECT count(*) FROM price_corrections") == 0


def test_a_close_of_a_day_on_which_the_market_is_closed_has_to_be_meant(night: Night) -> None:
    sunday = MIDDLE + timedelta(days=6 - MIDDLE.weekday())
    symbol = scalar(night.engine, "SELECT symbol FROM assets WHERE id = :asset", asset=ASSET)
    change(night.engine, "UPDATE assets SET calendar = 'weekdays' WHERE id = :asset", asset=ASSET)

    def corrected(price: str, *, day: date = sunday, meant: bool = False) -> Decimal:
        with session_scope(night.engine) as session:
            return correct_close(
                session, symbol, day, price, reason="", requested_by="", now=night.now, settings=night.settings,
                closed_day=meant,
            ).new  # fmt: skip

    closed = rf"the market of {symbol} is closed on Sunday {sunday} \(calendar weekdays\) and has no close to correct"
    with pytest.raises(UsageError, match=closed + ".* --closed-day"):
        corrected("7")
    assert scalar(night.engine, "SELECT count(*) FROM price_corrections") == 0
    assert corrected("7", day=MIDDLE) == 7
    assert corrected("8", meant=True) == 8
    # What is there by somebody's word is corrected whatever its day.
    assert corrected("9") == 9
    # The calendar of an asset that this machine cannot read keeps nobody from it.
    change(night.engine, "UPDATE assets SET calendar = 'nowhere' WHERE id = :asset", asset=ASSET)
    assert corrected("10", day=sunday - timedelta(days=7)) == 10
